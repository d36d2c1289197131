"""Hearing of it when what a customer may do changes."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

import strawberry

from graphql_schema.context import Context, Info
from graphql_schema.permissions import Guarded, customer_of
from graphql_schema.types.access import Entitlement, entitlement_types
from graphql_schema.types.scalars import BigInt


@strawberry.type(description="What a customer may do from now on.")
class EntitlementsChanged:
    revision: BigInt = strawberry.field(description="The customer's revision.")
    entitlements: list[Entitlement] = strawberry.field(
        description="Everything that the customer may do, with where it comes from."
    )


@strawberry.type(name="SubscriptionRoot", description="Listening, over WebSocket or SSE.")
class SubscriptionRoot:
    @strawberry.subscription(
        extensions=[Guarded()],
        description="What a customer may do: now, and again whenever that changes, also by time "
        "alone (a trial or an override ends). Several changes at once are one event. Who comes "
        "back with `afterRevision` hears of nothing they know. Ends when the bearer expires or is "
        "revoked (UNAUTHENTICATED). At most 1000 of one principal in a process, unless its "
        "operator sets another number (TOO_MANY_SUBSCRIPTIONS). It costs nothing while nothing "
        "happens.",
    )
    async def entitlements_changed(
        self,
        info: Info,
        customer_id: Annotated[
            strawberry.ID | None,
            strawberry.argument(description="May be left out with a customer token."),
        ] = None,
        after_revision: Annotated[
            BigInt | None,
            strawberry.argument(description="Send nothing until there is a later revision."),
        ] = None,
    ) -> AsyncGenerator[EntitlementsChanged, None]:
        found = customer_of(info.context.principal, customer_id)
        return _events(info.context, found, after_revision)


async def _events(
    context: Context, customer_id: str, after_revision: int | None
) -> AsyncGenerator[EntitlementsChanged, None]:
    stream = context.services.streams.follow(
        customer_id,
        after_revision=after_revision,
        principal=context.principal.name,
        still_good=context.still_good,
    )
    async with aclosing(stream):
        async for known in stream:
            assert known.snapshot.grants is not None
            context.changed()
            yield EntitlementsChanged(
                revision=BigInt(known.snapshot.revision),
                entitlements=entitlement_types(customer_id, known.catalog, known.snapshot.grants),
            )
