"""Which versions a package had, and who is still on each."""

from collections.abc import Mapping

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from entitlements.catalog.model import Catalog
from entitlements.subscriptions.holders import holders
from entitlements.subscriptions.lines import held_mrr_by_package


class Standing(msgspec.Struct, frozen=True):
    """Who holds a version: how many customers, and their MRR for it by currency."""

    customers: int
    mrr_minor: Mapping[str, int]


async def standing(session: AsyncSession, catalog: Catalog, package_id: str) -> dict[int, Standing]:
    """By version, of those that somebody holds by itself. What is tried is held, and has no MRR."""
    customers: dict[int, int] = {}
    mrr_minor: dict[int, dict[str, int]] = {}
    async for batch in holders(session, [package_id]):
        for holder in batch:
            held = holder.held
            [item] = [item for item in held.items if item.package_id == package_id]
            alone = msgspec.structs.replace(held, items=(item,))
            sums = mrr_minor.setdefault(item.version, {})
            minor = sum(held_mrr_by_package(catalog, alone).values())
            sums[held.currency] = sums.get(held.currency, 0) + minor
            customers[item.version] = customers.get(item.version, 0) + 1
    return {version: Standing(n, mrr_minor[version]) for version, n in customers.items()}
