"""The schema that is served is the one that is checked in: a client never meets a surprise."""

from pathlib import Path

import pytest
from graphql import (
    DangerousChangeType,
    build_schema,
    find_breaking_changes,
    find_dangerous_changes,
)

import graphql_schema
from graphql_schema.schema import schema

CHECKED_IN = Path(graphql_schema.__file__).with_name("schema.graphql")


def breaking_changes(before: str, after: str) -> list[str]:
    """What would break a client that was written against `before`, in words.

    A default that changes or goes is such a thing: who left the argument out relied on it.
    """
    was, becomes = build_schema(before), build_schema(after)
    breaking = [change.description for change in find_breaking_changes(was, becomes)]
    return breaking + [
        change.description
        for change in find_dangerous_changes(was, becomes)
        if change.type is DangerousChangeType.ARG_DEFAULT_VALUE_CHANGE
    ]


def test_the_schema_that_is_served_is_the_one_that_is_checked_in() -> None:
    checked_in, served = CHECKED_IN.read_text(encoding="utf-8"), schema.as_str() + "\n"
    assert breaking_changes(checked_in, served) == [], "this breaks clients"
    assert checked_in == served, "nothing breaks, but the file is not current: run `make schema`"


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ("  allowed: Boolean!", "  allowed: Boolean"),
        ("  allowed: Boolean!", "  permitted: Boolean!"),
        ("  amountMinor: BigInt!", "  amountMinor: Int!"),
        ("  LIMIT_EXCEEDED", "  OVER_LIMIT"),
        ("    first: Int! = 50", "    first: Int!"),
        ("  featureId: ID!", "  featureId: ID!\n  why: String!"),
    ],
)
def test_what_would_break_a_client_is_named(was: str, becomes: str) -> None:
    served = schema.as_str()
    assert was in served
    assert breaking_changes(served, served.replace(was, becomes)) != []


def test_what_is_left_out_has_no_default_of_null() -> None:
    assert " = null" not in schema.as_str()
