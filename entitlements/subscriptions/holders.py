"""Everybody who holds something, a batch at a time, however many they are."""

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, and_, exists, select
from sqlalchemy.ext.asyncio import AsyncSession

from entitlements.kernel.period import Interval
from entitlements.subscriptions.grandfathering import LIST, Calendar
from entitlements.subscriptions.state import SubscriptionStatus
from entitlements.subscriptions.tables import SubscriptionItemRow, SubscriptionRow

AT_ONCE = 1000


class HeldItem(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A package held, as far as its price goes (`state.Item` has all of it)."""

    package_id: str
    version: int
    entitlements_version: int
    quantity: int
    price_factor: Decimal = LIST
    cap_percent: Decimal | None = None


class Holder(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A live subscription with all its items, as far as its price goes (`state.Subscription` has
    all of it); what waits for its period's end is left out."""

    subscription_id: str
    customer_id: str
    status: SubscriptionStatus
    interval: Interval
    currency: str
    calendars: tuple[Calendar, ...]
    items: tuple[HeldItem, ...]
    quantities: Mapping[str, int] = {}
    on_trial: bool = False
    cancel_at: datetime | None = None


async def holders(
    session: AsyncSession,
    package_ids: Collection[str] | None = None,
    *,
    at_once: int = AT_ONCE,
) -> AsyncIterator[Sequence[Holder]]:
    """Every live subscription in which one of the packages is held (None: every one).

    Read in columns: there may be a hundred thousand of them, and somebody waits.
    """
    row, item = SubscriptionRow, SubscriptionItemRow
    wanted = row.status != SubscriptionStatus.CANCELED.value
    if package_ids is not None:
        held = (item.subscription_id == row.id, item.package_id.in_(package_ids))
        wanted = and_(wanted, exists().where(*held).correlate(row))
    query = select(
        row.id, row.customer_id, row.status, row.interval, row.currency, row.anchor,
        row.past_calendars, row.quantities, row.trial_ends_at, row.cancel_at,
    ).where(wanted).order_by(row.id).limit(at_once)  # fmt: skip
    after = ""
    while rows := (await session.execute(query.where(row.id > after))).all():
        last = rows[-1][0]
        items = await _items(session, and_(wanted, row.id > after, row.id <= last))
        yield [_holder(each, items.get(each[0], ())) for each in rows]
        after = last


async def _items(
    session: AsyncSession, wanted: ColumnElement[bool]
) -> Mapping[str, Sequence[HeldItem]]:
    """What is held in the subscriptions that are wanted, by their ids."""
    row = SubscriptionItemRow
    query = select(
        row.subscription_id, row.package_id, row.version, row.entitlements_version, row.quantity,
        row.price_factor, row.cap_percent,
    ).join(SubscriptionRow, SubscriptionRow.id == row.subscription_id).where(wanted)  # fmt: skip
    items: dict[str, list[HeldItem]] = {}
    for id, package_id, version, entitlements, quantity, factor, cap in (
        await session.execute(query)
    ).all():
        held = HeldItem(
            package_id=package_id,
            version=version,
            entitlements_version=entitlements,
            quantity=quantity,
            price_factor=LIST if factor is None else factor,
            cap_percent=cap,
        )
        items.setdefault(id, []).append(held)
    return items


def _holder(row: Any, items: Iterable[HeldItem]) -> Holder:
    id, customer_id, status, billed, currency, anchor, past, quantities, trial_ends_at, ends = row
    interval, now = Interval(billed), SubscriptionStatus(status)
    before = msgspec.convert(past, tuple[Calendar, ...]) if past else ()
    return Holder(
        subscription_id=id,
        customer_id=customer_id,
        status=now,
        interval=interval,
        currency=currency,
        calendars=(*before, Calendar(anchor, interval)),
        items=tuple(items),
        quantities=quantities,
        on_trial=now is SubscriptionStatus.TRIALING and trial_ends_at is not None,
        cancel_at=ends,
    )
