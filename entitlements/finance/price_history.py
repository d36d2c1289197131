"""Which versions a package had, and who is still on each."""

from collections.abc import Mapping

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from entitlements.catalog.model import Catalog
from entitlements.subscriptions.holders import holders
from entitlements.subscriptions.lines import Book, slots_of


class Standing(msgspec.Struct, frozen=True):
    """Who holds a version: how many customers, and their MRR for it by currency."""

    customers: int
    mrr_minor: Mapping[str, int]


async def standing(session: AsyncSession, catalog: Catalog, package_id: str) -> dict[int, Standing]:
    """By version, of those that somebody holds by itself. What is tried is held, and has no MRR."""
    customers: dict[int, int] = {}
    mrr_minor: dict[int, dict[str, int]] = {}
    books: dict[str, Book] = {}  # what the same costs is worked out once
    async for batch in holders(session, [package_id]):
        for holder in batch:
            [item] = [item for item in holder.items if item.package_id == package_id]
            sums = mrr_minor.setdefault(item.version, {})
            minor = 0
            if not holder.on_trial:
                slots = slots_of(catalog, [item], holder.quantities)
                book = books.setdefault(holder.currency, Book(catalog, holder.currency))
                minor = sum(book.mrr_by_package(slots, holder.interval).values())
            sums[holder.currency] = sums.get(holder.currency, 0) + minor
            customers[item.version] = customers.get(item.version, 0) + 1
    return {version: Standing(n, mrr_minor[version]) for version, n in customers.items()}
