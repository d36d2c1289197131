"""Our charges as the provider's prices, made lazily under our own lookup keys.

A price is immutable there as a version is here: `pro@3/base/usd/month` never changes.
"""

import hashlib
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

import msgspec
import stripe
from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite

from entitlements.billing.tables import ProviderPriceRow
from entitlements.catalog.model import AnyPackage, Catalog, Charge, Price, PricingModel
from entitlements.kernel.money import minor_from_major, plain, round_rate
from entitlements.kernel.period import Interval
from entitlements.storage.unit_of_work import Database
from entitlements.subscriptions.lines import Slot

LOOKUP_KEYS_PER_CALL = 10


class PricedSlot(msgspec.Struct, frozen=True):
    """Which charge of which version a provider's price is, and for which interval."""

    package_id: str
    version: int
    charge_id: str
    interval: Interval

    @property
    def key(self) -> str:
        return f"{self.package_id}/{self.charge_id}"


def lookup_key(slot: Slot, currency: str, interval: Interval) -> str:
    """`pro@3/base/usd/month`, at most 200 characters."""
    return f"{slot.package_id}@{slot.version}/{slot.charge_id}/{currency}/{interval}"


def price_params(charge: Charge, price: Price) -> dict[str, Any]:
    """A licensed charge's price as the provider writes it, in minor units.

    `included` and `minimum` cannot be said there: the quantity that is sent is already the
    billable one (`pricing.charges.billable_quantity`).
    """
    params: dict[str, Any] = {
        "currency": price.currency,
        "recurring": {"interval": price.interval.value},
    }
    if charge.model in (PricingModel.VOLUME, PricingModel.GRADUATED):
        params["billing_scheme"] = "tiered"
        params["tiers_mode"] = charge.model.value
        params["tiers"] = [
            {
                "up_to": "inf" if tier.up_to is None else tier.up_to,
                "unit_amount_decimal": _minor(tier.unit, price.currency),
            }
            | ({"flat_amount_decimal": _minor(tier.flat, price.currency)} if tier.flat else {})
            for tier in price.tiers
        ]
        return params
    amount = price.flat_amount if charge.model is PricingModel.FLAT else price.unit_amount
    assert amount is not None
    params["unit_amount_decimal"] = _minor(amount, price.currency)
    if charge.model is PricingModel.PACKAGE:
        params["transform_quantity"] = {"divide_by": charge.package_size, "round": "up"}
    return params


def _slot_params(catalog: Catalog, slot: Slot, currency: str, interval: Interval) -> dict[str, Any]:
    charge = catalog.version(slot.package_id, slot.version).charge(slot.charge_id)
    price = charge.price(currency, interval)
    assert price is not None
    return price_params(charge, price)


def _terms(params: Mapping[str, Any]) -> str:
    """What a price says, in short."""
    return hashlib.sha256(msgspec.json.encode(params, order="sorted")).hexdigest()[:32]


def _minor(amount: Decimal, currency: str) -> Decimal:
    return plain(round_rate(minor_from_major(amount, currency)))


class ProviderPrices:
    """Finds and makes prices at the provider, and remembers where they are."""

    def __init__(self, database: Database, client: stripe.StripeClient) -> None:
        self._database = database
        self._client = client
        self._by_lookup_key: dict[str, str] = {}
        self._by_provider_id: dict[str, PricedSlot] = {}

    async def ensure(
        self, catalog: Catalog, slots: Iterable[Slot], currency: str, interval: Interval
    ) -> Mapping[Slot, str]:
        """The provider's price of each slot, made there where it is missing.

        Any number of processes may do so at once: keys and lookup keys are ours.
        """
        wanted = {slot: lookup_key(slot, currency, interval) for slot in slots}
        missing = {s: k for s, k in wanted.items() if k not in self._by_lookup_key}
        if missing:
            await self._load(missing.values())
            missing = {s: k for s, k in missing.items() if k not in self._by_lookup_key}
        if missing:
            found = await self._find_at_provider(list(missing.values()))
            for slot, key in missing.items():
                params = _slot_params(catalog, slot, currency, interval)
                there = found.get(key)
                if there is not None and there.metadata["terms"] == _terms(params):
                    provider_id = there.id
                else:
                    provider_id = await self._create(catalog, slot, key, params)
                await self._remember(slot, key, provider_id)
        return {slot: self._by_lookup_key[key] for slot, key in wanted.items()}

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
        async with self._database.read() as session:
            for row in await session.scalars(
                select(ProviderPriceRow).where(ProviderPriceRow.lookup_key.in_(list(keys)))
            ):
                self._keep(row)

    def _keep(self, row: ProviderPriceRow) -> None:
        self._by_lookup_key[row.lookup_key] = row.provider_id
        interval = Interval(row.lookup_key.rpartition("/")[2])
        slot = PricedSlot(row.package_id, row.version, row.charge_id, interval)
        self._by_provider_id[row.provider_id] = slot

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

    async def _create(self, catalog: Catalog, slot: Slot, key: str, params: dict[str, Any]) -> str:
        package = catalog.version(slot.package_id, slot.version)
        terms = _terms(params)
        params |= {
            "nickname": key,
            "product": await self._ensure_product(package),
            "lookup_key": key,
            "transfer_lookup_key": True,
            "metadata": {"package": package.version_id, "charge": slot.charge_id, "terms": terms},
        }
        created = await self._client.v1.prices.create_async(
            params,  # type: ignore[arg-type]
            {"idempotency_key": f"price:{key}:{terms}"},
        )
        return created.id

    async def _ensure_product(self, package: AnyPackage) -> str:
        """One product per package, under an id of ours; its name may be edited there."""
        product_id = f"package_{package.id}"
        try:
            await self._client.v1.products.create_async(
                {"id": product_id, "name": package.name, "metadata": {"package": package.id}},
                {"idempotency_key": f"product:{package.id}:{_terms({'name': package.name})}"},
            )
        except stripe.InvalidRequestError as error:
            if error.code != "resource_already_exists":
                raise
        return product_id

    async def _remember(self, slot: Slot, key: str, provider_id: str) -> None:
        insert = postgresql.insert if self._database.is_postgresql else sqlite.insert
        row = {
            "lookup_key": key,
            "provider_id": provider_id,
            "package_id": slot.package_id,
            "version": slot.version,
            "charge_id": slot.charge_id,
        }
        async with self._database.write() as session:
            await session.execute(insert(ProviderPriceRow).values(row).on_conflict_do_nothing())
        self._keep(ProviderPriceRow(**row))
