"""Metered charges: what is used is invoiced after the period, once, at the engine's figure."""

import asyncio
from typing import Any

import httpx
import pytest

from entitlements.kernel.clock import SettableClock
from entitlements.kernel.errors import PaymentProviderUnavailable
from entitlements.services import Services
from entitlements.worker import work_once
from tests.api import Api
from tests.conftest import on_sqlite, publish
from tests.reconciliation import findings, reconciled_clean
from tests.stories import instant


def _fee(amount: str) -> dict[str, Any]:
    return {"id": "fee", "name": "Fee", "model": "flat",
            "prices": {"usd": {"month": amount, "year": f"{amount}0"}}}  # fmt: skip


def _calls(included: int, **more: Any) -> dict[str, Any]:
    return {"id": "calls", "name": "Calls", "quantity": "calls", "included": included,
            "billing": "in_arrears"} | more  # fmt: skip


def _limit(limit: int) -> dict[str, Any]:
    return {"calls": {"limit": limit, "overage": True}}


BLOCKS = {"model": "package", "package_size": 100, "prices": {"usd": {"month": "1.50"}}}
TIERS = {"model": "graduated",
         "prices": {"usd": {"month": [{"up_to": 100, "unit": "0.10"},
                                      {"up_to": None, "unit": "0.05"}]}}}  # fmt: skip


JOBS = {"id": "jobs", "name": "Jobs", "model": "per_unit", "quantity": "jobs", "included": 10,
        "billing": "in_arrears", "prices": {"usd": {"month": "1.00"}}}  # fmt: skip


def document() -> dict[str, Any]:
    """Two plans that bill calls by blocks and by tiers, one that bills jobs, and one nothing."""
    return {
        "currencies": ["usd"],
        "features": [
            {"id": "calls", "name": "calls", "kind": "metered", "unit": "call",
             "aggregation": "sum", "reset": "billing_period"},
            {"id": "jobs", "name": "jobs", "kind": "metered", "unit": "job",
             "aggregation": "sum", "reset": "day"},
        ],
        "products": [
            {
                "id": "app", "name": "App",
                "plans": [
                    {"id": "free", "name": "Free", "charges": [_fee("0.00")],
                     "entitlements": {"calls": {"limit": 1000}}},
                    {"id": "small", "name": "Small", "entitlements": _limit(1000),
                     "charges": [_fee("10.00"), _calls(1000, **BLOCKS)]},
                    {"id": "daily", "name": "Daily",
                     "entitlements": {"jobs": {"limit": 10, "overage": True}},
                     "charges": [_fee("20.00"), JOBS]},
                    {"id": "large", "name": "Large", "entitlements": _limit(2000),
                     "charges": [_fee("50.00"), _calls(2000, **TIERS)]},
                ],
            }
        ],
    }  # fmt: skip


@pytest.fixture
async def small(api: Api, services: Services) -> Api:
    """`ant` on Small since 1 March 2026, 12:00."""
    await publish(services, document())
    await api.create_customer("ant")
    started = await api.change("start", customerId="ant", planId="small")
    assert started["__typename"] == "ChangeCommitted", started
    return api


async def used(api: Api, id: str, quantity: int, **more: Any) -> None:
    event = {"id": id, "customerId": "ant", "featureId": "calls", "quantity": quantity}
    recorded = await api.record(event | more)
    assert recorded["accepted"] == 1, recorded


async def invoices(sandbox_url: str) -> list[list[tuple[str, int, int | None]]]:
    """Every invoice at the provider, oldest first: of each line its charge, amount and quantity."""
    headers = {"Authorization": "Bearer sk_test_of_the_test"}
    async with httpx.AsyncClient(base_url=sandbox_url, headers=headers) as client:
        page = (await client.get("/v1/invoices", params={"limit": "100"})).json()["data"]
        prices = (await client.get("/v1/prices", params={"limit": "100"})).json()["data"]
    charges = {price["id"]: price["nickname"].split("/")[1] for price in prices}
    return [
        [
            (
                charges[line["pricing"]["price_details"]["price"]]
                if line["pricing"]
                else line["metadata"]["charge"],
                line["amount"],
                line["quantity"],
            )
            for line in invoice["lines"]["data"]
        ]
        for invoice in reversed(page)
    ]


async def test_a_month_beyond_what_is_included_is_invoiced_by_started_blocks(
    small: Api, services: Services, sandbox_url: str
) -> None:
    await used(small, "a", 900)
    await small.advance("2026-03-20T00:00:00Z")
    await small.consume("calls", "b", customerId="ant", quantity=321)
    await small.advance("2026-03-31T23:00:00Z")
    await used(small, "c", 30)
    await small.advance("2026-04-02T00:00:00Z")
    # 1,251 less 1,000 included are 251 units: 3 blocks of 100 at 1.50.
    assert await invoices(sandbox_url) == [
        [("fee", 1000, 1)],
        [("fee", 1000, 1), ("calls", 450, 251)],
    ]
    asked = await small.access("ant", "calls")
    assert (asked["used"], asked["allowed"]) == ("0", True)
    await reconciled_clean(services)

    await used(small, "d", 999)
    await small.advance("2026-05-02T00:00:00Z")
    assert (await invoices(sandbox_url))[2] == [("fee", 1000, 1), ("calls", 0, 0)]
    await reconciled_clean(services)


@on_sqlite
async def test_late_use_counts_in_its_own_month_is_shown_and_is_invoiced_when_repaired(
    small: Api, services: Services, sandbox_url: str
) -> None:
    await used(small, "a", 1010)
    await small.advance("2026-04-10T00:00:00Z")
    assert (await invoices(sandbox_url))[-1] == [("fee", 1000, 1), ("calls", 150, 10)]

    await used(small, "late", 95, at="2026-03-31T00:00:00Z")
    assert (await small.access("ant", "calls"))["used"] == "0"
    [found] = await findings(services)
    drift = found.drift
    assert (drift.kind.value, drift.path, drift.ours, drift.theirs) == (
        "usage_unbilled", "usage.small/calls.2026-03-01T12:00:00Z", 105, 10,
    )  # fmt: skip
    [mended] = await findings(services, repair=True)
    assert mended.mended
    await reconciled_clean(services)

    await used(small, "later", 96, at="2026-03-31T00:00:00Z")  # 201: a third block has begun
    [mended] = await findings(services, repair=True)
    assert mended.mended
    await small.advance("2026-05-02T00:00:00Z")
    renewal = (await invoices(sandbox_url))[-1]
    assert renewal == [("calls", 150, 1), ("calls", 150, 1), ("fee", 1000, 1), ("calls", 0, 0)]
    await reconciled_clean(services)


@on_sqlite
async def test_a_change_of_plan_bills_each_unit_once_at_the_price_held_when_it_was_used(
    small: Api, services: Services, sandbox_url: str
) -> None:
    await small.advance("2026-03-10T00:00:00Z")
    await used(small, "a", 1150)
    await small.advance("2026-03-16T12:00:00Z")
    await used(small, "b", 50)
    await small.advance("2026-03-16T13:00:00Z")
    quote = await small.preview(customerId="ant", planId="large")
    assert {line["chargeId"] for line in quote["lines"]} == {"fee"}
    changed = await small.commit(quote["token"], "up")
    assert changed["change"]["total"] == quote["dueNow"], changed
    await small.advance("2026-03-20T00:00:00Z")
    await used(small, "c", 1150)  # 2,350: 350 beyond Large's 2,000, of which 200 are billed
    await small.advance("2026-04-02T00:00:00Z")
    renewal = (await invoices(sandbox_url))[-1]
    assert renewal == [("calls", 300, 200), ("fee", 5000, 1), ("calls", 1250, 150)]
    await reconciled_clean(services)


@on_sqlite
async def test_giving_up_what_is_metered_bills_what_was_used_with_the_next_invoice(
    small: Api, services: Services, sandbox_url: str
) -> None:
    await small.advance("2026-03-10T00:00:00Z")
    await used(small, "a", 1001)
    await small.advance("2026-03-16T12:00:00Z")
    down = await small.preview(
        customerId="ant", planId="free", timing="NOW", proration="NONE", reason="asked for"
    )
    assert (await small.commit(down["token"], "down"))["__typename"] == "ChangeCommitted"
    await used(small, "b", 700)
    await small.advance("2026-04-02T00:00:00Z")
    assert (await invoices(sandbox_url))[-1] == [("calls", 150, 1), ("fee", 0, 1)]
    await reconciled_clean(services)


@on_sqlite
async def test_a_year_is_billed_for_its_use_every_month(
    small: Api, services: Services, sandbox_url: str
) -> None:
    await small.advance("2026-03-11T00:00:00Z")
    await used(small, "a", 1200)
    quote = await small.preview(customerId="ant", interval="YEAR")
    # The new period settles what was used in the old one.
    assert {line["chargeId"] for line in quote["lines"]} == {"fee", "calls"}
    year = await small.commit(quote["token"], "year")
    assert year["change"]["total"] == quote["dueNow"], year
    await used(small, "b", 1001)
    down = await small.preview(customerId="ant", planId="free", timing="PERIOD_END", reason="less")
    assert (await small.commit(down["token"], "down"))["__typename"] == "ChangeCommitted"
    await small.advance("2026-04-12T00:00:00Z")
    assert (await invoices(sandbox_url))[-1] == [("calls", 150, 1)]
    await reconciled_clean(services)
    subscription = (await small.customer("ant"))["subscriptions"][0]
    assert subscription["currentPeriod"]["end"] == "2027-03-11T00:00:00Z"
    await small.advance("2027-03-12T00:00:00Z")
    assert ("fee", 0, 1) in (await invoices(sandbox_url))[-1]
    await reconciled_clean(services)


@on_sqlite
async def test_the_last_month_of_what_is_cancelled_is_billed(
    small: Api, services: Services, sandbox_url: str
) -> None:
    await used(small, "a", 1500)
    await small.cancel("end", customerId="ant", productId="app")
    await small.advance("2026-04-02T00:00:00Z")
    assert (await invoices(sandbox_url))[-1] == [("calls", 750, 500)]
    await reconciled_clean(services)


async def test_many_workers_tell_the_provider_of_each_unit_once(
    small: Api, services: Services, sandbox_url: str
) -> None:
    await used(small, "a", 1700)
    await services.metering.report_all()
    await small.advance("2026-03-05T00:00:00Z")
    await asyncio.gather(*(used(small, f"b{n}", 10) for n in range(5)))
    await asyncio.gather(
        *(services.metering.report_all() for _ in range(3)),
        *(work_once(services) for _ in range(3)),
        used(small, "c", 50),
    )
    await small.advance("2026-04-02T00:00:00Z")
    assert (await invoices(sandbox_url))[-1] == [("fee", 1000, 1), ("calls", 1200, 800)]


@on_sqlite
async def test_the_worker_tells_within_the_hour_and_what_comes_before_the_invoice_is_final(
    small: Api, services: Services, sandbox_url: str
) -> None:
    assert isinstance(services.clock, SettableClock)
    await used(small, "a", 1100)
    await work_once(services)
    services.clock.set(instant("2026-03-01T13:00:00Z"))
    assert await work_once(services) == 1
    assert await work_once(services) == 0
    await services.payments.advance_clock(instant("2026-04-01T11:59:00Z"))
    services.clock.set(instant("2026-04-01T12:10:00Z"))  # the provider is late
    await used(small, "b", 300, at="2026-04-01T11:58:00Z")
    await used(small, "c", 1000)
    assert await work_once(services)
    await small.advance("2026-04-01T12:11:00Z")
    assert (await invoices(sandbox_url))[-1] == [("fee", 1000, 1), ("calls", 600, 400)]
    await used(small, "d", 200)
    await small.advance("2026-05-02T00:00:00Z")
    assert (await invoices(sandbox_url))[-1] == [("fee", 1000, 1), ("calls", 300, 200)]
    await reconciled_clean(services)


@on_sqlite
async def test_an_event_whose_answer_was_lost_is_sent_again_and_counted_once(
    small: Api, services: Services, sandbox_url: str
) -> None:
    await used(small, "a", 1200)
    await services.metering.report_all()
    await small.advance("2026-03-05T00:00:00Z")
    await used(small, "b", 100)
    async with httpx.AsyncClient(base_url=sandbox_url) as client:
        lost = {"kind": "cut_after", "times": 4, "method": "POST", "path": "/v1/billing/meter"}
        assert (await client.post("/_sandbox/faults", json=lost)).is_success
    with pytest.raises(PaymentProviderUnavailable):
        await services.metering.report_all()
    await used(small, "c", 10)  # it is told by itself: what was sent keeps its name and number
    await small.advance("2026-04-02T00:00:00Z")
    assert (await invoices(sandbox_url))[-1] == [("fee", 1000, 1), ("calls", 600, 310)]


@on_sqlite
async def test_what_is_limited_by_the_day_is_billed_by_the_period(
    small: Api, services: Services, sandbox_url: str
) -> None:
    await small.change("daily", customerId="ant", planId="daily")
    for day, jobs in (("10", 7), ("10", 2), ("11", 8)):
        await small.advance(f"2026-03-{day}T00:00:00Z")
        await small.consume("jobs", f"{day}-{jobs}", customerId="ant", quantity=jobs)
    assert (await small.access("ant", "jobs"))["used"] == "8"
    await small.advance("2026-04-01T11:00:00Z")
    event = {"id": "j", "customerId": "ant", "featureId": "jobs", "quantity": 3}
    assert (await small.record(event))["accepted"] == 1
    await small.advance("2026-04-01T13:00:00Z")
    # 20 jobs less 10 are billed; the same day goes on being counted in the next period.
    assert (await invoices(sandbox_url))[-1] == [("fee", 2000, 1), ("jobs", 1000, 10)]
    assert (await small.access("ant", "jobs"))["used"] == "3"
    await reconciled_clean(services)
