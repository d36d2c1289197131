"""Plans side by side: the ✓ and ✗ of a pricing page."""

from collections.abc import Sequence

import msgspec

from entitlements.catalog.model import (
    AddOn,
    Catalog,
    Entitlement,
    EntitlementValue,
    Feature,
    GrantMode,
    Plan,
    Product,
)
from entitlements.catalog.values import at_least, combine, is_granted
from entitlements.kernel.errors import Issue, NotFound, ValidationFailed

CELLS_MAX = 25_000
"""Features × plans of one comparison: five plans of a catalog with 5,000 features."""


class ComparisonCell(msgspec.Struct, frozen=True):
    """One feature in one plan. `value` is the plan's own grant, None where it has none.

    Of a level that is bought by the unit `value` is the most that may be bought. `via_add_ons`
    work with the plan and give more of the feature than it does.
    """

    plan: Plan
    included: bool
    value: EntitlementValue | None
    via_add_ons: tuple[AddOn, ...]


class ComparisonRow(msgspec.Struct, frozen=True):
    feature: Feature
    cells: tuple[ComparisonCell, ...]


class Comparison(msgspec.Struct, frozen=True):
    """Rows in the order of the catalog's features, cells in the order of `plans`."""

    product: Product
    plans: tuple[Plan, ...]
    rows: tuple[ComparisonRow, ...]


def compare(catalog: Catalog, product_id: str, plan_ids: Sequence[str] | None = None) -> Comparison:
    """Compare plans sold now, all of the product's or those named, in the order named.

    There is a row for each feature that a compared plan or an add-on of the product touches.
    Raises `NotFound` for the product, `ValidationFailed` for a plan that is not the product's
    (`UNKNOWN_PLAN`), and for more than `CELLS_MAX` cells (`TOO_LARGE`).
    """
    product = catalog.products.get(product_id)
    if product is None:
        raise NotFound("product", product_id)
    plans = _plans(product, plan_ids)
    own = [(plan, _by_feature(plan)) for plan in plans]
    giving: dict[str, list[tuple[AddOn, list[Entitlement]]]] = {}
    for add_on in product.add_ons:
        for feature_id, entitlements in _by_feature(add_on).items():
            giving.setdefault(feature_id, []).append((add_on, entitlements))
    touched = {*giving, *(feature_id for _, granted in own for feature_id in granted)}
    if len(touched) * len(plans) > CELLS_MAX:
        most = CELLS_MAX // len(touched)
        words = f"there are {len(touched):,} features: name at most {most} plans to compare"
        raise ValidationFailed.of("planIds", "TOO_LARGE", words)
    rows = [
        ComparisonRow(
            feature,
            tuple(
                _cell(feature, plan, granted.get(feature.id, []), giving.get(feature.id, []))
                for plan, granted in own
            ),
        )
        for feature in catalog.features.values()
        if feature.id in touched
    ]
    return Comparison(product, plans, tuple(rows))


def _plans(product: Product, plan_ids: Sequence[str] | None) -> tuple[Plan, ...]:
    if plan_ids is None:
        return product.plans
    by_id = {plan.id: plan for plan in product.plans}
    issues = [
        Issue(("planIds", str(i)), "UNKNOWN_PLAN", f"{product.name} has no plan {plan_id!r}")
        for i, plan_id in enumerate(plan_ids)
        if plan_id not in by_id
    ]
    if issues:
        raise ValidationFailed(issues)
    return tuple(by_id[plan_id] for plan_id in dict.fromkeys(plan_ids))


def _by_feature(package: Plan | AddOn) -> dict[str, list[Entitlement]]:
    found: dict[str, list[Entitlement]] = {}
    for entitlement in package.entitlements:
        found.setdefault(entitlement.feature_id, []).append(entitlement)
    return found


def _cell(
    feature: Feature,
    plan: Plan,
    granted: list[Entitlement],
    giving: list[tuple[AddOn, list[Entitlement]]],
) -> ComparisonCell:
    """`granted` and `giving` are the plan's and the add-ons' entitlements of this feature."""
    value = combine(feature, (e.value for e in granted))
    via = [a for a, own in giving if a.fits(plan.id) and _gives_more(feature, own, value)]
    return ComparisonCell(plan, is_granted(value), value, tuple(via))


def _gives_more(feature: Feature, own: list[Entitlement], value: EntitlementValue | None) -> bool:
    if value is not None and value.unlimited:
        return False
    if any(e.mode is GrantMode.ADD for e in own):
        return True
    return any(is_granted(e.value) and not at_least(feature, value, e.value) for e in own)
