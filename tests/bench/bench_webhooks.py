"""What the webhook inbox takes in and applies: `entitlements serve` as an operator runs it.

10,000 events, of which 30 % come twice, in random order, from 16 connections at once, while the
inbox is worked. What is received is stored once and answered; what is applied has been fetched from
the provider, here the sandbox on the same machine. What waits for one customer is fetched once: so
at last each of them has one event, and customers are counted. `make bench` prints it, and writes it
to the README.
"""

import asyncio
import contextlib
import itertools
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

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
ABOUT_CUSTOMERS = ("customer.subscription.", "invoice.created", "invoice.paid")
STARTS_WITHIN_SECONDS = 120
CALLER = Caller(Actor("bench"), Authority.SERVICE)

BEGUN_AT_ONCE = 4

RECEIVED_AT_LEAST, CUSTOMERS_AT_LEAST = 100.0, 2.0
"""What is promised, a second, with room for a slow machine."""


class Measured(NamedTuple):
    received_per_second: float
    answered_ms: float  # the median
    answered_99_ms: float
    applied_per_second: float
    customers_per_second: float


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
                return await _taken(services, url, events)


async def _events(services: Services, provider_url: str) -> list[dict[str, Any]]:
    """What the provider says of customers who buy, and renew after a month."""
    await publish(services, read(examples.text("workspace")).document)
    numbers = iter(range(CUSTOMERS))

    async def begin() -> None:
        for number in numbers:
            customer = f"customer-{number}"
            await services.customers.create_customer(
                CALLER, customer, sandbox_payment_method="pm_card_visa"
            )
            starter = ChangeRequest(plan_id="starter")
            quote = await services.changes.preview(CALLER, customer, starter)
            await services.changes.commit(CALLER, quote.token, "start")

    await asyncio.gather(*(begin() for _ in range(BEGUN_AT_ONCE)))
    await services.payments.advance_clock(add_months(services.clock.now(), 1))
    return [e for e in await events_of(provider_url) if e["type"].startswith(ABOUT_CUSTOMERS)]


def _posted(events: list[dict[str, Any]]) -> list[bytes]:
    """So many events as are wanted, the same again under other ids; some of them twice."""
    again = itertools.islice(itertools.cycle(events), EVENTS)
    payloads = [msgspec.json.encode(e | {"id": f"{e['id']}_{n}"}) for n, e in enumerate(again)]
    chance = random.Random(1)
    payloads += chance.sample(payloads, EVENTS * SENT_TWICE_PERCENT // 100)
    chance.shuffle(payloads)
    return payloads


async def _taken(services: Services, url: str, events: list[dict[str, Any]]) -> Measured:
    payloads = _posted(events)
    begin = time.monotonic()
    took = await _post(url, payloads)
    received = time.monotonic() - begin
    await _until_applied(services)
    applied = time.monotonic() - begin
    quantiles = statistics.quantiles(took, n=100)

    one_each = {e["data"]["object"]["customer"]: e for e in events if e["type"] == "invoice.paid"}
    begin = time.monotonic()
    await _post(url, [msgspec.json.encode(e | {"id": f"{e['id']}_"}) for e in one_each.values()])
    await _until_applied(services)
    return Measured(
        len(payloads) / received,
        1000 * quantiles[49],
        1000 * quantiles[98],
        EVENTS / applied,
        len(one_each) / (time.monotonic() - begin),
    )


async def _post(url: str, payloads: list[bytes]) -> list[float]:
    """Post them from several connections at once; how many seconds each took.

    Written by hand: what sends has to cost less than what receives.
    """
    host, _, port = url.removeprefix("http://").partition(":")
    waiting = iter([_request(host, payload) for payload in payloads])
    took: list[float] = []

    async def send() -> None:
        reader, writer = await asyncio.open_connection(host, port)
        for request in waiting:
            sent = time.monotonic()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            assert head.startswith(b"HTTP/1.1 200 "), head
            assert length is not None
            await reader.readexactly(int(length[1]))
            took.append(time.monotonic() - sent)
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(send() for _ in range(CONNECTIONS)))
    return took


def _request(host: str, payload: bytes) -> bytes:
    headers = signed(payload.decode()) | {"Host": host, "Content-Length": str(len(payload))}
    lines = ["POST /webhooks/stripe HTTP/1.1", *(f"{n}: {v}" for n, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + payload


async def _until_applied(services: Services) -> None:
    while await _waiting(services):
        await asyncio.sleep(0.1)


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
    with tempfile.TemporaryDirectory() as name, postgresql(durable=True) as server:
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
    headings = ["", "received/s", "answered in, ms", "99 % within, ms", "applied/s", "customers/s"]
    rows = [[name, *(f"{value:,.0f}" for value in row)] for name, row in found.items()]
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*row)
    out.print(table)
    write_table("webhooks", headings, rows)
    slow = [
        name
        for name, row in found.items()
        if row.received_per_second < RECEIVED_AT_LEAST
        or row.customers_per_second < CUSTOMERS_AT_LEAST
    ]
    promised = f"{RECEIVED_AT_LEAST:.0f} received, {CUSTOMERS_AT_LEAST:.0f} customers applied"
    words = f"fewer than {promised} a second: {', '.join(slow)}"
    out.print(words if slow else "Every promise is kept.", style="red" if slow else "green")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
