"""Reading while the database may be away, for those who have something else to answer with."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from entitlements.kernel.clock import monotonic_seconds
from entitlements.storage.engine import is_unreachable

PATIENCE_SECONDS: Final = 1.0
"""How long a read may take."""

RETRY_SECONDS: Final = 1.0
"""How long nobody tries again after one that failed."""

T = TypeVar("T")


class Patience:
    """While the database is away one read at a time tries it; nobody else waits for that one."""

    def __init__(self) -> None:
        self._away = False
        self._retry_at = float("-inf")

    async def read(self, read: Callable[[], Awaitable[T]]) -> T | None:
        """What the read answers; None where the database is away, or was just now."""
        if monotonic_seconds() < self._retry_at:
            return None
        if self._away:
            self._retry_at = monotonic_seconds() + PATIENCE_SECONDS
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                found = await read()
        except Exception as error:
            if not is_unreachable(error):
                raise
            self._away = True
            self._retry_at = monotonic_seconds() + RETRY_SECONDS
            return None
        self._away, self._retry_at = False, float("-inf")
        return found
