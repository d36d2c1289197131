"""What is too much is refused early, each limit by its own code, and who keeps to it goes on."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from entitlements.audit.ledger import Actor
from entitlements.server import keys, protocol, rates
from entitlements.server.rates import Rates
from entitlements.services import Services
from entitlements.settings import Settings, load_settings
from graphql_schema.permissions import Principal, Role
from tests.api import Api
from tests.server.test_subscriptions import connected, heard


@pytest.fixture
def database_url(sqlite_database_url: str) -> str:
    return sqlite_database_url


@pytest.fixture
def settings(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    marker = request.node.get_closest_marker("limits")
    return settings.model_copy(update=marker.kwargs if marker else {})


def code(response: httpx.Response) -> tuple[int, str]:
    [error] = response.json()["errors"]
    return response.status_code, error["extensions"]["code"]


@pytest.mark.limits(public_requests_per_second=1.0)
async def test_who_is_in_public_asks_so_often_and_is_told_when_to_come_back(
    api: Api, services: Services, example: Any
) -> None:
    await api.create_customer("ant")
    token = await api.token("ant")
    _, shop = await keys.create(services.database, Actor("test"), role="publishable", name="shop")
    checks = '{ access(featureId: "sso") { allowed } }', "{ viewer { role } }"
    for asked in (token, api.bound_to(shop)):
        answers = [await asked.send(checks[number % 2]) for number in range(5)]
        assert [answer.status_code for answer in answers] == [200] * 4 + [429]
        assert code(answers[-1]) == (429, "RATE_LIMITED")
        assert answers[-1].headers["retry-after"] == "1"
    for _ in range(6):
        await api.ask("{ viewer { role } }")


@pytest.mark.limits(public_requests_per_second=0.5)
async def test_each_operation_of_a_websocket_is_held_to_the_same_limits(url: str, api: Api) -> None:
    async with connected(url, (await api.token("acme")).bearer) as socket:
        messages = []
        for number in range(3):
            payload = {"query": "{ " + "viewer { role } " * (1 + 20 * number) + "}"}
            await socket.send(
                json.dumps({"id": f"{number}", "type": "subscribe", "payload": payload})
            )
            messages.append(await heard(socket))
            if messages[-1]["type"] == "next":
                assert (await heard(socket))["type"] == "complete"
    assert [message["type"] for message in messages] == ["next", "error", "error"]
    codes = [message["payload"][0]["extensions"]["code"] for message in messages[1:]]
    assert codes == ["QUERY_TOO_COMPLEX", "RATE_LIMITED"]


def test_a_publishable_key_is_counted_by_address_and_a_token_by_who_carries_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(rates, "monotonic_seconds", lambda: now)
    limited = Rates(load_settings(public_requests_per_second=2, requests_per_second=100))
    shop = Principal(role=Role.PUBLISHABLE, name="key:shop")
    ant = Principal(role=Role.CUSTOMER, name="customer:ant", customer_id="ant")
    back_end = Principal(role=Role.SERVICE, name="key:back end")

    def taken(principal: Principal, address: str) -> int:
        """How many of 1,000 that come at once."""
        return sum(not limited.wait_seconds(principal, address) for _ in range(1000))

    assert [taken(shop, "10.0.0.1"), taken(shop, "10.0.0.2")] == [8, 8]
    assert [taken(ant, "10.0.0.1"), taken(ant, "10.0.0.2")] == [8, 0]
    assert taken(back_end, "10.0.0.1") == 400
    assert limited.wait_seconds(ant, "") == pytest.approx(0.5)
    now += 1.5
    assert taken(ant, "") == 3
    assert not Rates(load_settings(requests_per_second=0)).wait_seconds(back_end, "")


@pytest.mark.limits(
    request_bytes_at_most=1_000,
    document_tokens_at_most=30,
    document_depth_at_most=3,
    document_aliases_at_most=1,
    document_root_fields_at_most=2,
    document_objects_at_most=99,
)
async def test_each_limit_is_the_operators_to_set(api: Api) -> None:
    for text in (
        "{ viewer { " + "role " * 30 + "} }",
        "{ catalog { products { plans { id } } } }",
        "{ a: viewer { role } b: viewer { role } }",
        "{ viewer { role } } ".replace("viewer", "viewer { role } viewer { role } viewer"),
        "{ customers { nodes { id } } }",
    ):
        refused = await api.send(text)
        assert code(refused) == (200, "QUERY_TOO_COMPLEX"), text
    assert code(await api.send("{ viewer { role } }" + " " * 1_000)) == (413, "BAD_USER_INPUT")
    await api.ask("{ a: viewer { role } customers(first: 10) { nodes { id } } }")


@pytest.mark.limits(query_seconds_at_most=1e-6)
async def test_a_query_has_its_time_and_a_mutation_takes_its_own(api: Api, example: Any) -> None:
    assert await api.refused("{ auditEntries { nodes { id } } }") == "TIMEOUT"
    assert (await api.create_customer("ant"))["__typename"] == "CustomerPayload"


async def test_who_connects_and_says_nothing_or_too_slowly_is_let_go(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "REQUEST_SECONDS", 0.3)
    host, _, port = url.partition(":")
    head = b"POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n"
    for said in (b"", b"GET /heal", head + b"\r\n{"):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(said)
        assert await asyncio.wait_for(reader.read(), 10) == b"", said
        writer.close()

    reader, writer = await asyncio.open_connection(host, int(port))
    for _ in range(2):  # what comes in time is answered, and may pause in between
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in await asyncio.wait_for(reader.readuntil(b"}"), 10)
        await asyncio.sleep(0.5)
    writer.close()
    async with connected(url) as socket:
        await asyncio.sleep(0.5)
        await socket.send(json.dumps({"type": "ping"}))
        assert (await heard(socket))["type"] == "pong"
