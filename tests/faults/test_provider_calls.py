"""Limits of the provider, and keys that it has seen with other parameters."""

import itertools
from typing import Any

import pytest
import stripe

from entitlements.billing.provider import StripeProvider
from entitlements.kernel.errors import PaymentProviderUnavailable
from entitlements.services import Services
from entitlements.subscriptions.payments import BillingCustomer
from tests.api import Api
from tests.faults.test_provider_faults import fault
from tests.provider_traffic import Traffic
from tests.reconciliation import reconciled_clean


async def test_a_limit_that_lasts_is_said_and_changes_nothing(
    api: Api, sandbox_url: str, example: Any
) -> None:
    await api.create_customer("acme")
    await api.change("start", customerId="acme", planId="starter")
    before = await api.customer("acme")
    await fault(
        sandbox_url, kind="rate_limit", times=99, method="POST", path="/v1/invoices/create_preview"
    )
    refused = await api.ask(
        """mutation { previewChange(input: {customerId: "acme", planId: "professional"}) {
             __typename ... on PaymentProviderUnavailable { retryAfterSeconds message } } }"""
    )
    assert refused["previewChange"] == {
        "__typename": "PaymentProviderUnavailable",
        "retryAfterSeconds": 5,
        "message": "the payment provider takes no more requests for now",
    }
    assert await api.customer("acme") == before


async def test_a_customer_whose_name_changed_between_two_tries_is_made_once(
    services: Services, sandbox_url: str, traffic: Traffic
) -> None:
    def named(name: str | None) -> BillingCustomer:
        return BillingCustomer(id="acme", key="cus_1", name=name, email=None, provider_id=None)

    await services.sandbox_clock.test_clock_id()
    made = await services.payments.ensure_customer(named("Acme"))
    again = await services.payments.ensure_customer(named("Acme Ltd"))  # its id was never stored
    assert again.id == made.id
    http = stripe.HTTPXClient(allow_sync_methods=False)
    client = stripe.StripeClient("sk_test_x", base_addresses={"api": sandbox_url}, http_client=http)
    assert (await client.v1.customers.retrieve_async(made.id)).name == "Acme Ltd"
    await http.close_async()  # type: ignore[no-untyped-call]
    assert sum(call.path == "/v1/customers" for call in traffic.calls) == 2


async def test_a_key_that_was_used_for_another_request_is_told_and_not_a_fault_of_ours(
    services: Services, example: Any
) -> None:
    provider: StripeProvider = services.payments
    customer = BillingCustomer(id="acme", key="cus_1", name=None, email=None, provider_id=None)
    made = await provider.ensure_customer(customer)
    await provider.put_customer("key", made.id, name="One", email=None)
    with pytest.raises(PaymentProviderUnavailable, match="knows another request"):
        await provider.put_customer("key", made.id, name="Two", email=None)


CREATED, CHANGED, PAID = "/v1/subscriptions", "/v1/subscriptions/sub_", "/v1/invoices/in_"


@pytest.mark.parametrize(
    ("database_url", "kind", "path"),
    [
        (("sqlite", "postgresql")[n % 2], kind, path)
        for n, (path, kind) in enumerate(
            itertools.product((CREATED, CHANGED, PAID), ("kept_error_before", "kept_error_after"))
        )
    ],
    indirect=["database_url"],
)
async def test_an_error_that_the_provider_keeps_under_a_key_holds_nobody_up(
    api: Api, services: Services, sandbox_url: str, example: Any, kind: str, path: str
) -> None:
    await api.create_customer("acme")
    starting = {"customerId": "acme", "planId": "starter"}
    if path == CHANGED:
        await api.change("start", **starting)
        starting = {"customerId": "acme", "planId": "professional"}
    await fault(sandbox_url, kind=kind, method="POST", path=path)
    answer = await api.change("disturbed", **starting)
    assert answer["__typename"] == "ChangeCommitted", answer
    invoices = (await api.customer("acme"))["invoices"]["nodes"]
    assert [invoice["status"] for invoice in invoices] == ["paid"] * (2 if path == CHANGED else 1)
    await reconciled_clean(services)
