"""Previewing, buying, changing, cancelling; and a sandbox's clock."""

from datetime import datetime
from typing import Annotated

import strawberry

from entitlements.catalog.model import ChangeTiming
from entitlements.subscriptions.service import Committed
from graphql_schema.context import Info
from graphql_schema.permissions import Guarded, customer_of
from graphql_schema.types.changes import (
    Change,
    ChangeCommitted,
    ChangeInput,
    CommitChangeResult,
    PaymentActionRequired,
    PreviewChangeResult,
    Quote,
)
from graphql_schema.types.customers import Customer
from graphql_schema.types.scalars import BigInt
from graphql_schema.types.service import SandboxClock

IdempotencyKey = Annotated[
    str,
    strawberry.argument(description="Yours, 1 to 255 characters: repeated, it does nothing twice."),
]


@strawberry.input(description="One click: previewed and committed in one, added to what is held.")
class PurchaseAddOnInput:
    customer_id: strawberry.ID | None = strawberry.field(
        default=None, description="May be left out with a customer token."
    )
    add_on_id: strawberry.ID = strawberry.field(description="What to buy.")
    quantity: int = strawberry.field(default=1, description="How many more of it.")
    max_due_now: BigInt | None = strawberry.field(
        default=None, description="In minor units: if more would be due now, QuoteStale."
    )
    idempotency_key: str = strawberry.field(description="Yours, 1 to 255 characters.")


@strawberry.input(description="Everything of a product ends.")
class CancelSubscriptionInput:
    customer_id: strawberry.ID | None = strawberry.field(
        default=None, description="May be left out with a customer token."
    )
    product_id: strawberry.ID = strawberry.field(description="The product.")
    timing: ChangeTiming | None = strawberry.field(
        default=None, description="By the product's policy where it is left out."
    )
    reason: str | None = strawberry.field(default=None, description="Kept in the ledger.")
    idempotency_key: str = strawberry.field(description="Yours, 1 to 255 characters.")


@strawberry.type
class ChangeMutations:
    @strawberry.mutation(
        extensions=[Guarded()],
        description="What a change would do and cost. Writes nothing.",
    )
    async def preview_change(self, info: Info, input: ChangeInput) -> PreviewChangeResult:
        context = info.context
        customer_id = customer_of(context.principal, input.customer_id)
        quote = await context.services.changes.preview(context.caller, customer_id, input.domain())
        return Quote(quote=quote, catalog=await context.catalog())

    @strawberry.mutation(extensions=[Guarded()], description="Do what a quote says.")
    async def commit_change(
        self,
        info: Info,
        token: Annotated[str, strawberry.argument(description="A quote's.")],
        idempotency_key: IdempotencyKey,
    ) -> CommitChangeResult:
        context = info.context
        committed = await context.services.changes.commit(
            context.caller, token, idempotency_key, bound_to=context.principal.customer_id
        )
        return await _answer(info, committed)

    @strawberry.mutation(extensions=[Guarded()], description="Buy a module with one click.")
    async def purchase_add_on(self, info: Info, input: PurchaseAddOnInput) -> CommitChangeResult:
        context = info.context
        committed = await context.services.changes.purchase_add_on(
            context.caller,
            customer_of(context.principal, input.customer_id),
            input.add_on_id,
            quantity=input.quantity,
            max_due_now_minor=input.max_due_now,
            key=input.idempotency_key,
        )
        return await _answer(info, committed)

    @strawberry.mutation(extensions=[Guarded()], description="Cancel a product.")
    async def cancel_subscription(
        self, info: Info, input: CancelSubscriptionInput
    ) -> CommitChangeResult:
        context = info.context
        committed = await context.services.changes.cancel_subscription(
            context.caller,
            customer_of(context.principal, input.customer_id),
            input.product_id,
            timing=input.timing,
            reason=input.reason,
            key=input.idempotency_key,
        )
        return await _answer(info, committed)

    @strawberry.mutation(
        extensions=[Guarded()],
        description="Abandon a change that waits for payment, or undo a scheduled cancellation.",
    )
    async def cancel_scheduled_change(self, info: Info, id: strawberry.ID) -> CommitChangeResult:
        context = info.context
        committed = await context.services.changes.abandon(
            context.caller, id, bound_to=context.principal.customer_id
        )
        return await _answer(info, committed)

    @strawberry.mutation(
        extensions=[Guarded()],
        description="Sandbox only: move the time forward, and let everything due happen.",
    )
    async def advance_sandbox_clock(
        self,
        info: Info,
        to: Annotated[
            datetime, strawberry.argument(description="Not before now, at most ten years on.")
        ],
    ) -> SandboxClock:
        now = await info.context.services.sandbox_clock.advance(info.context.caller, to)
        info.context.changed()
        return SandboxClock(now=now)


async def _answer(info: Info, committed: Committed) -> ChangeCommitted | PaymentActionRequired:
    info.context.changed()
    row = await info.context.services.customers.change(committed.change_id)
    assert row is not None
    change = Change(row=row)
    if row.status == "awaiting_payment":
        secret = committed.client_secret
        if secret is None and row.invoice_provider_id is not None:
            secret = await info.context.services.payments.client_secret(row.invoice_provider_id)
        assert committed.hosted_url is not None
        assert committed.expires_at is not None
        return PaymentActionRequired(
            change=change,
            client_secret=secret or "",
            hosted_url=committed.hosted_url,
            expires_at=committed.expires_at,
        )
    view = await info.context.customers.load(committed.customer_id)
    assert view is not None
    return ChangeCommitted(
        change=change, customer=Customer(view=view), revision=BigInt(view.row.revision)
    )
