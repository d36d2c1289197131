"""Time in money: instants, half-open periods, calendar steps that keep the anchor's day.

Every interval is `[start, end)`. Every instant is aware and in UTC.
"""

import calendar
from datetime import UTC, datetime
from enum import StrEnum
from fractions import Fraction

import msgspec


class Interval(StrEnum):
    """How often a subscription is billed."""

    MONTH = "month"
    YEAR = "year"

    @property
    def months(self) -> int:
        return 12 if self is Interval.YEAR else 1


def add_months(anchor: datetime, months: int) -> datetime:
    """The instant `months` after the anchor, on the anchor's day or else the month's last.

    >>> [add_months(datetime(2026, 1, 31, tzinfo=UTC), n).day for n in (1, 2, 3)]
    [28, 31, 30]
    """
    index = anchor.year * 12 + anchor.month - 1 + months
    year, month = divmod(index, 12)
    day = anchor.day
    if day > 28:  # which every month has
        day = min(day, calendar.monthrange(year, month + 1)[1])
    return anchor.replace(year=year, month=month + 1, day=day)


def to_second(at: datetime) -> datetime:
    """The instant cut to the whole second: what the payment provider counts in."""
    return at.replace(microsecond=0)


def parse_instant(text: str) -> datetime:
    """An RFC 3339 instant with an offset, in UTC. `ValueError` for anything else.

    >>> parse_instant("2026-11-21T10:30:00+01:00").isoformat()
    '2026-11-21T09:30:00+00:00'
    """
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("an instant needs an offset, such as Z")
    try:
        return at.astimezone(UTC)
    except OverflowError as error:  # 0001-01-01T00:00:00+01:00 is in no year that there is
        raise ValueError("the instant is out of range") from error


def format_instant(at: datetime) -> str:
    """RFC 3339 in UTC, with a fraction only where there is one.

    >>> format_instant(datetime(2026, 11, 21, 9, 30, tzinfo=UTC))
    '2026-11-21T09:30:00Z'
    """
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


class Period(msgspec.Struct, frozen=True, gc=False):
    """A span of time `[start, end)` with `start < end`."""

    start: datetime
    end: datetime

    @classmethod
    def containing(cls, anchor: datetime, interval: Interval, at: datetime) -> "Period":
        """The billing period that holds `at`, counted in whole intervals from the anchor.

        An instant that is a period's end belongs to the next one.
        """
        elapsed = (at.year - anchor.year) * 12 + at.month - anchor.month
        n = elapsed // interval.months
        while add_months(anchor, n * interval.months) > at:
            n -= 1
        while add_months(anchor, (n + 1) * interval.months) <= at:
            n += 1
        start, end = (add_months(anchor, k * interval.months) for k in (n, n + 1))
        return cls(start, end)

    def __contains__(self, at: datetime) -> bool:
        return self.start <= at < self.end

    def fraction_left(self, at: datetime) -> Fraction:
        """Whole seconds left ÷ whole seconds in the period, exact, between 0 and 1.

        >>> month = Period(datetime(2025, 6, 1, tzinfo=UTC), datetime(2025, 7, 1, tzinfo=UTC))
        >>> month.fraction_left(datetime(2025, 6, 11, tzinfo=UTC))
        Fraction(2, 3)
        """
        whole = _seconds(self.start, self.end)
        left = _seconds(to_second(at), self.end)
        return Fraction(min(max(left, 0), whole), whole)


def _seconds(start: datetime, end: datetime) -> int:
    delta = end - start
    return delta.days * 86_400 + delta.seconds
