"""Trying, and what comes of it."""

from typing import Annotated

import strawberry

from entitlements.kernel.errors import Conflict as ConflictError
from graphql_schema.context import Info
from graphql_schema.mutations.changes import IdempotencyKey, ReturnUrl, answer
from graphql_schema.permissions import Guarded, customer_of
from graphql_schema.types.changes import (
    Change,
    CheckoutRequired,
    CommitChangeResult,
    once,
)
from graphql_schema.types.customers import Customer, TrialPayload, TrialStarted
from graphql_schema.types.errors import (
    Conflict,
    IdempotencyConflict,
    NotFound,
    PaymentDeclined,
    PaymentProviderUnavailable,
    TrialNotAvailable,
    ValidationFailed,
)
from graphql_schema.types.scalars import BigInt
from graphql_schema.types.trials import StartTrialInput, Trial

StartTrialResult = Annotated[
    TrialStarted
    | CheckoutRequired
    | TrialNotAvailable
    | PaymentDeclined
    | PaymentProviderUnavailable
    | Conflict
    | IdempotencyConflict
    | ValidationFailed
    | NotFound,
    strawberry.union("StartTrialResult", description="The trial, or why there is none."),
]
TrialResult = Annotated[
    TrialPayload
    | TrialNotAvailable
    | PaymentProviderUnavailable
    | Conflict
    | ValidationFailed
    | NotFound,
    strawberry.union("TrialResult", description="The trial, or why nothing was done."),
]
TrialId = Annotated[strawberry.ID, strawberry.argument(description="The trial, `trl_…`.")]


@strawberry.type
class TrialMutations:
    @strawberry.mutation(
        extensions=[Guarded()],
        description="Try something. A plan begins a subscription that is free until the end of its "
        "trial; an add-on or a bundle is granted in this very answer, beside what is held.",
    )
    async def start_trial(
        self,
        info: Info,
        input: Annotated[StartTrialInput, strawberry.argument(description="What, on what terms.")],
    ) -> StartTrialResult:
        context = info.context
        customer_id = customer_of(context.principal, input.customer_id)
        committed = await context.services.trials.start(
            context.caller,
            customer_id,
            input.package_id,
            input.idempotency_key,
            interval=input.interval,
            quantities=once(
                "quantities", [(q.feature_id, q.quantity) for q in input.quantities or ()]
            ),
            success_criteria=input.success_criteria or (),
            again=input.allow_again,
            reason=input.reason,
            return_url=input.return_url,
        )
        context.changed()
        change = await context.services.customers.change(committed.change_id)
        assert change is not None
        if change.status == "awaiting_checkout":
            assert committed.hosted_url is not None
            assert committed.expires_at is not None
            return CheckoutRequired(
                url=committed.hosted_url,
                expires_at=committed.expires_at,
                pending_change=Change(row=change),
            )
        trial_id = await context.services.trials.started_by(committed.change_id)
        if trial_id is None:  # it was given up while it waited for a card
            words = f"what this key asked for is {change.status}: use another"
            raise ConflictError(words, code="SETTLED")
        trial, customer = await _trial(info, customer_id, trial_id)
        revision = BigInt(customer.view.row.revision)
        return TrialStarted(trial=trial, customer=customer, revision=revision)

    @strawberry.mutation(
        extensions=[Guarded()],
        description="Let a trial end later, up to 30 days at a time and 90 in all. A plan's takes "
        "all that is tried in it along.",
    )
    async def extend_trial(
        self,
        info: Info,
        id: TrialId,
        days: Annotated[int, strawberry.argument(description="How much later: 1 to 30.")],
        reason: Annotated[str, strawberry.argument(description="Why: mandatory.")],
    ) -> TrialResult:
        context = info.context
        customer_id = await context.services.trials.extend(context.caller, id, days, reason)
        return await _payload(info, customer_id, id)

    @strawberry.mutation(
        extensions=[Guarded()],
        description="Buy what is tried now, at the terms fixed at the start: invoiced now. A "
        "plan's takes all that joined it along. Where it fails the trial goes on as it was.",
    )
    async def convert_trial(
        self,
        info: Info,
        id: TrialId,
        idempotency_key: IdempotencyKey,
        return_url: ReturnUrl = None,
    ) -> CommitChangeResult:
        context = info.context
        committed = await context.services.trials.convert(
            context.caller,
            id,
            idempotency_key,
            return_url=return_url,
            bound_to=context.principal.customer_id,
        )
        return await answer(info, committed)

    @strawberry.mutation(
        extensions=[Guarded()],
        description="Give a trial up, now. A plan's ends its subscription, without an invoice; "
        "what joined one goes alone.",
    )
    async def cancel_trial(self, info: Info, id: TrialId) -> TrialResult:
        context = info.context
        customer_id = await context.services.trials.cancel(
            context.caller, id, bound_to=context.principal.customer_id
        )
        return await _payload(info, customer_id, id)


async def _payload(info: Info, customer_id: str, trial_id: str) -> TrialPayload:
    info.context.changed()
    trial, customer = await _trial(info, customer_id, trial_id)
    return TrialPayload(trial=trial, customer=customer)


async def _trial(info: Info, customer_id: str, trial_id: str) -> tuple[Trial, Customer]:
    view = await info.context.customers.load(customer_id)
    assert view is not None
    found = next(trial for trial in view.state.trials if trial.id == trial_id)
    catalog = await info.context.catalog()
    return Trial(trial=found, customer_id=customer_id, catalog=catalog), Customer(view=view)
