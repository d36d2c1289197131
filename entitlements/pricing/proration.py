"""Shares of an amount: of a period's price for the time left, of a bundle's line per module.

The fraction of a period is exact (`Period.fraction_left`); each line is rounded once. A change
makes one credit line for the old configuration and one charge line for the new, never their
difference, so that a second change credits the full price of what is held.
"""

from collections.abc import Mapping
from fractions import Fraction

import msgspec

from entitlements.catalog.model import AnyPackage, Bundle, Catalog, Charge
from entitlements.kernel.money import round_half_away, split
from entitlements.kernel.period import Interval
from entitlements.pricing.charges import licensed, sold_in


def prorate(amount: Fraction | int, fraction: Fraction) -> int:
    """The share of an exact amount of minor units, rounded once, half away from zero.

    From $100 to $300 on June 11 leaves 20 of 30 days: credit 66.67, charge 200.00.

    >>> prorate(Fraction(10000), Fraction(20, 30)), prorate(Fraction(30000), Fraction(20, 30))
    (6667, 20000)
    """
    return round_half_away(amount * fraction)


def capped_credit(potential_minor: int, charged_minor: int, credited_minor: int = 0) -> int:
    """The credit for an item and a time: never more than was charged for them and not yet
    credited, never less than 0. All in minor units, none negative in the answer.

    >>> capped_credit(300, 200, 50), capped_credit(100, 200, 200), capped_credit(-50, 200)
    (150, 0, 0)
    """
    return max(0, min(potential_minor, charged_minor - credited_minor))


class Allocation(msgspec.Struct, frozen=True):
    """The part of a bundle's line that is a module's revenue."""

    package: AnyPackage
    amount_minor: int


def allocate(
    catalog: Catalog,
    bundle: Bundle,
    charge: Charge,
    amount_minor: int,
    bought: Mapping[str, int],
    currency: str,
    interval: Interval,
) -> list[Allocation]:
    """Split a line of a bundle over its modules; the parts sum to the line.

    A charge that pays for one component is that component's. One of the bundle's own is split in
    proportion to what the components cost by themselves, by largest remainders; evenly where
    they cost nothing. Contact-sales and metered charges weigh nothing.
    """
    parts = [(catalog.version(c.package_id, c.version), c.quantity) for c in bundle.components]
    if charge.component_id is not None:
        paid_for = next(package for package, _ in parts if package.id == charge.component_id)
        return [Allocation(paid_for, amount_minor)]
    weights = [_weight(package, n, bought, currency, interval) for package, n in parts]
    shares = split(amount_minor, weights)
    return [Allocation(package, share) for (package, _), share in zip(parts, shares, strict=True)]


def _weight(
    package: AnyPackage,
    quantity: int,
    bought: Mapping[str, int],
    currency: str,
    interval: Interval,
) -> Fraction:
    if not sold_in(package, currency, interval):
        return Fraction(0)
    charges = licensed(package, quantity, bought, currency, interval)
    return sum((charge.exact for charge in charges), Fraction(0))
