"""Granting and taking by hand."""

from typing import Annotated

import strawberry

from graphql_schema.context import Info
from graphql_schema.mutations.customers import customer_payload
from graphql_schema.permissions import OVERRIDE_DAYS_AT_MOST, Guarded
from graphql_schema.types.customers import OverridePayload
from graphql_schema.types.errors import NotFound, ValidationFailed
from graphql_schema.types.overrides import Override, SetOverrideInput

OverrideResult = Annotated[
    OverridePayload | ValidationFailed | NotFound,
    strawberry.union("OverrideResult", description="The override, or why nothing was done."),
]


@strawberry.type
class OverrideMutations:
    @strawberry.mutation(
        extensions=[Guarded()],
        description="Grant or take a feature by hand, beside what is held. It is in force in this "
        "very answer. A customer has at most 100 in force (TOO_MANY_OVERRIDES).",
    )
    async def set_override(
        self,
        info: Info,
        input: Annotated[SetOverrideInput, strawberry.argument(description="What, and why.")],
    ) -> OverrideResult:
        context = info.context
        override = await context.services.overrides.set(
            context.caller,
            input.customer_id,
            input.feature_id,
            input.mode,
            input.value.domain(),
            input.reason,
            ends_at=input.ends_at,
            days_at_most=OVERRIDE_DAYS_AT_MOST.get(context.principal.role),
        )
        payload = await customer_payload(info, input.customer_id)
        feature = (await context.catalog()).feature(override.feature_id)
        return OverridePayload(override=Override.of(feature, override), customer=payload.customer)

    @strawberry.mutation(
        extensions=[Guarded()],
        description="End an override now; of one that is over nothing changes. Support ends what "
        "it might have set: NOT_YOURS_TO_END.",
    )
    async def end_override(
        self,
        info: Info,
        id: Annotated[strawberry.ID, strawberry.argument(description="The override's id.")],
        reason: Annotated[str, strawberry.argument(description="Why: mandatory.")],
    ) -> OverrideResult:
        context = info.context
        customer_id, override = await context.services.overrides.end(
            context.caller,
            id,
            reason,
            days_at_most=OVERRIDE_DAYS_AT_MOST.get(context.principal.role),
        )
        payload = await customer_payload(info, customer_id)
        feature = (await context.catalog()).feature(override.feature_id)
        return OverridePayload(override=Override.of(feature, override), customer=payload.customer)
