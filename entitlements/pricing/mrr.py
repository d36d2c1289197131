"""Monthly recurring revenue: licensed charges only, rounded once per item, integers summed.

What it moves by is told as finance tells it: new, expansion, contraction, churn, reactivation.
"""

from collections.abc import Iterable
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction

import msgspec

from entitlements.kernel.money import plain, round_half_away
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
    >>> mrr_minor(120_000, Interval.YEAR)
    10000
    """
    return round_half_away(Fraction(exact) / interval.months)


class MovementKind(StrEnum):
    """What one change of what a customer holds did to their MRR as a whole."""

    NEW = "new"
    REACTIVATION = "reactivation"
    CHURN = "churn"
    CHANGE = "change"


def movement_kind(before_minor: int, after_minor: int, *, paid_before: bool) -> MovementKind:
    """From nothing it is new, or a reactivation of whoever paid once; to nothing it is churn.

    >>> movement_kind(0, 16667, paid_before=False), movement_kind(16667, 22667, paid_before=True)
    (<MovementKind.NEW: 'new'>, <MovementKind.CHANGE: 'change'>)
    >>> movement_kind(22667, 0, paid_before=True), movement_kind(0, 2900, paid_before=True)
    (<MovementKind.CHURN: 'churn'>, <MovementKind.REACTIVATION: 'reactivation'>)
    """
    if before_minor == 0 and after_minor > 0:
        return MovementKind.REACTIVATION if paid_before else MovementKind.NEW
    if before_minor > 0 and after_minor == 0:
        return MovementKind.CHURN
    return MovementKind.CHANGE


class MrrMovements(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the MRR of one currency within a period, in minor units.

    All are amounts, none is negative: contraction and churn are taken off. Those of `retained` are
    of customers who paid at the opening, which is what the two rates are of.

    >>> quarter = MrrMovements(opening_minor=100_000_00, expansion_minor=15_000_00,
    ...     contraction_minor=5_000_00, churn_minor=8_000_00, new_minor=4_000_00,
    ...     retained_expansion_minor=15_000_00, retained_contraction_minor=5_000_00,
    ...     retained_churn_minor=8_000_00)
    >>> quarter.closing_minor, quarter.nrr_percent, quarter.grr_percent
    (10600000, Decimal('102'), Decimal('87'))
    """

    opening_minor: int = 0
    new_minor: int = 0
    expansion_minor: int = 0
    contraction_minor: int = 0
    churn_minor: int = 0
    reactivation_minor: int = 0
    retained_expansion_minor: int = 0
    retained_contraction_minor: int = 0
    retained_churn_minor: int = 0

    @property
    def closing_minor(self) -> int:
        came = self.new_minor + self.expansion_minor + self.reactivation_minor
        return self.opening_minor + came - self.contraction_minor - self.churn_minor

    @property
    def nrr_percent(self) -> Decimal | None:
        """Net revenue retention, to two decimals: (opening + expansion − contraction − churn) ÷
        opening, of those who paid at the opening. None where nobody did."""
        lost = self.retained_contraction_minor + self.retained_churn_minor
        return self._percent(self.opening_minor + self.retained_expansion_minor - lost)

    @property
    def grr_percent(self) -> Decimal | None:
        """Gross revenue retention: the same without expansion."""
        lost = self.retained_contraction_minor + self.retained_churn_minor
        return self._percent(self.opening_minor - lost)

    def _percent(self, kept_minor: int) -> Decimal | None:
        if not self.opening_minor:
            return None
        hundredths = round_half_away(Fraction(kept_minor * 10_000, self.opening_minor))
        return plain(Decimal(hundredths).scaleb(-2))
