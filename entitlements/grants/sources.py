"""Where a customer's grants come from: packages held, trials, fallback plans, overrides."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum

import msgspec

from entitlements.catalog.model import (
    AddOn,
    AnyPackage,
    Bundle,
    Catalog,
    EntitlementValue,
    GrantMode,
)
from entitlements.grants.overrides import Override
from entitlements.pricing.quantities import counted_features, first_bought
from entitlements.pricing.selection import granted_as, parts_of


class GrantSourceKind(StrEnum):
    PLAN = "plan"
    ADD_ON = "add_on"
    BUNDLE = "bundle"
    TRIAL = "trial"
    OVERRIDE = "override"
    FALLBACK = "fallback"


class GrantSource(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One thing that grants a feature, and what it contributes.

    `value` is what one of it grants; an ADD counts `quantity` times. `package` is what is held
    (None for an override); `component` is the part of a bundle that grants it, and `quantity`
    then counts the component. `ends_at` is known for trials and for overrides that end.
    """

    kind: GrantSourceKind
    mode: GrantMode
    value: EntitlementValue
    quantity: int = 1
    package: AnyPackage | None = None
    component: AnyPackage | None = None
    override: Override | None = None
    ends_at: datetime | None = None


class HeldPackage(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A package held, at the version where it is priced.

    `granting` is the version whose entitlements hold, where it is a later one (grandfathering).
    `trial` marks what is held on trial; from `ends_at` on it grants nothing.
    """

    package: AnyPackage
    quantity: int = 1
    granting: AnyPackage | None = None
    trial: bool = False
    ends_at: datetime | None = None


class Holding(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a customer holds of one product, or held.

    `has_access` follows from the subscription's status (DESIGN 7); `ended` is that of one that is
    canceled or expired. Neither: it is incomplete, unpaid, paused or past its grace.
    `unconverted_trial` marks a trial that ended without being bought, given for the reason of a
    denial only. `bought` has the quantity of each level feature, by feature id.
    """

    product_id: str
    has_access: bool
    ended: bool = False
    unconverted_trial: bool = False
    items: tuple[HeldPackage, ...] = ()
    bought: Mapping[str, int] = msgspec.field(default_factory=dict)


Sources = dict[str, list[GrantSource]]
"""Sources by feature id."""


def sources(
    catalog: Catalog,
    holdings: Iterable[Holding],
    overrides: Iterable[Override],
    at: datetime,
) -> Sources:
    """Every source that counts at an instant: of holdings with access, of the fallback plan of
    each product that has none, and of overrides in force."""
    found: Sources = {}
    with_access = [holding for holding in holdings if holding.has_access]
    for holding in with_access:
        add_held(found, catalog, holding, at)
    add_fallbacks(found, catalog, {holding.product_id for holding in with_access})
    for override in overrides:
        if override.in_force(at):
            found.setdefault(override.feature_id, []).append(
                GrantSource(
                    kind=GrantSourceKind.OVERRIDE,
                    mode=override.mode,
                    value=override.value,
                    override=override,
                    ends_at=override.ends_at,
                )
            )
    return found


def add_held(found: Sources, catalog: Catalog, holding: Holding, at: datetime) -> None:
    """Add what a holding grants, or would grant if it had access.

    A level feature that one of its charges counts grants what was bought, whatever limit is set;
    where nothing sets one, the package that counts it is the source.
    """
    items = [item for item in holding.items if item.ends_at is None or at < item.ends_at]
    charges = [charge for item in items for charge in item.package.charges]
    counted = {
        feature_id: holding.bought.get(
            feature_id, first_bought(c for c in charges if c.quantity_feature == feature_id)
        )
        for feature_id in counted_features(charges)
    }
    being_set = set()
    for item in items:
        for part in parts_of(catalog, item.granting or item.package, item.quantity):
            for entitlement in part.package.entitlements:
                if entitlement.mode is not GrantMode.ADD:
                    being_set.add(entitlement.feature_id)
                found.setdefault(entitlement.feature_id, []).append(
                    GrantSource(
                        kind=_kind(item),
                        mode=entitlement.mode,
                        value=granted_as(entitlement, counted),
                        quantity=part.quantity,
                        package=item.granting or item.package,
                        component=part.package if part.package is not part.held else None,
                        ends_at=item.ends_at,
                    )
                )
    for item in items:
        for feature_id in sorted(counted_features(item.package.charges) - being_set):
            being_set.add(feature_id)
            found.setdefault(feature_id, []).append(
                GrantSource(
                    kind=_kind(item),
                    mode=GrantMode.SET,
                    value=EntitlementValue(
                        limit=counted[feature_id], unlimited=False, overage=False
                    ),
                    quantity=item.quantity,
                    package=item.package,
                    ends_at=item.ends_at,
                )
            )


def add_fallbacks(found: Sources, catalog: Catalog, products_with_access: set[str]) -> None:
    """Add the free plan of every other product that names one. Nothing was bought of it: its
    limits are what it grants."""
    for product in catalog.products.values():
        plan = catalog.current.get(product.fallback_plan or "")
        if plan is None or product.id in products_with_access:
            continue
        for entitlement in plan.entitlements:
            found.setdefault(entitlement.feature_id, []).append(
                GrantSource(
                    kind=GrantSourceKind.FALLBACK,
                    mode=entitlement.mode,
                    value=entitlement.value,
                    package=plan,
                )
            )


def _kind(item: HeldPackage) -> GrantSourceKind:
    if item.trial:
        return GrantSourceKind.TRIAL
    if isinstance(item.package, Bundle):
        return GrantSourceKind.BUNDLE
    return GrantSourceKind.ADD_ON if isinstance(item.package, AddOn) else GrantSourceKind.PLAN
