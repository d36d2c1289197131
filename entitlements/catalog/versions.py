"""Which content is a new version: from a draft and the published catalog to the next one.

A package is compared by `content`: what it commits the company to, after resolution. Wording,
the order of things, a plan's rank and the plan that it extends are published with the revision
and make no version. A bundle's content names the versions of its components, so that a component
that changes changes the bundle.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, TypedDict, TypeVar

import msgspec

from entitlements.catalog.document import Draft
from entitlements.catalog.model import (
    AddOn,
    AnyPackage,
    Bundle,
    Catalog,
    Charge,
    Entitlement,
    Feature,
    FeatureKind,
    Plan,
    Price,
    Product,
    TrialTerms,
)
from entitlements.kernel.errors import Issue
from entitlements.kernel.money import plain

P = TypeVar("P", Plan, AddOn, Bundle)


class Publication(msgspec.Struct, frozen=True, kw_only=True):
    """What publishing a draft gives.

    `new_versions` are those that the revision adds, components before bundles; `retired` the ids
    of packages that are no longer sold; `notes` what a reader should know (codes `SAME_AS_BEFORE`,
    `RETIRED`, `RETURNED`).
    """

    catalog: Catalog
    new_versions: tuple[AnyPackage, ...]
    retired: tuple[str, ...]
    notes: tuple[Issue, ...]


def publish(
    draft: Draft, base: Catalog, *, revision: int, effective_at: datetime, published_at: datetime
) -> Publication:
    """The catalog that follows `base` when `draft` is published.

    A package whose content equals the published one keeps its version, with the wording of the
    draft; any other gets the number after its last one, also where it equals a version of long
    ago. What the draft leaves out is no longer `current`, but stays in `versions`. A product that
    it leaves out stays in `products` with nothing to sell: its holders' changes follow its policy.
    """
    numbering = _Numbering(base, published_at)
    products = {id: numbering.product(product) for id, product in draft.products.items()}
    for product in base.products.values():
        products.setdefault(product.id, _nothing_to_sell(product))
    current = numbering.current
    catalog = Catalog(
        revision=revision,
        effective_at=effective_at,
        currencies=draft.currencies,
        features=draft.features,
        retired_features=_retired_features(draft, base),
        products=products,
        current=current,
        **_history(base.versions.values(), current),
    )
    retired = tuple(id for id in base.current if id not in current)
    notes = (*numbering.notes, *(_retired_note(id) for id in retired))
    return Publication(
        catalog=catalog, new_versions=tuple(numbering.new), retired=retired, notes=notes
    )


class _Numbering:
    """Gives each package of a draft its version, components before the bundles that pin them."""

    def __init__(self, base: Catalog, published_at: datetime) -> None:
        self._base = base
        self._published_at = published_at
        self.current: dict[str, AnyPackage] = {}
        self.new: list[AnyPackage] = []
        self.notes: list[Issue] = []

    def product(self, product: Product) -> Product:
        return msgspec.structs.replace(
            product,
            plans=tuple(self._numbered(plan) for plan in product.plans),
            add_ons=tuple(self._numbered(add_on) for add_on in product.add_ons),
            bundles=tuple(self._numbered(self._pinned(bundle)) for bundle in product.bundles),
        )

    def _pinned(self, bundle: Bundle) -> Bundle:
        components = tuple(
            msgspec.structs.replace(c, version=self.current[c.package_id].version)
            for c in bundle.components
        )
        return msgspec.structs.replace(bundle, components=components)

    def _numbered(self, package: P) -> P:
        published = self._base.current.get(package.id)
        if published is not None and content(package) == content(published):
            version, published_at = published.version, published.published_at
        else:
            version = self._base.latest_versions.get(package.id, 0) + 1
            published_at = self._published_at
        numbered = msgspec.structs.replace(package, version=version, published_at=published_at)
        self.current[package.id] = numbered
        if published is None or version != published.version:
            self.new.append(numbered)
            self.notes += _notes(numbered, self._base)
        return numbered


def _notes(new: AnyPackage, base: Catalog) -> Iterator[Issue]:
    if new.id in base.latest_versions and new.id not in base.current:
        words = f"{new.id} was retired and is sold again, as {new.version_id}"
        yield Issue((new.id,), "RETURNED", words)
    wanted = content(new)
    for number in range(new.version - 1, 0, -1):
        old = base.versions.get(f"{new.id}@{number}")
        if old is not None and content(old) == wanted:
            words = f"{new.version_id} has the same content as {old.version_id}"
            yield Issue((new.id,), "SAME_AS_BEFORE", words)
            return


def _retired_note(id: str) -> Issue:
    return Issue((id,), "RETIRED", f"{id} is no longer sold; its holders keep it")


def _nothing_to_sell(product: Product) -> Product:
    return msgspec.structs.replace(product, plans=(), add_ons=(), bundles=(), fallback_plan=None)


def _retired_features(draft: Draft, base: Catalog) -> dict[str, Feature]:
    every = base.retired_features | base.features
    return {id: feature for id, feature in every.items() if id not in draft.features}


class _History(TypedDict):
    versions: dict[str, AnyPackage]
    latest_versions: dict[str, int]


def _history(older: Iterable[AnyPackage], current: Mapping[str, AnyPackage]) -> _History:
    """Every version, what is sold now among them, and the last of each package.

    Older versions of a plan stand where its last one stands: rank is a place, not a term.
    """
    versions = {p.version_id: p for p in older} | {p.version_id: p for p in current.values()}
    last: dict[str, AnyPackage] = {}
    for package in versions.values():
        if package.id not in last or last[package.id].version < package.version:
            last[package.id] = package
    placed = {id: _placed(package, last[package.id]) for id, package in versions.items()}
    return {"versions": placed, "latest_versions": {id: p.version for id, p in last.items()}}


def _placed(package: AnyPackage, last: AnyPackage) -> AnyPackage:
    if isinstance(package, Plan) and isinstance(last, Plan) and package.rank != last.rank:
        return msgspec.structs.replace(package, rank=last.rank)
    return package


# Content


def content(package: AnyPackage) -> bytes:
    """What makes a version, as canonical bytes: two packages with equal bytes are equal terms.

    Left out are id, version, wording (names, descriptions, problem, audience, use case, guide), a
    plan's rank and base. The order of entitlements, charges, prices and references is none; 29.00
    is 29.
    """
    terms = {
        "package": type(package).__name__,
        "product": package.product_id,
        "contact_sales": package.contact_sales,
        "entitlements": sorted(
            (_entitlement(e) for e in package.entitlements),
            key=lambda e: (e["feature"], e["mode"]),
        ),
        "charges": sorted((_charge(c) for c in package.charges), key=lambda c: str(c["id"])),
        "trial": package.trial and _trial(package.trial),
        **_own_terms(package),
    }
    return msgspec.json.encode(terms, order="deterministic")


def _trial(trial: TrialTerms) -> tuple[Any, ...]:
    return (trial.days, trial.at_end, trial.requires_payment_method)


def _own_terms(package: AnyPackage) -> dict[str, Any]:
    if isinstance(package, AddOn):
        works_with = package.works_with
        return {
            "kind": package.kind,
            "works_with": works_with if works_with is None else sorted(works_with),
            "requires": sorted(package.requires),
            "excludes": sorted(package.excludes),
            "max_quantity": package.max_quantity,
        }
    if isinstance(package, Bundle):
        return {
            "components": sorted((c.package_id, c.version, c.quantity) for c in package.components),
            "discount_percent": _text(package.discount_percent),
        }
    return {}


def _entitlement(entitlement: Entitlement) -> dict[str, Any]:
    value = entitlement.value
    return {
        "feature": entitlement.feature_id,
        "mode": entitlement.mode,
        "enabled": value.enabled,
        "number": _text(value.number),
        "choice": value.choice,
        "limit": value.limit,
        "unlimited": bool(value.unlimited),
        "overage": bool(value.overage),
        "warn_at_percent": value.warn_at_percent,
    }


def _charge(charge: Charge) -> dict[str, Any]:
    return {
        "id": charge.id,
        "model": charge.model,
        "billing": charge.billing,
        "quantity": charge.quantity_feature,
        "included": charge.included,
        "minimum": charge.minimum or 0,
        "package_size": charge.package_size,
        "units_per_package": charge.units_per_package,
        "component": charge.component_id,
        "prices": sorted((_price(p) for p in charge.prices), key=lambda p: p[:2]),
    }


def _price(price: Price) -> tuple[Any, ...]:
    tiers = [(t.up_to, _text(t.unit), _text(t.flat)) for t in price.tiers]
    amounts = (_text(price.flat_amount), _text(price.unit_amount), tiers)
    return (price.currency, price.interval, *amounts)


def _text(value: Decimal | None) -> str | None:
    return None if value is None else str(plain(value))


# Against what customers hold


def check_against(draft: Draft, base: Catalog, held_version_ids: Iterable[str]) -> list[Issue]:
    """What a draft may not take from those who hold a version: issues at `features.<id>`.

    A feature that a held version grants or charges for may not be left out (`FEATURE_HELD`), nor
    turn into something else (`FEATURE_CHANGED`): kind, aggregation, reset, direction, the values
    that held versions grant and their order. Nor may it be metered in another product.
    """
    held = [base.versions[id] for id in sorted(held_version_ids)]
    users: dict[str, list[AnyPackage]] = {}
    for package in held:
        for feature_id in _features_of(package):
            users.setdefault(feature_id, []).append(package)
    owners = _products_by_feature(draft)
    return [
        issue
        for feature_id, packages in sorted(users.items())
        for issue in _held_feature(
            base.feature(feature_id), draft, packages, owners.get(feature_id, frozenset())
        )
    ]


def _products_by_feature(draft: Draft) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for package in draft.packages.values():
        for feature_id in _features_of(package):
            found[feature_id] = found.get(feature_id, frozenset()) | {package.product_id}
    return found


def _features_of(package: AnyPackage) -> frozenset[str]:
    granted = {e.feature_id for e in package.entitlements}
    return frozenset(granted | {c.quantity_feature for c in package.charges if c.quantity_feature})


def _held_feature(
    before: Feature, draft: Draft, held: list[AnyPackage], owners: frozenset[str]
) -> Iterator[Issue]:
    """What becomes of one feature that these held packages use."""
    path, who = ("features", before.id), ", ".join(p.version_id for p in held[:5])
    after = draft.features.get(before.id)
    if after is None:
        words = f"customers hold {who}, which uses {before.id!r}; it may not be left out"
        yield Issue(path, "FEATURE_HELD", words)
        return
    for key in ("kind", "aggregation", "reset", "higher_is_better"):
        if getattr(before, key) != getattr(after, key):
            words = f"customers hold {who}, so {key} stays {getattr(before, key)}"
            yield Issue((*path, key), "FEATURE_CHANGED", words)
    choices = {e.value.choice for p in held for e in p.entitlements if e.feature_id == before.id}
    kept = [value for value in after.values if value in before.values]
    missing = choices - {None} - set(after.values)
    if missing or kept != [value for value in before.values if value in after.values]:
        words = f"customers hold {who}; values they have stay listed, and in their order"
        yield Issue((*path, "values"), "FEATURE_CHANGED", words)
    others = owners - {p.product_id for p in held}
    if before.kind is FeatureKind.METERED and others:
        words = f"customers hold {who}; it cannot be metered in {min(others)!r} as well"
        yield Issue(path, "METERED_IN_TWO_PRODUCTS", words)


# Storing


class _Revision(msgspec.Struct, frozen=True, kw_only=True):
    """A catalog without its history, which is stored once and not with each revision."""

    revision: int
    effective_at: datetime
    currencies: tuple[str, ...]
    features: dict[str, Feature]
    retired_features: dict[str, Feature]
    products: dict[str, Product]


def encode(value: AnyPackage | Draft) -> bytes:
    """A package version or a draft as JSON; amounts are text, exact."""
    return msgspec.json.encode(value)


def encode_revision(catalog: Catalog) -> bytes:
    """What a revision sells, as JSON; without the older versions, see `decode_revision`."""
    own = {name: getattr(catalog, name) for name in _Revision.__struct_fields__}
    return msgspec.json.encode(_Revision(**own))


def decode_package(stored: bytes | str) -> AnyPackage:
    package: AnyPackage = _PACKAGE.decode(stored)
    return package


def decode_draft(stored: bytes | str) -> Draft:
    return _DRAFT.decode(stored)


def decode_revision(stored: bytes | str, older: Iterable[AnyPackage]) -> Catalog:
    """The catalog of a revision, given all versions published before it (and maybe with it)."""
    own = _REVISION.decode(stored)
    current = {p.id: p for product in own.products.values() for p in product.packages}
    return Catalog(
        revision=own.revision,
        effective_at=own.effective_at,
        currencies=own.currencies,
        features=own.features,
        retired_features=own.retired_features,
        products=own.products,
        current=current,
        **_history(older, current),
    )


class _Named(msgspec.Struct):
    id: str


class _Sold(msgspec.Struct):
    plans: tuple[_Named, ...] = ()
    add_ons: tuple[_Named, ...] = ()
    bundles: tuple[_Named, ...] = ()


class _Sale(msgspec.Struct):
    products: dict[str, _Sold]


def sold_in(stored: bytes | str) -> frozenset[str]:
    """The ids of the packages that a stored revision sells, without reading the rest of it."""
    products = _SALE.decode(stored).products.values()
    return frozenset(p.id for sold in products for p in (*sold.plans, *sold.add_ons, *sold.bundles))


_SALE = msgspec.json.Decoder(_Sale)
_PACKAGE: msgspec.json.Decoder[Any] = msgspec.json.Decoder(AnyPackage)
_DRAFT = msgspec.json.Decoder(Draft)
_REVISION = msgspec.json.Decoder(_Revision)
