"""How objects are shown: every field of the SDK's class, `expand`, lists with pages.

An object is kept with ids for what it refers to; its renderer embeds what Stripe embeds. The
fields that the SDK's class names are all there, null where nothing was set, but for those that
Stripe leaves out until they are expanded ("includable").
"""

import typing
from collections.abc import Callable, Iterable
from functools import cache
from itertools import islice
from typing import Any

import stripe

from entitlements.sandbox.errors import Json, invalid, missing
from entitlements.sandbox.store import Transaction

Renderer = Callable[[Transaction, Json], Json]


class Shape(typing.NamedTuple):
    sdk_class: type[stripe.StripeObject]
    render: Renderer
    includable: dict[str, Renderer | None]


SHAPES: dict[str, Shape] = {}


def shape(
    kind: str,
    sdk_class: type[stripe.StripeObject],
    includable: dict[str, Callable[[Transaction, Json], Any] | None] | None = None,
) -> Callable[[Renderer], Renderer]:
    """Declares how a kind of object is shown. `includable` fields are left out until expanded."""

    def declare(render: Renderer) -> Renderer:
        SHAPES[kind] = Shape(sdk_class, render, includable or {})
        return render

    return declare


def plain_shape(kind: str, sdk_class: type[stripe.StripeObject]) -> None:
    """Declares an object that is shown as it is kept."""
    shape(kind, sdk_class)(lambda tx, doc: public(doc))


def public(doc: Json) -> Json:
    return {key: value for key, value in doc.items() if not key.startswith("_")}


def render(tx: Transaction, doc: Json) -> Json:
    """The object as the API shows it, nothing expanded."""
    found = SHAPES[doc["object"]]
    if doc.get("_deleted"):
        return {"id": doc["id"], "object": doc["object"], "deleted": True}
    shown = _template(doc["object"]) | found.render(tx, doc)
    for name in ("id", "test_clock"):  # some have these at heart that Stripe does not show
        if name not in found.sdk_class.__annotations__:
            shown.pop(name, None)
    return shown


@cache
def _frame(kind: str) -> tuple[str, ...]:
    found = SHAPES[kind]
    names = {n for n, a in found.sdk_class.__annotations__.items() if _is_optional(a)}
    return tuple(sorted(names - {"deleted"} - set(found.includable)))


def _template(kind: str) -> Json:
    return {"id": None, "object": kind} | dict.fromkeys(_frame(kind))


def is_union(annotation: Any) -> bool:
    origin: Any = typing.get_origin(annotation)
    return origin is typing.Union


def _is_optional(annotation: Any) -> bool:
    return type(None) in typing.get_args(annotation)


# --- expand


def check_expand(sdk_class: type, paths: Iterable[str], *, is_list: bool = False) -> None:
    """Refuse a path that the SDK's types do not know or that cannot be expanded."""
    for path in paths:
        steps = path.split(".")
        if is_list and steps[0] != "data":
            raise invalid(f"This property cannot be expanded ({path}). Try data.{path}.", "expand")
        wanted = steps[1:] if is_list else steps
        if not wanted or len(wanted) > 8 or not _can_expand(sdk_class, wanted):
            raise invalid(f"This property cannot be expanded ({path}).", "expand")


def _can_expand(sdk_class: type, steps: list[str]) -> bool:
    here: type | None = sdk_class
    can = False
    for step in steps:
        if here is None:
            return False
        if issubclass(here, stripe.ListObject) and step == "data":
            raise AssertionError("lists are resolved with their members")
        target = _field(here, step)
        if target is None:
            return False
        here, can = target
    return can


@cache
def _field(sdk_class: type, name: str) -> tuple[type | None, bool] | None:
    """The class behind a field and whether it can be expanded; None: there is no such field."""
    if isinstance(sdk_class, type) and issubclass(sdk_class, _ListOf):
        return (sdk_class.member, False) if name == "data" else None
    annotation = sdk_class.__annotations__.get(name)
    if annotation is None or name in ("object", "OBJECT_NAME"):
        return None
    kind = getattr(sdk_class, "OBJECT_NAME", "")
    includable = kind in SHAPES and name in SHAPES[kind].includable
    members = [m for m in typing.get_args(annotation) if m is not type(None)] or [annotation]
    if not is_union(annotation):
        members = [annotation]
    expandable = str in members and any(sdk_class_named(m) for m in members)
    for member in members:
        target = _target(member)
        if target is not None:
            return target, expandable or includable
    return None, includable


class _ListOf:
    member: type


@cache
def _list_of(member: type) -> type:
    return type(f"ListOf{member.__name__}", (_ListOf,), {"member": member})


def _target(annotation: Any) -> type | None:
    origin = typing.get_origin(annotation)
    if origin in (list, stripe.ListObject):
        member = _target(typing.get_args(annotation)[0])
        if member is None:
            return None
        return _list_of(member) if origin is stripe.ListObject else member
    if is_union(annotation):
        return next(filter(None, map(_target, typing.get_args(annotation))), None)
    if isinstance(annotation, type) and issubclass(annotation, stripe.StripeObject):
        return annotation
    return sdk_class_named(annotation)


_ALIASES = {
    "DiscountResource": "Discount",
    "CardResource": "Card",
    "TestClock": "test_helpers.TestClock",
    "Session": "checkout.Session",
    "CreditBalanceTransaction": "billing.CreditBalanceTransaction",
}


def sdk_class_named(annotation: Any) -> type | None:
    """The SDK's class of a reference such as `"Price"` or `ForwardRef("Customer")`."""
    name = annotation
    if isinstance(annotation, typing.ForwardRef):
        name = annotation.__forward_arg__
    if not isinstance(name, str):
        return None
    module: Any = stripe
    for step in _ALIASES.get(name, name).split("."):
        module = getattr(module, step, None)
    return module if isinstance(module, type) else None


def expand(tx: Transaction, shown: Json, paths: Iterable[str]) -> Json:
    """The rendered object with what the paths name put in place of its ids."""
    for path in paths:
        _expand_into(tx, shown, path.split("."))
    return shown


def _expand_into(tx: Transaction, node: Any, steps: list[str]) -> None:
    if isinstance(node, list):
        for each in node:
            _expand_into(tx, each, steps)
        return
    if not steps or not isinstance(node, dict):
        return
    name = steps[0]
    found = SHAPES.get(node.get("object", ""))
    if found and name in found.includable and name not in node:
        doc = tx.get(node["id"])
        include = found.includable[name]
        node[name] = include(tx, doc) if include and doc else None
    elif isinstance(node.get(name), str):
        doc = tx.get(node[name])
        if doc is not None and (len(steps) > 1 or doc["object"] in SHAPES):
            node[name] = render(tx, doc)
    _expand_into(tx, node.get(name), steps[1:])


# --- lists

PAGE = "limit starting_after ending_before"
"""What every list covers of its parameters."""


def list_object(url: str, data: list[Json], *, has_more: bool = False) -> Json:
    return {"object": "list", "data": data, "has_more": has_more, "url": url}


def check_expand_of(shown: Json, paths: Iterable[str]) -> None:
    """`check_expand` for an answer, by the kind of object (or of list) that it is."""
    kind = shown.get("_kind") or shown.get("object", "")
    if kind in SHAPES:
        check_expand(SHAPES[kind].sdk_class, paths, is_list="_kind" in shown)


def page(
    tx: Transaction,
    url: str,
    kind: str,
    params: Json,
    keep: Callable[[Json], bool] = lambda doc: True,
    **filters: str,
) -> Json:
    """One page of a list, newest first, as `limit`, `starting_after` and `ending_before` say."""
    limit, after, before = _page_of(params)
    scan: Json = {"newest_first": before is None} | filters
    for cursor, bound in ((after, "below"), (before, "above")):
        if cursor:
            seq = tx.seq_of(cursor)
            if seq is None:
                raise missing(kind, cursor, "starting_after" if after else "ending_before")
            scan[bound] = seq
    docs = tx.scan(kind, **scan)
    chosen = list(islice((doc for doc in docs if keep(doc)), limit + 1))
    shown = [render(tx, doc) for doc in chosen[:limit]]
    if before:
        shown.reverse()
    return list_object(url, shown, has_more=len(chosen) > limit) | {"_kind": kind}


def page_of(url: str, kind: str, everything: list[Json], params: Json) -> Json:
    """One page of a list that is part of an object, in the list's own order."""
    limit, after, before = _page_of(params)
    start, end = 0, len(everything)
    ids = [each["id"] for each in everything]
    mark = {"_kind": kind}
    for cursor in filter(None, (after, before)):
        if cursor not in ids:
            raise missing("object", cursor, "starting_after" if after else "ending_before")
    if after:
        start = ids.index(after) + 1
    if before:
        end = ids.index(before)
        start = max(0, end - limit)
        return list_object(url, everything[start:end], has_more=start > 0) | mark
    return list_object(url, everything[start : start + limit], has_more=end - start > limit) | mark


def _page_of(params: Json) -> tuple[int, str | None, str | None]:
    limit: int = params.get("limit", 10)
    if not 1 <= limit <= 100:
        raise invalid("This value must be between 1 and 100 (inclusive).", "limit")
    after, before = params.get("starting_after"), params.get("ending_before")
    if after and before:
        raise invalid("Use starting_after or ending_before, not both.", "starting_after")
    return limit, after, before


def in_range(value: int, wanted: Any) -> bool:
    """Stripe's filter of instants: one integer, or `gt`, `gte`, `lt`, `lte`."""
    if wanted is None:
        return True
    if isinstance(wanted, int):
        return value == wanted
    tests: dict[str, Callable[[int, int], bool]] = {
        "gt": int.__gt__,
        "gte": int.__ge__,
        "lt": int.__lt__,
        "lte": int.__le__,
    }
    return all(tests[name](value, bound) for name, bound in wanted.items())


def merge_metadata(old: Json, new: Any) -> Json:
    """Stripe's rule: an empty value unsets a key, an empty string unsets all."""
    if new == "":
        return {}
    merged = old | (new or {})
    return {key: value for key, value in merged.items() if value != ""}
