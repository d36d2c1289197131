"""Another application decides in its own process, hears of changes, and outlives the service."""

import asyncio
import re
import subprocess
import sys
import time
import types
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import entitlements.access
from entitlements.access.guard import Denied, Guard, Verdict
from entitlements.access.guard.dependency import Requires
from entitlements.audit.ledger import Actor
from entitlements.catalog.model import EntitlementValue, GrantMode
from entitlements.server import keys
from entitlements.services import Services
from tests.api import Api
from tests.conftest import on_sqlite
from tests.server.test_subscriptions import STAFF, lend

pytestmark = on_sqlite


@pytest.fixture
async def key(services: Services) -> str:
    _, key = await keys.create(services.database, Actor("test"), role="service", name="shop")
    return key


@pytest.fixture
async def guard(url: str, key: str) -> AsyncIterator[Guard]:
    address = f"http://{url}/graphql"
    async with Guard(address, key, timeout_seconds=5, fail_open={"exports"}) as guard:
        yield guard


async def listened_to(guard: Guard, customer_id: str) -> None:
    """Until the service has taken up the stream: then it is good for longer than a first read."""
    for _ in range(500):
        kept = guard._kept.peek(customer_id)
        if kept is not None and kept.good_until - time.monotonic() > 31:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("never listened to")


async def test_it_decides_from_memory_and_hears_of_a_change(
    guard: Guard, api: Api, services: Services
) -> None:
    assert (await guard.check("acme", "dashboards")).reason == "NOT_ENTITLED"
    asked = {
        ("integrations", "3"): (True, None),
        ("integrations", "4"): (False, "VALUE_TOO_LOW"),
        ("support-hours", "48"): (True, None),
        ("support-hours", "24"): (False, "VALUE_TOO_LOW"),
        ("support-channel", "email"): (True, None),
        ("support-channel", "chat"): (False, "VALUE_TOO_LOW"),
        ("sso", None): (False, "NOT_ENTITLED"),
        ("nothing", None): (False, "NOT_ENTITLED"),
    }
    for (feature_id, at_least), (allowed, reason) in asked.items():
        verdict = guard.check_now("acme", feature_id, at_least=at_least)
        assert verdict is not None
        assert (verdict.allowed, verdict.reason, verdict.how) == (allowed, reason, "memory")
    with pytest.raises(ValueError, match="fax"):
        guard.check_now("acme", "support-channel", at_least="fax")
    with pytest.raises(ValueError, match="no order"):
        await guard.check("acme", "seats", at_least="1")
    assert guard.check_now("acme", "seats") is None
    assert (await guard.check("acme", "seats", quantity=5)).how == "api"
    assert (await guard.check("acme", "seats", quantity=6)).reason == "LIMIT_EXCEEDED"
    assert (await guard.check("nobody", "sso")).reason == "CUSTOMER_NOT_FOUND"

    await listened_to(guard, "acme")
    await lend(services, "dashboards")
    async with asyncio.timeout(5):
        while guard.check_now("acme", "dashboards") != Verdict(True, None, 4):
            await asyncio.sleep(0.005)
    taken = await services.overrides.set(
        STAFF, "acme", "sso", GrantMode.SET, EntitlementValue(enabled=True), "test"
    )
    assert taken.in_force(services.clock.now())
    revision = (await api.access("acme", "sso"))["revision"]
    assert (await guard.check("acme", "sso", min_revision=int(revision))).allowed


async def test_without_the_service_what_is_known_answers_and_then_the_policy_of_the_feature(
    guard: Guard, api: Api
) -> None:
    await guard.check("acme", "sso")
    guard._url = "http://127.0.0.1:9/graphql"
    await guard.close()
    guard._client = httpx.AsyncClient()
    kept = guard._kept.peek("acme")
    assert kept is not None
    kept.good_until = 0.0
    known = await guard.check("acme", "integrations")
    assert (known.allowed, known.how) == (True, "stale")
    kept.read_at -= 301
    closed = await guard.check("acme", "integrations")
    assert closed == Verdict(False, "UNREACHABLE", 0, "policy")
    assert await guard.check("acme", "exports") == Verdict(True, None, 0, "policy")
    assert (await guard.check("acme", "integrations", min_revision=9)).how == "policy"
    with pytest.raises(Denied) as denied:
        await guard.require("bee", "sso")
    assert denied.value.extensions["reason"] == "UNREACHABLE"


async def test_an_endpoint_is_open_to_those_who_have_the_feature(
    guard: Guard, services: Services
) -> None:
    requires = Requires("sso", guard=guard, customer_id=lambda r: r.headers["x-customer"])

    async def endpoint(request: Request) -> PlainTextResponse:
        await requires(request)
        return PlainTextResponse("in")

    app = Starlette(routes=[Route("/", endpoint)])
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        refused = await client.get("/", headers={"x-customer": "acme"})
        assert (refused.status_code, refused.text) == (403, "sso: NOT_ENTITLED")
        await listened_to(guard, "acme")
        await lend(services, "sso")
        async with asyncio.timeout(5):
            while (await client.get("/", headers={"x-customer": "acme"})).status_code != 200:
                await asyncio.sleep(0.005)


async def test_the_readmes_example_runs(
    guard: Guard, url: str, key: str, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    await guard.check("acme", "sso")  # the example waits half a second: not for a first request
    readme = (Path(entitlements.access.__file__).parent / "README.md").read_text()
    found = re.search(r"```python\n(.*?)```", readme, re.DOTALL)
    assert found
    assert len(found[1].splitlines()) <= 24
    shop: Any = types.ModuleType("shop")
    monkeypatch.setitem(sys.modules, "shop", shop)
    exec(found[1], shop.__dict__)  # what the README says
    address = f"http://{url}/graphql"
    assert await shop.report(address, key, "acme") == {
        "code": "NOT_ENTITLED",
        "featureId": "dashboards",
        "reason": "NOT_ENTITLED",
    }
    await lend(services, "dashboards")
    assert await shop.report(address, key, "acme") == {"sales": "up"}


def test_it_needs_nothing_that_the_service_is_made_of(database_url: str) -> None:
    code = "import sys, entitlements.access.guard; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in run.stdout.split()}
    assert not loaded & {"sqlalchemy", "strawberry", "stripe", "starlette", "msgspec", "pydantic"}
