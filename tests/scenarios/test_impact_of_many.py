"""Three policies and a cap over many customers: the MRR is what was predicted, step by step."""

import copy
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from sqlalchemy import insert

from entitlements.audit.ledger import Actor
from entitlements.catalog.proposals import GrandfatherPolicy, Policy
from entitlements.finance.impact import Impact
from entitlements.kernel.clock import SettableClock
from entitlements.kernel.period import add_months
from entitlements.services import Services
from entitlements.subscriptions.holders import holders
from entitlements.subscriptions.lines import held_mrr_minor
from entitlements.subscriptions.tables import CustomerRow, SubscriptionItemRow, SubscriptionRow
from tests.conftest import START, on_sqlite

AT_A_TIME = 1_000


def held_by(number: int) -> list[str]:
    plan = "starter" if number % 3 else "professional"
    return [plan, *(["advanced-analytics"] if number % 2 else [])]


def anchor_of(number: int) -> datetime:
    """One of five days of the month before."""
    return add_months(START, -1) + timedelta(days=3 + 2 * (number % 5))


async def seed(services: Services, numbers: range) -> None:
    """Customers who are billed by our own calendar: the payment provider knows nothing of them."""
    async with services.database.write() as session:
        customers = [
            {"id": f"c{n}", "sequence": f"cus_{n:06}", "currency": "usd", "created_at": START,
             "revision": 1, "token_generation": 1, "credit_balance_minor": 0}
            for n in numbers
        ]  # fmt: skip
        await session.execute(insert(CustomerRow), customers)
        subscriptions = [
            {"id": f"sub_{n:06}", "customer_id": f"c{n}", "product_id": "workspace",
             "status": "active", "interval": "month", "currency": "usd",
             "period_start": anchor_of(n), "period_end": add_months(anchor_of(n), 1),
             "anchor": anchor_of(n), "started_at": anchor_of(n), "quantities": {},
             "pending_lines": [], "future_generation": 0}
            for n in numbers
        ]  # fmt: skip
        await session.execute(insert(SubscriptionRow), subscriptions)
        items = [
            {"id": f"itm_{n:06}_{package}", "subscription_id": f"sub_{n:06}",
             "package_id": package, "version": 1, "entitlements_version": 1, "quantity": 1,
             "started_at": anchor_of(n), "charges": {}}
            for n in numbers
            for package in held_by(n)
        ]  # fmt: skip
        await session.execute(insert(SubscriptionItemRow), items)


async def work(services: Services) -> None:
    """What the worker does of it, until nothing is due."""
    while await services.due.work() + await services.moving.work():
        pass


async def total(services: Services) -> int:
    catalog, minor = await services.catalog.current(), 0
    async with services.database.read() as session:
        async for batch in holders(session):
            minor += sum(held_mrr_minor(catalog, holder) for holder in batch)
    return minor


@on_sqlite
@pytest.mark.parametrize("customers", [30, pytest.param(10_000, marks=pytest.mark.soak)])
async def test_the_mrr_of_many_moves_as_was_predicted(
    services: Services, example: dict[str, Any], customers: int
) -> None:
    for first in range(0, customers, AT_A_TIME):
        await seed(services, range(first, min(first + AT_A_TIME, customers)))
    dearer = copy.deepcopy(example)
    packages = {p["id"]: p for kind in ("plans", "add_ons") for p in dearer["products"][0][kind]}
    for id, month in (("starter", "35.55"), ("professional", "150.00"),
                      ("advanced-analytics", "222.22")):  # fmt: skip
        packages[id]["charges"][0]["prices"]["usd"]["month"] = month
    until = START + timedelta(days=40)
    policies = [
        Policy(package_id="professional", price=GrandfatherPolicy.AT_RENEWAL, renewals=1,
               max_increase_percent=Decimal(20)),
        Policy(package_id="starter", price=GrandfatherPolicy.AT_RENEWAL, renewals=2,
               notice_days=30),
        Policy(package_id="advanced-analytics", price=GrandfatherPolicy.KEEP_UNTIL, until=until),
    ]  # fmt: skip
    proposal = await services.catalog.propose(Actor("ann"), dearer, "costs rose", policies=policies)
    proposal = await services.catalog.approve(Actor("bob"), proposal.id, None)
    signed = msgspec.convert(proposal.impact, Impact)
    assert signed.customers_affected == customers
    assert signed.mrr_now["usd"] == await total(services)
    assert len(signed.mrr_steps) >= 10
    assert isinstance(services.clock, SettableClock)
    await work(services)
    for step in signed.mrr_steps:
        services.clock.set(step.at)
        await work(services)
        assert await total(services) == step.mrr["usd"], step.at
