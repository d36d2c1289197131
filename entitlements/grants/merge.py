"""From all sources of a feature to the one value that holds (DESIGN 7).

Boolean: true if any source says so. Number and enum: the best by the feature's order. Metered:
the largest limit set plus every add × quantity; unlimited wins; overage if any allows it. A
REPLACE override wins over all of it, in either direction; of several the newest, ties by id.
The order of sources never matters.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from entitlements.catalog.model import Catalog, EntitlementValue, Feature, GrantMode
from entitlements.catalog.values import combine, is_granted
from entitlements.grants.overrides import Override
from entitlements.grants.sources import (
    GrantSource,
    Holding,
    Sources,
    add_held,
    sources,
)


def merge(feature: Feature, every: Sequence[GrantSource]) -> EntitlementValue | None:
    """The value that holds; None where there is no source.

    >>> from entitlements.catalog.model import FeatureKind
    >>> from entitlements.grants.sources import GrantSourceKind
    >>> calls = Feature(id="api-calls", name="API calls", kind=FeatureKind.METERED)
    >>> plan = GrantSource(kind=GrantSourceKind.PLAN, mode=GrantMode.SET,
    ...     value=EntitlementValue(limit=100_000))
    >>> packs = GrantSource(kind=GrantSourceKind.ADD_ON, mode=GrantMode.ADD, quantity=2,
    ...     value=EntitlementValue(limit=100_000))
    >>> merge(calls, [packs, plan]).limit
    300000
    """
    replacing = replacements(every)
    return (
        _replaced(feature, replacing[0], every)
        if replacing
        else without_replacements(feature, every)
    )


def without_replacements(feature: Feature, every: Iterable[GrantSource]) -> EntitlementValue | None:
    """What the sources give where no override replaced it."""
    counting = [source for source in every if source.mode is not GrantMode.REPLACE]
    return combine(
        feature,
        (source.value for source in counting if source.mode is GrantMode.SET),
        ((source.value, source.quantity) for source in counting if source.mode is GrantMode.ADD),
    )


def replacements(every: Iterable[GrantSource]) -> list[Override]:
    """The overrides that replace, the one that wins first: the newest, then the greatest id."""
    found = [s.override for s in every if s.mode is GrantMode.REPLACE and s.override]
    return sorted(found, key=lambda o: (o.created_at, o.id), reverse=True)


def _replaced(
    feature: Feature, override: Override, every: Iterable[GrantSource]
) -> EntitlementValue | None:
    """The override's value. It has no warnings of its own: those of the packages go on, at the
    percentages of the new limit."""
    value = combine(feature, [override.value])
    if value is None or value.limit is None or value.warn_at_percent:
        return value
    percents = {p for source in every for p in source.value.warn_at_percent}
    return msgspec.structs.replace(value, warn_at_percent=tuple(sorted(percents)))


class FeatureGrants(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one customer has of one feature, and what explains a denial.

    `sources` has every one that counts, also the overruled and those that say no.
    `overruled` are the values that would hold without the winning REPLACE override, and without
    those behind it in turn. `unpaid` is what would hold if the subscriptions without access had
    it; `trial` what would hold if the trials that ended unconverted had not; each None where no
    such thing grants the feature.
    """

    value: EntitlementValue | None
    sources: tuple[GrantSource, ...] = ()
    overruled: tuple[EntitlementValue | None, ...] = ()
    unpaid: EntitlementValue | None = None
    trial: EntitlementValue | None = None


NO_GRANTS = FeatureGrants(value=None)


class Grants(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """All that a customer may do at an instant, and until when that holds by itself.

    `has_subscription` is False where every subscription ended or none existed. `holds_until` is
    the next end of a trial or an override, and the next start of an override; None: no such.
    """

    features: dict[str, FeatureGrants]
    has_subscription: bool
    holds_until: datetime | None

    def of(self, feature_id: str) -> FeatureGrants:
        return self.features.get(feature_id, NO_GRANTS)


def resolve(
    catalog: Catalog, holdings: Sequence[Holding], overrides: Sequence[Override], at: datetime
) -> Grants:
    """Merge what a customer holds into what they may do at an instant.

    `overrides` may hold those that ended or begin later; `holdings` those that ended, and trials
    that ended unconverted (`Holding.unconverted_trial`).
    """
    counting = sources(catalog, holdings, overrides, at)
    unpaid = _if_paid(catalog, holdings, overrides, at)
    tried = _if_tried(catalog, holdings, counting, at)
    features = {}
    for feature_id in {*counting, *unpaid, *tried}:
        feature = catalog.features.get(feature_id) or catalog.retired_features.get(feature_id)
        if feature is not None:  # an override may outlive its feature
            every = counting.get(feature_id, [])
            features[feature_id] = FeatureGrants(
                value=merge(feature, every),
                sources=tuple(every),
                overruled=_overruled(feature, every),
                unpaid=without_replacements(feature, unpaid.get(feature_id, [])),
                trial=without_replacements(feature, tried.get(feature_id, [])),
            )
    return Grants(
        features=features,
        has_subscription=any(not holding.ended for holding in holdings),
        holds_until=_holds_until(holdings, overrides, at),
    )


def _overruled(
    feature: Feature, every: Sequence[GrantSource]
) -> tuple[EntitlementValue | None, ...]:
    replacing = replacements(every)
    if not replacing:
        return ()
    older = [_replaced(feature, override, every) for override in replacing[1:]]
    return (*older, without_replacements(feature, every))


def _if_paid(
    catalog: Catalog, holdings: Sequence[Holding], overrides: Sequence[Override], at: datetime
) -> Sources:
    """The sources of each feature that a subscription without access would grant, if it had it.

    Its fallback plan would then not count.
    """
    unpaid = [h for h in holdings if not h.has_access and not h.ended]
    if not unpaid:
        return {}
    paid = [h if h.ended else msgspec.structs.replace(h, has_access=True) for h in holdings]
    return _where_granted(catalog, unpaid, sources(catalog, paid, overrides, at), at)


def _if_tried(
    catalog: Catalog, holdings: Sequence[Holding], counting: Sources, at: datetime
) -> Sources:
    """The sources of each feature that a trial that ended granted, with those that count now."""
    tried = [_as_running(h) for h in holdings if h.unconverted_trial]
    if not tried:
        return {}
    together: Sources = {feature_id: list(every) for feature_id, every in counting.items()}
    for feature_id, every in _held(catalog, tried, at).items():
        together.setdefault(feature_id, []).extend(every)
    return _where_granted(catalog, tried, together, at)


def _as_running(trial: Holding) -> Holding:
    items = tuple(msgspec.structs.replace(item, ends_at=None) for item in trial.items)
    return msgspec.structs.replace(trial, items=items)


def _where_granted(
    catalog: Catalog, holdings: Sequence[Holding], together: Sources, at: datetime
) -> Sources:
    """Of the sources together those of features that these holdings grant by themselves."""
    return {
        feature_id: together[feature_id]
        for feature_id, every in _held(catalog, holdings, at).items()
        if any(is_granted(source.value) for source in every)
    }


def _held(catalog: Catalog, holdings: Sequence[Holding], at: datetime) -> Sources:
    found: Sources = {}
    for holding in holdings:
        add_held(found, catalog, holding, at)
    return found


def _holds_until(
    holdings: Sequence[Holding], overrides: Sequence[Override], at: datetime
) -> datetime | None:
    items = (item for holding in holdings if not holding.ended for item in holding.items)
    instants = [item.ends_at for item in items]
    for override in overrides:
        instants += (override.created_at, override.ends_at)
    return min((instant for instant in instants if instant and instant > at), default=None)
