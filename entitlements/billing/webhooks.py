"""The inbox: an event is verified, stored once by its id, answered, and applied afterwards.

What is applied is never the event but the object's present state, fetched then: so events may
come late, twice and in any order.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any

import msgspec
import stripe
import structlog
from prometheus_client import Counter
from sqlalchemy import func, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from entitlements.billing.push import CatalogPush
from entitlements.billing.tables import WebhookEventRow
from entitlements.kernel.clock import Clock, wall_now
from entitlements.kernel.errors import ServiceError
from entitlements.storage.unit_of_work import Database
from entitlements.subscriptions.sync import ProviderSync

log = structlog.get_logger()

TOLERANCE = timedelta(minutes=5)
LEASE = timedelta(seconds=60)
RETRY_AFTER = timedelta(seconds=2)
RETRY_AT_MOST = timedelta(minutes=10)
ATTEMPTS = 20

UNKNOWN_CUSTOMER = "no customer of ours"
NOT_OURS = "not of our catalog"

HANDLED = frozenset(
    {
        "checkout.session.completed",
        "checkout.session.expired",
        "customer.updated",
        "customer.subscription.created",
        "customer.subscription.updated",
        "customer.subscription.deleted",
        "customer.subscription.paused",
        "customer.subscription.resumed",
        "customer.subscription.trial_will_end",
        "customer.subscription.pending_update_applied",
        "customer.subscription.pending_update_expired",
        "invoice.created",
        "invoice.paid",
        "invoice.voided",
        "invoice.payment_failed",
        "invoice.payment_action_required",
        "invoice.finalization_failed",
        "invoice.upcoming",
        "payment_method.attached",
        "payment_method.detached",
        "price.updated",
        "product.updated",
    }
)

OF_THE_CATALOG = ("price.", "product.")
"""Events about what is sold, and not about a customer."""

OUTCOMES = Counter(
    "entitlements_webhook_events_total",
    "Events of the payment provider by how they ended. Look at `unknown_customer` (nobody of "
    "ours), `drift` (a product or price was edited there) and `failed` (given up).",
    ["outcome"],
)
DRIFT = Counter(
    "entitlements_provider_drift_total",
    "Products and prices that were found edited by hand at the payment provider.",
)


class InvalidWebhook(Exception):
    """Not signed with our secret, too old, or not of our mode. Nothing is stored."""


_PRINTABLE = r"^[\x20-\x7e]*$"
_Name = Annotated[str, msgspec.Meta(max_length=255, pattern=_PRINTABLE)]


class _About(msgspec.Struct):
    """What an event is about, as far as we look at it: the rest is fetched."""

    object: _Name = ""
    id: _Name | None = None
    customer: _Name | dict[str, Any] | None = None


class _Data(msgspec.Struct):
    object: _About


class _Event(msgspec.Struct):
    id: _Name
    type: Annotated[str, msgspec.Meta(max_length=100, pattern=_PRINTABLE)]
    livemode: bool
    data: _Data


class StoredEvent(msgspec.Struct, frozen=True):
    """What the inbox keeps of an event."""

    id: str
    type: str
    object_id: str | None
    customer_provider_id: str | None


def event_of(shown: Mapping[str, Any]) -> StoredEvent:
    """An event that the provider shows when asked for it."""
    return _stored(msgspec.convert(shown, _Event))


def _stored(event: _Event) -> StoredEvent:
    about = event.data.object
    customer = about.id if about.object == "customer" else about.customer
    return StoredEvent(
        id=event.id,
        type=event.type,
        object_id=about.id,
        customer_provider_id=customer if isinstance(customer, str) else None,
    )


class Webhooks:
    """`secret` is the endpoint's; `livemode` what its events must say."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        sync: ProviderSync,
        catalog_push: CatalogPush,
        secret: str,
        *,
        livemode: bool,
    ) -> None:
        self._database = database
        self._clock = clock
        self._sync = sync
        self._catalog_push = catalog_push
        self._secret = secret
        self._livemode = livemode

    async def receive(self, payload: bytes, signature: str) -> str:
        """Store an event, once; its id. Raises `InvalidWebhook` and stores nothing."""
        event = _stored(self._verified(payload, signature))
        await self._store(event)
        return event.id

    async def _store(self, event: StoredEvent) -> None:
        row = msgspec.structs.asdict(event) | {
            "received_at": self._clock.now(),
            "status": "received" if event.type in HANDLED else "ignored",
            "due_at": wall_now(),
            "attempts": 0,
        }
        insert = postgresql.insert if self._database.is_postgresql else sqlite.insert
        async with self._database.write() as session:
            await session.execute(insert(WebhookEventRow).values(row).on_conflict_do_nothing())

    def _verified(self, payload: bytes, signature: str) -> _Event:
        """The event, where the signature is ours and its time is near (both ways)."""
        try:
            stripe.WebhookSignature.verify_header(
                payload.decode(), signature, self._secret, tolerance=None
            )
            signed_at = int(dict(p.split("=", 1) for p in signature.split(","))["t"])
            event = msgspec.json.decode(payload, type=_Event)
        except (
            stripe.SignatureVerificationError,
            msgspec.DecodeError,
            UnicodeDecodeError,
            KeyError,
            ValueError,
        ) as error:
            raise InvalidWebhook("not an event of the provider") from error
        if abs(wall_now().timestamp() - signed_at) > TOLERANCE.total_seconds():
            raise InvalidWebhook("the signature's time is not near")
        if event.livemode is not self._livemode:
            raise InvalidWebhook("an event of the other mode")
        return event

    async def failed(self, after: str, limit: int) -> Sequence[WebhookEventRow]:
        """Events that were given up, in order of their ids, after an id."""
        query = (
            select(WebhookEventRow)
            .where(WebhookEventRow.status == "failed", WebhookEventRow.id > after)
            .order_by(WebhookEventRow.id)
            .limit(limit)
        )
        async with self._database.read() as session:
            return (await session.scalars(query)).all()

    async def count(self) -> int:
        """How many events ever reached the inbox."""
        async with self._database.read() as session:
            return await session.scalar(select(func.count()).select_from(WebhookEventRow)) or 0

    async def missing(self, events: Sequence[StoredEvent]) -> list[StoredEvent]:
        """Those of some events that never reached the inbox."""
        ids = [event.id for event in events]
        async with self._database.read() as session:
            known = set(
                await session.scalars(select(WebhookEventRow.id).where(WebhookEventRow.id.in_(ids)))
            )
        return [event for event in events if event.id not in known]

    async def replay(self, event: StoredEvent) -> str:
        """Apply an event once more, or one that never came; its status afterwards."""
        await self._store(event)
        async with self._database.write() as session:
            row = await session.get_one(WebhookEventRow, event.id, with_for_update=True)
            row.status, row.attempts, row.due_at = "received", 1, wall_now() + LEASE
        await self._apply(row.customer_provider_id, [row])
        async with self._database.read() as session:
            return (await session.get_one(WebhookEventRow, event.id)).status

    async def work(self, limit: int = 200) -> int:
        """Apply what is due: one fetch per customer, however many events. How many were done."""
        events = await self._take(limit)
        by_subject: dict[tuple[bool, str | None], list[WebhookEventRow]] = {}
        for event in events:
            subject = (event.type.startswith(OF_THE_CATALOG), event.customer_provider_id)
            by_subject.setdefault(subject, []).append(event)
        for (_, customer_provider_id), theirs in by_subject.items():
            await self._apply(customer_provider_id, theirs)
        return len(events)

    async def _take(self, limit: int) -> Sequence[WebhookEventRow]:
        """Lease what is due to this process; others pass over it."""
        now = wall_now()
        async with self._database.write() as session:
            query = (
                select(WebhookEventRow)
                .where(WebhookEventRow.status == "received", WebhookEventRow.due_at <= now)
                .order_by(WebhookEventRow.due_at)
                .limit(limit)
                .with_for_update(skip_locked=True)
            )
            events = (await session.scalars(query)).all()
            for event in events:
                event.due_at = now + LEASE
                event.attempts += 1
        return events

    async def _follow(
        self, customer_provider_id: str | None, events: Sequence[WebhookEventRow]
    ) -> Mapping[str, str]:
        """Bring the customer whom events are about in line; what to say of each, by its id."""
        for event in events:
            if event.type == "checkout.session.completed" and event.object_id:
                await self._sync.checkout(event.object_id)
        if customer_provider_id is None or not await self._sync.customer(customer_provider_id):
            log.warning("webhook_of_unknown_customer", customer=customer_provider_id)
            return {event.id: UNKNOWN_CUSTOMER for event in events}
        return {}

    async def _compare(self, events: Sequence[WebhookEventRow]) -> Mapping[str, str]:
        """Hold products and prices against what we made of them: edited there, they are drift."""
        found = await self._catalog_push.drift_of({event.object_id or "" for event in events})
        drift = {id: "; ".join(a.words for a in actions) for id, actions in found.items()}
        for object_id, words in drift.items():
            if words:
                DRIFT.inc()
                log.warning("provider_drift", object=object_id, what=words)
        return {event.id: drift.get(event.object_id or "", NOT_OURS) for event in events}

    async def _apply(
        self, customer_provider_id: str | None, events: Sequence[WebhookEventRow]
    ) -> None:
        """Do what events about one customer, or about the catalog, ask for; say how they ended."""
        said: Mapping[str, str] = {}
        fault: str | None = None
        try:
            if events[0].type.startswith(OF_THE_CATALOG):
                said = await self._compare(events)
            else:
                said = await self._follow(customer_provider_id, events)
        except ServiceError as refused:
            fault = f"{refused.code}: {refused.message}"
        except Exception as error:
            log.exception("webhook_failed", events=[event.id for event in events])
            fault = type(error).__name__
        ids = [event.id for event in events]
        async with self._database.write() as session:
            rows = await session.scalars(select(WebhookEventRow).where(WebhookEventRow.id.in_(ids)))
            for event in rows:
                if fault is not None:
                    event.status = "failed" if event.attempts >= ATTEMPTS else "received"
                    event.due_at = wall_now() + _backoff(event.attempts)
                    event.error = fault
                else:
                    event.error = said.get(event.id) or None
                    event.status = _status(event.error)
                OUTCOMES.labels(_outcome(event)).inc()

    async def to_look_at(self, limit: int = 200) -> Sequence[WebhookEventRow]:
        """Events that an operator should know of, newest first: about nobody of ours, about
        something edited at the provider, or given up."""
        reported = or_(
            WebhookEventRow.status.in_(("drift", "failed")),
            WebhookEventRow.error == UNKNOWN_CUSTOMER,
        )
        query = (
            select(WebhookEventRow)
            .where(reported)
            .order_by(WebhookEventRow.received_at.desc(), WebhookEventRow.id.desc())
            .limit(limit)
        )
        async with self._database.read() as session:
            return (await session.scalars(query)).all()


def _status(said: str | None) -> str:
    if said is None:
        return "done"
    return "ignored" if said in (UNKNOWN_CUSTOMER, NOT_OURS) else "drift"


def _outcome(event: WebhookEventRow) -> str:
    if event.error == UNKNOWN_CUSTOMER:
        return "unknown_customer"
    return "to_be_retried" if event.status == "received" else event.status


def _backoff(attempts: int) -> timedelta:
    """Two seconds, then twice as long each time, at most ten minutes."""
    pause: timedelta = RETRY_AFTER * 2 ** min(max(attempts - 1, 0), 10)
    return min(pause, RETRY_AT_MOST)
