"""What is used of metered charges, told to the provider before it writes the invoice.

The units that a report lacks (`usage_reports`) are sent as a meter event, under a name that is
stored before it is sent: so they are counted once, whoever dies, and however many work.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Protocol

import stripe
import structlog
from prometheus_client import Counter
from sqlalchemy import ColumnElement, exists, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from entitlements.billing.meters import MeterEvent, Meters, event_name
from entitlements.billing.pace import Pace
from entitlements.billing.sdk import provider_errors, refusals
from entitlements.billing.tables import REPORTED_ONCE, UsageReportRow
from entitlements.billing.usage_reports import (
    REPORT_EVERY,
    SECOND,
    TAIL_EVERY,
    TAKEN_FOR,
    Look,
    Report,
    Status,
    Step,
    Unbilled,
    next_step,
)
from entitlements.catalog.model import Catalog, Charge, Feature
from entitlements.kernel.clock import Clock, monotonic_seconds, wall_now
from entitlements.kernel.errors import PaymentProviderUnavailable
from entitlements.kernel.ids import new_id
from entitlements.kernel.period import Interval, Period, to_second
from entitlements.kernel.tracing import traced
from entitlements.pricing.charges import late_amount_minor
from entitlements.storage.unit_of_work import Database
from entitlements.subscriptions.queue import in_effect
from entitlements.subscriptions.records import load_states
from entitlements.subscriptions.state import CustomerState, Subscription, held_package
from entitlements.subscriptions.tables import (
    ChangeRow,
    CustomerRow,
    SubscriptionItemRow,
    SubscriptionRow,
)

log = structlog.get_logger()

KEY_AGE_LIMIT = timedelta(hours=23)
"""The provider may forget a name after a day: then it is asked what it has counted."""

LEASE = timedelta(minutes=1)
BATCH = 100
PARALLEL = 8
EVENTS_PER_SECOND = 50
SEARCH_SECONDS = 30
"""How often charges are looked for that nobody reports yet."""

NEVER = datetime(1970, 1, 1, tzinfo=UTC)

EVENTS = Counter(
    "entitlements_meter_events_total", "Meter events, by what became of them.", ["outcome"]
)
UNBILLED = Counter(
    "entitlements_usage_unbilled_units_total", "Units to be paid for that came too late."
)


class CountedUse(Protocol):
    """What is needed of the counters."""

    def billed_window(
        self, catalog: Catalog, state: CustomerState, feature: Feature, at: datetime
    ) -> tuple[Period, Sequence[datetime]]:
        """The window that a charge of a feature bills, and the starts of the counters in it."""
        ...

    async def totals(
        self, session: AsyncSession, asked: Sequence[tuple[str, str, Sequence[datetime]]]
    ) -> list[int]:
        """What each customer's counters of a feature say together."""
        ...


class _Sending(NamedTuple):
    row: UsageReportRow
    customer_provider_id: str
    subscription_provider_id: str


class Metering:
    def __init__(
        self,
        database: Database,
        catalog: Callable[[], Awaitable[Catalog]],
        clock: Clock,
        meters: Meters,
        use: CountedUse,
    ) -> None:
        self._database = database
        self._catalog = catalog
        self._clock = clock
        self._meters = meters
        self._use = use
        self._pace = Pace(EVENTS_PER_SECOND)
        self._search_at = 0.0
        self._versions: tuple[Catalog, Sequence[tuple[str, int]]] = (Catalog.EMPTY, ())

    async def work(self) -> int:
        """Report what is due now, a bounded batch of it; how many reports were looked at."""
        catalog = await self._catalog()
        if not self._metered(catalog):
            return 0
        if monotonic_seconds() >= self._search_at:
            self._search_at = monotonic_seconds() + SEARCH_SECONDS
            await self._open_missing(catalog)
        now = self._clock.now()
        due = (UsageReportRow.due_at <= now, UsageReportRow.leased_until <= wall_now())
        async with self._database.read() as session:
            if not await session.scalar(select(exists().where(*due))):
                return 0
        async with self._database.write() as session:
            rows = (
                await session.scalars(
                    select(UsageReportRow)
                    .where(*due)
                    .order_by(UsageReportRow.due_at)
                    .limit(BATCH)
                    .with_for_update(skip_locked=True)
                )
            ).all()
            for row in rows:
                row.leased_until = wall_now() + LEASE
        try:
            await self._report(catalog, [row.id for row in rows])
        except PaymentProviderUnavailable as error:  # it is tried again when the lease is over
            log.info("usage_not_reported", code=error.code)
            return 0
        return len(rows)

    async def report(self, subscription_id: str) -> None:
        """Tell what was used of one subscription until now, before it changes."""
        await self._report_open(
            UsageReportRow.subscription_id == subscription_id, before_change=True
        )

    async def report_all(self) -> None:
        """Tell everything that was used until now: the clock is about to be moved."""
        catalog = await self._catalog()
        if self._metered(catalog):
            await self._open_missing(catalog)
            await self._report_open()

    async def _report_open(self, *which: ColumnElement[bool], before_change: bool = False) -> None:
        catalog = await self._catalog()
        of = (UsageReportRow.status == Status.OPEN.value, *which)
        query = select(UsageReportRow.id).where(*of).order_by(UsageReportRow.id).limit(BATCH)
        after = ""
        while self._metered(catalog):
            async with self._database.read() as session:
                ids = (await session.scalars(query.where(UsageReportRow.id > after))).all()
            if not ids:
                return
            await self._report(catalog, ids, before_change=before_change)
            after = ids[-1]  # what this has begun comes later

    async def customers_renewed(self, until: datetime) -> Sequence[str]:
        """The provider's ids of customers of whom a window has ended by an instant."""
        query = (
            select(CustomerRow.provider_id)
            .join(UsageReportRow, UsageReportRow.customer_id == CustomerRow.id)
            .where(UsageReportRow.status == Status.OPEN.value, UsageReportRow.window_end <= until)
            .distinct()
        )
        async with self._database.read() as session:
            return [id for id in await session.scalars(query) if id is not None]

    def _metered(self, catalog: Catalog) -> Sequence[tuple[str, int]]:
        """The package versions that have a metered charge."""
        if self._versions[0] is not catalog:
            found = [
                (package.id, package.version)
                for package in catalog.versions.values()
                if any(charge.metered for charge in package.charges)
            ]
            self._versions = catalog, found
        return self._versions[1]

    # ── opening ──────────────────────────────────────────────────────────────

    async def _open_missing(self, catalog: Catalog) -> None:
        """Begin a report for each metered charge that is held and has none."""
        is_open = exists().where(
            UsageReportRow.subscription_id == SubscriptionRow.id,
            UsageReportRow.package_id == SubscriptionItemRow.package_id,
            UsageReportRow.version == SubscriptionItemRow.version,
            UsageReportRow.status == Status.OPEN.value,
        )
        query = (
            select(SubscriptionRow.customer_id)
            .join(SubscriptionItemRow, SubscriptionItemRow.subscription_id == SubscriptionRow.id)
            .where(
                tuple_(SubscriptionItemRow.package_id, SubscriptionItemRow.version).in_(
                    self._metered(catalog)
                ),
                SubscriptionRow.ended_at.is_(None),
                SubscriptionRow.provider_id.is_not(None),
                SubscriptionRow.status.not_in(("trialing", "incomplete")),
                ~is_open,
            )
            .distinct()
        )
        async with self._database.read() as session:
            customer_ids = (await session.scalars(query)).all()
        now = self._clock.now()
        for start in range(0, len(customer_ids), BATCH):
            some = customer_ids[start : start + BATCH]
            async with self._database.write() as session:
                customers = await session.scalars(
                    select(CustomerRow).where(CustomerRow.id.in_(some))
                )
                for stored in (await load_states(session, customers)).values():
                    state = in_effect(catalog, stored, now)
                    for held in state.subscriptions:
                        await self._open(session, catalog, state, held, now, new=True)

    async def _open(
        self,
        session: AsyncSession,
        catalog: Catalog,
        state: CustomerState,
        held: Subscription,
        at: datetime,
        *,
        new: bool,
    ) -> None:
        """Begin the reports of a subscription for the windows that an instant falls in.

        `new`: the provider may have begun to count only now, and not with the window.
        """
        if not held.live or held.on_trial or held.provider_id is None:
            return
        for item in held.items:
            for charge in held_package(catalog, item).charges:
                there = item.charges.get(charge.id)
                if not charge.metered or there is None or not there.provider_item_id:
                    continue
                feature = catalog.feature(charge.quantity_feature or "")
                window, starts = self._use.billed_window(catalog, state, feature, at)
                counts_from = min(to_second(at), window.end - SECOND) if new else window.start
                insert = postgresql.insert if self._database.is_postgresql else sqlite.insert
                begun = insert(UsageReportRow).values(
                    id=new_id("use"),
                    customer_id=state.id,
                    subscription_id=held.id,
                    feature_id=feature.id,
                    package_id=item.package_id,
                    version=item.version,
                    charge_id=charge.id,
                    interval=held.interval.value,
                    window_start=window.start,
                    window_end=window.end,
                    counters=[start.isoformat() for start in starts],
                    counts_from=counts_from,
                    packages=item.quantity,
                    price_factor=item.price_factor,
                    status=Status.OPEN.value,
                    due_at=min(at + REPORT_EVERY, window.end),
                    leased_until=NEVER,
                )
                given_up_before = UsageReportRow.status == Status.DONE.value
                await session.execute(
                    begun.on_conflict_do_update(
                        index_elements=REPORTED_ONCE,
                        set_={
                            name: begun.excluded[name]
                            for name in (
                                "status",
                                "counts_from",
                                "packages",
                                "price_factor",
                                "due_at",
                            )
                        },
                        where=given_up_before & (UsageReportRow.window_end > at),
                    )
                )

    # ── reporting ────────────────────────────────────────────────────────────

    @traced("usage.report")
    async def _report(
        self, catalog: Catalog, ids: Sequence[str], *, before_change: bool = False
    ) -> None:
        taken = await self._taken(catalog, ids)
        while ids:
            sendings, again = await self._decide(catalog, ids, taken, before_change=before_change)
            outcomes = await self._send_all(sendings, taken)
            await self._acknowledge(ids, outcomes, before_change=before_change)
            ids = again

    async def _taken(self, catalog: Catalog, ids: Sequence[str]) -> set[str]:
        """Of reports whose window is over, those whose use the provider still takes.

        It is asked only where there is something to tell; nothing can always be told.
        """
        now = self._clock.now()
        query = (
            select(UsageReportRow, SubscriptionRow.provider_id)
            .join(SubscriptionRow, SubscriptionRow.id == UsageReportRow.subscription_id)
            .where(
                UsageReportRow.id.in_(ids),
                UsageReportRow.status == Status.OPEN.value,
                UsageReportRow.window_end <= now,
                UsageReportRow.window_end >= now - TAKEN_FOR,
            )
        )
        async with self._database.read() as session:
            found = [(row, provider_id) for row, provider_id in await session.execute(query)]
            used, elsewhere = await self._read(session, [row for row, _ in found])
        taken, room = set(), asyncio.Semaphore(PARALLEL)

        async def one(row: UsageReportRow, provider_id: str | None) -> None:
            look = Look(at=now, used=used[row.id], elsewhere=elsewhere[row.id], packages=None)
            tells = row.pending or next_step(_charge(catalog, row), _report_of(row), look).units
            async with room:
                if not tells or (provider_id and await self._takes(provider_id, row.window_end)):
                    taken.add(row.id)

        await asyncio.gather(*(one(row, provider_id) for row, provider_id in found))
        return taken

    async def _takes(self, subscription_provider_id: str, window_end: datetime) -> bool:
        """Not where the provider does not know the subscription any more, either."""
        await self._pace.turn()
        try:
            async with provider_errors():
                return await self._meters.takes_usage(subscription_provider_id, window_end)
        except stripe.InvalidRequestError:
            return False

    async def _decide(
        self,
        catalog: Catalog,
        ids: Sequence[str],
        taken: set[str],
        *,
        before_change: bool,
    ) -> tuple[list[_Sending], list[str]]:
        """Store what follows for each report, and what is to be sent before it is.

        Of some, an event is under way already: it is sent again, and then they are looked at again.
        """
        now = self._clock.now()
        sendings: list[_Sending] = []
        again: list[str] = []
        async with self._database.write() as session:
            rows = (
                await session.scalars(
                    select(UsageReportRow)
                    .where(UsageReportRow.id.in_(ids))
                    .order_by(UsageReportRow.id)
                    .with_for_update()
                )
            ).all()
            customers = {
                row.id: row
                for row in await session.scalars(
                    select(CustomerRow).where(CustomerRow.id.in_({r.customer_id for r in rows}))
                )
            }
            states = await load_states(session, customers.values())
            states = {id: in_effect(catalog, state, now) for id, state in states.items()}
            changing = set() if before_change else await _changing(session, customers)
            used, elsewhere = await self._read(session, rows)
            for row in rows:
                state = states[row.customer_id]
                held = next(s for s in state.subscriptions if s.id == row.subscription_id)
                ids_there = customers[row.customer_id].provider_id or "", held.provider_id or ""
                if row.pending:
                    sendings.append(_Sending(row, *ids_there))
                    again.append(row.id)
                    continue
                if row.customer_id in changing:  # what it holds there is about to change
                    row.due_at = now + SECOND
                    continue
                look = Look(
                    at=now,
                    used=used[row.id],
                    elsewhere=elsewhere[row.id],
                    packages=self._packages(catalog, state, held, row, now),
                    taken=row.id in taken,
                    before_change=before_change,
                )
                step = next_step(_charge(catalog, row), _report_of(row), look)
                await self._take_step(session, catalog, state, held, row, step)
                if step.units:
                    sendings.append(_Sending(row, *ids_there))
        return sendings, again

    async def _take_step(
        self,
        session: AsyncSession,
        catalog: Catalog,
        state: CustomerState,
        held: Subscription,
        row: UsageReportRow,
        step: Step,
    ) -> None:
        was_open = row.status == Status.OPEN.value
        row.status, row.packages, row.due_at = step.status.value, step.packages, step.due_at
        row.billable = step.billable
        if step.unbilled > row.unbilled:
            UNBILLED.inc(step.unbilled - row.unbilled)
            log.warning("usage_unbilled", report=row.id, units=step.unbilled)
        row.unbilled = step.unbilled
        if step.units:
            row.sequence += 1
            row.pending, row.pending_at, row.asked_at = step.units, step.told_at, wall_now()
        if was_open and row.window_end <= self._clock.now():
            await self._open(session, catalog, state, held, row.window_end, new=False)
        elif was_open and step.status is Status.DONE:  # another version, or another window
            await self._open(session, catalog, state, held, self._clock.now(), new=True)

    def _packages(
        self,
        catalog: Catalog,
        state: CustomerState,
        held: Subscription,
        row: UsageReportRow,
        at: datetime,
    ) -> int | None:
        """How many packages with the charge are held in the window; None: it is not any more."""
        if not held.live or held.on_trial or held.provider_id is None:
            return None
        item = next((i for i in held.items if i.package_id == row.package_id), None)
        if item is None or item.version != row.version:
            return None
        window, _ = self._use.billed_window(catalog, state, catalog.feature(row.feature_id), at)
        return item.quantity if window.start == row.window_start else None

    async def _read(
        self, session: AsyncSession, rows: Sequence[UsageReportRow]
    ) -> tuple[Mapping[str, int], Mapping[str, int]]:
        """All use in the window of each report, and the units of it that others report."""
        asked = [(row.customer_id, row.feature_id, _starts(row)) for row in rows]
        totals = await self._use.totals(session, asked)
        siblings = (
            await session.scalars(
                select(UsageReportRow).where(
                    UsageReportRow.subscription_id.in_({row.subscription_id for row in rows}),
                    UsageReportRow.window_start.in_({row.window_start for row in rows}),
                )
            )
        ).all()
        elsewhere = {
            row.id: sum(
                other.reported + other.pending + other.late + other.late_pending
                for other in siblings
                if other.id != row.id and _same_use(other, row)
            )
            for row in rows
        }
        return {row.id: total for row, total in zip(rows, totals, strict=True)}, elsewhere

    async def _send_all(
        self, sendings: Iterable[_Sending], taken: set[str]
    ) -> dict[str, tuple[int, bool]]:
        """Send each; by report the event's number and whether it counts. What could not be sent is
        left out: it is sent again."""
        outcomes: dict[str, tuple[int, bool]] = {}
        room = asyncio.Semaphore(PARALLEL)
        unavailable: list[PaymentProviderUnavailable] = []

        async def one(sending: _Sending) -> None:
            async with room:
                if unavailable:
                    return
                try:
                    counts = await self._send(sending, taken)
                except PaymentProviderUnavailable as error:
                    unavailable.append(error)
                    return
                outcomes[sending.row.id] = sending.row.sequence, counts

        await asyncio.gather(*map(one, sendings))
        if unavailable:
            await self._acknowledge(list(outcomes), outcomes, before_change=False)
            raise unavailable[0]
        return outcomes

    async def _send(self, sending: _Sending, taken: set[str]) -> bool:
        """Whether the provider counts an event for the invoice of its window."""
        row = sending.row
        assert row.pending_at is not None
        assert row.asked_at is not None
        event = MeterEvent(
            identifier=f"{row.id}:{row.sequence}",
            name=event_name(row.package_id, row.charge_id),
            customer_provider_id=sending.customer_provider_id,
            units=row.pending,
            at=row.pending_at,
        )
        if wall_now() - row.asked_at > KEY_AGE_LIMIT and await self._arrived(sending):
            return True
        window_end = row.window_end
        if window_end <= self._clock.now() and row.id not in taken:
            return await self._arrived(sending)  # an earlier try may have come in time
        await self._pace.turn()
        try:
            async with provider_errors():
                taken_at = await self._meters.send(event)
        except stripe.InvalidRequestError as error:
            EVENTS.labels("refused").inc()
            log.error("usage_refused", report=row.id, param=error.param, code=error.code)
            return False
        # The provider's clock may be ahead of ours: then the invoice may have been final already.
        counts = taken_at < window_end or await self._takes(
            sending.subscription_provider_id, window_end
        )
        EVENTS.labels("counted" if counts else "too_late").inc()
        return counts

    async def _arrived(self, sending: _Sending) -> bool:
        """Whether the provider has counted an event that was sent so long ago that it may have
        forgotten its name."""
        row = sending.row
        assert row.pending_at is not None
        of_meter = (
            UsageReportRow.customer_id == row.customer_id,
            UsageReportRow.package_id == row.package_id,
            UsageReportRow.charge_id == row.charge_id,
            UsageReportRow.window_start == row.window_start,
        )
        async with self._database.read() as session:
            before = sum(await session.scalars(select(UsageReportRow.reported).where(*of_meter)))
        span = Period(
            row.window_start.replace(second=0, microsecond=0),
            row.pending_at.replace(second=0, microsecond=0) + timedelta(minutes=1),
        )
        await self._pace.turn()
        try:
            async with provider_errors():
                counted = await self._meters.counted(
                    row.package_id, row.charge_id, sending.customer_provider_id, span
                )
        except stripe.InvalidRequestError:  # it does not know the customer any more
            return False
        return counted != before if row.pending < 0 else counted >= before + row.pending

    async def _acknowledge(
        self,
        ids: Sequence[str],
        outcomes: Mapping[str, tuple[int, bool]],
        *,
        before_change: bool,
    ) -> None:
        now = self._clock.now()
        async with self._database.write() as session:
            for row in await session.scalars(
                select(UsageReportRow)
                .where(UsageReportRow.id.in_(ids))
                .order_by(UsageReportRow.id)
                .with_for_update()
            ):
                row.leased_until = NEVER
                sequence, counts = outcomes.get(row.id, (None, False))
                if sequence == row.sequence and row.pending:
                    row.reported += row.pending if counts else 0
                    row.pending, row.pending_at, row.asked_at = 0, None, None
                    if not counts:
                        over = row.window_end <= now
                        row.due_at = now + (TAIL_EVERY if over else REPORT_EVERY)
                if before_change and row.status == Status.OPEN.value:
                    row.due_at = now + SECOND  # what is held then is another thing

    # ── what came too late ───────────────────────────────────────────────────

    async def unbilled(
        self, session: AsyncSession, catalog: Catalog, customer_id: str
    ) -> tuple[Unbilled, ...]:
        """Use of a customer that is on no invoice, as the counters say now."""
        rows = (
            await session.scalars(
                select(UsageReportRow)
                .where(
                    UsageReportRow.customer_id == customer_id,
                    (UsageReportRow.status == Status.CLOSED.value) | (UsageReportRow.unbilled > 0),
                )
                .order_by(UsageReportRow.id)
            )
        ).all()
        if not rows:
            return ()
        used, elsewhere = await self._read(session, rows)
        found = []
        for row in rows:
            look = Look(
                at=row.window_end + TAKEN_FOR + SECOND,
                used=used[row.id],
                elsewhere=elsewhere[row.id],
                packages=None,
            )
            step = next_step(_charge(catalog, row), _report_of(row), look)
            if step.unbilled:
                found.append(
                    Unbilled(
                        report_id=row.id,
                        subscription_id=row.subscription_id,
                        slot=f"{row.package_id}/{row.charge_id}",
                        window=Period(row.window_start, row.window_end),
                        billable=step.billable,
                        billed=row.reported + row.late,
                    )
                )
        return tuple(found)

    async def invoice_late(self, use: Unbilled) -> int:
        """Put late use on the customer's next invoice, once; the amount in minor units.

        It is what all units cost less what those that were billed do, at the price that was held.
        `Conflict` `PROVIDER_REFUSED` where the provider will not have it.
        """
        catalog = await self._catalog()
        async with self._database.write() as session:
            row = await session.get_one(UsageReportRow, use.report_id, with_for_update=True)
            if not row.late_pending:
                row.late_pending = use.billable - row.reported - row.late
                row.late_sequence += 1
            customer = await session.get_one(CustomerRow, row.customer_id)
            subscription = await session.get_one(SubscriptionRow, row.subscription_id)
        charge, billed = _charge(catalog, row), row.reported + row.late
        price = charge.price(subscription.currency, Interval(row.interval))
        assert price is not None
        amount_minor = late_amount_minor(
            charge, price, billed, billed + row.late_pending, row.price_factor
        )
        if amount_minor:
            feature = catalog.feature(row.feature_id)
            async with provider_errors(), refusals():
                await self._meters.invoice_late(
                    f"{row.id}:late:{row.late_sequence}",
                    customer_provider_id=customer.provider_id or "",
                    subscription_provider_id=subscription.provider_id or "",
                    currency=subscription.currency,
                    amount_minor=amount_minor,
                    description=f"{row.late_pending:,} × {feature.name}, used before",
                    span=Period(row.window_start, row.window_end),
                    version_id=f"{row.package_id}@{row.version}",
                    charge_id=row.charge_id,
                )
        async with self._database.write() as session:
            again = await session.get_one(UsageReportRow, row.id, with_for_update=True)
            if again.late_sequence == row.late_sequence and again.late_pending:
                again.late += again.late_pending
                again.late_pending = 0
                again.unbilled = max(again.billable - again.reported - again.late, 0)
        return amount_minor


async def _changing(session: AsyncSession, customer_ids: Iterable[str]) -> set[str]:
    """Customers of whom a change is being carried out."""
    query = select(ChangeRow.customer_id).where(
        ChangeRow.customer_id.in_(list(customer_ids)), ChangeRow.status == "pending"
    )
    return set(await session.scalars(query))


def _charge(catalog: Catalog, row: UsageReportRow) -> Charge:
    return catalog.version(row.package_id, row.version).charge(row.charge_id)


def _report_of(row: UsageReportRow) -> Report:
    return Report(
        status=Status(row.status),
        window=Period(row.window_start, row.window_end),
        counts_from=row.counts_from,
        packages=row.packages,
        reported=row.reported,
        late=row.late,
    )


def _starts(row: UsageReportRow) -> list[datetime]:
    return [datetime.fromisoformat(text) for text in row.counters]


def _same_use(one: UsageReportRow, other: UsageReportRow) -> bool:
    """Whether two charges of a subscription bill the same use."""
    return (one.subscription_id, one.feature_id, one.window_start) == (
        other.subscription_id,
        other.feature_id,
        other.window_start,
    )
