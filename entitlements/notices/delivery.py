"""Delivering: what is due is sent, each endpoint in lanes of its own, at least once.

A delivery is due at an instant. Whoever takes it moves that instant to the end of a lease, so that
any number of workers may run; whoever dies leaves it to the next, who sends it again under the same
`webhook-id`. One slow endpoint keeps its own lanes busy and nobody else's.
"""

import asyncio
import hashlib
from collections import Counter as Tally
from collections.abc import Mapping
from datetime import datetime, timedelta

import msgspec
import structlog
from prometheus_client import Counter
from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from entitlements.kernel.clock import monotonic_seconds, wall_now
from entitlements.kernel.signing import Signer
from entitlements.kernel.tracing import traced
from entitlements.notices.sending import GONE, TIMEOUT_SECONDS, Answer, Sender
from entitlements.notices.signatures import headers, signing_keys
from entitlements.notices.tables import WebhookDeliveryRow, WebhookEndpointRow, WebhookMessageRow
from entitlements.storage.unit_of_work import Database

log = structlog.get_logger()

PAUSES = tuple(
    timedelta(seconds=seconds)
    for seconds in (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
)
"""Between one attempt and the next; after the last of them it is given up, three days on."""

JITTER_PERCENT = 20
LEASE = timedelta(seconds=6 * TIMEOUT_SECONDS)
LANES = 4
"""So many deliveries to one endpoint are under way at once, in one process."""

RETENTION = timedelta(days=30)
PURGE_SECONDS = 3600.0
PURGED_AT_ONCE = 500

ATTEMPTS = Counter(
    "entitlements_webhook_attempts", "Attempts to deliver a notice, by their outcome.", ["outcome"]
)


def pause(delivery_id: str, attempts: int) -> timedelta | None:
    """How long to wait after so many attempts, None where it is enough.

    Up to a fifth longer, by the delivery, so that what failed together is not tried together.

    >>> [pause("whd_1", n) for n in (1, 10)]
    [datetime.timedelta(seconds=5, microseconds=310000), None]
    """
    if attempts > len(PAUSES):
        return None
    digest = hashlib.sha256(f"{delivery_id}/{attempts}".encode()).digest()
    per_mille = int.from_bytes(digest[:4]) % (JITTER_PERCENT * 10 + 1)
    longer: timedelta = PAUSES[attempts - 1] * (1000 + per_mille) / 1000
    return longer


class _Due(msgspec.Struct, frozen=True):
    """A delivery that this process has the lease of; `attempt` counts from 1."""

    id: str
    endpoint_id: str
    url: str
    message_id: str
    body: str
    attempt: int


class Deliveries:
    """One process's. `deliver_due` starts what is due and does not wait for it."""

    def __init__(self, database: Database, signer: Signer, sender: Sender) -> None:
        self._database = database
        self._signer = signer
        self._sender = sender
        self._lanes: dict[asyncio.Task[None], str] = {}
        self._sending: set[asyncio.Task[Answer]] = set()
        self._closing = False
        self._purge_at = 0.0

    async def deliver_due(self) -> int:
        """Begin to send what is due now; how many lanes were started for it."""
        await self._purge()
        busy = Tally(self._lanes.values())
        started = 0
        for endpoint_id, due in (await self._due_by_endpoint()).items():
            for _ in range(min(due, LANES - busy[endpoint_id])):
                lane = asyncio.create_task(self._lane(endpoint_id), name="webhook-lane")
                self._lanes[lane] = endpoint_id
                lane.add_done_callback(self._lanes.pop)
                started += 1
        return started

    async def finished(self) -> None:
        """Wait until nothing is under way here any more."""
        while self._lanes:
            await asyncio.wait(list(self._lanes))

    async def close(self) -> None:
        """Break off what is being sent: it is sent again once its lease has run out."""
        self._closing = True
        for sending in self._sending:
            sending.cancel()
        await self.finished()
        await self._sender.close()

    async def _due_by_endpoint(self) -> Mapping[str, int]:
        query = (
            select(WebhookDeliveryRow.endpoint_id, func.count())
            .join(WebhookEndpointRow, WebhookEndpointRow.id == WebhookDeliveryRow.endpoint_id)
            .where(
                WebhookDeliveryRow.next_attempt_at <= wall_now(),
                WebhookEndpointRow.deleted_at.is_(None),
                WebhookEndpointRow.disabled_at.is_(None),
            )
            .group_by(WebhookDeliveryRow.endpoint_id)
        )
        async with self._database.read() as session:
            return dict((await session.execute(query)).all())

    async def _lane(self, endpoint_id: str) -> None:
        """Send one after the other, until nothing of the endpoint is due."""
        try:
            async with self._database.write() as session:
                due = await self._take(session, endpoint_id)
            while due is not None and not self._closing:
                answer = await self._send(due)
                if answer is None:
                    return
                async with self._database.write() as session:
                    await self._store(session, due, answer)
                    due = None if self._closing else await self._take(session, endpoint_id)
        except Exception:
            log.exception("webhook_lane_fault", endpoint=endpoint_id)

    async def _take(self, session: AsyncSession, endpoint_id: str) -> _Due | None:
        """Take the lease of the delivery that has been due longest; others pass over it."""
        now = wall_now()
        found = (
            await session.execute(
                select(WebhookDeliveryRow, WebhookEndpointRow.url, WebhookMessageRow.body)
                .join(WebhookEndpointRow, WebhookEndpointRow.id == WebhookDeliveryRow.endpoint_id)
                .join(WebhookMessageRow, WebhookMessageRow.id == WebhookDeliveryRow.message_id)
                .where(
                    WebhookDeliveryRow.endpoint_id == endpoint_id,
                    WebhookDeliveryRow.next_attempt_at <= now,
                    WebhookEndpointRow.deleted_at.is_(None),
                    WebhookEndpointRow.disabled_at.is_(None),
                )
                .order_by(WebhookDeliveryRow.next_attempt_at)
                .limit(1)
                .with_for_update(skip_locked=True, of=WebhookDeliveryRow)
            )
        ).first()
        if found is None:
            return None
        delivery, url, body = found
        delivery.attempts += 1
        delivery.next_attempt_at = now + LEASE
        return _Due(delivery.id, endpoint_id, url, delivery.message_id, body, delivery.attempts)

    @traced("notices.send")
    async def _send(self, due: _Due) -> Answer | None:
        """The answer, or None where closing broke it off."""
        keys = signing_keys(self._signer, due.endpoint_id)
        signed = headers(keys, due.message_id, wall_now(), due.body)
        sending = asyncio.create_task(self._sender.post(due.url, signed, due.body))
        self._sending.add(sending)
        try:
            return await sending
        except asyncio.CancelledError:
            if not self._closing:
                raise
            return None
        finally:
            self._sending.discard(sending)

    async def _store(self, session: AsyncSession, due: _Due, answer: Answer) -> None:
        delivery = await session.get(WebhookDeliveryRow, due.id, with_for_update=True)
        if delivery is None or (delivery.attempts != due.attempt and not answer.taken):
            return  # purged, or taken over since: theirs is the later word
        now = wall_now()
        delivery.last_status, delivery.last_error = answer.status, answer.error
        endpoint = await session.get_one(WebhookEndpointRow, due.endpoint_id)
        if answer.taken:
            delivery.delivered_at, delivery.next_attempt_at = now, None
            if endpoint.failing_since is not None:
                endpoint.failing_since = None
            outcome = "delivered"
        else:
            outcome = _postpone(delivery, endpoint, answer, now)
        ATTEMPTS.labels(outcome).inc()
        tell = log.debug if answer.taken else log.info
        tell(
            "webhook_attempt",
            outcome=outcome,
            delivery=due.id,
            endpoint=due.endpoint_id,
            attempt=due.attempt,
            status=answer.status,
            error=answer.error,
        )

    async def _purge(self) -> None:
        """Forget old messages with their deliveries, a bounded number of them now and then."""
        if monotonic_seconds() < self._purge_at:
            return
        old = (
            select(WebhookMessageRow.id)
            .where(WebhookMessageRow.created_at < wall_now() - RETENTION)
            .order_by(WebhookMessageRow.created_at)
            .limit(PURGED_AT_ONCE)
        )
        async with self._database.read() as session:
            ids = (await session.scalars(old)).all()
        if ids:
            async with self._database.write() as session:
                await session.execute(
                    delete(WebhookMessageRow).where(WebhookMessageRow.id.in_(ids))
                )
        more = len(ids) == PURGED_AT_ONCE
        self._purge_at = 0.0 if more else monotonic_seconds() + PURGE_SECONDS


def _postpone(
    delivery: WebhookDeliveryRow, endpoint: WebhookEndpointRow, answer: Answer, now: datetime
) -> str:
    """Try again later, or not any more; what came of the attempt, in a word."""
    wait = pause(delivery.id, delivery.attempts)
    if answer.status == GONE:
        endpoint.disabled_at = endpoint.disabled_at or now
        delivery.next_attempt_at = None
        return "gone"
    if wait is None:
        endpoint.failing_since = endpoint.failing_since or now
        delivery.next_attempt_at = None
        return "given_up"
    delivery.next_attempt_at = now + wait
    return "postponed"
