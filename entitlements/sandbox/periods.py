"""Billing periods in Unix seconds, `[start, end)`, counted from a fixed anchor."""

from datetime import UTC, datetime

from entitlements.kernel.period import add_months
from entitlements.sandbox.errors import Json

_DAY = 86_400
_SECONDS = {"day": _DAY, "week": 7 * _DAY}
_MONTHS = {"month": 1, "year": 12}


def step(anchor: int, recurring: Json, n: int) -> int:
    """The instant n intervals after the anchor, months keeping the anchor's day.

    >>> month = {"interval": "month", "interval_count": 1}
    >>> jan31 = int(datetime(2026, 1, 31, tzinfo=UTC).timestamp())
    >>> [datetime.fromtimestamp(step(jan31, month, n), UTC).day for n in (1, 2, 3)]
    [28, 31, 30]
    """
    interval, count = recurring["interval"], recurring["interval_count"]
    if interval in _SECONDS:
        return int(anchor + n * count * _SECONDS[interval])
    at = add_months(datetime.fromtimestamp(anchor, UTC), n * count * _MONTHS[interval])
    return int(at.timestamp())


def containing(anchor: int, recurring: Json, at: int) -> tuple[int, int]:
    """The period that holds `at`; an instant that is a period's end belongs to the next one."""
    n = (at - anchor) // _length(recurring)
    while step(anchor, recurring, n) > at:
        n -= 1
    while step(anchor, recurring, n + 1) <= at:
        n += 1
    return step(anchor, recurring, n), step(anchor, recurring, n + 1)


def _length(recurring: Json) -> int:
    """About how long an interval is; `containing` corrects it."""
    interval, count = recurring["interval"], recurring["interval_count"]
    days = {"day": 1, "week": 7, "month": 30, "year": 365}[interval]
    return int(days * count * _DAY)


def units(recurring: Json) -> tuple[str, int]:
    """An interval in its smallest unit, for comparing: months, or days."""
    interval, count = recurring["interval"], recurring["interval_count"]
    if interval in _MONTHS:
        return "month", count * _MONTHS[interval]
    return "day", count * _SECONDS[interval] // _DAY


def fit_together(intervals: list[Json]) -> bool:
    """Whether each interval is a multiple of the shortest one, as one subscription needs.

    >>> month, year = ({"interval": i, "interval_count": 1} for i in ("month", "year"))
    >>> week = {"interval": "week", "interval_count": 1}
    >>> fit_together([month, year]), fit_together([month, week])
    (True, False)
    """
    sizes = [units(each) for each in intervals]
    shortest = min((size for _, size in sizes), default=1)
    return len({unit for unit, _ in sizes}) <= 1 and all(n % shortest == 0 for _, n in sizes)
