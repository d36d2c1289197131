"""What a customer held at any instant, and by how much that moved the MRR.

Both are written in the transaction that raised the customer's revision, by whatever it did: so
nothing that changes a customer can forget them.
"""

import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import event, func, inspect, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from entitlements.catalog.model import Catalog
from entitlements.grants.tables import OverrideRow
from entitlements.kernel.clock import Clock
from entitlements.kernel.errors import ValidationFailed
from entitlements.kernel.period import format_instant
from entitlements.pricing.mrr import movement_kind
from entitlements.storage.announcing import announced
from entitlements.subscriptions.lines import held_mrr_by_package
from entitlements.subscriptions.records import load_states
from entitlements.subscriptions.state import CustomerState, held_plan
from entitlements.subscriptions.tables import (
    CUSTOMER_CHANNEL,
    ChangeRow,
    CustomerRevisionRow,
    CustomerRow,
    MrrMovementRow,
    SubscriptionItemRow,
    SubscriptionRow,
    TrialRow,
    announced_revision,
)

_HOLDINGS = "entitlements.holdings"

_SAYS_NOTHING = frozenset({"revision", "token_generation", "name", "email", "salt", "erased_at"})
"""Fields of a customer that are no part of what is held."""


@event.listens_for(Session, "before_flush")
def _note_holdings(session: Session, *_: object) -> None:
    """Whether a transaction may have changed what somebody holds: most that ask for a change, or
    tell of one, have not, and need not be looked at."""
    if not session.info.get(_HOLDINGS):
        touched = itertools.chain(session.new, session.deleted, session.dirty)
        session.info[_HOLDINGS] = any(_is_held(session, row) for row in touched)


def _is_held(session: Session, row: object) -> bool:
    if isinstance(row, CustomerRow) and row not in session.new:
        changed = inspect(row).attrs
        return any(changed[name].history.has_changes() for name in _CUSTOMER_FIELDS)
    if isinstance(row, ChangeRow) and row in session.new:
        return row.status == "scheduled"
    return isinstance(row, _HOLDING)


_CUSTOMER_FIELDS = frozenset(CustomerRow.__table__.columns.keys()) - _SAYS_NOTHING
_HOLDING = (CustomerRow, SubscriptionRow, SubscriptionItemRow, ChangeRow, TrialRow, OverrideRow)

Held = tuple[str, str, str]
"""A subscription, its plan, and a package held with it."""


def mrr_of(catalog: Catalog, state: CustomerState) -> dict[Held, int]:
    """The MRR of a customer, in minor units, by what it is paid for."""
    found: dict[Held, int] = {}
    for held in state.subscriptions:
        if held.live:
            plan = held_plan(catalog, held)
            for package_id, minor in held_mrr_by_package(catalog, held).items():
                found[held.id, plan[1].id if plan else "", package_id] = minor
    return found


class History:
    def __init__(self, catalog: Callable[[], Awaitable[Catalog]], clock: Clock) -> None:
        self._catalog = catalog
        self._clock = clock

    async def complete(self, session: AsyncSession) -> None:
        """Add what the transaction's changes of customers have come to. Their rows are locked."""
        await session.flush()
        ids = {
            announced_revision(key)[1]
            for channel, key in announced(session)
            if channel == CUSTOMER_CHANNEL
        }
        if not ids or not session.info.pop(_HOLDINGS, False):
            return
        query = select(CustomerRow).where(CustomerRow.id.in_(ids)).order_by(CustomerRow.id)
        rows = (await session.scalars(query)).all()
        states = await load_states(session, rows)
        catalog, now = await self._catalog(), self._clock.now()
        before = await _last_states(session, ids)
        changed = []
        for state in states.values():
            held = msgspec.to_builtins(state)
            if before.get(state.id, {}) | {"revision": state.revision} == held:
                continue  # a name, a change that was asked for: nothing of what is held
            revision = state.revision
            session.add(
                CustomerRevisionRow(customer_id=state.id, revision=revision, at=now, state=held)
            )
            changed.append(state)
        paid = await _paid(session, [state.id for state in changed])
        for state in changed:
            _add_movements(session, state, paid[state.id], mrr_of(catalog, state), now)
        await session.flush()


async def _last_states(session: AsyncSession, customer_ids: Collection[str]) -> dict[str, Any]:
    """What was remembered last of some customers, by id."""
    row = CustomerRevisionRow
    last = (
        select(row.customer_id, func.max(row.revision).label("revision"))
        .where(row.customer_id.in_(customer_ids))
        .group_by(row.customer_id)
        .subquery()
    )
    found = await session.execute(
        select(row.customer_id, row.state).join(
            last, (row.customer_id == last.c.customer_id) & (row.revision == last.c.revision)
        )
    )
    return dict(found.all())


class _Paid(msgspec.Struct):
    """What a customer's movements come to so far, and the months in which they began to pay."""

    mrr: dict[Held, int] = {}
    cohorts: set[str] = set()


async def _paid(session: AsyncSession, customer_ids: Collection[str]) -> dict[str, _Paid]:
    """That of some customers, by id."""
    row = MrrMovementRow
    known = await session.execute(
        select(
            row.customer_id,
            row.subscription_id,
            row.plan_id,
            row.package_id,
            func.sum(row.delta_minor),
            func.min(row.cohort),
        )
        .where(row.customer_id.in_(customer_ids))
        .group_by(row.customer_id, row.subscription_id, row.plan_id, row.package_id)
    )
    found = {customer_id: _Paid() for customer_id in customer_ids}
    for customer_id, subscription_id, plan_id, package_id, minor, cohort in known:
        paid = found[customer_id]
        paid.mrr[subscription_id, plan_id, package_id] = int(minor)
        paid.cohorts.add(cohort)
    return found


async def record_movements(
    session: AsyncSession, state: CustomerState, after: dict[Held, int], now: datetime
) -> None:
    """What is paid now, less what was until now."""
    paid = await _paid(session, [state.id])
    _add_movements(session, state, paid[state.id], after, now)


def _add_movements(
    session: AsyncSession, state: CustomerState, paid: _Paid, after: dict[Held, int], now: datetime
) -> None:
    before, cohorts = paid.mrr, paid.cohorts
    deltas = Counter(after)
    deltas.subtract(before)
    kind = movement_kind(sum(before.values()), sum(after.values()), paid_before=bool(cohorts))
    for (subscription_id, plan_id, package_id), delta_minor in deltas.items():
        if delta_minor:
            session.add(
                MrrMovementRow(
                    customer_id=state.id,
                    revision=state.revision,
                    subscription_id=subscription_id,
                    plan_id=plan_id,
                    package_id=package_id,
                    at=now,
                    currency=state.currency,
                    kind=kind.value,
                    cohort=min(cohorts, default=f"{now:%Y-%m}"),
                    delta_minor=delta_minor,
                )
            )


async def states_at(
    session: AsyncSession, customers: Collection[CustomerRow], at: datetime
) -> dict[str, CustomerState]:
    """What was stored of customers at an instant, in one statement, by id; nothing of those who
    were not customers yet.

    `ValidationFailed` `NOT_RECORDED` for one who is older than these records.
    """
    row = CustomerRevisionRow
    last = (
        select(row.revision)
        .where(row.customer_id == CustomerRow.id, row.at <= at)
        .order_by(row.at.desc(), row.revision.desc())
        .limit(1)
        .correlate(CustomerRow)
        .scalar_subquery()
    )
    found = await session.execute(
        select(row.customer_id, row.state)
        .join(CustomerRow, CustomerRow.id == row.customer_id)
        .where(CustomerRow.id.in_([customer.id for customer in customers]), row.revision == last)
    )
    states = {id: msgspec.convert(state, CustomerState) for id, state in found}
    for customer in customers:
        if customer.id not in states and customer.created_at <= at:
            words = f"what {customer.id!r} held at {format_instant(at)} was not recorded yet"
            raise ValidationFailed.of("at", "NOT_RECORDED", words)
    return states
