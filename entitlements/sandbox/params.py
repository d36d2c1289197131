"""Request parameters: decoded from Stripe's bracketed forms and checked against the SDK's types.

The known parameters are those of the SDK's own typed dictionaries (`stripe.params`), read once and
kept as a `Rule` for each; nothing is listed here. Unknown or missing ones at any depth, wrong
types, decimals where integers belong and values outside an enum are refused with the `param` in
Stripe's bracket notation. A parameter that Stripe knows and the endpoint does not cover is
refused as such.
"""

import re
import typing
from collections.abc import Callable, Iterable
from decimal import Decimal
from functools import cache
from typing import Any
from urllib.parse import parse_qsl

import stripe
import typing_extensions

from entitlements.sandbox.errors import StripeError, invalid, not_covered

Rule = Callable[[Any, str], Any]
"""Takes a decoded form value and its name in brackets, answers the typed value or raises."""

MAX_DEPTH = 12
MAX_LIST = 500
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_DECIMAL = re.compile(r"-?[0-9]{1,18}(\.[0-9]+)?")
_KEY = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
_OPTION_KEYS = frozenset(stripe.RequestOptions.__annotations__)
_OPTION_TYPES = {"StripeContext": object, "Mapping": dict}  # named by the options alone


def decode_form(text: str) -> dict[str, Any]:
    """A bracketed form as nested dictionaries of strings; lists keep their indexes as keys.

    >>> decode_form("items[0][price]=p&items[0][quantity]=2&expand[]=a&expand[]=b")
    {'items': {'0': {'price': 'p', 'quantity': '2'}}, 'expand': {'#0': 'a', '#1': 'b'}}
    """
    root: dict[str, Any] = {}
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=5000, errors="strict")
    except ValueError:
        raise invalid("Invalid request: too many parameters, or not UTF-8.") from None
    for name, value in pairs:
        match = _KEY.fullmatch(name)
        if match is None:
            raise invalid(f"Invalid parameter name: {name}", name)
        path = [match[1], *re.findall(r"\[([^\[\]]*)\]", match[2])]
        if len(path) > MAX_DEPTH:
            raise invalid(f"Parameters are nested too deeply: {name}", name)
        _place(root, path, value, name)
    return root


def _place(node: dict[str, Any], path: list[str], value: str, name: str) -> None:
    for step in path[:-1]:
        child = node.setdefault(step, {})
        if not isinstance(child, dict):
            raise invalid(f"Parameter is given twice: {name}", name)
        node = child
    last = path[-1] or f"#{len(node)}"
    if last in node:
        raise invalid(f"Parameter is given twice: {name}", name)
    node[last] = value


class Schema:
    """The parameters of one endpoint: the SDK's type, and the part of it that is covered here.

    `covers` names parameters separated by blanks: `customer items[].price metadata`. A name
    covers all that is beneath it.
    """

    def __init__(self, type_name: str, covers: str) -> None:
        self.type = params_type(type_name)
        self.covers = frozenset(covers.split()) | {"expand"}
        unknown = {c.split("[")[0].split(".")[0] for c in self.covers} - set(fields(self.type))
        unknown -= {"expand"}
        if unknown:
            raise TypeError(f"{type_name} has no {sorted(unknown)}")

    def check(self, raw: dict[str, Any]) -> dict[str, Any]:
        """The typed parameters, or the first mistake as a `StripeError`."""
        typed: dict[str, Any] = typed_dict(self.type)(raw, "")
        self._refuse_uncovered(typed, "", "")
        return typed

    def _refuse_uncovered(self, value: Any, path: str, name: str) -> None:
        if path in self.covers:
            return
        if isinstance(value, dict) and (value or not path):
            for key, child in value.items():
                self._refuse_uncovered(
                    child, f"{path}.{key}" if path else key, f"{name}[{key}]" if name else key
                )
        elif isinstance(value, list) and value and self._goes_on(path):
            for i, child in enumerate(value):
                self._refuse_uncovered(child, f"{path}[]", f"{name}[{i}]")
        else:
            raise not_covered(f"the parameter {name}", name)

    def _goes_on(self, path: str) -> bool:
        return any(cover.startswith(f"{path}[]") for cover in self.covers)


def params_type(name: str) -> Any:
    """A typed dictionary of the SDK by its name, such as `billing.MeterCreateParams`."""
    module: Any = stripe.params
    *parents, last = name.split(".")
    for parent in parents:
        module = getattr(module, parent)
    return getattr(module, last)


@cache
def fields(params: Any) -> dict[str, Any]:
    """The annotations of a typed dictionary, resolved, without the SDK's own request options."""
    hints = typing_extensions.get_type_hints(params, localns=_OPTION_TYPES)
    return {k: v for k, v in hints.items() if k not in _OPTION_KEYS}


@cache
def typed_dict(params: Any) -> Rule:
    annotations = fields(params)
    # Nested ones are made when first met: few requests use many of the SDK's parameters.
    required = [key for key in annotations if key in params.__required_keys__]

    def check(value: Any, name: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise invalid(f"Invalid object: {name}", name or None)
        for key in value:
            if key not in annotations:
                full = _nested(name, key)
                raise invalid(f"Received unknown parameter: {full}", full, "parameter_unknown")
        for key in required:
            if key not in value:
                full = _nested(name, key)
                raise invalid(f"Missing required param: {full}.", full, "parameter_missing")
        return {k: rule(annotations[k])(v, _nested(name, k)) for k, v in value.items()}

    return check


def _nested(name: str, key: str) -> str:
    return f"{name}[{key}]" if name else key


@cache
def rule(annotation: Any) -> Rule:
    """The rule of one annotation of the SDK."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, _UNION_TYPE):
        return _union(typing.get_args(annotation))
    if origin is typing.Literal:
        return _enum(typing.get_args(annotation))
    if origin in (list, typing.List):  # noqa: UP006
        return _list(typing.get_args(annotation)[0])
    if origin is dict and typing.get_args(annotation)[1] is not str:
        return _dict_of(typing.get_args(annotation)[1])
    if origin is dict or annotation is dict or _is_untyped(annotation):
        return _mapping
    if typing_extensions.is_typeddict(annotation):
        return typed_dict(annotation)
    return _SCALARS.get(annotation, _string)


_UNION_TYPE = type(int | str)


def _is_untyped(annotation: Any) -> bool:
    origin = typing.get_origin(annotation) or annotation
    return isinstance(origin, type) and issubclass(origin, stripe.StripeObject)


def _union(members: Iterable[Any]) -> Rule:
    """One of several. `Literal | str` is an enum; `Literal[''] | X` may also be cleared."""
    kinds = [m for m in members if m is not type(None)]
    words = [w for m in kinds if typing.get_origin(m) is typing.Literal for w in typing.get_args(m)]
    others = [m for m in kinds if typing.get_origin(m) is not typing.Literal]
    others = [m for m in others if not _is_untyped(m)] or others
    enum = [w for w in words if w != ""]
    if enum:
        others = [m for m in others if m is not str]
    rules = [rule(m) for m in others]
    if not rules:
        return _enum(words)

    def check(value: Any, name: str) -> Any:
        if isinstance(value, str) and value in words:
            return value
        first: StripeError | None = None
        for each in rules:
            try:
                return each(value, name)
            except StripeError as error:
                # The most telling mistake is the one of the member of the value's own shape.
                if first is None or error.body.get("param") != name:
                    first = error
        assert first is not None
        raise first

    return check


def _enum(words: Iterable[str]) -> Rule:
    allowed = list(words)

    def check(value: Any, name: str) -> str:
        if value in allowed and isinstance(value, str):
            return value
        shown = ", ".join(allowed[:20])
        raise invalid(f"Invalid {name}: must be one of {shown}", name)

    return check


def _list(member: Any) -> Rule:
    each = rule(member)

    def check(value: Any, name: str) -> list[Any]:
        if not isinstance(value, dict) or not all(_is_index(key) for key in value):
            raise invalid("Invalid array", name)
        if len(value) > MAX_LIST:
            raise invalid(f"Array {name} has more than {MAX_LIST} elements", name)
        indexes = sorted(value, key=lambda key: int(key.lstrip("#")))
        return [each(value[key], f"{name}[{i}]") for i, key in enumerate(indexes)]

    return check


def _dict_of(member: Any) -> Rule:
    each = rule(member)

    def check(value: Any, name: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise invalid(f"Invalid object: {name}", name)
        return {key: each(v, f"{name}[{key}]") for key, v in value.items()}

    return check


def _is_index(key: str) -> bool:
    return re.fullmatch(r"#?[0-9]{1,4}", key) is not None


def _mapping(value: Any, name: str) -> dict[str, str]:
    """String to string: metadata and payloads, within Stripe's limits."""
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise invalid(f"Invalid object: {name} takes string values", name)
    if len(value) > 50:
        raise invalid(f"{name} can have at most 50 keys", name)
    for key, text in value.items():
        if len(key) > 40:
            raise invalid(f"{name} keys can be at most 40 characters long", f"{name}[{key[:40]}]")
        if len(text) > 500:
            raise invalid(f"{name} values can be at most 500 characters long", f"{name}[{key}]")
    return value


def _integer(value: Any, name: str) -> int:
    if not isinstance(value, str) or not _INTEGER.fullmatch(value):
        raise invalid(f"Invalid integer: {_shown(value)}", name, "parameter_invalid_integer")
    return int(value)


def _decimal(value: Any, name: str) -> Decimal:
    if not isinstance(value, str) or not _DECIMAL.fullmatch(value):
        raise invalid(f"Invalid decimal: {_shown(value)}", name)
    if "." in value and len(value.split(".")[1].rstrip("0")) > 12:
        raise invalid(f"Invalid decimal: {value}; at most 12 decimal places", name)
    return Decimal(value)


def _boolean(value: Any, name: str) -> bool:
    if value not in ("true", "false"):
        raise invalid(f"Invalid boolean: {_shown(value)}", name)
    return bool(value == "true")


def _string(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise invalid(f"Invalid string: {_shown(value)}", name)
    if len(value) > 5000:
        raise invalid(f"Invalid string: {name} is longer than 5000 characters", name)
    return value


def _shown(value: Any) -> str:
    return str(value)[:100]


_SCALARS: dict[Any, Rule] = {
    int: _integer,
    float: _decimal,  # kept exact: a percentage is money too
    Decimal: _decimal,
    bool: _boolean,
    str: _string,
}
