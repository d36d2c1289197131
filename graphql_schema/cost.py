"""How much a document may have us answer: objects, counted before anything runs.

An object weighs one, and what is in a list as often as the list may be long: a page's `first` (a
variable counts as the most that is allowed), 4 for another list. A list that leads back to a
type which it is already inside weighs 25: going in circles is how small documents become large.
What takes far more work than the objects that it answers weighs so many more (`WORK`).
"""

from collections.abc import Mapping
from typing import Any, Final

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLField,
    GraphQLNamedType,
    GraphQLSchema,
    InlineFragmentNode,
    IntValueNode,
    OperationDefinitionNode,
    SelectionSetNode,
    get_named_type,
    get_nullable_type,
    is_composite_type,
    is_list_type,
)

FIRST_AT_MOST: Final = 200
LIST: Final = 4
CIRCLE: Final = 25

WORK: Final[Mapping[str, int]] = {
    # calls to the payment provider
    "Mutation.previewChange": 2_000,
    "Mutation.commitChange": 2_000,
    "Mutation.purchaseAddOn": 2_000,
    "Mutation.cancelSubscription": 2_000,
    "Mutation.cancelScheduledChange": 2_000,
    "Mutation.approveChange": 2_000,
    "Mutation.startTrial": 2_000,
    "Mutation.convertTrial": 2_000,
    "Mutation.payInvoice": 2_000,
    "Mutation.setUpPaymentMethod": 2_000,
    "Trial.conversion": 2_000,
    # figures over everybody, or over all that ever was
    "Query.verifyAudit": 100_000,
    "Query.legacyVersions": 20_000,
    "Query.mrrMovements": 20_000,
    "Query.mrrMovementsBy": 20_000,
    "Query.priceHistory": 20_000,
    "CatalogProposal.impact": 20_000,
    "Mutation.approveProposal": 20_000,
    "Mutation.rejectProposal": 20_000,
    # what is planned, searched or read back
    "AccessDecision.unlocks": 2_000,
    "Query.estimate": 5_000,
    "Query.comparePlans": 5_000,
    "Query.explainCharge": 1_000,
    "CatalogProposal.diff": 1_000,
    "CatalogProposal.notes": 1_000,
    "Customer.asOf": 100,
}
"""Fields and what each weighs beside what it answers, where an object is some 50 µs of work. Their
descriptions in the schema say so (`schema.py`)."""


def objects(schema: GraphQLSchema, ast: DocumentNode) -> int:
    """How many objects the dearest operation of a valid document may have us answer, with `WORK`.

    Where types or fragments allow several things, the sum of them: never too few.
    """
    fragments = {d.name.value: d for d in ast.definitions if isinstance(d, FragmentDefinitionNode)}
    count = _Count(schema, fragments)
    most = 0
    for definition in ast.definitions:
        if isinstance(definition, OperationDefinitionNode):
            root = schema.get_root_type(definition.operation)
            assert root is not None
            most = max(most, count.within(definition.selection_set, root, frozenset()))
    return most


class _Count:
    def __init__(
        self, schema: GraphQLSchema, fragments: Mapping[str, FragmentDefinitionNode]
    ) -> None:
        self._schema = schema
        self._fragments = fragments
        self._known: dict[tuple[str, frozenset[str]], int] = {}

    def within(
        self, selected: SelectionSetNode, kind: GraphQLNamedType, inside: frozenset[str]
    ) -> int:
        """The objects below one of `kind`, itself left out; `inside` are the types around it."""
        total = 0
        for node in selected.selections:
            if isinstance(node, FieldNode):
                total += self._field(node, kind, inside)
            elif isinstance(node, FragmentSpreadNode):
                total += self._fragment(node.name.value, inside)
            else:
                assert isinstance(node, InlineFragmentNode)
                on = node.type_condition
                below = self._schema.get_type(on.name.value) if on else kind
                assert below is not None
                total += self.within(node.selection_set, below, inside)
        return total

    def _fragment(self, name: str, inside: frozenset[str]) -> int:
        if (name, inside) not in self._known:
            fragment = self._fragments[name]
            kind = self._schema.get_type(fragment.type_condition.name.value)
            assert kind is not None
            self._known[name, inside] = self.within(fragment.selection_set, kind, inside)
        return self._known[name, inside]

    def _field(self, node: FieldNode, kind: GraphQLNamedType, inside: frozenset[str]) -> int:
        field = getattr(kind, "fields", {}).get(node.name.value)
        if field is None or node.selection_set is None:
            return 0  # a leaf, or `__typename` and its like
        below = get_named_type(field.type)
        if not is_composite_type(below):
            return 0
        times = _first(node, field)
        if times is None:
            times = 1
            paged = kind.name.endswith("Connection")  # it was counted by its `first`
            if is_list_type(get_nullable_type(field.type)) and not paged:
                times = CIRCLE if below.name in inside else LIST
        work = WORK.get(f"{kind.name}.{node.name.value}", 0)
        return work + times * (1 + self.within(node.selection_set, below, inside | {below.name}))


def _first(node: FieldNode, field: GraphQLField) -> int | None:
    """How long a page of a connection may be; None for any other field."""
    if "first" not in field.args:
        return None
    for argument in node.arguments or ():
        if argument.name.value == "first":
            given = argument.value
            if isinstance(given, IntValueNode) and len(given.value) <= 3:
                return max(1, int(given.value))
            return FIRST_AT_MOST
    default: Any = field.args["first"].default_value
    return default if isinstance(default, int) else FIRST_AT_MOST
