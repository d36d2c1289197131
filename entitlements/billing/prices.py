"""Our charges as the provider's prices, made lazily under our own lookup keys.

A price is immutable there as a version is here: `pro@3/base/usd/month` never changes.
"""

import hashlib
from collections.abc import Iterable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

import msgspec
import stripe
from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite

from entitlements.billing.meters import Meters
from entitlements.billing.tables import ProviderPriceRow
from entitlements.catalog.model import AnyPackage, Catalog, Charge, Price, PricingModel
from entitlements.kernel.ids import new_id
from entitlements.kernel.money import minor_from_major, plain, round_rate
from entitlements.kernel.period import Interval
from entitlements.storage.unit_of_work import Database
from entitlements.subscriptions.grandfathering import LIST
from entitlements.subscriptions.lines import Slot

LOOKUP_KEYS_PER_CALL = 10
LOOKUP_KEYS_PER_QUERY = 500

ARCHIVED = "archived"
"""The metadata by which we know that it was us who archived something."""


class PriceName(msgspec.Struct, frozen=True, order=True):
    """Which of our prices: a charge of a version, in a currency, for an interval; below list where
    a cap holds it there (DESIGN 9)."""

    package_id: str
    version: int
    charge_id: str
    currency: str
    interval: Interval
    factor: Decimal = LIST

    @property
    def version_id(self) -> str:
        return f"{self.package_id}@{self.version}"

    @property
    def lookup_key(self) -> str:
        """
        >>> PriceName("pro", 3, "base", "usd", Interval.MONTH).lookup_key
        'pro@3/base/usd/month'
        >>> PriceName("pro", 3, "base", "usd", Interval.MONTH, Decimal("0.80")).lookup_key
        'pro@3/base/usd/month/0.8'
        """
        key = f"{self.version_id}/{self.charge_id}/{self.currency}/{self.interval}"
        return key if self.factor == LIST else f"{key}/{plain(self.factor)}"


class PricedSlot(msgspec.Struct, frozen=True):
    """Which charge of which version a provider's price is, and for which interval."""

    package_id: str
    version: int
    charge_id: str
    interval: Interval
    price_factor: Decimal = LIST

    @property
    def key(self) -> str:
        return f"{self.package_id}/{self.charge_id}"


def name_held(catalog: Catalog, slot: Slot, currency: str, interval: Interval) -> PriceName:
    """Which price a charge held by the interval is on: a metered one may be billed monthly in a
    yearly subscription."""
    charge = catalog.version(slot.package_id, slot.version).charge(slot.charge_id)
    price = charge.price(currency, interval)
    return name_of(slot, currency, price.interval if price else interval)


def name_of(slot: Slot | PricedSlot, currency: str, interval: Interval) -> PriceName:
    return PriceName(
        slot.package_id, slot.version, slot.charge_id, currency, interval, slot.price_factor
    )


def lookup_key(slot: Slot | PricedSlot, currency: str, interval: Interval) -> str:
    """`pro@3/base/usd/month`, at most 200 characters."""
    return name_of(slot, currency, interval).lookup_key


def product_id_of(package_id: str) -> str:
    """One product per package, under an id of ours."""
    return f"package_{package_id}"


def slot_of(key: str) -> PricedSlot:
    """The charge that a lookup key of ours names.

    >>> slot_of("pro@3/base/usd/month").key
    'pro/base'
    """
    version_id, charge_id, _, interval, *factor = key.split("/")
    package_id, version = version_id.split("@")
    below = Decimal(factor[0]) if factor else LIST
    return PricedSlot(package_id, int(version), charge_id, Interval(interval), below)


def price_params(charge: Charge, price: Price, factor: Decimal = LIST) -> dict[str, Any]:
    """A charge's price as the provider writes it, in minor units, times `factor`.

    `included` and `minimum` cannot be said there: the quantity, or use, that is sent is already the
    billable one (`pricing.charges.billable_quantity`).
    """

    def minor(amount: Decimal) -> Decimal:
        return plain(round_rate(minor_from_major(amount, price.currency) * Fraction(factor)))

    params: dict[str, Any] = {
        "currency": price.currency,
        "recurring": {"interval": price.interval.value}
        | ({"usage_type": "metered"} if charge.metered else {}),
    }
    if charge.model in (PricingModel.VOLUME, PricingModel.GRADUATED):
        params["billing_scheme"] = "tiered"
        params["tiers_mode"] = charge.model.value
        params["tiers"] = [
            {
                "up_to": "inf" if tier.up_to is None else tier.up_to,
                "unit_amount_decimal": minor(tier.unit),
            }
            | ({"flat_amount_decimal": minor(tier.flat)} if tier.flat else {})
            for tier in price.tiers
        ]
        return params
    amount = price.flat_amount if charge.model is PricingModel.FLAT else price.unit_amount
    assert amount is not None
    params["unit_amount_decimal"] = minor(amount)
    if charge.model is PricingModel.PACKAGE:
        params["transform_quantity"] = {"divide_by": charge.package_size, "round": "up"}
    return params


def params_of(catalog: Catalog, name: PriceName) -> dict[str, Any]:
    """What the price of that name says, as the provider writes it."""
    charge = catalog.version(name.package_id, name.version).charge(name.charge_id)
    price = charge.price(name.currency, name.interval)
    assert price is not None
    return price_params(charge, price, name.factor)


def terms(params: Mapping[str, Any]) -> str:
    """What a price says, in short: two that say the same have the same terms."""
    return hashlib.sha256(msgspec.json.encode(params, order="sorted")).hexdigest()[:32]


def price_metadata(name: PriceName, params: Mapping[str, Any]) -> dict[str, str]:
    """What we write on a price to know it again."""
    return {"package": name.version_id, "charge": name.charge_id, "terms": terms(params)}


def product_metadata(package: AnyPackage) -> dict[str, str]:
    """`name` is the one we gave it: where the product has another, somebody edited it there."""
    return {"package": package.id, "name": package.name}


class ProviderPrices:
    """Finds and makes prices at the provider, and remembers where they are."""

    def __init__(self, database: Database, client: stripe.StripeClient, meters: Meters) -> None:
        self._database = database
        self._client = client
        self._meters = meters
        self._by_lookup_key: dict[str, str] = {}
        self._by_provider_id: dict[str, PricedSlot] = {}

    async def ensure(
        self, catalog: Catalog, slots: Iterable[Slot], currency: str, interval: Interval
    ) -> Mapping[Slot, str]:
        """The provider's price of each slot, made there where it is missing.

        Any number of processes may do so at once: keys and lookup keys are ours.
        """
        names = {slot: name_held(catalog, slot, currency, interval) for slot in slots}
        missing = [n for n in names.values() if n.lookup_key not in self._by_lookup_key]
        if missing:
            await self._load(name.lookup_key for name in missing)
            missing = [n for n in missing if n.lookup_key not in self._by_lookup_key]
        if missing:
            found = await self._find_at_provider([name.lookup_key for name in missing])
            for name in missing:
                params = params_of(catalog, name)
                there = found.get(name.lookup_key)
                if there is not None and there.metadata["terms"] == terms(params):
                    provider_id = there.id
                else:
                    await self._ensure_product(catalog.version(name.package_id, name.version))
                    provider_id = await self.create(name, params)
                await self.remember({name: provider_id})
        for name in names.values():
            sold = catalog.current.get(name.package_id)
            if sold is None or sold.version != name.version or name.factor != LIST:
                await self._sell_again(self._by_lookup_key[name.lookup_key])
        return {slot: self._by_lookup_key[name.lookup_key] for slot, name in names.items()}

    async def slots(self, provider_ids: Iterable[str]) -> Mapping[str, PricedSlot]:
        """Which of our charges some prices are; those that are not ours are left out."""
        wanted = set(provider_ids)
        missing = wanted - self._by_provider_id.keys()
        if missing:
            async with self._database.read() as session:
                for row in await session.scalars(
                    select(ProviderPriceRow).where(ProviderPriceRow.provider_id.in_(missing))
                ):
                    self._keep(row)
        return {i: self._by_provider_id[i] for i in wanted if i in self._by_provider_id}

    async def _load(self, keys: Iterable[str]) -> None:
        wanted = list(keys)
        async with self._database.read() as session:
            for start in range(0, len(wanted), LOOKUP_KEYS_PER_QUERY):
                batch = wanted[start : start + LOOKUP_KEYS_PER_QUERY]
                for row in await session.scalars(
                    select(ProviderPriceRow).where(ProviderPriceRow.lookup_key.in_(batch))
                ):
                    self._keep(row)

    def _keep(self, row: ProviderPriceRow) -> None:
        self._by_lookup_key[row.lookup_key] = row.provider_id
        self._by_provider_id[row.provider_id] = slot_of(row.lookup_key)

    async def _find_at_provider(self, keys: list[str]) -> dict[str, stripe.Price]:
        """Prices of ours that were made and not remembered: we died in between.

        Another database in the same account may have used a lookup key for other terms: the price
        says its own.
        """
        found: dict[str, stripe.Price] = {}
        for start in range(0, len(keys), LOOKUP_KEYS_PER_CALL):
            batch = keys[start : start + LOOKUP_KEYS_PER_CALL]
            prices = await self._client.v1.prices.list_async(
                {"lookup_keys": batch, "limit": LOOKUP_KEYS_PER_CALL}
            )
            found |= {
                price.lookup_key: price
                for price in prices.data
                if price.lookup_key and "terms" in price.metadata
            }
        return found

    async def create(self, name: PriceName, params: Mapping[str, Any]) -> str:
        """Make a price of a product that is there; its id. Made once, whoever asks for it."""
        key = name.lookup_key
        recurring = params["recurring"]
        if recurring.get("usage_type") == "metered":
            meter_id = await self._meters.ensure(name.package_id, name.charge_id)
            recurring = recurring | {"meter": meter_id}
        stated = {
            **params,
            "recurring": recurring,
            "nickname": key,
            "product": product_id_of(name.package_id),
            "lookup_key": key,
            "transfer_lookup_key": True,
            "metadata": price_metadata(name, params),
        }
        created = await self._client.v1.prices.create_async(
            stated,  # type: ignore[arg-type]
            {"idempotency_key": f"price:{key}:{terms(params)}"},
        )
        return created.id

    async def _ensure_product(self, package: AnyPackage) -> None:
        product_id = product_id_of(package.id)
        metadata = product_metadata(package)
        try:
            await self._client.v1.products.create_async(
                {"id": product_id, "name": package.name, "metadata": metadata},
                {"idempotency_key": f"product:{package.id}:{terms(metadata)}"},
            )
        except stripe.InvalidRequestError as error:
            if error.code != "resource_already_exists":
                raise
            there = await self._client.v1.products.retrieve_async(product_id)
            if not there.active:  # a retired package that somebody holds
                await self._reactivate_product(product_id)

    async def _sell_again(self, provider_id: str) -> None:
        """An old version is held again (a move rolled back, a quote that pins it): no archived
        price can be added to a subscription."""
        price = await self._client.v1.prices.retrieve_async(provider_id, {"expand": ["product"]})
        product: Any = price.product
        if not product.active:
            await self._reactivate_product(product.id)
        if not price.active:
            await self._client.v1.prices.update_async(
                provider_id,
                {"active": True, "metadata": {ARCHIVED: ""}},
                {"idempotency_key": new_id("restore")},
            )

    async def _reactivate_product(self, product_id: str) -> None:
        await self._client.v1.products.update_async(
            product_id,
            {"active": True, "metadata": {ARCHIVED: ""}},
            {"idempotency_key": new_id("restore")},
        )

    async def remember(self, ids: Mapping[PriceName, str], *, anew: bool = False) -> None:
        """Keep where prices are. The first to say so wins, unless it is found out `anew`."""
        if not ids:
            return
        insert = postgresql.insert if self._database.is_postgresql else sqlite.insert
        rows = [
            {
                "lookup_key": name.lookup_key,
                "provider_id": provider_id,
                "package_id": name.package_id,
                "version": name.version,
                "charge_id": name.charge_id,
            }
            for name, provider_id in ids.items()
        ]
        statement = insert(ProviderPriceRow)
        if anew:
            statement = statement.on_conflict_do_update(
                index_elements=["lookup_key"],
                set_={"provider_id": statement.excluded.provider_id},
            )
        else:
            statement = statement.on_conflict_do_nothing()
        async with self._database.write() as session:
            await session.execute(statement, rows)
        await self._load(name.lookup_key for name in ids)
