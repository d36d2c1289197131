"""What is due on what customers hold: written down once, from our own data, by whoever comes first.

What is due is data with an instant, and `queue.in_effect` says what it comes to. Access follows
that at once; here it is made true in the database, in one transaction a customer.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime

import structlog
from sqlalchemy import Select, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from entitlements.audit import ledger
from entitlements.catalog.model import Catalog
from entitlements.kernel.clock import Clock
from entitlements.kernel.money import Money
from entitlements.kernel.tracing import traced
from entitlements.storage.unit_of_work import Database
from entitlements.subscriptions.change import ChangeDirection
from entitlements.subscriptions.lines import held_mrr_minor
from entitlements.subscriptions.queue import Applied, Dropped, roll
from entitlements.subscriptions.records import (
    drop,
    keep_calendar,
    load_state,
    load_states,
    lock_free,
    look_at_policies,
    raise_future,
    record,
    store_items,
    tell_change_applied,
)
from entitlements.subscriptions.state import CustomerState, Subscription, SubscriptionStatus
from entitlements.subscriptions.tables import (
    ChangeRow,
    CustomerRow,
    SubscriptionItemRow,
    SubscriptionRow,
)
from entitlements.subscriptions.tried import settle_trials

log = structlog.get_logger()

CUSTOMERS_AT_A_TIME = 50


class Due:
    def __init__(
        self, database: Database, catalog: Callable[[], Awaitable[Catalog]], clock: Clock
    ) -> None:
        self._database = database
        self._catalog = catalog
        self._clock = clock

    async def customers(self, limit: int = 100) -> Sequence[str]:
        """Those of whom something is due now."""
        query = (
            select(ChangeRow.customer_id)
            .where(ChangeRow.status == "scheduled", ChangeRow.effective_at <= self._clock.now())
            .distinct()
            .limit(limit)
        )
        async with self._database.read() as session:
            return (await session.scalars(query)).all()

    async def next_at(self, until: datetime) -> datetime | None:
        """When something is due next, of what is by an instant."""
        query = select(func.min(ChangeRow.effective_at)).where(
            ChangeRow.status == "scheduled", ChangeRow.effective_at <= until
        )
        async with self._database.read() as session:
            return await session.scalar(query)

    async def work(self) -> int:
        """Do what is due of some customers in one transaction; how many they were.

        Those whom somebody else works on are left out. If it fails each is done by itself, so that
        one of them does not hold up the others.
        """
        customer_ids = await self.customers(CUSTOMERS_AT_A_TIME)
        if not customer_ids:
            return 0
        try:
            return await self._apply_each(customer_ids)
        except SQLAlchemyError as error:
            log.warning("due_not_applied_together", error=type(error).__name__)
        return sum([await self.apply(customer_id) for customer_id in customer_ids])

    @traced("due.apply_each")
    async def _apply_each(self, customer_ids: Sequence[str]) -> int:
        catalog, now = await self._catalog(), self._clock.now()
        async with self._database.write() as session:
            rows = await lock_free(session, customer_ids)
            due: dict[str, list[ChangeRow]] = {row.id: [] for row in rows}
            for change in await session.scalars(_due(list(due), now)):
                due[change.customer_id].append(change)
            subscriptions = select(SubscriptionRow).where(SubscriptionRow.customer_id.in_(due))
            held = (await session.scalars(subscriptions)).all()  # kept, not to be read one by one
            items: dict[str, list[SubscriptionItemRow]] = {each.id: [] for each in held}
            holds = SubscriptionItemRow.subscription_id.in_(items)
            for item in await session.scalars(select(SubscriptionItemRow).where(holds)):
                items[item.subscription_id].append(item)
            states = await load_states(session, rows)
            await ledger.read_heads(session, [ledger.customer_stream(row.id) for row in rows])
            for row in rows:
                if due[row.id]:
                    state = states[row.id]
                    await _apply(session, catalog, row, state, due[row.id], now, now, items)
        return sum(1 for each in due.values() if each)

    @traced("due.apply")
    async def apply(self, customer_id: str) -> bool:
        """Do what is due of a customer; False where nothing is, or another is at it."""
        catalog = await self._catalog()
        async with self._database.write() as session:
            row = await session.scalar(
                select(CustomerRow)
                .where(CustomerRow.id == customer_id)
                .with_for_update(skip_locked=True)
            )
            if row is None:
                return False
            return await apply_due(session, catalog, row, self._clock.now(), self._clock.now())


async def apply_due(
    session: AsyncSession,
    catalog: Catalog,
    row: CustomerRow,
    at: datetime,
    now: datetime,
) -> bool:
    """Do what is due of a customer whose row is locked by an instant `at`, in a transaction at
    `now`: usually the same, but the provider's clock may be ahead of ours."""
    due = (await session.scalars(_due([row.id], at))).all()
    if not due:
        return False
    await _apply(session, catalog, row, await load_state(session, row), due, at, now)
    return True


def _due(customer_ids: Sequence[str], at: datetime) -> Select[ChangeRow]:
    return select(ChangeRow).where(
        ChangeRow.customer_id.in_(customer_ids),
        ChangeRow.status == "scheduled",
        ChangeRow.effective_at <= at,
    )


async def _apply(
    session: AsyncSession,
    catalog: Catalog,
    row: CustomerRow,
    state: CustomerState,
    due: Sequence[ChangeRow],
    at: datetime,
    now: datetime,
    items: Mapping[str, Sequence[SubscriptionItemRow]] | None = None,
) -> None:
    changes = {change.id: change for change in due}
    row.revision += 1
    for subscription_id in sorted({change.subscription_id or "" for change in due}):
        subscription = await session.get_one(SubscriptionRow, subscription_id)
        held = next(s for s in state.subscriptions if s.id == subscription_id)
        if not held.live:
            await end_queue(session, row, held.id, now)
        elif held.cancel_at is not None and held.cancel_at <= at:
            await _end(session, catalog, row, subscription, held, now)
        else:
            stored = items[subscription_id] if items is not None else None
            await _enter(session, catalog, state, row, subscription, held, changes, now, stored)
    if any(trial.active for trial in state.trials):
        await settle_trials(session, catalog, now, row)


async def _end(
    session: AsyncSession,
    catalog: Catalog,
    row: CustomerRow,
    subscription: SubscriptionRow,
    held: Subscription,
    now: datetime,
) -> None:
    """A cancellation takes effect."""
    subscription.status = SubscriptionStatus.CANCELED.value
    subscription.ended_at = held.cancel_at
    subscription.align_due_at = None
    await end_queue(session, row, subscription.id, now)
    await record(
        session,
        now,
        ledger.SYSTEM,
        row,
        "subscription.ended",
        object_type="subscription",
        object_id=held.id,
        before={"status": held.status},
        after={"status": SubscriptionStatus.CANCELED, "ended_at": held.cancel_at},
        mrr_delta=-Money(held_mrr_minor(catalog, held), held.currency),
    )


async def end_queue(
    session: AsyncSession, row: CustomerRow, subscription_id: str, now: datetime
) -> None:
    """A subscription has ended: its cancellation is done, and nothing waits any more.

    The customer's revision has been raised before, for the notices of it.
    """
    for change in await session.scalars(
        select(ChangeRow).where(
            ChangeRow.subscription_id == subscription_id, ChangeRow.status == "scheduled"
        )
    ):
        change.settled_at = now
        change.status = "applied" if change.request.get("cancel") else "canceled"
        if change.status == "applied":
            await tell_change_applied(session, now, row, change.id)
        else:
            change.failure_code = "SUBSCRIPTION_ENDS"
            change.failure_message = "the subscription ended before"


async def taken_back(
    session: AsyncSession,
    row: CustomerRow,
    subscription_id: str,
    now: datetime,
    reason: str = "it was taken back at the payment provider",
) -> None:
    """A cancellation that was scheduled here is not to happen."""
    for change in await session.scalars(
        select(ChangeRow).where(
            ChangeRow.subscription_id == subscription_id,
            ChangeRow.status == "scheduled",
            ChangeRow.direction == ChangeDirection.CANCELLATION.value,
        )
    ):
        gone = Dropped(change.id, change.description, "NO_LONGER_APPLIES", reason)
        await drop(session, now, ledger.SYSTEM, row, [gone])


async def _enter(
    session: AsyncSession,
    catalog: Catalog,
    state: CustomerState,
    row: CustomerRow,
    subscription: SubscriptionRow,
    held: Subscription,
    changes: dict[str, ChangeRow],
    now: datetime,
    items: Sequence[SubscriptionItemRow] | None,
) -> None:
    """A queue takes effect. The period is the provider's to begin."""
    rolled = roll(catalog, state, held, (e for e in held.queue if e.change_id in changes))
    then = rolled.held
    if then.anchor != held.anchor:
        keep_calendar(subscription, then.anchor)
    subscription.interval = then.interval
    subscription.quantities = dict(then.quantities)
    subscription.anchor = then.anchor
    await store_items(session, subscription, then.items, items)
    for applied in rolled.applied:
        change = changes[applied.entry.change_id]
        change.status, change.settled_at = "applied", now
        change.mrr_delta_minor = _mrr_delta(catalog, applied)
        await record(
            session,
            now,
            ledger.SYSTEM,
            row,
            "change.applied",
            object_type="change",
            object_id=change.id,
            after={
                "status": change.status,
                "effective_at": change.effective_at,
                "items": applied.after.items,
                "quantities": applied.after.quantities,
                "interval": applied.after.interval,
            },
            reason=change.reason,
            mrr_delta=Money(change.mrr_delta_minor, change.currency),
        )
    await drop(session, now, ledger.SYSTEM, row, rolled.dropped)
    if any(change.direction == ChangeDirection.CANCELLATION for change in changes.values()):
        await taken_back(session, row, subscription.id, now)
    look_at_policies(subscription)
    if any(change.effective_at >= held.period.end for change in changes.values()):
        raise_future(subscription)  # else the provider had no part in it


def _mrr_delta(catalog: Catalog, applied: Applied) -> int:
    return held_mrr_minor(catalog, applied.after) - held_mrr_minor(catalog, applied.before)
