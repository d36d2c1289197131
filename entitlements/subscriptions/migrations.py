"""Migrations: how far a policy has moved those it speaks to; paused, resumed, rolled back; and who
is still on what, the legacy report.

How far one has come is counted from what is held and what was changed, never kept beside it.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Select, and_, exists, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from entitlements.audit import ledger
from entitlements.audit.ledger import Actor
from entitlements.catalog.model import Catalog
from entitlements.catalog.proposals import GrandfatherPolicy, Policy
from entitlements.catalog.service import CATALOG_STREAM
from entitlements.catalog.tables import CatalogProposalRow
from entitlements.kernel.clock import Clock
from entitlements.kernel.errors import Conflict, NotFound
from entitlements.kernel.money import Money
from entitlements.kernel.period import Interval
from entitlements.storage.installation import lock_installation
from entitlements.storage.unit_of_work import Database
from entitlements.subscriptions.grandfathering import (
    LIST,
    Calendar,
    Destination,
    PublishedPolicy,
    Terms,
    arrived,
    next_policy,
    renewals_after,
)
from entitlements.subscriptions.lines import Book, slots_of
from entitlements.subscriptions.moving import MOVE, WAY_BACK, held_up, load_migrations
from entitlements.subscriptions.standing import HeldUp, Policies
from entitlements.subscriptions.state import Item, SubscriptionStatus
from entitlements.subscriptions.tables import (
    ChangeRow,
    MigrationRow,
    SubscriptionItemRow,
    SubscriptionRow,
)

MIGRATIONS_AT_MOST = 200
ROWS_AT_A_TIME = 500
RISES_COUNTED = 240


class MigrationStatus(StrEnum):
    SCHEDULED = "scheduled"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    ROLLED_BACK = "rolled_back"


class Migration(msgspec.Struct, frozen=True, kw_only=True):
    """A migration and how far it is. `customers` are those that it has moved or is still to;
    `failed` of them cannot be moved as they are, and are tried again at each renewal."""

    row: MigrationRow
    proposal: CatalogProposalRow
    status: MigrationStatus
    customers: int
    moved: int
    failed: int

    @property
    def from_version_id(self) -> str:
        return f"{self.row.package_id}@{self.row.from_version}"

    @property
    def to_version_id(self) -> str:
        return f"{self.row.package_id}@{self.row.to_version}"


class LegacyVersion(msgspec.Struct, frozen=True, kw_only=True):
    """Who is on an older version, or below the list price of the latest; MRR in all, and what is
    missing to the list price of the latest, by currency. `ends_at` None: somebody stays."""

    package_id: str
    version: int
    customers: int
    mrr: tuple[Money, ...]
    gap_to_list: tuple[Money, ...]
    ends_at: datetime | None


class Migrations:
    def __init__(
        self,
        database: Database,
        catalog: Callable[[], Awaitable[Catalog]],
        policies: Callable[[], Awaitable[Policies]],
        clock: Clock,
    ) -> None:
        self._database = database
        self._catalog = catalog
        self._policies = policies
        self._clock = clock

    async def in_force(self) -> tuple[Policies, HeldUp]:
        """Every policy, and the migrations that move nobody for now or any more."""
        async with self._database.read() as session:
            return await self._policies(), held_up(await load_migrations(session))

    # ── how far they are ─────────────────────────────────────────────────────

    async def every(self, status: MigrationStatus | None = None) -> list[Migration]:
        """The newest `MIGRATIONS_AT_MOST`, newest first; of one status where that is given."""
        query = select(MigrationRow, CatalogProposalRow).join(
            CatalogProposalRow, CatalogProposalRow.id == MigrationRow.proposal_id
        )
        query = query.order_by(MigrationRow.id.desc()).limit(MIGRATIONS_AT_MOST)
        async with self._database.read() as session:
            found = [
                await _progress(session, row, proposal)
                for row, proposal in (await session.execute(query)).all()
            ]
        return [each for each in found if status in (None, each.status)]

    async def migration(self, id: str) -> Migration:
        """`NotFound` where there is none."""
        async with self._database.read() as session:
            return await _progress(session, *await _found(session, id))

    # ── decided ──────────────────────────────────────────────────────────────

    async def pause(self, actor: Actor, id: str, reason: str) -> Migration:
        """Nobody is moved from now on, and no price that it capped rises. `Conflict`: PAUSED,
        ROLLED_BACK, REASON_REQUIRED."""
        return await self._decide(actor, id, "paused", reason, ("active",))

    async def resume(self, actor: Actor, id: str) -> Migration:
        """What was due meanwhile moves at its next renewal. `Conflict`: NOT_PAUSED."""
        return await self._decide(actor, id, "active", None, ("paused",))

    async def roll_back(self, actor: Actor, id: str, reason: str) -> Migration:
        """Whoever was moved returns at their next renewal, and nobody else is moved. Nothing that
        was paid is credited. `Conflict`: ROLLED_BACK, REASON_REQUIRED."""
        return await self._decide(actor, id, "rolled_back", reason, ("active", "paused"))

    async def _decide(
        self, actor: Actor, id: str, status: str, reason: str | None, allowed: Sequence[str]
    ) -> Migration:
        now = self._clock.now()
        if reason is not None and not reason.strip():
            raise Conflict("say why: finance will read it", code="REASON_REQUIRED")
        async with self._database.write() as session:
            await lock_installation(session)
            row, proposal = await _found(session, id, lock=True)
            if row.status not in allowed:
                code = "NOT_PAUSED" if row.status == "active" else row.status.upper()
                words = row.status.replace("_", " ")
                raise Conflict(f"the migration is {words}", code=code)
            before, row.status = row.status, status
            await session.execute(
                update(SubscriptionRow)
                .where(SubscriptionRow.ended_at.is_(None), _concerned(row))
                .values(policies_due_at=now)
                .execution_options(synchronize_session=False)
            )
            await ledger.append(
                session,
                stream=CATALOG_STREAM,
                at=now,
                actor=actor,
                action={"active": "migration.resumed"}.get(status, f"migration.{status}"),
                object_type="migration",
                object_id=row.id,
                before={"status": before},
                after={
                    "status": status,
                    "proposal": row.proposal_id,
                    "from": f"{row.package_id}@{row.from_version}",
                    "to": f"{row.package_id}@{row.to_version}",
                },
                reason=reason,
            )
            return await _progress(session, row, proposal)

    # ── the legacy report ────────────────────────────────────────────────────

    async def legacy(self, product_id: str | None = None) -> list[LegacyVersion]:
        """Every older version that somebody holds, by package and version. Reads all holders, a few
        hundred at a time."""
        catalog, now = await self._catalog(), self._clock.now()
        policies, stopped = await self.in_force()
        async with self._database.read() as session:
            held = await session.execute(
                select(SubscriptionItemRow.package_id, SubscriptionItemRow.version)
                .distinct()
                .order_by(SubscriptionItemRow.package_id, SubscriptionItemRow.version)
            )
            found = []
            for package_id, version in held.all():
                package = catalog.version(package_id, version)
                if product_id not in (None, package.product_id):
                    continue
                known = [
                    one
                    for one in policies.get(package_id, ())
                    if one.published_at <= now
                    and (one.proposal_id, package_id, version) not in stopped
                ]
                report = _Report(catalog, package_id, version, known, now)
                query = _holders(package_id, version)
                if version == catalog.latest_versions[package_id]:
                    query = query.where(SubscriptionItemRow.price_factor.is_not(None))
                rows = await session.stream(query.execution_options(yield_per=ROWS_AT_A_TIME))
                async for row in rows:
                    report.count(_Holding(*row))
                if report.customers:
                    found.append(report.said())
        return found


async def _found(
    session: AsyncSession, id: str, *, lock: bool = False
) -> tuple[MigrationRow, CatalogProposalRow]:
    row = await session.get(MigrationRow, id, with_for_update=lock)
    if row is None:
        raise NotFound("migration", id)
    return row, await session.get_one(CatalogProposalRow, row.proposal_id)


def _concerned(row: MigrationRow) -> ColumnElement[bool]:
    """Subscriptions that a migration has moved, is moving, or might."""
    item, change = SubscriptionItemRow, ChangeRow
    holders = select(item.subscription_id).where(
        or_(
            item.migration_id == row.id,
            and_(item.package_id == row.package_id, item.version == row.from_version),
        )
    )
    waiting = select(change.subscription_id).where(
        change.migration_id == row.id, change.status == "scheduled"
    )
    return or_(SubscriptionRow.id.in_(holders), SubscriptionRow.id.in_(waiting))


async def _progress(
    session: AsyncSession, row: MigrationRow, proposal: CatalogProposalRow
) -> Migration:
    left = _left(row, proposal)
    changes = select(func.count(ChangeRow.customer_id.distinct())).where(
        ChangeRow.migration_id == row.id
    )
    still = exists(left.where(SubscriptionItemRow.subscription_id == ChangeRow.subscription_id))
    back = aliased(ChangeRow)
    returned = exists().where(
        back.migration_id == row.id,
        back.subscription_id == ChangeRow.subscription_id,
        back.mutation == WAY_BACK,
        back.status == "applied",
    )
    moved = await session.scalar(
        changes.where(ChangeRow.status == "applied", ChangeRow.mutation == MOVE, ~still, ~returned)
    )
    failed = await session.scalar(changes.where(ChangeRow.status == "failed", still))
    remaining = await session.scalar(select(func.count()).select_from(left.subquery()))
    moved, failed, remaining = moved or 0, failed or 0, remaining or 0
    if row.status != "active":
        status = MigrationStatus(row.status)
    elif row.opened_at is not None and remaining <= failed:
        status = MigrationStatus.COMPLETED
    else:
        status = MigrationStatus.RUNNING if moved else MigrationStatus.SCHEDULED
    return Migration(
        row=row,
        proposal=proposal,
        status=status,
        customers=moved + remaining,
        moved=moved,
        failed=failed,
    )


def _left(row: MigrationRow, proposal: CatalogProposalRow) -> Select[str]:
    """Items that a migration is still to move."""
    policies = msgspec.convert(proposal.policies, list[Policy])
    policy = next(p for p in policies if p.package_id == row.package_id)
    query = (
        select(SubscriptionItemRow.id)
        .join(SubscriptionRow, SubscriptionRow.id == SubscriptionItemRow.subscription_id)
        .where(
            SubscriptionRow.ended_at.is_(None),
            SubscriptionItemRow.package_id == row.package_id,
            SubscriptionItemRow.version == row.from_version,
        )
    )
    if policy.price is GrandfatherPolicy.KEEP:  # the entitlements move alone
        query = query.where(SubscriptionItemRow.entitlements_version < row.to_version)
    return query


class _Holding(msgspec.Struct, frozen=True):
    """One row of the legacy report's query."""

    entitlements_version: int
    price_factor: Decimal | None
    cap_percent: Decimal | None
    quantity: int
    quantities: dict[str, int]
    interval: str
    currency: str
    anchor: datetime
    past_calendars: list[Any]
    status: str


def _holders(package_id: str, version: int) -> Select[Any]:
    item, subscription = SubscriptionItemRow, SubscriptionRow
    return (
        select(
            item.entitlements_version,
            item.price_factor,
            item.cap_percent,
            item.quantity,
            subscription.quantities,
            subscription.interval,
            subscription.currency,
            subscription.anchor,
            subscription.past_calendars,
            subscription.status,
        )
        .join(subscription, subscription.id == item.subscription_id)
        .where(
            item.package_id == package_id,
            item.version == version,
            subscription.ended_at.is_(None),
        )
    )


class _Report:
    """The holders of one version, counted; alike ones are worked out once."""

    def __init__(
        self,
        catalog: Catalog,
        package_id: str,
        version: int,
        known: Sequence[PublishedPolicy],
        now: datetime,
    ) -> None:
        self.customers = 0
        self._catalog = catalog
        self._package_id, self._version = package_id, version
        self._known, self._now = known, now
        self._mrr: dict[str, int] = {}
        self._gap: dict[str, int] = {}
        self._amounts: dict[bytes, tuple[int, int]] = {}
        self._ends: dict[object, datetime | None] = {}

    def count(self, holding: _Holding) -> None:
        self.customers += 1
        factor = holding.price_factor or LIST
        if holding.status != SubscriptionStatus.TRIALING:
            mrr, gap = self._amount(holding, factor)
            currency = holding.currency
            self._mrr[currency] = self._mrr.get(currency, 0) + mrr
            self._gap[currency] = self._gap.get(currency, 0) + gap
        past = msgspec.convert(holding.past_calendars, tuple[Calendar, ...])
        calendars = (*past, Calendar(holding.anchor, Interval(holding.interval)))
        key = (calendars, factor, holding.cap_percent)
        if key not in self._ends:
            self._ends[key] = self._ends_at(calendars, factor, holding.cap_percent)

    def _amount(self, holding: _Holding, factor: Decimal) -> tuple[int, int]:
        about = (holding.quantity, holding.quantities, holding.interval, holding.currency, factor)
        key = msgspec.json.encode(about, order="sorted")
        if key not in self._amounts:
            latest = self._catalog.latest_versions[self._package_id]
            mrr = self._priced(holding, self._version, factor)
            self._amounts[key] = mrr, self._priced(holding, latest, LIST) - mrr
        return self._amounts[key]

    def _priced(self, holding: _Holding, version: int, factor: Decimal) -> int:
        item = Item(
            id="",
            package_id=self._package_id,
            version=version,
            entitlements_version=version,
            quantity=holding.quantity,
            started_at=holding.anchor,
            price_factor=factor,
        )
        slots = slots_of(self._catalog, [item], holding.quantities)
        return Book(self._catalog, holding.currency).mrr(slots, Interval(holding.interval))

    def _ends_at(
        self, calendars: Sequence[Calendar], factor: Decimal, cap_percent: Decimal | None
    ) -> datetime | None:
        """When holders like these are off it: moved to a newer version, or at its list price."""
        moves = next_policy(
            self._known, calendars, self._now, lambda policy: policy.price, version=self._version
        )
        if moves is not None or not cap_percent:
            return moves[0] if moves else None
        terms = Terms(
            version=self._version,
            entitlements_version=self._version,
            price_factor=factor,
            cap_percent=cap_percent,
        )
        to = Destination(
            version=self._version,
            entitlements_version=self._version,
            cap_percent=cap_percent,
            rises=True,
        )
        for _, renewal in zip(
            range(RISES_COUNTED), renewals_after(calendars, self._now), strict=False
        ):
            terms = arrived(terms, to, lambda _: Fraction(0))
            if terms.price_factor == LIST:
                return renewal
        return None

    def said(self) -> LegacyVersion:
        ends = list(self._ends.values())
        known = [at for at in ends if at is not None]
        return LegacyVersion(
            package_id=self._package_id,
            version=self._version,
            customers=self.customers,
            mrr=_money(self._mrr),
            gap_to_list=_money(self._gap),
            ends_at=max(known) if len(known) == len(ends) else None,
        )


def _money(by_currency: dict[str, int]) -> tuple[Money, ...]:
    return tuple(Money(amount, currency) for currency, amount in sorted(by_currency.items()))
