"""Sending events to webhook endpoints: signed, at least once, retried with growing pauses."""

import asyncio
import logging
from contextlib import suppress

import httpx
import stripe

from entitlements.kernel.clock import Clock
from entitlements.sandbox.errors import Json
from entitlements.sandbox.faults import Faults
from entitlements.sandbox.shapes import render
from entitlements.sandbox.store import Store, encode

_log = logging.getLogger(__name__)

PAUSES_SECONDS = (1, 2, 5, 15, 60, 300, 1800, 3600)
GIVE_UP_SECONDS = 3 * 86_400
TIMEOUT_SECONDS = 10
PARALLEL = 16
_IDLE_SECONDS = 1.0


class Deliveries:
    """The task that sends what is pending. What it has not sent is still pending in the file."""

    def __init__(self, store: Store, clock: Clock, faults: Faults) -> None:
        self._store = store
        self._clock = clock
        self._faults = faults
        self._wake = asyncio.Event()
        self._in_flight: set[tuple[str, str]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def wake(self) -> None:
        self._wake.set()

    async def run(self) -> None:
        # Proxies of the environment are not for a receiver on this machine.
        async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS, trust_env=False) as client:
            try:
                while True:
                    self._wake.clear()
                    self._start(client)
                    with suppress(TimeoutError):  # wait_for could swallow the cancellation
                        async with asyncio.timeout(_IDLE_SECONDS):
                            await self._wake.wait()
            finally:
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, client: httpx.AsyncClient) -> None:
        """Start sending what is due, as far as there is room."""
        now = self._clock.now().timestamp()
        for event, endpoint in self._store.deliveries_due(now, PARALLEL + len(self._in_flight)):
            if len(self._in_flight) >= PARALLEL:
                return
            if (event, endpoint) in self._in_flight:
                continue
            self._in_flight.add((event, endpoint))
            task = asyncio.create_task(self._deliver(client, event, endpoint))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _deliver(self, client: httpx.AsyncClient, event: str, endpoint: str) -> None:
        try:
            with self._store.transaction(int(self._clock.now().timestamp())) as tx:
                hook, doc = tx.get(endpoint), tx.get(event)
                if hook is None or doc is None or hook.get("_deleted"):
                    tx.db.execute("delete from deliveries where endpoint = ?", (endpoint,))
                    return
                payload = encode(render(tx, doc)).decode()
            await self._send(client, hook, doc, payload)
        except asyncio.CancelledError:
            raise
        except Exception:
            _log.exception("a webhook could not be delivered")
        finally:
            self._in_flight.discard((event, endpoint))
            self._wake.set()

    async def _send(self, client: httpx.AsyncClient, hook: Json, doc: Json, payload: str) -> None:
        times = 1
        for fault in self._faults.for_event(doc["type"]):
            if fault.kind == "webhook_drop":
                self._store.delivered(doc["id"], hook["id"], "failed")
                return
            if fault.kind == "webhook_duplicate":
                times = 2
            elif fault.kind == "webhook_delay":
                await asyncio.sleep(fault.seconds)
            else:  # reorder: those that come after overtake it
                await asyncio.sleep(0.5)
        for _ in range(times):
            taken = await self._post(client, hook, payload)
        if taken:
            self._store.delivered(doc["id"], hook["id"], "succeeded")
        else:
            self._store.postpone(
                doc["id"],
                hook["id"],
                self._clock.now().timestamp(),
                PAUSES_SECONDS,
                GIVE_UP_SECONDS,
            )

    async def _post(self, client: httpx.AsyncClient, hook: Json, payload: str) -> bool:
        at = int(self._clock.now().timestamp())
        signature = stripe.WebhookSignature.generate_signature_header(
            payload, hook["_secret"], timestamp=at
        )
        try:
            answer = await client.post(
                hook["url"],
                content=payload,
                headers={
                    "Content-Type": "application/json; charset=utf-8",
                    "Stripe-Signature": signature,
                    "User-Agent": "Stripe/1.0 (sandbox)",
                },
            )
        except httpx.HTTPError:
            return False
        return answer.is_success
