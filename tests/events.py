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


async def events_of(sandbox_url: str) -> list[dict[str, Any]]:
    """Everything that happened at the provider, oldest first."""
    events: list[dict[str, Any]] = []
    async with httpx.AsyncClient(auth=("sk_test_x", ""), verify=False) as client:
        more: dict[str, str] = {}
        while True:
            found = (await client.get(f"{sandbox_url}/v1/events?limit=100", params=more)).json()
            events += found["data"]
            if not found["has_more"]:
                return events[::-1]
            more = {"starting_after": events[-1]["id"]}


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
