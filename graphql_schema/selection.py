"""What a selection shows: from what a root field resolved to, to the answer's JSON.

Made once for each plan of a compiled document; the fields of an object are one expression, so that
showing it is one call. What is not compiled is `NotHot`.
"""

import inspect
from collections.abc import Callable
from operator import attrgetter
from typing import Any

from graphql import (
    GraphQLField,
    GraphQLObjectType,
    OperationDefinitionNode,
    Undefined,
    VariableNode,
    get_nullable_type,
    is_abstract_type,
    is_enum_type,
    is_list_type,
    is_non_null_type,
    is_object_type,
)
from graphql.execution.collect_fields import FragmentDetails, collect_subfields
from graphql.execution.values import VariableValues
from strawberry import Schema
from strawberry.types.field import StrawberryField

from graphql_schema.coercion import NotHere, NotHot, arguments_of
from graphql_schema.remembered import OF_CUSTOMER, Asked

_FROM_COUNTERS = frozenset({"Entitlement.used", "Entitlement.remaining", "Entitlement.resetsAt"})
"""Of what has to be waited for these alone are compiled: the counters are read before. Remedies are
not: the executor would check, and count the denial, once more."""

Show = Callable[[Any, Asked], Any]
"""From what was resolved to what the answer shows of it."""


class Selection:
    """What is selected below one root field, for one answer to its conditions.

    `counters_asked`: it shows what was used. `is_plain`: it shows what was resolved and nothing of
    the request, be it who asks or a variable.
    """

    def __init__(
        self,
        schema: Schema,
        fragments: dict[str, FragmentDetails],
        operation: OperationDefinitionNode,
        conditions: VariableValues,
    ) -> None:
        self.counters_asked = False
        self.is_plain = True
        self._strawberry = schema
        self._schema = schema._schema
        self._fragments = fragments
        self._operation = operation
        self._asked = conditions

    def show(self, type_: Any, details: list[Any]) -> Show:
        if is_non_null_type(type_):
            return _never_null(self.show(type_.of_type, details))
        if is_list_type(type_):
            item = self.show(type_.of_type, details)
            return lambda value, info: None if value is None else [item(one, info) for one in value]
        if is_object_type(type_):
            return self._object(type_, details)
        if is_abstract_type(type_):
            shows: dict[type, Show] = {}
            for possible in self._schema.get_possible_types(type_):
                origin = possible.extensions["strawberry-definition"].origin
                shows[origin] = self._object(possible, details)
            return lambda value, info: None if value is None else shows[type(value)](value, info)
        return _leaf_show(type_)

    def _object(self, type_: GraphQLObjectType, details: list[Any]) -> Show:
        collected = collect_subfields(
            self._schema, self._fragments, self._asked, self._operation, type_, details
        )
        names: dict[str, Any] = {}
        fields = [
            f"{key!r}: {self._field(type_, found, names)}"
            for key, found in collected.grouped_field_set.items()
        ]
        # A key is a name of GraphQL's, and the only thing in it that a client wrote.
        source = f"lambda s, i: None if s is None else {{{', '.join(fields)}}}"
        show: Show = eval(source, names)  # nosec B307
        return show

    def _field(self, parent: GraphQLObjectType, details: list[Any], names: dict[str, Any]) -> str:
        """An expression of what is shown of a source `s`, by `names` of its own."""
        name = details[0].node.name.value
        if name == "__typename":
            return repr(parent.name)
        type_: Any = parent.fields[name].type
        number = len(names)
        read, show = f"read{number}", f"show{number}"
        names[read], value = self._read(parent, name, details, read)
        names[show] = self.show(type_, details)
        shown = f"{show}({value}, i)"
        plain = _PLAIN.get(getattr(get_nullable_type(type_), "name", ""))
        if plain is None:
            return shown
        return f"(v if type(v := {value}) is {plain.__name__} else {show}(v, i))"

    def _read(
        self, parent: GraphQLObjectType, name: str, details: list[Any], read: str
    ) -> tuple[Any, str]:
        """What reads a field, and how it is called."""
        field = parent.fields[name]
        if parent.name == "Customer":
            if name not in OF_CUSTOMER:
                raise NotHot
            return OF_CUSTOMER[name], f"{read}(s)"
        definition = definition_of(field)
        resolver = definition.base_resolver
        if resolver is None:
            return attrgetter(definition.python_name), f"{read}(s)"
        if definition.extensions or definition.permission_classes:
            raise NotHot
        function: Any = resolver.wrapped_func
        if inspect.iscoroutinefunction(function):
            function = self._at_once(f"{parent.name}.{name}", function)
        elif not resolver.arguments and resolver.info_parameter is None:
            return function, f"{read}(s)"
        node = details[0].node
        arguments = arguments_of(self._strawberry, definition, field, node)
        given = [argument.value for argument in node.arguments or ()]
        if resolver.info_parameter or any(isinstance(value, VariableNode) for value in given):
            self.is_plain = False
        if resolver.info_parameter is None:
            return lambda s, i: function(s, **arguments(i.variables)), f"{read}(s, i)"
        return lambda s, i: function(s, i, **arguments(i.variables)), f"{read}(s, i)"

    def _at_once(self, name: str, function: Any) -> Any:
        """An async resolver that has nothing to wait for, since what it needs is there."""
        if name not in _FROM_COUNTERS:
            raise NotHot
        self.counters_asked = True

        def read(source: Any, info: Asked, **arguments: Any) -> Any:
            coroutine = function(source, info, **arguments)
            try:
                coroutine.send(None)
            except StopIteration as done:
                return done.value
            coroutine.close()
            raise NotHere

        return read


def definition_of(field: GraphQLField) -> StrawberryField:
    found: StrawberryField = field.extensions["strawberry-definition"]
    return found


def _never_null(show: Show) -> Show:
    def shown(value: Any, info: Asked) -> Any:
        found = show(value, info)
        if found is None:
            raise NotHere
        return found

    return shown


_PLAIN = {"Boolean": bool, "ID": str, "String": str}


def _leaf_show(type_: Any) -> Show:
    plain, serialize = _PLAIN.get(type_.name), type_.coerce_output_value
    if is_enum_type(type_):
        names: dict[Any, Any] = {}

        def name_of(value: Any, _info: Asked) -> Any:
            if value is not None and value not in names:
                names[value] = serialize(value)
            return names.get(value)

        return name_of

    def show(value: Any, _info: Asked) -> Any:
        if value is None or type(value) is plain:
            return value
        found = serialize(value)
        if found is None or found is Undefined:
            raise NotHere
        return found

    return show
