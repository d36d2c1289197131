"""Lives of customers, the clock moved by hand: what each change was previewed as is what happens.

The example catalog, per month: Starter 29, Professional 99, extra users 10 each (8 each from 11
on), Advanced Analytics 200, 100k API calls 15; a year is ten months. Help Desk: 15 an agent.
"""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from entitlements.services import Services
from tests.api import Api
from tests.conftest import on_postgresql, on_sqlite
from tests.stories import (
    NOTHING,
    RENEWED,
    SCHEDULED,
    Story,
    at,
    away_until,
    balance,
    cancel,
    change,
    charge,
    credit,
    holds,
    publish_price,
    refused,
    take_back,
)

MARCH = ("2026-03-01T12:00:00Z", "2026-04-01T12:00:00Z")
APRIL = ("2026-04-01T12:00:00Z", "2026-05-01T12:00:00Z")
MAY = ("2026-05-01T12:00:00Z", "2026-06-01T12:00:00Z")
YEAR = ("2026-03-01T12:00:00Z", "2027-03-01T12:00:00Z")

START = at("2026-03-01T12:00:00Z")
STARTER = change(charge("starter", 29_00, MARCH), due=29_00, recurring=29_00, planId="starter")
PROFESSIONAL = change(
    charge("professional", 99_00, MARCH), due=99_00, recurring=99_00, planId="professional"
)
NOW = {"timing": "NOW", "reason": "as agreed"}
"""What staff may choose where the policy would wait."""

LATER_APPLIED = ("change.applied", *RENEWED)
"""What waited takes effect, and the new period begins."""


def add_ons(**quantities: int) -> dict[str, Any]:
    """The quantities wanted, as the API takes them."""
    named = [{"id": k.replace("_", "-"), "quantity": v} for k, v in quantities.items()]
    return {"addOns": named}


def agents(quantity: int) -> dict[str, Any]:
    return {"quantities": [{"featureId": "agents", "quantity": quantity}]}


@pytest.fixture
async def story(
    api: Api, services: Services, sandbox_url: str, example: Any
) -> AsyncIterator[Story]:
    async with httpx.AsyncClient(base_url=sandbox_url, auth=("sk_test_x", "")) as provider:
        yield Story(api, services, provider)


# ── up and down in the middle of a period ────────────────────────────────────


@on_sqlite
async def test_an_upgrade_credits_and_charges_by_the_second(story: Story) -> None:
    await story.tell(
        START,
        STARTER,
        at("2026-03-11T09:17:43Z", *NOTHING),
        change(
            credit("starter", 29_00, MARCH),
            charge("professional", 99_00, MARCH),
            due=47_67,
            recurring=99_00,
            planId="professional",
        ),
        at("2026-05-01T12:00:00Z", *RENEWED, *RENEWED),
        holds("professional@1", period=("2026-05-01T12:00:00Z", "2026-06-01T12:00:00Z")),
    )


@on_postgresql
async def test_three_switches_in_one_month_each_credit_the_full_plan_held(story: Story) -> None:
    await story.tell(
        START,
        STARTER,
        at("2026-03-11T12:00:00Z"),
        change(
            credit("starter", 29_00, MARCH),
            charge("professional", 99_00, MARCH),
            due=47_41,
            recurring=99_00,
            planId="professional",
        ),
        at("2026-03-16T12:00:00Z"),
        change(
            credit("professional", 99_00, MARCH),
            charge("starter", 29_00, MARCH),
            due=0,
            credit_after=36_13,
            recurring=29_00,
            planId="starter",
            **NOW,
        ),
        at("2026-03-21T12:00:00Z"),
        change(
            credit("starter", 29_00, MARCH),
            charge("professional", 99_00, MARCH),
            due=0,
            credit_after=11_29,
            recurring=99_00,
            planId="professional",
        ),
        at("2026-04-01T12:00:00Z", *RENEWED),
        balance(0),
        at("2026-05-01T12:00:00Z", *RENEWED),
    )


@on_sqlite
async def test_an_upgrade_and_back_at_the_same_instant_comes_to_nothing(story: Story) -> None:
    await story.tell(
        START,
        STARTER,
        at("2026-03-16T12:00:00Z"),
        change(
            credit("starter", 29_00, MARCH),
            charge("professional", 99_00, MARCH),
            due=36_13,
            recurring=99_00,
            planId="professional",
        ),
        change(
            credit("professional", 99_00, MARCH),
            charge("starter", 29_00, MARCH),
            due=0,
            credit_after=36_13,
            recurring=29_00,
            planId="starter",
            **NOW,
        ),
        holds("starter@1", period=MARCH),
        at("2026-04-01T12:00:00Z", *RENEWED),
        balance(7_13),  # what was paid too much pays the renewal
    )


@on_sqlite
async def test_a_change_in_the_first_second_settles_the_whole_price(story: Story) -> None:
    await story.tell(
        START,
        STARTER,
        change(
            credit("starter", 29_00, MARCH),
            charge("professional", 99_00, MARCH),
            due=70_00,
            recurring=99_00,
            planId="professional",
        ),
        at("2026-04-01T12:00:00Z", *RENEWED),
    )


@on_sqlite
async def test_a_change_in_the_last_second_costs_nothing_until_the_renewal(story: Story) -> None:
    await story.tell(
        START,
        STARTER,
        at("2026-04-01T11:59:59Z", *NOTHING),
        change(
            credit("starter", 29_00, MARCH),
            charge("professional", 99_00, MARCH),
            due=0,
            recurring=99_00,
            planId="professional",
        ),
        at("2026-04-01T12:00:00Z", *RENEWED),
    )


@on_sqlite
async def test_what_is_too_little_to_charge_is_carried_to_the_next_invoice(story: Story) -> None:
    await story.tell(
        START,
        STARTER,
        at("2026-04-01T08:00:00Z"),
        change(
            credit("starter", 29_00, MARCH),
            charge("professional", 99_00, MARCH),
            due=0,
            credit_after=-37,
            recurring=99_00,
            planId="professional",
        ),
        at("2026-04-01T12:00:00Z", *RENEWED),
        balance(0),
    )


# ── years ────────────────────────────────────────────────────────────────────


@on_postgresql
async def test_from_year_to_year_what_is_left_of_it_is_settled(story: Story) -> None:
    await story.tell(
        START,
        change(
            charge("starter", 290_00, YEAR),
            due=290_00,
            recurring=290_00,
            planId="starter",
            interval="YEAR",
        ),
        at("2026-09-12T12:00:00Z", *NOTHING),
        change(
            credit("starter", 290_00, YEAR),
            charge("professional", 990_00, YEAR),
            due=326_03,
            recurring=990_00,
            planId="professional",
        ),
        at("2027-03-01T12:00:00Z", *RENEWED),
        holds("professional@1", interval="YEAR", period=(YEAR[1], "2028-03-01T12:00:00Z")),
    )


@on_sqlite
async def test_from_month_to_year_a_new_period_begins_in_the_middle(story: Story) -> None:
    new = ("2026-03-16T12:00:00Z", "2027-03-16T12:00:00Z")
    await story.tell(
        START,
        STARTER,
        at("2026-03-16T12:00:00Z"),
        change(
            credit("starter", 29_00, MARCH),
            charge("starter", 290_00, new),
            due=275_03,
            recurring=290_00,
            interval="YEAR",
        ),
        holds("starter@1", interval="YEAR", period=new),
        at("2026-04-01T12:00:00Z", *NOTHING),
        at("2027-03-16T12:00:00Z", *RENEWED),
    )


@on_sqlite
async def test_from_month_to_year_with_a_higher_tier_in_one_step(story: Story) -> None:
    new = ("2026-03-16T12:00:00Z", "2027-03-16T12:00:00Z")
    await story.tell(
        START,
        STARTER,
        at("2026-03-16T12:00:00Z"),
        change(
            credit("starter", 29_00, MARCH),
            charge("professional", 990_00, new),
            due=975_03,
            recurring=990_00,
            planId="professional",
            interval="YEAR",
        ),
        at("2027-03-16T12:00:00Z", *RENEWED),
    )


@on_postgresql
async def test_from_year_to_month_it_waits_for_the_end_of_the_year(story: Story) -> None:
    await story.tell(
        START,
        change(
            charge("starter", 290_00, YEAR),
            due=290_00,
            recurring=290_00,
            planId="starter",
            interval="YEAR",
        ),
        at("2026-07-19T03:14:15Z"),
        change(due=0, recurring=29_00, told=SCHEDULED, effective=YEAR[1], interval="MONTH"),
        at("2027-03-01T11:59:59Z", *NOTHING),
        holds("starter@1", interval="YEAR", period=YEAR),
        at("2027-03-01T12:00:00Z", *LATER_APPLIED),
        holds("starter@1", period=("2027-03-01T12:00:00Z", "2027-04-01T12:00:00Z")),
        at("2027-05-01T12:00:00Z", *RENEWED, *RENEWED),
    )


@on_sqlite
async def test_a_month_that_began_on_the_31st_keeps_its_day(story: Story) -> None:
    february = ("2027-01-31T12:00:00Z", "2027-02-28T12:00:00Z")
    march = ("2027-02-28T12:00:00Z", "2027-03-31T12:00:00Z")
    await story.tell(
        at(february[0]),
        change(charge("starter", 29_00, february), due=29_00, recurring=29_00, planId="starter"),
        at("2027-03-10T12:00:00Z", *RENEWED),
        change(
            credit("starter", 29_00, march),
            charge("professional", 99_00, march),
            due=47_41,
            recurring=99_00,
            planId="professional",
        ),
        at("2027-03-31T12:00:00Z", *RENEWED),
        at("2027-04-30T12:00:00Z", *RENEWED),
        holds("professional@1", period=("2027-04-30T12:00:00Z", "2027-05-31T12:00:00Z")),
    )


@on_sqlite
async def test_a_leap_years_february_has_29_days(story: Story) -> None:
    february = ("2028-02-01T12:00:00Z", "2028-03-01T12:00:00Z")
    await story.tell(
        at(february[0]),
        change(charge("starter", 29_00, february), due=29_00, recurring=29_00, planId="starter"),
        at("2028-02-15T12:00:00Z"),
        change(
            credit("starter", 29_00, february),
            charge("professional", 99_00, february),
            due=36_21,
            recurring=99_00,
            planId="professional",
        ),
        at("2028-03-01T12:00:00Z", *RENEWED),
    )


@on_sqlite
async def test_a_year_that_began_on_a_leap_day_finds_it_again(story: Story) -> None:
    first = ("2028-02-29T12:00:00Z", "2029-02-28T12:00:00Z")
    leap = ("2031-02-28T12:00:00Z", "2032-02-29T12:00:00Z")
    await story.tell(
        at(first[0]),
        change(
            charge("starter", 290_00, first),
            due=290_00,
            recurring=290_00,
            planId="starter",
            interval="YEAR",
        ),
        at("2031-09-01T12:00:00Z", *RENEWED, *RENEWED, *RENEWED),
        change(
            credit("starter", 290_00, leap),
            charge("professional", 990_00, leap),
            due=346_17,
            recurring=990_00,
            planId="professional",
        ),
        at("2032-02-29T12:00:00Z", *RENEWED),
        holds("professional@1", interval="YEAR", period=(leap[1], "2033-02-28T12:00:00Z")),
    )


# ── seats and modules ────────────────────────────────────────────────────────


@on_sqlite
async def test_more_seats_on_the_renewal_instant_belong_to_the_new_period(story: Story) -> None:
    await story.tell(
        START,
        change(
            charge("starter", 29_00, MARCH),
            charge("extra-seats", 30_00, MARCH),
            due=59_00,
            recurring=59_00,
            planId="starter",
            **add_ons(extra_seats=3),
        ),
        at("2026-04-01T12:00:00Z", *RENEWED),
        change(
            credit("extra-seats", 30_00, APRIL),
            charge("extra-seats", 50_00, APRIL),
            due=20_00,
            recurring=79_00,
            **add_ons(extra_seats=5),
        ),
        holds("starter@1", "extra-seats@1×5", period=APRIL),
        at("2026-05-01T12:00:00Z", *RENEWED),
    )


@on_sqlite
async def test_seats_into_the_next_volume_tier_reprice_them_all(story: Story) -> None:
    await story.tell(
        START,
        change(
            charge("starter", 29_00, MARCH),
            charge("extra-seats", 80_00, MARCH),
            due=109_00,
            recurring=109_00,
            planId="starter",
            **add_ons(extra_seats=8),
        ),
        at("2026-03-16T12:00:00Z"),
        change(
            credit("extra-seats", 80_00, MARCH),  # 8 at 10
            charge("extra-seats", 88_00, MARCH),  # 11 at 8
            due=4_13,
            recurring=117_00,
            **add_ons(extra_seats=11),
        ),
        at("2026-04-01T12:00:00Z", *RENEWED),
    )


@on_postgresql
async def test_agents_are_bought_ahead_and_fewer_wait_until_more_are_wanted(story: Story) -> None:
    await story.tell(
        START,
        change(
            charge("help-desk-team", 144_00, MARCH),
            due=144_00,
            recurring=144_00,
            planId="help-desk-team",
            **agents(12),
        ),
        at("2026-03-10T00:00:00Z"),
        change(due=0, recurring=75_00, told=SCHEDULED, effective=MARCH[1], **agents(5)),
        at("2026-03-16T12:00:00Z"),
        change(
            credit("help-desk-team", 144_00, MARCH),
            charge("help-desk-team", 240_00, MARCH),
            due=49_55,
            recurring=240_00,
            told=("change.requested", "change.canceled", "change.applied"),
            **agents(20),
        ),
        at("2026-04-01T12:00:00Z", *RENEWED),
    )


@on_sqlite
async def test_parts_into_a_bundle_credit_what_is_saved(story: Story) -> None:
    await story.tell(
        START,
        change(
            charge("starter", 29_00, MARCH),
            charge("advanced-analytics", 200_00, MARCH),
            charge("extra-calls", 30_00, MARCH),
            due=259_00,
            recurring=259_00,
            planId="starter",
            **add_ons(advanced_analytics=1, extra_calls=2),
        ),
        at("2026-03-16T12:00:00Z"),
        change(
            credit("advanced-analytics", 200_00, MARCH),
            credit("extra-calls", 30_00, MARCH),
            charge("growth-pack", 170_00, MARCH),  # 15 % off
            charge("growth-pack", 25_50, MARCH),
            due=0,
            credit_after=17_81,
            recurring=224_50,
            bundles=[{"id": "growth-pack", "quantity": 1}],
        ),
        at("2026-04-01T12:00:00Z", *RENEWED),
        balance(0),
    )


@on_sqlite
async def test_a_module_put_on_the_next_invoice_is_swept_up_by_what_is_invoiced_before(
    story: Story,
) -> None:
    later = {"proration": "NEXT_INVOICE", "reason": "as agreed"}
    await story.tell(
        START,
        STARTER,
        at("2026-03-16T12:00:00Z"),
        change(
            charge("advanced-analytics", 200_00, MARCH),
            due=0,
            recurring=229_00,
            **add_ons(advanced_analytics=1),
            **later,
        ),
        at("2026-03-21T12:00:00Z"),
        change(
            charge("extra-calls", 15_00, MARCH),
            due=103_23 + 5_32,
            recurring=244_00,
            **add_ons(extra_calls=1),
        ),
        at("2026-04-01T12:00:00Z", *RENEWED),
    )


@on_postgresql
async def test_a_module_put_on_the_next_invoice_stands_there_beside_the_renewal(
    story: Story,
) -> None:
    await story.tell(
        START,
        STARTER,
        at("2026-03-16T12:00:00Z"),
        change(
            charge("advanced-analytics", 200_00, MARCH),
            due=0,
            recurring=229_00,
            proration="NEXT_INVOICE",
            reason="as agreed",
            **add_ons(advanced_analytics=1),
        ),
        at("2026-05-01T12:00:00Z", *RENEWED, *RENEWED),
    )


# ── what waits ───────────────────────────────────────────────────────────────


@on_sqlite
async def test_a_downgrade_waits_and_takes_along_what_does_not_fit(story: Story) -> None:
    await story.tell(
        START,
        change(
            charge("professional", 99_00, MARCH),
            charge("api-access", 250_00, MARCH),
            due=349_00,
            recurring=349_00,
            planId="professional",
            **add_ons(api_access=1),
        ),
        at("2026-03-31T23:59:59Z"),
        change(due=0, recurring=29_00, told=SCHEDULED, effective=MARCH[1], planId="starter"),
        at("2026-04-01T11:59:59Z", *NOTHING),
        holds("professional@1", "api-access@1", period=MARCH),
        at("2026-04-01T12:00:00Z", *LATER_APPLIED),
        holds("starter@1", period=APRIL),
        at("2026-05-01T12:00:00Z", *RENEWED),
    )


@on_sqlite
async def test_a_downgrade_scheduled_then_an_upgrade_leaves_only_the_upgrade(story: Story) -> None:
    new = ("2026-03-16T12:00:00Z", "2027-03-16T12:00:00Z")
    await story.tell(
        START,
        PROFESSIONAL,
        at("2026-03-10T00:00:00Z"),
        change(due=0, recurring=29_00, told=SCHEDULED, effective=MARCH[1], planId="starter"),
        at("2026-03-16T12:00:00Z"),
        change(
            credit("professional", 99_00, MARCH),
            charge("professional", 990_00, new),
            due=938_90,
            recurring=990_00,
            told=("change.requested", "change.canceled", "change.applied"),
            planId="professional",
            interval="YEAR",
        ),
        at("2026-04-01T12:00:00Z", *NOTHING),
        at("2027-03-16T12:00:00Z", *RENEWED),
        holds("professional@1", interval="YEAR", period=(new[1], "2028-03-16T12:00:00Z")),
    )


@on_postgresql
async def test_a_scheduled_change_while_the_service_is_down_over_the_renewal(story: Story) -> None:
    await story.tell(
        START,
        PROFESSIONAL,
        at("2026-03-10T00:00:00Z"),
        change(due=0, recurring=29_00, told=SCHEDULED, effective=MARCH[1], planId="starter"),
        away_until("2026-04-03T08:00:00Z", *LATER_APPLIED),
        holds("starter@1", period=APRIL),
        at("2026-05-01T12:00:00Z", *RENEWED),
    )


@on_sqlite
async def test_a_downgrade_taken_back_never_was(story: Story) -> None:
    await story.tell(
        START,
        PROFESSIONAL,
        at("2026-03-10T00:00:00Z"),
        change(due=0, recurring=29_00, told=SCHEDULED, effective=MARCH[1], planId="starter"),
        at("2026-03-31T00:00:00Z"),
        take_back("change.canceled"),
        at("2026-05-01T12:00:00Z", *RENEWED, *RENEWED),
        holds("professional@1", period=("2026-05-01T12:00:00Z", "2026-06-01T12:00:00Z")),
    )


@on_sqlite
async def test_two_things_wait_and_happen_together(story: Story) -> None:
    await story.tell(
        START,
        change(
            charge("professional", 99_00, MARCH),
            charge("extra-seats", 100_00, MARCH),
            due=199_00,
            recurring=199_00,
            planId="professional",
            **add_ons(extra_seats=10),
        ),
        at("2026-03-10T00:00:00Z"),
        change(due=0, recurring=129_00, told=SCHEDULED, effective=MARCH[1], planId="starter"),
        change(
            due=0, recurring=69_00, told=SCHEDULED, effective=MARCH[1], **add_ons(extra_seats=4)
        ),
        at("2026-04-01T12:00:00Z", "change.applied", "change.applied", *RENEWED),
        holds("starter@1", "extra-seats@1×4", period=APRIL),
        at("2026-05-01T12:00:00Z", *RENEWED),
    )


@on_postgresql
async def test_after_a_cancellation_at_the_end_nothing_ever_happens_again(story: Story) -> None:
    await story.tell(
        START,
        PROFESSIONAL,
        at("2026-03-20T00:00:00Z"),
        cancel(SCHEDULED, ends=MARCH[1]),
        at("2026-04-01T11:59:59Z", *NOTHING),
        holds("professional@1", period=MARCH),
        at("2026-04-01T12:00:00Z", "subscription.ended"),
        at("2027-04-01T12:00:00Z", *NOTHING),
    )


# ── who may choose, and what is kept ─────────────────────────────────────────


@on_sqlite
async def test_a_customer_who_asks_for_a_tier_without_proration_gets_nothing_for_free(
    story: Story,
) -> None:
    free = {"planId": "professional", "proration": "NONE"}
    await story.tell(
        START,
        STARTER,
        at("2026-03-16T12:00:00Z"),
        refused("NOT_YOURS_TO_CHOOSE", "proration", by="customer", **free),
        refused(
            "NOT_YOURS_TO_CHOOSE", "proration", by="customer", planId="enterprise", proration="NONE"
        ),
        refused("REASON_REQUIRED", "reason", **free),
        change(due=0, recurring=99_00, reason="an apology", **free),  # staff may
        change(
            credit("professional", 29_00, MARCH),  # no more than what was paid for it
            charge("starter", 29_00, MARCH),
            due=0,
            recurring=29_00,
            planId="starter",
            **NOW,
        ),
        at("2026-04-01T12:00:00Z", *RENEWED),
    )


@on_sqlite
async def test_what_staff_quoted_a_customer_may_commit(story: Story) -> None:
    await story.tell(
        START,
        STARTER,
        at("2026-03-16T12:00:00Z"),
        change(
            due=0,
            recurring=99_00,
            by="customer",
            planId="professional",
            proration="NONE",
            reason="an apology",
        ),
        at("2026-04-01T12:00:00Z", *RENEWED),
    )


@on_sqlite
async def test_a_price_rise_is_not_for_who_holds_it_until_they_give_it_up(story: Story) -> None:
    await story.tell(
        START,
        STARTER,
        publish_price("starter", "39.00", "390.00"),
        at("2026-04-01T12:00:00Z", *RENEWED),
        change(
            charge("extra-seats", 20_00, APRIL),
            due=20_00,
            recurring=49_00,
            **add_ons(extra_seats=2),
        ),
        holds("starter@1", "extra-seats@1×2", period=APRIL),
        at("2026-05-01T12:00:00Z", *RENEWED),
        change(
            credit("starter", 29_00, MAY),
            charge("starter", 39_00, MAY),
            due=10_00,
            recurring=59_00,
            toLatestVersions=True,
        ),
        holds("starter@2", "extra-seats@1×2", period=MAY),
        at("2026-06-01T12:00:00Z", *RENEWED),
    )
