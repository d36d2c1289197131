"""Packages of one product taken together: what they are made of, what they give, what they break.

An estimate asks it of what someone is looking at, a change of what a customer would hold.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from entitlements.catalog.model import (
    AddOn,
    AnyPackage,
    Bundle,
    Catalog,
    Charge,
    Entitlement,
    EntitlementValue,
    GrantMode,
    Plan,
)
from entitlements.catalog.values import combine
from entitlements.pricing.quantities import counted_features


class Selected(msgspec.Struct, frozen=True):
    """A package at a version, and how many of it."""

    package: AnyPackage
    quantity: int = 1


class Part(msgspec.Struct, frozen=True):
    """A plan or add-on that is had: by itself, or as the component of a bundle, `held`."""

    package: AnyPackage
    quantity: int
    held: AnyPackage


class BrokenRelation(msgspec.Struct, frozen=True):
    """Why packages cannot be had together: the package to blame, a stable code, and words.

    DOES_NOT_FIT  the add-on does not work with the plan
    REQUIRES      an add-on that it needs is missing
    EXCLUDES      an add-on that it excludes is there
    MAX_QUANTITY  more of the add-on than may be held, bundles included
    TWO_PLANS     more than one plan, bundles included
    METERED_TWICE two packages bill the use of one feature
    """

    package_id: str
    code: str
    message: str


def parts_of(catalog: Catalog, package: AnyPackage, quantity: int = 1) -> list[Part]:
    """A plan or add-on is its own part; a bundle's are its components, at the versions it pins."""
    if not isinstance(package, Bundle):
        return [Part(package, quantity, package)]
    return [
        Part(catalog.version(c.package_id, c.version), c.quantity * quantity, package)
        for c in package.components
    ]


def all_parts(catalog: Catalog, items: Iterable[Selected]) -> list[Part]:
    """The parts of everything selected."""
    return [part for item in items for part in parts_of(catalog, item.package, item.quantity)]


def charges_of(items: Iterable[Selected]) -> list[Charge]:
    """Every charge of everything selected."""
    return [charge for item in items for charge in item.package.charges]


def granted_as(entitlement: Entitlement, bought: Mapping[str, int]) -> EntitlementValue:
    """What an entitlement grants where charges that count level features are held.

    `bought` has the quantity of each *counted* level feature. Of those a limit that is set is
    only the most that may be bought: what was bought is what is granted (CATALOG, "Quantity").

    >>> up_to_50 = Entitlement("seats", GrantMode.SET, EntitlementValue(limit=50))
    >>> granted_as(up_to_50, {"seats": 12}).limit, granted_as(up_to_50, {}).limit
    (12, 50)
    """
    if entitlement.mode is GrantMode.ADD or entitlement.feature_id not in bought:
        return entitlement.value
    return msgspec.structs.replace(
        entitlement.value, limit=bought[entitlement.feature_id], unlimited=False
    )


def granted_values(
    catalog: Catalog, items: Sequence[Selected], bought: Mapping[str, int]
) -> dict[str, EntitlementValue]:
    """What the packages give together, by feature id.

    `bought` must have every level feature that a charge of theirs counts; others in it are
    ignored.
    """
    counted = {f: bought[f] for f in counted_features(charges_of(items))}
    sets: dict[str, list[EntitlementValue]] = defaultdict(list)
    adds: dict[str, list[tuple[EntitlementValue, int]]] = defaultdict(list)
    for part in all_parts(catalog, items):
        for entitlement in part.package.entitlements:
            if entitlement.mode is GrantMode.ADD:
                adds[entitlement.feature_id].append((entitlement.value, part.quantity))
            else:
                sets[entitlement.feature_id].append(granted_as(entitlement, counted))
    for feature_id, quantity in counted.items():
        sets[feature_id].append(EntitlementValue(limit=quantity))
    together = {}
    for feature_id in sorted({*sets, *adds}):
        value = combine(catalog.feature(feature_id), sets[feature_id], adds[feature_id])
        if value is not None:
            together[feature_id] = value
    return together


def most_to_buy(catalog: Catalog, items: Iterable[Selected], feature_id: str) -> int | None:
    """The most that may be bought of a level feature that is counted; None: any number.

    It is the largest limit that a package sets; where none sets one, any number.
    """
    limits = [
        entitlement.value
        for part in all_parts(catalog, items)
        for entitlement in part.package.entitlements
        if entitlement.feature_id == feature_id and entitlement.mode is not GrantMode.ADD
    ]
    if not limits or any(value.unlimited for value in limits):
        return None
    return max(value.limit or 0 for value in limits)


def broken_relations(catalog: Catalog, items: Sequence[Selected]) -> Iterator[BrokenRelation]:
    """Every rule that the packages break together; none if they may be had together.

    Without a plan among them no add-on is asked whether it fits.
    """
    parts = all_parts(catalog, items)
    plans = [part for part in parts if isinstance(part.package, Plan)]
    for i, part in enumerate(plans):
        if i > 0 or part.quantity > 1:
            words = f"{part.held.name} brings a second plan beside {plans[0].package.name}"
            yield BrokenRelation(part.held.id, "TWO_PLANS", words)
    held_by: dict[str, int] = defaultdict(int)
    for part in parts:
        held_by[part.package.id] += part.quantity
    for part in parts:
        if isinstance(part.package, AddOn):
            yield from _broken_by(catalog, part, part.package, held_by, plans)
    yield from _metered_twice(items)


def _broken_by(
    catalog: Catalog, part: Part, add_on: AddOn, held: Mapping[str, int], plans: Sequence[Part]
) -> Iterator[BrokenRelation]:
    for plan in plans:
        if not add_on.fits(plan.package.id):
            words = f"{add_on.name} does not work with {plan.package.name}"
            yield BrokenRelation(part.held.id, "DOES_NOT_FIT", words)
    for required in add_on.requires:
        if required not in held:
            words = f"{add_on.name} requires {_name(catalog, required)}"
            yield BrokenRelation(part.held.id, "REQUIRES", words)
    for excluded in add_on.excludes:
        if excluded in held:
            words = f"{add_on.name} cannot be had with {_name(catalog, excluded)}"
            yield BrokenRelation(part.held.id, "EXCLUDES", words)
    if add_on.max_quantity is not None and held[add_on.id] > add_on.max_quantity:
        words = f"at most {add_on.max_quantity} of {add_on.name} can be had, not {held[add_on.id]}"
        yield BrokenRelation(part.held.id, "MAX_QUANTITY", words)


def _metered_twice(items: Sequence[Selected]) -> Iterator[BrokenRelation]:
    metering: dict[str, AnyPackage] = {}
    for item in items:
        for feature_id in sorted(
            {c.quantity_feature or "" for c in item.package.charges if c.metered}
        ):
            first = metering.setdefault(feature_id, item.package)
            if first is not item.package:
                words = f"{item.package.name} and {first.name} both bill the use of {feature_id}"
                yield BrokenRelation(item.package.id, "METERED_TWICE", words)


def _name(catalog: Catalog, package_id: str) -> str:
    package = catalog.current.get(package_id)
    return package.name if package else package_id
