"""Somebody else's system is told what happens to customers: through the API and the commands."""

import re
from typing import Any

import pytest
from typer.testing import CliRunner

from entitlements.audit.ledger import Actor
from entitlements.cli import app
from entitlements.server import keys
from entitlements.services import Services
from entitlements.worker import work_once
from tests.api import Api
from tests.conftest import ADMIN_KEY, on_sqlite
from tests.receiver import Received, receiving

CREATE = """mutation ($url: String!, $events: [String!]!) {
  createWebhookEndpoint(url: $url, events: $events) { __typename
    ... on WebhookEndpointCreated { secret endpoint { id url events failingSince disabledAt } }
    ... on ValidationFailed { issues { path code } } } }"""
DELETE = """mutation ($id: ID!) { deleteWebhookEndpoint(id: $id) { __typename
  ... on WebhookEndpoint { id } ... on NotFound { id } } }"""
RESEND = """mutation ($id: ID!) { resendWebhook(id: $id) { __typename
  ... on WebhookDelivery { id nextAttemptAt } ... on NotFound { id } } }"""
DELIVERIES = """query ($endpointId: ID, $failed: Boolean, $first: Int! = 50, $after: String) {
  webhookDeliveries(endpointId: $endpointId, failed: $failed, first: $first, after: $after) {
    nodes { id event attempts lastStatus lastError deliveredAt messageId endpoint { id url } }
    pageInfo { hasNextPage endCursor } } }"""


async def listen(api: Api, url: str, *events: str) -> Any:
    found = await api.ask(CREATE, url=url, events=list(events))
    return found["createWebhookEndpoint"]


async def deliveries(api: Api, **which: Any) -> Any:
    return (await api.ask(DELIVERIES, **which))["webhookDeliveries"]


async def deliver(services: Services) -> None:
    while await work_once(services):
        await services.deliveries.finished()


def told(received: list[Received], secret: str) -> list[tuple[str, Any]]:
    """What was received, verified, in the order of its events."""
    said = [one.verified(secret) for one in received]
    return sorted(((one["type"], one["data"]) for one in said), key=lambda pair: pair[0])


async def test_a_purchase_a_failed_renewal_and_an_end_are_told(
    api: Api, services: Services, example: Any
) -> None:
    async with receiving() as receiver:
        created = await listen(api, receiver.url, "*")
        secret = created["secret"]
        assert created["endpoint"]["events"] == ["*"]
        assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=", secret)

        await api.create_customer("acme", "pm_card_visa_declinesAtRenewal")
        await api.preview(customerId="acme", planId="starter")
        await deliver(services)
        assert receiver.received == []  # nothing anybody asked for has happened yet
        bought = await api.change("start", customerId="acme", planId="starter")
        await deliver(services)
        about = {"customerId": "acme", "revision": bought["revision"]}
        assert told(receiver.received, secret) == [
            ("change.applied", about | {"changeId": bought["change"]["id"]}),
            ("entitlements.changed", about),
        ]

        stamps = {one.verified(secret)["timestamp"] for one in receiver.received}
        assert stamps == {"2026-03-01T12:00:00Z"}  # by the service's clock

        receiver.received.clear()
        await api.advance("2026-04-02T00:00:00Z")
        await deliver(services)
        customer = await api.customer("acme")
        [held] = customer["subscriptions"]
        assert held["status"] == "PAST_DUE"
        about = {"customerId": "acme", "revision": customer["revision"]}
        assert told(receiver.received, secret) == [
            ("entitlements.changed", about),
            ("payment.failed", about | {"subscriptionId": held["id"]}),
        ]

        receiver.received.clear()
        await api.ask(
            """mutation { cancelSubscription(input: {customerId: "acme", productId: "workspace",
                 idempotencyKey: "end"}) { __typename } }"""
        )
        await deliver(services)
        customer = await api.customer("acme")
        assert customer["subscriptions"] == []
        assert {kind for kind, _ in told(receiver.received, secret)} == {
            "change.applied",
            "entitlements.changed",
        }


@on_sqlite
async def test_a_cancellation_at_the_periods_end_is_told_when_it_happens(
    api: Api, services: Services, example: Any
) -> None:
    async with receiving() as receiver:
        secret = (await listen(api, receiver.url, "change.applied", "entitlements.changed"))[
            "secret"
        ]
        await api.create_customer("acme")
        await api.change("start", customerId="acme", planId="starter")
        canceled = await api.ask(
            """mutation { cancelSubscription(input: {customerId: "acme", productId: "workspace",
                 timing: PERIOD_END, idempotencyKey: "end"}) {
                 ... on ChangeCommitted { change { id status } } } }"""
        )
        change = canceled["cancelSubscription"]["change"]
        assert change["status"] == "SCHEDULED"
        await deliver(services)
        receiver.received.clear()
        await api.advance("2026-04-02T00:00:00Z")
        await deliver(services)
        about = {"customerId": "acme", "revision": (await api.customer("acme"))["revision"]}
        assert told(receiver.received, secret) == [
            ("change.applied", about | {"changeId": change["id"]}),
            ("entitlements.changed", about),
        ]


@on_sqlite
async def test_what_failed_is_seen_sent_again_and_recorded(
    api: Api, services: Services, example: Any
) -> None:
    async with receiving(500, 500, 204) as receiver:
        endpoint = (await listen(api, receiver.url + "?key=hidden", "change.applied"))["endpoint"]
        await api.create_customer("acme")
        await api.change("start", customerId="acme", planId="starter")
        await api.purchase(customerId="acme", addOnId="extra-calls", idempotencyKey="buy")
        await deliver(services)

        page = await deliveries(api, failed=True, first=1, endpointId=endpoint["id"])
        assert page["pageInfo"]["hasNextPage"]
        cursor = page["pageInfo"]["endCursor"]
        rest = await deliveries(api, failed=True, first=1, after=cursor)
        assert not rest["pageInfo"]["hasNextPage"]
        [newest], [oldest] = page["nodes"], rest["nodes"]
        assert newest["id"] > oldest["id"]
        assert (oldest["event"], oldest["attempts"], oldest["lastStatus"]) == (
            "change.applied",
            1,
            500,
        )
        assert oldest["endpoint"]["id"] == endpoint["id"]
        assert (await deliveries(api, failed=False))["nodes"] == []
        assert (await deliveries(api, endpointId="whe_other"))["nodes"] == []

        again = await api.ask(RESEND, id=oldest["id"])
        assert again["resendWebhook"]["__typename"] == "WebhookDelivery"
        await deliver(services)
        [arrived] = (await deliveries(api, failed=False))["nodes"]
        assert (arrived["id"], arrived["attempts"], arrived["lastStatus"]) == (oldest["id"], 2, 204)
        assert receiver.received[-1].id == arrived["messageId"]
        assert (await api.ask(DELETE, id=endpoint["id"]))["deleteWebhookEndpoint"] == {
            "__typename": "WebhookEndpoint",
            "id": endpoint["id"],
        }

    entries = await api.audit(stream="webhooks")
    assert [entry["action"] for entry in entries] == [
        "webhook_endpoint.deleted",
        "webhook_delivery.resent",
        "webhook_endpoint.created",
    ]
    assert "hidden" not in str(entries)
    assert "whsec_" not in str(entries)
    for mutation in (DELETE, RESEND):
        [answer] = (await api.ask(mutation, id="whe_none")).values()
        assert answer == {"__typename": "NotFound", "id": "whe_none"}


@on_sqlite
async def test_a_bad_endpoint_is_refused_with_every_mistake(api: Api) -> None:
    refused = await listen(api, "https://169.254.169.254/", "change.applied", "change.undone")
    assert refused["issues"] == [
        {"path": ["url"], "code": "PRIVATE_ADDRESS"},
        {"path": ["events", "1"], "code": "UNKNOWN_EVENT"},
    ]
    assert (await listen(api, "http://127.0.0.1/"))["issues"] == [
        {"path": ["events"], "code": "EMPTY"}
    ]
    assert (await api.ask("{ webhookEndpoints { id } }"))["webhookEndpoints"] == []


@on_sqlite
async def test_back_ends_make_endpoints_and_those_who_read_customers_see_them(
    api: Api, services: Services
) -> None:
    may_make, may_see = set(), set()
    for role in keys.ROLES:
        _, key = await keys.create(services.database, Actor("test"), role=role, name=role)
        asked = api.bound_to(key)
        made = (await asked.send(CREATE, url="http://localhost:9/", events=["*"])).json()
        seen = (await asked.send("{ webhookEndpoints { id } }")).json()
        may_make |= {role.value} if "errors" not in made else set()
        may_see |= {role.value} if "errors" not in seen else set()
    assert may_make == {"service", "admin"}
    assert may_see == {"service", "support", "finance", "admin"}


# ── the operator ─────────────────────────────────────────────────────────────


@pytest.fixture
def environment(database_url: str) -> dict[str, str]:
    return {
        "ENTITLEMENTS_DATABASE_URL": database_url,
        "ENTITLEMENTS_STRIPE_API_KEY": "sk_test_for_tests",
        "ENTITLEMENTS_STRIPE_API_BASE": "http://127.0.0.1:9",
        "ENTITLEMENTS_ADMIN_KEY": ADMIN_KEY,
        "ENTITLEMENTS_SANDBOX": "true",
    }


def command(environment: dict[str, str], *words: str, ends: int = 0) -> str:
    result = CliRunner().invoke(app, ["webhooks", *words], env=environment)
    assert result.exit_code == ends, (result.output, result.exception)
    return result.output


@on_sqlite
def test_an_operator_makes_lists_and_deletes_endpoints(environment: dict[str, str]) -> None:
    url = "https://93.184.216.34/hooks"
    words = ("create", url, "--event", "change.applied", "--event", "payment.failed")
    made = command(environment, *words).split()
    assert made[0].startswith("whe_")
    assert made[-1].startswith("whsec_")
    assert command(environment, "secret", made[0]).split() == [made[-1]]
    listed = command(environment, "list")
    assert made[0] in listed
    assert "change.applied" in listed
    assert "payment.failed" in listed
    assert made[-1] not in listed
    assert "whd_" not in command(environment, "list", "--failed")
    assert "HTTPS_ONLY" in command(environment, "create", "ftp://x.com", "--event", "*", ends=2)
    assert "NOT_FOUND" in command(environment, "resend", "whd_none", ends=2)
    assert "is deleted" in command(environment, "delete", made[0])
    assert made[0] not in command(environment, "list")
