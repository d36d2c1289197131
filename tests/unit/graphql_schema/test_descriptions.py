"""Nobody has to guess what a part of the schema means."""

from collections.abc import Iterator

import pytest
from graphql import (
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLNamedType,
    GraphQLObjectType,
    is_introspection_type,
    is_specified_scalar_type,
)

from graphql_schema.schema import schema


def test_every_type_field_and_value_says_what_it_means() -> None:
    types = schema._schema.type_map.values()
    ours = [t for t in types if not is_introspection_type(t) and not is_specified_scalar_type(t)]
    assert [where for type in ours for where in _unsaid(type)] == []


def _unsaid(type: GraphQLNamedType) -> Iterator[str]:
    if not type.description:
        yield type.name
    if isinstance(type, GraphQLEnumType):
        yield from (f"{type.name}.{name}" for name, v in type.values.items() if not v.description)
    if isinstance(type, GraphQLObjectType | GraphQLInterfaceType | GraphQLInputObjectType):
        yield from (f"{type.name}.{name}" for name, f in type.fields.items() if not f.description)


@pytest.mark.parametrize(
    "path",
    [
        "Query.catalog",
        "Query.plan",
        "Query.addOn",
        "Query.bundle",
        "Query.comparePlans",
        "Query.estimate",
        "Query.catalogProposal",
        "Query.catalogProposals",
        "Mutation.proposeCatalog",
        "Mutation.approveProposal",
        "Mutation.rejectProposal",
        "Bundle.saving",
        "Money.formatted",
    ],
)
def test_every_argument_of_the_catalog_says_what_it_means(path: str) -> None:
    type_name, field_name = path.split(".")
    type = schema._schema.type_map[type_name]
    assert isinstance(type, GraphQLObjectType)
    arguments = type.fields[field_name].args
    assert [name for name, argument in arguments.items() if not argument.description] == []
