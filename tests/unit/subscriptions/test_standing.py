"""What is kept of an older version, and when to look whether something moves it."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from entitlements.catalog.document import parse
from entitlements.catalog.model import Catalog, ChangeTiming
from entitlements.catalog.proposals import GrandfatherPolicy, Policy, PublishedPolicy
from entitlements.catalog.versions import publish
from entitlements.kernel.period import Interval, Period
from entitlements.subscriptions.change import Authority, ChangePlan, plan_change
from entitlements.subscriptions.grandfathering import (
    Calendar,
    Destination,
    Move,
    destination,
    look_again_at,
    renewals_after,
    terms_of,
)
from entitlements.subscriptions.request import ChangeRequest
from entitlements.subscriptions.standing import due_at_renewal, due_now, given_up, standing_of
from entitlements.subscriptions.state import CustomerState, Item, Subscription, SubscriptionStatus

START = datetime(2026, 1, 1, tzinfo=UTC)
KINDS = GrandfatherPolicy


def published(after: Catalog, fee: str, seat: str, *, years: bool) -> Catalog:
    """A plan with a fee and seats, sold by the month, and by the year where that is so."""

    def prices(month: str) -> dict[str, Any]:
        year = {"year": f"{Decimal(month) * 10}"} if years else {}
        return {"usd": {"month": month, **year}}

    seats = {"id": "seats", "name": "Seats", "model": "per_unit", "quantity": "seats",
             "prices": prices(seat)}  # fmt: skip
    base = {"id": "base", "name": "Base", "model": "flat", "prices": prices(fee)}
    document = {
        "currencies": ["usd"],
        "features": [{"id": "seats", "name": "Seats", "kind": "metered", "unit": "seat",
                      "aggregation": "level", "reset": "never"}],
        "products": [{"id": "app", "name": "App", "plans": [
            {"id": "pro", "name": "Pro", "entitlements": {"seats": {"unlimited": True}},
             "charges": [base, seats]}]}],
    }  # fmt: skip
    draft = parse(document)
    revision = after.revision + 1
    return publish(draft, after, revision=revision, effective_at=START, published_at=START).catalog


OLD = published(Catalog.EMPTY, "100.00", "10.00", years=False)
NEW = published(OLD, "150.00", "30.00", years=True)


def holding(**item: Any) -> Subscription:
    """Pro 1 with ten seats: $200 a month, which would be $450 by Pro 2."""
    terms = {"version": 1, "entitlements_version": 1, **item}
    return Subscription(
        id="sub", product_id="app", status=SubscriptionStatus.ACTIVE, interval=Interval.MONTH,
        currency="usd", period=Period(START, datetime(2026, 2, 1, tzinfo=UTC)), anchor=START,
        started_at=START, quantities={"seats": 10}, provider_id="sub_1",
        items=(Item(id="itm", package_id="pro", quantity=1, started_at=START, **terms),),
    )  # fmt: skip


def plan(held: Subscription, days: int = 10, **request: Any) -> ChangePlan:
    state = CustomerState(id="acme", currency="usd", revision=1, subscriptions=(held,))
    at = START + timedelta(days=days)
    request = {"timing": ChangeTiming.NOW, "reason": "as agreed", **request}
    return plan_change(NEW, state, ChangeRequest(**request), at, authority=Authority.STAFF)


def capped(held: Subscription, percent: int, **more: Any) -> Move:
    to = Destination(version=2, entitlements_version=2, cap_percent=Decimal(percent), **more)
    return Move(package_id="pro", before=terms_of(held.items[0]), to=to)


def test_a_cap_counts_at_the_quantity_held_and_every_amount_times_the_same() -> None:
    held = holding()
    waits = plan(held, timing=ChangeTiming.PERIOD_END, move=capped(held, 20))
    [item] = waits.items
    assert item.price_factor == Decimal("0.533333333333")  # 240 of 450
    assert waits.recurring_after_minor == 24000
    assert [line.amount_minor for line in waits.next_lines] == [8000, 16000]
    moved = holding(version=2, entitlements_version=2, price_factor=item.price_factor)
    assert plan(moved, quantities={"seats": 11}).recurring_after_minor == 25600
    assert plan(moved, to_latest_versions=True).recurring_after_minor == 45000


def test_a_version_is_kept_by_another_interval_only_where_it_is_priced() -> None:
    held = holding()
    yearly = plan(held, interval=Interval.YEAR)
    assert [(item.version, item.item_id) for item in yearly.items] == [(2, "itm")]
    assert yearly.recurring_after_minor == 450_000
    state = CustomerState(id="acme", currency="usd", revision=1, subscriptions=(held,))
    assert given_up(NEW, state, yearly) == held.items


def test_what_is_below_list_is_shown_to_rise_with_the_next_renewal() -> None:
    held = holding(version=2, entitlements_version=2, price_factor=Decimal("0.5"),
                   cap_percent=Decimal(20))  # fmt: skip
    found = standing_of(NEW, held, held.items[0], {}, (), START)
    assert found is not None
    assert (found.policy, found.moves_at) == (KINDS.AT_RENEWAL, held.period.end)
    assert (found.recurring_minor, found.list_recurring_minor) == (22500, 45000)
    at_list = holding(version=2, entitlements_version=2)
    assert standing_of(NEW, at_list, at_list.items[0], {}, (), START) is None


POLICIES = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.sampled_from(KINDS),
        st.integers(0, 300),
        st.integers(1, 6),
        st.integers(0, 60),
    ),
    min_size=1,
    max_size=3,
)


@given(POLICIES, st.integers(0, 60))
def test_whoever_looks_only_when_told_to_misses_no_move(drawn: list[Any], days: int) -> None:
    known = [
        PublishedPolicy(
            version=version,
            published_at=START + timedelta(days=days),
            policy=Policy(
                package_id="pro",
                price=price,
                entitlements=features,
                until=START + timedelta(days=until)
                if KINDS.KEEP_UNTIL in (price, features)
                else None,
                renewals=renewals if KINDS.AT_RENEWAL in (price, features) else None,
                notice_days=notice,
            ),
        )
        for version, (price, features, until, renewals, notice) in enumerate(drawn, start=2)
    ]
    held = holding()
    [item] = held.items
    calendars = [Calendar(held.anchor, held.interval)]
    first = next(renewals_after(calendars, known[0].published_at))
    look_at = look_again_at(terms_of(item), known, calendars, first)
    start = first
    for renewal in islice(renewals_after(calendars, first), 24):
        period = msgspec.structs.replace(held, period=Period(start, renewal))
        moves = due_at_renewal(item, known, period) or due_now(item, known, period, start)
        overdue = destination(terms_of(item), known, calendars, first, renewal=True)[1]
        if moves is not None:
            assert look_at is not None
            assert look_at <= start or overdue is not None
            return
        start = renewal
    assert look_at is None or look_at > start or look_at == first
