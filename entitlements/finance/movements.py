"""MRR movements of a period, which lead from its opening to its closing.

They are sums of what was recorded with each revision of a customer (`subscriptions.history`), in
whole minor units, so that they add up to the cent.
"""

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, FromClause, Select, and_, case, func, literal, select
from sqlalchemy.ext.asyncio import AsyncSession

from entitlements.kernel.errors import Issue, ValidationFailed
from entitlements.kernel.money import is_currency
from entitlements.kernel.period import Period, add_months
from entitlements.pricing.mrr import MovementKind, MrrMovements
from entitlements.subscriptions.tables import MrrMovementRow

MONTHS_AT_MOST = 120


class MrrDimension(StrEnum):
    PLAN = "plan"
    ADD_ON = "add_on"
    COHORT = "cohort"
    MONTH = "month"


class MovementsGroup(msgspec.Struct, frozen=True):
    """`key` is a plan, an add-on or bundle, or a month such as `2026-03`."""

    key: str
    period: Period
    movements: MrrMovements


_KEYS: Mapping[MrrDimension, ColumnElement[str]] = {
    MrrDimension.PLAN: MrrMovementRow.plan_id.expression,
    MrrDimension.ADD_ON: MrrMovementRow.package_id.expression,
    MrrDimension.COHORT: MrrMovementRow.cohort.expression,
}
_NEITHER_PLAN = MrrMovementRow.package_id != MrrMovementRow.plan_id


def checked_period(start: datetime, end: datetime, currency: str) -> Period:
    """Raises `ValidationFailed` for a period without length, or what is no currency."""
    issues = []
    if end <= start:
        issues.append(Issue(("to",), "NOT_AFTER", "the end has to be after the beginning"))
    elif end > add_months(start, MONTHS_AT_MOST):
        words = f"at most {MONTHS_AT_MOST} months at a time"
        issues.append(Issue(("to",), "OUT_OF_RANGE", words))
    if not is_currency(currency):
        words = f"{currency!r} is not a currency, such as usd"
        issues.append(Issue(("currency",), "UNKNOWN_CURRENCY", words))
    if issues:
        raise ValidationFailed(issues)
    return Period(start, end)


async def mrr_movements(session: AsyncSession, period: Period, currency: str) -> MrrMovements:
    found = await _movements(session, period, currency, literal(""))
    return found.get("", MrrMovements())


async def mrr_movements_by(
    session: AsyncSession, period: Period, currency: str, by: MrrDimension
) -> list[MovementsGroup]:
    """The same in groups, each of which adds up by itself.

    By PLAN all that is paid beside a plan counts with it, so that the groups sum to the whole; a
    move between plans is contraction of one and expansion of the other. ADD_ON has add-ons and
    bundles alone. COHORT is the month in which a customer first paid. MONTH cuts the period at
    calendar months, in UTC.
    """
    if by is MrrDimension.MONTH:
        return [
            MovementsGroup(
                f"{month.start:%Y-%m}", month, await mrr_movements(session, month, currency)
            )
            for month in months_of(period)
        ]
    only = [_NEITHER_PLAN] if by is MrrDimension.ADD_ON else []
    found = await _movements(session, period, currency, _KEYS[by], *only)
    return [MovementsGroup(key, period, found[key]) for key in sorted(found)]


def months_of(period: Period) -> list[Period]:
    """A period cut at the calendar months of UTC.

    >>> from datetime import datetime
    >>> half = Period(datetime(2026, 1, 15, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC))
    >>> [(month.start.day, month.end.month) for month in months_of(half)]
    [(15, 2), (1, 3)]
    """
    first = datetime(period.start.year, period.start.month, 1, tzinfo=UTC)
    found, start = [], period.start
    for n in range(1, MONTHS_AT_MOST + 2):
        end = min(add_months(first, n), period.end)
        found.append(Period(start, end))
        if end == period.end:
            break
        start = end
    return found


async def _movements(
    session: AsyncSession,
    period: Period,
    currency: str,
    key: ColumnElement[str],
    *only: ColumnElement[bool],
) -> dict[str, MrrMovements]:
    row = MrrMovementRow
    there = (row.currency == currency, *only)
    opening = (
        select(row.customer_id, key.label("key"), func.sum(row.delta_minor).label("minor"))
        .where(*there, row.at < period.start)
        .group_by(row.customer_id, key)
        .having(func.sum(row.delta_minor) != 0)
        .subquery()
    )
    found: dict[str, dict[str, int]] = {}
    for group, minor in await session.execute(
        select(opening.c.key, func.sum(opening.c.minor)).group_by(opening.c.key)
    ):
        found[group] = {"opening_minor": int(minor)}
    # One revision of a customer is one movement, of what is left when its parts are netted.
    moved = (
        select(row.customer_id, key.label("key"), row.kind, func.sum(row.delta_minor).label("net"))
        .where(*there, row.at >= period.start, row.at < period.end)
        .group_by(row.customer_id, row.revision, key, row.kind)
        .subquery()
    )
    async for group, kind, retained, rise, fall in await session.stream(_summed(moved, opening)):
        sums = found.setdefault(group, {})
        for name, minor in _named(MovementKind(kind), bool(retained), int(rise), int(fall)):
            sums[name] = sums.get(name, 0) + minor
    return {group: MrrMovements(**sums) for group, sums in found.items()}


def _summed(moved: FromClause, opening: FromClause) -> Select[Any]:
    retained = case((opening.c.minor > 0, 1), else_=0).label("retained")
    same = and_(opening.c.customer_id == moved.c.customer_id, opening.c.key == moved.c.key)
    return (
        select(
            moved.c.key,
            moved.c.kind,
            retained,
            func.sum(case((moved.c.net > 0, moved.c.net), else_=0)),
            func.sum(case((moved.c.net < 0, -moved.c.net), else_=0)),
        )
        .select_from(moved.outerjoin(opening, same))
        .group_by(moved.c.key, moved.c.kind, retained)
    )


def _named(kind: MovementKind, retained: bool, rise: int, fall: int) -> list[tuple[str, int]]:
    """The sums that a rise and a fall of one kind belong to."""
    up = {MovementKind.NEW: "new", MovementKind.REACTIVATION: "reactivation"}.get(kind, "expansion")
    down = "churn" if kind is MovementKind.CHURN else "contraction"
    found = [(f"{up}_minor", rise), (f"{down}_minor", fall)]
    if retained:
        found.append((f"retained_{down}_minor", fall))
        if up == "expansion":
            found.append(("retained_expansion_minor", rise))
    return found


async def every_movement(
    session: AsyncSession, period: Period, currency: str
) -> AsyncIterator[MrrMovementRow]:
    """What the sums are of, oldest first, however many."""
    query = (
        select(MrrMovementRow)
        .where(
            MrrMovementRow.currency == currency,
            MrrMovementRow.at >= period.start,
            MrrMovementRow.at < period.end,
        )
        .order_by(MrrMovementRow.at, MrrMovementRow.customer_id, MrrMovementRow.revision)
    )
    async for row in await session.stream_scalars(query.execution_options(yield_per=500)):
        yield row
        session.expunge(row)
