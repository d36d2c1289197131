"""When holders of an older version move, and to what price: without a database or a clock."""

import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entitlements.catalog.proposals import GrandfatherPolicy, Policy
from entitlements.kernel.period import Interval
from entitlements.subscriptions.grandfathering import (
    LIST,
    Calendar,
    PublishedPolicy,
    Terms,
    due_at,
    look_again_at,
    next_move_at,
    renewals_after,
    rises,
    terms_at,
)

KEEP, UNTIL = GrandfatherPolicy.KEEP, GrandfatherPolicy.KEEP_UNTIL
RENEWAL, NOW = GrandfatherPolicy.AT_RENEWAL, GrandfatherPolicy.NOW
PUBLISHED = datetime(2026, 1, 15, tzinfo=UTC)
MONTHLY = [Calendar(datetime(2025, 6, 1, tzinfo=UTC), Interval.MONTH)]


def said(
    version: int, price: GrandfatherPolicy, at: datetime = PUBLISHED, **more: Any
) -> PublishedPolicy:
    policy = Policy(package_id="pro", price=price, **more)
    return PublishedPolicy(version=version, published_at=at, policy=policy)


def day(month: int, number: int) -> datetime:
    return datetime(2026, month, number, tzinfo=UTC)


def due(published: PublishedPolicy, calendars: list[Calendar] = MONTHLY) -> datetime | None:
    return due_at(published.policy.price, published, calendars)


@pytest.mark.parametrize(
    ("published", "moves"),
    [
        (said(2, KEEP), None),
        (said(2, NOW), PUBLISHED),
        (said(2, NOW, notice_days=30), day(3, 1)),
        (said(2, NOW, MONTHLY[0].anchor - timedelta(days=3)), day(7, 1).replace(year=2025)),
        (said(2, RENEWAL, renewals=1), day(2, 1)),
        (said(2, RENEWAL, renewals=3), day(4, 1)),
        (said(2, RENEWAL, renewals=1, notice_days=17), day(2, 1)),  # 17 days to the second
        (said(2, RENEWAL, renewals=1, notice_days=18), day(3, 1)),
        (said(2, RENEWAL, day(2, 1), renewals=1), day(3, 1)),  # published at a renewal: the next
        (said(2, UNTIL, until=day(4, 1)), day(4, 1)),
        (said(2, UNTIL, until=day(4, 2)), day(5, 1)),
        (said(2, UNTIL, until=day(1, 1), notice_days=60), day(4, 1)),
    ],
)
def test_a_policy_moves_its_holders_at(published: PublishedPolicy, moves: datetime | None) -> None:
    assert due(published) == moves


def test_an_annual_holder_moves_at_the_annual_renewal() -> None:
    annual = [Calendar(datetime(2025, 6, 1, tzinfo=UTC), Interval.YEAR)]
    assert due(said(2, RENEWAL, renewals=1), annual) == day(6, 1)


def test_a_month_that_became_a_year_has_renewed_as_often_as_it_did() -> None:
    changed = [
        Calendar(datetime(2025, 6, 1, tzinfo=UTC), Interval.MONTH, until=day(2, 10)),
        Calendar(day(2, 10), Interval.YEAR),
    ]
    assert due(said(2, RENEWAL, renewals=1), changed) == day(2, 1)
    assert due(said(2, RENEWAL, renewals=2), changed) == day(2, 10).replace(year=2027)


def on(terms: Terms, policies: list[PublishedPolicy], months: int) -> list[Terms]:
    """The terms at each of the next renewals."""
    price = {1: Fraction(10000), 2: Fraction(15000), 3: Fraction(12000)}
    found = []
    for renewal in islice(renewals_after(MONTHLY, PUBLISHED), months):
        terms = terms_at(terms, policies, MONTHLY, renewal, price.__getitem__, renewal=True)
        found.append(terms)
    return found


HELD = Terms(version=1, entitlements_version=1)


def test_two_moves_at_one_renewal_apply_together_and_the_highest_version_wins() -> None:
    policies = [said(2, RENEWAL, renewals=1), said(3, RENEWAL, day(1, 20), renewals=1)]
    assert on(HELD, policies, 1) == [Terms(version=3, entitlements_version=3)]


def test_keep_cancels_no_earlier_policy() -> None:
    policies = [said(2, RENEWAL, renewals=2), said(3, KEEP, day(1, 20))]
    assert [terms.version for terms in on(HELD, policies, 3)] == [1, 2, 2]


def test_entitlements_move_while_the_price_stays() -> None:
    policies = [said(2, KEEP, entitlements=RENEWAL, renewals=1)]
    assert on(HELD, policies, 1) == [Terms(version=1, entitlements_version=2)]


def test_a_cap_on_a_lower_price_changes_nothing_of_it() -> None:
    policies = [said(3, RENEWAL, renewals=1, max_increase_percent=Decimal(30))]
    assert on(HELD, policies, 1) == [Terms(version=3, entitlements_version=3)]


@pytest.mark.parametrize(
    ("factor", "cap", "rising"),
    [("0.5", "20", True), ("0.5", "0", False), ("0", "20", False), ("1", "20", False),
     ("0.000000000001", "20", False)],
)  # fmt: skip
def test_what_is_below_list_rises_unless_there_is_nothing_to_rise_by(
    factor: str, cap: str, rising: bool
) -> None:
    terms = Terms(version=2, entitlements_version=2, price_factor=Decimal(factor),
                  cap_percent=Decimal(cap))  # fmt: skip
    assert rises(terms) is rising
    assert look_again_at(terms, [], MONTHLY, PUBLISHED) == (PUBLISHED if rising else None)


def test_what_is_overdue_moves_at_the_next_renewal() -> None:
    policies = [said(2, RENEWAL, renewals=1)]
    price = lambda policy: policy.price  # noqa: E731
    assert next_move_at(HELD, policies, MONTHLY, day(5, 7), price, version=1) == day(6, 1)
    assert next_move_at(HELD, policies, MONTHLY, day(5, 7), price, version=2) is None


POLICIES = st.lists(
    st.builds(
        lambda days, kind, until, renewals, cap, notice: (days, kind, until, renewals, cap, notice),
        st.integers(0, 200),
        st.sampled_from([KEEP, UNTIL, RENEWAL, NOW]),
        st.integers(0, 400),
        st.integers(1, 6),
        st.one_of(st.none(), st.integers(0, 50)),
        st.integers(0, 90),
    ),
    min_size=1,
    max_size=4,
)


@given(POLICIES, st.lists(st.integers(0, 100_000), min_size=5, max_size=5), st.randoms())
def test_every_life_rises_within_its_cap_never_above_list_and_in_any_order_alike(
    drawn: list[Any], amounts: list[int], chance: random.Random
) -> None:
    price = {version: Fraction(amount) for version, amount in enumerate(amounts, start=1)}
    policies = [
        said(
            version,
            kind,
            PUBLISHED + timedelta(days=days),
            until=PUBLISHED + timedelta(days=until) if kind is UNTIL else None,
            renewals=renewals if kind is RENEWAL else None,
            max_increase_percent=None if cap is None else Decimal(cap),
            notice_days=notice,
        )
        for version, (days, kind, until, renewals, cap, notice) in enumerate(drawn, start=2)
    ]
    shuffled = chance.sample(policies, len(policies))
    terms = other = HELD
    for renewal in islice(renewals_after(MONTHLY, PUBLISHED), 24):
        before = terms
        known = [one for one in policies if one.published_at <= renewal]
        again = [one for one in shuffled if one.published_at <= renewal]
        terms = terms_at(terms, known, MONTHLY, renewal, price.__getitem__, renewal=True)
        other = terms_at(other, again, MONTHLY, renewal, price.__getitem__, renewal=True)
        assert terms == other
        assert terms.version >= before.version
        assert terms.entitlements_version >= terms.version
        assert 0 <= terms.price_factor <= LIST
        if terms.cap_percent is not None:
            paid = price[before.version] * Fraction(before.price_factor)
            now = price[terms.version] * Fraction(terms.price_factor)
            most = paid * (1 + Fraction(terms.cap_percent) / 100)
            assert now <= most + Fraction(1, 1_000_000)
    moved = [one.version for one in policies if (when := due(one)) and when <= renewal]
    assert terms.version == max(moved, default=1)
