"""The order and the combination of `EntitlementValue`s of one feature.

Both the pricing room (does an offer give at least this?) and the grants room (what do all sources
give together?) decide by these, so that they cannot disagree.

BOOLEAN, NUMBER and ENUM values of a feature are in a line. METERED ones are not: a limit of 100
and a limit of 50 that may be passed are neither better, and together make 100 that may be passed.
"""

from collections.abc import Iterable
from decimal import Decimal

from entitlements.catalog.model import EntitlementValue, Feature, FeatureKind


def at_least(feature: Feature, value: EntitlementValue | None, wanted: EntitlementValue) -> bool:
    """Whether `value` gives everything that `wanted` gives. None gives nothing.

    >>> hours = Feature(id="h", name="H", kind=FeatureKind.NUMBER, higher_is_better=False)
    >>> at_least(hours, EntitlementValue(number=Decimal(4)), EntitlementValue(number=Decimal(24)))
    True
    >>> calls = Feature(id="c", name="C", kind=FeatureKind.METERED)
    >>> at_least(calls, EntitlementValue(limit=100), EntitlementValue(limit=50, overage=True))
    False
    """
    if value is None:
        return not is_granted(wanted)
    if feature.kind is FeatureKind.BOOLEAN:
        return bool(value.enabled) or not wanted.enabled
    if feature.kind is FeatureKind.METERED:
        return bool(value.unlimited) or (
            not wanted.unlimited
            and (value.limit or 0) >= (wanted.limit or 0)
            and bool(value.overage or not wanted.overage)
        )
    return rank(feature, value) >= rank(feature, wanted)


def is_granted(value: EntitlementValue | None) -> bool:
    """Whether there is anything to have: `false` and a hard limit of 0 are nothing.

    >>> is_granted(EntitlementValue(enabled=False)), is_granted(EntitlementValue(limit=0))
    (False, False)
    >>> is_granted(EntitlementValue(limit=0, overage=True))
    True
    """
    if value is None:
        return False
    return bool(
        value.enabled
        or value.unlimited
        or value.overage
        or value.limit
        or value.number is not None
        or value.choice is not None
    )


def rank(feature: Feature, value: EntitlementValue) -> Decimal:
    """Where a BOOLEAN, NUMBER or ENUM value stands in its feature's line; higher is better.

    A choice that the feature no longer lists stands below those that it lists; so does a value
    of another kind.
    """
    if feature.kind is FeatureKind.BOOLEAN:
        return Decimal(bool(value.enabled))
    if feature.kind is FeatureKind.ENUM:
        listed = value.choice in feature.values
        return Decimal(feature.values.index(value.choice) if listed and value.choice else -1)
    if value.number is None:
        return Decimal("-Infinity")
    return -value.number if feature.higher_is_better is False else value.number


def best(feature: Feature, values: Iterable[EntitlementValue]) -> EntitlementValue | None:
    """The least value that is `at_least` each of these; None of none.

    >>> channel = Feature(id="s", name="S", kind=FeatureKind.ENUM, values=("email", "phone"))
    >>> best(channel, [EntitlementValue(choice=c) for c in ("phone", "email")]).choice
    'phone'
    """
    return combine(feature, values)


def combine(
    feature: Feature,
    sets: Iterable[EntitlementValue],
    adds: Iterable[tuple[EntitlementValue, int]] = (),
) -> EntitlementValue | None:
    """What several grants of one feature give together, whatever their order; None of none.

    `adds` are METERED values, each with how many times it counts. BOOLEAN is true if any is;
    NUMBER and ENUM take the best. METERED takes the largest limit that is set plus every add;
    unlimited wins; the limit may be passed if any source allows it, and all warnings count.
    The answer for METERED always says `unlimited`; `overage` is None beside unlimited.

    >>> calls = Feature(id="c", name="C", kind=FeatureKind.METERED)
    >>> sets = [EntitlementValue(limit=10_000, overage=True), EntitlementValue(limit=20_000)]
    >>> together = combine(calls, sets, [(EntitlementValue(limit=100_000), 2)])
    >>> together.limit, together.overage
    (220000, True)
    """
    given = list(sets)
    if feature.kind is FeatureKind.METERED:
        return _combine_limits(given, list(adds))
    # Equal ranks may be written differently (24 and 24.0); the text decides, not the order.
    return max(given, key=lambda v: (rank(feature, v), str(v.number), str(v.choice)), default=None)


def _combine_limits(
    sets: list[EntitlementValue], adds: list[tuple[EntitlementValue, int]]
) -> EntitlementValue | None:
    every = [*sets, *(value for value, _ in adds)]
    if not every:
        return None
    if any(value.unlimited for value in every):
        return EntitlementValue(unlimited=True)
    largest = max((value.limit or 0 for value in sets), default=0)
    return EntitlementValue(
        limit=largest + sum((value.limit or 0) * times for value, times in adds),
        unlimited=False,
        overage=any(value.overage for value in every),
        warn_at_percent=tuple(sorted({p for value in every for p in value.warn_at_percent})),
    )
