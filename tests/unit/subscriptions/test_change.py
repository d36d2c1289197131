"""What a change does, decided without a database, a clock or a network."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entitlements.catalog.document import parse
from entitlements.catalog.model import Catalog, ChangeTiming, ProrationMode
from entitlements.catalog.versions import publish
from entitlements.kernel.errors import Conflict, ValidationFailed
from entitlements.kernel.period import Interval, Period
from entitlements.subscriptions.change import (
    Authority,
    ChangeDirection,
    ChangePlan,
    plan_change,
)
from entitlements.subscriptions.holdings import after_change
from entitlements.subscriptions.request import ChangeRequest
from entitlements.subscriptions.state import (
    CustomerState,
    HeldCharge,
    Subscription,
    SubscriptionStatus,
)

START = datetime(2025, 6, 1, tzinfo=UTC)
JUNE = Period(START, datetime(2025, 7, 1, tzinfo=UTC))


def _flat(amount: str, year: str | None = None) -> list[dict[str, Any]]:
    prices = {"usd": {"month": amount, "year": year or f"{Decimal(amount) * 10}"}}
    return [{"id": "fee", "name": "Fee", "model": "flat", "prices": prices}]


def _seats(unit: str) -> dict[str, Any]:
    prices = {"usd": {"month": unit, "year": f"{Decimal(unit) * 10}"}}
    return {"id": "seats", "name": "Seats", "model": "per_unit", "quantity": "seats",
            "prices": prices}  # fmt: skip


def _add_on(id: str, amount: str, **more: Any) -> dict[str, Any]:
    return {"id": id, "name": id.title(), "kind": "module", "entitlements": {f"has-{id}": True},
            "charges": _flat(amount), **more}  # fmt: skip


def catalog_of(after: Catalog = Catalog.EMPTY, **product: Any) -> Catalog:
    """Four tiers at $100 to $400, seats in the third, and add-ons that know each other."""
    document = {
        "currencies": ["usd"],
        "features": [
            {"id": "seats", "name": "Seats", "kind": "metered", "unit": "seat",
             "aggregation": "level", "reset": "never"},
            *({"id": f"has-{x}", "name": x, "kind": "boolean"} for x in "abcds"),
        ],
        "products": [
            {
                "id": "app", "name": "App",
                "plans": [
                    {"id": "one", "name": "One", "entitlements": {}, "charges": _flat("100.00")},
                    {"id": "two", "name": "Two", "entitlements": {}, "charges": _flat("200.00")},
                    {"id": "three", "name": "Three", "entitlements": {"seats": {"limit": 50}},
                     "charges": [*_flat("300.00"), _seats("7.00")]},
                    {"id": "four", "name": "Four", "entitlements": {"seats": {"unlimited": True}},
                     "charges": [*_flat("400.00"), _seats("6.00")]},
                    {"id": "five", "name": "Five", "entitlements": {}, "charges": []},
                ],
                "add_ons": [
                    _add_on("a", "10.00"),
                    _add_on("b", "20.00", requires=["a"]),
                    _add_on("c", "30.00", excludes=["a"], max_quantity=2),
                    _add_on("d", "40.00", works_with=["one", "two"]),
                    _add_on("s", "50.00", self_serve=False, max_quantity=2),
                ],
                **product,
            }
        ],
    }  # fmt: skip
    draft = parse(document)
    return publish(
        draft, after, revision=after.revision + 1, effective_at=START, published_at=START
    ).catalog


NOW = {"policy": {"downgrade": {"timing": "now", "proration": "invoice_now"}}}
CATALOG = catalog_of(**NOW)
NOBODY = CustomerState(id="acme", currency="usd", revision=1)


def plan(state: CustomerState, at: datetime, **request: Any) -> ChangePlan:
    authority = request.pop("authority", Authority.SERVICE)
    catalog = request.pop("catalog", CATALOG)
    return plan_change(catalog, state, ChangeRequest(**request), at, authority=authority)


def after(state: CustomerState, done: ChangePlan) -> CustomerState:
    """The customer once a change is settled: as `records.store_plan` leaves them."""
    then = after_change(CATALOG, state, done)

    def settled(held: Subscription) -> Subscription:
        items = tuple(
            msgspec.structs.replace(
                item,
                id=item.package_id,
                charges={
                    slot.charge_id: HeldCharge("si", done.charged_at.get(slot.key))
                    for slot in done.after
                    if slot.package_id == item.package_id
                },
            )
            for item in held.items
        )
        return msgspec.structs.replace(
            held, id="sub", items=items, pending_lines=done.pending_after,
            anchor=done.period.start if done.new_period else held.anchor,
        )  # fmt: skip

    changed = tuple(
        settled(s) if s.product_id == done.product_id else s for s in then.subscriptions
    )
    return msgspec.structs.replace(then, subscriptions=changed)


def on(plan_id: str, **more: Any) -> CustomerState:
    return after(NOBODY, plan(NOBODY, START, plan_id=plan_id, **more))


def amounts(done: ChangePlan) -> list[int]:
    return [line.amount_minor for line in done.lines]


def day(number: int) -> datetime:
    return datetime(2025, 6, number, tzinfo=UTC)


def codes(error: ValidationFailed) -> list[tuple[str, str]]:
    return [(".".join(issue.path), issue.code) for issue in error.issues]


def test_three_switches_in_one_month_credit_the_full_plan_held_each_time() -> None:
    # Published figures: $100, $200, $300, $400 switched on June 7, 13 and 19 of 30 days.
    state, lines = on("one"), []
    for number, wanted in ((7, "two"), (13, "three"), (19, "four")):
        done = plan(state, day(number), plan_id=wanted, quantities={})
        lines.append([x.amount_minor for x in done.lines if x.charge_id == "fee"])
        state = after(state, done)
    assert lines == [[-8000, 16000], [-12000, 18000], [-12000, 16000]]


@pytest.mark.parametrize(
    ("start", "at", "credit", "charge"),
    [
        (datetime(2025, 6, 1, tzinfo=UTC), datetime(2025, 6, 11, tzinfo=UTC), -6667, 20000),
        (datetime(2024, 2, 18, tzinfo=UTC), datetime(2024, 2, 25, tzinfo=UTC), -7586, 22759),
    ],
)
def test_a_switch_from_100_to_300_is_prorated_to_the_second(
    start: datetime, at: datetime, credit: int, charge: int
) -> None:
    state = after(NOBODY, plan(NOBODY, start, plan_id="one"))
    fees = [x.amount_minor for x in plan(state, at, plan_id="three").lines if x.charge_id == "fee"]
    assert fees == [credit, charge]


def test_a_month_becomes_a_year_at_the_change_with_the_rest_of_the_month_back() -> None:
    done = plan(on("one"), day(11), interval=Interval.YEAR)
    assert amounts(done) == [-6667, 100_000]
    assert (done.new_period, done.period.start, done.period.end) == (
        True, day(11), datetime(2026, 6, 11, tzinfo=UTC))  # fmt: skip
    assert done.mrr_after_minor == 8333


SECONDS = st.integers(0, 30 * 86_400 - 1)


@given(SECONDS, st.sampled_from(["two", "three", "four"]), st.integers(0, 50))
def test_a_change_and_its_reverse_at_the_same_instant_net_to_zero(
    seconds: int, wanted: str, seats: int
) -> None:
    at = START + timedelta(seconds=seconds)
    state = on("one", add_ons={"a": 3})
    quantities = {"seats": seats} if wanted in ("three", "four") else {}
    there = plan(state, at, plan_id=wanted, quantities=quantities)
    back = plan(after(state, there), at, plan_id="one")
    assert there.total_minor + back.total_minor == 0


WISHES = st.fixed_dictionaries(
    {},
    optional={
        "plan_id": st.sampled_from(["one", "two", "three", "four"]),
        "quantities": st.just({}),
        "add_ons": st.dictionaries(st.sampled_from(["a", "d"]), st.integers(0, 4)),
        "proration": st.sampled_from(ProrationMode),
    },
)


@settings(max_examples=300)
@given(st.lists(st.tuples(SECONDS, WISHES), max_size=6))
def test_within_a_period_nobody_gets_back_more_than_was_charged(
    steps: list[tuple[int, dict[str, Any]]],
) -> None:
    state = on("one")
    charged = plan(NOBODY, START, plan_id="one").total_minor
    for seconds, wish in sorted(steps, key=lambda step: step[0]):
        try:
            done = plan(
                state, START + timedelta(seconds=seconds), authority=Authority.STAFF,
                reason="goodwill", **wish,
            )  # fmt: skip
        except ValidationFailed:
            continue
        assert done.proration is not ProrationMode.NONE or not done.lines
        charged += done.invoice_total_minor if done.invoiced_now else 0
        state = after(state, done)
        owed = sum(line.amount_minor for line in state.subscriptions[0].pending_lines)
        assert charged + owed >= 0


@given(SECONDS)
def test_without_proration_a_dearer_plan_cannot_be_turned_into_credit(seconds: int) -> None:
    at = START + timedelta(seconds=seconds)
    state = on("one")
    gift = plan(
        state, START, plan_id="four", proration=ProrationMode.NONE, reason="goodwill",
        authority=Authority.STAFF,
    )  # fmt: skip
    assert gift.lines == ()
    back = plan(after(state, gift), at, plan_id="one")
    assert back.total_minor == 0


@pytest.mark.parametrize(
    ("held", "request_", "direction"),
    [
        ({"plan_id": "one"}, {"plan_id": "two"}, ChangeDirection.UPGRADE),
        ({"plan_id": "two"}, {"plan_id": "one"}, ChangeDirection.DOWNGRADE),
        ({"plan_id": "one"}, {"add_ons": {"a": 1}}, ChangeDirection.ADDITION),
        ({"plan_id": "one", "add_ons": {"a": 2}}, {"add_ons": {"a": 1}}, ChangeDirection.REMOVAL),
        ({"plan_id": "three"}, {"quantities": {"seats": 9}}, ChangeDirection.UPGRADE),
        ({"plan_id": "three", "quantities": {"seats": 9}}, {"quantities": {"seats": 2}},
         ChangeDirection.DOWNGRADE),
        ({"plan_id": "one"}, {"interval": Interval.YEAR}, ChangeDirection.SIDEGRADE),
        ({"plan_id": "one", "add_ons": {"a": 1}}, {"add_ons": {"a": 0, "d": 1}},
         ChangeDirection.SIDEGRADE),
        ({"plan_id": "four"}, {"plan_id": "one", "add_ons": {"a": 1}}, ChangeDirection.DOWNGRADE),
    ],
)  # fmt: skip
def test_directions_go_by_rank_then_by_quantity(
    held: dict[str, Any], request_: dict[str, Any], direction: ChangeDirection
) -> None:
    assert plan(on(**held), day(2), **request_).direction is direction


@pytest.mark.parametrize(
    ("held", "request_", "issues"),
    [
        ({"plan_id": "one"}, {"plan_id": "one"}, [("input", "NOTHING_TO_CHANGE")]),
        ({"plan_id": "one"}, {"add_ons": {"a": 0}}, [("input", "NOTHING_TO_CHANGE")]),
        ({"plan_id": "one"}, {"plan_id": "nine"}, [("planId", "UNKNOWN_PACKAGE")]),
        ({"plan_id": "one"}, {"plan_id": "a"}, [("planId", "UNKNOWN_PACKAGE")]),
        ({"plan_id": "one"}, {"add_ons": {"one": 1}}, [("addOns.one", "UNKNOWN_PACKAGE")]),
        ({"plan_id": "one"}, {"add_ons": {"b": 1}}, [("addOns.b", "REQUIRES")]),
        ({"plan_id": "one", "add_ons": {"a": 1, "b": 1}}, {"add_ons": {"a": 0}},
         [("addOns.a", "REQUIRED_BY")]),
        ({"plan_id": "one", "add_ons": {"a": 1}}, {"add_ons": {"c": 1}},
         [("addOns.c", "EXCLUDES")]),
        ({"plan_id": "one"}, {"add_ons": {"c": 3}}, [("addOns.c", "MAX_QUANTITY")]),
        ({"plan_id": "three"}, {"add_ons": {"d": 1}}, [("addOns.d", "DOES_NOT_FIT")]),
        ({"plan_id": "three"}, {"quantities": {"seats": 51}},
         [("quantities.seats.quantity", "OVER_LIMIT")]),
        ({"plan_id": "three"}, {"quantities": {"seats": -1}},
         [("quantities.seats.quantity", "QUANTITY_OUT_OF_RANGE")]),
        ({"plan_id": "one"}, {"quantities": {"seats": 5}},
         [("quantities.seats", "NOT_SOLD_BY_QUANTITY")]),
        ({"plan_id": "one"}, {"add_ons": {"a": -1}},
         [("addOns.a.quantity", "QUANTITY_OUT_OF_RANGE")]),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_where_it_was_asked_for(
    held: dict[str, Any], request_: dict[str, Any], issues: list[tuple[str, str]]
) -> None:
    with pytest.raises(ValidationFailed) as refused:
        plan(on(**held), day(2), **request_)
    assert codes(refused.value) == issues


def test_an_upgrade_drops_what_does_not_fit_and_says_so() -> None:
    done = plan(on("one", add_ons={"a": 1, "d": 1}), day(11), plan_id="three")
    assert [add_on.id for add_on in done.removed_add_ons] == ["d"]
    assert [item.package_id for item in done.items] == ["three", "a"]
    assert any("does not fit" in warning for warning in done.warnings)


def test_who_holds_nothing_has_to_choose_a_plan_first() -> None:
    with pytest.raises(ValidationFailed) as refused:
        plan(NOBODY, START, add_ons={"a": 1})
    assert codes(refused.value) == [("planId", "PLAN_REQUIRED")]


def test_what_sales_has_to_sell_needs_approval() -> None:
    assert plan(NOBODY, START, plan_id="five").approval_required


@pytest.mark.parametrize(
    ("mode", "lines"), [("NEXT_INVOICE", [-13333]), ("INVOICE_NOW", [-13333]), ("NONE", [])]
)
def test_when_the_last_charge_goes_what_is_left_is_settled_at_once(
    mode: str, lines: list[int]
) -> None:
    waiting = plan(
        on("one"), day(11), plan_id="two", proration=ProrationMode.NEXT_INVOICE,
        authority=Authority.STAFF, reason="goodwill",
    )  # fmt: skip
    state = after(on("one"), waiting)
    done = plan(
        state, day(11), plan_id="five", proration=ProrationMode[mode],
        authority=Authority.STAFF, reason="goodwill",
    )  # fmt: skip
    assert amounts(done) == lines
    assert (done.ends_billing, done.exact, done.invoiced_now) == (True, False, True)
    assert [line.amount_minor for line in done.swept] == [-6667, 13333]
    assert (done.pending_after, done.next_invoice_at) == ((), None)
    assert (done.period, done.mrr_after_minor) == (JUNE, 0)


def test_the_first_charge_begins_a_period_and_waits_for_none() -> None:
    done = plan(on("five"), day(11), add_ons={"a": 1})
    assert (amounts(done), done.new_period, done.period.start) == ([1000], True, day(11))
    late = catalog_of(policy={"downgrade": {"timing": "period_end", "proration": "none"}})
    done = plan(on("five"), day(11), plan_id="one", catalog=late)
    assert (done.direction, done.timing) == (ChangeDirection.DOWNGRADE, ChangeTiming.NOW)
    with pytest.raises(ValidationFailed) as refused:
        plan(
            on("five"), day(11), plan_id="one", catalog=late, timing=ChangeTiming.PERIOD_END,
            authority=Authority.STAFF, reason="goodwill",
        )  # fmt: skip
    assert codes(refused.value) == [("timing", "NO_PAID_PERIOD")]


def test_more_of_what_sales_sells_and_its_newer_versions_need_approval_too() -> None:
    held = on("one", add_ons={"s": 1})
    assert plan(held, day(2), add_ons={"s": 2}).approval_required
    pack = {"id": "pack", "name": "Pack", "discount_percent": "10",
            "components": [{"id": "c"}, {"id": "s"}]}  # fmt: skip
    sold = catalog_of(**NOW, bundles=[pack])
    assert plan(on("one"), day(2), bundles={"pack": 1}, catalog=sold).approval_required
    bundled = plan(held, day(2), bundles={"pack": 1}, catalog=sold)
    assert not bundled.approval_required  # it has `s` already
    assert not plan(held, day(2), plan_id="two").approval_required
    assert not plan(held, day(2), add_ons={"s": 0}).approval_required


@pytest.mark.parametrize("authority", [Authority.CUSTOMER, Authority.SERVICE])
def test_nobody_but_staff_goes_beyond_the_policy(authority: Authority) -> None:
    with pytest.raises(ValidationFailed) as refused:
        plan(on("one"), day(2), plan_id="two", proration=ProrationMode.NONE, authority=authority)
    assert codes(refused.value) == [("proration", "NOT_YOURS_TO_CHOOSE")]


def test_a_customer_chooses_the_time_where_the_product_lets_them() -> None:
    lenient = catalog_of(policy={"customer_may_choose": ["now"]})
    done = plan(
        on("two"), day(11), plan_id="one", timing=ChangeTiming.NOW, catalog=lenient,
        authority=Authority.CUSTOMER,
    )  # fmt: skip
    assert amounts(done) == [-13333, 6667]


def test_in_arrears_only_cancelling_is_open_and_credits_nothing() -> None:

    [held] = on("one").subscriptions
    late = msgspec.structs.replace(held, status=SubscriptionStatus.PAST_DUE)
    state = msgspec.structs.replace(NOBODY, subscriptions=(late,))
    with pytest.raises(Conflict, match="an invoice is open"):
        plan(state, day(11), plan_id="two")
    ended = plan(state, day(11), product_id="app", cancel=True)
    assert (ended.timing, ended.lines, ended.void_open_invoices) == (ChangeTiming.NOW, (), True)


def test_a_promised_version_is_bought_though_the_catalog_has_moved_on() -> None:
    dearer = catalog_of(CATALOG, **NOW, add_ons=[_add_on("a", "15.00")])
    later = plan(on("one"), day(16), add_ons={"a": 1}, catalog=dearer)
    promised = plan(on("one"), day(16), add_ons={"a": 1}, versions={"a": 1}, catalog=dearer)
    retired = plan(on("one"), day(16), add_ons={"c": 1}, versions={"c": 1}, catalog=dearer)
    assert [amounts(done) for done in (later, promised, retired)] == [[750], [500], [1500]]
