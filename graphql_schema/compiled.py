"""Hot documents, compiled: what runs on every request of every product is a straight function.

`access`, `accessMany`, `consume` and the entitlements of a `customer` are answered by a plan that
was made of the document once, instead of by the executor, which finds out anew at each request
what the document says. A plan calls the same resolvers, so that what a field means stands in one
place; it knows their arguments, their types and where they go beforehand.

    compile_operation   one operation of a document → `Operation`, or None: not all of it is hot
    Operation.answer    context, variables → the answer, byte for byte that of the executor
    NotHere             what the executor has to say: a wrong variable, null where none may be,
                        what has to be waited for. Whoever asked then asks it.

The executor is the reference: `tests/properties/test_compiled.py` compares their bytes on random
documents. Each combination of what `@include` and `@skip` ask for is a plan of its own. A mutation
goes to the executor only before it has begun; if a mistake of ours shows afterwards, its key keeps
it from counting twice.

No library did this when it was written: graphql-core and Strawberry have no such switch, and what
compiles documents for Node (graphql-jit) or brings an engine of its own (fraiseql) fits neither.
"""

import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final, NamedTuple

from graphql import (
    DirectiveNode,
    DocumentNode,
    FragmentDefinitionNode,
    GraphQLError,
    GraphQLField,
    GraphQLObjectType,
    OperationDefinitionNode,
    OperationType,
    Undefined,
    VariableNode,
    Visitor,
    get_nullable_type,
    is_abstract_type,
    is_enum_type,
    is_list_type,
    is_non_null_type,
    is_object_type,
    located_error,
    visit,
)
from graphql.execution.collect_fields import FragmentDetails, collect_fields, collect_subfields
from graphql.execution.values import VariableValues
from strawberry import Schema
from strawberry.types.field import StrawberryField

from entitlements.kernel.errors import Forbidden
from graphql_schema.coercion import REQUIRED, NotHere, NotHot, arguments_of, variable_of
from graphql_schema.context import Context
from graphql_schema.errors import coded
from graphql_schema.permissions import is_open, keep_refusal, require
from graphql_schema.remembered import OF_CUSTOMER, Asked, customer, customer_with_counters

HOT: Final = frozenset({"Query.access", "Query.accessMany", "Query.customer", "Mutation.consume"})
CONDITIONS_AT_MOST: Final = 4
"""Variables that `@include` and `@skip` ask for: 16 plans of a document at most."""

_FROM_COUNTERS = frozenset({"Entitlement.used", "Entitlement.remaining", "Entitlement.resetsAt"})
"""Of what has to be waited for these alone are compiled: the counters are read before. Remedies are
not: the executor would check, and count the denial, once more."""


Show = Callable[[Any, Asked], Any]
"""From what was resolved to what the answer shows of it."""


def compile_operation(
    schema: Schema, document: DocumentNode, operation_name: str | None
) -> "Operation | None":
    """The operation of a valid document that is meant; None where not all of it is hot."""
    operations = [d for d in document.definitions if isinstance(d, OperationDefinitionNode)]
    if operation_name is not None:
        operations = [o for o in operations if o.name and o.name.value == operation_name]
    if len(operations) != 1 or operations[0].directives:
        return None
    try:
        return Operation(schema, document, operations[0])
    except NotHot:
        return None


class Operation:
    def __init__(
        self, schema: Schema, document: DocumentNode, operation: OperationDefinitionNode
    ) -> None:
        self._compiler = _Compiler(schema, document, operation)
        self._variables = [
            variable_of(schema, node) for node in operation.variable_definitions or ()
        ]
        self._conditions = _conditions(document)
        self._plans: dict[tuple[Any, ...], _Plan | None] = {}
        self._plan(dict.fromkeys(self._conditions, True))

    async def answer(self, context: Context, given: Mapping[str, Any]) -> dict[str, Any]:
        """`data`, and `errors` where there are any. Raises `NotHere`."""
        variables = {}
        for name, coerce, default in self._variables:
            value = given.get(name, Undefined)
            if value is not Undefined:
                variables[name] = coerce(value)
            elif default is REQUIRED:
                raise NotHere
            elif default is not Undefined:
                variables[name] = default
        try:
            return await self._plan(variables).answer(Asked(context, variables))
        except (NotHot, GraphQLError):
            raise NotHere from None

    def _plan(self, variables: Mapping[str, Any]) -> "_Plan":
        key = tuple([variables.get(name) for name in self._conditions])
        if key not in self._plans:
            self._plans[key] = None
            conditions = dict(zip(self._conditions, key, strict=True))
            self._plans[key] = self._compiler.plan(conditions)
        found = self._plans[key]
        if found is None:
            raise NotHot
        return found


def _conditions(document: DocumentNode) -> tuple[str, ...]:
    """The variables that `@include` and `@skip` ask for. Other directives are not compiled."""
    found: dict[str, None] = {}

    class Conditions(Visitor):
        def enter_directive(self, node: DirectiveNode, *_: Any) -> None:
            if node.name.value not in ("include", "skip"):
                raise NotHot
            for argument in node.arguments or ():
                if isinstance(argument.value, VariableNode):
                    found[argument.value.name.value] = None

    visit(document, Conditions())
    if len(found) > CONDITIONS_AT_MOST:
        raise NotHot
    return tuple(found)


# ── what is answered ─────────────────────────────────────────────────────────


class _Root(NamedTuple):
    """A root field: its resolver (from the request to a value, or an error) and its show."""

    asked: tuple[str, str]
    nodes: list[Any]
    resolve: Callable[[Asked], Coroutine[Any, Any, Any]]
    show: Show
    nullable: bool


class _Plan:
    """The root fields in their order; a text among them is a `__typename`."""

    def __init__(self, fields: Sequence[tuple[str, _Root | str]]) -> None:
        self._fields = fields
        self._roots = [field for _, field in fields if isinstance(field, _Root)]
        self._alone = len(self._roots) == 1

    async def answer(self, info: Asked) -> dict[str, Any]:
        if not self._alone:  # the executor tells, and keeps, what is refused of several
            principal = info.context.principal
            if not all(is_open(*root.asked, principal) for root in self._roots):
                raise NotHere
        data: dict[str, Any] = {}
        for key, field in self._fields:
            if isinstance(field, str):
                data[key] = field
                continue
            try:
                value = await field.resolve(info)
            except NotHere:
                raise
            except Exception as error:
                if field.nullable or not self._alone:
                    raise NotHere from None
                located = located_error(error, field.nodes, [key])
                told = coded(located, info.context.request_id).formatted
                return {"data": None, "errors": [told]}
            try:
                data[key] = field.show(value, info)
            except Exception:
                raise NotHere from None
        return {"data": data}


class _Compiler:
    """Makes plans of one operation."""

    def __init__(
        self, schema: Schema, document: DocumentNode, operation: OperationDefinitionNode
    ) -> None:
        self._strawberry = schema
        self._schema = schema._schema
        self._operation = operation
        self._fragments = {
            d.name.value: FragmentDetails(d)
            for d in document.definitions
            if isinstance(d, FragmentDefinitionNode)
        }
        self._asked = VariableValues({}, {})
        self._counters_asked = False

    def plan(self, conditions: Mapping[str, Any]) -> _Plan:
        """Raises `NotHot`, or `GraphQLError` for a condition that is none."""
        self._asked = VariableValues({}, dict(conditions))
        type_: Any = self._schema.get_root_type(self._operation.operation)
        fields: list[tuple[str, _Root | str]] = []
        collected = collect_fields(
            self._schema, self._fragments, self._asked, type_, self._operation
        )
        for key, details in collected.grouped_field_set.items():
            name = details[0].node.name.value
            is_typename = name == "__typename"
            fields.append((key, type_.name if is_typename else self._root(type_, details)))
        roots = [field for _, field in fields if isinstance(field, _Root)]
        if not roots or (self._operation.operation is OperationType.MUTATION and len(roots) > 1):
            raise NotHot
        return _Plan(fields)

    def _root(self, parent: GraphQLObjectType, details: list[Any]) -> _Root:
        name = details[0].node.name.value
        if f"{parent.name}.{name}" not in HOT:
            raise NotHot
        field = parent.fields[name]
        self._counters_asked = False
        show = self._show(field.type, details)
        resolve = self._resolver(parent.name, name, field, details)
        nodes = [detail.node for detail in details]
        return _Root((parent.name, name), nodes, resolve, show, not is_non_null_type(field.type))

    def _resolver(self, parent: str, name: str, field: GraphQLField, details: list[Any]) -> Any:
        definition = _definition(field)
        arguments = arguments_of(self._strawberry, definition, field, details[0].node)
        handlers: Any = self._strawberry.schema_converter._get_field_exception_handlers(definition)
        assert definition.base_resolver is not None
        resolver: Any = definition.base_resolver.wrapped_func
        if name == "customer":
            resolver = customer_with_counters if self._counters_asked else customer

        async def resolve(info: Asked) -> Any:
            try:
                require(parent, name, info.context.principal)
            except Forbidden as error:
                await keep_refusal(info.context, f"{parent}.{name}", error)
                raise
            given = arguments(info.variables)
            try:
                return await resolver(None, info, **given)
            except Exception as error:
                for kinds, handler in handlers:
                    if isinstance(error, kinds):
                        return handler.handle(error, field=definition, info=info)
                raise

        return resolve

    # ── fields ───────────────────────────────────────────────────────────────

    def _show(self, type_: Any, details: list[Any]) -> Show:
        if is_non_null_type(type_):
            return _never_null(self._show(type_.of_type, details))
        if is_list_type(type_):
            item = self._show(type_.of_type, details)
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
        names[show] = self._show(type_, details)
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
        definition = _definition(field)
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
        arguments = arguments_of(self._strawberry, definition, field, details[0].node)
        if resolver.info_parameter is None:
            return lambda s, i: function(s, **arguments(i.variables)), f"{read}(s, i)"
        return lambda s, i: function(s, i, **arguments(i.variables)), f"{read}(s, i)"

    def _at_once(self, name: str, function: Any) -> Any:
        """An async resolver that has nothing to wait for, since what it needs is there."""
        if name not in _FROM_COUNTERS:
            raise NotHot
        self._counters_asked = True

        def read(source: Any, info: Asked, **arguments: Any) -> Any:
            coroutine = function(source, info, **arguments)
            try:
                coroutine.send(None)
            except StopIteration as done:
                return done.value
            coroutine.close()
            raise NotHere

        return read


def _definition(field: GraphQLField) -> StrawberryField:
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
