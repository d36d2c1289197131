"""Bundles held: bought, made out of parts, taken apart again, with a plan inside."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entitlements.catalog.document import parse
from entitlements.catalog.model import Catalog
from entitlements.catalog.versions import publish
from entitlements.kernel.errors import ValidationFailed
from entitlements.subscriptions.change import ChangeDirection, ChangePlan
from entitlements.subscriptions.composition import add_ons_held
from entitlements.subscriptions.state import CustomerState
from tests.unit.subscriptions import test_change as base

START, NOBODY, day, after, codes = base.START, base.NOBODY, base.day, base.after, base.codes


def catalog() -> Catalog:
    """Two plans, three add-ons, a pack with a discount, a suite at its own price, a plan bundle."""
    flat: Any = base._flat
    document = {
        "currencies": ["usd"],
        "features": [{"id": f"has-{x}", "name": x, "kind": "boolean"} for x in "abc"],
        "products": [
            {
                "id": "app", "name": "App",
                "policy": {"downgrade": {"timing": "now", "proration": "invoice_now"}},
                "plans": [
                    {"id": "one", "name": "One", "entitlements": {}, "charges": flat("100.00")},
                    {"id": "two", "name": "Two", "entitlements": {}, "charges": flat("200.00")},
                ],
                "add_ons": [
                    base._add_on("a", "30.00"),
                    base._add_on("b", "20.00"),
                    base._add_on("c", "10.00", works_with=["one"]),
                ],
                "bundles": [
                    {"id": "pack", "name": "Pack", "discount_percent": "10",
                     "components": [{"id": "a"}, {"id": "b", "quantity": 2}]},
                    {"id": "suite", "name": "Suite", "components": [{"id": "a"}, {"id": "c"}],
                     "charges": flat("31.00")},
                    {"id": "start", "name": "Start", "components": [{"id": "two"}, {"id": "b"}],
                     "discount_percent": "50"},
                ],
            }
        ],
    }  # fmt: skip
    draft = parse(document)
    return publish(draft, Catalog.EMPTY, revision=1, effective_at=START, published_at=START).catalog


CATALOG = catalog()


def plan(state: CustomerState, **request: Any) -> ChangePlan:
    return base.plan(state, day(16), catalog=CATALOG, **request)


def on(plan_id: str | None = "one", **more: Any) -> CustomerState:
    done = base.plan(NOBODY, START, catalog=CATALOG, plan_id=plan_id, **more)
    return after(NOBODY, done)


def held(done: ChangePlan) -> dict[str, int]:
    return {item.package_id: item.quantity for item in done.items}


def test_a_bundle_takes_the_place_of_its_parts_and_credits_them() -> None:
    done = plan(on(add_ons={"a": 1, "b": 3}), bundles={"pack": 1})
    assert held(done) == {"one": 1, "b": 1, "pack": 1}
    assert done.direction is ChangeDirection.SIDEGRADE
    # Half of the month is left: a back, b credited for three and charged for one, the pack's lines.
    assert sorted(base.amounts(done)) == [-3000, -1500, 1000, 1350, 1800]


def test_a_bundle_that_brings_more_than_its_parts_is_an_addition() -> None:
    done = plan(on(add_ons={"a": 1}), bundles={"pack": 1})
    assert held(done) == {"one": 1, "pack": 1}
    assert done.direction is ChangeDirection.ADDITION


@pytest.mark.parametrize(
    ("wanted", "left"),
    [
        ({"a": 0}, {"one": 1, "b": 2}),
        ({"b": 1}, {"one": 1, "a": 1, "b": 1}),
        ({"a": 0, "b": 0}, {"one": 1}),
    ],
)
def test_less_than_a_bundle_gives_dissolves_it_and_buys_the_rest_singly(
    wanted: dict[str, int], left: dict[str, int]
) -> None:
    done = plan(on(bundles={"pack": 1}), add_ons=wanted)
    assert held(done) == left
    assert done.direction is ChangeDirection.REMOVAL


def test_more_than_a_bundle_gives_is_bought_beside_it() -> None:
    assert held(plan(on(bundles={"pack": 1}), add_ons={"b": 5})) == {"one": 1, "b": 3, "pack": 1}


def test_exactly_what_a_bundle_gives_changes_nothing() -> None:
    with pytest.raises(ValidationFailed) as refused:
        plan(on(bundles={"pack": 1}), add_ons={"a": 1, "b": 2})
    assert codes(refused.value) == [("input", "NOTHING_TO_CHANGE")]


def test_a_bundle_that_is_removed_takes_its_parts_with_it() -> None:
    done = plan(on(add_ons={"b": 3}, bundles={"pack": 1}), bundles={"pack": 0})
    assert held(done) == {"one": 1, "b": 1}  # b: one beside the two in the pack
    assert done.direction is ChangeDirection.REMOVAL


def test_a_bundle_and_less_than_it_gives_is_a_contradiction() -> None:
    with pytest.raises(ValidationFailed) as refused:
        plan(on(), bundles={"pack": 1}, add_ons={"a": 0})
    assert codes(refused.value) == [("bundles.pack", "CONTRADICTION")]


def test_a_part_that_does_not_fit_the_new_plan_dissolves_its_bundle() -> None:
    done = plan(on(bundles={"suite": 1}), plan_id="two")
    assert held(done) == {"two": 1, "a": 1}
    assert [add_on.id for add_on in done.removed_add_ons] == ["c"]


def test_a_plan_inside_a_bundle_is_the_plan_held() -> None:
    state = on(None, bundles={"start": 1})
    assert held(plan(state, add_ons={"a": 1})) == {"start": 1, "a": 1}


def test_a_bundle_with_a_plan_takes_the_plans_place() -> None:
    done = plan(on("one", add_ons={"b": 1}), bundles={"start": 1})
    assert held(done) == {"start": 1}
    assert done.direction is ChangeDirection.UPGRADE
    assert sorted(base.amounts(done)) == [-5000, -1000, 500, 5000]


def test_another_plan_dissolves_the_bundle_that_brought_one() -> None:
    done = plan(on(None, bundles={"start": 1}), plan_id="one")
    assert held(done) == {"one": 1, "b": 1}
    assert done.direction is ChangeDirection.DOWNGRADE


def test_less_of_a_bundle_with_a_plan_keeps_the_plan_by_itself() -> None:
    assert held(plan(on(None, bundles={"start": 1}), add_ons={"b": 0})) == {"two": 1}


def test_a_line_of_a_discounted_bundle_is_its_modules_own() -> None:
    lines = plan(on(), bundles={"pack": 1}).lines
    assert [[(p.package_id, p.amount_minor) for p in x.allocations] for x in lines] == [
        [("a", 1350)],
        [("b", 1800)],
    ]


def test_a_line_of_a_bundle_with_its_own_price_is_split_as_its_parts_cost() -> None:
    [line] = plan(on(), bundles={"suite": 1}).lines
    assert line.amount_minor == 1550
    assert [(p.package_id, p.amount_minor) for p in line.allocations] == [("a", 1163), ("c", 387)]


QUANTITIES = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(0, 3))
PACKS = st.dictionaries(st.sampled_from(["pack", "suite"]), st.integers(0, 2))


@given(QUANTITIES, PACKS, QUANTITIES, PACKS)
def test_what_is_named_is_held_and_what_is_not_named_stays(
    add_ons: dict[str, int], packs: dict[str, int], wanted: dict[str, int], more: dict[str, int]
) -> None:
    try:
        state = on(add_ons=add_ons, bundles=packs)
        done = plan(state, add_ons=wanted, bundles=more)
    except ValidationFailed:
        return
    subscription = state.live("app")
    assert subscription is not None
    before = add_ons_held(CATALOG, subscription.items)
    now = add_ons_held(CATALOG, done.items)
    assert all(now[add_on] == quantity for add_on, quantity in wanted.items())
    if not any(more.get(x, 0) < n for x, n in packs.items() if x in more):
        assert all(now[x] >= before[x] for x in "abc" if x not in wanted)
    assert sum(line.amount_minor for line in done.lines) == done.total_minor
