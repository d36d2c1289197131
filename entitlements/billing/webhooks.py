"""The inbox: an event is verified, stored once by its id, answered, and applied afterwards.

What is applied is never the event but the object's present state, fetched then: so events may
come late, twice and in any order, and all that wait for one customer are applied as one.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any

import msgspec
import stripe
import structlog
from prometheus_client import Counter
from sqlalchemy import ColumnElement, Update, and_, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from entitlements.billing.push import CatalogPush
from entitlements.billing.tables import WebhookEventRow
from entitlements.billing.transport import each
from entitlements.kernel.clock import Clock, wall_now
from entitlements.kernel.errors import ServiceError
from entitlements.kernel.tracing import traced
from entitlements.storage.unit_of_work import Database
from entitlements.subscriptions.leases import LEASE, kept_alive
from entitlements.subscriptions.sync import ProviderSync

log = structlog.get_logger()

TOLERANCE = timedelta(minutes=5)
RETRY_AFTER = timedelta(seconds=2)
RETRY_AT_MOST = timedelta(minutes=10)
ATTEMPTS = 20

STORED_AT_ONCE = 500
CUSTOMERS_LEASED = 32
CUSTOMERS_AT_ONCE = 4
"""Of each process, three calls each: the provider takes a hundred a second from all of them."""

EVENTS_LOOKED_AT = 500
"""Of those that are due the oldest: whose they are is leased."""

EVENTS_LEASED = 1_000
WAITING = ("received", "leased")
"""The statuses of what is still to be applied."""

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
        self._to_store: list[tuple[dict[str, Any], asyncio.Future[None]]] = []
        self._storing: asyncio.Task[None] | None = None

    async def receive(self, payload: bytes, signature: str) -> str:
        """Store an event, once; its id. Raises `InvalidWebhook` and stores nothing."""
        event = _stored(self._verified(payload, signature))
        await self._store(event)
        return event.id

    async def _store(self, event: StoredEvent) -> None:
        """Whatever comes while a transaction stores others is stored together, in the next one."""
        row = msgspec.structs.asdict(event) | {
            "received_at": self._clock.now(),
            "status": "received" if event.type in HANDLED else "ignored",
            "due_at": wall_now(),
            "attempts": 0,
        }
        stored = asyncio.get_running_loop().create_future()
        self._to_store.append((row, stored))
        if self._storing is None:
            self._storing = asyncio.create_task(self._store_what_came())
        await stored

    async def _store_what_came(self) -> None:
        insert = postgresql.insert if self._database.is_postgresql else sqlite.insert
        table = WebhookEventRow.metadata.tables[WebhookEventRow.__tablename__]
        statement = insert(table).on_conflict_do_nothing()
        while self._to_store:
            batch = self._to_store[:STORED_AT_ONCE]
            del self._to_store[:STORED_AT_ONCE]
            # In one order everywhere: two processes that are sent the same never wait in a circle.
            rows = sorted((row for row, _ in batch), key=lambda row: row["id"])
            fault: Exception | None = None
            try:
                async with self._database.write() as session:
                    await session.execute(statement, rows)
            except Exception as error:
                fault = error
            for _, stored in batch:
                if stored.cancelled():
                    continue
                if fault is None:
                    stored.set_result(None)
                else:
                    stored.set_exception(fault)
        self._storing = None

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
            row.status, row.attempts, row.due_at = "leased", 1, wall_now() + LEASE
        await self._apply_leased([row])
        async with self._database.read() as session:
            return (await session.get_one(WebhookEventRow, event.id)).status

    async def work(self, customers: int = CUSTOMERS_LEASED) -> int:
        """Apply what is due, of so many customers. How many events were looked at.

        Each customer is fetched once, however many events wait, and a few at the same time.
        """
        async with self._database.write() as session:
            events = await self._leased(session, customers)
        if events:
            await self._apply_leased(events)
        return len(events)

    async def _leased(self, session: AsyncSession, customers: int) -> Sequence[WebhookEventRow]:
        """What is due and nobody has leased, of the customers whose events are due longest.

        All that is due of a customer goes to one process, and no more until that is done: others
        would fetch the same, and one would get in the other's way.
        """
        now = wall_now()
        event, other = WebhookEventRow, aliased(WebhookEventRow)
        lapsed = and_(event.status == "leased", event.due_at <= now)  # its holder has died
        await session.execute(_update_free(lapsed).values(status="received"))
        due = and_(event.status == "received", event.due_at <= now)
        elsewhere = select(other.id).where(
            other.customer_provider_id == event.customer_provider_id, other.status == "leased"
        )
        oldest = await session.execute(
            select(event.id, event.customer_provider_id)
            .where(due, ~elsewhere.exists())
            .order_by(event.due_at)
            .limit(EVENTS_LOOKED_AT)
        )
        of_nobody: list[str] = []
        of_customers: dict[str, None] = {}
        for id, customer in oldest:
            if customer is None:
                of_nobody.append(id)
            elif len(of_customers) < customers:
                of_customers[customer] = None
        if not of_nobody and not of_customers:
            return []
        chosen = or_(event.id.in_(of_nobody), event.customer_provider_id.in_(of_customers))
        leased = await session.scalars(
            _update_free(and_(due, chosen))
            .values(status="leased", due_at=now + LEASE, attempts=event.attempts + 1)
            .returning(event)
        )
        return leased.all()

    @traced("webhooks.apply")
    async def _apply_leased(self, events: Sequence[WebhookEventRow]) -> None:
        by_subject: dict[tuple[bool, str | None], list[WebhookEventRow]] = {}
        for event in events:
            subject = (event.type.startswith(OF_THE_CATALOG), event.customer_provider_id)
            by_subject.setdefault(subject, []).append(event)
        mine = WebhookEventRow.id.in_([event.id for event in events])
        async with kept_alive(lambda: self._renew(mine)):
            await each(list(by_subject.values()), self._apply, at_once=CUSTOMERS_AT_ONCE)

    async def _renew(self, mine: ColumnElement[bool]) -> None:
        async with self._database.write() as session:
            unfinished = and_(mine, WebhookEventRow.status == "leased")
            await session.execute(_update_free(unfinished).values(due_at=wall_now() + LEASE))

    async def _follow(self, events: Sequence[WebhookEventRow]) -> Mapping[str, str]:
        """Bring the customer whom events are about in line; what to say of each, by its id."""
        for event in events:
            if event.type == "checkout.session.completed" and event.object_id:
                await self._sync.checkout(event.object_id)
        customer_provider_id = events[0].customer_provider_id
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

    async def _apply(self, events: Sequence[WebhookEventRow]) -> None:
        """Do what events about one customer, or about the catalog, ask for; say how they ended."""
        said: Mapping[str, str] = {}
        fault: str | None = None
        try:
            if events[0].type.startswith(OF_THE_CATALOG):
                said = await self._compare(events)
            else:
                said = await self._follow(events)
        except ServiceError as refused:
            fault = f"{refused.code}: {refused.message}"
        except Exception as error:
            log.exception("webhook_failed", events=[event.id for event in events])
            fault = type(error).__name__
        ended: dict[_End, list[str]] = {}
        for event in events:
            if fault is not None:
                end = _End.of_fault(event.attempts, fault)
            else:
                end = _End.of(said.get(event.id) or None)
            ended.setdefault(end, []).append(event.id)
        now = wall_now()
        async with self._database.write() as session:
            for end, ids in ended.items():
                await session.execute(
                    update(WebhookEventRow)
                    .where(WebhookEventRow.id.in_(ids), WebhookEventRow.status == "leased")
                    .values(status=end.status, due_at=now + end.pause, error=end.error)
                    .execution_options(synchronize_session=False)
                )
        for end, ids in ended.items():
            OUTCOMES.labels(end.outcome).inc(len(ids))

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


def _update_free(which: ColumnElement[bool]) -> Update:
    """Of some events those that nobody writes now: who waits for no row is in no circle."""
    free = select(WebhookEventRow.id).where(which).limit(EVENTS_LEASED)
    return (
        update(WebhookEventRow)
        .where(WebhookEventRow.id.in_(free.with_for_update(skip_locked=True)))
        .execution_options(synchronize_session=False)
    )


class _End(msgspec.Struct, frozen=True):
    """How an application of an event ended; `pause` until it is tried again."""

    status: str
    error: str | None
    pause: timedelta = timedelta(0)

    @classmethod
    def of(cls, said: str | None) -> "_End":
        if said is None:
            return cls("done", None)
        return cls("ignored" if said in (UNKNOWN_CUSTOMER, NOT_OURS) else "drift", said)

    @classmethod
    def of_fault(cls, attempts: int, fault: str) -> "_End":
        status = "failed" if attempts >= ATTEMPTS else "received"
        return cls(status, fault, _backoff(attempts))

    @property
    def outcome(self) -> str:
        if self.error == UNKNOWN_CUSTOMER:
            return "unknown_customer"
        return "to_be_retried" if self.status == "received" else self.status


def _backoff(attempts: int) -> timedelta:
    """Two seconds, then twice as long each time, at most ten minutes."""
    pause: timedelta = RETRY_AFTER * 2 ** min(max(attempts - 1, 0), 10)
    return min(pause, RETRY_AT_MOST)
