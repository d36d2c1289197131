"""The provider is slow, breaks off, or fails before or after the effect: charged once, or not."""

import asyncio
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from entitlements.services import Services
from entitlements.subscriptions.tables import ChangeRow
from tests.api import Api


async def fault(sandbox_url: str, **what: Any) -> None:
    async with httpx.AsyncClient() as client:
        answer = await client.post(f"{sandbox_url}/_sandbox/faults", json=what)
        assert answer.is_success, answer.text


async def _on_starter(api: Api) -> None:
    await api.create_customer("acme")
    assert (await api.change("start", customerId="acme", planId="starter"))["revision"]


async def _buy(api: Api) -> Any:
    return await api.purchase(customerId="acme", addOnId="extra-calls", idempotencyKey="buy")


@pytest.mark.parametrize("times", [1, 9])
@pytest.mark.parametrize("path", ["/v1/subscriptions", "/v1/invoices/create_preview"])
@pytest.mark.parametrize(
    "kind", ["rate_limit", "error_before", "error_after", "cut_before", "cut_after"]
)
async def test_a_fault_ends_with_one_charge_once_the_provider_is_back(
    api: Api, services: Services, sandbox_url: str, example: Any, kind: str, path: str, times: int
) -> None:
    await _on_starter(api)
    await fault(sandbox_url, kind=kind, times=times, method="POST", path=path)

    bought = await _buy(api)

    if bought["__typename"] != "ChangeCommitted":
        assert bought["__typename"] == "PaymentProviderUnavailable", bought
        async with httpx.AsyncClient() as client:
            await client.delete(f"{sandbox_url}/_sandbox/faults")
        for _ in range(100):
            bought = await _buy(api)
            if bought["__typename"] == "ChangeCommitted":
                break
            await asyncio.sleep(0.1)
    assert bought["change"]["status"] == "APPLIED", bought
    customer = await api.customer("acme")
    paid = [invoice["amountPaid"]["amountMinor"] for invoice in customer["invoices"]["nodes"]]
    assert paid == ["1500", "2900"]
    assert len(customer["subscriptions"][0]["items"]) == 2


async def test_a_process_that_waits_for_a_slow_provider_is_not_taken_for_dead(
    api: Api, services: Services, sandbox_url: str, example: Any
) -> None:
    await _on_starter(api)
    await fault(sandbox_url, kind="latency", seconds=3, method="POST", path="/v1/subscriptions")
    buying = asyncio.create_task(_buy(api))
    leases = []
    for _ in range(2):
        await asyncio.sleep(1.3)
        async with services.database.read() as session:
            pending = select(ChangeRow.leased_until).where(ChangeRow.status == "pending")
            leases.append(await session.scalar(pending))
    assert leases[0] is not None
    assert leases[1] is not None
    assert leases[0] < leases[1]
    assert (await buying)["__typename"] == "ChangeCommitted"


async def test_a_provider_that_is_down_stops_no_check(
    api: Api, sandbox_url: str, example: Any
) -> None:
    await _on_starter(api)
    await fault(sandbox_url, kind="cut_before", times=1000)
    assert (await api.access("acme", "seats"))["allowed"]
    quote = await api.preview(customerId="acme", planId="professional")
    assert quote["__typename"] == "PaymentProviderUnavailable"
