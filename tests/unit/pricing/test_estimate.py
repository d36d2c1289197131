"""What somebody is told that a choice of packages would cost, and how it could cost less."""

from typing import Any

import msgspec
import pytest

from entitlements.catalog.model import Catalog
from entitlements.kernel.errors import ValidationFailed
from entitlements.kernel.period import Interval
from entitlements.pricing.estimate import (
    Estimate,
    EstimateRequest,
    FeatureQuantity,
    PackageQuantity,
    estimate,
)
from tests.unit.pricing.catalogs import (
    ANALYTICS,
    CALLS,
    PROFESSIONAL,
    STARTER,
    WORKSPACE,
    add_on,
    bundle,
    catalog,
    flat,
    grants,
    overage,
    plan,
)


def ask(sold: Catalog, plan_id: str | None = None, **more: Any) -> Estimate:
    def packages(name: str) -> tuple[PackageQuantity, ...]:
        return tuple(PackageQuantity(id, n) for id, n in more.pop(name, {}).items())

    quantities = tuple(FeatureQuantity(id, n) for id, n in more.pop("quantities", {}).items())
    return estimate(
        sold,
        EstimateRequest(
            plan_id=plan_id,
            add_ons=packages("add_ons"),
            bundles=packages("bundles"),
            quantities=quantities,
            **more,
        ),
    )


def mistakes(sold: Catalog, plan_id: str | None = None, **more: Any) -> set[tuple[str, str]]:
    with pytest.raises(ValidationFailed) as failure:
        ask(sold, plan_id, **more)
    return {(".".join(issue.path), issue.code) for issue in failure.value.issues}


def test_seats_add_on_and_expected_use_are_lines_that_sum_to_the_total() -> None:
    answer = ask(
        WORKSPACE,
        "professional",
        add_ons={"analytics": 1},
        quantities={"seats": 60, "calls": 102_500},
    )
    assert [
        (x.charge.id, x.quantity, x.amount.amount_minor, x.explanation) for x in answer.lines
    ] == [
        ("fee", 1, 9900, "1 × $99.00"),
        ("seats", 60, 36000, "51+: 60 × $6.00"),
        (
            "overage",
            102_500,
            450,
            "102,500 − 100,000 included = 2,500: 3 blocks of 1,000 × $1.50",
        ),
        ("fee", 1, 20000, "1 × $200.00"),
    ]
    assert answer.total.amount_minor == answer.monthly_equivalent.amount_minor == 66350


def test_a_yearly_estimate_bills_expected_use_twelve_times() -> None:
    answer = ask(
        WORKSPACE,
        "professional",
        quantities={"seats": 10, "calls": 102_500},
        interval=Interval.YEAR,
    )
    assert [x.amount.amount_minor for x in answer.lines] == [98604, 100_000, 12 * 450]
    assert answer.lines[-1].explanation.startswith("12 months, each 102,500 − 100,000")
    assert answer.monthly_equivalent.amount_minor == 17000  # 2,040.04 ÷ 12 = 170.0033…


def test_an_estimate_says_what_paying_by_the_year_would_save() -> None:
    saving = ask(WORKSPACE, add_ons={"analytics": 1}).annual_saving
    assert saving is not None
    assert (saving.amount.amount_minor, str(saving.percent)) == (40_000, "16.67")


def test_no_annual_saving_is_shown_where_there_is_none() -> None:
    assert ask(catalog(plan("free", flat("0"))), "free").annual_saving is None


def test_seats_left_out_are_one_or_the_minimum() -> None:
    assert ask(WORKSPACE, "professional").lines[1].quantity == 1


def test_three_modules_bought_singly_are_cheaper_as_the_bundle() -> None:
    modules = {"email-campaigns": 1, "lead-scoring": 1, "landing-pages": 1}
    answer = ask(WORKSPACE, "starter", add_ons=modules)
    assert answer.total.amount_minor == 20400
    [option] = [o for o in answer.cheaper if o.plan_id == "starter"]
    assert (option.total.amount_minor, option.saving.amount_minor) == (17900, 2500)
    assert (option.add_ons, option.bundles) == ((), (PackageQuantity("marketing"),))
    assert option.description == "Starter + Marketing"
    assert answer.cheaper_complete


def test_a_higher_tier_that_gives_it_all_for_less_is_named() -> None:
    small = plan("small", flat("50"), gives=grants(calls=1000))
    large = plan("large", flat("60"), rank=1, gives=grants(calls=5000, sso=True))
    single = add_on("single-sign-on", flat("20"), gives=grants(sso=True))
    [option] = ask(catalog(small, large, single), "small", add_ons={"single-sign-on": 1}).cheaper
    assert (option.plan_id, option.add_ons, option.saving.amount_minor) == ("large", (), 1000)


def test_more_seats_that_cost_less_are_named() -> None:
    # Volume pricing: 50 × $8 = $400, 51 × $6 = $306.
    [option] = ask(WORKSPACE, "professional", quantities={"seats": 50}).cheaper
    assert option.quantities == (FeatureQuantity("seats", 51),)
    assert option.saving.amount_minor == 9400
    assert option.description == "Professional with 51 Seats"


def test_less_than_what_was_asked_for_is_no_cheaper_option() -> None:
    # Starter is cheaper than Professional, but it gives fewer seats, calls and no sign-on.
    assert ask(WORKSPACE, "professional", quantities={"seats": 5}).cheaper == ()


def test_an_add_on_whose_worth_cannot_be_compared_is_kept() -> None:
    # `email-campaigns` has no entitlements: leaving it out is not "the same for less".
    assert ask(WORKSPACE, "starter", add_ons={"email-campaigns": 1}).cheaper == ()


def test_a_contact_sales_plan_is_never_an_option() -> None:
    hidden = plan("hidden", flat("1"), rank=9, self_serve=False, gives=grants(calls=10_000))
    sold = catalog(STARTER, hidden, CALLS)
    assert ask(sold, "starter").cheaper == ()


def test_a_required_add_on_comes_with_what_requires_it() -> None:
    base = plan("base", flat("10"))
    dear = add_on("dear", flat("100"), gives=grants(dashboards=True))
    cheap = add_on("cheap", flat("30"), requires=("ground",), gives=grants(dashboards=True))
    ground = add_on("ground", flat("20"))
    [option] = ask(catalog(base, dear, cheap, ground), "base", add_ons={"dear": 1}).cheaper
    assert {p.id for p in option.add_ons} == {"cheap", "ground"}
    assert option.saving.amount_minor == 5000


def test_a_bundle_meets_a_requirement_and_bundles_count_towards_the_maximum() -> None:
    ground = add_on("ground", flat("20"), max_quantity=1)
    above = add_on("above", flat("30"), requires=("ground",))
    pack = bundle("pack", flat("15"), of={"ground": 1})
    sold = catalog(STARTER, ground, above, pack)
    assert ask(sold, "starter", add_ons={"above": 1}, bundles={"pack": 1}).lines
    assert mistakes(sold, "starter", add_ons={"ground": 1}, bundles={"pack": 1}) == {
        ("addOns.0.id", "MAX_QUANTITY"),
        ("bundles.0.id", "MAX_QUANTITY"),
    }


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, {("planId", "NOTHING_CHOSEN")}),
        ({"plan_id": "gold"}, {("planId", "UNKNOWN_PLAN")}),
        ({"plan_id": "analytics"}, {("planId", "UNKNOWN_PLAN")}),
        ({"plan_id": "enterprise"}, {("planId", "CONTACT_SALES")}),
        (
            {"plan_id": "starter", "add_ons": {"gone": 1, "analytics": 0}, "bundles": {"b": 1}},
            {
                ("addOns.0.id", "UNKNOWN_ADD_ON"),
                ("addOns.1.quantity", "OUT_OF_RANGE"),
                ("bundles.0.id", "UNKNOWN_BUNDLE"),
            },
        ),
        ({"plan_id": "starter", "add_ons": {"analytics": 2}}, {("addOns.0.id", "MAX_QUANTITY")}),
        ({"plan_id": "starter", "currency": "chf"}, {("currency", "UNKNOWN_CURRENCY")}),
        (
            {"plan_id": "starter", "quantities": {"seats": -1, "sso": 1, "rooms": 1}},
            {
                ("quantities.0.quantity", "OUT_OF_RANGE"),
                ("quantities.1.featureId", "NOT_METERED"),
                ("quantities.2.featureId", "UNKNOWN_FEATURE"),
            },
        ),
        (
            {"plan_id": "starter", "quantities": {"seats": 6, "calls": 10_001}},
            {("quantities.0.quantity", "ABOVE_LIMIT"), ("quantities.1.quantity", "ABOVE_LIMIT")},
        ),
    ],
)
def test_every_mistake_is_named_with_its_path(
    asked: dict[str, Any], expected: set[tuple[str, str]]
) -> None:
    assert mistakes(WORKSPACE, **asked) == expected


def test_an_add_on_that_does_not_fit_is_refused() -> None:
    fussy = add_on("fussy", flat("1"), works_with=("professional",), excludes=("analytics",))
    sold = catalog(STARTER, PROFESSIONAL, ANALYTICS, fussy)
    assert mistakes(sold, "starter", add_ons={"fussy": 1}) == {("addOns.0.id", "DOES_NOT_FIT")}
    assert mistakes(sold, "professional", add_ons={"analytics": 1, "fussy": 1}) == {
        ("addOns.1.id", "EXCLUDES")
    }


def test_two_packages_that_bill_the_same_use_are_refused() -> None:
    meter = add_on("meter", overage("2.00", 1000), gives=grants(calls=("add", 1)))
    sold = catalog(PROFESSIONAL, meter)
    assert mistakes(sold, "professional", add_ons={"meter": 1}) == {
        ("addOns.0.id", "METERED_TWICE")
    }


def test_an_interval_that_is_not_sold_is_refused() -> None:
    charge = flat("10")
    monthly = plan("monthly", msgspec.structs.replace(charge, prices=charge.prices[:1]))
    assert mistakes(catalog(monthly), "monthly", interval=Interval.YEAR) == {
        ("interval", "NOT_SOLD")
    }
    assert ask(catalog(monthly), "monthly").annual_saving is None


def test_more_than_may_be_bought_is_refused() -> None:
    capped = plan("capped", *PROFESSIONAL.charges, gives=grants(seats=20))
    assert mistakes(catalog(capped), "capped", quantities={"seats": 21}) == {
        ("quantities.0.quantity", "ABOVE_LIMIT")
    }
