"""What the webhook inbox takes in and applies: `entitlements serve` as an operator runs it.

10,000 events, of which 30 % come twice, in random order, from 16 connections at once. What is
received is stored once and answered; what is applied has been fetched from the provider, here the
sandbox on the same machine, and is done. `make bench` prints it, and writes it to the README.
"""

import asyncio
import contextlib
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import msgspec
from rich.console import Console
from rich.table import Table
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import create_async_engine

from entitlements.audit.ledger import Actor
from entitlements.billing.tables import WebhookEventRow
from entitlements.billing.webhooks import WAITING
from entitlements.catalog import examples
from entitlements.catalog.document import read
from entitlements.kernel.period import add_months
from entitlements.server.demo import listen
from entitlements.server.migrations import migrate
from entitlements.services import Services, opened_services
from entitlements.settings import Settings, load_settings
from entitlements.storage.engine import create_engine
from entitlements.subscriptions.change import Authority
from entitlements.subscriptions.service import Caller
from entitlements.subscriptions.target import ChangeRequest
from tests.bench.readme import write_table
from tests.conftest import publish
from tests.events import WEBHOOK_SECRET, events_of, signed
from tests.postgres import postgresql

out = Console(width=110)

EVENTS = 10_000
CUSTOMERS = 100
SENT_TWICE_PERCENT = 30
CONNECTIONS = 16
STARTS_WITHIN_SECONDS = 120
CALLER = Caller(Actor("bench"), Authority.SERVICE)

RECEIVED_AT_LEAST = 100.0
"""What is promised, a second, with room for a slow machine."""


class Measured(NamedTuple):
    received_per_second: float
    answered_ms: float  # the median
    answered_99_ms: float
    applied_per_second: float


async def measured(database_url: str, directory: Path) -> Measured:
    engine = create_engine(database_url)
    await migrate(engine, mode="sandbox")
    await engine.dispose()
    async with sandbox(directory) as provider_url:
        settings = load_settings(
            database_url=database_url,
            stripe_api_key="sk_test_for_bench",
            stripe_api_base=provider_url,
            stripe_webhook_secret=WEBHOOK_SECRET,
            admin_key="ent_admin_for_bench_only",
            sandbox=True,
        )
        async with opened_services(settings) as services:
            events = await _events(services, provider_url)
            async with serving(settings) as url:
                return await _posted(services, url, events)


async def _events(services: Services, provider_url: str) -> list[bytes]:
    """Customers whose subscriptions renew at the provider, until there are enough events."""
    await publish(services, read(examples.text("workspace")).document)
    for number in range(CUSTOMERS):
        await services.customers.create_customer(
            CALLER, f"customer-{number}", sandbox_payment_method="pm_card_visa"
        )
        quote = await services.changes.preview(
            CALLER, f"customer-{number}", ChangeRequest(plan_id="starter")
        )
        await services.changes.commit(CALLER, quote.token, "start")
    at = services.clock.now()
    events = await events_of(provider_url)
    while len(events) < EVENTS:
        at = add_months(at, 1)
        await services.payments.advance_clock(at)
        events = await events_of(provider_url)
    payloads = [msgspec.json.encode(event) for event in events[:EVENTS]]
    chance = random.Random(1)
    payloads += chance.sample(payloads, EVENTS * SENT_TWICE_PERCENT // 100)
    chance.shuffle(payloads)
    return payloads


async def _posted(services: Services, url: str, payloads: list[bytes]) -> Measured:
    waiting = iter(payloads)
    took: list[float] = []
    limits = httpx.Limits(max_connections=CONNECTIONS)
    begin = time.monotonic()

    async def sender(client: httpx.AsyncClient) -> None:
        for payload in waiting:
            sent = time.monotonic()
            answer = await client.post(
                "/webhooks/stripe", content=payload, headers=signed(payload.decode())
            )
            took.append(time.monotonic() - sent)
            assert answer.status_code == 200, answer.text

    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60) as client:
        await asyncio.gather(*(sender(client) for _ in range(CONNECTIONS)))
    received = time.monotonic() - begin
    while await _waiting(services):
        await asyncio.sleep(0.1)
    applied = time.monotonic() - begin
    quantiles = statistics.quantiles(took, n=100)
    return Measured(
        len(payloads) / received, 1000 * quantiles[49], 1000 * quantiles[98], EVENTS / applied
    )


async def _waiting(services: Services) -> int:
    waiting = select(func.count()).where(WebhookEventRow.status.in_(WAITING))
    async with services.database.read() as session:
        return await session.scalar(waiting) or 0


@asynccontextmanager
async def sandbox(directory: Path) -> AsyncIterator[str]:
    async with _running("sandbox", "--data", str(directory), path="/") as url:
        yield url


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[str]:
    environment = {
        "DATABASE_URL": settings.database_url,
        "STRIPE_API_KEY": settings.stripe_api_key.get_secret_value(),
        "STRIPE_API_BASE": settings.stripe_api_base,
        "STRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET,
        "ADMIN_KEY": settings.admin_key.get_secret_value(),
        "SANDBOX": "true",
    }
    async with _running("serve", path="/readyz", **environment) as url:
        yield url


@asynccontextmanager
async def _running(command: str, *arguments: str, path: str, **settings: str) -> AsyncIterator[str]:
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "entitlements", command, "--port", str(port), *arguments),
        env=os.environ | {f"ENTITLEMENTS_{name}": value for name, value in settings.items()},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        await _until_answered(f"{url}{path}")
        yield url
    finally:
        process.terminate()
        await process.wait()


async def _until_answered(url: str) -> None:
    async with asyncio.timeout(STARTS_WITHIN_SECONDS), httpx.AsyncClient() as client:
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await client.get(url)).is_success:
                    return
            await asyncio.sleep(0.05)


async def main() -> int:
    found: dict[str, Measured] = {}
    with tempfile.TemporaryDirectory() as name, postgresql() as server:
        directory = Path(name)
        if server is not None:
            out.print("… on PostgreSQL", style="dim")
            engine = create_async_engine(server, isolation_level="AUTOCOMMIT")
            async with engine.connect() as connection:
                await connection.execute(text("CREATE DATABASE bench"))
            await engine.dispose()
            url = server.replace("/postgres?", "/bench?")
            found["PostgreSQL"] = await measured(url, directory / "a")
        out.print("… on SQLite", style="dim")
        url = f"sqlite+aiosqlite:///{directory / 'bench.db'}"
        found["SQLite"] = await measured(url, directory / "b")
    table = Table(title=f"{EVENTS:,} webhooks, {SENT_TWICE_PERCENT} % of them twice")
    headings = ["", "received/s", "answered in, ms", "99 % within, ms", "applied/s"]
    rows = [[name, *(f"{value:,.0f}" for value in row)] for name, row in found.items()]
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*row)
    out.print(table)
    write_table("webhooks", headings, rows)
    slow = [name for name, row in found.items() if row.received_per_second < RECEIVED_AT_LEAST]
    words = f"fewer than {RECEIVED_AT_LEAST:.0f} received a second: {', '.join(slow)}"
    out.print(words if slow else "Every promise is kept.", style="red" if slow else "green")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
