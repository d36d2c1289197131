"""The contract's scalars: exact on the wire, whatever a client's JSON numbers can hold."""

import json
from datetime import datetime
from decimal import Decimal as ExactDecimal
from typing import Any, NewType

import strawberry
from graphql import (
    FloatValueNode,
    GraphQLError,
    IntValueNode,
    ListValueNode,
    ObjectValueNode,
    StringValueNode,
    ValueNode,
    value_from_ast_untyped,
)
from strawberry.types.scalar import ScalarDefinition

from entitlements.kernel.period import format_instant, parse_instant

BigInt = NewType("BigInt", int)
JSON = NewType("JSON", object)

_LIMIT = 2**63
_DECIMAL_PLACES_MAX = 40  # before and after the point: written out in full it stays a short text


def _big_int(value: Any) -> BigInt:
    try:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError
        number = int(value)
    except ValueError:
        raise GraphQLError(f"BigInt cannot represent {value!r}") from None
    if not -_LIMIT <= number < _LIMIT or (isinstance(value, str) and str(number) != value.strip()):
        raise GraphQLError(f"BigInt cannot represent {value!r}")
    return BigInt(number)


def _big_int_literal(node: ValueNode, _variables: Any = None) -> BigInt:
    if isinstance(node, IntValueNode | StringValueNode):
        return _big_int(node.value)
    raise GraphQLError("BigInt is written as a number or as a string", nodes=node)


def _instant(value: Any) -> datetime:
    try:
        return parse_instant(value)
    except (TypeError, ValueError):
        raise GraphQLError(
            f"DateTime cannot represent {value!r}: write RFC 3339, such as 2026-11-21T09:30:00Z"
        ) from None


def _decimal(value: Any) -> ExactDecimal:
    if isinstance(value, bool) or not isinstance(value, int | str | float | ExactDecimal):
        raise GraphQLError(f"Decimal cannot represent {value!r}")
    try:
        number = ExactDecimal(str(value))
    except ArithmeticError:
        number = ExactDecimal("NaN")
    _, digits, exponent = number.as_tuple()
    if (
        not isinstance(exponent, int)
        or max(-exponent, len(digits) + exponent) > _DECIMAL_PLACES_MAX
    ):
        raise GraphQLError(f"Decimal cannot represent {value!r}")
    return number


def _decimal_literal(node: ValueNode, _variables: Any = None) -> ExactDecimal:
    if isinstance(node, IntValueNode | FloatValueNode | StringValueNode):
        return _decimal(node.value)
    raise GraphQLError("Decimal is written as a number or as a string", nodes=node)


def _json(value: Any) -> Any:
    """JSON data as it is; a string that holds a JSON object or array is taken for it."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(value, parse_float=str)
        except ValueError:
            return value
    return value


def _json_literal(node: ValueNode, variables: Any = None) -> Any:
    """JSON data written into the document: its numbers are exactly what is written."""
    return _json(_data(node, variables))


def _data(node: ValueNode, variables: Any) -> Any:
    if isinstance(node, FloatValueNode):
        return ExactDecimal(node.value)
    if isinstance(node, ListValueNode):
        return [_data(item, variables) for item in node.values]
    if isinstance(node, ObjectValueNode):
        return {field.name.value: _data(field.value, variables) for field in node.fields}
    return value_from_ast_untyped(node, variables)


SCALARS: dict[object, ScalarDefinition] = {
    BigInt: strawberry.scalar(
        name="BigInt",
        description="A signed 64-bit integer, serialised as a string; numbers are taken too.",
        serialize=lambda value: str(int(value)),
        parse_value=_big_int,
        parse_literal=_big_int_literal,
    ),
    datetime: strawberry.scalar(
        name="DateTime",
        description="An instant in RFC 3339, always UTC: 2026-11-21T09:30:00Z.",
        specified_by_url="https://www.rfc-editor.org/rfc/rfc3339",
        serialize=format_instant,
        parse_value=_instant,
    ),
    ExactDecimal: strawberry.scalar(
        name="Decimal",
        description="An exact decimal number, serialised as a string.",
        serialize=lambda value: format(value, "f"),
        parse_value=_decimal,
        parse_literal=_decimal_literal,
    ),
    JSON: strawberry.scalar(
        name="JSON",
        description="Any JSON value.",
        specified_by_url="https://www.rfc-editor.org/rfc/rfc8259",
        serialize=lambda value: value,
        parse_value=_json,
        parse_literal=_json_literal,
    ),
}
