"""From a well-formed document to products: each part by itself first, then what follows from it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from entitlements.catalog.bundles import (
    Part,
    bundle_entitlements,
    discounted_charges,
    least_saving,
)
from entitlements.catalog.model import (
    AddOn,
    Bundle,
    BundleComponent,
    ChangeRule,
    Charge,
    Entitlement,
    Feature,
    FeatureKind,
    GrantMode,
    Plan,
    Policy,
    Product,
)
from entitlements.catalog.prices import Features, check_complete, read_charges, sold_intervals
from entitlements.catalog.relations import (
    bases,
    check_relations,
    declared_ids,
    members_of,
)
from entitlements.catalog.report import Report, present
from entitlements.catalog.rules import read_entitlements, read_features, read_trial
from entitlements.catalog.schema import (
    CHARGES_MAX,
    PACKAGES_PER_PRODUCT_MAX,
    AddOnShape,
    BundleShape,
    CatalogShape,
    PlanShape,
    PolicyShape,
    ProductShape,
    RuleShape,
)
from entitlements.catalog.source import Path

PackageShapes = PlanShape | AddOnShape | BundleShape


class _Entry(msgspec.Struct, frozen=True):
    """A package as it stands in the document, with what could be read of it by itself."""

    path: Path
    shape: PackageShapes
    entitlements: dict[str, Entitlement]
    charges: tuple[tuple[Path, Charge], ...]

    @property
    def own_charges(self) -> tuple[Charge, ...]:
        return tuple(charge for _, charge in self.charges)


class _AnyFeature(dict[str, Feature | None]):
    """The features of a document whose list of them is lost: each may have been in it."""

    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, key: str) -> None:
        return None


class Resolution:
    """One pass over a document. What it makes is of use only while the report stays empty."""

    def __init__(self, document: CatalogShape, raw: Any, report: Report) -> None:
        self._document = document
        self._raw = raw
        self._report = report
        self.features = read_features(document.features, report)
        self.currencies = self._currencies()
        self._positions = {id: i for i, id in enumerate(self.features)}
        # A feature that is not in order is known all the same: to name it is no mistake.
        self._known: Features = dict.fromkeys(declared_ids(raw, "features")) | self.features
        if not isinstance(raw.get("features"), list):
            self._known = _AnyFeature()

    def _currencies(self) -> tuple[str, ...]:
        found = list(present(self._document.currencies, ("currencies",)))
        self._report.unique(found, "currency")
        return tuple(dict.fromkeys(currency for _, currency in found))

    def products(self) -> dict[str, Product]:
        """Every product, by id."""
        found = list(present(self._document.products, ("products",)))
        self._report.unique((((*path, "id"), shape.id) for path, shape in found), "product")
        entries = {path: self._entries(shape, path) for path, shape in found}
        every = [entry for product in entries.values() for entry in product]
        ids = (((*entry.path, "id"), entry.shape.id) for entry in every)
        self._report.unique(ids, "package")
        self._check_one_product(entries)
        return {
            shape.id: _ProductResolution(self, shape, path, entries[path]).product()
            for path, shape in found
        }

    def _entries(self, product: ProductShape, path: Path) -> list[_Entry]:
        found: list[tuple[Path, PackageShapes]] = [
            *present(product.plans, (*path, "plans")),
            *present(product.add_ons, (*path, "add_ons")),
            *present(product.bundles, (*path, "bundles")),
        ]
        if len(found) > PACKAGES_PER_PRODUCT_MAX:
            words = f"a product has at most {PACKAGES_PER_PRODUCT_MAX} packages"
            self._report.add(path, "TOO_MANY", words)
        return [self._entry(at, shape) for at, shape in found]

    def _entry(self, path: Path, shape: PackageShapes) -> _Entry:
        granted: dict[str, Entitlement] = {}
        if not isinstance(shape, BundleShape):
            granted = read_entitlements(
                shape.entitlements,
                (*path, "entitlements"),
                self._known,
                self._report,
                may_add=isinstance(shape, AddOnShape),
            )
        charges = read_charges(
            shape.charges, (*path, "charges"), self._known, self.currencies, self._report
        )
        return _Entry(path, shape, granted, charges)

    def _check_one_product(self, entries: Mapping[Path, Iterable[_Entry]]) -> None:
        """A metered feature belongs to the product that names it first."""
        owners: dict[str, Path] = {}
        for product_path, product in entries.items():
            for path, feature_id in _metered_uses(product, self.features):
                owner = owners.setdefault(feature_id, product_path)
                if owner != product_path:
                    words = f"{feature_id!r} is metered in another product: {'.'.join(owner)}"
                    self._report.add(path, "METERED_IN_TWO_PRODUCTS", words)

    def in_order(self, granted: Mapping[str, Entitlement]) -> tuple[Entitlement, ...]:
        """Entitlements in the order in which the document lists the features."""
        return tuple(sorted(granted.values(), key=lambda e: self._positions[e.feature_id]))

    def raw_at(self, path: Path) -> Any:
        found = self._raw
        for key in path:
            found = found[int(key)] if isinstance(found, list) else found[key]
        return found

    @property
    def report(self) -> Report:
        return self._report


def _metered_uses(
    entries: Iterable[_Entry], features: Mapping[str, Feature]
) -> Iterator[tuple[Path, str]]:
    metered = {id for id, feature in features.items() if feature.kind is FeatureKind.METERED}
    for entry in entries:
        for feature_id in entry.entitlements.keys() & metered:
            yield (*entry.path, "entitlements", feature_id), feature_id
        for path, charge in entry.charges:
            if charge.quantity_feature in metered:
                yield (*path, "quantity"), charge.quantity_feature


class _ProductResolution:
    """One product: its relations, then its plans, add-ons and bundles."""

    def __init__(
        self, whole: Resolution, shape: ProductShape, path: Path, entries: Sequence[_Entry]
    ) -> None:
        self._whole = whole
        self._shape = shape
        self._path = path
        self._report = whole.report
        self._entries = {entry.shape.id: entry for entry in entries}
        self._members = members_of(shape, path, whole.raw_at(path))
        self._intervals = sold_intervals(c for entry in entries for c in entry.own_charges)

    def product(self) -> Product:
        check_relations(self._members, self._report)
        self._check_prices()
        plans = self._plans()
        add_ons = {id: self._add_on(self._entries[id]) for id in self._members.add_ons}
        resolved: dict[str, Plan | AddOn] = {**plans, **add_ons}
        bundles = [self._bundle(self._entries[id], resolved) for id in self._members.bundles]
        self._check_fallback(plans)
        return Product(
            id=self._shape.id,
            name=self._shape.name,
            plans=tuple(plans.values()),
            add_ons=tuple(add_ons.values()),
            bundles=tuple(bundle for bundle in bundles if bundle is not None),
            fallback_plan=self._shape.fallback_plan,
            policy=_policy(self._shape.policy, (*self._path, "policy"), self._report),
            intervals=self._intervals,
        )

    def _check_prices(self) -> None:
        if not self._report.is_clean(("currencies",)):
            return
        currencies = self._whole.currencies
        for entry in self._entries.values():
            for path, charge in entry.charges:
                check_complete(path, charge, currencies, self._intervals, self._report)

    # Plans and add-ons

    def _plans(self) -> dict[str, Plan]:
        granted: dict[str, dict[str, Entitlement]] = {}
        for id in self._members.plans:
            for plan_id in (*reversed(bases(id, self._members)), id):
                if plan_id not in granted and plan_id in self._members.plans:
                    base = self._members.plans[plan_id][1].extends or ""
                    own = self._entries[plan_id].entitlements
                    granted[plan_id] = granted.get(base, {}) | own
        return {
            id: self._plan(rank, shape, granted[id])
            for rank, (id, (_, shape)) in enumerate(self._members.plans.items())
        }

    def _plan(self, rank: int, shape: PlanShape, granted: dict[str, Entitlement]) -> Plan:
        entry = self._entries[shape.id]
        return Plan(
            id=shape.id,
            product_id=self._shape.id,
            name=shape.name,
            description=shape.description,
            self_serve=shape.self_serve,
            entitlements=self._whole.in_order(granted),
            charges=entry.own_charges,
            trial=read_trial(shape.trial, (*entry.path, "trial"), self._report),
            rank=rank,
            extends=shape.extends,
        )

    def _add_on(self, entry: _Entry) -> AddOn:
        shape = entry.shape
        assert isinstance(shape, AddOnShape)
        return AddOn(
            id=shape.id,
            product_id=self._shape.id,
            name=shape.name,
            description=shape.description,
            self_serve=shape.self_serve,
            entitlements=self._whole.in_order(entry.entitlements),
            charges=entry.own_charges,
            trial=read_trial(shape.trial, (*entry.path, "trial"), self._report),
            kind=shape.kind,
            problem=shape.problem,
            audience=shape.audience,
            works_with=None if shape.works_with is None else tuple(shape.works_with),
            requires=tuple(shape.requires),
            excludes=tuple(shape.excludes),
            max_quantity=shape.max_quantity,
        )

    # Bundles

    def _bundle(self, entry: _Entry, resolved: Mapping[str, Plan | AddOn]) -> Bundle | None:
        """The bundle, or None where it or a component of it is not in order."""
        shape = entry.shape
        assert isinstance(shape, BundleShape)
        if (shape.discount_percent is None) is (shape.charges is None):
            words = "exactly one of discount_percent and charges is expected"
            self._report.add(entry.path, "ONE_OF", words)
        trial = read_trial(shape.trial, (*entry.path, "trial"), self._report)
        components = [c for _, c in present(shape.components, entry.path)]
        parts = [(resolved[c.id], c.quantity) for c in components if c.id in resolved]
        if not self._are_clean([entry.shape.id, *(c.id for c in components)]):
            return None
        charges = entry.own_charges
        if shape.discount_percent is not None:
            charges = discounted_charges(parts, shape.discount_percent)
        bundle = Bundle(
            id=shape.id,
            product_id=self._shape.id,
            name=shape.name,
            description=shape.description,
            self_serve=shape.self_serve,
            entitlements=bundle_entitlements(parts, self._whole.features.values()),
            charges=charges,
            trial=trial,
            use_case=shape.use_case,
            components=tuple(BundleComponent(c.id, 0, c.quantity) for c in components),
            discount_percent=shape.discount_percent,
        )
        self._check_bundle(bundle, entry.path, parts)
        return bundle

    def _are_clean(self, ids: Iterable[str]) -> bool:
        """Whether these packages, and the plans that they extend, are in order."""
        every = {base for id in ids for base in (id, *bases(id, self._members))}
        known = [self._entries.get(id) for id in every]
        return all(entry is not None and self._report.is_clean(entry.path) for entry in known)

    def _check_bundle(self, bundle: Bundle, path: Path, parts: Sequence[Part]) -> None:
        at = (*path, "components")
        if len(bundle.charges) > CHARGES_MAX:
            words = f"its parts have more than {CHARGES_MAX} charges together"
            self._report.add(at, "TOO_MANY", words)
        counted: set[str] = set()
        for charge in bundle.charges:
            feature_id = charge.quantity_feature
            if feature_id in counted:
                code = "METERED_TWICE" if charge.metered else "COUNTED_TWICE"
                words = f"two charges of the bundle count {feature_id!r}"
                self._report.add(at, code, words)
            counted |= {feature_id} if feature_id else set()
        if bundle.charges or bundle.discount_percent is not None:
            self._check_cheaper(bundle, path, parts)

    def _check_cheaper(self, bundle: Bundle, path: Path, parts: Sequence[Part]) -> None:
        """A bundle is cheaper than its parts at every price."""
        for i, (part, _) in enumerate(parts):
            if not part.charges:
                words = f"{part.id!r} has no price to compare with"
                self._report.add((*path, "components", str(i), "id"), "NO_PRICE", words)
        if not self._report.is_clean(path):
            return
        limits = {
            e.feature_id: e.value.limit
            for e in bundle.entitlements
            if e.mode is GrantMode.SET and e.value.limit is not None
        }
        key = "charges" if bundle.discount_percent is None else "discount_percent"
        for currency in self._whole.currencies:
            for interval in self._intervals:
                saved = least_saving(parts, bundle.charges, currency, interval, limits)
                if saved is None or saved <= 0:
                    words = f"it costs as much as its parts or more, per {interval} in {currency}"
                    self._report.add((*path, key), "BUNDLE_NOT_CHEAPER", words)

    # The product itself

    def _check_fallback(self, plans: Mapping[str, Plan]) -> None:
        id, at = self._shape.fallback_plan, (*self._path, "fallback_plan")
        if id is None:
            return
        if id not in self._members.plan_ids:
            self._report.add(at, "NOT_FOUND", f"there is no plan {id!r} in the product")
        elif id in plans and self._are_clean([id]) and not _is_free(plans[id]):
            self._report.add(at, "NOT_FREE", f"{id!r} is not free: a flat 0 is expected")


def _is_free(plan: Plan) -> bool:
    """Whether it has prices, and all of them are 0."""
    amounts = [
        amount
        for charge in plan.charges
        for price in charge.prices
        for amount in (
            price.flat_amount,
            price.unit_amount,
            *(x for tier in price.tiers for x in (tier.unit, tier.flat)),
        )
    ]
    return bool(amounts) and not any(amounts)


def _policy(shape: PolicyShape, path: Path, report: Report) -> Policy:
    default = Policy()
    choices = list(present(shape.customer_may_choose, (*path, "customer_may_choose")))
    report.unique(choices, "timing")
    return Policy(
        upgrade=_rule(shape.upgrade, default.upgrade),
        downgrade=_rule(shape.downgrade, default.downgrade),
        over_limit=shape.downgrade.over_limit or default.over_limit,
        longer_interval=_rule(shape.longer_interval, default.longer_interval),
        shorter_interval=_rule(shape.shorter_interval, default.shorter_interval),
        cancellation=_rule(shape.cancellation, default.cancellation),
        past_due_grace_days=shape.past_due_grace_days,
        customer_may_choose=tuple(timing for _, timing in choices),
    )


def _rule(shape: RuleShape, default: ChangeRule) -> ChangeRule:
    return ChangeRule(shape.timing or default.timing, shape.proration or default.proration)
