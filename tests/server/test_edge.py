"""What every answer carries, which pages may ask, and what an operator watches."""

import re
from typing import Any

import httpx
import pytest

from entitlements.services import Services
from entitlements.settings import Settings
from tests.api import Api

PAGE = "https://app.example"


@pytest.fixture
def database_url(sqlite_database_url: str) -> str:
    return sqlite_database_url


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"cors_origins": (PAGE,)})


async def test_no_answer_is_kept_framed_or_guessed_at(api: Api, example: Any) -> None:
    check = '{ access(customerId: "ant", featureId: "sso") { allowed } }'
    answers = [await api.send(check) for _ in range(3)]  # the last ones in front of the framework
    for answer in (*answers, await api.client.get("/healthz"), await api.client.get("/nowhere")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-request-id"].startswith("req_")


async def test_pages_of_the_origins_that_are_set_may_ask_and_others_may_not(api: Api) -> None:
    async def preflight(origin: str) -> httpx.Response:
        headers = {
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
        }
        return await api.client.options("/graphql", headers=headers)

    asked = await preflight(PAGE)
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, PAGE)
    assert "access-control-allow-origin" not in (await preflight("https://evil.example")).headers
    for _ in range(2):
        bearer = {"Authorization": f"Bearer {api.bearer}", "Origin": PAGE}
        body = {"query": '{ access(customerId: "ant", featureId: "sso") { allowed } }'}
        answer = await api.client.post("/graphql", json=body, headers=bearer)
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert "access-control-allow-credentials" not in answer.headers


async def figures(api: Api, metric: str) -> dict[str, float]:
    text = (await api.client.get("/metrics")).text
    found = re.findall(rf"^{metric}\{{(.*)\}} (\S+)$", text, re.MULTILINE)
    return {labels: float(value) for labels, value in found}


async def test_requests_are_measured_by_operation_and_strangers_cannot_make_up_names(
    api: Api, services: Services, example: Any
) -> None:
    await api.create_customer("ant")
    await api.change("start", customerId="ant", planId="starter")
    token = await api.token("ant")
    named = 'query FrontPage($c: ID) { access(customerId: $c, featureId: "sso") { allowed } }'
    for _ in range(3):
        await api.ask(named, c="ant")
        await token.ask(named.replace("FrontPage", "x" * 500))
    await api.send("query Broken { nothing }")
    await api.client.post("/graphql", json={"query": named})  # without a bearer
    counts = await figures(api, "entitlements_request_seconds_count")
    assert counts['operation="FrontPage",outcome="ok"'] == 3
    assert counts['operation="access",outcome="ok"'] >= 3
    assert counts['operation="-",outcome="refused"'] >= 1
    assert "xxx" not in repr(counts)
    turned_away = await figures(api, "entitlements_requests_turned_away_total")
    assert turned_away['code="UNAUTHENTICATED"'] >= 1
    calls = await figures(api, "entitlements_provider_call_seconds_count")
    assert calls['method="post",status="200"'] >= 1


async def test_what_waits_is_measured_when_it_is_asked_for(api: Api, example: Any) -> None:
    queues = {"webhooks", "changes", "scheduled", "provider", "usage", "notices"}
    found = await figures(api, "entitlements_queue_depth")
    assert found.keys() == {f'queue="{name}"' for name in queues}


async def test_a_process_is_ready_with_its_database_migrated_and_its_feed_heard(
    api: Api, services: Services
) -> None:
    ready = await api.client.get("/readyz")
    checks = {"database": True, "migrations": True, "change_feed": True, "serving": True}
    assert (ready.status_code, ready.json()) == (200, checks)
    await services.feed.close()
    deaf = await api.client.get("/readyz")
    assert (deaf.status_code, deaf.json()["change_feed"]) == (503, False)
