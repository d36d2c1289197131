"""Previewing, buying, changing, cancelling; and a sandbox's clock."""

from datetime import datetime
from typing import Annotated

import strawberry

from entitlements.catalog.model import ChangeTiming
from entitlements.subscriptions.settlement import Committed
from graphql_schema.context import Info
from graphql_schema.permissions import Guarded, customer_of
from graphql_schema.queries.customers import CustomerId
from graphql_schema.types.changes import (
    ApprovalRequired,
    Change,
    ChangeCommitted,
    ChangeInput,
    CheckoutRequired,
    CommitChangeResult,
    InvoicePaid,
    InvoicePaymentRequired,
    PayInvoiceResult,
    PaymentAction,
    PaymentActionRequired,
    PreviewChangeResult,
    Quote,
    SetUpPaymentMethodResult,
)
from graphql_schema.types.customers import Customer, invoice_type
from graphql_schema.types.scalars import BigInt
from graphql_schema.types.service import SandboxClock

IdempotencyKey = Annotated[
    str,
    strawberry.argument(description="Yours, 1 to 255 characters: repeated, it does nothing twice."),
]


ReturnUrl = Annotated[
    str | None, strawberry.argument(description="Where the provider's pages lead back to.")
]
ChangeId = Annotated[
    strawberry.ID, strawberry.argument(description="The change that waits, `chg_…`.")
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
    return_url: str | None = strawberry.field(
        default=None, description="Where the provider's pages lead back to."
    )


@strawberry.input(description="Everything of a product ends.")
class CancelSubscriptionInput:
    customer_id: strawberry.ID | None = strawberry.field(
        default=None, description="May be left out with a customer token."
    )
    product_id: strawberry.ID = strawberry.field(description="The product.")
    timing: ChangeTiming | None = strawberry.field(
        default=None, description="By the product's policy where it is left out."
    )
    reason: str | None = strawberry.field(
        default=None, description="Kept in the ledger; up to 2000 characters."
    )
    idempotency_key: str = strawberry.field(description="Yours, 1 to 255 characters.")


@strawberry.type
class ChangeMutations:
    @strawberry.mutation(
        extensions=[Guarded()],
        description="What a change would do and cost. Writes nothing.",
    )
    async def preview_change(
        self,
        info: Info,
        input: Annotated[
            ChangeInput, strawberry.argument(description="What is wanted, not what is to be added.")
        ],
    ) -> PreviewChangeResult:
        context = info.context
        customer_id = customer_of(context.principal, input.customer_id)
        quote = await context.services.changes.preview(context.caller, customer_id, input.domain())
        return Quote(quote=quote, catalog=await context.catalog())

    @strawberry.mutation(extensions=[Guarded()], description="Do what a quote or an offer says.")
    async def commit_change(
        self,
        info: Info,
        token: Annotated[str, strawberry.argument(description="A quote's, or an offer's.")],
        idempotency_key: IdempotencyKey,
        return_url: ReturnUrl = None,
    ) -> CommitChangeResult:
        context = info.context
        committed = await context.services.changes.commit(
            context.caller,
            token,
            idempotency_key,
            return_url=return_url,
            bound_to=context.principal.customer_id,
        )
        return await answer(info, committed)

    @strawberry.mutation(extensions=[Guarded()], description="Buy a module with one click.")
    async def purchase_add_on(
        self,
        info: Info,
        input: Annotated[
            PurchaseAddOnInput, strawberry.argument(description="Which add-on, for whom.")
        ],
    ) -> CommitChangeResult:
        context = info.context
        committed = await context.services.changes.purchase_add_on(
            context.caller,
            customer_of(context.principal, input.customer_id),
            input.add_on_id,
            quantity=input.quantity,
            max_due_now_minor=input.max_due_now,
            key=input.idempotency_key,
            return_url=input.return_url,
        )
        return await answer(info, committed)

    @strawberry.mutation(extensions=[Guarded()], description="Cancel a product.")
    async def cancel_subscription(
        self,
        info: Info,
        input: Annotated[
            CancelSubscriptionInput, strawberry.argument(description="What ends, and when.")
        ],
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
        return await answer(info, committed)

    @strawberry.mutation(
        extensions=[Guarded()],
        description="Take a scheduled change or cancellation back, or abandon one that waits for "
        "payment.",
    )
    async def cancel_scheduled_change(self, info: Info, id: ChangeId) -> CommitChangeResult:
        context = info.context
        committed = await context.services.changes.abandon(
            context.caller, id, bound_to=context.principal.customer_id
        )
        return await answer(info, committed)

    @strawberry.mutation(
        extensions=[Guarded()],
        description="Approve a change that waits for it: it is quoted anew and goes on. Above what "
        "the customer agreed to it ends, QuoteStale, with the quote to show them next.",
    )
    async def approve_change(
        self,
        info: Info,
        id: ChangeId,
        note: Annotated[
            str | None, strawberry.argument(description="Kept with the change and in the ledger.")
        ] = None,
    ) -> CommitChangeResult:
        context = info.context
        committed = await context.services.changes.approve(context.caller, id, note)
        return await answer(info, committed)

    @strawberry.mutation(
        extensions=[Guarded()],
        description="Decline a change that waits for approval: it ends FAILED, APPROVAL_DECLINED.",
    )
    async def decline_change(
        self,
        info: Info,
        id: ChangeId,
        note: Annotated[
            str, strawberry.argument(description="Why; the customer reads it in `failure`.")
        ],
    ) -> CommitChangeResult:
        context = info.context
        committed = await context.services.approvals.decline(context.caller.actor, id, note)
        return await answer(info, committed)

    @strawberry.mutation(
        extensions=[Guarded()],
        description="The provider's page where the customer saves what is charged from then on.",
    )
    async def set_up_payment_method(
        self, info: Info, customer_id: CustomerId = None, return_url: ReturnUrl = None
    ) -> SetUpPaymentMethodResult:
        context = info.context
        checkout = await context.services.paying.set_up_payment_method(
            context.caller, customer_of(context.principal, customer_id), return_url
        )
        return CheckoutRequired(
            url=checkout.url or "", expires_at=checkout.expires_at, pending_change=None
        )

    @strawberry.mutation(extensions=[Guarded()], description="Pay an open invoice.")
    async def pay_invoice(
        self,
        info: Info,
        id: Annotated[strawberry.ID, strawberry.argument(description="The invoice, `inv_…`.")],
        idempotency_key: IdempotencyKey,
        return_url: ReturnUrl = None,
    ) -> PayInvoiceResult:
        context = info.context
        paid = await context.services.paying.pay_invoice(
            context.caller, id, idempotency_key, bound_to=context.principal.customer_id
        )
        context.changed()
        view = await context.customers.load(paid.customer_id)
        row = await context.services.customers.invoice(paid.invoice_id)
        assert view is not None
        assert row is not None
        invoice = invoice_type(await context.catalog(), view, row)
        if paid.waiting is None:
            return InvoicePaid(invoice=invoice, customer=Customer(view=view))
        assert paid.waiting.hosted_url is not None
        assert paid.waiting.expires_at is not None
        payment = PaymentAction(
            client_secret=paid.waiting.client_secret,
            hosted_url=paid.waiting.hosted_url,
            expires_at=paid.waiting.expires_at,
        )
        return InvoicePaymentRequired(invoice=invoice, payment=payment)

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


async def answer(
    info: Info, committed: Committed
) -> ChangeCommitted | PaymentActionRequired | CheckoutRequired | ApprovalRequired:
    """How a change stands, as the contract tells it."""
    info.context.changed()
    row = await info.context.services.customers.change(committed.change_id)
    assert row is not None
    change = Change(row=row)
    if row.status == "awaiting_approval":
        return ApprovalRequired(
            code="APPROVAL_REQUIRED",
            message="this is sold by our sales team: they have been asked to approve it",
            pending_change=change,
        )
    if row.status == "awaiting_checkout":
        assert committed.hosted_url is not None
        assert committed.expires_at is not None
        return CheckoutRequired(
            url=committed.hosted_url, expires_at=committed.expires_at, pending_change=change
        )
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
