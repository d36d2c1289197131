"""Whatever is posted to the webhook, what is stored follows what the provider says when asked."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import func, select, update

from entitlements.billing.tables import WebhookEventRow
from entitlements.kernel.clock import wall_now
from entitlements.services import Services
from entitlements.storage.base import Base
from tests.api import Api
from tests.conftest import START
from tests.events import events_of, post, signed
from tests.faults.operations import Operation, prepared
from tests.faults.world import Provider, World, opened
from tests.provider_traffic import Traffic


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


# ── any order, any number of times ───────────────────────────────────────────

EVENTS_IN_A_SOAK = 10_000
EVENTS_A_CUSTOMER = 26  # about; a test says how many there were
VOLATILE = {
    "webhook_event": None,  # the inbox's own bookkeeping
    "audit_entry": {"id", "hash", "previous_hash"},
    "change": {"started_at", "leased_until"},
    "invoice": {"id"},
    "subscription_item": {"id"},
}
"""What is made anew in each run, by table; of the one without columns nothing is compared."""


async def _customer_of_fate(world: World, number: int) -> None:
    """One who renews, one who cannot pay, one with a module, one who leaves, one who must act."""
    fate, api, id = number % 5, world.api, f"customer-{number}"
    await api.create_customer(id, "pm_card_visa_declinesAtRenewal" if fate == 1 else "pm_card_visa")
    started = await api.change("start", customerId=id, planId="starter")
    assert started["__typename"] == "ChangeCommitted", started
    if fate == 4:
        page = await api.set_up_payment_method(id)
        await world.press(page["url"], card="pm_card_authenticationRequired")
        await world.press(page["url"], action="authenticate")
        await world.services.payments.finish_checkout(page["url"].rpartition("/")[2])
    if fate in (2, 4):
        bought = await api.purchase(customerId=id, addOnId="extra-calls", idempotencyKey="buy")
        world.memo.setdefault("pages", []).append(bought.get("hostedUrl"))
    if fate == 3:
        await api.cancel("leave", customerId=id, productId="workspace")


async def _what_happens(world: World) -> AsyncIterator[None]:
    """The provider's time passes, and nothing of it is seen but by webhooks."""
    for page in filter(None, world.memo.pop("pages", [])):
        await world.press(page, action="authenticate")
    yield
    await world.services.payments.advance_clock(START.replace(month=4, day=2))
    yield
    for invoice in await world.at_provider("/v1/invoices", status="open"):
        await world.press(invoice["hosted_invoice_url"], card="pm_card_mastercard")
    await world.services.payments.advance_clock(START.replace(month=5, day=2))
    yield


async def _all_that_is_stored(services: Services) -> dict[str, list[str]]:
    """Every table's rows, in an order that does not depend on when they came."""
    stored: dict[str, list[str]] = {}
    async with services.database.read() as session:
        for table in Base.metadata.sorted_tables:
            left_out = VOLATILE.get(table.name, set())
            if left_out is not None:
                columns = [column for column in table.columns if column.name not in left_out]
                rows = await session.execute(select(*columns))
                stored[table.name] = sorted(repr(row) for row in rows)
    return stored


async def test_webhooks_in_any_order_and_repeated_end_as_in_order_and_once(
    database_url: str, tmp_path: Path, provider: Provider, soak: bool
) -> None:
    customers = EVENTS_IN_A_SOAK // EVENTS_A_CUSTOMER if soak else 5
    chance = random.Random(1)

    async def many(world: World) -> None:
        for number in range(customers):
            await _customer_of_fate(world, number)

    before = await prepared(Operation(many, many), database_url, tmp_path, provider)
    async with (
        before.copied() as copy,
        provider.over(copy.sandbox_file) as provider_url,
        opened(copy.database_url, provider_url, before.memo) as in_order,
        opened(database_url, provider_url) as in_disorder,
    ):
        told: list[dict[str, Any]] = []
        async for _ in _what_happens(in_order):
            events = await events_of(in_order.provider)
            news, told = events[len(told) :], events
            await in_order.post_events(news)
            await in_order.drain_inbox()

            shuffled = news + chance.sample(told, min(len(told), len(news) * 3 // 10))
            chance.shuffle(shuffled)
            for begin in range(0, len(shuffled), 50):
                await in_disorder.post_events(shuffled[begin : begin + 50])
                await in_disorder.services.webhooks.work(customers=chance.randint(1, 3))
            await in_disorder.drain_inbox()

        assert len(told) >= (EVENTS_IN_A_SOAK if soak else 100)
        assert await stored(in_disorder.services) == await stored(in_order.services) == len(told)
        wanted = await _all_that_is_stored(in_order.services)
        kept = await _all_that_is_stored(in_disorder.services)
        for table in wanted:
            assert kept[table] == wanted[table], table
        assert await in_disorder.api.ask("{ verifyAudit { ok } }") == {"verifyAudit": {"ok": True}}


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
        (payload, signed(payload, age_seconds=-330)),
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


# ── whose turn it is ─────────────────────────────────────────────────────────


async def test_all_that_waits_for_a_customer_is_fetched_once_and_by_one_process(
    api: Api, services: Services, traffic: Traffic, sandbox_url: str, example: Any
) -> None:
    for customer in ("acme", "bolt"):
        await api.create_customer(customer)
        await api.change("start", customerId=customer, planId="starter")
    told = await events_of(sandbox_url)
    await asyncio.gather(*(post(api, event) for event in told * 2))
    assert await stored(services) == len(told)

    of_acme, of_bolt = [
        WebhookEventRow.customer_provider_id == event["data"]["object"]["id"]
        for event in told
        if event["type"] == "customer.created"
    ]

    async def statuses(whose: Any) -> set[str]:
        waited_for = WebhookEventRow.status != "ignored"
        async with services.database.read() as session:
            return set(
                await session.scalars(select(WebhookEventRow.status).where(whose, waited_for))
            )

    async with services.database.write() as session:  # another process has begun with one
        row = await session.scalar(
            select(WebhookEventRow).where(of_acme).order_by(WebhookEventRow.status.desc()).limit(1)
        )
        assert row is not None
        assert row.status == "received"
        row.status, row.due_at = "leased", wall_now() + timedelta(minutes=1)
    before = len(traffic.calls)
    assert await services.webhooks.work() > 5
    fetched = [call.path for call in traffic.calls[before:]]
    assert len(fetched) == 3, fetched
    assert await statuses(of_bolt) == {"done"}
    assert await statuses(of_acme) == {"leased", "received"}

    async with services.database.write() as session:  # it has died
        await session.execute(update(WebhookEventRow).where(of_acme).values(due_at=wall_now()))
    await services.webhooks.work()
    assert await statuses(of_acme) == {"done"}
    assert len(traffic.calls) == before + 6
