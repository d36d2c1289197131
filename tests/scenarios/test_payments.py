"""Payments that need the customer: 3-D Secure, a first card, another card for an open invoice."""

from typing import Any

import httpx
import pytest

from entitlements.billing import transport
from entitlements.services import Services
from tests.api import Api
from tests.conftest import publish
from tests.events import deliver
from tests.faults.test_provider_faults import fault


async def press(url: str, **form: str) -> httpx.Response:
    """What a customer does on a page of the provider."""
    async with httpx.AsyncClient() as client:
        return await client.post(url, data=form)


async def _asked_to_authenticate(api: Api) -> Any:
    await api.create_customer("acme", "pm_card_authenticationRequired")
    return await api.change("start", customerId="acme", planId="starter")


async def test_3d_secure_passed_grants_what_was_bought(
    api: Api, services: Services, sandbox_url: str, example: Any
) -> None:
    asked = await _asked_to_authenticate(api)
    assert asked["__typename"] == "PaymentActionRequired", asked
    assert asked["clientSecret"]
    assert not (await api.access("acme", "seats"))["allowed"]

    await press(asked["hostedUrl"], action="authenticate")
    await deliver(api, services, sandbox_url)

    assert (await api.access("acme", "seats"))["allowed"]
    [change] = (await api.customer("acme"))["changes"]["nodes"]
    assert (change["id"], change["status"]) == (asked["change"]["id"], "APPLIED")


async def test_3d_secure_failed_leaves_nothing(
    api: Api, services: Services, sandbox_url: str, example: Any
) -> None:
    asked = await _asked_to_authenticate(api)
    await press(asked["hostedUrl"], action="refuse")
    await deliver(api, services, sandbox_url)
    customer = await api.customer("acme")
    assert customer["subscriptions"] == []
    assert customer["changes"]["nodes"][0]["status"] == "FAILED"
    assert [i["status"] for i in customer["invoices"]["nodes"]] == ["void"]


async def test_while_a_payment_waits_another_change_is_refused_until_it_is_abandoned(
    api: Api, example: Any
) -> None:
    asked = await _asked_to_authenticate(api)
    quote = await api.preview(customerId="acme", planId="professional")
    refused = await api.commit(quote["token"], "another")
    assert (refused["__typename"], refused["code"]) == ("Conflict", "CHANGE_IN_PROGRESS")

    abandoned = await api.ask(
        """mutation ($id: ID!) { cancelScheduledChange(id: $id) {
             ... on ChangeCommitted { change { status } } ... on UserError { message } } }""",
        id=asked["change"]["id"],
    )
    assert abandoned["cancelScheduledChange"]["change"] == {"status": "CANCELED"}
    freed = await api.change("another", customerId="acme", planId="professional")
    assert freed["__typename"] == "PaymentActionRequired"


async def test_without_a_card_the_change_waits_for_checkout_and_then_goes_on(
    api: Api, services: Services, sandbox_url: str, example: Any
) -> None:
    await api.create_customer("acme", None)
    asked = await api.change("start", customerId="acme", planId="starter")
    assert asked["__typename"] == "CheckoutRequired", asked
    assert asked["pendingChange"]["status"] == "AWAITING_CHECKOUT"
    assert await api.change("start2", customerId="acme", planId="professional") != asked

    again = await api.change("start3", customerId="acme", planId="starter")
    await press(asked["url"], card="pm_card_visa")  # the page of the first: its change is given up
    await press(again["url"], card="pm_card_visa")
    await deliver(api, services, sandbox_url)

    customer = await api.customer("acme")
    assert customer["subscriptions"][0]["plan"] == {"versionId": "starter@1"}
    assert customer["paymentMethod"] == {"brand": "visa", "last4": "4242"}
    statuses = [change["status"] for change in customer["changes"]["nodes"]]
    assert statuses == ["APPLIED", "CANCELED", "CANCELED"]
    why = await api.ask(
        "query ($id: ID!) { change(id: $id) { failure { code } } }", id=asked["pendingChange"]["id"]
    )
    assert why["change"]["failure"] == {"code": "REPLACED"}
    assert [i["amountPaid"]["amountMinor"] for i in customer["invoices"]["nodes"]] == ["2900"]


async def test_a_change_whose_checkout_page_was_closed_at_the_provider_has_failed(
    api: Api, services: Services, sandbox_url: str, example: Any
) -> None:
    await api.create_customer("acme", None)
    asked = await api.change("start", customerId="acme", planId="starter")
    page = f"{sandbox_url}/v1/checkout/sessions/{asked['url'].rsplit('/', 1)[1]}"
    async with httpx.AsyncClient(auth=("sk_test_by_hand", "")) as hands:
        assert (await hands.post(f"{page}/expire")).status_code == 200
    await deliver(api, services, sandbox_url)
    [change] = (await api.customer("acme"))["changes"]["nodes"]
    assert change["status"] == "FAILED"
    again = await api.change("start2", customerId="acme", planId="starter")
    assert again["__typename"] == "CheckoutRequired", again


async def test_a_free_plan_needs_no_card(api: Api, services: Services, example: Any) -> None:
    document = example
    starter = document["products"][0]["plans"][0]
    prices = {c: {"month": "0.00", "year": "0.00"} for c in document["currencies"]}
    starter["charges"][0]["prices"] = prices
    await publish(services, document)
    await api.create_customer("acme", None)
    started = await api.change("start", customerId="acme", planId="starter")
    assert started["__typename"] == "ChangeCommitted", started
    assert (await api.access("acme", "seats"))["allowed"]


@pytest.mark.parametrize("url", ["https://evil.example/", "javascript:alert(1)", "//x", "[::1"])
async def test_the_providers_pages_lead_back_only_where_it_is_allowed(
    api: Api, example: Any, url: str
) -> None:
    await api.create_customer("acme", None)
    found = await api.ask(
        """mutation ($url: String) { setUpPaymentMethod(customerId: "acme", returnUrl: $url) {
             __typename ... on ValidationFailed { issues { path code } } } }""",
        url=url,
    )
    [issue] = found["setUpPaymentMethod"]["issues"]
    assert issue == {"path": ["returnUrl"], "code": "ORIGIN_NOT_ALLOWED"}


async def save_card(api: Api, services: Services, sandbox_url: str, card: str) -> None:
    """The customer saves a card on the provider's page; it is charged from then on."""
    page = await api.set_up_payment_method("acme")
    await press(page["url"], card=card)
    if card == "pm_card_authenticationRequired":
        await press(page["url"], action="authenticate")
    await deliver(api, services, sandbox_url)


async def test_a_declined_purchase_goes_through_with_another_card(
    api: Api, services: Services, sandbox_url: str, example: Any
) -> None:
    await api.create_customer("acme", "pm_card_chargeCustomerFail")
    assert (await api.change("one", customerId="acme", planId="starter"))["declineCode"]
    await save_card(api, services, sandbox_url, "pm_card_mastercard")

    bought = await api.change("two", customerId="acme", planId="starter")

    assert bought["change"]["status"] == "APPLIED", bought
    assert (await api.access("acme", "seats"))["allowed"]
    customer = await api.customer("acme")
    assert [change["status"] for change in customer["changes"]["nodes"]] == ["APPLIED", "FAILED"]
    assert [invoice["status"] for invoice in customer["invoices"]["nodes"]] == ["paid", "void"]


async def test_what_nobody_authenticates_in_time_is_dropped_and_can_be_bought_anew(
    api: Api, services: Services, sandbox_url: str, example: Any
) -> None:
    await api.create_customer("acme")
    await api.change("start", customerId="acme", planId="starter")
    await save_card(api, services, sandbox_url, "pm_card_authenticationRequired")
    asked = await api.purchase(
        customerId="acme", addOnId="advanced-analytics", idempotencyKey="one"
    )
    assert asked["__typename"] == "PaymentActionRequired", asked
    await api.advance("2026-03-02T12:00:00Z")  # a pending update lives for 23 hours
    await deliver(api, services, sandbox_url)

    customer = await api.customer("acme")
    assert customer["changes"]["nodes"][0]["status"] == "FAILED"
    assert customer["changes"]["nodes"][0]["failure"] == {"code": "PAYMENT_NOT_MADE"}
    assert [invoice["status"] for invoice in customer["invoices"]["nodes"]] == ["void", "paid"]
    assert not (await api.access("acme", "dashboards"))["allowed"]
    again = await api.purchase(
        customerId="acme", addOnId="advanced-analytics", idempotencyKey="two"
    )
    assert again["__typename"] == "PaymentActionRequired", again


async def test_a_failed_renewal_has_its_grace_then_access_ends_and_another_card_brings_it_back(
    api: Api, services: Services, sandbox_url: str, example: Any
) -> None:
    await api.create_customer("acme", "pm_card_visa_declinesAtRenewal")
    await api.change("start", customerId="acme", planId="starter")
    await api.advance("2026-04-15T11:59:59Z")  # 14 days after the renewal failed

    [held] = (await api.customer("acme"))["subscriptions"]
    assert held["status"] == "PAST_DUE"
    assert (await api.access("acme", "seats"))["allowed"]
    blocked = await api.preview(customerId="acme", planId="professional")
    assert (blocked["__typename"], blocked["code"]) == ("Conflict", "PAYMENT_PAST_DUE")

    await api.advance("2026-04-15T12:00:01Z")
    assert (await api.access("acme", "seats"))["reason"] == "SUBSCRIPTION_UNPAID"

    await save_card(api, services, sandbox_url, "pm_card_mastercard")
    assert (await api.customer("acme"))["paymentMethod"]["brand"] == "mastercard"
    newest = await api.ask('{ customer(id: "acme") { invoices(first: 1) { nodes { id } } } }')
    [invoice] = newest["customer"]["invoices"]["nodes"]
    # It is paid, nobody hears of that but by the webhook, and who pressed the button asks again.
    await fault(sandbox_url, kind="cut_after", times=transport.ATTEMPTS, path="/v1/invoices/in_")
    lost = await api.pay_invoice(invoice["id"], "pay")
    assert lost["__typename"] == "PaymentProviderUnavailable"
    await deliver(api, services, sandbox_url)
    for _ in range(2):
        paid = await api.pay_invoice(invoice["id"], "pay")
        assert paid["__typename"] == "InvoicePaid", paid
        assert paid["invoice"] == {"status": "paid", "amountPaid": {"amountMinor": "2900"}}
        assert paid["customer"]["subscriptions"] == [{"status": "ACTIVE"}]
    assert (await api.access("acme", "seats"))["allowed"]
    told = await api.audit(stream="customer:acme")
    paying = [(e["action"], e["actor"]) for e in told if e["action"].startswith("invoice.")]
    assert paying == [
        ("invoice.payment_tried", "key:admin"),
        ("invoice.payment_asked", "key:admin"),
    ]


async def test_a_cancellation_waits_for_the_end_can_be_undone_and_ends_access(
    api: Api, services: Services, example: Any
) -> None:
    await api.create_customer("acme")
    await api.change("start", customerId="acme", planId="starter")
    cancel = """mutation ($key: String!) { cancelSubscription(input: {customerId: "acme",
                  productId: "workspace", idempotencyKey: $key}) { __typename
                  ... on ChangeCommitted { change { id status effectiveAt direction } }
                  ... on UserError { code message } } }"""
    first = (await api.ask(cancel, key="one"))["cancelSubscription"]
    assert first["change"]["status"] == "SCHEDULED", first
    assert first["change"]["effectiveAt"] == "2026-04-01T12:00:00Z"
    [held] = (await api.customer("acme"))["subscriptions"]
    assert held["cancelAt"] == "2026-04-01T12:00:00Z"
    assert [c["id"] for c in held["scheduledChanges"]] == [first["change"]["id"]]

    await api.ask(
        "mutation ($id: ID!) { cancelScheduledChange(id: $id) { __typename } }",
        id=first["change"]["id"],
    )
    [held] = (await api.customer("acme"))["subscriptions"]
    assert (held["cancelAt"], held["scheduledChanges"]) == (None, [])

    await api.ask(cancel, key="two")
    await api.advance("2026-04-01T12:00:00Z")
    customer = await api.customer("acme")
    assert customer["subscriptions"] == []
    assert [c["status"] for c in customer["changes"]["nodes"]] == ["APPLIED", "CANCELED", "APPLIED"]
    assert len(customer["invoices"]["nodes"]) == 1
    assert (await api.access("acme", "seats"))["reason"] == "NO_ACTIVE_SUBSCRIPTION"
    back = await api.change("again", customerId="acme", planId="professional")
    assert back["__typename"] == "ChangeCommitted"


async def test_an_unknown_test_card_is_a_mistake_in_the_input(api: Api, example: Any) -> None:
    await api.create_customer("acme", "pm_card_nobody")
    quote = await api.preview(customerId="acme", planId="starter")
    for _ in range(2):
        refused = await api.commit(quote["token"], "start")
        assert refused["__typename"] == "ValidationFailed", refused
        assert refused["issues"][0]["code"] == "UNKNOWN_PAYMENT_METHOD"
