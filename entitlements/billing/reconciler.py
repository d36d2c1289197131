"""Walking through every customer: what differs from the provider, told and, if asked, mended."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import msgspec
import structlog
from sqlalchemy import func, select

from entitlements.audit.ledger import Actor
from entitlements.billing.metering import Metering
from entitlements.billing.pace import TRIES, Pace
from entitlements.billing.prices import slot_of
from entitlements.billing.provider import StripeProvider
from entitlements.billing.reading import OurSide, TheirSide
from entitlements.billing.reconciliation import (
    Drift,
    ItemSide,
    Kind,
    Ours,
    Repair,
    SubscriptionSide,
    Theirs,
    compare,
    in_motion,
    matched,
    unbilled_path,
)
from entitlements.billing.webhooks import StoredEvent, Webhooks
from entitlements.kernel.clock import Clock, wall_now
from entitlements.kernel.errors import PaymentProviderUnavailable, ServiceError
from entitlements.kernel.ids import new_id
from entitlements.kernel.period import Interval
from entitlements.storage.unit_of_work import Database
from entitlements.subscriptions.alignment import Alignment
from entitlements.subscriptions.lines import Slot
from entitlements.subscriptions.records import (
    charged_nothing,
    locked_customer,
    raise_future,
    record,
)
from entitlements.subscriptions.settlement import Settlement
from entitlements.subscriptions.sync import ProviderSync
from entitlements.subscriptions.tables import CustomerRow, SubscriptionRow

log = structlog.get_logger()

BATCH = 100
PARALLEL = 4
LOOKS = 5
"""How often a customer in motion is read again before it is left for the next run."""

ARRIVAL_LOOKS = 150
"""How often a run looks whether events are still coming in before it calls any of them lost."""

ROUNDS = 3
"""How often what was mended is looked at again: mending one thing may show another."""


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A difference, and what became of it. `note` says why it could not be mended."""

    drift: Drift
    mended: bool = False
    note: str | None = None


class Checked(msgspec.Struct, frozen=True):
    """A customer that was compared; `busy`: it never stood still, and is left for the next run."""

    customer: str
    findings: tuple[Finding, ...] = ()
    busy: bool = False


class _Look(msgspec.Struct, frozen=True):
    """Both sides of a customer, and how they differ."""

    ours: Ours
    theirs: Theirs | None
    drifts: tuple[Drift, ...]


class Reconciler:
    """Compares and mends. `pace` is how gently, and may be set before it begins."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        ours: OurSide,
        theirs: TheirSide,
        payments: StripeProvider,
        settlement: Settlement,
        alignment: Alignment,
        sync: ProviderSync,
        webhooks: Webhooks,
        metering: Metering,
        pace: Pace,
    ) -> None:
        self._database = database
        self._clock = clock
        self._ours = ours
        self._theirs = theirs
        self.pace = pace
        self._payments = payments
        self._settlement = settlement
        self._alignment = alignment
        self._sync = sync
        self._webhooks = webhooks
        self._metering = metering

    async def count(self) -> int:
        async with self._database.read() as session:
            return await session.scalar(select(func.count()).select_from(CustomerRow)) or 0

    # ── customers ────────────────────────────────────────────────────────────

    async def customers(self, *, repair_as: Actor | None = None) -> AsyncIterator[Checked]:
        """Compare every customer, in order of creation, a few at a time.

        `repair_as` mends what is ours to mend, in that actor's name. Raises
        `PaymentProviderUnavailable` where the provider stays away; what was yielded holds.
        """
        room = asyncio.Semaphore(PARALLEL)

        async def one(customer_id: str) -> Checked:
            async with room:
                return await self.customer(customer_id, repair_as=repair_as)

        after: str | None = None
        while rows := await self._ours.customers(after, BATCH):
            tasks = [asyncio.create_task(one(row.id)) for row in rows]
            try:
                for task in tasks:
                    yield await task
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            after = rows[-1].sequence

    async def customer(self, customer_id: str, *, repair_as: Actor | None = None) -> Checked:
        """Compare one customer. `NotFound` where there is none."""
        look = await self._still(customer_id)
        if look is None:
            return Checked(customer_id, busy=True)
        if repair_as is None or not look.drifts:
            return Checked(customer_id, tuple(Finding(drift=drift) for drift in look.drifts))
        mend = partial(self._mended, repair_as, look)
        return Checked(customer_id, await self.pace.patiently(mend))

    async def _look(self, customer_id: str) -> _Look:
        ours = await self._ours.customer(customer_id)
        theirs = None
        if ours.provider_id is not None:
            theirs = await self._theirs.customer(ours.provider_id)
        return _Look(ours, theirs, compare(ours, theirs, wall_now()))

    async def _still(self, customer_id: str) -> _Look | None:
        """A customer who stands still: what differs twice in a row, with nothing under way.

        The two sides are read one after the other: what happens in between differs once. None
        where it never stands still.
        """
        before: _Look | None = None
        for _ in range(LOOKS):
            look = await self._look(customer_id)
            if in_motion(look.ours, wall_now()):
                before = None
            elif not look.drifts:
                return look
            elif before is not None and before.ours.revision == look.ours.revision:
                stays = tuple(drift for drift in look.drifts if drift in before.drifts)
                if stays:
                    return msgspec.structs.replace(look, drifts=stays)
                before = look
            else:
                before = look
            await asyncio.sleep(self.pace.pause_seconds)
        return None

    # ── mending ──────────────────────────────────────────────────────────────

    async def _mended(self, actor: Actor, look: _Look) -> tuple[Finding, ...]:
        customer_id = look.ours.id
        seen = {drift.place: drift for drift in look.drifts}
        notes: dict[Repair, str] = {}
        for _ in range(ROUNDS):
            todo = [drift for drift in look.drifts if drift.repair is not None]
            if not todo:
                break
            key = await self._begin(actor, look.ours, todo)
            if key is None:  # it has changed meanwhile: the next run looks again
                break
            await self._mend(look, todo, key, notes)
            before, look = look, await self._look(customer_id)
            seen |= {drift.place: drift for drift in look.drifts if drift.place not in seen}
            if look.drifts == before.drifts:
                break
        left = {drift.place for drift in look.drifts}
        findings = tuple(
            Finding(
                drift=drift,
                mended=place not in left,
                note=notes.get(drift.repair) if place in left and drift.repair else None,
            )
            for place, drift in seen.items()
        )
        await self._record(actor, customer_id, [f.drift for f in findings if f.mended])
        return findings

    async def _begin(self, actor: Actor, ours: Ours, todo: Sequence[Drift]) -> str | None:
        """Say in the ledger what is going to be mended; the key of its effects at the provider.

        None where the customer is no longer as it was compared.
        """
        key = new_id("rec")
        async with self._database.write() as session:
            row = await locked_customer(session, ours.id)
            if row.revision != ours.revision:
                return None
            await record(
                session,
                self._clock.now(),
                actor,
                row,
                "reconciliation.begun",
                object_type="reconciliation",
                object_id=key,
                after={"repairs": [_told(drift) for drift in todo]},
            )
        return key

    async def _mend(
        self, look: _Look, todo: Sequence[Drift], key: str, notes: dict[Repair, str]
    ) -> None:
        """One repair after the other: ours first, so that what is mirrored is the outcome."""
        ours, theirs = look.ours, look.theirs
        for drift in todo:
            if drift.kind is Kind.CHANGE_STUCK:
                with _noting(Repair.FINISH, notes):
                    await self._settlement.finish(drift.path.removeprefix("changes."))
        if ours.provider_id is None or theirs is None:
            return
        pushed = [d for d in todo if d.repair in (Repair.PUSH, Repair.SWEEP)]
        with _noting(Repair.PUSH, notes):
            if any(d.kind is Kind.CUSTOMER_DIFFERS for d in pushed):
                await self._payments.put_customer(
                    f"{key}:customer", ours.provider_id, name=ours.name, email=ours.email
                )
        there = {s.id: s for s in theirs.subscriptions}
        made: dict[str, set[str]] = {}
        for held in ours.subscriptions:
            with _noting(Repair.PUSH, notes):
                if any(d.subscription == held.our_id for d in pushed):
                    found = there[held.id]
                    await self._push(held, found, f"{key}:{held.id}")
                    pairs, _ = matched(held.items, found.items)
                    made[held.our_id or ""] = {str(i.slot) for i, other in pairs if other is None}
        await self._mirror(ours.provider_id, notes)
        for subscription_id in {d.subscription for d in todo if d.repair is Repair.ALIGN}:
            with _noting(Repair.ALIGN, notes):
                await self._align(subscription_id or "")
        late = {d.path for d in todo if d.repair is Repair.INVOICE}
        for use in ours.unbilled:
            if unbilled_path(use) in late:
                with _noting(Repair.INVOICE, notes):
                    await self._metering.invoice_late(use)
        if any(made.values()):
            await self._charged_nothing(ours.id, made)

    async def _push(self, held: SubscriptionSide, found: SubscriptionSide, key: str) -> None:
        """Items as we hold them, and none at quantity 0 that we do not hold."""
        pairs, left = matched(held.items, found.items)
        await self._payments.put_items(
            key,
            held.id,
            held.currency,
            Interval(held.interval),
            put=[
                (theirs.id if theirs else None, _slot(ours))
                for ours, theirs in pairs
                if theirs is None or (ours.price, ours.quantity) != (theirs.price, theirs.quantity)
            ],
            delete=[item.id for item in left if item.quantity == 0],
        )

    async def _mirror(self, provider_id: str, notes: dict[Repair, str]) -> None:
        for _ in range(TRIES):
            notes.pop(Repair.MIRROR, None)
            with _noting(Repair.MIRROR, notes):
                await self._sync.customer(provider_id, whole=True)
            if Repair.MIRROR not in notes:
                return
            await asyncio.sleep(self.pace.pause_seconds)  # it changes just now

    async def _align(self, subscription_id: str) -> None:
        """Tell the provider again what is to happen at the end of the period."""
        async with self._database.write() as session:
            row = await session.get_one(SubscriptionRow, subscription_id)
            await locked_customer(session, row.customer_id)
            await session.refresh(row)
            raise_future(row)
        await self._alignment.align(subscription_id)

    async def _charged_nothing(self, customer_id: str, made: Mapping[str, set[str]]) -> None:
        """Items that were made anew there, by subscription, are not charged for yet."""
        async with self._database.write() as session:
            row = await locked_customer(session, customer_id)
            for id, keys in made.items():
                await charged_nothing(session, await session.get_one(SubscriptionRow, id), keys)
            row.revision += 1

    async def _record(self, actor: Actor, customer_id: str, mended: Sequence[Drift]) -> None:
        """An entry for each repair: how the two sides stood, and how both stand now."""
        if not mended:
            return
        async with self._database.write() as session:
            row = await locked_customer(session, customer_id)
            for drift in mended:
                both = None  # where a change or an event was brought to its end
                if drift.repair in (Repair.PUSH, Repair.SWEEP, Repair.ALIGN):
                    both = drift.ours
                elif drift.repair is Repair.MIRROR:
                    both = drift.theirs
                await record(
                    session,
                    self._clock.now(),
                    actor,
                    row,
                    "reconciliation.repaired",
                    object_type="subscription" if drift.subscription else "customer",
                    object_id=drift.subscription,
                    before={"ours": drift.ours, "theirs": drift.theirs},
                    after={
                        "kind": drift.kind,
                        "path": drift.path,
                        "repair": drift.repair,
                        "both": both,
                    },
                )

    # ── events ───────────────────────────────────────────────────────────────

    async def events(
        self, *, customer_id: str | None = None, repair_as: Actor | None = None
    ) -> AsyncIterator[Finding]:
        """Events that were given up here, and those that never came, of customers of ours."""
        after = ""
        while rows := await self._webhooks.failed(after, BATCH):
            after = rows[-1].id
            failed = {
                StoredEvent(row.id, row.type, row.object_id, row.customer_provider_id): row
                for row in rows
            }
            for event, owner in await self._owned(failed, customer_id):
                drift = Drift(
                    kind=Kind.EVENT_FAILED,
                    customer=owner,
                    path=f"events.{event.id}",
                    ours=f"failed: {failed[event].error}",
                    theirs=event.type,
                    repair=Repair.REPLAY,
                )
                yield await self._replayed(event, drift, repair_as)
        looks = iter(range(ARRIVAL_LOOKS))
        async for page in self._theirs.undelivered():
            for event, owner in await self._lost(page, customer_id, looks):
                drift = Drift(
                    kind=Kind.EVENT_UNDELIVERED,
                    customer=owner,
                    path=f"events.{event.id}",
                    theirs=event.type,
                    repair=Repair.REPLAY,
                )
                yield await self._replayed(event, drift, repair_as)

    async def _lost(
        self, page: Sequence[StoredEvent], customer_id: str | None, looks: Iterator[int]
    ) -> list[tuple[StoredEvent, str]]:
        """Those that are not on their way either: they are still missing when nothing comes in."""
        missing = await self._webhooks.missing(page)
        owned = await self._owned(missing, customer_id)
        if not owned:
            return []
        await self._until_quiet(looks)
        missing = await self._webhooks.missing([event for event, _ in owned])
        return [(event, owner) for event, owner in owned if event in missing]

    async def _until_quiet(self, looks: Iterator[int]) -> None:
        """Pause until no event came in twice in a row: many at once take their time to come."""
        received, quiet = await self._webhooks.count(), 0
        while quiet < 2:
            await asyncio.sleep(self.pace.pause_seconds)
            before, received = received, await self._webhooks.count()
            quiet = quiet + 1 if received == before else 0
            if next(looks, None) is None:
                return

    async def _owned(
        self, events: Iterable[StoredEvent], customer_id: str | None
    ) -> list[tuple[StoredEvent, str]]:
        """Events with whose they are; those about nobody of ours are left out."""
        events = list(events)
        ids = {event.customer_provider_id for event in events}
        async with self._database.read() as session:
            rows = await session.execute(
                select(CustomerRow.provider_id, CustomerRow.id).where(
                    CustomerRow.provider_id.in_(ids)
                )
            )
            owners = {row.provider_id: row.id for row in rows}
        owned = [(event, owners.get(event.customer_provider_id)) for event in events]
        return [(e, owner) for e, owner in owned if owner and customer_id in (None, owner)]

    async def _replayed(self, event: StoredEvent, drift: Drift, repair_as: Actor | None) -> Finding:
        if repair_as is None:
            return Finding(drift=drift)
        status = await self._webhooks.replay(event)
        if status != "done":
            return Finding(drift=drift, note=f"it is {status}")
        await self._record(repair_as, drift.customer, [drift])
        return Finding(drift=drift, mended=True)


@contextmanager
def _noting(repair: Repair, notes: dict[Repair, str]) -> Iterator[None]:
    """Why a repair did not work is said beside what it left; the provider's absence ends it all."""
    try:
        yield
    except PaymentProviderUnavailable:
        raise
    except ServiceError as error:
        notes[repair] = f"{error.code}: {error.message}"


def _slot(item: ItemSide) -> Slot:
    """What an item of ours stands for, as far as the provider is concerned."""
    slot, quantity = slot_of(item.price), item.quantity or 0
    return Slot(
        slot.package_id,
        slot.version,
        slot.charge_id,
        quantity,
        quantity,
        metered=item.quantity is None,
        price_factor=slot.price_factor,
    )


def _told(drift: Drift) -> dict[str, object]:
    return {
        "kind": drift.kind,
        "subscription": drift.subscription,
        "path": drift.path,
        "ours": drift.ours,
        "theirs": drift.theirs,
        "repair": drift.repair,
    }
