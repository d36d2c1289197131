"""What a charge costs: the five pricing models, exact to the last decimal, rounded once.

Billable units = max(max(quantity, minimum) − included, 0), then whole blocks, then tiers
(CATALOG.md). Amounts are exact `Fraction`s of minor units until `amount_minor` rounds them.
"""

from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

import msgspec
from babel.numbers import format_currency

from entitlements.catalog.model import AnyPackage, Charge, Price, PricingModel, Tier
from entitlements.kernel.money import minor_from_major, round_half_away
from entitlements.kernel.period import Interval
from entitlements.pricing.quantities import charged_quantity


def billable_quantity(charge: Charge, quantity: int, packages: int = 1) -> int:
    """The units that are paid for, of the `quantity` counted.

    `packages` is how many of the package are held: a metered charge leaves out `included` for
    each of them, a licensed one leaves it out once.

    >>> from entitlements.catalog.model import BillingTime
    >>> calls = Charge(id="calls", name="Calls", model=PricingModel.PACKAGE, prices=(),
    ...     billing=BillingTime.IN_ARREARS, quantity_feature="api-calls", metered=True,
    ...     included=100_000, package_size=1000)
    >>> billable_quantity(calls, 250_500), billable_quantity(calls, 250_500, packages=2)
    (150500, 50500)
    """
    if quantity < 0:
        raise ValueError(f"a quantity is not negative: {quantity}")
    included = charge.included
    if charge.metered:
        included *= packages * charge.units_per_package
    return max(max(quantity, charge.minimum or 0) - included, 0)


def amount(charge: Charge, price: Price, quantity: int, packages: int = 1) -> Fraction:
    """What `quantity` units cost in one interval of the price, in exact minor units.

    >>> from entitlements.catalog.model import BillingTime
    >>> seats = Charge(id="seats", name="Seats", model=PricingModel.VOLUME, prices=(),
    ...     billing=BillingTime.IN_ADVANCE, quantity_feature="seats")
    >>> tiers = [(10, "10"), (50, "8"), (None, "6")]
    >>> usd = Price(currency="usd", interval=Interval.MONTH,
    ...     tiers=tuple(Tier(up_to, Decimal(unit), Decimal(0)) for up_to, unit in tiers))
    >>> [int(amount(seats, usd, n)) for n in (10, 11, 50, 51)]
    [10000, 8800, 40000, 30600]
    """
    major = sum((step.major for step in _steps(charge, price, quantity, packages)), Fraction(0))
    return minor_from_major(major, price.currency)


def amount_minor(charge: Charge, price: Price, quantity: int, packages: int = 1) -> int:
    """`amount`, rounded once, half away from zero: what an invoice line says."""
    return round_half_away(amount(charge, price, quantity, packages))


def late_amount_minor(
    charge: Charge, price: Price, billed: int, units: int, factor: Decimal = Decimal(1)
) -> int:
    """What an invoice for all `units` of use to be paid for says more than one for those `billed`,
    where every amount counts times `factor`. Negative where more are cheaper altogether (volume).

    >>> from entitlements.catalog.model import BillingTime
    >>> blocks = Charge(id="c", name="C", model=PricingModel.PACKAGE, package_size=1000,
    ...     billing=BillingTime.IN_ARREARS, prices=(), included=100_000, metered=True)
    >>> rate = Price(currency="usd", interval=Interval.MONTH, unit_amount=Decimal("1.50"))
    >>> late_amount_minor(blocks, rate, 1_700, 1_900), late_amount_minor(blocks, rate, 1_700, 2_001)
    (0, 150)
    """
    rest = msgspec.structs.replace(charge, included=0)
    both = (amount(rest, price, n) * Fraction(factor) for n in (units, billed))
    whole, part = map(round_half_away, both)
    return whole - part


def explain(charge: Charge, price: Price, quantity: int, packages: int = 1) -> str:
    """How the amount comes about, in words and figures of English.

    >>> from entitlements.catalog.model import BillingTime
    >>> blocks = Charge(id="c", name="C", model=PricingModel.PACKAGE, package_size=10,
    ...     billing=BillingTime.IN_ARREARS, prices=(), included=10)
    >>> rate = Price(currency="usd", interval=Interval.MONTH, unit_amount=Decimal(100))
    >>> explain(blocks, rate, 121)
    '121 − 10 included = 111: 12 blocks of 10 × $100.00'
    """
    how = " + ".join(step.words() for step in _steps(charge, price, quantity, packages))
    how = how or f"0 × {rate_text(Decimal(0), price.currency)}"
    counted = max(quantity, charge.minimum or 0)
    before = f"at least {counted:,}" if counted > quantity else ""
    billable = billable_quantity(charge, quantity, packages)
    if charge.included and counted:
        left_out = f"{counted:,} − {counted - billable:,} included = {billable:,}"
        before = f"{before}: {left_out}" if before else left_out
    return f"{before}: {how}" if before else how


def rate_text(rate: Decimal, currency: str) -> str:
    """A rate for people, with every digit it has.

    >>> rate_text(Decimal("6"), "usd"), rate_text(Decimal("0.0025"), "usd")
    ('$6.00', '$0.0025')
    """
    return format_currency(rate, currency.upper(), locale="en_US", decimal_quantization=False)


class _Step(NamedTuple):
    """A part of an amount: in major units, and how it is explained, if anybody asks."""

    major: Fraction
    words: Callable[[], str]


def _steps(charge: Charge, price: Price, quantity: int, packages: int) -> Iterator[_Step]:
    billable = billable_quantity(charge, quantity, packages)
    match charge.model:
        case PricingModel.FLAT:
            yield _rate_step(billable, price.flat_amount, price.currency)
        case PricingModel.PER_UNIT:
            yield _rate_step(billable, price.unit_amount, price.currency)
        case PricingModel.PACKAGE:
            size = charge.package_size or 1
            name = f"block{'' if 0 < billable <= size else 's'} of {size:,}"
            yield _rate_step(-(-billable // size), price.unit_amount, price.currency, name)
        case PricingModel.VOLUME:
            yield from _tier_steps(_tier_of(price.tiers, billable), billable, price.currency)
        case PricingModel.GRADUATED:
            yield from _graduated_steps(price, billable)


def _rate_step(units: int, rate: Decimal | None, currency: str, name: str = "") -> _Step:
    if rate is None:
        raise ValueError("the price lacks the amount that its charge's model needs")
    counted = f"{units:,} {name}" if name else f"{units:,}"
    return _Step(units * Fraction(rate), lambda: f"{counted} × {rate_text(rate, currency)}")


def _tier_of(tiers: tuple[Tier, ...], billable: int) -> tuple[str, Tier]:
    start = 1
    for tier in tiers:
        if tier.up_to is None or billable <= tier.up_to:
            return _bounds(start, tier.up_to), tier
        start = tier.up_to + 1
    raise ValueError("the last tier has an end")


def _graduated_steps(price: Price, billable: int) -> Iterator[_Step]:
    """Each slice at its own tier; the first tier counts as entered at quantity 0 too."""
    below = 0
    for tier in price.tiers:
        if below and billable <= below:
            return
        upto = billable if tier.up_to is None else min(billable, tier.up_to)
        # The bounds end at the quantity: "51–60: 10 × $6.00" says which units these are.
        yield from _tier_steps((_bounds(below + 1, upto), tier), upto - below, price.currency)
        below = upto if tier.up_to is None else tier.up_to


def _tier_steps(bounded: tuple[str, Tier], units: int, currency: str) -> Iterator[_Step]:
    bounds, tier = bounded
    where = f"{bounds}: " if units else ""
    yield _Step(
        units * Fraction(tier.unit),
        lambda: f"{where}{units:,} × {rate_text(tier.unit, currency)}",
    )
    if tier.flat:
        yield _Step(Fraction(tier.flat), lambda: f"{rate_text(tier.flat, currency)} flat")


def _bounds(start: int, end: int | None) -> str:
    if end is None:
        return f"{start:,}+"
    return f"{start:,}" if start == end else f"{start:,}–{end:,}"


class PricedCharge(msgspec.Struct, frozen=True):
    """A licensed charge of something held: the units it counts and their exact price.

    `exact` is in minor units per interval; `amount_minor` is what a whole period's line says.
    """

    charge: Charge
    price: Price
    quantity: int
    exact: Fraction

    @property
    def amount_minor(self) -> int:
        return round_half_away(self.exact)


def licensed(
    package: AnyPackage,
    quantity: int,
    bought: Mapping[str, int],
    currency: str,
    interval: Interval,
) -> list[PricedCharge]:
    """Every licensed charge of a package held, in the order of the catalog.

    `bought` holds the quantity of each level feature by feature id. Raises `ValueError` where the
    package is not sold in that currency and interval (ask `sold_in` first).
    """
    priced = []
    for charge in package.charges:
        if charge.metered:
            continue
        price = charge.price(currency, interval)
        if price is None:
            raise ValueError(f"{package.version_id} is not sold in {currency} by the {interval}")
        units = charged_quantity(charge, quantity, bought)
        priced.append(PricedCharge(charge, price, units, amount(charge, price, units)))
    return priced


def sold_in(package: AnyPackage, currency: str, interval: Interval) -> bool:
    """Whether every charge has a price there; a metered one is content with the month's."""
    return all(charge.price(currency, interval) is not None for charge in package.charges)
