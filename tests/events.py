"""The provider's events, posted by hand: a test decides when, in which order and how often."""

import json
from typing import Any

import httpx
import stripe

from entitlements.kernel.clock import wall_now
from entitlements.services import Services
from tests.api import Api

WEBHOOK_SECRET = "whsec_for_tests_only"


def signed(payload: str, *, secret: str = WEBHOOK_SECRET, age_seconds: int = 0) -> dict[str, str]:
    at = int(wall_now().timestamp()) - age_seconds
    header = stripe.WebhookSignature.generate_signature_header(payload, secret, timestamp=at)
    return {"Stripe-Signature": header, "Content-Type": "application/json"}


async def events_of(provider: str | httpx.AsyncClient) -> list[dict[str, Any]]:
    """Everything that happened at the provider (its URL, or a client of it), oldest first."""
    if isinstance(provider, str):
        async with httpx.AsyncClient(
            base_url=provider, auth=("sk_test_x", ""), verify=False
        ) as client:
            return await events_of(client)
    events: list[dict[str, Any]] = []
    more: dict[str, str] = {"limit": "100"}
    while True:
        found = (await provider.get("/v1/events", params=more)).json()
        events += found["data"]
        if not found["has_more"]:
            return events[::-1]
        more["starting_after"] = events[-1]["id"]


async def post(api: Api, event: dict[str, Any]) -> int:
    payload = json.dumps(event)
    response = await api.client.post("/webhooks/stripe", content=payload, headers=signed(payload))
    return response.status_code


async def deliver(api: Api, services: Services, sandbox_url: str) -> None:
    """Post everything that happened, and let the inbox work."""
    for event in await events_of(sandbox_url):
        assert await post(api, event) == 200
    while await services.webhooks.work():
        pass
