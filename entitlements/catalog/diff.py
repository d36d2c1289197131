"""What changes between two catalogs, package by package and field by field, before and after.

Both sides are written out as trees in the terms of the document, each thing under its own id, and
compared: a part that only one side has is one difference, whole.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from itertools import groupby
from typing import Any, Final

import msgspec
import yaml
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from entitlements.catalog.document import Draft
from entitlements.catalog.model import (
    AddOn,
    AnyPackage,
    Bundle,
    Catalog,
    Charge,
    Entitlement,
    Feature,
    GrantMode,
    Plan,
    Policy,
    Price,
    Product,
)
from entitlements.kernel.errors import Issue
from entitlements.kernel.money import round_half_away

RENAME_LIKENESS: Final = Fraction(3, 4)
"""From this share of equal terms on, a removal and an addition are a probable rename."""
SUMMARY_PACKAGES: Final = 20


class DifferenceKind(StrEnum):
    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One field, or one part with all that is in it.

    `path` is dotted and made of ids: `products.workspace.plans.pro.charges.base.prices.usd.month`.
    `before` and `after` are JSON values, amounts as text. `wording` is what is published with the
    revision and makes no version (names, texts, a plan's place). `percent` is the rise of a number,
    with two decimals.
    """

    path: str
    kind: DifferenceKind
    package_id: str | None = None
    before: Any = None
    after: Any = None
    wording: bool = False
    percent: Decimal | None = None


_Tree = dict[str, Any]
_FEATURE_WORDING = frozenset(["name", "description", "unit"])
_PACKAGE_WORDING = frozenset(
    ["name", "description", "problem", "audience", "use_case", "rank", "extends"]
)


def _is_wording(path: tuple[str, ...]) -> bool:
    """Whether the field at a path makes no version."""
    match path:
        case ("features", _, field):
            return field in _FEATURE_WORDING
        case ("products", _, "name"):
            return True
        case ("products", _, _, _, *field):
            return (len(field) == 1 and field[0] in _PACKAGE_WORDING) or (
                len(field) > 1
                and (field[0], field[-1]) in (("charges", "name"), ("trial", "guide"))
            )
    return False


def diff(before: Catalog | Draft, after: Catalog | Draft) -> list[Difference]:
    """Every difference, the catalog's own first, then by product and package."""
    found = list(_compare((), _catalog(before, after), _catalog(after, before), None))
    old, new = _packages(before), _packages(after)
    for path in dict.fromkeys([*old, *new]):
        found += _compare_parts(path, old.get(path), new.get(path), path[-1])
    return found


def _compare_parts(
    path: tuple[str, ...], before: Any, after: Any, package_id: str | None
) -> Iterator[Difference]:
    if isinstance(before, dict) and isinstance(after, dict):
        yield from _compare(path, before, after, package_id)
    elif before != after:
        yield _difference(path, before, after, package_id)


def _compare(
    path: tuple[str, ...], before: _Tree, after: _Tree, package_id: str | None
) -> Iterator[Difference]:
    for key in dict.fromkeys([*before, *after]):
        at = (*path, key)
        yield from _compare_parts(at, before.get(key), after.get(key), package_id)


def _difference(
    path: tuple[str, ...], before: Any, after: Any, package_id: str | None
) -> Difference:
    kind = DifferenceKind.CHANGED
    if before is None or after is None:
        kind = DifferenceKind.ADDED if before is None else DifferenceKind.REMOVED
    return Difference(
        path=".".join(path),
        kind=kind,
        package_id=package_id,
        before=_json(before),
        after=_json(after),
        wording=_is_wording(path),
        percent=rise_percent(before, after),
    )


def rise_percent(before: Any, after: Any) -> Decimal | None:
    """How much a number rises, in percent with two decimals; None where there is no ratio.

    >>> rise_percent(Decimal("79.00"), Decimal("99.00")), rise_percent(0, 5)
    (Decimal('25.32'), None)
    """
    numbers = all(isinstance(v, int | Decimal) and not isinstance(v, bool) for v in (before, after))
    if not numbers or not before:
        return None
    rise = (Fraction(after) - Fraction(before)) / abs(Fraction(before))
    return Decimal(round_half_away(rise * 10_000)).scaleb(-2)


def _json(value: Any) -> Any:
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, dict):
        return {key: _json(item) for key, item in value.items() if item is not None}
    return value


# Trees


def _catalog(catalog: Catalog | Draft, other: Catalog | Draft) -> _Tree:
    """All but the packages. A product with nothing to sell is there only if the other has it."""
    products = [p for p in catalog.products.values() if p.packages or p.id in other.products]
    return {
        "currencies": list(catalog.currencies),
        "features": {id: _feature(feature) for id, feature in catalog.features.items()},
        "products": {product.id: _product(product) for product in products},
    }


def _packages(catalog: Catalog | Draft) -> dict[tuple[str, ...], _Tree]:
    groups: dict[tuple[str, ...], _Tree] = {}
    for product in catalog.products.values():
        for key, packages in (
            ("plans", product.plans),
            ("add_ons", product.add_ons),
            ("bundles", product.bundles),
        ):
            for package in packages:
                groups["products", product.id, key, package.id] = _package(package)
    return groups


def _feature(feature: Feature) -> _Tree:
    return _set(
        {
            "name": feature.name,
            "description": feature.description,
            "kind": feature.kind.value,
            "unit": feature.unit,
            "values": list(feature.values) or None,
            "higher_is_better": feature.higher_is_better,
            "aggregation": feature.aggregation and feature.aggregation.value,
            "reset": feature.reset and feature.reset.value,
        }
    )


def _product(product: Product) -> _Tree:
    return _set(
        {
            "name": product.name,
            "fallback_plan": product.fallback_plan,
            "policy": _policy(product.policy),
        }
    )


def _policy(policy: Policy) -> _Tree:
    rules = ("upgrade", "downgrade", "longer_interval", "shorter_interval", "cancellation")
    written: _Tree = {
        key: {"timing": rule.timing.value, "proration": rule.proration.value}
        for key in rules
        for rule in [getattr(policy, key)]
    }
    written["downgrade"]["over_limit"] = policy.over_limit.value
    return written | {
        "past_due_grace_days": policy.past_due_grace_days,
        "customer_may_choose": [timing.value for timing in policy.customer_may_choose],
    }


def _package(package: AnyPackage) -> _Tree:
    return _set(
        {
            "name": package.name,
            "description": package.description,
            "self_serve": package.self_serve,
            "entitlements": _entitlements(package.entitlements),
            "charges": {charge.id: _charge(charge) for charge in package.charges},
            "trial": package.trial
            and _set(
                {
                    "days": package.trial.days,
                    "at_end": package.trial.at_end.value,
                    "requires_payment_method": package.trial.requires_payment_method,
                    "guide": [msgspec.to_builtins(s) for s in package.trial.guide] or None,
                }
            ),
            **_own(package),
        }
    )


def _own(package: AnyPackage) -> _Tree:
    if isinstance(package, Plan):
        return {"rank": package.rank, "extends": package.extends}
    if isinstance(package, AddOn):
        works_with = package.works_with
        return {
            "kind": package.kind.value,
            "problem": package.problem,
            "audience": package.audience,
            "works_with": None if works_with is None else sorted(works_with),
            "requires": sorted(package.requires) or None,
            "excludes": sorted(package.excludes) or None,
            "max_quantity": package.max_quantity,
        }
    return _bundle(package)


def _bundle(bundle: Bundle) -> _Tree:
    return {
        "use_case": bundle.use_case,
        "components": {c.package_id: c.quantity for c in bundle.components},
        "discount_percent": bundle.discount_percent,
    }


def _entitlements(entitlements: Iterable[Entitlement]) -> _Tree:
    """By feature, as the document writes them; a bundle may both set and add to one limit."""
    written: _Tree = {}
    for entitlement in entitlements:
        value = entitlement.value
        if value.limit is not None or value.unlimited:
            limits = written.setdefault(entitlement.feature_id, {})
            limits |= _limit(entitlement)
        else:
            scalars = (value.enabled, value.number, value.choice)
            written[entitlement.feature_id] = next((v for v in scalars if v is not None), None)
    return written


def _limit(entitlement: Entitlement) -> _Tree:
    value = entitlement.value
    adds = entitlement.mode is GrantMode.ADD
    return _set(
        {
            "add" if adds else "limit": value.limit,
            "unlimited": value.unlimited or None,
            "overage": value.overage or None,
            "warn_at_percent": list(value.warn_at_percent) or None,
        }
    )


def _charge(charge: Charge) -> _Tree:
    prices: _Tree = {}
    for price in charge.prices:
        prices.setdefault(price.currency, {})[price.interval.value] = _price(price)
    return _set(
        {
            "name": charge.name,
            "model": charge.model.value,
            "billing": charge.billing.value,
            "quantity": charge.quantity_feature,
            "included": charge.included or None,
            "minimum": charge.minimum,
            "package_size": charge.package_size,
            "component": charge.component_id,
            "units_per_package": charge.units_per_package if charge.units_per_package > 1 else None,
            "prices": prices,
        }
    )


def _price(price: Price) -> Any:
    if price.tiers:
        return {
            "above" if t.up_to is None else str(t.up_to): {"unit": t.unit, "flat": t.flat}
            for t in price.tiers
        }
    return price.unit_amount if price.flat_amount is None else price.flat_amount


def _set(fields: _Tree) -> _Tree:
    """Without what is not there."""
    return {key: value for key, value in fields.items() if value is not None}


# In a few words


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """How much changes, and in which packages: as many ids as `SUMMARY_PACKAGES`."""

    added: int
    removed: int
    changed: int
    packages: tuple[str, ...]
    more_packages: int

    def words(self) -> str:
        """For a message.

        >>> Summary(added=1, removed=0, changed=2, packages=("pro",), more_packages=3).words()
        '2 changed, 1 added, in pro and 3 more'
        """
        counts = {"changed": self.changed, "added": self.added, "removed": self.removed}
        words = ", ".join(f"{n} {what}" for what, n in counts.items() if n) or "nothing"
        if self.packages:
            more = f" and {self.more_packages} more" if self.more_packages else ""
            words += f", in {', '.join(self.packages)}{more}"
        return words


def summary(differences: Sequence[Difference]) -> Summary:
    kinds = Counter(difference.kind for difference in differences)
    packages = list(dict.fromkeys(d.package_id for d in differences if d.package_id is not None))
    return Summary(
        added=kinds[DifferenceKind.ADDED],
        removed=kinds[DifferenceKind.REMOVED],
        changed=kinds[DifferenceKind.CHANGED],
        packages=tuple(packages[:SUMMARY_PACKAGES]),
        more_packages=len(packages[SUMMARY_PACKAGES:]),
    )


# Renames


def probable_renames(before: Catalog | Draft, after: Catalog | Draft) -> list[Issue]:
    """Removals that an addition resembles, by packages and features: code `PROBABLE_RENAME`.

    An id is a name for ever. Changing it retires the one and sells another, so that its holders
    are left behind, which is seldom meant.
    """
    return [*_renamed_packages(before, after), *_renamed_features(before, after)]


def _renamed_features(before: Catalog | Draft, after: Catalog | Draft) -> Iterator[Issue]:
    """A feature has too few terms to tell by: kind and name have to be the same."""
    gone = {(f.kind, f.name): id for id, f in before.features.items() if id not in after.features}
    for id, feature in after.features.items():
        old = gone.get((feature.kind, feature.name))
        if id not in before.features and old is not None:
            yield _rename(("features", id), old)


def _renamed_packages(before: Catalog | Draft, after: Catalog | Draft) -> Iterator[Issue]:
    old_trees, new_trees = _packages(before), _packages(after)
    gone = {path: _terms(path, old_trees[path]) for path in old_trees if path not in new_trees}
    for new, tree in new_trees.items():
        candidates = [old for old in gone if old[:-1] == new[:-1]] if new not in old_trees else []
        if not candidates:
            continue
        terms = _terms(new, tree)
        old = max(candidates, key=lambda path: _likeness(gone[path], terms))
        same_name = old_trees[old]["name"] == tree["name"]
        if _are_alike(gone[old], terms, Fraction(1, 2) if same_name else RENAME_LIKENESS):
            yield _rename(new, old[-1])


def _rename(path: tuple[str, ...], old_id: str) -> Issue:
    words = (
        f"{old_id!r} goes and {path[-1]!r} comes with much the same content; if that is a rename,"
        f" keep the id {old_id!r}, so that its holders stay with it"
    )
    return Issue(path, "PROBABLE_RENAME", words)


def _are_alike(old: frozenset[Any], new: frozenset[Any], least: Fraction) -> bool:
    """Much the same terms, at least half of what is granted among them."""
    granted = [frozenset(t for t in terms if t[0] == "entitlements") for terms in (old, new)]
    return _likeness(old, new) >= least and _likeness(*granted) >= Fraction(1, 2)


def _terms(path: tuple[str, ...], tree: _Tree) -> frozenset[tuple[str, ...]]:
    """Each term of a package with its path inside, as text; wording left out."""
    return frozenset(leaf[len(path) :] for leaf in _leaves(path, tree))


def _leaves(path: tuple[str, ...], tree: Any) -> Iterator[tuple[str, ...]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves((*path, key), value)
    elif not _is_wording(path):
        yield (*path, str(tree))


def _likeness(one: frozenset[Any], other: frozenset[Any]) -> Fraction:
    most = max(len(one), len(other))
    return Fraction(len(one & other), most) if most else Fraction(1)


# For a terminal


def render(differences: Iterable[Difference], renames: Iterable[Issue] = ()) -> RenderableType:
    """A table per package, before beside after, numbers with how much they rise."""
    parts: list[RenderableType] = []
    for _, group in groupby(differences, key=_owner):
        found = list(group)
        parts.append(_table(_owner(found[0]), found))
    parts += [Text(f"! {issue.message}", style="yellow") for issue in renames]
    return Group(*parts) if parts else Text("No difference.")


def _owner(difference: Difference) -> str:
    keys = difference.path.split(".")
    if difference.package_id is not None:
        return ".".join(keys[:4])
    return ".".join(keys[:2]) if keys[0] != "currencies" else "currencies"


def _table(owner: str, differences: list[Difference]) -> Table:
    table = Table(title=Text(owner), title_justify="left", title_style="bold", expand=False)
    for heading in ("", "before", "after"):
        table.add_column(heading, overflow="fold")
    table.add_column("%", justify="right")
    for difference in differences:
        field = difference.path.removeprefix(owner).removeprefix(".") or difference.kind.value
        rise = difference.percent
        table.add_row(
            Text(field),
            Text(_shown(difference.before)),
            Text(_shown(difference.after)),
            Text("" if rise is None else f"{rise:+}"),
            style="dim" if difference.wording else None,
        )
    return table


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, dict | list):
        return yaml.safe_dump(value, sort_keys=False, allow_unicode=True).rstrip()
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
