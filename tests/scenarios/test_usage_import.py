"""Use that was counted elsewhere is brought in from a file."""

import asyncio
import json
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from entitlements.audit.ledger import Actor
from entitlements.catalog import examples
from entitlements.catalog.document import read
from entitlements.cli import app
from entitlements.kernel.clock import wall_now
from entitlements.kernel.period import format_instant
from entitlements.services import opened_services
from entitlements.settings import load_settings
from entitlements.subscriptions.change import Authority
from entitlements.subscriptions.service import Caller
from tests.conftest import ADMIN_KEY, on_sqlite, publish


async def _with_customer() -> None:
    async with opened_services(load_settings()) as services:
        await publish(services, read(examples.text("workspace")).document)
        caller = Caller(Actor("test"), Authority.SERVICE)
        await services.customers.create_customer(caller, "ant")


async def _used() -> int:
    async with opened_services(load_settings()) as services:
        now = wall_now()
        span = now - timedelta(days=40), now + timedelta(days=1)
        days = await services.usage.history("ant", "api-calls", *span)
        return sum(day.quantity for day in days)


@on_sqlite
def test_a_file_is_counted_once_and_its_mistakes_are_told_by_line(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "DATABASE_URL": database_url, "SANDBOX": "true", "ADMIN_KEY": ADMIN_KEY,
        "STRIPE_API_KEY": "sk_test_x", "STRIPE_API_BASE": "http://127.0.0.1:9",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"ENTITLEMENTS_{name}", value)
    asyncio.run(_with_customer())

    def brought_in(name: str, text: str, ends: int = 0) -> tuple[str, str]:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        result = CliRunner().invoke(app, ["usage", "import", str(path)])
        assert result.exit_code == ends, (result.output, result.exception)
        return result.stdout.strip(), result.stderr

    yesterday = format_instant(wall_now() - timedelta(days=1))
    rows = [f"e{n},ant,api-calls,2,{yesterday}" for n in range(1500)]
    head = "id,customerId,featureId,quantity,at"
    half = "\n".join([head, *rows[:700]])
    assert brought_in("half.csv", half)[0] == "700 counted, 0 known already, 0 refused"
    whole = "\n".join([head, *rows, "e1500,nobody,api-calls,2,", "e1501,ant,api-calls,two,"])
    said, mistakes = brought_in("whole.csv", whole, ends=1)
    assert said == "800 counted, 700 known already, 2 refused"
    assert "whole.csv:1502: CUSTOMER_NOT_FOUND" in mistakes
    assert "whole.csv:1503: VALUE" in mistakes

    event = {"id": "j1", "customerId": "ant", "featureId": "api-calls", "quantity": 5}
    lines = "\n".join([json.dumps(event), "", "{", json.dumps(event | {"id": None})])
    said, mistakes = brought_in("more.jsonl", lines, ends=1)
    assert said == "1 counted, 0 known already, 2 refused"
    assert "more.jsonl:3: JSON" in mistakes
    assert "more.jsonl:4: MISSING id" in mistakes
    assert "COLUMNS" in brought_in("odd.csv", "id;customerId", ends=2)[1]
    assert asyncio.run(_used()) == 3005
