"""What a scalar takes from JSON and from the text of a document, and what it refuses."""

from decimal import Decimal
from typing import Any

import pytest
from graphql import GraphQLScalarType, parse_value

from graphql_schema.schema import schema


def _scalar(name: str) -> GraphQLScalarType:
    scalar = schema._schema.type_map[name]
    assert isinstance(scalar, GraphQLScalarType)
    return scalar


@pytest.mark.parametrize("given", ["12.50", 12.5, Decimal("12.50")])
def test_a_decimal_comes_as_text_or_number(given: Any) -> None:
    assert _scalar("Decimal").parse_value(given) == Decimal("12.5")


def test_a_decimal_in_a_document_keeps_every_digit() -> None:
    written = "123456789.123456789012"
    scalar = _scalar("Decimal")
    assert scalar.parse_literal is not None
    assert scalar.parse_literal(parse_value(written), None) == Decimal(written)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("Decimal", "NaN"),
        ("Decimal", "-Infinity"),
        ("Decimal", "1E+999999999"),
        ("Decimal", "1E-999999999"),
        ("Decimal", "9" * 41),
        ("Decimal", True),
        ("BigInt", str(2**63)),
        ("BigInt", 1.0),
        ("BigInt", True),
        ("BigInt", "1_000"),
        ("DateTime", "2040-01-01T00:00:00"),
        ("DateTime", "0001-01-01T00:00:00+01:00"),
        ("DateTime", 0),
    ],
)
def test_what_cannot_be_represented_is_the_callers_mistake(name: str, given: Any) -> None:
    with pytest.raises(Exception, match=f"{name} cannot represent"):
        _scalar(name).parse_value(given)


def test_json_in_a_document_may_hold_variables() -> None:
    node = parse_value('{a: [1, 0.10, $b], c: null, d: WORD, e: "text", f: true}')
    scalar = _scalar("JSON")
    assert scalar.parse_literal is not None
    assert scalar.parse_literal(node, {"b": {"x": 1}}) == {
        "a": [1, Decimal("0.10"), {"x": 1}],
        "c": None,
        "d": "WORD",
        "e": "text",
        "f": True,
    }
