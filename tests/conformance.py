"""Holds an answer against the SDK's resource classes: nothing missing, nothing more.

The checks of a class are made once, when it is first met: all traffic of the suite passes here.
"""

import typing
from collections.abc import Callable, Iterable
from decimal import Decimal
from functools import cache
from typing import Any

import stripe
from stripe._stripe_object import UntypedStripeObject

from entitlements.sandbox.shapes import SHAPES, is_union, sdk_class_named

Check = Callable[[Any, str], list[str]]
"""Takes a value and its path; the mistakes found."""

# What the API itself adds to every deleted object, and the fields that only wire formats have.
_DELETED = {"id", "object", "deleted"}
_LIST = {"object", "data", "has_more", "url"}


def mistakes(body: Any, path: str = "") -> list[str]:
    """Every difference between an answer and the SDK's class for its `object`."""
    if body.get("deleted") is True:
        return [] if set(body) == _DELETED else [f"{path}: more than a deleted object"]
    kind = body.get("object")
    if kind == "list":
        return [m for i, each in enumerate(body["data"]) for m in mistakes(each, f"{path}[{i}]")]
    if kind not in SHAPES:
        return [f"{path}: {kind} is no known object"]
    found = _class(SHAPES[kind].sdk_class)(body, f"{path}{kind}")
    if kind == "event":
        found += mistakes(body["data"]["object"], f"{path}event.data.")
    return found


@cache
def _class(cls: type) -> Check:
    annotations = {
        name: annotation
        for name, annotation in cls.__annotations__.items()
        if name != "OBJECT_NAME" and not name.startswith("_")
    }
    checks: dict[str, Check] = {}
    needed = {
        name
        for name, annotation in annotations.items()
        if name != "object" and type(None) not in typing.get_args(annotation)
    }

    def check(body: Any, path: str) -> list[str]:
        if not isinstance(body, dict):
            return [f"{path}: {body!r} is no {cls.__name__}"]
        found = [f"{path}.{name}: missing" for name in needed if name not in body]
        for name, value in body.items():
            if name not in checks:
                if name not in annotations:
                    found.append(f"{path}.{name}: unknown")
                    continue
                checks[name] = _annotation(annotations[name])  # when first met: they are many
            found += checks[name](value, f"{path}.{name}")
        return found

    return check


def _annotation(annotation: Any) -> Check:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return lambda value, path: []
    if is_union(annotation):
        return _union(args)
    if origin is typing.Literal:
        return _not_null(
            lambda value, path: [] if value in args else [f"{path}: {value!r} is none of {args}"]
        )
    if origin is list:
        return _not_null(_list(_annotation(args[0])))
    if origin is stripe.ListObject:
        return _not_null(_list_object(_annotation(args[0])))
    if isinstance(annotation, str | typing.ForwardRef):
        resource = sdk_class_named(annotation)
        if resource is None:
            return lambda value, path: [f"{path}: {annotation} is not understood"]
        return _not_null(_class(resource))
    return _not_null(_scalar(origin or annotation))


def _not_null(check: Check) -> Check:
    return lambda value, path: [f"{path}: null"] if value is None else check(value, path)


def _union(members: Iterable[Any]) -> Check:
    optional = type(None) in members
    checks = [_annotation(member) for member in members if member is not type(None)]

    def check(value: Any, path: str) -> list[str]:
        if value is None and optional:
            return []
        most: list[str] = []
        for each in checks:
            found = each(value, path)
            if not found:
                return []
            most = max(most, found, key=len)
        return most

    return check


def _list(member: Check) -> Check:
    def check(value: Any, path: str) -> list[str]:
        if not isinstance(value, list):
            return [f"{path}: no list"]
        return [m for i, each in enumerate(value) for m in member(each, f"{path}[{i}]")]

    return check


def _list_object(member: Check) -> Check:
    every = _list(member)

    def check(value: Any, path: str) -> list[str]:
        if not isinstance(value, dict) or set(value) != _LIST:
            return [f"{path}: no list object"]
        return every(value["data"], path)

    return check


_SCALARS: dict[Any, Any] = {str: str, bool: bool, float: (int, float), int: int}


def _scalar(kind: Any) -> Check:
    if kind is Decimal:
        return lambda value, path: (
            []
            if isinstance(value, str) and Decimal(value).is_finite()
            else [f"{path}: {value!r} is no decimal"]
        )
    if kind in _SCALARS:
        types, is_bool = _SCALARS[kind], kind is bool
        return lambda value, path: (
            []
            if isinstance(value, types) and isinstance(value, bool) is is_bool
            else [f"{path}: {value!r} is no {kind.__name__}"]
        )
    if not isinstance(kind, type):
        return lambda value, path: [f"{path}: {kind!r} is not understood"]
    if issubclass(kind, UntypedStripeObject):
        return lambda value, path: (
            [] if isinstance(value, dict) else [f"{path}: {value!r} is no {kind.__name__}"]
        )
    return _class(kind)
