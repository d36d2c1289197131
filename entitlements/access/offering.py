"""Offering: for a denial, what would unlock it, each with a token that buys it at that price."""

import asyncio
from collections.abc import Sequence
from datetime import datetime

import msgspec

from entitlements.access.service import Check, UsedOf
from entitlements.access.snapshots import Known, Snapshots
from entitlements.access.unlocks import (
    Sold,
    Unlock,
    sold_by_feature,
    unlocks,
)
from entitlements.catalog.model import Catalog
from entitlements.kernel.clock import Clock
from entitlements.kernel.errors import Unavailable
from entitlements.storage.engine import is_unreachable
from entitlements.storage.unit_of_work import Database
from entitlements.subscriptions.queue import is_renewing
from entitlements.subscriptions.quoting import Quoting
from entitlements.subscriptions.records import unsettled_change

DENIALS_AT_MOST = 10
"""For how many denials of one request remedies are looked for."""


class Denial(msgspec.Struct, frozen=True):
    """A denial that wants its remedies: at a revision of the customer, or a later one."""

    customer_id: str
    check: Check
    revision: int


class Offered(msgspec.Struct, frozen=True):
    """A remedy and the token that buys it, in the catalog it is sold from."""

    catalog: Catalog
    unlock: Unlock
    token: str
    expires_at: datetime


class Offering:
    def __init__(
        self,
        database: Database,
        clock: Clock,
        snapshots: Snapshots,
        used: UsedOf,
        quoting: Quoting,
    ) -> None:
        self._database = database
        self._clock = clock
        self._snapshots = snapshots
        self._used = used
        self._quoting = quoting
        self._sold: tuple[Catalog, Sold] = (Catalog.EMPTY, {})

    async def offers(self, denials: Sequence[Denial], first: int) -> list[list[Offered]]:
        """What would unlock each denial, cheapest first, `first` at most.

        What is known and used of a customer is read once, however many denials they have. Empty
        where nothing helps, where nothing can be bought now (a change is under way, the period is
        being renewed), and where the database cannot be reached.
        """
        by_customer: dict[str, list[Denial]] = {}
        for denial in denials:
            by_customer.setdefault(denial.customer_id, []).append(denial)
        found: dict[Denial, list[Offered]] = {}
        for customer_id, theirs in by_customer.items():
            found |= await self._to_customer(customer_id, theirs, first)
        return [found.get(denial, []) for denial in denials]

    async def _to_customer(
        self, customer_id: str, denials: Sequence[Denial], first: int
    ) -> dict[Denial, list[Offered]]:
        try:
            return await self._priced(customer_id, denials, first)
        except Exception as error:
            if isinstance(error, Unavailable) or is_unreachable(error):
                return {}  # nothing could be bought either
            raise

    async def _priced(
        self, customer_id: str, denials: Sequence[Denial], first: int
    ) -> dict[Denial, list[Offered]]:
        at = self._clock.now()
        revision = max(denial.revision for denial in denials)
        known = await self._snapshots.get(customer_id, min_revision=revision)
        state = known.snapshot.state
        if state is None or is_renewing(state, at):
            return {}
        async with self._database.read() as session:
            if await unsettled_change(session, customer_id) is not None:
                return {}
        catalog = known.catalog
        used = (await self._used(catalog, [state], catalog.features.values(), at))[customer_id]

        def search() -> dict[Denial, list[Unlock]]:
            sold = self._sold_in(catalog)
            return {
                denial: unlocks(catalog, state, denial.check, used, at, first=first, sold=sold)
                for denial in denials
            }

        found = await asyncio.to_thread(search)  # others are answered meanwhile
        return {
            denial: [self._offered(known, unlock) for unlock in chosen]
            for denial, chosen in found.items()
        }

    def _sold_in(self, catalog: Catalog) -> Sold:
        if self._sold[0] is not catalog:
            self._sold = (catalog, sold_by_feature(catalog))
        return self._sold[1]

    def _offered(self, known: Known, unlock: Unlock) -> Offered:
        assert known.snapshot.state is not None
        token, expires_at = self._quoting.offer(known.snapshot.state, unlock.request, unlock.plan)
        return Offered(known.catalog, unlock, token, expires_at)
