"""How the packages of one product refer to each other, and whether that can be fulfilled."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from entitlements.catalog.report import Report, present
from entitlements.catalog.schema import AddOnShape, BundleShape, PlanShape, ProductShape
from entitlements.catalog.source import Path


class Members(msgspec.Struct, frozen=True):
    """The packages of a product, by id: those that are well formed, and the ids of all."""

    plans: dict[str, tuple[Path, PlanShape]]
    add_ons: dict[str, tuple[Path, AddOnShape]]
    bundles: dict[str, tuple[Path, BundleShape]]
    plan_ids: frozenset[str]
    add_on_ids: frozenset[str]
    bundle_ids: frozenset[str]
    requires: dict[str, frozenset[str]]
    excludes: dict[str, frozenset[str]]
    works_with: dict[str, frozenset[str]]  # those that do not work with every plan


def members_of(product: ProductShape, path: Path, raw: Any) -> Members:
    """`raw` is the product as it was given, with the packages that are not well formed."""
    add_ons = [shape for _, shape in present(product.add_ons, ())]
    return Members(
        plans={s.id: (at, s) for at, s in present(product.plans, (*path, "plans"))},
        add_ons={s.id: (at, s) for at, s in present(product.add_ons, (*path, "add_ons"))},
        bundles={s.id: (at, s) for at, s in present(product.bundles, (*path, "bundles"))},
        plan_ids=declared_ids(raw, "plans"),
        add_on_ids=declared_ids(raw, "add_ons"),
        bundle_ids=declared_ids(raw, "bundles"),
        requires={a.id: _names(a.requires) for a in add_ons},
        excludes={a.id: _names(a.excludes) - {a.id} for a in add_ons},
        works_with={a.id: _names(a.works_with) for a in add_ons if a.works_with is not None},
    )


def _names(listed: list[str]) -> frozenset[str]:
    return frozenset(id for _, id in present(listed, ()))


def declared_ids(raw: Any, key: str) -> frozenset[str]:
    """Every id in a list of the document, whether the rest of the item is in order or not."""
    items = raw.get(key) if isinstance(raw, dict) else None
    if not isinstance(items, list):
        return _NO
    found = (item.get("id") for item in items if isinstance(item, dict))
    return frozenset(id for id in found if isinstance(id, str))


_NO: frozenset[str] = frozenset()


def check_relations(members: Members, report: Report) -> None:
    """Every reference of a product's plans, add-ons and bundles. Mistakes go to the report."""
    for path, plan in members.plans.values():
        _check_base(path, plan, members, report)
    for path, add_on in members.add_ons.values():
        _check_references(path, add_on, members, report)
    needed = {id: _closure(id, members.requires) for id in members.add_ons}
    for path, add_on in members.add_ons.values():
        _check_requirements(path, add_on, needed, members, report)
    for path, bundle in members.bundles.values():
        _check_components(path, bundle, members, report)
        parts = {component.id for _, component in present(bundle.components, path)}
        together = parts.union(*(needed.get(id, _NO) for id in parts))
        if report.is_clean(*(at for id, (at, _) in members.add_ons.items() if id in parts)):
            _check_excluded((*path, "components"), together, members, report)


# Plans


def _check_base(path: Path, plan: PlanShape, members: Members, report: Report) -> None:
    if plan.extends is None:
        return
    at = (*path, "extends")
    if plan.extends not in members.plan_ids:
        report.add(at, "NOT_FOUND", f"there is no plan {plan.extends!r} in the product")
    elif plan.id in (chain := bases(plan.id, members)):
        words = " → ".join((plan.id, *chain[:9])) + (" → …" if len(chain) > 9 else "")
        report.add(at, "CYCLE", f"plans extend each other in a circle: {words}")


def bases(plan_id: str, members: Members) -> list[str]:
    """The plans that a plan takes entitlements from, nearest first. Ends where it would repeat."""
    chain: dict[str, None] = {}
    while plan_id in members.plans:
        base = members.plans[plan_id][1].extends
        if base is None or base in chain:
            break
        chain[base] = None
        plan_id = base
    return list(chain)


# Add-ons


def _check_references(path: Path, add_on: AddOnShape, members: Members, report: Report) -> None:
    for key, known, what in (
        ("works_with", members.plan_ids, "plan"),
        ("requires", members.add_on_ids, "add-on"),
        ("excludes", members.add_on_ids, "add-on"),
    ):
        named = list(present(getattr(add_on, key), (*path, key)))
        report.unique(named, what)
        for at, id in named:
            if id not in known:
                report.add(at, "NOT_FOUND", f"there is no {what} {id!r} in the product")
            elif id == add_on.id:
                report.add(at, "ITSELF", f"{id!r} cannot name itself")


def _closure(add_on_id: str, requires: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """Every add-on that has to be held with this one; itself only where there is a circle."""
    found: frozenset[str] = _NO
    new = requires[add_on_id]
    while new:
        found |= new
        new = frozenset().union(*(requires.get(id, _NO) for id in new)) - found
    return found


def _check_requirements(
    path: Path,
    add_on: AddOnShape,
    needed: Mapping[str, frozenset[str]],
    members: Members,
    report: Report,
) -> None:
    for at, id in present(add_on.requires, (*path, "requires")):
        if add_on.id in needed.get(id, _NO) and id != add_on.id:
            words = f"{add_on.id!r} and {id!r} require each other"
            report.add(at, "CYCLE", words)
    together = needed[add_on.id] | {add_on.id}
    _check_excluded((*path, "requires"), together, members, report)
    dangling = not report.is_clean((*path, "requires"), (*path, "works_with"))
    if members.plan_ids and not dangling and not fitting_plans(together, members):
        key = "requires" if add_on.requires else "works_with"
        words = f"no plan works with {add_on.id!r} and all that it requires"
        report.add((*path, key), "NO_PLAN_FITS", words)


def _check_excluded(path: Path, together: Iterable[str], members: Members, report: Report) -> None:
    """None of what is held together may exclude another of it; the first that does is named."""
    ids = frozenset(together)
    for id in sorted(ids & members.add_ons.keys()):
        if clash := members.excludes[id] & ids:
            words = f"{id!r} excludes {min(clash)!r}, and both are needed"
            report.add(path, "EXCLUDED", words)
            return


def fitting_plans(package_ids: Iterable[str], members: Members) -> frozenset[str]:
    """The plans that these packages can be held with together; a plan among them is the only one.

    An add-on that is not well formed counts as one that fits everywhere.
    """
    fitting = members.plan_ids
    for id in package_ids:
        if id in members.plan_ids:
            fitting &= {id}
        elif id in members.works_with:
            fitting &= members.works_with[id]
    return fitting


# Bundles


def _check_components(path: Path, bundle: BundleShape, members: Members, report: Report) -> None:
    components = list(present(bundle.components, (*path, "components")))
    report.unique((((*at, "id"), component.id) for at, component in components), "component")
    plans = [(at, c) for at, c in components if c.id in members.plan_ids]
    for at, component in components:
        if component.id in members.bundle_ids:
            words = f"{component.id!r} is a bundle itself; name what it consists of"
            report.add((*at, "id"), "NESTED_BUNDLE", words)
        elif component.id not in members.plan_ids | members.add_on_ids:
            words = f"there is no add-on or plan {component.id!r} in the product"
            report.add((*at, "id"), "NOT_FOUND", words)
        elif component.id in members.add_ons:
            most = members.add_ons[component.id][1].max_quantity
            if most is not None and component.quantity > most:
                words = f"at most {most} of {component.id!r} may be held"
                report.add((*at, "quantity"), "OUT_OF_RANGE", words)
    for at, component in plans:
        if component.quantity != 1:
            report.add((*at, "quantity"), "OUT_OF_RANGE", "a plan is held once")
    for at, _ in plans[1:]:
        report.add((*at, "id"), "SECOND_PLAN", "a bundle has at most one plan")
