"""Everybody who holds something, a batch at a time, however many they are."""

from collections.abc import AsyncIterator, Collection, Sequence

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from entitlements.subscriptions.records import held_of, item_of
from entitlements.subscriptions.state import Item, Subscription, SubscriptionStatus
from entitlements.subscriptions.tables import SubscriptionItemRow, SubscriptionRow

AT_ONCE = 1000


class Holder(msgspec.Struct, frozen=True):
    """A live subscription, with all its items; what waits for its period's end is left out."""

    customer_id: str
    held: Subscription


async def holders(
    session: AsyncSession,
    package_ids: Collection[str] | None = None,
    *,
    at_once: int = AT_ONCE,
) -> AsyncIterator[Sequence[Holder]]:
    """Every live subscription in which one of the packages is held (None: every one)."""
    after = ""
    while True:
        query = select(SubscriptionRow).where(
            SubscriptionRow.id > after,
            SubscriptionRow.status != SubscriptionStatus.CANCELED.value,
        )
        if package_ids is not None:
            holding = select(SubscriptionItemRow.id).where(
                SubscriptionItemRow.subscription_id == SubscriptionRow.id,
                SubscriptionItemRow.package_id.in_(package_ids),
            )
            query = query.where(holding.exists())
        rows = (await session.scalars(query.order_by(SubscriptionRow.id).limit(at_once))).all()
        if not rows:
            return
        items: dict[str, list[Item]] = {row.id: [] for row in rows}
        for item in await session.scalars(
            select(SubscriptionItemRow)
            .where(SubscriptionItemRow.subscription_id.in_(items))
            .order_by(SubscriptionItemRow.id)
        ):
            items[item.subscription_id].append(item_of(item))
        yield [Holder(row.customer_id, held_of(row, tuple(items[row.id]), ())) for row in rows]
        after = rows[-1].id
        session.expunge_all()
