"""What happens to a subscription over time and money: through the SDK, with the clock moved."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import stripe

from entitlements.kernel.clock import SettableClock
from tests.unit.sandbox.conftest import AUGUST_6, DAY, Served, World, lines_of, refused, sdk
from tests.unit.sandbox.test_proration import change, item_of, preview

MONTH = {"interval": "day", "interval_count": 30}
HOUR = 3600


def at_half(world: World, card: str = "pm_card_visa") -> stripe.Subscription:
    """10 dollars for 30 days, of which half are over."""
    world.card()
    sub = world.subscribe(world.price(1000, recurring=MONTH))
    world.card(card)
    world.advance(AUGUST_6 + 15 * DAY)
    return sub


def upgrade(world: World, sub: stripe.Subscription, **more: Any) -> stripe.Subscription:
    dear = world.price(3000, recurring=MONTH)
    given: Any = {
        "items": [{"id": item_of(sub), "price": dear}],
        "payment_behavior": "pending_if_incomplete",
        "metadata": {"change": "chg_1"},
    }
    return change(world, sub, **(given | more))


def latest(sub: stripe.Subscription) -> stripe.Invoice:
    assert isinstance(sub.latest_invoice, stripe.Invoice)
    return sub.latest_invoice


# --- pending updates


def test_a_declined_upgrade_stays_pending_and_leaves_the_items_as_they_were(world: World) -> None:
    sub = at_half(world, "pm_card_chargeCustomerFail")
    updated = upgrade(world, sub)
    assert updated["items"].data[0].price.unit_amount == 1000
    assert updated.status == "active"
    assert updated.metadata.to_dict() == {}
    pending = updated.pending_update
    assert pending is not None
    assert pending.subscription_items is not None
    assert pending.metadata is not None
    assert pending.subscription_items[0].price.unit_amount == 3000
    assert pending.metadata.to_dict() == {"change": "chg_1"}
    assert pending.expires_at == world.now + 23 * HOUR
    assert (latest(updated).status, latest(updated).amount_due) == ("open", 1000)


def test_voiding_its_invoice_drops_the_pending_update(world: World) -> None:
    sub = at_half(world, "pm_card_chargeCustomerFail")
    invoice = latest(upgrade(world, sub))
    world.v1.invoices.void_invoice(invoice.id)
    after = world.v1.subscriptions.retrieve(sub.id)
    assert (after.pending_update, after.status) == (None, "active")
    assert after["items"].data[0].price.unit_amount == 1000
    assert world.events("customer.subscription.pending_update_expired") == []


def test_paying_its_invoice_applies_the_pending_update(world: World) -> None:
    sub = at_half(world, "pm_card_chargeCustomerFail")
    invoice = latest(upgrade(world, sub))
    error = refused(lambda: world.v1.invoices.pay(invoice.id))
    assert (error.http_status, error.code) == (402, "card_declined")
    world.v1.invoices.pay(invoice.id, {"payment_method": world.card()})
    after = world.v1.subscriptions.retrieve(sub.id)
    assert (after.pending_update, after.metadata.to_dict()) == (None, {"change": "chg_1"})
    assert after["items"].data[0].price.unit_amount == 3000
    assert len(world.events("customer.subscription.pending_update_applied")) == 1
    down = latest(
        change(
            world, sub, items=[{"id": item_of(sub), "price": world.price(1000, recurring=MONTH)}]
        )
    )
    assert lines_of(down) == [-1500, 500]


def test_an_unpaid_pending_update_expires_after_23_hours(world: World) -> None:
    sub = at_half(world, "pm_card_chargeCustomerFail")
    invoice = latest(upgrade(world, sub))
    world.advance(world.now + 23 * HOUR)
    after = world.v1.subscriptions.retrieve(sub.id)
    assert (after.pending_update, after["items"].data[0].price.unit_amount) == (None, 1000)
    assert world.v1.invoices.retrieve(invoice.id).status == "void"
    assert world.events("customer.subscription.pending_update_expired") == [
        "customer.subscription.pending_update_expired"
    ]


def test_voiding_gives_back_the_credit_and_what_had_waited(world: World) -> None:
    sub = at_half(world, "pm_card_chargeCustomerFail")
    world.v1.customers.update(world.customer, {"balance": -300})
    added: Any = {"items": [{"price": world.price(200, recurring=MONTH)}]}
    change(world, sub, proration_behavior="create_prorations", **added)
    invoice = latest(upgrade(world, sub))
    assert (lines_of(invoice), invoice.amount_due) == ([100, -500, 1500], 800)
    world.v1.invoices.void_invoice(invoice.id)
    assert world.v1.customers.retrieve(world.customer).balance == -300
    assert [
        i.amount
        for i in world.v1.invoice_items.list({"customer": world.customer, "pending": True}).data
    ] == [100]


@pytest.mark.parametrize(
    "refused_with_pending",
    [
        {"cancel_at_period_end": True},
        {"default_payment_method": "pm_x"},
        {"description": "x"},
        {"off_session": True},
    ],
)
def test_pending_updates_take_few_parameters(
    world: World, refused_with_pending: dict[str, Any]
) -> None:
    sub = at_half(world)
    error = refused(lambda: upgrade(world, sub, **refused_with_pending))
    assert error.param == next(iter(refused_with_pending))
    assert error.http_status == 400
    deleting = [{"id": item_of(sub), "deleted": True}]
    assert refused(lambda: upgrade(world, sub, items=deleting)).param == "items[0][deleted]"


def test_error_if_incomplete_changes_nothing(world: World) -> None:
    sub = at_half(world, "pm_card_chargeCustomerFail")
    error = refused(lambda: upgrade(world, sub, payment_behavior="error_if_incomplete"))
    assert (error.http_status, error.json_body["error"]["decline_code"]) == (402, "generic_decline")
    assert len(world.invoices()) == 1
    assert world.v1.subscriptions.retrieve(sub.id)["items"].data[0].price.unit_amount == 1000


# --- authentication


def authenticate(url: str, intent: str, result: str) -> str:
    path = f"{url}/_sandbox/authenticate/{intent}"
    answer = httpx.post(path, json={"result": result}, trust_env=False)
    return str(answer.json()["status"])


def test_an_upgrade_that_needs_3d_secure_applies_once_authenticated(world: World, url: str) -> None:
    sub = at_half(world, "pm_card_authenticationRequired")
    updated = upgrade(
        world,
        sub,
        expand=[
            "latest_invoice.confirmation_secret",
            "latest_invoice.payments.data.payment.payment_intent",
        ],
    )
    invoice = latest(updated)
    assert invoice.confirmation_secret is not None
    assert invoice.payments is not None
    intent = invoice.payments.data[0].payment.payment_intent
    assert isinstance(intent, stripe.PaymentIntent)
    assert intent.status == "requires_action"
    assert invoice.confirmation_secret.client_secret == intent.client_secret
    assert authenticate(url, intent.id, "fail") == "requires_payment_method"
    assert world.v1.subscriptions.retrieve(sub.id).pending_update is not None
    world.v1.payment_intents.confirm(
        intent.id, {"payment_method": world.card("pm_card_authenticationRequired")}
    )
    assert authenticate(url, intent.id, "pass") == "succeeded"
    after = world.v1.subscriptions.retrieve(sub.id)
    assert after["items"].data[0].price.unit_amount == 3000
    assert len(world.events("invoice.payment_action_required")) == 2


def test_the_hosted_page_pays(world: World, url: str) -> None:
    sub = at_half(world, "pm_card_chargeCustomerFail")
    invoice = latest(upgrade(world, sub))
    assert invoice.hosted_invoice_url is not None
    with httpx.Client(trust_env=False) as browser:
        assert "open" in browser.get(invoice.hosted_invoice_url).text
        failed = browser.post(invoice.hosted_invoice_url, data={"action": "pay"})
        assert "The payment failed" in failed.text
        asked = browser.post(
            invoice.hosted_invoice_url, data={"card": "pm_card_authenticationRequired"}
        )
        assert "3-D Secure" in asked.text
        paid = browser.post(invoice.hosted_invoice_url, data={"action": "authenticate"})
        assert "Paid" in paid.text
    assert world.v1.subscriptions.retrieve(sub.id)["items"].data[0].price.unit_amount == 3000


# --- the first payment


def test_default_incomplete_waits_for_the_first_payment(world: World) -> None:
    world.card()
    price = world.price(1000)
    sub = world.subscribe(
        price, payment_behavior="default_incomplete", expand=["latest_invoice.payments"]
    )
    assert sub.status == "incomplete"
    invoice = latest(sub)
    assert invoice.payments is not None
    intent = str(invoice.payments.data[0].payment.payment_intent)
    world.v1.payment_intents.confirm(intent)
    assert world.v1.subscriptions.retrieve(sub.id).status == "active"


def test_an_unpaid_first_invoice_expires_the_subscription_after_23_hours(world: World) -> None:
    world.card("pm_card_chargeCustomerFail")
    sub = world.subscribe(world.price(1000))
    assert sub.status == "incomplete"
    world.advance(AUGUST_6 + 23 * HOUR)
    assert world.v1.subscriptions.retrieve(sub.id).status == "incomplete_expired"
    assert world.invoices()[0].status == "void"


def test_without_a_card_creating_is_refused_unless_it_may_wait(world: World) -> None:
    price = world.price(1000)
    assert refused(lambda: world.subscribe(price)).code == "resource_missing"
    assert world.subscribe(price, payment_behavior="default_incomplete").status == "incomplete"


# --- renewals


def test_renewals_keep_the_anchors_day(new_world: Callable[..., World]) -> None:
    january_31 = 1769860800  # 2026-01-31T12:00:00Z
    world = new_world(start=january_31)
    world.card()
    sub = world.subscribe(world.price(1000))
    world.advance(january_31 + 100 * DAY)
    starts = [i.lines.data[0].period.start for i in world.invoices()]
    assert [(s - january_31) // DAY for s in starts] == [0, 28, 59, 89]
    assert world.v1.subscriptions.retrieve(sub.id).billing_cycle_anchor == january_31


def test_a_failed_renewal_is_retried_and_a_new_card_makes_it_active(world: World) -> None:
    world.card("pm_card_visa_declinesAtRenewal")
    sub = world.subscribe(world.price(1000, recurring=MONTH))
    world.advance(AUGUST_6 + 30 * DAY)
    assert world.v1.subscriptions.retrieve(sub.id).status == "past_due"
    invoice = world.invoices()[-1]
    assert (invoice.status, invoice.attempt_count) == ("open", 1)
    assert invoice.next_payment_attempt == AUGUST_6 + 33 * DAY
    world.card()
    world.advance(AUGUST_6 + 33 * DAY)
    assert world.v1.subscriptions.retrieve(sub.id).status == "active"
    assert world.invoices()[-1].status == "paid"


def test_after_the_last_retry_the_subscription_is_canceled(world: World) -> None:
    world.card("pm_card_visa_declinesAtRenewal")
    sub = world.subscribe(world.price(1000, "year"))
    world.advance(AUGUST_6 + 381 * DAY)
    after = world.v1.subscriptions.retrieve(sub.id)
    assert after.status == "canceled"
    assert after.cancellation_details is not None
    assert after.cancellation_details.reason == "payment_failed"
    assert (world.invoices()[-1].status, world.invoices()[-1].attempt_count) == ("open", 4)
    assert world.events("customer.subscription.deleted") == ["customer.subscription.deleted"]


def test_the_account_may_leave_it_unpaid_instead(world: World, raw: httpx.Client) -> None:
    raw.post("/_sandbox/settings", json={"dunning_end": "unpaid"})
    try:
        world.card("pm_card_visa_declinesAtRenewal")
        sub = world.subscribe(world.price(1000, recurring=MONTH))
        world.advance(AUGUST_6 + 46 * DAY)
        assert world.v1.subscriptions.retrieve(sub.id).status == "unpaid"
    finally:
        raw.post("/_sandbox/settings", json={"dunning_end": "canceled"})


def test_cancelling_at_the_period_end_bills_what_waits_and_ends(world: World) -> None:
    sub = at_half(world)
    world.v1.subscriptions.update(sub.id, {"cancel_at_period_end": True})
    assert "No upcoming invoices" in str(refused(lambda: preview(world, sub)))
    change(
        world,
        sub,
        proration_behavior="create_prorations",
        items=[{"price": world.price(600, recurring=MONTH)}],
    )
    world.advance(AUGUST_6 + 30 * DAY)
    after = world.v1.subscriptions.retrieve(sub.id)
    assert (after.status, after.ended_at) == ("canceled", AUGUST_6 + 30 * DAY)
    assert lines_of(world.invoices()[-1]) == [300]


# --- trials


def test_a_trial_ends_in_the_first_charge(world: World) -> None:
    world.card()
    sub = world.subscribe(world.price(1000), trial_period_days=14)
    assert (sub.status, sub.trial_end) == ("trialing", AUGUST_6 + 14 * DAY)
    assert world.invoices()[0].total == 0
    world.advance(AUGUST_6 + 14 * DAY)
    after = world.v1.subscriptions.retrieve(sub.id)
    assert (after.status, after.billing_cycle_anchor) == ("active", AUGUST_6 + 14 * DAY)
    assert world.invoices()[-1].amount_paid == 1000
    assert len(world.events("customer.subscription.trial_will_end")) == 1


def test_a_trial_without_a_card_can_end_the_subscription(world: World) -> None:
    sub = world.subscribe(
        world.price(1000),
        trial_period_days=14,
        trial_settings={"end_behavior": {"missing_payment_method": "cancel"}},
    )
    world.advance(AUGUST_6 + 14 * DAY)
    assert world.v1.subscriptions.retrieve(sub.id).status == "canceled"
    assert len(world.invoices()) == 1


def test_ending_a_trial_now_charges_a_full_period_from_now(world: World) -> None:
    world.card()
    sub = world.subscribe(world.price(1000), trial_period_days=14)
    world.advance(AUGUST_6 + 5 * DAY)
    wanted: Any = {"items": [{"id": item_of(sub), "price": world.price(2000)}], "trial_end": "now"}
    shown = preview(world, sub, proration_behavior="always_invoice", **wanted)
    updated = change(world, sub, payment_behavior="pending_if_incomplete", **wanted)
    assert lines_of(shown) == lines_of(latest(updated)) == [2000]
    assert (updated.status, updated.billing_cycle_anchor) == ("active", world.now)


def test_changes_during_a_trial_cost_nothing(world: World) -> None:
    sub = world.subscribe(world.price(1000), trial_period_days=14)
    world.advance(AUGUST_6 + 5 * DAY)
    change(world, sub, items=[{"price": world.price(700)}])
    assert len(world.invoices()) == 1
    assert lines_of(preview(world, sub)) == [1000, 700]


# --- schedules


def test_a_schedule_changes_the_plan_at_the_renewal_without_proration(world: World) -> None:
    sub = at_half(world)
    cheap = world.price(400, recurring=MONTH)
    held = sub["items"].data[0].price.id
    schedule = world.v1.subscription_schedules.create({"from_subscription": sub.id})
    first: Any = {
        "items": [{"price": held, "quantity": 1}],
        "start_date": schedule.phases[0].start_date,
        "end_date": schedule.phases[0].end_date,
    }
    second: Any = {
        "items": [{"price": cheap}],
        "proration_behavior": "none",
        "duration": {"interval": "day", "interval_count": 30},
        "metadata": {"plan": "cheap"},
    }
    world.v1.subscription_schedules.update(
        schedule.id, {"phases": [first, second], "end_behavior": "release"}
    )
    assert "Release the schedule" in str(refused(lambda: upgrade(world, sub)))
    assert lines_of(preview(world, sub)) == [400]
    world.advance(AUGUST_6 + 30 * DAY)
    assert lines_of(world.invoices()[-1]) == [400]
    after = world.v1.subscriptions.retrieve(sub.id)
    assert (after["items"].data[0].price.id, after.metadata.to_dict()) == (cheap, {"plan": "cheap"})
    world.advance(AUGUST_6 + 60 * DAY)
    assert world.v1.subscription_schedules.retrieve(schedule.id).status == "released"
    assert world.v1.subscriptions.retrieve(sub.id).schedule is None
    assert lines_of(world.invoices()[-1]) == [400]


def test_a_schedule_can_begin_a_year_at_the_renewal(world: World) -> None:
    sub = at_half(world)
    held, year = sub["items"].data[0].price.id, world.price(9000, "year")
    schedule = world.v1.subscription_schedules.create({"from_subscription": sub.id})
    first: Any = {
        "items": [{"price": held}],
        "start_date": schedule.phases[0].start_date,
        "end_date": schedule.phases[0].end_date,
    }
    second: Any = {
        "items": [{"price": year}],
        "proration_behavior": "none",
        "billing_cycle_anchor": "phase_start",
    }
    world.v1.subscription_schedules.update(schedule.id, {"phases": [first, second]})
    renewal = AUGUST_6 + 30 * DAY
    world.advance(renewal)
    after = world.v1.subscriptions.retrieve(sub.id)
    assert lines_of(world.invoices()[-1]) == [9000]
    assert after.billing_cycle_anchor == renewal
    assert after["items"].data[0].current_period_end == renewal + 365 * DAY


def test_a_released_schedule_changes_nothing_any_more(world: World) -> None:
    sub = at_half(world)
    schedule = world.v1.subscription_schedules.create({"from_subscription": sub.id})
    released = world.v1.subscription_schedules.release(schedule.id)
    assert (released.status, released.released_subscription) == ("released", sub.id)
    assert latest(upgrade(world, sub)).status == "paid"


# --- usage


def test_usage_is_billed_in_arrears_once_per_identifier(world: World) -> None:
    world.card()
    name = f"calls_{world.customer}"
    meter = world.v1.billing.meters.create(
        {
            "display_name": "Calls",
            "event_name": name,
            "default_aggregation": {"formula": "sum"},
        }
    )
    metered = world.price(
        None,
        unit_amount_decimal="0.5",
        recurring=MONTH | {"usage_type": "metered", "meter": meter.id},
    )
    world.subscribe(world.price(1000, recurring=MONTH), metered)
    assert lines_of(world.invoices()[0]) == [1000]
    world.advance(AUGUST_6 + 10 * DAY)
    for identifier, value in (("a", "300"), ("b", "31"), ("a", "300")):
        event: Any = {
            "event_name": name,
            "identifier": world.customer + identifier,
            "payload": {"stripe_customer_id": world.customer, "value": value},
        }
        world.v1.billing.meter_events.create(event)
    world.advance(AUGUST_6 + 30 * DAY)
    assert sorted(lines_of(world.invoices()[-1])) == [166, 1000]
    world.advance(AUGUST_6 + 60 * DAY)
    assert sorted(lines_of(world.invoices()[-1])) == [0, 1000]


# --- without a test clock


def test_without_a_test_clock_things_happen_by_the_machines_time() -> None:
    """Also what was due while nobody looked: as of the instant at which it was due."""
    machine = SettableClock(datetime.fromtimestamp(AUGUST_6, UTC))
    served = Served(wall_clock=machine)
    try:
        v1 = sdk(served.url).v1
        customer = v1.customers.create(
            {
                "payment_method": "pm_card_visa",
                "invoice_settings": {"default_payment_method": "pm_card_visa"},
            }
        ).id
        product = v1.products.create({"name": "Pro"}).id
        given: Any = {"product": product, "currency": "usd", "unit_amount": 1000}
        price = v1.prices.create(given | {"recurring": MONTH}).id
        sub = v1.subscriptions.create({"customer": customer, "items": [{"price": price}]})
        machine.set(machine.now() + timedelta(days=70))
        after = v1.subscriptions.retrieve(sub.id)
        assert after["items"].data[0].current_period_end == AUGUST_6 + 90 * DAY
        made = [invoice.created for invoice in v1.invoices.list({"customer": customer}).data]
        assert made == [AUGUST_6 + 60 * DAY, AUGUST_6 + 30 * DAY, AUGUST_6]
    finally:
        served.stop()
