"""What the provider tells: renewals, failed payments, ends, cards. Pulled, not read off events."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime

import structlog
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from entitlements.audit import ledger
from entitlements.catalog.model import Catalog
from entitlements.kernel.clock import Clock, wall_now
from entitlements.kernel.errors import Conflict, ServiceError
from entitlements.kernel.money import Money
from entitlements.notices import outbox
from entitlements.notices.events import Event
from entitlements.storage.unit_of_work import Database
from entitlements.subscriptions.due import apply_due, end_queue, taken_back
from entitlements.subscriptions.lines import held_mrr_minor
from entitlements.subscriptions.payments import PaymentProvider
from entitlements.subscriptions.records import (
    begin_period,
    load_state,
    locked_customer,
    look_at_policies,
    mirror_customer,
    mirror_invoice,
    mirror_items,
    mirror_subscription,
    move_queue,
    record,
)
from entitlements.subscriptions.settlement import WAITING, Settlement
from entitlements.subscriptions.state import SubscriptionStatus, billed_outside
from entitlements.subscriptions.tables import ChangeRow, CustomerRow, InvoiceRow, SubscriptionRow
from entitlements.subscriptions.tried import settle_trials

log = structlog.get_logger()

PAYMENT_FAILED = (SubscriptionStatus.PAST_DUE.value, SubscriptionStatus.UNPAID.value)

Differing = dict[str, tuple[object, object]]
"""What the provider changed of a subscription: before and after, by the field's name."""


class ProviderSync:
    def __init__(
        self,
        database: Database,
        catalog: Callable[[], Awaitable[Catalog]],
        clock: Clock,
        payments: PaymentProvider,
        settlement: Settlement,
    ) -> None:
        self._database = database
        self._catalog = catalog
        self._clock = clock
        self._payments = payments
        self._settlement = settlement

    async def customer(self, customer_provider_id: str, *, whole: bool = False) -> bool:
        """Bring a customer in line with the provider's present state; False if it is not ours.

        Any number of times, in any order: what is stored follows what is fetched, never an event.
        `whole` fetches every invoice, and not only those that may have changed.
        Raises `Conflict` where the customer changes meanwhile: what was fetched is old then.
        """
        customer_id = await self._finish_waiting(customer_provider_id)
        if customer_id is None:
            return False
        async with self._database.read() as session:
            revision = (await session.get_one(CustomerRow, customer_id)).revision
            subscriptions = (
                await session.scalars(
                    select(SubscriptionRow).where(
                        SubscriptionRow.customer_id == customer_id,
                        SubscriptionRow.ended_at.is_(None),
                    )
                )
            ).all()
            since = None if whole else await _open_since(session, customer_id)
        catalog = await self._catalog()
        told = {s.id: s.provider_id for s in subscriptions if s.provider_id}
        customer, invoices, there = await asyncio.gather(
            self._payments.customer(customer_provider_id),
            self._payments.invoices(customer_provider_id, since),
            asyncio.gather(*map(self._payments.subscription, told.values())),
        )
        provided = dict(zip(told, there, strict=True))
        async with self._database.write() as session:
            row = await locked_customer(session, customer_id)
            if row.revision != revision:
                raise Conflict("the customer has changed meanwhile", code="CHANGED_MEANWHILE")
            now = self._clock.now()
            renewed_at = [
                found.ended_at or found.period.start for found in provided.values() if found
            ]
            # The provider's clock may be ahead of ours: what is due before its renewal comes first.
            await apply_due(session, catalog, row, max([now, *renewed_at]), now)
            state = await load_state(session, row)
            outside = {s.id for s in state.subscriptions if s.live and billed_outside(catalog, s)}
            changed = bool(customer and mirror_customer(row, customer))
            owners: dict[str, str] = {}
            followed: list[tuple[SubscriptionRow, Differing]] = []
            for subscription in await session.scalars(
                select(SubscriptionRow).where(SubscriptionRow.customer_id == customer_id)
            ):
                owners[subscription.provider_id or ""] = subscription.id
                found = provided.get(subscription.id)
                if found is None or (subscription.ended_at and not found.ended_at):
                    continue  # it has ended by our own data, and will have there
                if found.ended_at and subscription.id in outside:
                    subscription.provider_id = None  # its last charge has gone
                    continue
                differing = mirror_subscription(subscription, found)
                await mirror_items(session, subscription, found)
                if differing:
                    followed.append((subscription, differing))
            row.revision += int(changed or bool(followed))
            for subscription, differing in followed:
                await self._follow(session, row, subscription, differing)
            if followed:
                await settle_trials(session, catalog, now, row)
            for invoice in reversed(invoices):
                owner = owners.get(invoice.subscription_provider_id or "")
                await mirror_invoice(session, row.id, owner, invoice)
        return True

    async def _finish_waiting(self, customer_provider_id: str) -> str | None:
        """Settle what waits for the provider; the customer's own id, None if it is not ours."""
        async with self._database.read() as session:
            row = await session.scalar(
                select(CustomerRow).where(CustomerRow.provider_id == customer_provider_id)
            )
            if row is None:
                return None
            waiting = (
                await session.scalars(
                    select(ChangeRow).where(
                        ChangeRow.customer_id == row.id,
                        ChangeRow.status.in_(("pending", *WAITING)),
                    )
                )
            ).all()
        for change in waiting:
            if change.status == "pending" and change.leased_until > wall_now():
                raise Conflict("a change of this customer is under way", code="CHANGE_IN_PROGRESS")
            try:
                await self._settlement.finish(change.id)
            except ServiceError as error:
                if (await self._settlement.change(change.id)).status in ("pending", *WAITING):
                    raise  # not the change's answer: it is still to be settled
                log.info("change_settled_with_error", change=change.id, code=error.code)
        return row.id

    async def checkout(self, checkout_id: str) -> None:
        """A payment method was saved on the provider's page: it becomes the customer's default."""
        await self._payments.finish_checkout(checkout_id)

    async def _follow(
        self,
        session: AsyncSession,
        row: CustomerRow,
        subscription: SubscriptionRow,
        differing: Differing,
    ) -> None:
        """A renewal, a failed payment, an end: kept in the ledger, with what follows from it."""
        catalog = await self._catalog()
        await move_queue(session, subscription)
        state = await load_state(session, row)
        held = next(s for s in state.subscriptions if s.id == subscription.id)
        if "period_start" in differing:
            await begin_period(session, subscription, held)
        ended = "status" in differing and not held.live
        tried = differing.get("status", ("",))[0] == SubscriptionStatus.TRIALING.value
        mrr = Money(held_mrr_minor(catalog, held), held.currency)
        if ended:
            await end_queue(session, row, subscription.id, self._clock.now())
        elif "cancel_at" in differing and held.cancel_at is None:
            await taken_back(session, row, subscription.id, self._clock.now())
        await record(
            session,
            self._clock.now(),
            ledger.SYSTEM,
            row,
            "subscription.ended" if ended else "subscription.followed",
            object_type="subscription",
            object_id=subscription.id,
            before={name: before for name, (before, _) in differing.items()},
            after={name: after for name, (_, after) in differing.items()},
            mrr_delta=-mrr if ended and not tried else None,
        )
        if "status" in differing:
            look_at_policies(subscription)
            await self._tell(session, row, subscription)

    async def _tell(
        self, session: AsyncSession, row: CustomerRow, subscription: SubscriptionRow
    ) -> None:
        """Notices of a new status: a payment that failed, and what the customer may do by it."""
        now = self._clock.now()
        if subscription.status in PAYMENT_FAILED:
            await outbox.append(
                session,
                Event.PAYMENT_FAILED,
                now,
                row.id,
                row.revision,
                subscriptionId=subscription.id,
            )
        await outbox.append(session, Event.ENTITLEMENTS_CHANGED, now, row.id, row.revision)


async def _open_since(session: AsyncSession, customer_id: str) -> datetime | None:
    """From when on invoices may be new to us: the oldest that is open, else the newest known."""
    of_customer = InvoiceRow.customer_id == customer_id
    oldest_open = await session.scalar(
        select(func.min(InvoiceRow.created_at)).where(
            of_customer, InvoiceRow.status.in_(("draft", "open"))
        )
    )
    if oldest_open is not None:
        return oldest_open
    return await session.scalar(select(func.max(InvoiceRow.created_at)).where(of_customer))
