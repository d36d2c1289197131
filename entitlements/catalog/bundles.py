"""What a bundle costs and grants, out of its components, and whether it is worth buying.

A bundle with a discount takes the charges of its components, each named `component.charge` (no id
has a dot) and pointing back by `component_id`: one invoice line a charge, allocated to its module.
"""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from fractions import Fraction

import msgspec

from entitlements.catalog.model import (
    AnyPackage,
    Charge,
    Entitlement,
    Feature,
    GrantMode,
    Price,
    PricingModel,
    Tier,
)
from entitlements.catalog.values import combine
from entitlements.kernel.money import round_rate
from entitlements.kernel.period import Interval

Part = tuple[AnyPackage, int]
"""A component of a bundle, and how many of it."""


# Charges


def discounted_charges(parts: Iterable[Part], percent: Decimal) -> tuple[Charge, ...]:
    """The components' charges: licensed ones scaled by 1 − p/100, metered ones as they are.

    `units_per_package` is how many of the component the bundle has: a charge that counts the
    package's own quantity counts so many, and a metered one includes so many times `included`.
    """
    factor = 1 - Fraction(percent) / 100
    return tuple(
        _component_charge(part, quantity, charge, factor)
        for part, quantity in parts
        for charge in part.charges
    )


def _component_charge(part: AnyPackage, quantity: int, charge: Charge, factor: Fraction) -> Charge:
    return msgspec.structs.replace(
        charge,
        id=f"{part.id}.{charge.id}",
        component_id=part.id,
        units_per_package=quantity,
        prices=charge.prices if charge.metered else tuple(scaled(p, factor) for p in charge.prices),
    )


def scaled(price: Price, factor: Fraction) -> Price:
    """Every amount of a price times a factor, to 12 decimals, half away from zero.

    >>> fee = Price(currency="usd", interval=Interval.MONTH, flat_amount=Decimal("200.00"))
    >>> scaled(fee, Fraction(17, 20)).flat_amount
    Decimal('170')
    """

    def rate(value: Decimal) -> Decimal:
        return round_rate(Fraction(value) * factor)

    return Price(
        currency=price.currency,
        interval=price.interval,
        flat_amount=None if price.flat_amount is None else rate(price.flat_amount),
        unit_amount=None if price.unit_amount is None else rate(price.unit_amount),
        tiers=tuple(Tier(t.up_to, rate(t.unit), rate(t.flat)) for t in price.tiers),
    )


# Entitlements


def bundle_entitlements(
    parts: Sequence[Part], features: Iterable[Feature]
) -> tuple[Entitlement, ...]:
    """What the components grant together, by feature, in the features' order.

    A metered feature may have two: the largest limit that is set, and the sum of what is added,
    which counts on top of whatever else the customer holds.
    """
    given: dict[str, list[tuple[Entitlement, int]]] = {}
    for part, quantity in parts:
        for entitlement in part.entitlements:
            given.setdefault(entitlement.feature_id, []).append((entitlement, quantity))
    return tuple(
        entitlement
        for feature in features
        if feature.id in given
        for entitlement in _together(feature, given[feature.id])
    )


def _together(feature: Feature, given: list[tuple[Entitlement, int]]) -> Iterable[Entitlement]:
    sets = [e.value for e, _ in given if e.mode is not GrantMode.ADD]
    adds = [(e.value, quantity) for e, quantity in given if e.mode is GrantMode.ADD]
    if (value := combine(feature, sets)) is not None:
        yield Entitlement(feature.id, GrantMode.SET, value)
    if adds and (value := combine(feature, (), adds)) is not None:
        yield Entitlement(feature.id, GrantMode.ADD, value)


# Cheaper than its parts


def cost(charge: Charge, price: Price, quantity: int) -> Fraction:
    """What a licensed charge costs at a quantity, exact, in major units.

    The same figure as the pricing room's `amount`, which this room cannot import.
    """
    billable = max(max(quantity, charge.minimum or 0) - charge.included, 0)
    match charge.model:
        case PricingModel.FLAT:
            return quantity * Fraction(price.flat_amount or 0)
        case PricingModel.PER_UNIT:
            return billable * Fraction(price.unit_amount or 0)
        case PricingModel.PACKAGE:
            blocks = -(-billable // (charge.package_size or 1))
            return blocks * Fraction(price.unit_amount or 0)
        case PricingModel.VOLUME:
            tier = next(t for t in price.tiers if t.up_to is None or billable <= t.up_to)
            return billable * Fraction(tier.unit) + Fraction(tier.flat)
        case PricingModel.GRADUATED:
            return _graduated(price.tiers, billable)


def _graduated(tiers: tuple[Tier, ...], billable: int) -> Fraction:
    total, below = Fraction(0), 0
    for tier in tiers:
        if below and billable <= below:
            break
        upto = billable if tier.up_to is None else min(billable, tier.up_to)
        total += (upto - below) * Fraction(tier.unit) + Fraction(tier.flat)
        below = upto if tier.up_to is None else tier.up_to
    return total


class _Counted(msgspec.Struct, frozen=True):
    """A licensed charge at its price, and the sign it counts with: +1 a part's, −1 the bundle's."""

    charge: Charge
    price: Price
    sign: int
    packages: int

    def at(self, quantity: int) -> Fraction:
        return self.sign * cost(self.charge, self.price, quantity)


def least_saving(
    parts: Iterable[Part],
    charges: Iterable[Charge],
    currency: str,
    interval: Interval,
    limits: dict[str, int],
) -> Fraction | None:
    """The least that one bundle saves against its parts bought singly, in major units, exact.

    Licensed charges only. Charges on a level feature are compared at every quantity that could be
    the worst, from 1 to the limit (`limits`, by feature): where a tier, `included`, `minimum` or a
    block ends, and one further. None: there is no limit, and it gets dearer without end. (Blocks
    of two different sizes on one feature are compared next to those ends only.)
    """
    counted = _counted(parts, charges, currency, interval)
    saved = Fraction(0)
    by_feature: dict[str, list[_Counted]] = {}
    for one in counted:
        if one.charge.quantity_feature is None:
            saved += one.at(one.packages * one.charge.units_per_package)
        else:
            by_feature.setdefault(one.charge.quantity_feature, []).append(one)
    for feature_id, group in by_feature.items():
        least = _least(group, limits.get(feature_id))
        if least is None:
            return None
        saved += least
    return saved


def _counted(
    parts: Iterable[Part], charges: Iterable[Charge], currency: str, interval: Interval
) -> list[_Counted]:
    singly = [(charge, 1, quantity) for part, quantity in parts for charge in part.charges]
    every = [*singly, *((charge, -1, 1) for charge in charges)]
    return [
        _Counted(charge, price, sign, packages)
        for charge, sign, packages in every
        if not charge.metered and (price := charge.price(currency, interval)) is not None
    ]


def _least(group: list[_Counted], limit: int | None) -> Fraction | None:
    if limit is None and sum((c.sign * _slope(c) for c in group), Fraction(0)) < 0:
        return None
    ends = {0, *(end for one in group for end in _ends(one))} | {limit or 0}
    for one in group:
        ends |= {block for end in list(ends) for block in _blocks(one.charge, end)}
    quantities = {q for end in ends for q in (end, end + 1)}
    within = [q for q in quantities if q >= 1 and (limit is None or q <= limit)]
    return min(sum((one.at(q) for one in group), Fraction(0)) for q in within or [1])


def _slope(counted: _Counted) -> Fraction:
    """What one more unit costs in the end."""
    charge, price = counted.charge, counted.price
    if price.tiers:
        return Fraction(price.tiers[-1].unit)
    return Fraction(price.unit_amount or 0) / (charge.package_size or 1)


def _ends(counted: _Counted) -> Iterable[int]:
    """The quantities at which the cost stops rising evenly, blocks aside."""
    charge = counted.charge
    bounds = [tier.up_to for tier in counted.price.tiers if tier.up_to is not None]
    return [charge.minimum or 0, *(charge.included + bound for bound in (0, *bounds))]


def _blocks(charge: Charge, quantity: int) -> Iterable[int]:
    """The ends of the blocks around a quantity."""
    if charge.package_size is None:
        return []
    block = (quantity - charge.included) // charge.package_size
    return [charge.included + n * charge.package_size for n in (block - 1, block, block + 1)]
