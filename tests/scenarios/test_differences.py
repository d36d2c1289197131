"""The provider charges something else than our engine says: shown, charged as shown, and told."""

from typing import Any

import pytest
import stripe

from entitlements.billing.prices import price_params, terms
from entitlements.kernel.period import Interval
from entitlements.services import Services
from tests.api import Api


async def wrongly_priced(services: Services, sandbox_url: str) -> None:
    """A price under our lookup key that says our terms, and charges a dollar more."""
    catalog = await services.catalog.current()
    charge = catalog.current["extra-calls"].charge("fee")
    price = charge.price("usd", Interval.MONTH)
    assert price is not None
    params: Any = price_params(charge, price)
    said = terms(params)
    params["unit_amount_decimal"] += 100
    http: Any = stripe.HTTPXClient(allow_sync_methods=False)
    client = stripe.StripeClient("sk_test_x", base_addresses={"api": sandbox_url}, http_client=http)
    await client.v1.products.create_async(
        {"id": "package_extra-calls", "name": "Extra calls"}, {"idempotency_key": "product"}
    )
    await client.v1.prices.create_async(
        {
            **params,
            "product": "package_extra-calls",
            "lookup_key": "extra-calls@1/fee/usd/month",
            "metadata": {"terms": said},
        },
        {"idempotency_key": "price"},
    )
    await http.close_async()


@pytest.mark.usefixtures("example")
async def test_a_difference_is_in_the_ledger_with_both_figures(
    api: Api, services: Services, sandbox_url: str
) -> None:
    await api.create_customer("acme")
    await api.change("start", customerId="acme", planId="starter")
    await wrongly_priced(services, sandbox_url)
    quote = await api.preview(customerId="acme", addOns=[{"id": "extra-calls"}])
    assert quote["dueNow"] == {"amountMinor": "1600"}

    bought = await api.commit(quote["token"], "buy")

    assert bought["change"]["total"] == {"amountMinor": "1600"}
    [told] = await api.audit(action="change.differs")
    assert told["objectId"] == bought["change"]["id"]
    assert told["after"]["differences"] == [
        {
            "line": "charge extra-calls@1/fee",
            "engine_minor": 1500,
            "provider_minor": 1600,
        }
    ]
