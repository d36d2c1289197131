"""Counting use."""

from typing import Annotated

import strawberry

from entitlements.access.counting import EVENTS_AT_ONCE
from entitlements.access.counting import Consumed as Counted
from entitlements.access.service import Check
from entitlements.kernel.errors import NotFound
from graphql_schema.context import Info
from graphql_schema.mutations.changes import IdempotencyKey
from graphql_schema.permissions import Guarded, customer_of
from graphql_schema.queries.customers import ONE, CustomerId
from graphql_schema.types.access import AccessDecision
from graphql_schema.types.scalars import BigInt
from graphql_schema.types.usage import (
    Consumed,
    ConsumeResult,
    RecordUsageResult,
    RejectedEvent,
    UsageEventInput,
    UsageRecorded,
)

FeatureId = Annotated[strawberry.ID, strawberry.argument(description="Its key in the catalog.")]


@strawberry.type
class UsageMutations:
    @strawberry.mutation(
        extensions=[Guarded()],
        description="Check and count in one: never above the limit, and once per key. "
        "Keys are kept for 7 days.",
    )
    async def consume(
        self,
        info: Info,
        feature_id: FeatureId,
        idempotency_key: IdempotencyKey,
        customer_id: CustomerId = None,
        quantity: Annotated[BigInt, strawberry.argument(description="How many units.")] = ONE,
    ) -> ConsumeResult:
        try:
            customer = customer_of(info.context.principal, customer_id)
        except NotFound:
            return await _unknown(info, feature_id)
        usage = info.context.services.usage
        counted = await usage.consume(customer, feature_id, quantity, idempotency_key)
        return _consumed(counted, customer, counted.answer.check)

    @strawberry.mutation(
        extensions=[Guarded()],
        description="Say what is in use of a LEVEL feature now, seats say. Above the limit it is "
        "refused and stays as it was; lowering is always fine. Keys are kept for 7 days.",
    )
    async def set_level(
        self,
        info: Info,
        feature_id: FeatureId,
        level: Annotated[BigInt, strawberry.argument(description="All that is in use.")],
        idempotency_key: IdempotencyKey,
        customer_id: CustomerId = None,
    ) -> ConsumeResult:
        try:
            customer = customer_of(info.context.principal, customer_id)
        except NotFound:
            return await _unknown(info, feature_id)
        usage = info.context.services.usage
        counted = await usage.set_level(customer, feature_id, level, idempotency_key)
        more = max(level - (counted.answer.decision.used or 0), 1)
        return _consumed(counted, customer, Check(feature_id, more))

    @strawberry.mutation(
        extensions=[Guarded()],
        description=f"Count what has happened, above the limit too: up to {EVENTS_AT_ONCE} events, "
        "each once by its id.",
    )
    async def record_usage(
        self,
        info: Info,
        events: Annotated[list[UsageEventInput], strawberry.argument(description="In any order.")],
    ) -> RecordUsageResult:
        recorded = await info.context.services.usage.record([e.domain() for e in events])
        return UsageRecorded(
            accepted=recorded.accepted,
            duplicates=recorded.duplicates,
            rejected=[
                RejectedEvent(index=r.index, id=strawberry.ID(r.id), code=r.code, message=r.message)
                for r in recorded.rejected
            ],
        )


def _consumed(counted: Counted, customer_id: str, check: Check) -> Consumed:
    decision = AccessDecision.of(counted.answer, customer_id, check)
    return Consumed(decision=decision, duplicate=counted.duplicate)


async def _unknown(info: Info, feature_id: str) -> Consumed:
    """Another's customer is one that is not there."""
    [answer] = await info.context.services.access.unknown([Check(feature_id)])
    return Consumed(decision=AccessDecision.of(answer), duplicate=False)
