"""Holds an answer against the SDK's resource classes: nothing missing, nothing more."""

import typing
from decimal import Decimal
from typing import Any

import stripe
from stripe._stripe_object import UntypedStripeObject

from entitlements.sandbox.shapes import SHAPES, is_union, sdk_class_named

# What the API itself adds to every deleted object, and the fields that only wire formats have.
_DELETED = {"id", "object", "deleted"}


def mistakes(body: Any, path: str = "") -> list[str]:
    """Every difference between an answer and the SDK's class for its `object`."""
    if body.get("deleted") is True:
        return [] if set(body) == _DELETED else [f"{path}: more than a deleted object"]
    kind = body.get("object")
    if kind == "list":
        return [m for i, each in enumerate(body["data"]) for m in mistakes(each, f"{path}[{i}]")]
    if kind not in SHAPES:
        return [f"{path}: {kind} is no known object"]
    return _check_class(SHAPES[kind].sdk_class, body, f"{path}{kind}")


def _check_class(cls: type, body: Any, path: str) -> list[str]:
    if not isinstance(body, dict):
        return [f"{path}: {body!r} is no {cls.__name__}"]
    annotations = {
        name: annotation
        for name, annotation in cls.__annotations__.items()
        if name != "OBJECT_NAME" and not name.startswith("_")
    }
    found = [f"{path}.{name}: unknown" for name in body if name not in annotations]
    for name, annotation in annotations.items():
        optional = type(None) in typing.get_args(annotation)
        if name in body:
            found += _check(annotation, body[name], f"{path}.{name}")
        elif not optional and name != "object":
            found.append(f"{path}.{name}: missing")
    return found


def _check(annotation: Any, value: Any, path: str) -> list[str]:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return []
    if is_union(annotation):
        if value is None and type(None) in args:
            return []
        tries = [_check(a, value, path) for a in args if a is not type(None)]
        return [] if any(not t for t in tries) else max(tries, key=len)
    if value is None:
        return [f"{path}: null"]
    if origin is typing.Literal:
        return [] if value in args else [f"{path}: {value!r} is none of {args}"]
    if origin is list:
        if not isinstance(value, list):
            return [f"{path}: no list"]
        return [m for i, v in enumerate(value) for m in _check(args[0], v, f"{path}[{i}]")]
    if origin is stripe.ListObject:
        if not isinstance(value, dict) or set(value) != {"object", "data", "has_more", "url"}:
            return [f"{path}: no list object"]
        return [m for i, v in enumerate(value["data"]) for m in _check(args[0], v, f"{path}[{i}]")]
    if isinstance(annotation, str | typing.ForwardRef):
        resource = sdk_class_named(annotation)
        if not isinstance(value, dict) or resource is None:
            return [f"{path}: {value!r} is no {annotation}"]
        return _check_class(resource, value, path)
    return _check_scalar(origin or annotation, value, path)


_SCALARS: dict[Any, Any] = {str: str, bool: bool, float: (int, float), int: int}


def _check_scalar(kind: Any, value: Any, path: str) -> list[str]:
    if kind is Decimal:
        fits = isinstance(value, str) and Decimal(value).is_finite()
    elif kind in _SCALARS:
        fits = isinstance(value, _SCALARS[kind]) and isinstance(value, bool) == (kind is bool)
    elif not isinstance(kind, type):
        return [f"{path}: {kind!r} is not understood"]
    elif issubclass(kind, UntypedStripeObject):
        fits = isinstance(value, dict)
    else:
        return _check_class(kind, value, path)
    return [] if fits else [f"{path}: {value!r} is no {kind.__name__}"]
