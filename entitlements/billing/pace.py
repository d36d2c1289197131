"""How gently the provider is asked by those for whom nobody waits."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from entitlements.kernel.clock import monotonic_seconds
from entitlements.kernel.errors import PaymentProviderUnavailable

TRIES = 3

T = TypeVar("T")


class Pace:
    """Evenly, so that the API keeps the rest of the provider's limit.

    `pause_seconds` is what lies before a second look, and before another try.
    """

    def __init__(self, calls_per_second: int = 20, pause_seconds: float = 2) -> None:
        self.calls_per_second = calls_per_second
        self.pause_seconds = pause_seconds
        self._next = 0.0

    async def turn(self) -> None:
        """Wait until the next call may go."""
        now = monotonic_seconds()
        at = max(now, self._next)
        self._next = at + 1 / self.calls_per_second
        if at > now:
            await asyncio.sleep(at - now)

    async def patiently(self, do: Callable[[], Awaitable[T]]) -> T:
        """Try again where the provider is away for a moment, and not where it refuses our key."""
        for n in range(1, TRIES):
            try:
                return await do()
            except PaymentProviderUnavailable as error:
                if error.retry_after_seconds is None:
                    raise
            await asyncio.sleep(self.pause_seconds * n)
        return await do()
