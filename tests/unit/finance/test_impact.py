"""What a proposal is worth, worked by hand and against a walk from renewal to renewal."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import islice
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from entitlements.catalog.document import parse
from entitlements.catalog.model import Catalog
from entitlements.catalog.proposals import GrandfatherPolicy, Policy
from entitlements.catalog.versions import publish
from entitlements.finance.impact import HORIZON, Impact, Prediction, Proposed
from entitlements.kernel.period import Interval, add_months
from entitlements.pricing.mrr import mrr_minor
from entitlements.subscriptions.grandfathering import (
    LIST,
    Calendar,
    PublishedPolicy,
    renewals_after,
    terms_at,
    terms_of,
)
from entitlements.subscriptions.holders import HeldItem, Holder
from entitlements.subscriptions.lines import held_mrr_minor
from entitlements.subscriptions.state import SubscriptionStatus

NOW = datetime(2026, 3, 10, tzinfo=UTC)
KEEP, UNTIL = GrandfatherPolicy.KEEP, GrandfatherPolicy.KEEP_UNTIL
RENEWAL, AT_ONCE = GrandfatherPolicy.AT_RENEWAL, GrandfatherPolicy.NOW


def document(plan: int, extra: int) -> dict[str, Any]:
    def flat(month: int) -> list[dict[str, Any]]:
        prices = {"usd": {"month": f"{month}.00", "year": f"{month * 10}.00"}}
        return [{"id": "fee", "name": "Fee", "model": "flat", "prices": prices}]

    return {
        "currencies": ["usd"], "features": [],
        "products": [{
            "id": "app", "name": "App",
            "plans": [{"id": "pro", "name": "Pro", "entitlements": {}, "charges": flat(plan)}],
            "add_ons": [{"id": "extra", "name": "Extra", "kind": "feature", "entitlements": {},
                         "charges": flat(extra)}],
        }],
    }  # fmt: skip


def published(plan: int, extra: int, base: Catalog = Catalog.EMPTY) -> Any:
    revision = base.revision + 1
    draft = parse(document(plan, extra))
    return publish(draft, base, revision=revision, effective_at=NOW, published_at=NOW)


OLD: Catalog = published(100, 10).catalog
NEW = published(150, 30, OLD)


def proposed(*policies: Policy, effective_at: datetime = NOW) -> Proposed:
    return Proposed(
        catalog=OLD,
        new_versions={package.id: package for package in NEW.new_versions},
        policies={policy.package_id: policy for policy in policies},
        effective_at=effective_at,
    )


def holder(
    id: str,
    anchor: datetime,
    interval: Interval = Interval.MONTH,
    extra: int = 0,
    factor: Decimal = LIST,
    **more: Any,
) -> Holder:
    items = [("pro", 1), *([("extra", extra)] if extra else [])]
    known: dict[str, Any] = {
        "subscription_id": f"sub_{id}",
        "customer_id": id,
        "status": SubscriptionStatus.ACTIVE,
        "interval": interval,
        "currency": "usd",
        "calendars": (Calendar(anchor, interval),),
        "items": tuple(
            HeldItem(package_id=package, version=1, entitlements_version=1, quantity=n,
                     price_factor=factor, cap_percent=None if factor == LIST else Decimal(10))
            for package, n in items
        ),
    }  # fmt: skip
    return Holder(**known | more)


def predicted(change: Proposed, *holders: Holder) -> Impact:
    prediction = Prediction(change, {}, NOW)
    prediction.add(holders)
    return prediction.result()


def day(month: int, number: int, year: int = 2026) -> datetime:
    return datetime(year, month, number, tzinfo=UTC)


def test_a_capped_rise_takes_three_renewals_and_others_stay_as_they_are() -> None:
    capped = Policy(package_id="pro", price=RENEWAL, renewals=1, max_increase_percent=Decimal(20))
    found = predicted(
        proposed(capped),
        holder("ann", day(1, 15), extra=2),  # 120, 144, 150
        holder("bob", day(1, 20), Interval.YEAR),  # 83.33 a month: 100, 120, 125
        holder("leaves", day(1, 15), cancel_at=day(3, 15)),
        holder("tries", day(3, 1), status=SubscriptionStatus.TRIALING, on_trial=True),
    )
    assert found.mrr_now == {"usd": 12000 + 8333 + 10000}
    steps = [(step.at, step.mrr["usd"] - found.mrr_now["usd"]) for step in found.mrr_steps]
    assert steps == [
        (day(3, 15), 2000), (day(4, 15), 4400), (day(5, 15), 5000),
        (day(1, 20, 2027), 6667), (day(1, 20, 2028), 8667), (day(1, 20, 2029), 9167),
    ]  # fmt: skip
    assert (found.customers_affected, found.stays_grandfathered) == (4, 3)  # ann keeps `extra`
    extra, pro = found.versions
    assert (pro.package_id, pro.version, pro.to_version, pro.customers) == ("pro", 1, 2, 4)
    assert pro.mrr_delta == {"usd": 2000 + 1667}
    assert pro.uncapped_mrr_delta == {"usd": 5000 + 4167}
    assert (extra.customers, extra.mrr_delta, extra.price) == (1, {}, KEEP)
    ann, bob = found.most_affected
    assert (ann.customer_id, ann.mrr_before_minor, ann.mrr_after_minor) == ("ann", 12000, 17000)
    assert (bob.customer_id, bob.moves_at) == ("bob", day(1, 20, 2027))
    assert [(p.package_id, p.mrr_now, p.mrr_after) for p in found.packages] == [
        ("extra", {"usd": 2000}, {"usd": 2000}), ("pro", {"usd": 28333}, {"usd": 37500}),
    ]  # fmt: skip


def test_what_moves_at_once_moves_when_it_is_published() -> None:
    at_once = Policy(package_id="pro", price=AT_ONCE)
    one = holder("ann", day(1, 15))
    now = predicted(proposed(at_once), one)
    assert [(s.at, s.mrr) for s in now.mrr_steps] == [(NOW, {"usd": 15000})]
    later = predicted(proposed(at_once, effective_at=day(4, 2)), one)
    assert [s.at for s in later.mrr_steps] == [day(4, 2)]
    nobody = predicted(proposed(), one)
    assert (nobody.mrr_steps, nobody.stays_grandfathered) == ((), 1)


def test_the_twenty_most_affected_are_told() -> None:
    at_once = Policy(package_id="extra", price=AT_ONCE)
    holders = [holder(f"c{n:02}", day(1, 15), extra=n) for n in range(1, 40)]
    most = predicted(proposed(at_once), *holders).most_affected
    assert [each.customer_id for each in most] == [f"c{n:02}" for n in range(39, 19, -1)]


def instants(first: str, last: str) -> st.SearchStrategy[datetime]:
    bounds = [datetime.fromisoformat(day) for day in (first, last)]
    return st.datetimes(*bounds, timezones=st.just(UTC))


POLICIES = st.builds(
    Policy,
    package_id=st.sampled_from(["pro", "extra"]),
    price=st.just(RENEWAL),
    renewals=st.integers(1, 4),
    max_increase_percent=st.none() | st.sampled_from([Decimal(5), Decimal("12.5"), Decimal(100)]),
    notice_days=st.none() | st.integers(0, 80),
) | st.builds(
    Policy,
    package_id=st.sampled_from(["pro", "extra"]),
    price=st.just(UNTIL),
    until=instants("2026-01-01", "2027-01-01"),
)
HOLDERS = st.lists(
    st.tuples(
        instants("2025-01-01", "2026-03-09"),
        st.sampled_from(list(Interval)),
        st.integers(0, 3),
        st.sampled_from([LIST, Decimal("0.8"), Decimal("0.123")]),
    ),
    max_size=4,
)


@given(st.lists(POLICIES, max_size=2, unique_by=lambda policy: policy.package_id), HOLDERS)
def test_the_steps_are_those_of_a_walk_from_renewal_to_renewal(
    policies: list[Policy], lives: list[tuple[datetime, Interval, int, Decimal]]
) -> None:
    holders = [holder(f"c{n}", *life) for n, life in enumerate(lives)]
    found = predicted(proposed(*policies), *holders)
    assert found.mrr_now.get("usd", 0) == sum(held_mrr_minor(OLD, h) for h in holders)
    last = add_months(NOW, 30)
    assert last < NOW + HORIZON
    deltas: Counter[Any] = Counter()
    for each in holders:
        for item in each.items:
            for at, delta in walked(each, item, policies, last):
                deltas[at.date()] += delta
    by_day, mrr = {}, found.mrr_now.get("usd", 0)
    for step in found.mrr_steps:
        if step.at <= last:
            by_day[step.at.date()] = step.mrr["usd"] - mrr
            mrr = step.mrr["usd"]
    assert {at: d for at, d in by_day.items() if d} == {at: d for at, d in deltas.items() if d}


def walked(
    held: Holder, item: HeldItem, policies: list[Policy], last: datetime
) -> list[tuple[datetime, int]]:
    """Every renewal in turn."""
    prices = {"pro": (100, 150), "extra": (10, 30)}[item.package_id]
    months = 10 if held.interval is Interval.YEAR else 1
    said = [
        PublishedPolicy(version=2, published_at=NOW, policy=policy)
        for policy in policies
        if policy.package_id == item.package_id
    ]
    [calendar] = held.calendars
    terms = terms_of(item)

    def at_list(version: int) -> Fraction:
        return Fraction(prices[version - 1] * months * 100 * item.quantity)

    found, paid = [], mrr_minor(at_list(1) * Fraction(terms.price_factor), held.interval)
    for renewal in islice(renewals_after([calendar], NOW - timedelta(microseconds=1)), 40):
        if renewal > last:
            break
        terms = terms_at(terms, said, [calendar], renewal, at_list, renewal=True)
        minor = mrr_minor(at_list(terms.version) * Fraction(terms.price_factor), held.interval)
        found.append((renewal, minor - paid))
        paid = minor
    return found
