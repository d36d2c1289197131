"""The service is killed while a change is scheduled: once it is back, it is planned once."""

import contextlib

import httpx
import pytest

from tests.events import events_of
from tests.faults.test_kill import committed, killer, publish_example, serving

MADE, SHAPED = "/v1/subscription_schedules", "/v1/subscription_schedules/sub_"


@pytest.mark.parametrize(
    ("database_url", "path"),
    [
        ("sqlite", SHAPED),
        ("postgresql", MADE),
        pytest.param("sqlite", MADE, marks=pytest.mark.soak),
        pytest.param("postgresql", SHAPED, marks=pytest.mark.soak),
    ],
    indirect=["database_url"],
)
async def test_killed_while_the_provider_is_told_what_waits(
    database_url: str, sandbox_url: str, path: str
) -> None:
    async with killer(sandbox_url) as (standing, provider_url):
        async with serving(database_url, provider_url) as (process, api):
            await publish_example(api)
            await api.create_customer("acme")
            await api.change("start", customerId="acme", planId="professional")
            quote = await api.preview(customerId="acme", planId="starter")
            standing.victim, standing.deadly = process, ("POST", path)
            with contextlib.suppress(httpx.HTTPError):
                await api.commit(quote["token"], "deadly")
            assert standing.killed
            await process.wait()

        async with serving(database_url, provider_url) as (_, api):
            answer = await committed(api, quote["token"], "deadly")
            assert answer["change"]["status"] == "SCHEDULED", answer
            [held] = (await api.customer("acme"))["subscriptions"]
            assert len(held["scheduledChanges"]) == 1
            types = [event["type"] for event in await events_of(sandbox_url)]
            assert types.count("subscription_schedule.created") == 1
            await api.advance(held["currentPeriod"]["end"])
            [held] = (await api.customer("acme"))["subscriptions"]
            assert held["plan"] == {"versionId": "starter@1"}
            assert held["recurring"] == {"amountMinor": "2900"}
