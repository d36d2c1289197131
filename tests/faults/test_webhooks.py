"""Whatever is posted to the webhook, what is stored follows what the provider says when asked."""

import json
import random
from typing import Any

import pytest
from sqlalchemy import func, select

from entitlements.billing.tables import WebhookEventRow
from entitlements.services import Services
from tests.api import Api
from tests.events import events_of, post, signed


def paid(customer: str) -> dict[str, Any]:
    invoice = {"id": "in_1", "object": "invoice", "customer": customer}
    return {
        "id": "evt_1",
        "object": "event",
        "type": "invoice.paid",
        "livemode": False,
        "data": {"object": invoice},
    }


async def stored(services: Services) -> int:
    async with services.database.read() as session:
        return await session.scalar(select(func.count()).select_from(WebhookEventRow)) or 0


async def _busy_customer(api: Api) -> None:
    await api.create_customer("acme")
    await api.change("start", customerId="acme", planId="starter")
    await api.purchase(customerId="acme", addOnId="extra-calls", idempotencyKey="buy")
    await api.advance("2026-05-02T00:00:00Z")
    await api.change("up", customerId="acme", planId="professional")


@pytest.mark.parametrize("seed", range(3))
async def test_replayed_and_reordered_webhooks_do_no_harm(
    api: Api, services: Services, sandbox_url: str, example: Any, seed: int
) -> None:
    await _busy_customer(api)
    before = await api.customer("acme")
    entries = await api.audit(stream="customer:acme")
    events = await events_of(sandbox_url)
    shuffled = events + random.Random(seed).sample(events, len(events) // 3)
    random.Random(seed).shuffle(shuffled)

    for event in shuffled:
        assert await post(api, event) == 200
    while await services.webhooks.work():
        pass

    assert await stored(services) == len(events)
    assert await api.customer("acme") == before
    assert await api.audit(stream="customer:acme") == entries


async def test_a_renewal_is_followed_by_its_webhook_alone(
    api: Api, services: Services, sandbox_url: str, example: Any
) -> None:
    await api.create_customer("acme")
    await api.change("start", customerId="acme", planId="starter")
    seen = len(await events_of(sandbox_url))
    later = services.clock.now().replace(month=4, day=2)
    await services.payments.advance_clock(later)  # the provider's time passes without us
    assert len((await api.customer("acme"))["invoices"]["nodes"]) == 1

    for event in (await events_of(sandbox_url))[seen:]:
        await post(api, event)
    while await services.webhooks.work():
        pass

    customer = await api.customer("acme")
    assert len(customer["invoices"]["nodes"]) == 2
    assert customer["subscriptions"][0]["currentPeriod"]["start"] == "2026-04-01T12:00:00Z"


async def test_a_forged_late_or_foreign_webhook_is_refused_and_leaves_no_row(
    api: Api, services: Services
) -> None:
    event = paid("cus_1")
    payload = json.dumps(event)
    live = json.dumps(event | {"livemode": True})
    attempts = [
        (payload, {"Stripe-Signature": "t=1,v1=00"}),
        (payload, {}),
        (payload, signed(payload, secret="whsec_of_somebody_else")),
        (payload, signed(payload, age_seconds=301)),
        (payload, signed(payload, age_seconds=-301)),
        (payload + " ", signed(payload)),
        (live, signed(live)),
        ("not json", signed("not json")),
        ("[]", signed("[]")),
        *(
            (odd, signed(odd))
            for data in (
                "null",
                "[]",
                '{"object": null}',
                '{"object": {"id": 7}}',
                '{"object": {"id": "a\\u0000"}}',
            )
            for odd in [f'{{"id": "evt_1", "type": "x", "livemode": false, "data": {data}}}']
        ),
    ]
    for content, headers in attempts:
        response = await api.client.post("/webhooks/stripe", content=content, headers=headers)
        assert response.status_code == 400, (content, headers)
    assert await stored(services) == 0


async def test_an_event_of_a_customer_that_is_not_ours_is_kept_and_left_alone(
    api: Api, services: Services
) -> None:
    event = paid("cus_x")
    assert await post(api, event) == 200
    await services.webhooks.work()
    async with services.database.read() as session:
        row = (await session.scalars(select(WebhookEventRow))).one()
    assert (row.status, row.error) == ("ignored", "no customer of ours")
    assert await services.webhooks.work() == 0
