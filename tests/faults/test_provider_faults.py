"""The provider is slow, or down. What each single call makes of a fault: `test_every_call`."""

import asyncio
from datetime import datetime
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from entitlements.services import Services
from entitlements.subscriptions import leases
from entitlements.subscriptions.tables import ChangeRow
from tests.api import Api


async def fault(sandbox_url: str, **what: Any) -> None:
    async with httpx.AsyncClient() as client:
        answer = await client.post(f"{sandbox_url}/_sandbox/faults", json=what)
        assert answer.is_success, answer.text


async def _on_starter(api: Api) -> None:
    await api.create_customer("acme")
    assert (await api.change("start", customerId="acme", planId="starter"))["revision"]


async def test_a_process_that_waits_for_a_slow_provider_is_not_taken_for_dead(
    api: Api,
    services: Services,
    sandbox_url: str,
    example: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await _on_starter(api)
    monkeypatch.setattr(leases, "LEASE_RENEWED_AFTER_SECONDS", 0.1)
    await fault(sandbox_url, kind="latency", seconds=2, method="POST", path="/v1/subscriptions")
    buying = asyncio.create_task(
        api.purchase(customerId="acme", addOnId="extra-calls", idempotencyKey="buy")
    )
    seen: set[datetime] = set()
    while not buying.done():
        await asyncio.sleep(0.1)
        async with services.database.read() as session:
            pending = select(ChangeRow.leased_until).where(ChangeRow.status == "pending")
            seen.update(await session.scalars(pending))
    assert len(seen) > 2
    assert (await buying)["__typename"] == "ChangeCommitted"


async def test_a_provider_that_is_down_stops_no_check(
    api: Api, sandbox_url: str, example: Any
) -> None:
    await _on_starter(api)
    await fault(sandbox_url, kind="cut_before", times=1000)
    assert (await api.access("acme", "seats"))["allowed"]
    quote = await api.preview(customerId="acme", planId="professional")
    assert quote["__typename"] == "PaymentProviderUnavailable"
