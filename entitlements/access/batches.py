"""Group commit: what waits at the same moment is settled together, in one transaction.

While some requests are being settled the next ones gather; a request that comes alone waits for
nobody. Each has an outcome of its own, and what fails for all of them is tried for each by itself,
unless the database is away.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

from entitlements.storage.engine import is_unreachable

AT_ONCE: Final = 500

R = TypeVar("R")
A = TypeVar("A")


class Batches(Generic[R, A]):
    """Of one event loop. `settle` answers requests in their order; an error among the answers is
    raised for its request alone."""

    def __init__(self, settle: Callable[[Sequence[R]], Awaitable[Sequence[A | Exception]]]) -> None:
        self._settle = settle
        self._waiting: list[tuple[R, asyncio.Future[A]]] = []
        self._working: asyncio.Task[None] | None = None

    async def settled(self, request: R) -> A:
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, answer))
        if self._working is None:
            self._working = asyncio.create_task(self._work(), name="batches")
        return await answer

    async def _work(self) -> None:
        try:
            while self._waiting:
                some, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
                await self._together(some)
        finally:
            self._working = None

    async def _together(self, some: Sequence[tuple[R, "asyncio.Future[A]"]]) -> None:
        try:
            found = await self._settle([request for request, _ in some])
        except Exception as error:
            if len(some) > 1 and not is_unreachable(error):
                for one in some:
                    await self._together([one])
                return
            found = [error] * len(some)
        for (_, answer), outcome in zip(some, found, strict=True):
            if answer.done():  # whoever asked has gone
                continue
            if isinstance(outcome, Exception):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)
