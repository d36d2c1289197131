"""Hot documents, compiled: what runs on every request of every product is a straight function.

`access`, `accessMany`, `consume` and the entitlements of a `customer` are answered by a plan that
was made of the document once, instead of by the executor, which finds out anew at each request
what the document says. A plan calls the same resolvers, so that what a field means stands in one
place; it knows their arguments, their types and where they go beforehand.

    compile_operation            one operation of a document → `Operation`, or None: not all is hot
    Operation.answer             context, variables → the answer, byte for byte the executor's
    Operation.at_once            variables → what answers them without waiting, if memory may
    NotHere                      what the executor has to say: a wrong variable, null where none may
                                 be, what has to be waited for. Whoever asked then asks it.

The executor is the reference: `tests/properties/test_compiled.py` compares their bytes on random
documents. Each combination of what `@include` and `@skip` ask for is a plan of its own. A mutation
goes to the executor only before it has begun; if a mistake of ours shows afterwards, its key keeps
it from counting twice.

No library did this when it was written: graphql-core and Strawberry have no such switch, and what
compiles documents for Node (graphql-jit) or brings an engine of its own (fraiseql) fits neither.
"""

from collections.abc import Callable, Container, Coroutine, Mapping, Sequence
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
    get_named_type,
    is_non_null_type,
    located_error,
    print_ast,
    visit,
)
from graphql.execution.collect_fields import FragmentDetails, collect_fields
from graphql.execution.values import VariableValues
from strawberry import Schema

from entitlements.kernel.errors import Forbidden
from graphql_schema.at_once import LISTED, Checks
from graphql_schema.coercion import (
    REQUIRED,
    NotHere,
    NotHot,
    arguments_of,
    reading_of_items,
    variable_of,
)
from graphql_schema.context import Context
from graphql_schema.errors import coded
from graphql_schema.permissions import is_open, keep_refusal, require
from graphql_schema.remembered import Asked, customer, customer_with_counters
from graphql_schema.selection import Selection, Show, definition_of

HOT: Final = frozenset({"Query.access", "Query.accessMany", "Query.customer", "Mutation.consume"})
CONDITIONS_AT_MOST: Final = 4
"""Variables that `@include` and `@skip` ask for: 16 plans of a document at most."""


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
        definitions = operation.variable_definitions or ()
        self._variables = [variable_of(schema, node) for node in definitions]
        self._listed = {
            node.variable.name.value
            for node in definitions
            if node.default_value is None and print_ast(node.type) == LISTED
        }
        self._compiler = _Compiler(schema, document, operation, self._listed)
        self._conditions = _conditions(document)
        self._plans: dict[tuple[Any, ...], _Plan | None] = {}
        self._plan(dict.fromkeys(self._conditions, True))

    async def answer(self, context: Context, given: Mapping[str, Any]) -> dict[str, Any]:
        """`data`, and `errors` where there are any. Raises `NotHere`."""
        variables = self._coerced(given)
        try:
            return await self._plan(variables).answer(Asked(context, variables))
        except (NotHot, GraphQLError):
            raise NotHere from None

    def at_once(self, given: Mapping[str, Any]) -> "AtOnce | None":
        """What answers these variables without waiting, whoever asks, where memory may."""
        try:
            variables = self._coerced(given, self._listed)
            plan = self._plan(variables)
        except (NotHere, NotHot, GraphQLError):
            return None
        return AtOnce(plan, variables) if plan.is_at_once else None

    def _coerced(self, given: Mapping[str, Any], as_it_came: Container[str] = ()) -> dict[str, Any]:
        variables = {}
        for name, coerce, default in self._variables:
            value = given.get(name, Undefined)
            if value is not Undefined:
                variables[name] = value if name in as_it_came else coerce(value)
            elif default is REQUIRED:
                raise NotHere
            elif default is not Undefined:
                variables[name] = default
        return variables

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
    at_once: Checks | None


class _Plan:
    """The root fields in their order; a text among them is a `__typename`."""

    def __init__(self, fields: Sequence[tuple[str, _Root | str]]) -> None:
        self._fields = fields
        self._roots = [field for _, field in fields if isinstance(field, _Root)]
        self._alone = len(self._roots) == 1
        # Of several one would be counted before it shows that another cannot be answered.
        self._at_once = self._roots[0].at_once if self._alone else None

    @property
    def is_at_once(self) -> bool:
        return self._at_once is not None

    def answer_at_once(self, info: Asked) -> dict[str, Any]:
        assert self._at_once is not None
        shown = self._at_once(info)
        return {"data": {key: f if isinstance(f, str) else shown for key, f in self._fields}}

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


class AtOnce(NamedTuple):
    """Some variables of an operation, to be answered from memory."""

    plan: _Plan
    variables: Mapping[str, Any]

    def answer(self, context: Context) -> dict[str, Any]:
        """Raises `NotHere` where anything has to be waited for, or is no plain answer."""
        return self.plan.answer_at_once(Asked(context, self.variables))


class _Compiler:
    """Makes plans of one operation."""

    def __init__(
        self,
        schema: Schema,
        document: DocumentNode,
        operation: OperationDefinitionNode,
        listed: Container[str],
    ) -> None:
        self._strawberry = schema
        self._listed = listed
        self._schema = schema._schema
        self._operation = operation
        self._fragments = {
            d.name.value: FragmentDetails(d)
            for d in document.definitions
            if isinstance(d, FragmentDefinitionNode)
        }
        self._conditions = VariableValues({}, {})

    def plan(self, conditions: Mapping[str, Any]) -> _Plan:
        """Raises `NotHot`, or `GraphQLError` for a condition that is none."""
        self._conditions = VariableValues({}, dict(conditions))
        type_: Any = self._schema.get_root_type(self._operation.operation)
        fields: list[tuple[str, _Root | str]] = []
        collected = collect_fields(
            self._schema, self._fragments, self._conditions, type_, self._operation
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
        selection = self._selection()
        show = selection.show(field.type, details)
        resolve = self._resolver(parent.name, name, field, details, selection)
        nodes = [detail.node for detail in details]
        nullable = not is_non_null_type(field.type)
        at_once = self._checks(name, field, details) if name in ("access", "accessMany") else None
        return _Root((parent.name, name), nodes, resolve, show, nullable, at_once)

    def _checks(self, name: str, field: GraphQLField, details: list[Any]) -> Checks | None:
        """What answers them at once; the checks of `accessMany` have to come in a variable."""
        definition = definition_of(field)
        selection = self._selection()
        show = selection.show(get_named_type(field.type), details)
        is_plain = selection.is_plain
        schema, node = self._strawberry, details[0].node
        if name == "access":
            arguments = arguments_of(schema, definition, field, node)
            return Checks(name, arguments, show, is_plain=is_plain)
        [listed] = [a.value for a in node.arguments if a.name.value == "checks"]
        if not isinstance(listed, VariableNode) or listed.name.value not in self._listed:
            return None
        return Checks(
            name,
            arguments_of(schema, definition, field, node, without="checks"),
            show,
            is_plain=is_plain,
            listed=listed.name.value,
            read=reading_of_items(schema, definition, field, "checks"),
        )

    def _selection(self) -> Selection:
        return Selection(self._strawberry, self._fragments, self._operation, self._conditions)

    def _resolver(
        self,
        parent: str,
        name: str,
        field: GraphQLField,
        details: list[Any],
        selection: Selection,
    ) -> Any:
        definition = definition_of(field)
        arguments = arguments_of(self._strawberry, definition, field, details[0].node)
        handlers: Any = self._strawberry.schema_converter._get_field_exception_handlers(definition)
        assert definition.base_resolver is not None
        resolver: Any = definition.base_resolver.wrapped_func
        if name == "customer":
            resolver = customer_with_counters if selection.counters_asked else customer

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
