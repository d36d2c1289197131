"""Saving a payment method, and paying an open invoice by hand."""

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from entitlements.audit import ledger
from entitlements.audit.ledger import AuditFilter
from entitlements.kernel.clock import Clock
from entitlements.kernel.errors import Conflict, NotFound, PaymentDeclined, ValidationFailed
from entitlements.kernel.ids import new_id
from entitlements.kernel.money import Money
from entitlements.storage.unit_of_work import Database
from entitlements.subscriptions.payments import (
    BillingCustomer,
    Checkout,
    Outcome,
    OutcomeKind,
    PaymentProvider,
)
from entitlements.subscriptions.records import locked_customer, mirror_customer, record
from entitlements.subscriptions.return_urls import ReturnUrls
from entitlements.subscriptions.service import Caller
from entitlements.subscriptions.sync import ProviderSync
from entitlements.subscriptions.tables import CustomerRow, InvoiceRow

ASKED, TRIED = "invoice.payment_asked", "invoice.payment_tried"


class Paid(msgspec.Struct, frozen=True):
    """How paying went: `waiting` where the customer has to authenticate it first."""

    invoice_id: str
    customer_id: str
    waiting: Outcome | None


class PayingService:
    def __init__(
        self,
        database: Database,
        clock: Clock,
        payments: PaymentProvider,
        sync: ProviderSync,
        return_urls: ReturnUrls,
    ) -> None:
        self._database = database
        self._clock = clock
        self._payments = payments
        self._sync = sync
        self._return_urls = return_urls

    async def set_up_payment_method(
        self, caller: Caller, customer_id: str, return_url: str | None
    ) -> Checkout:
        """The provider's page where the customer saves the card that is charged from then on."""
        url = self._return_urls.checked(return_url)
        async with self._database.read() as session:
            row = await session.get(CustomerRow, customer_id)
        if row is None:
            raise NotFound("customer", customer_id)
        try:
            provided = await self._payments.ensure_customer(
                BillingCustomer(
                    id=row.id,
                    key=row.sequence,
                    name=row.name,
                    email=row.email,
                    provider_id=row.provider_id,
                )
            )
        except PaymentDeclined as error:  # no card is attached here
            raise ValidationFailed.of("customerId", error.code, error.message) from error
        checkout = await self._payments.start_checkout(
            new_id("set_up"), provided.id, row.currency, url
        )
        async with self._database.write() as session:
            row = await locked_customer(session, customer_id)
            if mirror_customer(row, provided):
                row.revision += 1
            await record(
                session,
                self._clock.now(),
                caller.actor,
                row,
                "customer.payment_method_asked",
                after={"checkout": checkout.id},
            )
        return checkout

    async def pay_invoice(
        self, caller: Caller, invoice_id: str, key: str, *, bound_to: str | None
    ) -> Paid:
        """Pay an open invoice with the saved card. One that is paid already is not paid again.

        Who asked for it is in the ledger before the provider is; what came of it, after it.
        """
        async with self._database.read() as session:
            invoice = await session.get(InvoiceRow, invoice_id)
            if invoice is None or bound_to not in (None, invoice.customer_id):
                raise NotFound("invoice", invoice_id)
            customer = await session.get_one(CustomerRow, invoice.customer_id)
        if not 1 <= len(key) <= 200:
            raise ValidationFailed.of("idempotencyKey", "LENGTH", "a key has 1 to 200 characters")
        if invoice.status == "paid":
            async with self._database.write() as session:
                if await _is_outcome_untold(session, invoice.id):
                    await self._tell(
                        session, caller, invoice, TRIED, {"outcome": OutcomeKind.APPLIED}
                    )
            return Paid(invoice.id, customer.id, None)
        if invoice.status != "open":
            raise Conflict(f"the invoice is {invoice.status}", code="NOT_OPEN")
        async with self._database.write() as session:
            due = {"amount_due": Money(invoice.amount_due_minor, invoice.currency)}
            await self._tell(session, caller, invoice, ASKED, due)
        outcome = await self._payments.pay(invoice.provider_id, f"pay:{customer.sequence}:{key}")
        assert customer.provider_id is not None
        await self._sync.customer(customer.provider_id)
        async with self._database.write() as session:
            told = {"outcome": outcome.kind, "decline_code": outcome.decline_code}
            await self._tell(session, caller, invoice, TRIED, told)
        if outcome.kind is OutcomeKind.DECLINED:
            raise PaymentDeclined(outcome.message, outcome.decline_code)
        if outcome.kind is OutcomeKind.REFUSED:
            raise Conflict(outcome.message, code="NOT_OPEN")
        waiting = outcome if outcome.kind is OutcomeKind.ACTION_REQUIRED else None
        return Paid(invoice.id, customer.id, waiting)

    async def _tell(
        self, session: AsyncSession, caller: Caller, invoice: InvoiceRow, action: str, after: object
    ) -> None:
        await record(
            session,
            self._clock.now(),
            caller.actor,
            await locked_customer(session, invoice.customer_id),
            action,
            object_type="invoice",
            object_id=invoice.id,
            after=after,
        )


async def _is_outcome_untold(session: AsyncSession, invoice_id: str) -> bool:
    """Whether who asked for an invoice to be paid died before it could say what came of it."""
    about = AuditFilter(object_type="invoice", object_id=invoice_id)
    newest = await ledger.entries(session, about, first=1, after=None)
    return [entry.action for entry in newest] == [ASKED]
