"""Nobody has to guess what a part of the schema means."""

from collections.abc import Iterator

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


def test_every_type_field_argument_and_value_says_what_it_means() -> None:
    types = schema._schema.type_map.values()
    ours = [t for t in types if not is_introspection_type(t) and not is_specified_scalar_type(t)]
    assert [where for type in ours for where in _unsaid(type)] == []


def _unsaid(type: GraphQLNamedType) -> Iterator[str]:
    """Where a description is missing: `Money`, `Money.formatted`, `Money.formatted.locale`."""
    if not type.description:
        yield type.name
    if isinstance(type, GraphQLEnumType):
        yield from (f"{type.name}.{name}" for name, v in type.values.items() if not v.description)
    if isinstance(type, GraphQLObjectType | GraphQLInterfaceType | GraphQLInputObjectType):
        yield from (f"{type.name}.{name}" for name, f in type.fields.items() if not f.description)
    if isinstance(type, GraphQLObjectType | GraphQLInterfaceType):
        for name, field in type.fields.items():
            arguments = field.args.items()
            yield from (f"{type.name}.{name}.{arg}" for arg, a in arguments if not a.description)
