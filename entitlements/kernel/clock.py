"""The service's time. Whatever needs "now" is given a `Clock`; nothing else reads a clock."""

import time
from datetime import UTC, datetime
from typing import Protocol


def wall_now() -> datetime:
    """The machine's time. Only keys, tokens and their expiry count by it."""
    return datetime.now(UTC)


def monotonic_seconds() -> float:
    """Seconds for measuring durations, never for instants."""
    return time.monotonic()


class Clock(Protocol):
    def now(self) -> datetime:
        """The present instant, aware, in UTC."""
        ...


class WallClock:
    """Real time: every live service."""

    def now(self) -> datetime:
        return wall_now()


class SettableClock:
    """A sandbox's time: the wall's until it is first set, then only what it is set to.

    It moves forward only: setting it back raises `ValueError`.
    """

    def __init__(self, at: datetime | None = None) -> None:
        self._at = at

    def now(self) -> datetime:
        return self._at or wall_now()

    def set(self, at: datetime) -> None:
        if at < self.now():
            raise ValueError("the clock moves forward only")
        self._at = at.astimezone(UTC)
