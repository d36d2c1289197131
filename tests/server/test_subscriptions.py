"""Whoever listens hears when what a customer may do changes: over WebSocket and over SSE."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx
import pytest
import websockets
from websockets.asyncio.client import ClientConnection

from entitlements.audit.ledger import Actor
from entitlements.catalog.model import EntitlementValue, GrantMode
from entitlements.kernel.clock import SettableClock
from entitlements.server import keys
from entitlements.services import Services, opened_services
from entitlements.settings import Settings
from entitlements.subscriptions.change import Authority
from entitlements.subscriptions.service import Caller
from tests.api import Api
from tests.conftest import ADMIN_KEY, START, on_sqlite

STAFF = Caller(Actor("staff"), Authority.STAFF)
CHANGED = """subscription ($id: ID, $after: BigInt) {
  entitlementsChanged(customerId: $id, afterRevision: $after) {
    revision entitlements { feature { id } sources { kind package { versionId } } } } }"""


async def lend(services: Services, feature_id: str, **more: Any) -> None:
    on = EntitlementValue(enabled=True)
    await services.overrides.set(STAFF, "acme", feature_id, GrantMode.SET, on, "test", **more)


# ── graphql-transport-ws ─────────────────────────────────────────────────────


@asynccontextmanager
async def connected(url: str, bearer: str = ADMIN_KEY) -> AsyncIterator[ClientConnection]:
    protocol = websockets.Subprotocol("graphql-transport-ws")
    async with websockets.connect(f"ws://{url}/graphql", subprotocols=[protocol]) as socket:
        payload = {"authorization": f"Bearer {bearer}"}
        await socket.send(json.dumps({"type": "connection_init", "payload": payload}))
        assert (await heard(socket))["type"] == "connection_ack"
        yield socket


async def heard(socket: ClientConnection, seconds: float = 5) -> Any:
    return json.loads(await asyncio.wait_for(socket.recv(), seconds))


async def subscribe(socket: ClientConnection, operation: str = "1", **variables: Any) -> None:
    payload = {"query": CHANGED, "variables": variables}
    await socket.send(json.dumps({"id": operation, "type": "subscribe", "payload": payload}))


async def event(socket: ClientConnection) -> tuple[int, set[str]]:
    """The revision, and the features granted."""
    message = await heard(socket)
    assert message["type"] == "next", message
    assert "errors" not in message["payload"], message
    changed = message["payload"]["data"]["entitlementsChanged"]
    return int(changed["revision"]), {e["feature"]["id"] for e in changed["entitlements"]}


async def silence(socket: ClientConnection, seconds: float = 0.4) -> None:
    with pytest.raises(TimeoutError):
        await heard(socket, seconds)


async def test_a_change_by_another_process_is_heard_once_and_so_is_the_end_of_an_override(
    url: str, services: Services, settings: Settings
) -> None:
    async with (
        opened_services(settings, clock=SettableClock(START)) as other,
        connected(url) as socket,
    ):
        await subscribe(socket, id="acme")
        revision, features = await event(socket)
        assert "dashboards" not in features
        await lend(other, "dashboards", ends_at=START + timedelta(days=1))
        risen, features = await event(socket)
        assert (risen, "dashboards" in features) == (revision + 1, True)
        await silence(socket)
        assert isinstance(services.clock, SettableClock)
        services.clock.set(START + timedelta(days=1))
        same, features = await event(socket)
        assert (same, "dashboards" in features) == (risen, False)


@on_sqlite
async def test_who_comes_back_hears_only_what_they_do_not_know(
    url: str, services: Services
) -> None:
    async with connected(url) as socket:
        await subscribe(socket, id="acme")
        revision, _ = await event(socket)
    async with connected(url) as socket:
        await subscribe(socket, id="acme", after=str(revision))
        await silence(socket)
        await lend(services, "dashboards")
        await lend(services, "exports")
        # Both at once are one event, or two: what counts is what is so in the end.
        last, features = await event(socket)
        while last < revision + 2:
            last, features = await event(socket)
        assert {"dashboards", "exports"} <= features
    async with connected(url) as socket:
        await subscribe(socket, id="acme", after=str(revision))
        assert (await event(socket))[0] == revision + 2


@on_sqlite
async def test_a_stream_ends_with_its_bearer(
    url: str, api: Api, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, key = await keys.create(services.database, Actor("test"), role="service", name="back end")
    short = await api.ask(
        'mutation { createCustomerToken(customerId: "acme", ttlSeconds: 2) {'
        " ... on CustomerToken { token } } }"
    )
    token = await api.token("acme")
    bearers = (short["createCustomerToken"]["token"], token.bearer, key)
    async with (
        connected(url, bearers[0]) as first,
        connected(url, bearers[1]) as second,
        connected(url, bearers[2]) as third,
    ):
        for socket in (first, second):
            await subscribe(socket)
        await subscribe(third, id="acme")
        for socket in (first, second, third):
            await event(socket)
        await ended(first)
        await services.customers.revoke_tokens(STAFF, "acme")
        await ended(second)
        await event(third)
        await keys.revoke(services.database, Actor("test"), row.id)
        await ended(third)


@on_sqlite
async def test_a_revoked_key_can_do_nothing_more_over_its_open_connection(
    url: str, services: Services
) -> None:
    row, key = await keys.create(services.database, Actor("test"), role="service", name="back end")
    async with connected(url, key) as socket:
        for refused in (False, True):
            query = {"query": "{ viewer { role } }"}
            await socket.send(json.dumps({"id": "1", "type": "subscribe", "payload": query}))
            answer = await heard(socket)
            assert ("errors" in answer["payload"]) == refused
            assert (await heard(socket))["type"] == "complete"
            await keys.revoke(services.database, Actor("test"), row.id)
    assert answer["payload"]["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"


async def ended(socket: ClientConnection) -> None:
    message = await heard(socket)
    [error] = message["payload"]["errors"]
    assert error["extensions"]["code"] == "UNAUTHENTICATED"
    assert (await heard(socket))["type"] == "complete"


@on_sqlite
async def test_nobody_listens_to_what_is_not_theirs_or_too_often(
    url: str, api: Api, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services.streams, "_at_most", 1)
    await api.create_customer("bee")
    _, shop = await keys.create(services.database, Actor("test"), role="publishable", name="shop")
    for bearer, id, code in (
        ((await api.token("acme")).bearer, "bee", "NOT_FOUND"),
        (ADMIN_KEY, "nobody", "NOT_FOUND"),
        (shop, "acme", "FORBIDDEN"),
    ):
        async with connected(url, bearer) as socket:
            await subscribe(socket, id=id)
            message = await heard(socket)
            errors = message["payload"]
            [error] = errors if isinstance(errors, list) else errors["errors"]
            assert error["extensions"]["code"] == code
    async with connected(url) as socket:
        await subscribe(socket, "1", id="acme")
        await event(socket)
        await subscribe(socket, "2", id="bee")
        message = await heard(socket)
        assert message["payload"]["errors"][0]["extensions"]["code"] == "TOO_MANY_SUBSCRIPTIONS"
        assert (await heard(socket))["type"] == "complete"
        await socket.send(json.dumps({"id": "1", "type": "complete"}))
        await asyncio.sleep(0.1)
        await subscribe(socket, "3", id="bee")
        await event(socket)
    for payload in ({}, {"authorization": "Bearer nonsense"}, {"authorization": 5}):
        protocol = websockets.Subprotocol("graphql-transport-ws")
        async with websockets.connect(f"ws://{url}/graphql", subprotocols=[protocol]) as socket:
            await socket.send(json.dumps({"type": "connection_init", "payload": payload}))
            with pytest.raises(websockets.ConnectionClosedError) as closed:
                await heard(socket)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4403


@on_sqlite
async def test_each_operation_of_a_connection_has_an_instant_of_its_own(
    url: str, services: Services
) -> None:
    assert isinstance(services.clock, SettableClock)
    seen = []
    async with connected(url) as socket:
        for id in ("1", "2"):
            query = {"query": "{ sandboxClock { now } }"}
            await socket.send(json.dumps({"id": id, "type": "subscribe", "payload": query}))
            seen.append((await heard(socket))["payload"]["data"]["sandboxClock"]["now"])
            assert (await heard(socket))["type"] == "complete"
            services.clock.set(START + timedelta(hours=1))
    assert seen[0] < seen[1]


# ── SSE ──────────────────────────────────────────────────────────────────────


@on_sqlite
async def test_sse_tells_the_same_and_ends_when_the_process_stops(
    url: str, api: Api, services: Services
) -> None:
    token = await api.token("acme")
    headers = {"Authorization": f"Bearer {token.bearer}", "Accept": "text/event-stream"}
    async with (
        httpx.AsyncClient(base_url=f"http://{url}") as client,
        client.stream("POST", "/graphql", json={"query": CHANGED}, headers=headers) as response,
    ):
        assert (response.status_code, response.headers["content-type"]) == (
            200,
            "text/event-stream",
        )
        lines = response.aiter_lines()
        assert (await sse_event(lines))[0] == "next"
        await lend(services, "dashboards")
        kind, data = await sse_event(lines)
        granted = {e["feature"]["id"] for e in data["data"]["entitlementsChanged"]["entitlements"]}
        assert (kind, "dashboards" in granted) == ("next", True)
        services.streams.close()
        assert (await sse_event(lines))[0] == "complete"
        nobody = await client.post(
            "/graphql", json={"query": CHANGED}, headers={"Accept": "text/event-stream"}
        )
        assert nobody.status_code == 401


async def sse_event(lines: AsyncIterator[str]) -> tuple[str, Any]:
    kind = ""
    async with asyncio.timeout(5):
        async for line in lines:
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name.startswith("data"):
                return kind, json.loads(value) if value else None
    raise AssertionError("it ended")
