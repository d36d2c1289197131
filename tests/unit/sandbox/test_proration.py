"""Stripe's own worked examples, through the SDK and over HTTP."""

from typing import Any

import pytest
import stripe

from tests.unit.sandbox.conftest import AUGUST_6, DAY, World, lines_of, refused

SEPTEMBER_1 = 1598982148
SEPTEMBER_6 = 1599427688


def item_of(sub: stripe.Subscription) -> str:
    return str(sub["items"].data[0].id)


def change(world: World, sub: stripe.Subscription, **params: Any) -> stripe.Subscription:
    given: Any = {"proration_behavior": "always_invoice", "expand": ["latest_invoice"]} | params
    return world.v1.subscriptions.update(sub.id, given)


def preview(world: World, sub: stripe.Subscription, **details: Any) -> stripe.Invoice:
    given: Any = {"subscription": sub.id, "subscription_details": details}
    return world.v1.invoices.create_preview(given)


def test_stripes_own_example_credits_166_and_charges_541(world: World) -> None:
    world.card()
    sub = world.subscribe(world.price(1000))
    assert sub["items"].data[0].current_period_end == SEPTEMBER_6
    world.advance(SEPTEMBER_1)
    wanted: Any = {
        "items": [{"id": item_of(sub), "price": world.price(3252)}],
        "proration_date": SEPTEMBER_1,
    }
    shown = preview(world, sub, proration_behavior="always_invoice", **wanted)
    made = change(world, sub, **wanted).latest_invoice
    assert isinstance(made, stripe.Invoice)
    assert lines_of(shown) == lines_of(made) == [-166, 541]
    assert (shown.amount_due, made.amount_paid, made.status) == (375, 375, "paid")


def test_halfway_10_to_20_credits_5_and_charges_10(world: World) -> None:
    world.card()
    day = {"interval": "day", "interval_count": 30}
    sub = world.subscribe(world.price(1000, recurring=day))
    world.advance(AUGUST_6 + 15 * DAY)
    updated = change(
        world, sub, items=[{"id": item_of(sub), "price": world.price(2000, recurring=day)}]
    )
    assert isinstance(updated.latest_invoice, stripe.Invoice)
    assert lines_of(updated.latest_invoice) == [-500, 1000]


def test_second_change_in_a_month_credits_the_full_plan_held(world: World) -> None:
    world.card()
    day = {"interval": "day", "interval_count": 30}
    prices = [world.price(amount, recurring=day) for amount in (1000, 2000, 4000)]
    sub = world.subscribe(prices[0])
    world.advance(AUGUST_6 + 15 * DAY)
    first = change(world, sub, items=[{"id": item_of(sub), "price": prices[1]}])
    world.advance(AUGUST_6 + 24 * DAY)
    second = change(world, sub, items=[{"id": item_of(sub), "price": prices[2]}]).latest_invoice
    assert isinstance(second, stripe.Invoice)
    assert lines_of(second) == [-400, 800]
    details = second.lines.data[0].parent.subscription_item_details  # type: ignore[union-attr]
    assert isinstance(first.latest_invoice, stripe.Invoice)
    assert details.proration_details.credited_items.invoice == first.latest_invoice.id  # type: ignore[union-attr]
    assert details.proration_details.credited_items.invoice_line_items == [  # type: ignore[union-attr]
        first.latest_invoice.lines.data[1].id
    ]


def test_change_and_reverse_at_the_same_instant_nets_zero(world: World) -> None:
    world.card()
    cheap, dear = world.price(1000), world.price(3252)
    sub = world.subscribe(cheap)
    world.advance(SEPTEMBER_1)
    up = change(world, sub, items=[{"id": item_of(sub), "price": dear}]).latest_invoice
    down = change(world, sub, items=[{"id": item_of(sub), "price": cheap}]).latest_invoice
    assert isinstance(up, stripe.Invoice)
    assert isinstance(down, stripe.Invoice)
    assert up.total + down.total == 0
    assert world.v1.customers.retrieve(world.customer).balance == -375


def test_what_was_never_charged_is_never_credited(world: World) -> None:
    """A rise without proration, then a removal: the credit is what was paid, not the new price."""
    world.card()
    day = {"interval": "day", "interval_count": 30}
    base, extra = world.price(500, recurring=day), world.price(1000, recurring=day)
    sub = world.subscribe(base, extra)
    item = sub["items"].data[1].id
    change(world, sub, items=[{"id": item, "quantity": 5}], proration_behavior="none")
    world.advance(AUGUST_6 + 15 * DAY)
    made = change(world, sub, items=[{"id": item, "deleted": True}]).latest_invoice
    assert isinstance(made, stripe.Invoice)
    assert lines_of(made) == [-500]


def test_adding_an_item_charges_only_its_rest_of_the_period(world: World) -> None:
    world.card()
    day = {"interval": "day", "interval_count": 30}
    sub = world.subscribe(world.price(1000, recurring=day))
    world.advance(AUGUST_6 + 10 * DAY)
    made = change(world, sub, items=[{"price": world.price(3000, recurring=day)}])
    assert isinstance(made.latest_invoice, stripe.Invoice)
    assert lines_of(made.latest_invoice) == [2000]
    assert {i.current_period_end for i in made["items"].data} == {AUGUST_6 + 30 * DAY}


def test_create_prorations_waits_for_the_renewal_and_the_preview_shows_it(world: World) -> None:
    world.card()
    day = {"interval": "day", "interval_count": 30}
    dear = world.price(2000, recurring=day)
    sub = world.subscribe(world.price(1000, recurring=day))
    world.advance(AUGUST_6 + 15 * DAY)
    wanted: Any = {"items": [{"id": item_of(sub), "price": dear}], "proration_date": world.now}
    shown = preview(world, sub, **wanted)
    change(world, sub, proration_behavior="create_prorations", **wanted)
    assert len(world.invoices()) == 1
    again = preview(world, sub)
    world.advance(AUGUST_6 + 30 * DAY)
    made = world.invoices()[-1]
    assert lines_of(shown) == lines_of(again) == lines_of(made) == [-500, 1000, 2000]
    assert made.billing_reason == "subscription_cycle"


def test_a_credit_names_the_charge_it_takes_back_also_while_both_wait(world: World) -> None:
    world.card()
    sub = world.subscribe(world.price(1000))
    world.advance(SEPTEMBER_1)
    for amount in (3252, 5000):
        items = [{"id": item_of(sub), "price": world.price(amount)}]
        change(world, sub, proration_behavior="create_prorations", items=items)
    world.advance(SEPTEMBER_6)
    first, renewal = world.invoices()
    lines = renewal.lines.data
    assert [line.amount for line in lines] == [-166, 541, -541, 832, 5000]
    credited = [
        line.parent.subscription_item_details.proration_details.credited_items  # type: ignore[union-attr]
        for line in lines
    ]
    assert [c and c.invoice for c in credited] == [first.id, None, renewal.id, None, None]
    assert credited[2].invoice_line_items == [lines[1].id]  # type: ignore[union-attr]


def test_a_downgrade_becomes_credit_that_the_next_invoice_takes(world: World) -> None:
    world.card()
    day = {"interval": "day", "interval_count": 30}
    cheap = world.price(1000, recurring=day)
    sub = world.subscribe(world.price(3000, recurring=day))
    world.advance(AUGUST_6 + 15 * DAY)
    made = change(world, sub, items=[{"id": item_of(sub), "price": cheap}]).latest_invoice
    assert isinstance(made, stripe.Invoice)
    assert (made.total, made.amount_due, made.ending_balance, made.status) == (
        -1000,
        0,
        -1000,
        "paid",
    )
    world.advance(AUGUST_6 + 30 * DAY)
    renewal = world.invoices()[-1]
    assert (renewal.total, renewal.starting_balance, renewal.amount_due) == (1000, -1000, 0)


def test_a_total_below_the_smallest_charge_is_carried_over(world: World) -> None:
    world.card()
    sub = world.subscribe(world.price(1000))
    world.advance(SEPTEMBER_1)
    made = change(world, sub, items=[{"price": world.price(100)}]).latest_invoice
    assert isinstance(made, stripe.Invoice)
    assert (made.total, made.amount_due, made.ending_balance) == (17, 0, 17)
    world.advance(SEPTEMBER_6)
    assert world.invoices()[-1].amount_due == 1117


def test_month_to_year_with_a_new_anchor_credits_the_rest_and_starts_a_year(world: World) -> None:
    world.card()
    year = world.price(10_000, "year")
    sub = world.subscribe(world.price(1000))
    world.advance(SEPTEMBER_1)
    wanted: Any = {
        "items": [{"id": item_of(sub), "price": year}],
        "billing_cycle_anchor": {"type": "now"},
    }
    shown = preview(world, sub, proration_behavior="always_invoice", **wanted)
    updated = change(world, sub, **wanted)
    assert isinstance(updated.latest_invoice, stripe.Invoice)
    assert lines_of(shown) == lines_of(updated.latest_invoice) == [-166, 10_000]
    assert updated.billing_cycle_anchor == SEPTEMBER_1
    assert updated["items"].data[0].current_period_end == SEPTEMBER_1 + 365 * DAY
    for call in (
        lambda: change(world, sub, proration_date=SEPTEMBER_1, **wanted),
        lambda: preview(world, sub, proration_date=SEPTEMBER_1, **wanted),
    ):
        assert "proration_date" in str(refused(call).param)


def test_without_a_new_anchor_the_anchor_stays_and_periods_mix(world: World) -> None:
    world.card()
    sub = world.subscribe(world.price(1000))
    world.advance(SEPTEMBER_1)
    updated = change(world, sub, items=[{"price": world.price(12_000, "year")}])
    ends = [item.current_period_end for item in updated["items"].data]
    assert updated.billing_cycle_anchor == AUGUST_6
    assert ends == [SEPTEMBER_6, AUGUST_6 + 365 * DAY]
    error = refused(lambda: change(world, sub, items=[{"price": world.price(100, "week")}]))
    assert "multiples" in str(error)


@pytest.mark.parametrize("behaviour", ["always_invoice", "create_prorations"])
def test_a_preview_changes_nothing(world: World, behaviour: str) -> None:
    world.card()
    sub = world.subscribe(world.price(1000))
    world.advance(SEPTEMBER_1)
    items = [{"id": item_of(sub), "price": world.price(5000)}]
    newest = world.v1.events.list({"limit": 1}).data[0].id
    preview(world, sub, items=items, proration_behavior=behaviour)
    assert world.v1.events.list({"limit": 1}).data[0].id == newest
    assert len(world.invoices()) == 1
    assert item_of(world.v1.subscriptions.retrieve(sub.id)) == item_of(sub)


def test_a_preview_of_a_new_subscription_is_what_creating_it_charges(world: World) -> None:
    world.card()
    a, b = world.price(1000), world.price(250)
    items: Any = [{"price": a}, {"price": b, "quantity": 3}]
    shown = world.v1.invoices.create_preview(
        {"customer": world.customer, "subscription_details": {"items": items}}
    )
    world.v1.subscriptions.create({"customer": world.customer, "items": items})
    assert lines_of(shown) == lines_of(world.invoices()[0]) == [1000, 750]


def test_cancelling_now_credits_the_rest_only_when_asked(world: World) -> None:
    world.card()
    day = {"interval": "day", "interval_count": 30}
    price = world.price(3000, recurring=day)
    first, second = world.subscribe(price), world.subscribe(price)
    world.advance(AUGUST_6 + 10 * DAY)
    world.v1.subscriptions.cancel(first.id)
    assert world.v1.customers.retrieve(world.customer).balance == 0
    shown = preview(world, second, cancel_now=True)
    ended = world.v1.subscriptions.cancel(second.id, {"prorate": True, "invoice_now": True})
    assert ended.status == "canceled"
    assert lines_of(shown) == lines_of(world.invoices()[-1]) == [-2000]
    assert world.v1.customers.retrieve(world.customer).balance == -2000
