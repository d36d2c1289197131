"""What we believe of Stripe, tried against Stripe: the same scenarios against the sandbox prove
that they can be run.

With `STRIPE_TEST_KEY=sk_test_…` (a full key of a test-mode account) they go to Stripe itself, on
test clocks of their own that are deleted at the end. Without it those are skipped.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
import stripe

from entitlements.billing import provider_clock
from entitlements.billing.sdk import id_of
from entitlements.kernel.period import Period
from entitlements.server.demo import listen, serving_sandbox
from entitlements.services import Services
from entitlements.settings import Settings, load_settings
from entitlements.subscriptions.orders import DIFFERENCES
from tests.api import Api
from tests.conftest import ADMIN_KEY, on_sqlite, publish
from tests.provider_traffic import SERVICE_KEY, Traffic
from tests.stories import instant

STRIPE = "https://api.stripe.com"
TEST_KEY = os.environ.get("STRIPE_TEST_KEY", "")
POLL_SECONDS = 1.0
WITH_A_KEY = pytest.mark.skipif(
    not TEST_KEY, reason="STRIPE_TEST_KEY is not set: nothing is tried against Stripe itself"
)

pytestmark = on_sqlite


def _plan(id: str, month: str, year: str) -> dict[str, Any]:
    return {"id": id, "name": id, "entitlements": {}, "charges": [_flat(month, year)]}


def _add_on(id: str, month: str, year: str) -> dict[str, Any]:
    granted = {"kind": "module", "entitlements": {"smoke-feature": True}}
    return {"id": id, "name": id, "charges": [_flat(month, year)], **granted}


def _flat(month: str, year: str) -> dict[str, Any]:
    prices = {"usd": {"month": month, "year": year}}
    return {"id": "base", "name": "Base", "model": "flat", "prices": prices}


CATALOG: dict[str, Any] = {
    "currencies": ["usd"],
    "features": [
        {"id": "smoke-feature", "name": "Smoke", "kind": "boolean"},
        {"id": "smoke-calls", "name": "Calls", "kind": "metered", "unit": "call",
         "aggregation": "sum", "reset": "billing_period"},
    ],
    "products": [
        {
            "id": "smoke",
            "name": "Smoke test",
            "policy": {"downgrade": {"timing": "now", "proration": "invoice_now"}},
            "plans": [
                _plan("smoke-starter", "29.00", "290.00"),
                _plan("smoke-professional", "99.00", "990.00"),
                _plan("smoke-metered", "149.00", "1490.00")
                | {
                    "entitlements": {"smoke-calls": {"limit": 100, "overage": True}},
                    "charges": [
                        _flat("149.00", "1490.00"),
                        {"id": "calls", "name": "Calls", "model": "per_unit", "included": 100,
                         "quantity": "smoke-calls", "prices": {"usd": {"month": "0.10"}}},
                    ],
                },
            ],
            "add_ons": [
                _add_on("smoke-analytics", "49.00", "490.00"),
                _add_on("smoke-automation", "10.50", "105.00"),
            ],
        }
    ],
}  # fmt: skip
"""Under ids that are the same each time: an account keeps its prices, and they are found again."""


@pytest.fixture(params=["sandbox", pytest.param("stripe", marks=WITH_A_KEY)])
async def settings(
    request: pytest.FixtureRequest,
    database_url: str,
    traffic: Traffic,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Settings]:
    def at(url: str, key: str) -> Settings:
        return load_settings(
            database_url=database_url,
            stripe_api_key=key,
            stripe_api_base=url,
            admin_key=ADMIN_KEY,
            sandbox=True,
        )

    if request.param == "stripe":
        assert TEST_KEY.startswith("sk_test_"), "only a test-mode key is taken"
        monkeypatch.setattr(provider_clock, "CLOCK_POLL_SECONDS", POLL_SECONDS)
        yield at(STRIPE, TEST_KEY)
        return
    async with serving_sandbox(None, listen("127.0.0.1", 0), watch=traffic.watch) as url:
        yield at(url, SERVICE_KEY)
    traffic.check()


@pytest.fixture
async def stripe_itself(settings: Settings, services: Services) -> AsyncIterator[Any]:
    """The provider as the SDK shows it. At the end the test clock goes with all that it holds."""
    http = stripe.HTTPXClient(timeout=30, allow_sync_methods=False)
    client = stripe.StripeClient(
        TEST_KEY if settings.stripe_api_base == STRIPE else "sk_test_by_hand",
        base_addresses={"api": settings.stripe_api_base},
        http_client=http,
    )
    await publish(services, CATALOG)
    try:
        yield client.v1
    finally:
        clock_id = await services.sandbox_clock.test_clock_id()
        await client.v1.test_helpers.test_clocks.delete_async(clock_id)
        await http.close_async()  # type: ignore[no-untyped-call]


@pytest.fixture(autouse=True)
def engine_agrees() -> Any:
    """Whatever is bought: our engine's lines are Stripe's."""
    before = DIFFERENCES._value.get()
    yield
    assert DIFFERENCES._value.get() == before


async def _on_starter(api: Api) -> None:
    assert (await api.create_customer("acme"))["__typename"] == "CustomerPayload"
    started = await api.change("start", customerId="acme", planId="smoke-starter")
    assert started["__typename"] == "ChangeCommitted", started


async def _provider_subscription(stripe_itself: Any, services: Services) -> Any:
    clock_id = await services.sandbox_clock.test_clock_id()
    [customer] = (await stripe_itself.customers.list_async({"test_clock": clock_id})).data
    found = await stripe_itself.subscriptions.list_async({"customer": customer.id, "limit": 1})
    return found.data[0]


async def test_a_change_in_mid_month_is_charged_as_our_engine_says(
    api: Api, services: Services, stripe_itself: Any
) -> None:
    await _on_starter(api)
    await api.advance("2026-03-16T15:30:07Z")

    quote = await api.preview(
        customerId="acme", planId="smoke-professional", addOns=[{"id": "smoke-automation"}]
    )
    # 1,369,793 of 2,678,400 seconds are left, of $29, $99 and $10.50.
    amounts = sorted(int(line["amount"]["amountMinor"]) for line in quote["lines"])
    assert amounts == [-1483, 537, 5063]
    committed = await api.commit(quote["token"], "upgrade")

    assert committed["change"]["total"]["amountMinor"] == "4117"
    newest = (await api.customer("acme"))["invoices"]["nodes"][0]
    assert (newest["status"], newest["amountPaid"]["amountMinor"]) == ("paid", "4117")


async def test_a_change_of_the_interval_begins_a_new_period(
    api: Api, services: Services, stripe_itself: Any
) -> None:
    await _on_starter(api)
    await api.advance("2026-03-11T12:00:00Z")
    changed = await api.change("year", customerId="acme", interval="YEAR")
    assert changed["__typename"] == "ChangeCommitted", changed
    held = (await api.customer("acme"))["subscriptions"][0]
    assert held["currentPeriod"] == {
        "start": "2026-03-11T12:00:00Z",
        "end": "2027-03-11T12:00:00Z",
    }
    assert changed["change"]["total"]["amountMinor"] == str(29000 - 1965)  # 21 of 31 days of $29


async def test_items_that_leave_are_emptied_by_a_pending_update_and_deleted_once_it_is_paid(
    api: Api, services: Services, stripe_itself: Any
) -> None:
    await _on_starter(api)
    await api.purchase(customerId="acme", addOnId="smoke-automation", idempotencyKey="one")
    await api.advance("2026-03-11T12:00:00Z")
    done = await api.change(
        "swap",
        customerId="acme",
        planId="smoke-professional",
        addOns=[{"id": "smoke-automation", "quantity": 0}],
        timing="NOW",
        reason="the smoke test",
    )
    assert done["__typename"] == "ChangeCommitted", done
    there = await _provider_subscription(stripe_itself, services)
    [item] = there["items"].data
    assert (item.price.lookup_key, item.quantity) == ("smoke-professional@1/base/usd/month", 1)
    await api.advance("2026-04-01T14:00:00Z")  # Stripe finalizes a renewal an hour later
    renewal = (await api.customer("acme"))["invoices"]["nodes"][0]
    assert (renewal["status"], renewal["total"]["amountMinor"]) == ("paid", "9900")


async def test_a_card_that_asks_for_3d_secure_leaves_all_as_it_was_until_it_is_given_up(
    api: Api, services: Services, stripe_itself: Any
) -> None:
    await _on_starter(api)
    there = await _provider_subscription(stripe_itself, services)
    card = await stripe_itself.payment_methods.attach_async(
        "pm_card_authenticationRequired", {"customer": there.customer}
    )
    await stripe_itself.customers.update_async(
        there.customer, {"invoice_settings": {"default_payment_method": card.id}}
    )

    asked = await api.purchase(
        customerId="acme", addOnId="smoke-analytics", idempotencyKey="with 3-D Secure"
    )
    assert asked["__typename"] == "PaymentActionRequired", asked
    assert asked["clientSecret"]
    waiting = await _provider_subscription(stripe_itself, services)
    assert waiting.pending_update is not None
    assert len(waiting["items"].data) == 1

    given_up = await api.ask(
        """mutation ($id: ID!) { cancelScheduledChange(id: $id) {
             __typename ... on UserError { code message } } }""",
        id=asked["change"]["id"],
    )
    assert "code" not in given_up["cancelScheduledChange"], given_up
    after = await _provider_subscription(stripe_itself, services)
    assert after.pending_update is None
    assert len(after["items"].data) == 1
    customer = await api.customer("acme")
    assert [len(held["items"]) for held in customer["subscriptions"]] == [1]
    assert customer["invoices"]["nodes"][0]["status"] == "void"


async def test_a_cancellation_at_the_periods_end_ends_it_there(
    api: Api, services: Services, stripe_itself: Any
) -> None:
    await _on_starter(api)
    cancelled = await api.ask(
        """mutation { cancelSubscription(input: {customerId: "acme", productId: "smoke",
             idempotencyKey: "end"}) { __typename ... on UserError { code message } } }"""
    )
    assert "code" not in cancelled["cancelSubscription"], cancelled
    assert (await _provider_subscription(stripe_itself, services)).cancel_at_period_end
    await api.advance("2026-04-01T14:00:00Z")
    customer = await api.customer("acme")
    assert [held["status"] for held in customer["subscriptions"]] in ([], ["CANCELED"])
    assert len(customer["invoices"]["nodes"]) == 1


async def test_a_change_at_the_periods_end_is_a_schedule_and_happens_at_the_renewal(
    api: Api, services: Services, stripe_itself: Any
) -> None:
    await _on_starter(api)
    await api.change("up", customerId="acme", planId="smoke-professional")
    scheduled = await api.change(
        "down",
        customerId="acme",
        planId="smoke-starter",
        timing="PERIOD_END",
        reason="the smoke test",
    )
    assert scheduled["change"]["status"] == "SCHEDULED", scheduled
    assert (await _provider_subscription(stripe_itself, services)).schedule
    await api.advance("2026-04-01T14:00:00Z")
    customer = await api.customer("acme")
    assert customer["subscriptions"][0]["plan"]["versionId"] == "smoke-starter@1"
    renewal = customer["invoices"]["nodes"][0]
    assert (renewal["status"], renewal["total"]["amountMinor"]) == ("paid", "2900")


async def test_what_is_metered_joins_within_a_month_and_is_billed_with_the_renewal(
    api: Api, services: Services, stripe_itself: Any
) -> None:
    await _on_starter(api)
    await api.advance("2026-03-16T12:00:00Z")
    joined = await api.change("up", customerId="acme", planId="smoke-metered")
    assert joined["__typename"] == "ChangeCommitted", joined
    event = {"id": "e1", "customerId": "acme", "featureId": "smoke-calls", "quantity": 150}
    assert (await api.record(event))["accepted"] == 1
    await api.advance("2026-03-31T12:00:00Z")
    there = await _provider_subscription(stripe_itself, services)
    month = Period(instant("2026-03-01T00:00:00Z"), instant("2026-04-01T00:00:00Z"))
    for _ in range(60):  # Stripe adds events up when it comes to it
        counted = await services.payments.meters.counted(
            "smoke-metered", "calls", id_of(there.customer) or "", month
        )
        if counted == 50:
            break
        await asyncio.sleep(POLL_SECONDS)
    assert counted == 50
    await api.advance("2026-04-01T14:00:00Z")
    renewal = (await api.customer("acme"))["invoices"]["nodes"][0]
    assert renewal["total"]["amountMinor"] == str(14900 + 500)
