"""Reading what was used."""

from datetime import UTC, datetime, time
from typing import Annotated

import strawberry

from entitlements.access.counting import HISTORY_DAYS_AT_MOST
from graphql_schema.context import Info
from graphql_schema.permissions import Guarded, customer_of
from graphql_schema.queries.customers import CustomerId
from graphql_schema.types.scalars import BigInt
from graphql_schema.types.usage import UsageDay


@strawberry.type
class UsageQueries:
    @strawberry.field(
        extensions=[Guarded()],
        description=f"Use by UTC day, the oldest first: up to {HISTORY_DAYS_AT_MOST} days.",
    )
    async def usage_history(
        self,
        info: Info,
        feature_id: Annotated[strawberry.ID, strawberry.argument(description="A METERED one.")],
        from_: Annotated[
            datetime,
            strawberry.argument(name="from", description="The first day is the one it is on."),
        ],
        to: Annotated[datetime, strawberry.argument(description="Exclusive.")],
        customer_id: CustomerId = None,
    ) -> list[UsageDay]:
        customer = customer_of(info.context.principal, customer_id)
        days = await info.context.services.usage.history(customer, feature_id, from_, to)
        return [
            UsageDay(date=datetime.combine(day.day, time(), UTC), quantity=BigInt(day.quantity))
            for day in days
        ]
