"""How many units a charge counts, and how many of a level feature may or must be bought."""

from collections.abc import Iterable, Mapping

from entitlements.catalog.model import Charge


def charged_quantity(charge: Charge, package_quantity: int, bought: Mapping[str, int]) -> int:
    """The units that a licensed charge counts, before `included` and `minimum`.

    Without a quantity feature it counts the packages held; with a level feature the quantity
    `bought` of it (by feature id; one that is missing counts as just bought: `first_bought`).

    >>> from entitlements.catalog.model import BillingTime, PricingModel
    >>> seats = Charge(id="seats", name="Seats", model=PricingModel.PER_UNIT, prices=(),
    ...     billing=BillingTime.IN_ADVANCE, quantity_feature="seats", minimum=3)
    >>> charged_quantity(seats, 1, {"seats": 60}), charged_quantity(seats, 1, {})
    (60, 3)
    """
    if charge.metered:
        raise ValueError(f"{charge.id} is metered: its quantity is use, not what was bought")
    if charge.quantity_feature is None:
        return package_quantity * charge.units_per_package
    return bought.get(charge.quantity_feature, first_bought([charge]))


def counted_features(charges: Iterable[Charge]) -> frozenset[str]:
    """The level features whose bought quantity these charges count (CATALOG, "Quantity")."""
    return frozenset(c.quantity_feature for c in charges if c.quantity_feature and not c.metered)


def first_bought(charges: Iterable[Charge], in_use: int = 0) -> int:
    """The quantity of a level feature when first charged: max(`minimum`, 1, the level in use).

    `charges` are those that count the feature.
    """
    return max(1, in_use, *(charge.minimum or 0 for charge in charges))
