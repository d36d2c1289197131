"""The statements that count. Each moves a counter under its condition at once: nobody who counts
at the same time can come between the look and the step.

Whoever writes several rows takes them in one order, so that no two wait for each other: events,
counters by their key, days by theirs, counters that only bill by theirs, the idempotency key last.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Table,
    bindparam,
    delete,
    exists,
    or_,
    select,
    tuple_,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from entitlements.access.tables import (
    DenialRow,
    UsageCounterRow,
    UsageDayRow,
    UsageEventRow,
    UsageKeyRow,
)
from entitlements.access.usage import Window
from entitlements.kernel.period import Period

KEYS_KEPT = timedelta(days=7)
EVENTS_LATE_AT_MOST = timedelta(days=35)
EVENTS_KEPT = EVENTS_LATE_AT_MOST + timedelta(days=1)
"""Longer than an event is taken: one that was forgotten is too old to be taken again."""

COUNTERS_KEPT = timedelta(days=400)
"""After the end of their window; a year of billing reads those of its months."""

CALENDAR_COUNTERS_KEPT = EVENTS_KEPT
"""Late events still find them."""

BILLED_APART = timedelta(microseconds=1)
"""What is billed by another window than it resets by has a counter of that, too: it begins so much
after its window, and is no other's whose window begins with it."""

DAYS_KEPT = timedelta(days=800)
PURGED_AT_ONCE = 1000

_ASKED_AT_ONCE = 500
_COUNTER: Any = UsageCounterRow.__table__
_DAY: Any = UsageDayRow.__table__
_KEY: Any = UsageKeyRow.__table__
_EVENT: Any = UsageEventRow.__table__
_DENIAL: Any = DenialRow.__table__
_COUNTER_KEY = ("customer_id", "window_start", "feature_id")
_DAY_KEY = ("customer_id", "feature_id", "day")


class Count(msgspec.Struct, frozen=True, kw_only=True):
    """One step of one counter. `quantity` is added; of a LEVEL it takes the place.

    `billed` is the span that a metered charge bills it by, where the window does not tell it.
    """

    customer_id: str
    feature_id: str
    window: Window
    kept: timedelta
    at: datetime
    quantity: int
    billed: Period | None = None

    def is_of(self, at: datetime) -> bool:
        """Whether what happens at an instant is counted by the same counters."""
        window, end = self.window, self.window.bucket_end
        within = window.bucket_start <= at and (end is None or at < end)
        return within and (self.billed is None or at in self.billed)

    @property
    def billed_row(self) -> dict[str, Any]:
        assert self.billed is not None
        return self._row | {
            "window_start": self.billed.start + BILLED_APART,
            "expires_at": self.billed.end + COUNTERS_KEPT,
        }

    @property
    def _row(self) -> dict[str, object]:
        end = self.window.bucket_end
        return {
            "customer_id": self.customer_id,
            "window_start": self.window.bucket_start,
            "feature_id": self.feature_id,
            "used": self.quantity,
            "expires_at": end and end + self.kept,
        }

    @property
    def _day(self) -> dict[str, object]:
        return {
            "customer_id": self.customer_id,
            "feature_id": self.feature_id,
            "day": self.at.date(),
            "quantity": self.quantity,
        }


class _Statements:
    """All of it in one dialect, built once."""

    def __init__(self, insert: Any) -> None:
        wanted, bound = _row_of(_COUNTER), bindparam("bound", type_=BigInteger)
        used = wanted[3]
        counting = insert(_COUNTER).from_select(
            [column.name for column in _COUNTER.columns], select(*wanted).where(used <= bound)
        )
        step = _COUNTER.c.used + counting.excluded.used
        self.count = counting.on_conflict_do_update(
            index_elements=_COUNTER_KEY, set_={"used": step}, where=step <= bound
        ).returning(_COUNTER.c.used)

        same = [_COUNTER.c[name] == bindparam(name) for name in _COUNTER_KEY]
        setting = insert(_COUNTER).from_select(
            [column.name for column in _COUNTER.columns],
            select(*wanted).where(or_(used <= bound, used == 0, exists().where(*same))),
        )
        self.set_level = setting.on_conflict_do_update(
            index_elements=_COUNTER_KEY,
            set_={"used": setting.excluded.used},
            where=or_(setting.excluded.used <= bound, setting.excluded.used <= _COUNTER.c.used),
        ).returning(_COUNTER.c.used)

        adding = insert(_COUNTER)
        self.add = adding.on_conflict_do_update(
            index_elements=_COUNTER_KEY,
            set_={"used": _COUNTER.c.used + adding.excluded.used},
        )
        on_day = insert(_DAY)
        self.add_day = on_day.on_conflict_do_update(
            index_elements=_DAY_KEY,
            set_={"quantity": _DAY.c.quantity + on_day.excluded.quantity},
        )
        self.set_day = on_day.on_conflict_do_update(
            index_elements=_DAY_KEY, set_={"quantity": on_day.excluded.quantity}
        )
        self.remember = insert(_KEY).on_conflict_do_nothing().returning(_KEY.c.key)
        self.take = (
            insert(_EVENT).on_conflict_do_nothing().returning(_EVENT.c.customer_id, _EVENT.c.id)
        )


def _row_of(table: Table) -> list[ColumnElement[Any]]:
    return [bindparam(column.name, type_=column.type) for column in table.columns]


_DIALECTS = {
    "postgresql": _Statements(postgresql.insert),
    "sqlite": _Statements(sqlite.insert),
}


def _statements(session: AsyncSession) -> _Statements:
    return _DIALECTS[session.get_bind().dialect.name]


# ── one at a time ────────────────────────────────────────────────────────────


async def count(session: AsyncSession, step: Count, bound: int) -> int | None:
    """Add to a counter unless it would pass `bound`; what it says then, None if it was left."""
    statements = _statements(session)
    used: int | None = await session.scalar(statements.count, {**step._row, "bound": bound})
    if used is not None:
        await session.execute(statements.add_day, step._day)
        await bill(session, [step])
    return used


async def set_level(session: AsyncSession, step: Count, bound: int) -> int | None:
    """Set a level unless it would rise above `bound`; the level then, None if it was left."""
    statements = _statements(session)
    level: int | None = await session.scalar(statements.set_level, {**step._row, "bound": bound})
    if level is not None:
        await session.execute(statements.set_day, step._day)
    return level


async def remember(session: AsyncSession, row: Mapping[str, object]) -> bool:
    """Store an idempotency key with its answer; False where the key is there already."""
    return await session.scalar(_statements(session).remember, row) is not None


# ── many at a time ───────────────────────────────────────────────────────────


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """So much of a SUM feature was used at an instant. The id is the caller's, by customer."""

    id: str
    customer_id: str
    feature_id: str
    quantity: int
    at: datetime | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.customer_id, self.id


async def take(session: AsyncSession, events: Iterable[Event]) -> set[tuple[str, str]]:
    """Store those events that are not there yet; the keys of these."""
    rows = [msgspec.structs.asdict(event) for event in sorted(events, key=lambda e: e.key)]
    if not rows:
        return set()
    found = await session.execute(_statements(session).take, rows)
    return {(row.customer_id, row.id) for row in found}


async def taken(
    session: AsyncSession, keys: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], Event]:
    """The events of these keys that are there."""
    found: dict[tuple[str, str], Event] = {}
    for start in range(0, len(keys), _ASKED_AT_ONCE):
        some = keys[start : start + _ASKED_AT_ONCE]
        rows = await session.execute(
            select(_EVENT).where(tuple_(_EVENT.c.customer_id, _EVENT.c.id).in_(some))
        )
        for row in rows.mappings():
            event = Event(**row)
            found[event.key] = event
    return found


async def add(session: AsyncSession, steps: Iterable[Count]) -> None:
    """Add to counters and days, whatever their limits: it has happened."""
    counters: dict[tuple[object, ...], dict[str, Any]] = {}
    days: dict[tuple[object, ...], dict[str, Any]] = {}
    steps = list(steps)
    for step in steps:
        for sums, row, key, name in (
            (counters, step._row, _COUNTER_KEY, "used"),
            (days, step._day, _DAY_KEY, "quantity"),
        ):
            seen = sums.setdefault(tuple(row[k] for k in key), row)
            if seen is not row:
                seen[name] += row[name]
    statements = _statements(session)
    for statement, sums in ((statements.add, counters), (statements.add_day, days)):
        if sums:
            await session.execute(statement, [sums[key] for key in sorted(sums)])
    await bill(session, steps)


async def bill(session: AsyncSession, steps: Iterable[Count]) -> None:
    """Add what was counted to the counters that only bill it, after all others."""
    sums: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in (step.billed_row for step in steps if step.billed is not None):
        seen = sums.setdefault(tuple(row[name] for name in _COUNTER_KEY), row)
        if seen is not row:
            seen["used"] += row["used"]
    if sums:
        await session.execute(_statements(session).add, [sums[key] for key in sorted(sums)])


# ── reading ──────────────────────────────────────────────────────────────────


async def read(
    session: AsyncSession, asked: Mapping[str, Mapping[str, Window]]
) -> dict[str, dict[str, int]]:
    """What is used in windows, by customer and feature; what was never used is left out."""
    starts: set[datetime] = set()
    for windows in asked.values():
        for window in windows.values():
            starts.update((window.bucket_start, *window.earlier))
    found: dict[str, dict[str, int]] = {customer_id: {} for customer_id in asked}
    if not starts:
        return found
    rows = await session.execute(
        select(
            _COUNTER.c.customer_id, _COUNTER.c.feature_id, _COUNTER.c.window_start, _COUNTER.c.used
        ).where(_COUNTER.c.customer_id.in_(asked), _COUNTER.c.window_start.in_(starts))
    )
    for customer_id, feature_id, start, used in rows:
        counted = asked[customer_id].get(feature_id)
        if counted and (start == counted.bucket_start or start in counted.earlier):
            found[customer_id][feature_id] = found[customer_id].get(feature_id, 0) + used
    return found


async def totals(
    session: AsyncSession, asked: Sequence[tuple[str, str, Sequence[datetime]]]
) -> list[int]:
    """What some counters say together: of each customer and feature those of the starts given."""
    found: dict[tuple[str, str, datetime], int] = {}
    if asked:
        customers = {customer_id for customer_id, _, _ in asked}
        starts = {start for _, _, each in asked for start in each}
        rows = await session.execute(
            select(
                _COUNTER.c.customer_id,
                _COUNTER.c.feature_id,
                _COUNTER.c.window_start,
                _COUNTER.c.used,
            ).where(_COUNTER.c.customer_id.in_(customers), _COUNTER.c.window_start.in_(starts))
        )
        found = {(c, f, start): used for c, f, start, used in rows}
    return [sum(found.get((c, f, start), 0) for start in starts) for c, f, starts in asked]


async def days(
    session: AsyncSession, customer_id: str, feature_id: str, first: date, last: date
) -> dict[date, int]:
    """What is stored of the days from `first` to `last`."""
    rows = await session.execute(
        select(_DAY.c.day, _DAY.c.quantity).where(
            _DAY.c.customer_id == customer_id,
            _DAY.c.feature_id == feature_id,
            _DAY.c.day.between(first, last),
        )
    )
    return {row.day: row.quantity for row in rows}


async def last_before(
    session: AsyncSession, customer_id: str, feature_id: str, day: date
) -> int | None:
    """What the last day before `day` says, of those that are stored."""
    found: int | None = await session.scalar(
        select(_DAY.c.quantity)
        .where(_DAY.c.customer_id == customer_id, _DAY.c.feature_id == feature_id, _DAY.c.day < day)
        .order_by(_DAY.c.day.desc())
        .limit(1)
    )
    return found


async def remembered(
    session: AsyncSession, customer_id: str, mutation: str, key: str
) -> tuple[str, str] | None:
    """The request's digest and the answer of an idempotency key."""
    row = (
        await session.execute(
            select(_KEY.c.request_digest, _KEY.c.answer).where(
                _KEY.c.customer_id == customer_id, _KEY.c.mutation == mutation, _KEY.c.key == key
            )
        )
    ).first()
    return None if row is None else (row.request_digest, row.answer)


# ── forgetting ───────────────────────────────────────────────────────────────


def _due(at: datetime) -> Iterable[tuple[Any, tuple[str, ...], ColumnElement[bool]]]:
    yield _KEY, ("customer_id", "mutation", "key"), _KEY.c.created_at < at - KEYS_KEPT
    yield _EVENT, ("customer_id", "id"), _EVENT.c.at < at - EVENTS_KEPT
    yield _COUNTER, _COUNTER_KEY, _COUNTER.c.expires_at < at
    yield _DAY, _DAY_KEY, _DAY.c.day < (at - DAYS_KEPT).date()
    yield _DENIAL, (*_DAY_KEY, "reason"), _DENIAL.c.day < (at - DAYS_KEPT).date()


async def is_anything_due(session: AsyncSession, at: datetime) -> bool:
    for table, _, due in _due(at):
        if await session.scalar(select(exists(select(table).where(due)))):
            return True
    return False


async def purge(session: AsyncSession, at: datetime) -> int:
    """Forget what is past its time, a bounded batch of each table; how much it was."""
    purged = 0
    for table, key, due in _due(at):
        columns = [table.c[name] for name in key]
        some = select(*columns).where(due).limit(PURGED_AT_ONCE)
        some = some.with_for_update(skip_locked=True)  # no two workers at the same
        result: Any = await session.execute(delete(table).where(tuple_(*columns).in_(some)))
        purged += result.rowcount
    return purged
