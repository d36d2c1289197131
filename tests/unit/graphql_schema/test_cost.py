"""What a document may have us answer is known before anything runs."""

import pytest
from graphql import parse

from graphql_schema.cost import objects
from graphql_schema.schema import schema

OBJECTS = [
    ("{ viewer { role } }", 1),
    ("{ a: viewer { role } b: viewer { role } __typename }", 2),
    ('{ customer(id: "a") { invoices(first: 10) { nodes { id } pageInfo { hasNextPage } } } }', 31),
    ('{ customer(id: "a") { invoices { nodes { id } } } }', 101),
    ('query ($n: Int!) { customer(id: "a") { invoices(first: $n) { nodes { id } } } }', 401),
    ("{ catalog { products { id } } }", 5),
    ("{ catalog { products { ...p ...p } } } fragment p on Product { plans { id } }", 37),
    ("{ catalog { products { plans { ... on Plan { extends { id } } } } } }", 37),
    ("{ verifyAudit { ok } }", 100_001),
    ("mutation ($i: ChangeInput!) { previewChange(input: $i) { ... on Quote { token } } }", 2_001),
    ("{ catalogProposals(first: 9) { nodes { impact { customersAffected } } } }", 180_027),
    # products 4 × plans 4 × add-ons 4 × plans again 25 × add-ons again 25
    ("{ catalog { products { plans { addOns { worksWith { addOns { id } } } } } } }", 41_685),
]


@pytest.mark.parametrize(("text", "expected"), OBJECTS)
def test_lists_multiply_what_is_in_them(text: str, expected: int) -> None:
    assert objects(schema._schema, parse(text)) == expected


def test_only_the_dearest_operation_counts() -> None:
    both = "query A { viewer { role } } query B { catalog { products { id } } }"
    assert objects(schema._schema, parse(both)) == 5
