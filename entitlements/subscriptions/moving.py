"""Moving holders of older versions, as the policies say that were published with newer ones.

What is due at the end of a period waits in the queue like any scheduled change, from that period's
beginning on: the provider is told of it, and whoever lets the queue take effect moves the price.
What is due at once is a change like any other, prorated onto the next invoice.

A subscription is looked at when its `policies_due_at` has come: a policy was published, it was
renewed or changed. A look is one transaction for a batch of customers, and leaves behind what waits
and when to look again: whoever dies, the next look finds the rest, and nothing twice.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
import structlog
from sqlalchemy import func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from entitlements.audit import ledger
from entitlements.catalog.model import Catalog, ChangeTiming, ProrationMode
from entitlements.catalog.proposals import GrandfatherPolicy, PublishedPolicy
from entitlements.kernel.clock import Clock, wall_now
from entitlements.kernel.errors import Conflict, QuoteStale, ServiceError, ValidationFailed
from entitlements.kernel.ids import new_id
from entitlements.kernel.tracing import traced
from entitlements.notices import outbox
from entitlements.notices.events import Event
from entitlements.storage.engine import is_unreachable
from entitlements.storage.unit_of_work import Database
from entitlements.subscriptions.change import Authority, ChangeDirection, ChangePlan, plan_change
from entitlements.subscriptions.due import apply_due
from entitlements.subscriptions.grandfathering import Move, look_again_at, terms_of
from entitlements.subscriptions.queue import Dropped, in_effect, is_due
from entitlements.subscriptions.quote import Quote
from entitlements.subscriptions.quoting import Quoting
from entitlements.subscriptions.records import (
    being_changed,
    drop,
    load_states,
    lock_free,
    look_at_policies,
    raise_future,
    record,
)
from entitlements.subscriptions.request import ChangeRequest
from entitlements.subscriptions.service import Caller, ChangeService
from entitlements.subscriptions.standing import (
    STILL,
    Due,
    HeldUp,
    Policies,
    calendars_of,
    due_at_renewal,
    due_now,
    notice_of,
    policies_of,
    way_back,
)
from entitlements.subscriptions.state import (
    CustomerState,
    Item,
    Subscription,
)
from entitlements.subscriptions.tables import (
    ChangeRow,
    CustomerRow,
    MigrationRow,
    SubscriptionItemRow,
    SubscriptionRow,
)
from entitlements.subscriptions.violations import levels_in_use

log = structlog.get_logger()

MOVE, WAY_BACK = "policyMove", "policyReturn"
"""How a change by a policy is named, where others have the mutation that asked for them."""

CUSTOMERS_AT_A_TIME = 50
MARKED_AT_A_TIME = 200
RETRY_AFTER = timedelta(minutes=1)

SYSTEM = Caller(ledger.SYSTEM, Authority.STAFF)

Names = Mapping[tuple[str, str, int], MigrationRow]
"""Migrations by proposal, package, and the version moved from."""


def moves_somebody(published: PublishedPolicy) -> bool:
    kinds = {published.policy.price, published.policy.entitlements}
    return kinds != {GrandfatherPolicy.KEEP}


def held_up(migrations: Names) -> HeldUp:
    return {name for name, row in migrations.items() if row.status != "active"}


async def load_migrations(session: AsyncSession, *, lock: bool = False) -> Names:
    """`lock`: nobody decides anything of them until the transaction ends."""
    query = select(MigrationRow)
    rows = await session.scalars(query.with_for_update(read=True) if lock else query)
    return {(row.proposal_id, row.package_id, row.from_version): row for row in rows}


class _Batch(msgspec.Struct, frozen=True):
    """What a look at some customers knows beside them."""

    catalog: Catalog
    policies: Policies
    migrations: dict[tuple[str, str, int], MigrationRow]
    now: datetime
    at_once: list[tuple[str, str, ChangeRequest]]  # for the provider: customer, key, move


class Moving:
    def __init__(
        self,
        database: Database,
        catalog: Callable[[], Awaitable[Catalog]],
        policies: Callable[[], Awaitable[Policies]],
        clock: Clock,
        quoting: Quoting,
        changes: ChangeService,
    ) -> None:
        self._database = database
        self._catalog = catalog
        self._policies = policies
        self._clock = clock
        self._quoting = quoting
        self._changes = changes
        self._opened: set[tuple[str, str]] = set()

    async def next_at(self, after: datetime, until: datetime) -> datetime | None:
        """When to look next, later than one instant and by another."""
        query = select(func.min(SubscriptionRow.policies_due_at)).where(
            SubscriptionRow.policies_due_at > after, SubscriptionRow.policies_due_at <= until
        )
        async with self._database.read() as session:
            look_at = await session.scalar(query)
        published = [
            one.published_at
            for each in (await self._policies()).values()
            for one in each
            if after < one.published_at <= until
        ]
        return min([*published, *([look_at] if look_at else [])], default=None)

    async def work(self, limit: int = CUSTOMERS_AT_A_TIME) -> int:
        """Look at up to `limit` subscriptions whose time has come; how many it were."""
        now = self._clock.now()
        await self._open(await self._policies(), now)
        query = (
            select(SubscriptionRow.customer_id)
            .where(SubscriptionRow.policies_due_at <= now, ~being_changed())
            .order_by(SubscriptionRow.policies_due_at, SubscriptionRow.id)
            .limit(limit)
        )
        async with self._database.read() as session:
            customer_ids = list(dict.fromkeys(await session.scalars(query)))
        if not customer_ids:
            return 0
        try:
            return await self._look_at_each(customer_ids, now)
        except Exception as error:
            if is_unreachable(error):
                raise
            log.warning("not_looked_at_together", error=type(error).__name__)
        return sum([await self._look_alone(customer_id, now) for customer_id in customer_ids])

    async def _look_alone(self, customer_id: str, now: datetime) -> int:
        """After a fault, which is the fault of one: that one is left alone for a while."""
        try:
            return await self._look_at_each([customer_id], now)
        except Exception as error:
            if is_unreachable(error):
                raise
            log.error("not_looked_at", customer=customer_id, error=repr(error)[:200])
        async with self._database.write() as session:
            await session.execute(
                update(SubscriptionRow)
                .where(
                    SubscriptionRow.customer_id == customer_id,
                    SubscriptionRow.policies_due_at <= now,
                )
                .values(policies_due_at=now + RETRY_AFTER)
            )
        return 1

    @traced("policies.move")
    async def _look_at_each(self, customer_ids: Sequence[str], now: datetime) -> int:
        """Look at what some customers hold, in one transaction, and do what is due at once."""
        catalog, policies = await self._catalog(), await self._policies()
        async with self._database.write() as session:
            migrations = dict(await load_migrations(session, lock=True))
            batch = _Batch(catalog, policies, migrations, now, [])
            looked = await self._look_at(session, batch, customer_ids)
        for customer_id, key, request in batch.at_once:
            await self._move_now(customer_id, key, request)
        return looked

    # ── opening ──────────────────────────────────────────────────────────────

    async def _open(self, policies: Policies, now: datetime) -> None:
        """What was published since: its migrations are begun, and every holder is to be looked at.

        A few hundred at a time, from where it stopped; once more does no harm.
        """
        for package_id, each in policies.items():
            for published in each:
                name = (published.proposal_id, package_id)
                if name in self._opened or published.published_at > now:
                    continue
                if moves_somebody(published):
                    await self._begin(published, now)
                self._opened.add(name)

    async def _begin(self, published: PublishedPolicy, now: datetime) -> None:
        package_id = published.policy.package_id
        async with self._database.write() as session:
            held = await session.scalars(
                select(SubscriptionItemRow.version)
                .where(
                    SubscriptionItemRow.package_id == package_id,
                    SubscriptionItemRow.version < published.version,
                )
                .distinct()
            )
            for version in held.all():
                await self._migration(session, published, version, now)
        query = select(MigrationRow.id).where(
            MigrationRow.proposal_id == published.proposal_id,
            MigrationRow.package_id == package_id,
            MigrationRow.opened_at.is_(None),
        )
        async with self._database.read() as session:
            unopened = (await session.scalars(query.order_by(MigrationRow.from_version))).all()
        for migration_id in unopened:
            while not await self._mark(migration_id, now):
                pass

    async def _migration(
        self,
        session: AsyncSession,
        published: PublishedPolicy,
        version: int,
        now: datetime,
        *,
        opened_at: datetime | None = None,
    ) -> MigrationRow:
        """The migration of those who hold one version, begun by whoever comes first. Who came to
        that version late is looked at already: then all that there are are (`opened_at`)."""
        name = {
            "proposal_id": published.proposal_id,
            "package_id": published.policy.package_id,
            "from_version": version,
        }
        insert = postgresql.insert if self._database.is_postgresql else sqlite.insert
        values = {
            "id": new_id("mig"),
            **name,
            "to_version": published.version,
            "status": "active",
            "created_at": now,
            "opened_at": opened_at,
        }
        await session.execute(insert(MigrationRow).values(**values).on_conflict_do_nothing())
        return (await session.scalars(select(MigrationRow).filter_by(**name))).one()

    async def _mark(self, migration_id: str, now: datetime) -> bool:
        """Have the next holders looked at; True once all are."""
        async with self._database.write() as session:
            row = await session.get_one(MigrationRow, migration_id, with_for_update=True)
            if row.opened_at is not None:
                return True  # by another worker
            query = select(SubscriptionItemRow.subscription_id).where(
                SubscriptionItemRow.package_id == row.package_id,
                SubscriptionItemRow.version == row.from_version,
            )
            if row.marked_to is not None:
                query = query.where(SubscriptionItemRow.subscription_id > row.marked_to)
            query = query.order_by(SubscriptionItemRow.subscription_id).limit(MARKED_AT_A_TIME)
            holders = (await session.scalars(query)).all()
            if not holders:
                row.opened_at, row.marked_to = now, None
                return True
            await session.execute(
                update(SubscriptionRow)
                .where(
                    SubscriptionRow.id.in_(holders),
                    SubscriptionRow.ended_at.is_(None),
                    or_(
                        SubscriptionRow.policies_due_at.is_(None),
                        SubscriptionRow.policies_due_at > now,
                    ),
                )
                .values(policies_due_at=now)
            )
            row.marked_to = holders[-1]
        return False

    # ── looking ──────────────────────────────────────────────────────────────

    async def _look_at(
        self, session: AsyncSession, batch: _Batch, customer_ids: Sequence[str]
    ) -> int:
        """Look at what some customers hold, those left out whom somebody else works on."""
        rows = await lock_free(session, customer_ids)
        subscriptions: dict[str, list[SubscriptionRow]] = {row.id: [] for row in rows}
        for found in await session.scalars(
            select(SubscriptionRow)
            .where(
                SubscriptionRow.customer_id.in_(subscriptions),
                SubscriptionRow.policies_due_at <= batch.now,
                ~being_changed(),
            )
            .order_by(SubscriptionRow.id)
        ):
            subscriptions[found.customer_id].append(found)
        states = await load_states(session, rows)
        await ledger.read_heads(session, [ledger.customer_stream(row.id) for row in rows])
        held = [row.id for each in subscriptions.values() for row in each]
        items = {
            item.id: item
            for item in await session.scalars(
                select(SubscriptionItemRow).where(SubscriptionItemRow.subscription_id.in_(held))
            )
        }
        looked = 0
        for row in rows:
            for subscription in subscriptions[row.id]:
                await self._look(session, batch, states[row.id], row, subscription, items)
                looked += 1
        return looked

    async def _look(
        self,
        session: AsyncSession,
        batch: _Batch,
        state: CustomerState,
        row: CustomerRow,
        subscription: SubscriptionRow,
        items: Mapping[str, SubscriptionItemRow],
    ) -> None:
        """Let what is due of a subscription wait for the end of its period, or happen at once."""
        held = next(s for s in state.subscriptions if s.id == subscription.id)
        subscription.policies_due_at = None
        if not held.live or held.on_trial or held.status in STILL or held.cancel_at is not None:
            return  # when that changes it is looked at again
        if is_due(held, batch.now) and (held.provider_id is not None or held.queue):
            return  # the renewal comes first, and has it looked at
        if held.provider_id is None:  # nobody tells of its renewals: a queue needs the period
            state = in_effect(batch.catalog, state, batch.now)
            held = next(s for s in state.subscriptions if s.id == subscription.id)
            subscription.period_start, subscription.period_end = held.period.start, held.period.end
        queued = {e.request.move.package_id: e for e in held.queue if e.request.move is not None}
        again: list[datetime] = []
        for item in held.items:
            known = self._known(batch, item)
            await self._tell(session, batch, row, subscription, item, known, items[item.id])
            move = await self._move(session, batch, item, due_now(item, known, held, batch.now))
            if move is not None:
                if move.to.version == item.version:
                    if await self._apply(session, batch, state, row, held, move):
                        look_at_policies(subscription)
                    else:  # the next renewal has it tried again
                        subscription.policies_due_at = None
                else:
                    key = f"{move.migration_id}:{int(held.period.start.timestamp())}"
                    request = _request(held, move, ChangeTiming.NOW, known)
                    batch.at_once.append((row.id, key, request))
                    subscription.policies_due_at = batch.now + RETRY_AFTER
                return
            move = await self._wanted(session, batch, held, item, known)
            waiting = queued.pop(item.package_id, None)
            if waiting is not None and waiting.request.move != move:
                code = "REPLACED" if move else "NO_LONGER_APPLIES"
                gone = Dropped(
                    waiting.change_id, waiting.description, code, "policies have changed"
                )
                row.revision += 1
                await drop(session, batch.now, ledger.SYSTEM, row, [gone])
                raise_future(subscription)
                held, state = _without(held, state, waiting.change_id)
                waiting = None
            if move is not None and waiting is None:
                request = _request(held, move, ChangeTiming.PERIOD_END, known)
                await self._schedule(session, batch, state, row, subscription, request)
            elif move is None:
                later = look_again_at(terms_of(item), known, calendars_of(held), held.period.end)
                again += [later] if later is not None else []
        subscription.policies_due_at = min(again, default=None)

    def _known(self, batch: _Batch, item: Item) -> list[PublishedPolicy]:
        return policies_of(item, batch.policies, held_up(batch.migrations), batch.now)

    async def _tell(
        self,
        session: AsyncSession,
        batch: _Batch,
        row: CustomerRow,
        subscription: SubscriptionRow,
        item: Item,
        known: Sequence[PublishedPolicy],
        stored: SubscriptionItemRow,
    ) -> None:
        """The notice that a price will move, once for each version."""
        told = notice_of(known, item, stored.notified_version or 0)
        if told is None:
            return
        stored.notified_version = told.version
        await outbox.append(
            session,
            Event.PRICE_MOVING,
            batch.now,
            row.id,
            row.revision,
            subscriptionId=subscription.id,
            fromVersionId=f"{item.package_id}@{item.version}",
            toVersionId=f"{item.package_id}@{told.version}",
        )

    async def _move(
        self, session: AsyncSession, batch: _Batch, item: Item, due: Due | None
    ) -> Move | None:
        """A move that is due, under the name of its migration."""
        if due is None:
            return None
        migration_id = item.migration_id
        if due.policy is not None:
            name = (due.policy.proposal_id, item.package_id, item.version)
            if name not in batch.migrations:
                batch.migrations[name] = await self._migration(
                    session, due.policy, item.version, batch.now, opened_at=batch.now
                )
            migration_id = batch.migrations[name].id
        return Move(
            package_id=item.package_id,
            before=terms_of(item),
            to=due.to,
            migration_id=migration_id,
            migration_before=item.migration_id,
        )

    async def _wanted(
        self,
        session: AsyncSession,
        batch: _Batch,
        held: Subscription,
        item: Item,
        known: Sequence[PublishedPolicy],
    ) -> Move | None:
        """What is to become of an item at the end of the period, if anything."""
        by_id = {row.id: row for row in batch.migrations.values()}
        mover = by_id.get(item.migration_id or "")
        if mover is not None and mover.status == "rolled_back":
            first = await _first_move(session, mover.id, held.id, item.package_id)
            return way_back(item, first) if first is not None else None
        due = due_at_renewal(item, known, held)
        if due is not None and due.to.rises and mover is not None and mover.status == "paused":
            due = None
        return await self._move(session, batch, item, due)

    # ── moving ───────────────────────────────────────────────────────────────

    async def _schedule(
        self,
        session: AsyncSession,
        batch: _Batch,
        state: CustomerState,
        row: CustomerRow,
        subscription: SubscriptionRow,
        request: ChangeRequest,
    ) -> None:
        """A move waits for the end of the period, and the provider is to be told."""
        plan = await self._planned(session, batch, state, row, request)
        if plan is None:
            return
        change = _change(row, plan, request, batch.now)
        session.add(change)
        row.revision += 1
        if plan.before != plan.after:
            raise_future(subscription)
        elif not subscription.future_generation:
            subscription.future_generation = 1  # it has a queue
        await record(
            session,
            batch.now,
            ledger.SYSTEM,
            row,
            "change.scheduled",
            object_type="change",
            object_id=change.id,
            after={
                "description": plan.description,
                "effective_at": plan.effective_at,
                "migration": change.migration_id,
                "items": plan.items,
            },
            reason=change.reason,
        )

    async def _apply(
        self,
        session: AsyncSession,
        batch: _Batch,
        state: CustomerState,
        row: CustomerRow,
        held: Subscription,
        move: Move,
    ) -> bool:
        """Entitlements move at once and alone: the provider has no part in it. False where they
        cannot."""
        known = self._known(batch, next(i for i in held.items if i.package_id == move.package_id))
        request = _request(held, move, ChangeTiming.PERIOD_END, known)
        plan = await self._planned(session, batch, state, row, request)
        if plan is None:
            return False
        change = _change(row, plan, request, batch.now)
        change.effective_at = batch.now
        session.add(change)
        subscription = await session.get_one(SubscriptionRow, held.id)
        subscription.future_generation = max(1, subscription.future_generation)
        await session.flush()
        await apply_due(session, batch.catalog, row, batch.now, batch.now)
        return change.status == "applied"

    async def _planned(
        self,
        session: AsyncSession,
        batch: _Batch,
        state: CustomerState,
        row: CustomerRow,
        request: ChangeRequest,
    ) -> ChangePlan | None:
        """What a move comes to. One that cannot be made is kept as failed, with the reason."""
        assert request.move is not None
        held = next(s for s in state.subscriptions if s.product_id == request.product_id and s.live)
        package = batch.catalog.version(request.move.package_id, request.move.to.version)
        counted = {charge.quantity_feature for charge in package.charges} - {None}
        levels: Mapping[str, int] = {}
        if counted - held.quantities.keys():
            used = await self._quoting.used(session, batch.catalog, state)
            levels = levels_in_use(batch.catalog, used)
        try:
            return plan_change(
                batch.catalog,
                state,
                request,
                batch.now,
                authority=Authority.STAFF,
                levels_in_use=levels,
            )
        except (ValidationFailed, Conflict) as error:
            code = error.issues[0].code if isinstance(error, ValidationFailed) else error.code
            await self._failed(session, batch, row, held, request, code, error.message)
            return None

    async def _failed(
        self,
        session: AsyncSession,
        batch: _Batch,
        row: CustomerRow,
        held: Subscription,
        request: ChangeRequest,
        code: str,
        message: str,
    ) -> None:
        assert request.move is not None
        known = await session.scalar(
            select(ChangeRow.id).where(
                ChangeRow.migration_id == request.move.migration_id,
                ChangeRow.status == "failed",
                ChangeRow.subscription_id == held.id,
                ChangeRow.failure_code == code,
            )
        )
        log.warning("not_moved", subscription=held.id, package=request.move.package_id, code=code)
        if known is not None:
            return
        change = ChangeRow(
            **_about(row, held.id, request, batch.now),
            status="failed",
            direction=ChangeDirection.SIDEGRADE.value,
            description=f"{request.move.package_id}@{request.move.to.version}",
            plan="{}",
            currency=held.currency,
            effective_at=held.period.end,
            lines=[],
            total_minor=0,
            mrr_delta_minor=0,
            failure_code=code,
            failure_message=message,
            settled_at=batch.now,
        )
        session.add(change)
        row.revision += 1
        await record(
            session,
            batch.now,
            ledger.SYSTEM,
            row,
            "change.failed",
            object_type="change",
            object_id=change.id,
            after={"status": "failed", "failure": code, "migration": change.migration_id},
            reason=change.reason,
        )

    async def _move_now(self, customer_id: str, key: str, request: ChangeRequest) -> None:
        """A price moves within the period: a change like any other, once by its key."""
        assert request.move is not None

        async def quoted() -> Quote:
            row, state = await self._quoting.loaded(customer_id)
            return await self._quoting.quote_state(row, state, request, Authority.STAFF)

        try:
            await self._changes.do(SYSTEM, customer_id, MOVE, key, request.move, quoted)
        except QuoteStale:
            return
        except ServiceError as error:
            log.info("not_moved_now", customer=customer_id, code=error.code)


def _without(
    held: Subscription, state: CustomerState, change_id: str
) -> tuple[Subscription, CustomerState]:
    """A subscription, and its customer, without a change that does not wait any more."""
    queue = tuple(entry for entry in held.queue if entry.change_id != change_id)
    then = msgspec.structs.replace(held, queue=queue)
    every = tuple(then if s.id == held.id else s for s in state.subscriptions)
    return then, msgspec.structs.replace(state, subscriptions=every)


async def _first_move(
    session: AsyncSession, migration_id: str, subscription_id: str, package_id: str
) -> Move | None:
    """The move by which a migration took up an item: from there it came."""
    requests = await session.scalars(
        select(ChangeRow.request)
        .where(
            ChangeRow.migration_id == migration_id,
            ChangeRow.status == "applied",
            ChangeRow.subscription_id == subscription_id,
        )
        .order_by(ChangeRow.id)
    )
    moves = [msgspec.convert(request, ChangeRequest).move for request in requests]
    return next((m for m in moves if m is not None and m.package_id == package_id), None)


def _request(
    held: Subscription, move: Move, timing: ChangeTiming, known: Sequence[PublishedPolicy]
) -> ChangeRequest:
    said = [one.reason for one in known if one.version == move.to.version]
    return ChangeRequest(
        product_id=held.product_id,
        timing=timing,
        proration=ProrationMode.NEXT_INVOICE if timing is ChangeTiming.NOW else None,
        reason=(said[-1] if said else "") or "a policy for holders of older versions",
        move=move,
    )


def _change(row: CustomerRow, plan: ChangePlan, request: ChangeRequest, now: datetime) -> ChangeRow:
    return ChangeRow(
        **_about(row, plan.subscription_id, request, now),
        status="scheduled",
        direction=plan.direction.value,
        description=plan.description,
        plan=msgspec.json.encode(plan).decode(),
        levels=dict(plan.quantities),
        currency=plan.currency,
        effective_at=plan.effective_at,
        lines=[],
        total_minor=0,
        mrr_delta_minor=plan.mrr_delta_minor,
    )


def _about(
    row: CustomerRow, subscription_id: str | None, request: ChangeRequest, now: datetime
) -> dict[str, Any]:
    """What every change by a policy says, made by the service itself."""
    assert request.move is not None
    id, started_at = new_id("chg"), wall_now()
    returns = request.move.to.price_factor is not None
    return {
        "id": id,
        "customer_id": row.id,
        "product_id": request.product_id,
        "subscription_id": subscription_id,
        "migration_id": request.move.migration_id,
        "mutation": WAY_BACK if returns else MOVE,
        "idempotency_key": id,
        "request_digest": "",
        "request": msgspec.to_builtins(request),
        "created_at": now,
        "started_at": started_at,
        "leased_until": started_at,
        "created_by": ledger.SYSTEM.name,
        "authority": Authority.STAFF.value,
        "reason": request.reason,
        "due_now_minor": 0,
    }
