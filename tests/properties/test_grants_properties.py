"""Merging: the order of sources never matters, and a second way of counting agrees."""

from datetime import timedelta
from decimal import Decimal
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from entitlements.catalog.model import EntitlementValue, Feature, FeatureKind, GrantMode
from entitlements.catalog.values import at_least, best
from entitlements.grants.merge import merge
from entitlements.grants.overrides import Override
from entitlements.grants.sources import GrantSource, GrantSourceKind
from tests.unit.pricing.catalogs import AT, FEATURES

KINDS = {
    "sso": st.builds(EntitlementValue, enabled=st.booleans()),
    "support-hours": st.builds(
        EntitlementValue,
        number=st.sampled_from([Decimal(n) for n in ("4", "4.0", "24", "48", "0.5")]),
    ),
    "channel": st.builds(
        EntitlementValue, choice=st.sampled_from(["email", "chat", "phone", "retired", "old"])
    ),
    "calls": st.one_of(
        st.builds(
            EntitlementValue,
            limit=st.integers(0, 1000),
            unlimited=st.just(False),
            overage=st.booleans(),
            warn_at_percent=st.sampled_from([(), (80,), (50, 95)]),
        ),
        st.just(EntitlementValue(unlimited=True)),
    ),
}
features = st.sampled_from([FEATURES[id] for id in KINDS])


@st.composite
def sources(draw: st.DrawFn, feature: Feature) -> GrantSource:
    modes = [GrantMode.SET, GrantMode.REPLACE]
    modes += [GrantMode.ADD] if feature.kind is FeatureKind.METERED else []
    mode, value = draw(st.sampled_from(modes)), draw(KINDS[feature.id])
    if mode is not GrantMode.REPLACE:
        quantity = draw(st.integers(1, 3)) if mode is GrantMode.ADD else 1
        return GrantSource(kind=GrantSourceKind.PLAN, mode=mode, value=value, quantity=quantity)
    override = Override(
        id=f"ovr_{draw(st.integers(0, 10**9))}",
        feature_id=feature.id,
        mode=mode,
        value=value,
        reason="r",
        created_by="c",
        created_at=AT + timedelta(days=draw(st.integers(0, 2))),
    )
    return GrantSource(kind=GrantSourceKind.OVERRIDE, mode=mode, value=value, override=override)


@st.composite
def merges(draw: st.DrawFn) -> tuple[Feature, list[GrantSource]]:
    feature = draw(features)
    unique = st.lists(
        sources(feature), max_size=6, unique_by=lambda s: s.override.id if s.override else id(s)
    )
    return feature, draw(unique)


@given(merges(), st.randoms(use_true_random=False))
def test_the_order_of_sources_never_matters(
    what: tuple[Feature, list[GrantSource]], shuffler: Random
) -> None:
    feature, every = what
    other = list(every)
    shuffler.shuffle(other)
    assert merge(feature, other) == merge(feature, every)


@given(merges())
def test_a_second_way_of_counting_agrees(what: tuple[Feature, list[GrantSource]]) -> None:
    feature, every = what
    value = merge(feature, every)
    winner = None
    for source in every:
        if source.override and (
            winner is None
            or (source.override.created_at, source.override.id) > (winner.created_at, winner.id)
        ):
            winner = source.override
    counting = [s for s in every if s.override is winner] if winner else every
    if not counting:
        assert value is None
        return
    assert value is not None
    if feature.kind is FeatureKind.BOOLEAN:
        assert value.enabled == (True in [s.value.enabled for s in counting])
    elif feature.kind is FeatureKind.NUMBER:
        assert value.number == min(s.value.number or Decimal(99) for s in counting)
    elif feature.kind is FeatureKind.ENUM:
        strongest = [
            c for c in ("phone", "chat", "email") if c in [s.value.choice for s in counting]
        ]
        assert not strongest or value.choice == strongest[0]
    elif any(s.value.unlimited for s in counting):
        assert (value.unlimited, value.limit, value.overage) == (True, None, None)
    else:
        total, largest = 0, 0
        for source in counting:
            if source.mode is GrantMode.ADD:
                for _ in range(source.quantity):
                    total += source.value.limit or 0
            elif (source.value.limit or 0) > largest:
                largest = source.value.limit or 0
        assert value.limit == total + largest
        assert value.overage == (True in [s.value.overage for s in counting])


@given(features, st.data())
def test_the_best_of_values_is_at_least_each_of_them_and_no_more_is_lost(
    feature: Feature, data: st.DataObject
) -> None:
    values = data.draw(st.lists(KINDS[feature.id], min_size=1, max_size=4))
    together = best(feature, values)
    assert all(at_least(feature, together, value) for value in values)
    assert together is not None
    if feature.kind is not FeatureKind.METERED:
        assert any(at_least(feature, value, together) for value in values)
