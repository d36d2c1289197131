"""Two databases may share an account of the provider: each charges its own prices."""

import copy
import shutil
from pathlib import Path
from typing import Any

from entitlements.audit.ledger import Actor
from entitlements.catalog.model import ProrationMode
from entitlements.kernel.clock import SettableClock
from entitlements.services import Services, opened_services
from entitlements.settings import Settings
from entitlements.subscriptions.change import Authority
from entitlements.subscriptions.request import ChangeRequest
from entitlements.subscriptions.service import Caller
from tests.conftest import START, publish

CALLER = Caller(Actor("test"), Authority.SERVICE)


async def _charged(services: Services, document: dict[str, Any]) -> int:
    await publish(services, document)
    await services.customers.create_customer(CALLER, "acme", sandbox_payment_method="pm_card_visa")
    quote = await services.changes.preview(CALLER, "acme", ChangeRequest(plan_id="starter"))
    assert quote.plan.proration is ProrationMode.INVOICE_NOW
    await services.changes.commit(CALLER, quote.token, "start")
    [invoice] = await services.customers.invoices("acme", first=9, after=None)
    return invoice.amount_paid_minor


async def test_the_same_ids_with_other_prices_and_customers_are_kept_apart(
    services: Services, settings: Settings, example: Any, sqlite_template: Path, tmp_path: Path
) -> None:
    assert await _charged(services, example) == 2900
    other = copy.deepcopy(example)
    base = other["products"][0]["plans"][0]["charges"][0]
    base["prices"]["usd"] = {"month": "31.00", "year": "310.00"}
    other["products"][0]["plans"][0]["name"] = "Basic"
    path = tmp_path / "other.db"
    shutil.copy(sqlite_template, path)
    second = settings.model_copy(update={"database_url": f"sqlite+aiosqlite:///{path}"})
    async with opened_services(second, clock=SettableClock(START)) as others:
        assert await _charged(others, other) == 3100
