"""Holders of older versions: kept, moved by policy, capped, told, rolled back, and what they give
up when they change something themselves."""

import copy
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from entitlements.audit.ledger import Actor
from entitlements.catalog.proposals import GrandfatherPolicy, Policy
from entitlements.services import Services
from tests.api import Api
from tests.reconciliation import reconciled_clean

one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For what the rules decide and storage does not."""

Edit = Callable[[dict[str, Any]], None]

RENEWALS = [f"2026-{month:02}-01T12:00:00Z" for month in range(4, 13)]


def plan_of(document: dict[str, Any], plan_id: str = "professional") -> dict[str, Any]:
    plans: list[dict[str, Any]] = document["products"][0]["plans"]
    return next(plan for plan in plans if plan["id"] == plan_id)


def dearer(month: str, year: str = "1500.00") -> Edit:
    """Professional at another price."""

    def edit(document: dict[str, Any]) -> None:
        plan_of(document)["charges"][0]["prices"]["usd"] = {"month": month, "year": year}

    return edit


def richer(document: dict[str, Any]) -> None:
    plan_of(document)["entitlements"]["audit-log"] = True


async def published(
    services: Services, document: dict[str, Any], *edits: Edit, **policy: Any
) -> dict[str, Any]:
    """A newer catalog, with a policy for those who hold Professional as it was."""
    document = copy.deepcopy(document)
    for edit in edits:
        edit(document)
    said = [Policy(package_id="professional", **policy)] if policy else []
    proposal = await services.catalog.propose(
        Actor("pricing"), document, "costs have risen", policies=said
    )
    await services.catalog.approve(Actor("finance"), proposal.id, None)
    return document


async def start(api: Api, customer_id: str = "acme", **more: Any) -> None:
    await api.create_customer(customer_id)
    done = await api.change("start", customerId=customer_id, **{"planId": "professional", **more})
    assert done["__typename"] == "ChangeCommitted", done


async def invoiced(api: Api, customer_id: str = "acme") -> list[int]:
    """The totals of all invoices, oldest first."""
    nodes = (await api.customer(customer_id))["invoices"]["nodes"]
    return [int(invoice["total"]["amountMinor"]) for invoice in reversed(nodes)]


async def test_a_price_rises_by_its_cap_at_each_renewal_until_it_is_at_list(
    api: Api, services: Services, example: Any
) -> None:
    await start(api)
    await published(
        services,
        example,
        dearer("150.00"),
        price=GrandfatherPolicy.AT_RENEWAL,
        renewals=2,
        max_increase_percent=Decimal(20),
    )
    await api.advance(RENEWALS[5])
    assert await invoiced(api) == [9900, 9900, 11880, 14256, 15000, 15000, 15000]
    deltas = [
        entry["mrrDelta"]["amountMinor"]
        for entry in await api.audit(stream="customer:acme", action="change.applied")
    ]
    assert deltas == ["744", "2376", "1980", "9900"]
    await reconciled_clean(services)
