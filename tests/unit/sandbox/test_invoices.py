"""Invoices beside the renewals: items that wait, one-off invoices, odd first and last periods."""

from functools import partial
from typing import Any

import stripe

from tests.unit.sandbox.conftest import AUGUST_6, DAY, World, lines_of, refused
from tests.unit.sandbox.test_lifecycle import MONTH


def test_a_waiting_item_is_taken_by_the_next_invoice(world: World) -> None:
    world.card()
    world.subscribe(world.price(1000, recurring=MONTH))
    charge: Any = {"customer": world.customer, "currency": "usd", "description": "Setup"}
    kept = world.v1.invoice_items.create(charge | {"amount": 250})
    spare = world.v1.invoice_items.create(charge | {"amount": 99})
    world.v1.invoice_items.delete(spare.id)
    world.advance(AUGUST_6 + 30 * DAY)
    renewal = world.invoices()[-1]
    assert lines_of(renewal) == [250, 1000]
    assert world.v1.invoice_items.retrieve(kept.id).invoice == renewal.id
    assert refused(lambda: world.v1.invoice_items.delete(kept.id)).http_status == 400


def test_a_one_off_invoice_is_finalized_and_paid(world: World) -> None:
    world.card()
    item: Any = {"customer": world.customer, "currency": "usd", "amount": 700}
    world.v1.invoice_items.create(item)
    draft = world.v1.invoices.create(
        {"customer": world.customer, "pending_invoice_items_behavior": "include"}
    )
    assert (draft.status, draft.number, draft.hosted_invoice_url) == ("draft", None, None)
    assert refused(lambda: world.v1.invoices.void_invoice(draft.id)).http_status == 400
    opened = world.v1.invoices.finalize_invoice(draft.id)
    assert (opened.status, opened.amount_due) == ("open", 700)
    paid = world.v1.invoices.pay(draft.id)
    assert (paid.status, paid.amount_paid, paid.attempt_count) == ("paid", 700, 1)
    assert refused(lambda: world.v1.invoices.pay(draft.id)).http_status == 400


def test_a_later_anchor_makes_a_short_first_period(world: World) -> None:
    world.card()
    anchor = AUGUST_6 + 10 * DAY
    sub = world.subscribe(world.price(3000, recurring=MONTH), billing_cycle_anchor=anchor)
    assert lines_of(world.invoices()[0]) == [1000]
    assert sub["items"].data[0].current_period_end == anchor
    world.advance(AUGUST_6 + 5 * DAY)
    params: Any = {
        "items": [{"id": sub["items"].data[0].id, "quantity": 2}],
        "proration_behavior": "always_invoice",
        "expand": ["latest_invoice"],
    }
    changed = world.v1.subscriptions.update(sub.id, params).latest_invoice
    assert isinstance(changed, stripe.Invoice)
    assert lines_of(changed) == [-500, 1000]
    world.advance(anchor)
    assert lines_of(world.invoices()[-1]) == [6000]


def test_an_end_within_the_period_credits_the_rest(world: World) -> None:
    world.card()
    sub = world.subscribe(world.price(3000, recurring=MONTH))
    world.v1.subscriptions.update(sub.id, {"cancel_at": AUGUST_6 + 20 * DAY})
    world.advance(AUGUST_6 + 20 * DAY)
    assert world.v1.subscriptions.retrieve(sub.id).status == "canceled"
    assert lines_of(world.invoices()[-1]) == [-1000]


def test_what_is_paid_elsewhere_is_settled(world: World) -> None:
    world.card("pm_card_visa_declinesAtRenewal")
    sub = world.subscribe(world.price(1000, recurring=MONTH))
    world.advance(AUGUST_6 + 30 * DAY)
    invoice = world.v1.invoices.pay(world.invoices()[-1].id, {"paid_out_of_band": True})
    assert (invoice.status, invoice.amount_paid_off_stripe) == ("paid", 1000)
    assert world.v1.subscriptions.retrieve(sub.id).status == "active"


def test_invoices_are_found_by_status_subscription_and_time(world: World) -> None:
    world.card()
    price = world.price(1000, recurring=MONTH)
    first, second = world.subscribe(price), world.subscribe(price)
    world.card("pm_card_chargeCustomerFail")
    world.advance(AUGUST_6 + 30 * DAY)
    assert {i.status for i in world.invoices(status="open")} == {"open"}
    assert len(world.invoices(status="open")) == 2
    assert [i.status for i in world.invoices(subscription=first.id)] == ["paid", "open"]
    late: Any = {"gt": AUGUST_6}
    assert len(world.invoices(created=late)) == 2
    assert second.latest_invoice in {i.id for i in world.invoices(created=AUGUST_6)}


def test_a_deleted_clock_takes_its_customers_along(world: World) -> None:
    world.card()
    sub = world.subscribe(world.price(1000))
    world.v1.test_helpers.test_clocks.delete(world.clock)
    assert world.v1.customers.retrieve(world.customer).deleted is True
    assert world.v1.subscriptions.retrieve(sub.id).status == "canceled"
    listed = world.v1.test_helpers.test_clocks.list().data
    assert world.clock not in {clock.id for clock in listed}


def test_a_clock_moves_forward_only_and_ten_years_at_most(world: World) -> None:
    advance = world.v1.test_helpers.test_clocks.advance
    for to in (AUGUST_6, AUGUST_6 - 1, AUGUST_6 + 4000 * DAY):
        moved: Any = {"frozen_time": to}
        assert refused(partial(advance, world.clock, moved)).param == "frozen_time"
