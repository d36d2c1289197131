"""The catalog in effect laid out at the provider: what is there, what should be, what to do.

`plan` is pure. Each run plans anew from what it finds, so that one that was killed goes on where it
stopped, and a second one has nothing to do. What was edited there by hand (drift) is found by the
same comparison: on what we make we write what we said of it.
"""

import contextlib
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from decimal import InvalidOperation
from enum import StrEnum
from typing import Any

import msgspec
import stripe
from sqlalchemy import select

from entitlements.billing.prices import (
    ARCHIVED,
    PriceName,
    ProviderPrices,
    params_of,
    price_metadata,
    product_id_of,
    slot_of,
    terms,
)
from entitlements.billing.sdk import provider_errors
from entitlements.billing.tables import ProviderPriceRow
from entitlements.billing.transport import each
from entitlements.catalog.model import AnyPackage, Catalog
from entitlements.kernel.ids import new_id
from entitlements.kernel.period import Interval
from entitlements.storage.unit_of_work import Database
from entitlements.subscriptions.lines import Slot
from entitlements.subscriptions.state import TrialStatus
from entitlements.subscriptions.tables import (
    ChangeRow,
    SubscriptionItemRow,
    SubscriptionRow,
    TrialRow,
)

PRODUCTS_PER_CALL = 100


class Kind(StrEnum):
    """What is done to an object of the provider, in the order in which it is done."""

    CREATE_PRODUCT = "create_product"
    RENAME_PRODUCT = "rename_product"
    RESTORE_PRODUCT = "restore_product"
    CREATE_PRICE = "create_price"
    MOVE_LOOKUP_KEY = "move_lookup_key"
    RESTORE_PRICE = "restore_price"
    ARCHIVE_PRICE = "archive_price"
    ARCHIVE_PRODUCT = "archive_product"


STEPS = (
    {Kind.CREATE_PRODUCT, Kind.RENAME_PRODUCT, Kind.RESTORE_PRODUCT},
    {Kind.CREATE_PRICE},
    {Kind.MOVE_LOOKUP_KEY},
    {Kind.RESTORE_PRICE},
    {Kind.ARCHIVE_PRICE},
    {Kind.ARCHIVE_PRODUCT},
)
"""Each is finished before the next: within one, order does not matter."""


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to do. `name` is a lookup key or a product's id, `provider_id` the object's own.

    `drift`: it is not due because the catalog has changed, but because the object was edited there.
    """

    kind: Kind
    name: str
    provider_id: str | None = None
    before: str | None = None
    after: str | None = None
    drift: bool = False
    package_id: str
    price: PriceName | None = None

    @property
    def words(self) -> str:
        """
        >>> Action(kind=Kind.RENAME_PRODUCT, name="package_pro", package_id="pro", before="Pro",
        ...        after="Professional").words
        'rename product package_pro: Pro → Professional'
        """
        change = f": {self.before or 'none'} → {self.after}" if self.after else ""
        return f"{self.kind.replace('_', ' ')} {self.name}{change}"


class FoundProduct(msgspec.Struct, frozen=True):
    id: str
    name: str
    active: bool
    metadata: Mapping[str, str]


class FoundPrice(msgspec.Struct, frozen=True):
    id: str
    active: bool
    lookup_key: str | None
    currency: str
    interval: Interval | None
    metadata: Mapping[str, str]


class Found(msgspec.Struct, frozen=True):
    """What the provider has of some packages, and where we remember our prices to be."""

    products: Mapping[str, FoundProduct]  # by id
    prices: Sequence[FoundPrice]  # newest first
    remembered: Mapping[str, str] = {}  # the provider's id by lookup key


class Plan(msgspec.Struct, frozen=True):
    """What is to be done, in order; `prices` are those that are there, `unchanged` how many objects
    are as they should be."""

    revision: int
    actions: tuple[Action, ...]
    prices: Mapping[PriceName, str]
    unchanged: int

    @property
    def drift(self) -> tuple[Action, ...]:
        return tuple(action for action in self.actions if action.drift)


def prices_of(package: AnyPackage) -> Iterable[PriceName]:
    """Every price of a version that a subscription item can have."""
    for charge in package.charges:
        for price in charge.prices:
            yield PriceName(package.id, package.version, charge.id, price.currency, price.interval)


def plan(catalog: Catalog, held: Collection[str], packages: Iterable[str], found: Found) -> Plan:
    """What makes the provider's products and prices of some packages those of a catalog.

    `held` are the versions (`pro@3`) that somebody holds or is about to: their prices stay active,
    since one that is archived can be added to no subscription. Prices of a version that is sold no
    more and that nobody holds are archived.
    """
    ours = _ours(catalog, found)
    actions: list[Action] = []
    there: dict[PriceName, str] = {}
    objects = 0
    for package_id in sorted(packages):
        sold = catalog.current.get(package_id)
        names = set(prices_of(sold)) if sold is not None else set()
        known = {name for name in ours if name.package_id == package_id}
        kept = {name for name in known if name.version_id in held}
        product = found.products.get(product_id_of(package_id))
        selling = sold is not None and (bool(names) or product is not None)
        objects += (product is not None or selling) + len(names | known)
        actions += _of_product(package_id, sold if selling else None, product, bool(kept))
        for name in sorted(names | known):
            price = ours.get(name)
            if price is not None:
                there[name] = price.id
            actions += _of_price(catalog, name, price, wanted=name in names or name in kept)
    actions.sort(key=lambda action: next(n for n, step in enumerate(STEPS) if action.kind in step))
    touched = {(action.package_id, action.name) for action in actions}
    return Plan(catalog.revision, tuple(actions), there, objects - len(touched))


def _of_product(
    package_id: str, sold: AnyPackage | None, product: FoundProduct | None, held: bool
) -> Iterable[Action]:
    name = product_id_of(package_id)
    if product is None:
        if sold is not None:
            yield Action(
                kind=Kind.CREATE_PRODUCT, name=name, package_id=package_id, after=sold.name
            )
        return
    said = product.metadata.get("name", product.name)
    if sold is not None and product.name != sold.name:
        yield Action(
            kind=Kind.RENAME_PRODUCT,
            name=name,
            provider_id=product.id,
            package_id=package_id,
            before=product.name,
            after=sold.name,
            drift=product.name != said,
        )
    wanted = sold is not None or held
    if product.active is not wanted:
        yield Action(
            kind=Kind.RESTORE_PRODUCT if wanted else Kind.ARCHIVE_PRODUCT,
            name=name,
            provider_id=product.id,
            package_id=package_id,
            drift=wanted and ARCHIVED not in product.metadata,
        )


def _of_price(
    catalog: Catalog, name: PriceName, price: FoundPrice | None, *, wanted: bool
) -> Iterable[Action]:
    key = name.lookup_key
    if price is None:
        yield Action(kind=Kind.CREATE_PRICE, name=key, package_id=name.package_id, price=name)
        return
    about: Any = {
        "name": key,
        "provider_id": price.id,
        "package_id": name.package_id,
        "price": name,
    }
    if not wanted:
        if price.active:
            yield Action(kind=Kind.ARCHIVE_PRICE, **about)
        return
    if price.lookup_key != key:
        yield Action(
            kind=Kind.MOVE_LOOKUP_KEY, before=price.lookup_key, after=key, drift=True, **about
        )
    marks = price_metadata(name, params_of(catalog, name))
    marked = marks.items() <= price.metadata.items()
    if not (marked and price.active):
        by_us = marked and ARCHIVED in price.metadata
        yield Action(kind=Kind.RESTORE_PRICE, drift=not by_us, **about)


def _ours(catalog: Catalog, found: Found) -> Mapping[PriceName, FoundPrice]:
    """The one price of each name: the remembered one, else one that has its key, else the newest.

    Another database in the same account may have prices under the same names: what they say of
    themselves tells them apart.
    """
    by_id = {id: key for key, id in found.remembered.items()}
    best: dict[PriceName, tuple[tuple[bool, bool, bool], FoundPrice]] = {}
    for price in found.prices:
        key = by_id.get(price.id)
        name = _name_of(catalog, price, key)
        if name is None or key not in (None, name.lookup_key):
            continue
        says = price.metadata.get("terms") == terms(params_of(catalog, name))
        if not says and key is None:
            continue
        rank = (key is not None, price.lookup_key == name.lookup_key, price.active)
        if name not in best or rank > best[name][0]:
            best[name] = rank, price
    return {name: price for name, (_, price) in best.items()}


def _name_of(catalog: Catalog, price: FoundPrice, remembered_as: str | None) -> PriceName | None:
    """What a price is of ours, by our memory or by its metadata."""
    version_id, charge_id = price.metadata.get("package", ""), price.metadata.get("charge", "")
    if remembered_as is not None:
        version_id, charge_id, *_ = remembered_as.split("/")
    package = catalog.versions.get(version_id)
    if package is None or price.interval is None:
        return None
    name = PriceName(package.id, package.version, charge_id, price.currency, price.interval)
    if name not in set(prices_of(package)):
        return None
    key = remembered_as if remembered_as is not None else price.lookup_key
    if key is None or not key.startswith(f"{name.lookup_key}/"):
        return name
    with contextlib.suppress(ValueError, InvalidOperation):  # it is below list
        return msgspec.structs.replace(name, factor=slot_of(key).price_factor)
    return None


class Refusal(msgspec.Struct, frozen=True):
    """Something that the provider would not do, and its words."""

    action: Action
    message: str


Told = Callable[[Action], None]


class CatalogPush:
    """Reads what the provider has, and carries plans out."""

    def __init__(
        self,
        database: Database,
        client: stripe.StripeClient,
        prices: ProviderPrices,
        catalog: Callable[[], Awaitable[Catalog]],
    ) -> None:
        self._database = database
        self._client = client
        self._prices = prices
        self._catalog = catalog

    async def plan(self, packages: Iterable[str] | None = None) -> Plan:
        """What is to be done for the catalog in effect, or for some of its packages: reads only."""
        catalog = await self._catalog()
        known = catalog.latest_versions.keys()
        chosen = sorted(known if packages is None else known & set(packages))
        async with provider_errors():
            found = await self._found(chosen)
        return plan(catalog, await self._held(), chosen, found)

    async def drift(self) -> tuple[Action, ...]:
        """Products and prices that were edited at the provider, and what would mend each."""
        return (await self.plan()).drift

    async def drift_of(self, object_ids: Iterable[str]) -> Mapping[str, Sequence[Action]]:
        """The drift of each of some products or prices that are ours; the others are left out."""
        catalog = await self._catalog()
        ids = set(object_ids)
        packages = {product_id_of(p): p for p in catalog.latest_versions}
        about = {id: packages[id] for id in ids & packages.keys()}
        slots = await self._prices.slots(ids - about.keys())
        about |= {id: slot.package_id for id, slot in slots.items()}
        drift = (await self.plan(set(about.values()))).drift if about else ()
        return {id: [a for a in drift if a.provider_id == id] for id in about}

    async def carry_out(self, plan: Plan, told: Told = lambda action: None) -> Sequence[Refusal]:
        """Do it all; what the provider refuses. `told` hears of each action once it is done.

        Killed at any point, the rest is found by the next plan. Raises
        `PaymentProviderUnavailable`; what was done until then stays done.
        """
        catalog = await self._catalog()
        await self._prices.remember(plan.prices, anew=True)
        refused: list[Refusal] = []
        made: dict[PriceName, str] = {}

        async def do(action: Action) -> None:
            try:
                if action.kind is Kind.CREATE_PRICE:
                    assert action.price is not None
                    params = params_of(catalog, action.price)
                    made[action.price] = await self._prices.create(action.price, params)
                else:
                    await self._do(catalog, action)
            except stripe.InvalidRequestError as error:
                refused.append(Refusal(action, str(error.user_message or error)))
            told(action)

        try:
            async with provider_errors():
                for step in STEPS:
                    await each([a for a in plan.actions if a.kind in step], do)
        finally:
            await self._prices.remember(made, anew=True)
        return refused

    async def _do(self, catalog: Catalog, action: Action) -> None:
        """Updates set a state: sent twice, they come to the same. Their keys are for one run."""
        options: Any = {"idempotency_key": new_id("push")}
        products, prices = self._client.v1.products, self._client.v1.prices
        change: Any
        match action.kind:
            case Kind.CREATE_PRODUCT:
                change = {"id": action.name, "name": action.after}
                change["metadata"] = {"package": action.package_id, "name": action.after}
                try:
                    await products.create_async(change, options)
                except stripe.InvalidRequestError as error:  # by a purchase, meanwhile
                    if error.code != "resource_already_exists":
                        raise
            case Kind.RENAME_PRODUCT:
                change = {"name": action.after, "metadata": {"name": action.after}}
                await products.update_async(action.name, change, options)
            case Kind.RESTORE_PRODUCT | Kind.ARCHIVE_PRODUCT:
                change = _activity(active=action.kind is Kind.RESTORE_PRODUCT)
                await products.update_async(action.name, change, options)
            case Kind.MOVE_LOOKUP_KEY:
                change = {"lookup_key": action.name, "transfer_lookup_key": True}
                await prices.update_async(_known(action.provider_id), change, options)
            case Kind.RESTORE_PRICE:
                assert action.price is not None
                change = _activity(active=True)
                change["metadata"] |= price_metadata(action.price, params_of(catalog, action.price))
                await prices.update_async(_known(action.provider_id), change, options)
            case Kind.ARCHIVE_PRICE:
                change = _activity(active=False)
                await prices.update_async(_known(action.provider_id), change, options)

    async def _found(self, packages: Sequence[str]) -> Found:
        products: dict[str, FoundProduct] = {}
        prices: list[FoundPrice] = []
        ids = [product_id_of(package_id) for package_id in packages]

        async def read_products(some: list[str]) -> None:
            page = await self._client.v1.products.list_async(
                {"ids": some, "limit": PRODUCTS_PER_CALL}
            )
            for product in page.data:
                products[product.id] = FoundProduct(
                    product.id, product.name, product.active, product.metadata.to_dict()
                )

        async def read_prices(product_id: str) -> None:
            page = await self._client.v1.prices.list_async({"product": product_id, "limit": 100})
            prices.extend([_found_price(price) async for price in page.auto_paging_iter()])

        chunks = range(0, len(ids), PRODUCTS_PER_CALL)
        await each([ids[n : n + PRODUCTS_PER_CALL] for n in chunks], read_products)
        await each(list(products), read_prices)
        return Found(products, prices, await self._remembered(packages))

    async def _remembered(self, packages: Sequence[str]) -> Mapping[str, str]:
        wanted = set(packages)
        async with self._database.read() as session:
            rows = await session.execute(
                select(
                    ProviderPriceRow.package_id,
                    ProviderPriceRow.lookup_key,
                    ProviderPriceRow.provider_id,
                )
            )
            return {key: id for package_id, key, id in rows if package_id in wanted}

    async def _held(self) -> set[str]:
        """Every version that a live subscription holds, that is tried, or that an unsettled change
        comes to."""
        async with self._database.read(streaming=True) as session:
            items = await session.execute(
                select(SubscriptionItemRow.package_id, SubscriptionItemRow.version)
                .join(SubscriptionRow, SubscriptionRow.id == SubscriptionItemRow.subscription_id)
                .where(SubscriptionRow.ended_at.is_(None))
                .union(
                    select(TrialRow.package_id, TrialRow.version).where(
                        TrialRow.status == TrialStatus.ACTIVE.value
                    )
                )
            )
            held = {f"{package_id}@{version}" for package_id, version in items}
            plans = await session.stream_scalars(
                select(ChangeRow.plan).where(ChangeRow.settled_at.is_(None))
            )
            async for text in plans:
                wanted = msgspec.json.decode(text, type=_Comes).after
                held |= {f"{slot.package_id}@{slot.version}" for slot in wanted}
        return held


class _Comes(msgspec.Struct):
    """What a change comes to, of its whole plan."""

    after: tuple[Slot, ...] = ()


def _activity(*, active: bool) -> dict[str, Any]:
    return {"active": active, "metadata": {ARCHIVED: "" if active else "by us"}}


def _found_price(price: stripe.Price) -> FoundPrice:
    recurring = price.recurring
    interval = recurring.interval if recurring and recurring.interval_count == 1 else None
    return FoundPrice(
        price.id,
        price.active,
        price.lookup_key,
        price.currency,
        Interval(interval) if interval in set(Interval) else None,
        price.metadata.to_dict(),
    )


def _known(provider_id: str | None) -> str:
    assert provider_id is not None
    return provider_id
