"""Telling whoever listens that what a customer may do has changed.

A stream sends a customer's snapshot whenever its revision has risen, and whenever time or another
catalog has changed what is granted. Several changes at once are one event: what counts is what is
so now. Nothing is kept for who is not listening: they come back with the revision they know.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final

from prometheus_client import Gauge

from entitlements.access.snapshots import Known, Snapshots, pause
from entitlements.kernel.clock import Clock, WallClock
from entitlements.kernel.errors import Conflict, NotFound, Unavailable

LOOK_SECONDS: Final = 10.0
"""How late another catalog, or a key revoked elsewhere, may reach a stream that hears nothing."""

SANDBOX_LOOK_SECONDS: Final = 0.2
"""The same where the clock is moved by hand, and time may jump over a boundary."""

RETRY_SECONDS: Final = 1.0

StillGood = Callable[[], Awaitable[float | None]]
"""Asks whether who listens still may: for how many seconds at least (None: until it is revoked).
Raises what ends the stream."""

_open = Gauge("entitlements_streams_open", "Subscriptions that are listened to")


class Streams:
    """One process's; a principal has `at_most` of them."""

    def __init__(self, snapshots: Snapshots, clock: Clock, at_most: int) -> None:
        self._snapshots = snapshots
        self._clock = clock
        self._at_most = at_most
        self._by_principal: Counter[str] = Counter()
        self._events: set[asyncio.Event] = set()
        self._closing = False

    async def follow(
        self, customer_id: str, *, after_revision: int | None, principal: str, still_good: StillGood
    ) -> AsyncGenerator[Known, None]:
        """What the customer may do: now, unless no later than `after_revision`, and at each change.

        Ends when the process stops. Raises `NotFound` for the customer, `Conflict`
        `TOO_MANY_SUBSCRIPTIONS`, and whatever `still_good` raises.
        """
        with self._counted(principal), self._snapshots.watching(customer_id) as changed:
            self._events.add(changed)
            try:
                async for known in self._changes(customer_id, after_revision, still_good, changed):
                    yield known
            finally:
                self._events.discard(changed)

    async def _changes(
        self,
        customer_id: str,
        after_revision: int | None,
        still_good: StillGood,
        changed: asyncio.Event,
    ) -> AsyncGenerator[Known, None]:
        last: Known | None = None
        while not self._closing:
            left_seconds = await still_good()
            try:
                known = await self._snapshots.get(customer_id)
            except Unavailable:
                if last is None:
                    raise
                await pause(changed, RETRY_SECONDS)
                continue
            if known.snapshot.state is None:
                raise NotFound("customer", customer_id)
            if last is None:
                differs = after_revision is None or known.snapshot.revision > after_revision
            else:
                differs = _differ(last, known)
            last = known
            if differs:
                yield known
            else:
                await pause(changed, self._until_next(known, left_seconds))

    def close(self) -> None:
        """End every stream, each after what it is about to send."""
        self._closing = True
        for changed in self._events:
            changed.set()

    @contextmanager
    def _counted(self, principal: str) -> Iterator[None]:
        if self._by_principal[principal] >= self._at_most:
            words = f"there are {self._at_most} subscriptions of yours already"
            raise Conflict(words, code="TOO_MANY_SUBSCRIPTIONS")
        self._by_principal[principal] += 1
        _open.inc()
        try:
            yield
        finally:
            _open.dec()
            self._by_principal[principal] -= 1
            if not self._by_principal[principal]:
                del self._by_principal[principal]

    def _until_next(self, known: Known, left_seconds: float | None) -> float:
        """How long nothing has to be looked at: until a boundary of time, the end of the bearer."""
        seconds = LOOK_SECONDS if isinstance(self._clock, WallClock) else SANDBOX_LOOK_SECONDS
        if known.snapshot.holds_until is not None:
            until = (known.snapshot.holds_until - self._clock.now()).total_seconds()
            seconds = min(seconds, until)
        if left_seconds is not None:
            seconds = min(seconds, left_seconds)
        return max(seconds, 0.001)


def _differ(last: Known, known: Known) -> bool:
    if last.snapshot is known.snapshot:
        return False
    before, after = last.snapshot.grants, known.snapshot.grants
    assert before is not None
    assert after is not None
    return known.snapshot.revision > last.snapshot.revision or before.features != after.features
