"""What people and accidents do behind our back: found, and mended where it is ours to mend."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest
import stripe
from sqlalchemy import insert, update
from typer.testing import CliRunner

from entitlements.audit import ledger, seals
from entitlements.audit.ledger import Actor
from entitlements.billing.reconciler import Finding
from entitlements.billing.tables import WebhookEventRow
from entitlements.billing.transport import Transport
from entitlements.cli import app
from entitlements.kernel.clock import wall_now
from entitlements.kernel.errors import PaymentProviderUnavailable
from entitlements.services import Services
from entitlements.settings import Settings
from entitlements.subscriptions.change import Authority
from entitlements.subscriptions.request import ChangeRequest
from entitlements.subscriptions.service import Caller
from entitlements.subscriptions.tables import (
    ChangeRow,
    CustomerRow,
    InvoiceRow,
    SubscriptionRow,
)
from tests.api import Api
from tests.conftest import START, on_postgresql, on_sqlite
from tests.faults.test_provider_faults import fault
from tests.reconciliation import findings, reconciled_clean
from tests.scenarios.test_payments import press


class Stripe:
    """The provider, with a person's hands on it; and our own rows, as an accident leaves them."""

    def __init__(self, services: Services, client: stripe.StripeClient) -> None:
        self.services = services
        self.v1 = client.v1

    async def customer_id(self, id: str) -> str:
        async with self.services.database.read() as session:
            row = await session.get_one(CustomerRow, id)
        assert row.provider_id
        return row.provider_id

    async def subscription(self, id: str) -> stripe.Subscription:
        found = await self.v1.subscriptions.list_async({"customer": await self.customer_id(id)})
        return found.data[-1]  # the first one

    async def item(self, subscription: stripe.Subscription, lookup: str) -> str:
        for item in subscription["items"].data:
            if (item.price.lookup_key or "").startswith(lookup):
                return str(item.id)
        raise AssertionError(lookup)

    async def change(self, id: str, **params: Any) -> None:
        subscription = await self.subscription(id)
        await self.v1.subscriptions.update_async(subscription.id, params)  # type: ignore[arg-type]

    async def store(self, statement: Any) -> None:
        async with self.services.database.write() as session:
            await session.execute(statement)


@pytest.fixture
async def there(services: Services) -> AsyncIterator[Stripe]:
    http: Any = Transport()
    base = {"api": services.settings.stripe_api_base}
    client = stripe.StripeClient("sk_test_by_hand", base_addresses=base, http_client=http)  # type: ignore[arg-type]
    yield Stripe(services, client)
    await http.close_async()


async def renamed(there: Stripe, id: str) -> None:
    await there.v1.customers.update_async(await there.customer_id(id), {"name": "Somebody else"})


async def credited(there: Stripe, id: str) -> None:
    await there.v1.customers.update_async(await there.customer_id(id), {"balance": -700})


async def another_card(there: Stripe, id: str) -> None:
    customer = await there.customer_id(id)
    card = await there.v1.payment_methods.attach_async("pm_card_mastercard", {"customer": customer})
    settings: Any = {"default_payment_method": card.id}
    await there.v1.customers.update_async(customer, {"invoice_settings": settings})


async def more_of_it(there: Stripe, id: str) -> None:
    subscription = await there.subscription(id)
    item = {"id": await there.item(subscription, "extra-calls@1/fee"), "quantity": 9}
    await there.change(id, items=[item], proration_behavior="none")


async def item_deleted(there: Stripe, id: str) -> None:
    subscription = await there.subscription(id)
    item = {"id": await there.item(subscription, "extra-calls"), "deleted": True}
    await there.change(id, items=[item], proration_behavior="none")


async def item_emptied(there: Stripe, id: str) -> None:
    price = await _price(there, "usd")
    await there.change(id, items=[{"price": price, "quantity": 0}], proration_behavior="none")


async def item_added(there: Stripe, id: str) -> None:
    price = await _price(there, "usd")
    await there.change(id, items=[{"price": price, "quantity": 2}], proration_behavior="none")


async def other_price(there: Stripe, id: str) -> None:
    subscription = await there.subscription(id)
    item = {
        "id": await there.item(subscription, "professional"),
        "price": await _price(there, "usd"),
    }
    await there.change(id, items=[item], proration_behavior="none")


async def _price(there: Stripe, currency: str) -> str:
    """A price that somebody made by hand."""
    product = await there.v1.products.create_async({"name": "By hand"})
    price = await there.v1.prices.create_async(
        {
            "currency": currency,
            "unit_amount": 500,
            "product": product.id,
            "recurring": {"interval": "month"},
        }
    )
    return price.id


async def canceled(there: Stripe, id: str) -> None:
    await there.v1.subscriptions.cancel_async((await there.subscription(id)).id)


async def cancel_planned(there: Stripe, id: str) -> None:
    await there.change(id, cancel_at_period_end=True)


async def sold_by_hand(there: Stripe, id: str) -> None:
    """A second subscription that we know nothing of, paid."""
    items: Any = [{"price": await _price(there, "usd"), "quantity": 1}]
    await there.v1.subscriptions.create_async(
        {"customer": await there.customer_id(id), "items": items}
    )


async def charged_by_hand(there: Stripe, id: str) -> None:
    """Seats raised and invoiced at once, with our change's id still on the subscription."""
    subscription = await there.subscription(id)
    item = {"id": await there.item(subscription, "extra-calls@1/fee"), "quantity": 9}
    await there.change(id, items=[item], proration_behavior="always_invoice")


async def customer_deleted(there: Stripe, id: str) -> None:
    await there.v1.customers.delete_async(await there.customer_id(id))


async def invoice_forgotten(there: Stripe, id: str) -> None:
    await there.store(InvoiceRow.__table__.delete().where(InvoiceRow.customer_id == id))


async def invoice_stale(there: Stripe, id: str) -> None:
    of_customer = InvoiceRow.customer_id == id
    await there.store(
        update(InvoiceRow).where(of_customer).values(status="open", amount_paid_minor=0)
    )


async def period_stale(there: Stripe, id: str) -> None:
    earlier = START - timedelta(days=31)
    of_customer = SubscriptionRow.customer_id == id
    await there.store(
        update(SubscriptionRow).where(of_customer).values(status="past_due", period_start=earlier)
    )


async def schedule_released(there: Stripe, id: str) -> None:
    """What waits here for the period's end is not planned there any more."""
    request = ChangeRequest(plan_id="starter")
    quote = await there.services.changes.preview(CALLER, id, request)
    await there.services.changes.commit(CALLER, quote.token, "later")
    assert (await there.services.reconciler.customer(id)).findings == ()
    schedule = (await there.subscription(id)).schedule
    assert isinstance(schedule, str)
    await there.v1.subscription_schedules.release_async(schedule)


async def planned_by_hand(there: Stripe, id: str) -> None:
    subscription = await there.subscription(id)
    await there.v1.subscription_schedules.create_async({"from_subscription": subscription.id})


async def moved_away(there: Stripe, id: str) -> None:
    of_customer = CustomerRow.id == id
    await there.store(update(CustomerRow).where(of_customer).values(provider_id=f"cus_{id}"))


Mishap = Callable[[Stripe, str], Awaitable[None]]
Drifts = set[tuple[str, str, str]]
"""Kind, path (`…` for an id of the provider) and repair."""

MENDED: dict[str, list[tuple[Mishap, Drifts]]] = {
    "acme": [
        (renamed, {("customer_differs", "name", "push")}),
        (credited, {("customer_differs", "credit_minor", "mirror")}),
        (another_card, {("customer_differs", "payment_method", "mirror")}),
        (more_of_it, {("item_differs", "items.extra-calls/fee.quantity", "push")}),
        (item_emptied, {("item_emptied", "items.si_…", "sweep")}),
        (cancel_planned, {("subscription_differs", "cancel_at", "mirror")}),
        (
            invoice_stale,
            {
                ("invoice_differs", "invoices.in_….status", "mirror"),
                ("invoice_differs", "invoices.in_….amount_paid_minor", "mirror"),
            },
        ),
    ],
    "bolt": [
        (item_deleted, {("item_missing", "items.extra-calls/fee", "push")}),
        (other_price, {("item_differs", "items.professional/base.price", "push")}),
    ],
    "cora": [
        (invoice_forgotten, {("invoice_unknown", "invoices.in_…", "mirror")}),
        (
            period_stale,
            {
                ("subscription_differs", "status", "mirror"),
                ("subscription_differs", "period_start", "mirror"),
            },
        ),
    ],
    "hill": [(schedule_released, {("schedule_missing", "schedule", "align")})],
    "dune": [(canceled, {("subscription_differs", "status", "mirror")})],
}
LEFT_TO_PEOPLE: dict[str, list[tuple[Mishap, Drifts]]] = {
    "echo": [
        (
            sold_by_hand,
            {
                ("subscription_unknown", "status", ""),
                ("charge_unexplained", "invoices.in_…", ""),
            },
        ),
        (item_added, {("item_unknown", "items.si_…", "")}),
        (
            charged_by_hand,
            {
                ("item_differs", "items.extra-calls/fee.quantity", ""),
                ("charge_unexplained", "invoices.in_…", ""),
            },
        ),
        (planned_by_hand, {("schedule_unknown", "schedule", "")}),
    ],
    "fern": [(customer_deleted, {("customer_deleted", "provider_id", "")})],
    "gale": [(moved_away, {("customer_missing", "provider_id", "")})],
}


def _short(path: str) -> str:
    """Without the provider's ids."""
    parts = path.split(".")
    return ".".join(
        f"{part.split('_')[0]}_…" if part.startswith(("si_", "in_")) else part for part in parts
    )


CALLER = Caller(Actor("test"), Authority.SERVICE)


async def a_customer(services: Services, id: str) -> None:
    """On Professional, with an add-on: two items, two paid invoices."""
    await services.customers.create_customer(
        CALLER, id, name="Ann", email="ann@acme.example", sandbox_payment_method="pm_card_visa"
    )
    request = ChangeRequest(plan_id="professional")
    quote = await services.changes.preview(CALLER, id, request)
    await services.changes.commit(CALLER, quote.token, "start")
    await services.changes.purchase_add_on(
        CALLER, id, "extra-calls", quantity=1, max_due_now_minor=None, key="buy"
    )


def _told(found: list[Finding]) -> dict[str, set[tuple[str, str, str]]]:
    told: dict[str, set[tuple[str, str, str]]] = {}
    for drift in (finding.drift for finding in found):
        entry = (drift.kind.value, _short(drift.path), str(drift.repair or ""))
        told.setdefault(drift.customer, set()).add(entry)
    return told


@on_sqlite
async def test_each_mishap_is_found_and_mended_once_and_what_would_charge_is_left_to_people(
    services: Services, there: Stripe, example: Any
) -> None:
    everybody = MENDED | LEFT_TO_PEOPLE
    for id in everybody:
        await a_customer(services, id)
    await reconciled_clean(services)
    for id, mishaps in everybody.items():
        for mishap, _ in mishaps:
            await mishap(there, id)
    charged = await _taken(there)

    repaired = await findings(services, repair=True)

    mended = _told([finding for finding in repaired if finding.mended])
    assert mended == _expected(MENDED) | {
        "echo": {("invoice_unknown", "invoices.in_…", "mirror")},
        "fern": {
            ("customer_differs", "payment_method", "mirror"),
            ("subscription_differs", "status", "mirror"),
        },
    }
    left = [finding for finding in repaired if not finding.mended]
    only_left = {id: drifts for id, drifts in _told(left).items() if id in LEFT_TO_PEOPLE}
    assert only_left == _told(left) == _told(await findings(services))
    assert {id: {d for d in ds if not d[2]} for id, ds in only_left.items()} == _expected(
        LEFT_TO_PEOPLE
    )
    assert await _taken(there) == charged
    async with services.database.read(streaming=True) as session:
        assert (await seals.verify(session, services.signer)).ok
        entries = await ledger.entries(
            session, ledger.AuditFilter(action="reconciliation.repaired"), first=200, after=None
        )
    assert {entry.stream for entry in entries} == {
        f"customer:{finding.drift.customer}" for finding in repaired if finding.mended
    }
    assert len(entries) == sum(finding.mended for finding in repaired)


def _expected(mishaps: dict[str, list[tuple[Mishap, Drifts]]]) -> dict[str, Drifts]:
    return {id: set().union(*(drifts for _, drifts in each)) for id, each in mishaps.items()}


async def _taken(there: Stripe) -> int:
    """Everything that was ever paid at the provider."""
    pages = await there.v1.invoices.list_async({"limit": 100})
    return sum([invoice.amount_paid async for invoice in pages.auto_paging_iter()])


@on_postgresql
async def test_an_ordinary_life_differs_in_nothing(
    api: Api, services: Services, sandbox_url: str, example: Any
) -> None:
    await a_customer(services, "acme")
    await api.create_customer("fails", "pm_card_visa_declinesAtRenewal")
    await api.change("start", customerId="fails", planId="starter")
    await api.create_customer("leaves")
    await api.change("start", customerId="leaves", planId="starter")
    await services.changes.cancel_subscription(
        CALLER, "leaves", "workspace", timing=None, reason=None, key="leave"
    )
    await api.create_customer("new")
    await services.customers.update_customer(CALLER, "acme", name="Bea", email="bea@acme.example")
    await reconciled_clean(services)

    await api.advance("2026-04-03T12:00:00Z")
    await api.create_customer("asked", "pm_card_authenticationRequired")
    await api.change("start", customerId="asked", planId="starter")
    await api.create_customer("poor", None)
    await api.change("start", customerId="poor", planId="starter")
    await reconciled_clean(services)


@on_postgresql
async def test_changes_that_got_stuck_are_finished_and_one_under_way_is_left_alone(
    api: Api, services: Services, there: Stripe, sandbox_url: str, example: Any
) -> None:
    await api.create_customer("acme", "pm_card_authenticationRequired")
    asked = await api.change("start", customerId="acme", planId="starter")
    await press(asked["hostedUrl"], action="authenticate")  # and no webhook comes
    await a_customer(services, "bolt")
    await fault(sandbox_url, kind="cut_after", times=9, method="POST", path="/v1/subscriptions")
    bought = await api.purchase(customerId="bolt", addOnId="extra-storage", idempotencyKey="lost")
    assert bought["__typename"] == "PaymentProviderUnavailable", bought
    async with httpx.AsyncClient() as client:
        await client.delete(f"{sandbox_url}/_sandbox/faults")
    services.reconciler.pace.pause_seconds = 0
    assert (await services.reconciler.customer("bolt")).busy

    long_ago = wall_now() - timedelta(minutes=10)
    pending = ChangeRow.status == "pending"
    await there.store(update(ChangeRow).where(pending).values(leased_until=long_ago))
    told = _told(await findings(services, repair=True))
    assert ("subscription_unknown", "status", "finish") in told["acme"]
    for id in ("acme", "bolt"):
        [change] = {path for kind, path, _ in told[id] if kind == "change_stuck"}
        found = await api.ask("query ($id: ID!) { change(id: $id) { status } }", id=change[8:])
        assert found["change"] == {"status": "APPLIED"}
    await reconciled_clean(services)
    customer = await api.customer("bolt")
    paid = [invoice["amountPaid"]["amountMinor"] for invoice in customer["invoices"]["nodes"]]
    assert paid == ["1200", "1500", "9900"]


@on_postgresql
async def test_events_that_failed_or_never_came_are_applied(
    services: Services, there: Stripe, example: Any
) -> None:
    await a_customer(services, "acme")
    nobody = "http://127.0.0.1:9/webhooks"
    await there.v1.webhook_endpoints.create_async({"url": nobody, "enabled_events": ["*"]})
    await renamed(there, "acme")  # our name goes there again: two events
    await there.store(
        insert(WebhookEventRow).values(
            id="evt_0",
            type="customer.updated",
            customer_provider_id=await there.customer_id("acme"),
            received_at=START,
            status="failed",
            due_at=wall_now(),
            attempts=20,
            error="KeyError",
        )
    )
    repaired = await findings(services, repair=True)
    assert [finding.drift.kind.value for finding in repaired] == [
        "customer_differs",
        "event_failed",
        "event_undelivered",
        "event_undelivered",
    ]
    assert all(finding.mended for finding in repaired)
    await reconciled_clean(services)


@on_sqlite
async def test_events_that_are_still_coming_in_are_not_lost(
    services: Services, there: Stripe, example: Any
) -> None:
    await a_customer(services, "acme")
    nobody = "http://127.0.0.1:9/webhooks"
    await there.v1.webhook_endpoints.create_async({"url": nobody, "enabled_events": ["*"]})
    await renamed(there, "acme")
    page = await there.v1.events.list_async({"delivery_success": False, "limit": 1})
    [late] = page.data

    async def arrive() -> None:
        for id in ("evt_0", "evt_1", "evt_2", "evt_3", late.id):
            await asyncio.sleep(0.1)
            row = {"id": id, "type": "customer.updated", "status": "done", "attempts": 1}
            times = {"received_at": START, "due_at": wall_now()}
            await there.store(insert(WebhookEventRow).values(row | times))

    services.reconciler.pace.pause_seconds = 0.25
    arriving = asyncio.create_task(arrive())
    found = [finding async for finding in services.reconciler.events()]
    await arriving
    assert found == []


@on_sqlite
async def test_while_the_provider_is_away_nothing_is_reported_as_missing(
    services: Services, sandbox_url: str, example: Any
) -> None:
    await a_customer(services, "acme")
    await fault(sandbox_url, kind="rate_limit", times=2)
    await reconciled_clean(services)
    await fault(sandbox_url, kind="rate_limit", times=1000)
    with pytest.raises(PaymentProviderUnavailable):
        await findings(services)


@on_sqlite
async def test_the_command_says_what_differs_and_ends_with_0_1_or_2(
    services: Services,
    there: Stripe,
    settings: Settings,
    example: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("database_url", "stripe_api_base", "sandbox"):
        monkeypatch.setenv(f"ENTITLEMENTS_{name.upper()}", str(getattr(settings, name)))
    for name in ("stripe_api_key", "stripe_webhook_secret", "admin_key"):
        secret = getattr(settings, name).get_secret_value()
        monkeypatch.setenv(f"ENTITLEMENTS_{name.upper()}", secret)

    async def reconcile(*words: str, ends: int) -> str:
        done = await asyncio.to_thread(CliRunner().invoke, app, ["reconcile", *words])
        assert done.exit_code == ends, (done.output, done.exception)
        return done.stdout + done.stderr

    await a_customer(services, "acme")
    assert await reconcile(ends=0) == "1 customers compared, 0 differences.\n"
    await renamed(there, "acme")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "entitlements", "reconcile", "--json"),
        stdout=asyncio.subprocess.PIPE,
    )
    drift, summary = map(json.loads, (await process.communicate())[0].splitlines())
    assert process.returncode == 1
    assert drift == {
        "type": "drift",
        "kind": "customer_differs",
        "customer": "acme",
        "subscription": None,
        "path": "name",
        "ours": "Ann",
        "theirs": "Somebody else",
        "repair": "push",
        "repaired": False,
        "note": None,
    }
    assert summary == {
        "type": "summary",
        "customers": 1,
        "drifts": 1,
        "repaired": 0,
        "busy": 0,
        "complete": True,
    }
    assert "repaired" in await reconcile("--repair", "--as", "ann", ends=1)
    assert "0 differences" in await reconcile("--customer", "acme", ends=0)
    async with services.database.read() as session:
        [entry] = await ledger.entries(
            session, ledger.AuditFilter(action="reconciliation.repaired"), first=9, after=None
        )
    assert (entry.actor, entry.before, entry.after["both"]) == (
        "cli:ann",
        {"ours": "Ann", "theirs": "Somebody else"},
        "Ann",
    )
    assert "there is no customer 'nobody'" in await reconcile("--customer", "nobody", ends=2)
    monkeypatch.setenv("ENTITLEMENTS_STRIPE_API_KEY", "sk_wrong_key")
    said = await reconcile(ends=2)
    assert "the payment provider refuses our key" in said
    assert "not all was looked at" in said
