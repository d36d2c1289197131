"""The statements that count. Who is held to a limit first locks the counters, so that nobody who
counts at the same time can come between the look and the step.

Whoever writes several rows takes them in one order, so that no two wait for each other: events,
counters by their key, days by theirs, idempotency keys, counters that only bill by theirs.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import (
    ColumnElement,
    bindparam,
    delete,
    exists,
    select,
    tuple_,
    update,
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


CounterKey = tuple[str, datetime, str]
"""A customer, the start of a window, a feature."""

DayKey = tuple[str, str, date]


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
        return self.row | {
            "window_start": self.billed.start + BILLED_APART,
            "expires_at": self.billed.end + COUNTERS_KEPT,
        }

    @property
    def counter(self) -> CounterKey:
        """Which counter: in this order they are locked."""
        return self.customer_id, self.window.bucket_start, self.feature_id

    @property
    def day(self) -> DayKey:
        return self.customer_id, self.feature_id, self.at.date()

    @property
    def row(self) -> dict[str, object]:
        end = self.window.bucket_end
        return {
            "customer_id": self.customer_id,
            "window_start": self.window.bucket_start,
            "feature_id": self.feature_id,
            "used": self.quantity,
            "expires_at": end and end + self.kept,
        }

    @property
    def day_row(self) -> dict[str, object]:
        return {
            "customer_id": self.customer_id,
            "feature_id": self.feature_id,
            "day": self.at.date(),
            "quantity": self.quantity,
        }


class _Statements:
    """All of it in one dialect, built once."""

    def __init__(self, insert: Any) -> None:
        adding = insert(_COUNTER)
        self.add = adding.on_conflict_do_update(
            index_elements=_COUNTER_KEY,
            set_={"used": _COUNTER.c.used + adding.excluded.used},
        )
        on_day = insert(_DAY)
        self.begin = adding.on_conflict_do_nothing()
        of_key = [_COUNTER.c[name] == bindparam(f"of_{name}") for name in _COUNTER_KEY]
        self.set = update(_COUNTER).where(*of_key).values(used=bindparam("now"))
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


_DIALECTS = {
    "postgresql": _Statements(postgresql.insert),
    "sqlite": _Statements(sqlite.insert),
}


def _statements(session: AsyncSession) -> _Statements:
    return _DIALECTS[session.get_bind().dialect.name]


# ── up to a limit ────────────────────────────────────────────────────────────


class Steps(msgspec.Struct):
    """What some requests come to: what counters say then, what is added to days or set on them,
    the idempotency keys with their answers, and what was counted that is billed apart."""

    counters: dict[CounterKey, int] = {}
    added: dict[DayKey, int] = {}
    levels: dict[DayKey, int] = {}
    keys: list[dict[str, Any]] = []
    billed: list[Count] = []


async def lock(session: AsyncSession, counters: Iterable[CounterKey]) -> dict[CounterKey, int]:
    """What counters say, until the transaction's end; those that are not there are left out."""
    wanted = sorted(set(counters))
    found: dict[CounterKey, int] = {}
    if _is_postgresql(session):
        rows = await _on_postgresql(session, _LOCK, _columns(wanted, 3))
        return {(row[0], row[1], row[2]): row[3] for row in rows}
    columns = [_COUNTER.c[name] for name in _COUNTER_KEY]
    for start in range(0, len(wanted), _ASKED_AT_ONCE):
        some = wanted[start : start + _ASKED_AT_ONCE]
        query = select(*columns, _COUNTER.c.used).where(tuple_(*columns).in_(some))
        found |= {(row[0], row[1], row[2]): row[3] for row in await session.execute(query)}
    return found


async def begin(session: AsyncSession, steps: Iterable[Count]) -> None:
    """Make the counters of some steps, at 0, where they are not there."""
    rows = {step.counter: {**step.row, "used": 0} for step in steps}
    await session.execute(_statements(session).begin, [rows[key] for key in sorted(rows)])


async def write(session: AsyncSession, steps: Steps) -> bool:
    """Write what follows for counters that are locked; False where a key is there already, and
    nothing may be committed."""
    counters = [(*key, used) for key, used in sorted(steps.counters.items())]
    keys = _ordered(steps.keys)
    if _is_postgresql(session):
        given = (*_columns(counters, 4), *_of_days_and_keys(steps, keys))
        return len(await _on_postgresql(session, _WRITE, given)) == len(keys)
    added = [(*key, quantity) for key, quantity in steps.added.items()]
    levels = [(*key, quantity) for key, quantity in steps.levels.items()]
    statements = _statements(session)
    of = [f"of_{name}" for name in _COUNTER_KEY]
    writes: list[tuple[Any, Sequence[str], list[tuple[Any, ...]]]] = [
        (statements.set, (*of, "now"), counters),
        (statements.add_day, (*_DAY_KEY, "quantity"), added),
        (statements.set_day, (*_DAY_KEY, "quantity"), levels),
    ]
    for statement, names, values in writes:
        if values:
            set_rows = [dict(zip(names, value, strict=True)) for value in values]
            await session.execute(statement, set_rows)
    return len((await session.execute(statements.remember, keys)).all()) == len(keys)


def _ordered(keys: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(keys, key=lambda row: (row["customer_id"], row["mutation"], row["key"]))


def _of_days_and_keys(steps: Steps, keys: Sequence[dict[str, Any]]) -> tuple[list[Any], ...]:
    added = [(*key, quantity) for key, quantity in sorted(steps.added.items())]
    levels = [(*key, quantity) for key, quantity in sorted(steps.levels.items())]
    names = [column.name for column in _KEY.columns]
    rows = [tuple([row[name] for name in names]) for row in keys]
    return *_columns(added, 4), *_columns(levels, 4), *_columns(rows, len(names))


def looked(counters: Iterable[CounterKey]) -> tuple[str, tuple[list[Any], ...]]:
    """PostgreSQL: the statement that says what counters say, and what it is given."""
    return _LOOK, _columns(sorted(counters), 3)


def swapped(
    seen: Mapping[CounterKey, int | None],
    now: Mapping[CounterKey, int],
    new: Sequence[Mapping[str, Any]],
    steps: Steps,
) -> tuple[str, tuple[list[Any], ...]]:
    """PostgreSQL: the one statement, with what it is given, that moves counters from what was
    `seen` to what they say `now`, makes `new` ones (their rows), and writes the steps.

    It fails where a counter says something else, is there already, or a key is: then nothing of it
    has happened.
    """
    moved = [(*key, used, now[key]) for key, used in seen.items() if used is not None]
    names = [column.name for column in _COUNTER.columns]
    made = [tuple([row[name] for name in names]) for row in new]
    return _SWAP, (
        *_columns(sorted(moved), 5),
        *_columns(sorted(made, key=lambda row: row[:3]), len(names)),
        *_of_days_and_keys(steps, _ordered(steps.keys)),
    )


def _is_postgresql(session: AsyncSession) -> bool:
    return session.get_bind().dialect.name == "postgresql"


def _columns(rows: Sequence[tuple[Any, ...]], count: int) -> tuple[list[Any], ...]:
    return tuple([row[n] for row in rows] for n in range(count))


async def _on_postgresql(
    session: AsyncSession, statement: str, given: tuple[list[Any], ...]
) -> Sequence[Any]:
    """Rows by column, as arrays: one statement, prepared once, however many rows there are."""
    connection = await session.connection()
    return (await connection.exec_driver_sql(statement, given)).all()


_LOOK = """
SELECT c.customer_id, c.window_start, c.feature_id, c.used FROM usage_counter c
  JOIN unnest($1::varchar[], $2::timestamptz[], $3::varchar[])
    AS w (customer_id, window_start, feature_id)
    USING (customer_id, window_start, feature_id)
"""

_LOCK = f"""{_LOOK}
  ORDER BY c.customer_id COLLATE "C", c.window_start, c.feature_id COLLATE "C" FOR UPDATE OF c
"""


def _days_and_keys(first: int) -> str:
    """What is the same in both of the statements that write; its parameters count from `first`."""
    text = """added AS (
  INSERT INTO usage_day (customer_id, feature_id, day, quantity)
    SELECT * FROM unnest({}::varchar[], {}::varchar[], {}::date[], {}::bigint[])
    ON CONFLICT (customer_id, feature_id, day)
    DO UPDATE SET quantity = usage_day.quantity + excluded.quantity
), levels AS (
  INSERT INTO usage_day (customer_id, feature_id, day, quantity)
    SELECT * FROM unnest({}::varchar[], {}::varchar[], {}::date[], {}::bigint[])
    ON CONFLICT (customer_id, feature_id, day) DO UPDATE SET quantity = excluded.quantity
), kept AS (
  INSERT INTO usage_key (customer_id, mutation, key, request_digest, answer, created_at)
    SELECT * FROM unnest({}::varchar[], {}::varchar[], {}::varchar[], {}::varchar[], {}::text[],
                         {}::timestamptz[])
    ON CONFLICT DO NOTHING RETURNING key
)"""
    return text.format(*(f"${number}" for number in range(first, first + 14)))


_WRITE = f"""
WITH counted AS (
  UPDATE usage_counter c SET used = w.used
    FROM unnest($1::varchar[], $2::timestamptz[], $3::varchar[], $4::bigint[])
      AS w (customer_id, window_start, feature_id, used)
    WHERE (c.customer_id, c.window_start, c.feature_id)
      = (w.customer_id, w.window_start, w.feature_id)
), {_days_and_keys(5)}
SELECT key FROM kept
"""  # nosec B608: of our own words

_SWAP = f"""
WITH moved AS (
  UPDATE usage_counter c SET used = w.used
    FROM unnest($1::varchar[], $2::timestamptz[], $3::varchar[], $4::bigint[], $5::bigint[])
      AS w (customer_id, window_start, feature_id, before, used)
    WHERE (c.customer_id, c.window_start, c.feature_id)
      = (w.customer_id, w.window_start, w.feature_id) AND c.used = w.before
    RETURNING 1
), made AS (
  INSERT INTO usage_counter (customer_id, window_start, feature_id, used, expires_at)
    SELECT * FROM unnest($6::varchar[], $7::timestamptz[], $8::varchar[], $9::bigint[],
                         $10::timestamptz[])
    ON CONFLICT DO NOTHING RETURNING 1
), {_days_and_keys(11)}
SELECT 1 / CASE WHEN (SELECT count(*) FROM moved) = cardinality($1)
                 AND (SELECT count(*) FROM made) = cardinality($6)
                 AND (SELECT count(*) FROM kept) = cardinality($19) THEN 1 ELSE 0 END
"""  # nosec B608: of our own words
"""Whatever does not match ends in a division by zero, which undoes all of the statement."""


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
            (counters, step.row, _COUNTER_KEY, "used"),
            (days, step.day_row, _DAY_KEY, "quantity"),
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
    session: AsyncSession, keys: Sequence[tuple[str, str, str]]
) -> dict[tuple[str, str, str], tuple[str, str]]:
    """The request's digest and the answer of those idempotency keys that are there.

    A key is the customer's, of a mutation.
    """
    columns = (_KEY.c.customer_id, _KEY.c.mutation, _KEY.c.key)
    found: dict[tuple[str, str, str], tuple[str, str]] = {}
    for start in range(0, len(keys), _ASKED_AT_ONCE):
        some = keys[start : start + _ASKED_AT_ONCE]
        query = select(*columns, _KEY.c.request_digest, _KEY.c.answer)
        for row in await session.execute(query.where(tuple_(*columns).in_(some))):
            found[row[0], row[1], row[2]] = row[3], row[4]
    return found


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
