"""What waits for the end of the period, decided without a database, a clock or a network."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from entitlements.catalog.model import ChangeTiming
from entitlements.kernel.errors import Conflict, ValidationFailed
from entitlements.kernel.period import Interval
from entitlements.subscriptions.change import Authority, ChangePlan, as_queued, once_scheduled
from entitlements.subscriptions.holdings import grants_of
from entitlements.subscriptions.orders import future_of
from entitlements.subscriptions.queue import in_effect, roll
from entitlements.subscriptions.request import ChangeRequest
from entitlements.subscriptions.state import CustomerState, Subscription, SubscriptionStatus
from tests.unit.subscriptions.test_change import catalog_of, day, on, plan

CATALOG = catalog_of()
JULY = datetime(2025, 7, 1, tzinfo=UTC)
LATER = {"timing": ChangeTiming.PERIOD_END, "authority": Authority.STAFF, "reason": "as agreed"}


def planned(state: CustomerState, **request: Any) -> ChangePlan:
    return plan(state, day(10), catalog=CATALOG, **request)


def queued(state: CustomerState, change_id: str, **request: Any) -> CustomerState:
    """The customer once a change waits."""
    done = planned(state, **request)
    assert done.waits
    request.pop("authority", None)
    entry = as_queued(done, change_id, ChangeRequest(**request))
    held = once_scheduled(state, done, entry)
    return msgspec.structs.replace(state, subscriptions=(held,))


def held_at(state: CustomerState, at: datetime) -> Subscription:
    [held] = in_effect(CATALOG, state, at).subscriptions
    return held


def quantities(held: Subscription) -> dict[str, int]:
    return {item.package_id: item.quantity for item in held.items}


def test_each_change_is_planned_after_those_that_wait() -> None:
    state = queued(on("four", quantities={"seats": 9}), "one", quantities={"seats": 4})
    second = planned(state, plan_id="three")
    assert second.lines == ()
    assert second.effective_at == JULY
    # Three at $300 and four seats at $7, although nine at $6 are held.
    assert (second.recurring_before_minor, second.recurring_after_minor) == (45400, 32800)
    assert (second.mrr_before_minor, second.mrr_after_minor) == (42400, 32800)
    assert sum(line.amount_minor for line in second.next_lines) == 32800


def test_a_queue_takes_effect_at_the_end_of_the_period_and_not_before() -> None:
    state = queued(on("two", add_ons={"a": 1, "b": 1}), "one", plan_id="one")
    state = queued(state, "two", add_ons={"b": 0})
    before = held_at(state, day(30))
    assert quantities(before) == {"two": 1, "a": 1, "b": 1}
    after = held_at(state, JULY)
    assert quantities(after) == {"one": 1, "a": 1}
    assert (after.period.start, after.queue) == (JULY, ())
    assert grants_of(CATALOG, state, day(30)).holds_until == JULY
    assert grants_of(CATALOG, state, day(30)).of("has-b").value
    assert not grants_of(CATALOG, state, JULY).of("has-b").value
    # Whoever lets it take effect, and however often, the same items come of it.
    assert held_at(state, JULY) == after


def test_a_new_version_does_not_change_what_was_quoted() -> None:
    state = queued(on("two"), "one", plan_id="one")
    assert state.subscriptions[0].queue[0].request.versions == {"one": 1}


def test_another_change_of_the_same_thing_replaces_the_whole_entry() -> None:
    state = queued(on("two", add_ons={"a": 1, "c": 0}), "both", plan_id="one", add_ons={"a": 0})
    done = planned(state, add_ons={"a": 2})
    assert [(d.change_id, d.code) for d in done.dropped] == [("both", "REPLACED")]
    assert done.next_lines[0].package_id == "two"


def test_a_change_now_keeps_what_still_applies_and_drops_the_rest() -> None:
    state = queued(on("one", add_ons={"a": 1}), "later", **LATER, add_ons={"b": 1})
    state = queued(state, "fewer", **LATER, plan_id="two")
    now = {"timing": ChangeTiming.NOW, "authority": Authority.STAFF, "reason": "as agreed"}
    done = planned(state, add_ons={"a": 0}, **now)
    assert [(d.change_id, d.code) for d in done.dropped] == [("later", "NO_LONGER_APPLIES")]
    assert [line.package_id for line in done.next_lines] == ["two"]


def test_what_was_given_up_meanwhile_is_not_bought_again() -> None:
    state = queued(on("one", add_ons={"a": 3}), "fewer", add_ons={"a": 1})
    [held] = state.subscriptions
    without = msgspec.structs.replace(
        held, items=tuple(i for i in held.items if i.package_id != "a")
    )
    rolled = roll(CATALOG, state, without, held.queue)
    assert [(d.code, d.reason) for d in rolled.dropped] == [
        ("NO_LONGER_APPLIES", "not held any more: a")
    ]


def test_a_year_becomes_a_month_at_its_end_with_periods_of_its_own() -> None:
    state = queued(on("one", interval=Interval.YEAR), "monthly", interval=Interval.MONTH)
    end = datetime(2026, 6, 1, tzinfo=UTC)
    after = held_at(state, end)
    assert (after.interval, after.anchor) == (Interval.MONTH, end)
    assert after.period.end == datetime(2026, 7, 1, tzinfo=UTC)
    future = future_of(CATALOG, state, state.subscriptions[0])
    assert (future.interval, future.new_anchor) == (Interval.MONTH, True)


def test_a_cancellation_drops_what_waits_and_nothing_more_can_be_scheduled() -> None:
    state = queued(on("two"), "down", plan_id="one")
    done = planned(state, product_id="app", cancel=True)
    assert [d.code for d in done.dropped] == ["SUBSCRIPTION_ENDS"]
    state = queued(state, "end", product_id="app", cancel=True)
    assert future_of(CATALOG, state, state.subscriptions[0]).cancel_at == JULY
    with pytest.raises(Conflict) as refused:
        planned(state, plan_id="one")
    assert refused.value.code == "CANCELLATION_SCHEDULED"
    ended = held_at(state, JULY)
    assert (ended.status, ended.ended_at) == (SubscriptionStatus.CANCELED, JULY)


def test_wanting_what_is_held_tells_of_what_waits() -> None:
    state = queued(on("two"), "down", plan_id="one")
    with pytest.raises(ValidationFailed, match=r"One instead of Two.*waits"):
        planned(state, plan_id="two")


def test_at_the_end_of_the_period_the_new_one_is_prorated() -> None:
    state = queued(on("two"), "down", plan_id="one")
    done = plan(state, JULY, catalog=CATALOG, add_ons={"a": 1})
    assert [line.amount_minor for line in done.lines] == [1000]
    assert (done.period.start, done.next_invoice_at) == (JULY, datetime(2025, 8, 1, tzinfo=UTC))
