"""What is legal in a catalog, but odd: worth a look before it is proposed."""

from collections.abc import Iterable, Iterator
from decimal import Decimal
from itertools import islice
from typing import Final

from entitlements.catalog.bundles import cost
from entitlements.catalog.document import Draft
from entitlements.catalog.model import (
    AddOn,
    AnyPackage,
    Bundle,
    Charge,
    GrantMode,
    Plan,
    Price,
    PricingModel,
    Product,
)
from entitlements.catalog.source import Path
from entitlements.kernel.errors import Issue
from entitlements.kernel.money import round_rate
from entitlements.kernel.period import Interval

_GROUPS: Final = ("plans", "add_ons", "bundles")


def warnings(draft: Draft) -> list[Issue]:
    """Everything odd about a draft, with the paths of its document."""
    found = list(_unused_features(draft))
    for i, product in enumerate(draft.products.values()):
        at = ("products", str(i))
        if not product.plans:
            words = "without a plan, nothing of the product can be subscribed to"
            found.append(Issue((*at, "plans"), "NO_PLANS", words))
        for key in _GROUPS:
            packages: Iterable[AnyPackage] = getattr(product, key)
            for j, package in enumerate(packages):
                found += _package(package, product, (*at, key, str(j)))
    return found


def _unused_features(draft: Draft) -> Iterator[Issue]:
    used = {e.feature_id for p in draft.packages.values() for e in p.entitlements}
    for i, feature_id in enumerate(draft.features):
        if feature_id not in used:
            words = f"no package grants {feature_id!r}"
            yield Issue(("features", str(i)), "NEVER_GRANTED", words)


def _package(package: AnyPackage, product: Product, path: Path) -> Iterator[Issue]:
    if not isinstance(package, Bundle):  # a bundle's parts are looked at by themselves
        yield from _limits(package, path)
    if not (isinstance(package, Bundle) and package.discount_percent is not None):
        for i, charge in enumerate(package.charges):
            yield from _charge(charge, package, (*path, "charges", str(i)))
    if isinstance(package, AddOn | Bundle) and product.plans:
        yield from _buyable(package, product, path)


# Limits and what is charged for them


def _limits(package: AnyPackage, path: Path) -> Iterator[Issue]:
    charged = {c.quantity_feature for c in package.charges if c.metered}
    for entitlement in package.entitlements:
        at = (*path, "entitlements", entitlement.feature_id)
        value = entitlement.value
        if value.overage and entitlement.feature_id not in charged:
            words = "use beyond the limit costs nothing: no charge of the package meters it"
            yield Issue(at, "OVERAGE_FREE", words)
        if entitlement.mode is GrantMode.ADD and value.limit == 0:
            yield Issue(at, "ADDS_NOTHING", "it adds 0 to the limit")


def _charge(charge: Charge, package: AnyPackage, path: Path) -> Iterator[Issue]:
    yield from _against_limit(charge, package, path)
    counts_one = isinstance(package, Plan) and charge.quantity_feature is None
    if counts_one and charge.model is not PricingModel.FLAT:
        words = "a plan is held once: without `quantity` this is a flat price"
        yield Issue((*path, "model"), "COUNTS_ONE", words)
    if charge.model is PricingModel.VOLUME:
        yield from islice(_falling_totals(charge, path), 1)
    for price in charge.prices:
        if not charge.metered and price.interval is Interval.YEAR:
            yield from _dear_year(charge, price, path)


def _against_limit(charge: Charge, package: AnyPackage, path: Path) -> Iterator[Issue]:
    granted = [e for e in package.entitlements if e.feature_id == charge.quantity_feature]
    if charge.quantity_feature is None:
        return
    if not granted:
        words = f"the package charges for {charge.quantity_feature!r} and does not grant it"
        yield Issue((*path, "quantity"), "NOT_GRANTED", words)
    for value in (e.value for e in granted if e.mode is GrantMode.SET):
        if value.limit is None:
            continue
        if charge.metered and not value.overage and value.limit <= charge.included:
            words = f"use ends at {value.limit:,}, and {charge.included:,} are included"
            yield Issue(path, "NEVER_DUE", words)
        if not charge.metered and value.limit < max(charge.minimum or 1, 1):
            words = f"at most {value.limit:,} may be bought, which is below the least"
            yield Issue((*path, "minimum"), "NEVER_BOUGHT", words)


def _falling_totals(charge: Charge, path: Path) -> Iterator[Issue]:
    """Volume prices may make one unit more cost less in all: 50 × 8 is 400, 51 × 6 is 306."""
    for price in charge.prices:
        for tier in price.tiers[:-1]:
            last = (tier.up_to or 0) + charge.included
            before, after = (cost(charge, price, n) for n in (last, last + 1))
            if after < before:
                money = f"{price.currency} {round_rate(after)} instead of {round_rate(before)}"
                words = f"{last + 1:,} cost less in all than {last:,}: {money}"
                yield Issue((*path, "prices", price.currency), "TOTAL_FALLS", words)


def _dear_year(charge: Charge, year: Price, path: Path) -> Iterator[Issue]:
    month = charge.price(year.currency, Interval.MONTH)
    if month is None:
        return
    if any(y > 12 * m for y, m in zip(_amounts(year), _amounts(month), strict=False)):
        at = (*path, "prices", year.currency, year.interval.value)
        yield Issue(at, "YEAR_DEARER", "a year costs more than twelve months")


def _amounts(price: Price) -> Iterable[Decimal]:
    if price.tiers:
        return [amount for tier in price.tiers for amount in (tier.unit, tier.flat)]
    return [a for a in (price.flat_amount, price.unit_amount) if a is not None]


# Whether anybody can buy it


def _buyable(package: AddOn | Bundle, product: Product, path: Path) -> Iterator[Issue]:
    plans = _fitting_plans(package, product)
    if not plans:
        words = f"no plan works with all that {package.id!r} needs: nobody can buy it"
        yield Issue(path, "NOBODY_CAN_BUY", words)
        return
    metered = _metered(package)
    parts = _component_ids(package)
    clashing = [plan for plan in plans if plan.id not in parts and metered & _metered(plan)]
    if len(clashing) == len(plans):
        words = "every plan that it works with meters the same feature: nobody can buy it"
        yield Issue(path, "NOBODY_CAN_BUY", words)


def _fitting_plans(package: AddOn | Bundle, product: Product) -> list[Plan]:
    """The plans that can be held with it; where it has a plan among its parts, that one."""
    needed = _component_ids(package) | {package.id}
    own = [plan for plan in product.plans if plan.id in needed]
    while more := {id for a in product.add_ons if a.id in needed for id in a.requires} - needed:
        needed |= more
    add_ons = [add_on for add_on in product.add_ons if add_on.id in needed]
    return [plan for plan in own or product.plans if all(a.fits(plan.id) for a in add_ons)]


def _component_ids(package: AddOn | Bundle) -> frozenset[str]:
    components = package.components if isinstance(package, Bundle) else ()
    return frozenset(component.package_id for component in components)


def _metered(package: AnyPackage) -> frozenset[str | None]:
    return frozenset(charge.quantity_feature for charge in package.charges if charge.metered)
