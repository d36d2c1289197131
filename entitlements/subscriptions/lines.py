"""Invoice lines: one per charge and configuration, each rounded once.

A change credits the unused time of the whole old configuration and charges the rest of the period
for the whole new one, never the difference: so a second change credits the full price held.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Protocol

import msgspec

from entitlements.catalog.model import AnyPackage, Bundle, Catalog, Charge
from entitlements.kernel.money import round_half_away
from entitlements.kernel.period import Interval, Period
from entitlements.pricing import charges as priced
from entitlements.pricing.mrr import mrr_minor
from entitlements.pricing.proration import allocate, capped_credit, prorate
from entitlements.pricing.quantities import charged_quantity
from entitlements.subscriptions.grandfathering import LIST
from entitlements.subscriptions.invoice_line import Allocation, Line, LineKind
from entitlements.subscriptions.state import Item, Subscription


class Slot(msgspec.Struct, frozen=True):
    """One charge of one package held: what the provider keeps as one subscription item.

    `quantity` is what was bought or is held, `billable` what of it is paid for (CATALOG.md); both
    are 0 for a metered charge. Every amount of the price counts times `price_factor`.
    """

    package_id: str
    version: int
    charge_id: str
    quantity: int
    billable: int
    metered: bool = False
    price_factor: Decimal = LIST

    @property
    def key(self) -> str:
        return f"{self.package_id}/{self.charge_id}"

    def costs_as(self, other: "Slot") -> bool:
        """Whether the two are paid for alike, so that nothing is settled between them."""
        return self.priced_as(other) and self.billable == other.billable

    def priced_as(self, other: "Slot") -> bool:
        """Whether one price of the provider does for both."""
        ours = (self.key, self.version, self.price_factor)
        return ours == (other.key, other.version, other.price_factor)


def replacements(
    catalog: Catalog,
    before: Sequence[Slot],
    after: Sequence[Slot],
    currency: str,
    interval: Interval,
) -> dict[str, str]:
    """Which slot that leaves each new one takes the place of, by key.

    The provider's item is used again with another price. What bills a flat fee even at quantity 0
    goes first: it could not be emptied.
    """
    there, wanted = {s.key for s in before}, {s.key for s in after}
    leaving = sorted(
        (s for s in before if s.key not in wanted and not s.metered),
        key=lambda slot: not bills_at_zero(catalog, slot, currency, interval),
    )
    entering = [s for s in after if s.key not in there and not s.metered]
    return {new.key: old.key for new, old in zip(entering, leaving, strict=False)}


def bills_at_zero(catalog: Catalog, slot: Slot, currency: str, interval: Interval) -> bool:
    """Whether nothing of it costs something: the first tier has a flat fee."""
    charge = catalog.version(slot.package_id, slot.version).charge(slot.charge_id)
    price = charge.price(currency, interval)
    return bool(price and price.tiers and price.tiers[0].flat)


class HeldPackage(Protocol):
    """What `slots_of` reads of a package held, now (`Item`) or afterwards (`TargetItem`)."""

    @property
    def package_id(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def quantity(self) -> int: ...
    @property
    def price_factor(self) -> Decimal: ...


class Paid(Protocol):
    """What the MRR of a subscription goes by (`Subscription`, `Holder`)."""

    @property
    def currency(self) -> str: ...
    @property
    def interval(self) -> Interval: ...
    @property
    def on_trial(self) -> bool: ...
    @property
    def quantities(self) -> Mapping[str, int]: ...
    @property
    def items(self) -> Iterable[HeldPackage]: ...


def slots_of(
    catalog: Catalog, items: Iterable[HeldPackage], quantities: Mapping[str, int]
) -> Iterable[Slot]:
    """Every charge of every item, with the quantity that it counts."""
    for item in items:
        package = catalog.version(item.package_id, item.version)
        for charge in package.charges:
            counted = 0 if charge.metered else charged_quantity(charge, item.quantity, quantities)
            billable = 0 if charge.metered else priced.billable_quantity(charge, counted)
            yield Slot(
                package.id,
                package.version,
                charge.id,
                counted,
                billable,
                charge.metered,
                item.price_factor,
            )


class Book:
    """Lines and sums of slots, in one currency."""

    def __init__(self, catalog: Catalog, currency: str) -> None:
        self._catalog = catalog
        self._currency = currency
        self._amounts: dict[tuple[Slot, Interval], Fraction] = {}

    def _charge(self, slot: Slot) -> tuple[AnyPackage, Charge]:
        package = self._catalog.version(slot.package_id, slot.version)
        return package, package.charge(slot.charge_id)

    def amount(self, slot: Slot, interval: Interval) -> Fraction:
        """The exact amount of a slot for one whole interval, in minor units."""
        known = self._amounts.get((slot, interval))
        if known is None:
            known = self._amounts[slot, interval] = self._amount(slot, interval)
        return known

    def _amount(self, slot: Slot, interval: Interval) -> Fraction:
        _, charge = self._charge(slot)
        price = charge.price(self._currency, interval)
        if price is None or slot.metered:
            return Fraction(0)
        return priced.amount(charge, price, slot.quantity) * Fraction(slot.price_factor)

    def credits(self, slots: Iterable[Slot], held: Subscription, at: datetime) -> Iterable[Line]:
        """Unused time back: price × seconds left ÷ seconds, never more than what was charged."""
        left = held.period.fraction_left(at)
        for slot in slots:
            price = self.amount(slot, held.interval)
            potential = prorate(price, left)
            credit = capped_credit(potential, prorate(charged_at(held, slot, price), left))
            if _worth_a_line(slot, potential):
                yield self._line(
                    LineKind.CREDIT,
                    slot,
                    "Unused time on ",
                    Period(at, held.period.end),
                    held.interval,
                    -credit,
                )

    def charges(
        self, slots: Iterable[Slot], interval: Interval, period: Period, at: datetime
    ) -> Iterable[Line]:
        """What the rest of a period costs from an instant: all of it at the period's start."""
        left = period.fraction_left(at)
        for slot in slots:
            amount_minor = prorate(self.amount(slot, interval), left)
            if _worth_a_line(slot, amount_minor):
                yield self._line(
                    LineKind.CHARGE,
                    slot,
                    "" if left == 1 else "Remaining time on ",
                    Period(max(at, period.start), period.end),
                    interval,
                    amount_minor,
                )

    def _line(
        self,
        kind: LineKind,
        slot: Slot,
        prefix: str,
        period: Period,
        interval: Interval,
        amount_minor: int,
    ) -> Line:
        package, charge = self._charge(slot)
        return Line(
            kind=kind,
            package_id=slot.package_id,
            version=slot.version,
            charge_id=slot.charge_id,
            description=prefix + _title(package, charge, slot),
            quantity=slot.quantity,
            period=period,
            amount_minor=amount_minor,
            allocations=allocations_of(
                self._catalog,
                package,
                charge,
                amount_minor,
                slot.quantity,
                self._currency,
                interval,
            ),
        )

    def charged_at(self, slot: Slot, held: Subscription) -> Fraction:
        """What a whole period of a slot that is held was charged at."""
        return charged_at(held, slot, self.amount(slot, held.interval))

    def recurring(self, slots: Iterable[Slot], interval: Interval) -> int:
        """The licensed charges of a whole interval, each rounded as its line."""
        return sum(round_half_away(self.amount(slot, interval)) for slot in slots)

    def mrr(self, slots: Iterable[Slot], interval: Interval) -> int:
        """Rounded once per package held, then integers are summed (DESIGN 14)."""
        return sum(self.mrr_by_package(slots, interval).values())

    def mrr_by_package(self, slots: Iterable[Slot], interval: Interval) -> dict[str, int]:
        by_package: dict[str, Fraction] = {}
        for slot in slots:
            amount = self.amount(slot, interval)
            by_package[slot.package_id] = by_package.get(slot.package_id, Fraction(0)) + amount
        return {id: mrr_minor(amount, interval) for id, amount in by_package.items()}


def allocations_of(
    catalog: Catalog,
    package: AnyPackage,
    charge: Charge,
    amount_minor: int,
    quantity: int,
    currency: str,
    interval: Interval,
) -> tuple[Allocation, ...]:
    """A bundle's line over its modules; nothing for a package that is not a bundle.

    `quantity` is the line's: where its charge counts a level, that is the level bought.
    """
    if not isinstance(package, Bundle):
        return ()
    bought = {charge.quantity_feature: quantity} if charge.quantity_feature else {}
    shares = allocate(catalog, package, charge, amount_minor, bought, currency, interval)
    return tuple(Allocation(s.package.id, s.package.version, s.amount_minor) for s in shares)


def charged_at(held: Subscription, slot: Slot, price: Fraction) -> Fraction:
    """What a whole period of a slot was charged at: its price, but for changes not prorated."""
    item = next(item for item in held.items if item.package_id == slot.package_id)
    charge = item.charges.get(slot.charge_id)
    return price if charge is None or charge.charged_at is None else Fraction(charge.charged_at)


def _worth_a_line(slot: Slot, amount_minor: int) -> bool:
    """What is free has a line; nothing of something has none, unless a flat fee is due for it."""
    return not slot.metered and bool(slot.billable or amount_minor)


def list_recurring(catalog: Catalog, held: Subscription, item: Item, version: int) -> Fraction:
    """What a package held would cost per interval at a version's list price; exact minor units."""
    there = msgspec.structs.replace(item, version=version, price_factor=LIST)
    book = Book(catalog, held.currency)
    slots = slots_of(catalog, [there], held.quantities)
    return sum((book.amount(slot, held.interval) for slot in slots), Fraction(0))


def held_mrr_minor(catalog: Catalog, held: Paid) -> int:
    """The monthly recurring revenue of a subscription, in minor units: none while it is tried."""
    return sum(held_mrr_by_package(catalog, held).values())


def held_mrr_by_package(catalog: Catalog, held: Paid) -> dict[str, int]:
    """The same, of each package held."""
    if held.on_trial:
        return {}
    slots = slots_of(catalog, held.items, held.quantities)
    return Book(catalog, held.currency).mrr_by_package(slots, held.interval)


def _title(package: AnyPackage, charge: Charge, slot: Slot) -> str:
    name = package.name if charge.name == package.name else f"{package.name}: {charge.name}"
    return f"{slot.quantity} × {name}" if slot.quantity != 1 else name
