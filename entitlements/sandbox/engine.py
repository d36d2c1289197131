"""What all requests share: the state, the time, the faults asked for, and what runs by itself."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from entitlements.kernel.clock import Clock
from entitlements.sandbox import clocks
from entitlements.sandbox.deliveries import Deliveries
from entitlements.sandbox.faults import Faults
from entitlements.sandbox.store import Store, Transaction

_log = logging.getLogger(__name__)

_TICK_SECONDS = 1.0
_MAX_STEPS = 50


class Engine:
    def __init__(self, data_file: Path | None, public_url: str, clock: Clock) -> None:
        self.store = Store(data_file)
        self.public_url = public_url.rstrip("/")
        self.clock = clock
        self.faults = Faults()
        self.in_flight: set[str] = set()  # idempotency keys
        self.deliveries = Deliveries(self.store, clock, self.faults)
        self._busy = asyncio.Event()

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """A transaction in which all that was due by the machine's time has been done."""
        self._catch_up()
        with self.store.transaction(self._wall()) as tx:
            tx.public_url = self.public_url
            yield tx

    def after_commit(self) -> None:
        """Let the tasks look at what a request left for them."""
        self.deliveries.wake()
        self._busy.set()

    async def tick(self) -> None:
        """Do what is due, and advance the clocks that are advancing, a slice at a time."""
        while True:
            self._busy.clear()
            try:
                more = self._advance_slice()
                self._catch_up()
            except Exception:
                _log.exception("what was due could not be done")
                more = False
            if more:
                self.deliveries.wake()
                await asyncio.sleep(0)
                continue
            try:
                async with asyncio.timeout(_TICK_SECONDS):
                    await self._busy.wait()
            except TimeoutError:
                continue

    def close(self) -> None:
        self.store.close()

    def _wall(self) -> int:
        return int(self.clock.now().timestamp())

    def _catch_up(self) -> None:
        wall = self._wall()
        if not self.store.is_due(wall):
            return
        for _ in range(_MAX_STEPS):
            with self.store.transaction(wall) as tx:
                tx.public_url = self.public_url
                if not clocks.wall_step(tx, wall):
                    return

    def _advance_slice(self) -> bool:
        """Advance one clock for a little while; False where none is advancing."""
        with self.store.transaction(self._wall()) as tx:
            tx.public_url = self.public_url
            waiting = clocks.advancing(tx)
            if waiting:
                clocks.advance_for(tx, waiting[0], clocks.SLICE_SECONDS)
            return bool(waiting)
