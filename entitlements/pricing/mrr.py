"""Monthly recurring revenue: licensed charges only, rounded once per item, integers summed."""

from collections.abc import Iterable
from fractions import Fraction

from entitlements.kernel.money import round_half_away
from entitlements.kernel.period import Interval
from entitlements.pricing.charges import PricedCharge


def recurring_minor(charges: Iterable[PricedCharge]) -> int:
    """What the charges of an item come to per interval: the sum of their rounded lines."""
    return sum(charge.amount_minor for charge in charges)


def mrr_minor(charges: Iterable[PricedCharge], interval: Interval) -> int:
    """The monthly value of one item (`licensed`), in minor units: the year ÷ 12, rounded once.

    Metered use is no part of it. Sum these integers over items, never the fractions: a total
    is then the sum of what is shown.

    >>> from decimal import Decimal
    >>> from entitlements.catalog.model import *
    >>> fee = Charge(id="fee", name="Fee", model=PricingModel.FLAT, prices=(),
    ...     billing=BillingTime.IN_ADVANCE)
    >>> usd = Price(currency="usd", interval=Interval.YEAR, flat_amount=Decimal(2000))
    >>> mrr_minor([PricedCharge(fee, usd, 1, Fraction(200_000))], Interval.YEAR)
    16667
    """
    exact = sum((charge.exact for charge in charges), Fraction(0))
    return round_half_away(exact / interval.months)
