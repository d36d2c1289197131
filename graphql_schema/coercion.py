"""What a compiled document is asked with: variables from JSON, and resolvers' arguments from them.

Each type's reading is put together once. It accepts what graphql-core accepts; of anything else it
only says `NotHere`, for the executor to say what is wrong with it.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from graphql import (
    GraphQLField,
    Undefined,
    VariableDefinitionNode,
    VariableNode,
    Visitor,
    get_nullable_type,
    is_input_object_type,
    is_list_type,
    is_non_null_type,
    is_required_input_field,
    type_from_ast,
    visit,
)
from graphql.utilities.coerce_input_value import coerce_default_value, coerce_input_literal
from strawberry import Schema
from strawberry.scalars import is_scalar
from strawberry.types.arguments import convert_argument
from strawberry.types.base import StrawberryList, StrawberryOptional, has_object_definition
from strawberry.types.field import StrawberryField


class NotHere(Exception):
    """The ordinary executor has to answer."""


class NotHot(Exception):
    """The document has something that is not compiled."""


Coerce = Callable[[Any], Any]
"""From JSON to a value. Raises `NotHere` where there is none."""

Arguments = Callable[[Mapping[str, Any]], dict[str, Any]]
"""From the variables to what a resolver is called with."""

REQUIRED: Any = object()


# ── variables ────────────────────────────────────────────────────────────────


def variable_of(schema: Schema, node: VariableDefinitionNode) -> tuple[str, Coerce, Any]:
    """Its name, how it is read, and what it is where it is left out."""
    type_: Any = type_from_ast(schema._schema, node.type)
    default = REQUIRED if is_non_null_type(type_) else Undefined
    if node.default_value is not None:
        default = coerce_input_literal(node.default_value, type_)
        if default is Undefined:
            raise NotHot
    return node.variable.name.value, _coercion(type_), default


def _coercion(type_: Any) -> Coerce:
    if is_non_null_type(type_):
        inner = _coercion(type_.of_type)

        def required(value: Any) -> Any:
            if value is None:
                raise NotHere
            return inner(value)

        return required
    if is_list_type(type_):
        item = _coercion(type_.of_type)

        def every(value: Any) -> Any:
            if value is None:
                return None
            return [item(one) for one in value] if isinstance(value, list) else [item(value)]

        return every
    if is_input_object_type(type_):
        return _object_coercion(type_)
    if type_.name in ("ID", "String"):
        return lambda value: value if type(value) is str else _leaf(type_, value)
    return lambda value: None if value is None else _leaf(type_, value)


def _leaf(type_: Any, value: Any) -> Any:
    if value is None:
        return None
    if type(value) is float:  # the executor is given what was written
        raise NotHere
    try:
        return type_.coerce_input_value(value)
    except Exception:
        raise NotHere from None


def _object_coercion(type_: Any) -> Coerce:
    if type_.is_one_of:
        raise NotHot
    fields = []
    for name, field in type_.fields.items():
        default = REQUIRED if is_required_input_field(field) else coerce_default_value(field)
        fields.append((name, field.out_name or name, _coercion(field.type), default))
    names, made = type_.fields.keys(), type_.out_type

    def coerce(value: Any) -> Any:
        if value is None:
            return None
        if not isinstance(value, dict) or not value.keys() <= names:
            raise NotHere
        found = {}
        for name, out_name, inner, default in fields:
            if name in value:
                found[out_name] = inner(value[name])
            elif default is REQUIRED:
                raise NotHere
            elif default is not Undefined:
                found[out_name] = default
        return made(found)

    return coerce


# ── arguments ────────────────────────────────────────────────────────────────


def arguments_of(
    schema: Schema,
    definition: StrawberryField,
    field: GraphQLField,
    node: Any,
    *,
    without: str = "",
) -> Arguments:
    """How the arguments of a field (`without` one) follow from the variables, or are known now."""
    name_of = schema.config.name_converter.from_argument
    written = {argument.name.value: argument.value for argument in node.arguments or ()}
    known: dict[str, Any] = {}
    asked = []
    for argument in definition.arguments:
        if argument.python_name == without:
            continue
        taken = field.args[name_of(argument)]
        value = written.get(name_of(argument))
        convert = _conversion(schema, argument.type)
        default = coerce_default_value(taken)
        if isinstance(value, VariableNode):
            never_null = is_non_null_type(taken.type)
            asked.append((argument.python_name, value.name.value, default, never_null, convert))
        elif value is not None:
            if _has_variables(value):
                raise NotHot
            known[argument.python_name] = convert(coerce_input_literal(value, taken.type))
        elif default is not Undefined:
            known[argument.python_name] = convert(default)

    def arguments(variables: Mapping[str, Any]) -> dict[str, Any]:
        found = known.copy()
        for name, variable, default, never_null, convert in asked:
            value = variables.get(variable, default)
            if value is None and never_null:
                raise NotHere
            if value is not Undefined:
                found[name] = convert(value)
            elif never_null:
                raise NotHere
        return found

    return arguments


def reading_of_items(
    schema: Schema, definition: StrawberryField, field: GraphQLField, name: str
) -> Callable[[Any], Any]:
    """How one item of an argument that is a list of inputs is read from JSON."""
    [argument] = [one for one in definition.arguments if one.python_name == name]
    listed: Any = field.args[name].type
    coerce = _coercion(get_nullable_type(listed).of_type)
    convert = _conversion(schema, argument.type)
    return lambda item: convert([coerce(item)])[0]


def _conversion(schema: Schema, type_: Any) -> Callable[[Any], Any]:
    """From a coerced value to what the resolver takes: an input type's object, else as it is."""
    if isinstance(type_, StrawberryOptional):
        type_ = type_.of_type
    if isinstance(type_, StrawberryList) and has_object_definition(type_.of_type):
        item = _conversion(schema, type_.of_type)
        return lambda value: None if value is None else [item(one) for one in value]
    if not has_object_definition(type_):
        registry = schema.schema_converter.scalar_registry
        plain = functools.partial(
            convert_argument, type_=type_, scalar_registry=registry, config=schema.config
        )
        return _as_it_is if is_scalar(type_, registry) else plain
    made: Any = type_
    names = {}
    for field in made.__strawberry_definition__.fields:
        if _conversion(schema, field.type) is not _as_it_is:
            raise NotHot
        names[schema.config.name_converter.from_field(field)] = field.python_name
    if made.__strawberry_definition__.from_input is not None:
        raise NotHot
    return lambda value: made(**{names[name]: given for name, given in value.items()})


def _as_it_is(value: Any) -> Any:
    return value


def _has_variables(node: Any) -> bool:
    class Variables(Visitor):
        found = False

        def enter_variable(self, *_: Any) -> None:
            self.found = True

    variables = Variables()
    visit(node, variables)
    return variables.found
