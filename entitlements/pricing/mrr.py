"""Monthly recurring revenue: licensed charges only, rounded once per item, integers summed."""

from collections.abc import Iterable
from fractions import Fraction

from entitlements.kernel.money import round_half_away
from entitlements.kernel.period import Interval
from entitlements.pricing.charges import PricedCharge


def recurring_minor(charges: Iterable[PricedCharge]) -> int:
    """What the charges of an item come to per interval: the sum of their rounded lines."""
    return sum(charge.amount_minor for charge in charges)


def mrr_minor(exact: Fraction | int, interval: Interval) -> int:
    """The monthly value of one item, of its exact amount per interval: rounded once.

    Metered use is no part of it. Sum these integers over items, never the fractions: a total
    is then the sum of what is shown.

    >>> mrr_minor(200_000, Interval.YEAR), mrr_minor(200_000, Interval.MONTH)
    (16667, 200000)
    """
    return round_half_away(Fraction(exact) / interval.months)
