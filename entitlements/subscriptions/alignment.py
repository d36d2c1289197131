"""Alignment: the provider is to do at the end of a period what our queue comes to.

Every transaction that changes what is to happen then raises the subscription's generation
(`records.raise_future`). Until the provider has been told of the newest one the subscription is
unaligned, and whoever comes by (the request itself, the worker) reads what the provider has planned
and makes it so, under a lease. Nothing is told while a change is unsettled: it needs the way free.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta

import structlog
from sqlalchemy import select, update

from entitlements.audit import ledger
from entitlements.catalog.model import Catalog
from entitlements.kernel.clock import Clock, wall_now
from entitlements.kernel.errors import Conflict, ServiceError
from entitlements.kernel.tracing import traced
from entitlements.storage.unit_of_work import Database
from entitlements.subscriptions.due import Due
from entitlements.subscriptions.leases import LEASE, kept_alive
from entitlements.subscriptions.orders import correction_of, future_of
from entitlements.subscriptions.payments import (
    OutcomeKind,
    PaymentProvider,
    ProviderInvoice,
    ProviderSubscription,
)
from entitlements.subscriptions.records import (
    UNSETTLED,
    being_changed,
    load_state,
    locked_customer,
    mirror_invoice,
    mirror_items,
    record,
)
from entitlements.subscriptions.state import billed_outside
from entitlements.subscriptions.tables import ChangeRow, CustomerRow, SubscriptionRow

log = structlog.get_logger()

RETRY_AFTER = timedelta(seconds=2)
WAIT_SECONDS = 10


class Alignment:
    def __init__(
        self,
        database: Database,
        catalog: Callable[[], Awaitable[Catalog]],
        clock: Clock,
        payments: PaymentProvider,
        due: Due,
    ) -> None:
        self._database = database
        self._catalog = catalog
        self._clock = clock
        self._payments = payments
        self._due = due

    async def waiting(self, limit: int = 100) -> Sequence[str]:
        """Subscriptions of which the provider is to be told something now."""
        query = (
            select(SubscriptionRow.id)
            .where(SubscriptionRow.align_due_at <= wall_now(), ~being_changed())
            .order_by(SubscriptionRow.align_due_at)
            .limit(limit)
        )
        async with self._database.read() as session:
            return (await session.scalars(query)).all()

    @traced("provider.align")
    async def align(self, subscription_id: str) -> bool:
        """Tell the provider what is to happen; False where it knows, or somebody is telling it.

        Raises what the provider raises; the worker then tries again.
        """
        async with self._database.read() as session:
            row = await session.get_one(SubscriptionRow, subscription_id)
        if row.align_due_at is None:
            return False
        await self._due.apply(row.customer_id)
        generation = await self._take(subscription_id)
        if generation is None:
            return False
        retry_at = wall_now() + RETRY_AFTER
        try:
            async with kept_alive(lambda: self._renew(subscription_id)):
                provided = await self._make_so(subscription_id, generation)
        except ServiceError as error:
            log.info("not_aligned", subscription=subscription_id, code=error.code)
            async with self._database.write() as session:
                row = await session.get_one(SubscriptionRow, subscription_id, with_for_update=True)
                row.align_due_at = retry_at
            raise
        async with self._database.write() as session:
            row = await session.get_one(SubscriptionRow, subscription_id)
            await locked_customer(session, row.customer_id)
            await session.refresh(row)
            same = row.future_generation == generation
            row.align_due_at = None if same else wall_now()
            if same and provided is not None and row.ended_at is None:
                row.cancel_at = provided.cancel_at
                await mirror_items(session, row, provided)
        return True

    async def _take(self, subscription_id: str) -> int | None:
        """Lease an unaligned subscription; its generation, None where there is nothing to do."""
        async with self._database.write() as session:
            row = await session.get_one(SubscriptionRow, subscription_id)
            await locked_customer(session, row.customer_id)
            await session.refresh(row)
            unsettled = await session.scalar(
                select(ChangeRow.id).where(
                    ChangeRow.customer_id == row.customer_id, ChangeRow.status.in_(UNSETTLED)
                )
            )
            if row.align_due_at is None or row.align_due_at > wall_now() or unsettled is not None:
                return None
            if row.provider_id is None or row.ended_at is not None:
                row.align_due_at = None
                return None
            row.align_due_at = wall_now() + LEASE
            return row.future_generation

    async def _renew(self, subscription_id: str) -> None:
        async with self._database.write() as session:
            await session.execute(
                update(SubscriptionRow)
                .where(SubscriptionRow.id == subscription_id)
                .values(align_due_at=wall_now() + LEASE)
            )

    async def _make_so(self, subscription_id: str, generation: int) -> ProviderSubscription | None:
        async with self._database.read() as session:
            row = await session.get_one(SubscriptionRow, subscription_id)
            customer = await session.get_one(CustomerRow, row.customer_id)
            state = await load_state(session, customer)
        catalog = await self._catalog()
        now = self._clock.now()
        held = next(s for s in state.subscriptions if s.id == subscription_id)
        assert held.provider_id is not None
        await self._payments.advance_clock(now)
        provided = await self._payments.subscription(held.provider_id)
        if provided is None or provided.ended_at is not None:
            if billed_outside(catalog, held):
                await self._leave(subscription_id)
            return None
        if provided.period.end <= now or (held.queue and held.period.end <= now):
            raise Conflict("the period is being renewed", code="RENEWAL_IN_PROGRESS")
        key = f"{subscription_id}:{generation}"
        order = correction_of(catalog, customer, held, provided)
        missed = await self._missed(subscription_id, provided.period.start)
        if order is not None and missed:
            outcome = await self._payments.execute(f"{key}:items", order)
            if outcome.kind is not OutcomeKind.APPLIED:
                raise Conflict("what is held could not be made so", code="NOT_CORRECTED")
            await self._corrected(subscription_id, missed, outcome.invoice)
            if not order.after:
                await self._leave(subscription_id)
                return None
        future = future_of(catalog, state, held)
        return await self._payments.set_future(key, held.provider_id, future)

    async def _missed(self, subscription_id: str, period_start: datetime) -> Sequence[str]:
        """Changes that took effect with the running period, having waited for it.

        Only for them are the provider's items corrected, which costs and credits: what somebody has
        edited there by hand is for a person to look at (`entitlements reconcile`).
        """
        query = select(ChangeRow.id).where(
            ChangeRow.subscription_id == subscription_id,
            ChangeRow.status == "applied",
            ChangeRow.effective_at == period_start,
            ChangeRow.created_at < period_start,
        )
        async with self._database.read() as session:
            return (await session.scalars(query)).all()

    async def _corrected(
        self, subscription_id: str, missed: Sequence[str], invoice: ProviderInvoice | None
    ) -> None:
        """The invoice of a correction is that of the changes which the provider had missed."""
        if invoice is None or invoice.id is None:
            return
        async with self._database.write() as session:
            row = await session.get_one(SubscriptionRow, subscription_id)
            customer = await locked_customer(session, row.customer_id)
            changes = select(ChangeRow).where(
                ChangeRow.id.in_(missed), ChangeRow.invoice_provider_id.is_(None)
            )
            unclaimed = (await session.scalars(changes)).all()
            if not unclaimed:
                return
            for change in unclaimed:
                change.invoice_provider_id = invoice.id
            await mirror_invoice(session, customer.id, subscription_id, invoice)
            await record(
                session,
                self._clock.now(),
                ledger.SYSTEM,
                customer,
                "subscription.corrected",
                object_type="subscription",
                object_id=subscription_id,
                after={
                    "changes": missed,
                    "invoice": invoice.id,
                    "total_minor": invoice.total_minor,
                },
                reason="the provider had renewed without having been told of them",
            )

    async def _leave(self, subscription_id: str) -> None:
        """The provider's subscription has ended with its last charge; what is held lives on."""
        async with self._database.write() as session:
            row = await session.get_one(SubscriptionRow, subscription_id)
            await locked_customer(session, row.customer_id)
            row.provider_id = None

    async def until_free(self, subscription_id: str) -> None:
        """Wait until nobody tells the provider anything of a subscription.

        Nobody begins to while a change of it is unsettled. `Conflict` where it takes too long.
        """
        for _ in range(WAIT_SECONDS * 20):
            async with self._database.read() as session:
                row = await session.get_one(SubscriptionRow, subscription_id)
            if row.align_due_at is None or row.align_due_at <= wall_now():
                return
            await asyncio.sleep(0.05)
        raise Conflict("the provider is being told of another change", code="CHANGE_IN_PROGRESS")
