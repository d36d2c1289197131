"""The schema: what the contract's roots are composed of.

`python -m graphql_schema.schema` prints it; `schema.graphql` is its checked-in form.
"""

from typing import Any

import strawberry
from graphql import GraphQLError, Undefined
from strawberry.schema.config import StrawberryConfig
from strawberry.types.execution import PreExecutionError

from graphql_schema.cost import WORK
from graphql_schema.documents import PreparedDocuments
from graphql_schema.errors import CodedErrors, OneOperation
from graphql_schema.mutations.changes import ChangeMutations
from graphql_schema.mutations.customers import CustomerMutations
from graphql_schema.mutations.grandfathering import GrandfatheringMutations
from graphql_schema.mutations.overrides import OverrideMutations
from graphql_schema.mutations.proposals import ProposalMutations
from graphql_schema.mutations.trials import TrialMutations
from graphql_schema.mutations.usage import UsageMutations
from graphql_schema.mutations.webhooks import WebhookMutations
from graphql_schema.queries.audit import AuditQueries
from graphql_schema.queries.catalog import CatalogQueries
from graphql_schema.queries.customers import CustomerQueries
from graphql_schema.queries.finance import FinanceQueries
from graphql_schema.queries.grandfathering import GrandfatheringQueries
from graphql_schema.queries.proposals import ProposalQueries
from graphql_schema.queries.service import ServiceQueries
from graphql_schema.queries.usage import UsageQueries
from graphql_schema.queries.webhooks import WebhookQueries
from graphql_schema.subscriptions.entitlements import SubscriptionRoot
from graphql_schema.types.catalog import AddOn, Bundle, Plan
from graphql_schema.types.changes import QUOTE_HANDLERS
from graphql_schema.types.errors import HANDLERS
from graphql_schema.types.scalars import SCALARS


@strawberry.type(description="Reading. Nothing here changes anything.")
class Query(
    CatalogQueries,
    CustomerQueries,
    UsageQueries,
    ProposalQueries,
    GrandfatheringQueries,
    AuditQueries,
    FinanceQueries,
    WebhookQueries,
    ServiceQueries,
):
    pass


@strawberry.type(description="Changing. Each answers a union: what was done, or why not.")
class Mutation(
    CustomerMutations,
    ChangeMutations,
    TrialMutations,
    UsageMutations,
    OverrideMutations,
    ProposalMutations,
    GrandfatheringMutations,
    WebhookMutations,
):
    pass


class _Schema(strawberry.Schema):
    def process_errors(self, errors: object, execution_context: object = None) -> None:
        """Nothing is logged here: `CodedErrors` logs what is unexpected, once."""

    async def _prepare_operation_async(self, *args: Any, **kwargs: Any) -> PreExecutionError | None:
        """What an extension refuses while parsing is refused before execution, in a stream too."""
        try:
            return await super()._prepare_operation_async(*args, **kwargs)
        except GraphQLError as error:
            return PreExecutionError(data=None, errors=[error])

    def stream(
        self,
        query: str | None,
        variable_values: dict[str, Any] | None = None,
        context_value: Any | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Each operation has a context of its own: over a WebSocket several share a connection."""
        context = context_value.renewed() if context_value is not None else None
        return super().stream(query, variable_values, context, *args, **kwargs)


schema = _Schema(
    query=Query,
    mutation=Mutation,
    subscription=SubscriptionRoot,
    types=[Plan, AddOn, Bundle],
    extensions=[CodedErrors, PreparedDocuments, OneOperation],
    exception_handlers=[*HANDLERS, *QUOTE_HANDLERS],
    config=StrawberryConfig(scalar_map=SCALARS),
)


def _drop_null_defaults() -> None:
    """Null is no default of the contract's: what is left out is simply left out.

    Strawberry shows the resolvers' own `= None` as one, which would change with their signatures.
    """
    for kind in schema._schema.type_map.values():
        for field in getattr(kind, "fields", {}).values():
            for taken in (field, *getattr(field, "args", {}).values()):
                if getattr(taken, "default_value", Undefined) is None:
                    taken.default_value = Undefined


_drop_null_defaults()


def _tell_work() -> None:
    """What weighs more than what it answers says so itself."""
    for name, objects in WORK.items():
        kind, field = name.split(".")
        found = schema._schema.type_map[kind].fields[field]  # type: ignore[attr-defined]
        found.description += f" Weighs {objects:,} objects."


_tell_work()

if __name__ == "__main__":
    print(schema.as_str())  # noqa: T201
