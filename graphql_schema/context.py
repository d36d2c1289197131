"""What every resolver is given: the principal, the services, and per-request loaders."""

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cached_property

from strawberry.dataloader import DataLoader
from strawberry.types import Info as StrawberryInfo

from entitlements.access.offering import DENIALS_AT_MOST, Denial, Offered
from entitlements.access.streams import StillGood
from entitlements.catalog.model import Catalog
from entitlements.services import Services
from entitlements.subscriptions.customers import CustomerView
from entitlements.subscriptions.service import Caller
from entitlements.subscriptions.standing import HeldUp, Policies
from entitlements.subscriptions.violations import Used
from graphql_schema.documents import Documents
from graphql_schema.permissions import DENIALS, OVERRIDES, PROVIDER_IDS, Principal

Then = tuple[str, datetime]
"""A customer's id, and an instant."""


async def _for_good() -> float | None:
    return None


def _always() -> None:
    return None


class Context:
    """One request's. `now` and `catalog` are fixed for it, so that all its fields agree.

    `still_good` asks whether the principal still is one: for a subscription, and for each root
    field of a connection that is `lasting`. `admit` refuses one operation too many of such a
    connection: others are counted before they come here.
    """

    def __init__(
        self,
        services: Services,
        principal: Principal,
        request_id: str | None,
        *,
        documents: Documents | None = None,
        still_good: StillGood = _for_good,
        admit: Callable[[], None] = _always,
        lasting: bool = False,
    ) -> None:
        self.services = services
        self.principal = principal
        self.request_id = request_id
        self.documents = documents
        self.still_good = still_good
        self.admit = admit
        self.lasting = lasting
        self._catalog: Catalog | None = None
        self._denials: set[Denial] = set()

    def renewed(self) -> "Context":
        """For another operation of the same connection."""
        return Context(
            self.services,
            self.principal,
            self.request_id,
            documents=self.documents,
            still_good=self.still_good,
            admit=self.admit,
            lasting=self.lasting,
        )

    @cached_property
    def now(self) -> datetime:
        return self.services.clock.now()

    async def catalog(self) -> Catalog:
        if self._catalog is None:
            self._catalog = await self.services.catalog.as_of(self.now)
        return self._catalog

    def changed(self) -> None:
        """Forget what was read before a mutation changed it."""
        self._catalog = None
        self.__dict__.pop("now", None)
        self.__dict__.pop("customers", None)
        self.__dict__.pop("customers_then", None)
        self.__dict__.pop("usage", None)
        self.__dict__.pop("_in_force", None)
        self.__dict__.pop("_offers", None)

    @property
    def caller(self) -> Caller:
        return self.principal.caller(self.request_id)

    @property
    def may_see_provider_ids(self) -> bool:
        return self.principal.role in PROVIDER_IDS

    @property
    def may_see_overrides(self) -> bool:
        return self.principal.role in OVERRIDES

    @property
    def may_see_denials(self) -> bool:
        return self.principal.role in DENIALS

    @cached_property
    def customers(self) -> DataLoader[str, CustomerView | None]:
        """Customers with what they hold, by id, a batch at a time."""
        return DataLoader(load_fn=self.services.customers.views)

    async def in_force(self) -> tuple[Policies, HeldUp]:
        """Policies for holders of older versions, and the migrations that move nobody now."""
        return await self._in_force.load("all")

    @cached_property
    def _in_force(self) -> DataLoader[str, tuple[Policies, HeldUp]]:
        async def load(keys: list[str]) -> list[tuple[Policies, HeldUp]]:
            return [await self.services.migrations.in_force()] * len(keys)

        return DataLoader(load_fn=load)

    @cached_property
    def customers_then(self) -> DataLoader[Then, tuple[Catalog, CustomerView | None]]:
        """Customers as they stood, with what was sold then, by id and instant."""
        return DataLoader(load_fn=self._then)

    async def _then(self, asked: list[Then]) -> list[tuple[Catalog, CustomerView | None]]:
        found: dict[Then, tuple[Catalog, CustomerView | None]] = {}
        for at in sorted({at for _, at in asked}):
            ids = [id for id, when in asked if when == at]
            catalog = await self.services.catalog.as_of(at)
            views = await self.services.customers.views_at(ids, catalog, at)
            found |= {(id, at): (catalog, views.get(id)) for id in ids}
        return [found[one] for one in asked]

    @cached_property
    def usage(self) -> DataLoader[str, Mapping[str, Used]]:
        """What is used of every METERED feature, by the customer's id, a batch at a time."""
        return DataLoader(load_fn=self._usage, max_batch_size=200)

    async def _usage(self, customer_ids: list[str]) -> list[Mapping[str, Used]]:
        catalog, views = await self.catalog(), await self.customers.load_many(customer_ids)
        states = [view.state for view in views if view is not None]
        found = await self.services.usage.used(catalog, states, catalog.features.values(), self.now)
        return [found.get(customer_id, {}) for customer_id in customer_ids]

    async def unlocks(self, denial: Denial, first: int) -> list[Offered]:
        """What would unlock a denial; nothing for more than `DENIALS_AT_MOST` of a request."""
        self._denials.add(denial)
        if len(self._denials) > DENIALS_AT_MOST:
            self._denials.discard(denial)
            return []
        return await self._offers.load((denial, first))

    @cached_property
    def _offers(self) -> DataLoader[tuple[Denial, int], list[Offered]]:
        return DataLoader(load_fn=self._offered)

    async def _offered(self, asked: list[tuple[Denial, int]]) -> list[list[Offered]]:
        most = max(first for _, first in asked)
        found = await self.services.offering.offers([denial for denial, _ in asked], most)
        return [offers[:first] for offers, (_, first) in zip(found, asked, strict=True)]


Info = StrawberryInfo[Context, None]
