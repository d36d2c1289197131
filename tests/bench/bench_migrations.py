"""A policy that moves 100,000 subscriptions: how fast, in how much memory, and killed on the way.

The rows are written directly. What is measured is ours: the moves that are made to wait for the
renewal, and the renewal that lets them take effect. The payment provider is not called (its calls
are the alignment's, which goes at the provider's own pace). The worker is a process of its own; in
each of the two halves it is killed by SIGKILL once a third is done, and another goes on.
`make bench` prints it, and writes it to the README.
"""

import asyncio
import itertools
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from sqlalchemy import func, insert, select, text
from sqlalchemy.ext.asyncio import create_async_engine

from entitlements.audit.ledger import Actor
from entitlements.catalog import examples
from entitlements.catalog.document import read
from entitlements.catalog.proposals import GrandfatherPolicy, Policy
from entitlements.kernel.clock import SettableClock
from entitlements.kernel.period import add_months
from entitlements.server.migrations import migrate
from entitlements.services import Services, opened_services
from entitlements.settings import Settings, load_settings
from entitlements.storage.engine import create_engine
from entitlements.subscriptions.tables import (
    ChangeRow,
    CustomerRow,
    SubscriptionItemRow,
    SubscriptionRow,
)
from tests.bench.readme import write_table
from tests.conftest import publish
from tests.postgres import postgresql

out = Console(width=110)

SUBSCRIPTIONS = 100_000
SEEDED_AT_A_TIME = 2_000
START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
RENEWAL = add_months(START, 1)

MOVED_PER_SECOND_AT_LEAST = 30.0
MEGABYTES_AT_MOST = 500.0
"""What is promised, with room for a slow machine."""


class Measured(NamedTuple):
    """Of each half: how many a second, over both lives of the worker; and its peak of memory."""

    waiting_per_second: float
    applied_per_second: float
    megabytes: float


def settings_of(database_url: str) -> Settings:
    return load_settings(
        database_url=database_url,
        stripe_api_key="sk_test_for_bench",
        stripe_api_base="http://127.0.0.1:9",  # nobody is there: it is not called
        stripe_webhook_secret="whsec_for_bench",
        admin_key="ent_admin_for_bench_only",
        sandbox=True,
    )


# ── the worker ───────────────────────────────────────────────────────────────


async def work(database_url: str, at: datetime) -> None:
    """As `entitlements worker`, without what tells the provider. Its last word: peak kilobytes."""
    async with opened_services(settings_of(database_url), clock=SettableClock(at)) as services:
        while True:
            done = await services.due.work()
            done += await services.moving.work()
            if not done:
                break
    status = Path("/proc/self/status").read_text()
    print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


async def half(
    database_url: str, at: datetime, count: Callable[[], Awaitable[int]], total: int
) -> tuple[float, float]:
    """Let a worker work until a third is done, kill it, let another finish: rate, megabytes."""
    command = (sys.executable, __file__, "--worker", at.isoformat(), database_url)
    begin = time.monotonic()
    first = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL)
    while first.returncode is None and await count() < total // 3:
        await asyncio.sleep(0.2)
    first.send_signal(signal.SIGKILL)
    await first.wait()
    killed_at = await count()
    second = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    said, _ = await second.communicate()
    assert second.returncode == 0
    rate = total / (time.monotonic() - begin)
    assert await count() == total, (await count(), killed_at)
    return rate, int(said) / 1024


# ── what they work on ────────────────────────────────────────────────────────


async def measured(database_url: str, total: int) -> Measured:
    engine = create_engine(database_url)
    await migrate(engine, mode="sandbox")
    await engine.dispose()
    async with opened_services(settings_of(database_url), clock=SettableClock(START)) as services:
        await seed(services, total)

        def counting(status: str) -> Callable[[], Awaitable[int]]:
            async def count() -> int:
                query = select(func.count()).where(ChangeRow.status == status)
                async with services.database.read() as session:
                    return await session.scalar(query) or 0

            return count

        next_day = START + timedelta(days=1)
        waiting, megabytes = await half(database_url, next_day, counting("scheduled"), total)
        applied, more = await half(database_url, RENEWAL, counting("applied"), total)
        await each_once(services, total)
    return Measured(waiting, applied, max(megabytes, more))


async def seed(services: Services, total: int) -> None:
    """Customers of Professional 1 who all renew at once, and a policy that raises it by 10 %."""
    document = await publish(services, read(examples.text("workspace")).document)
    for start in range(0, total, SEEDED_AT_A_TIME):
        numbers = range(start, min(start + SEEDED_AT_A_TIME, total))
        async with services.database.write() as session:
            for table, row_of in (
                (CustomerRow, _customer),
                (SubscriptionRow, _subscription),
                (SubscriptionItemRow, _item),
            ):
                await session.execute(insert(table), [row_of(number) for number in numbers])
    plans = document["products"][0]["plans"]
    professional = next(plan for plan in plans if plan["id"] == "professional")
    professional["charges"][0]["prices"]["usd"]["month"] = "150.00"
    policy = Policy(
        package_id="professional",
        price=GrandfatherPolicy.AT_RENEWAL,
        renewals=1,
        max_increase_percent=Decimal(10),
    )
    proposal = await services.catalog.propose(
        Actor("pricing"), document, "costs have risen", policies=[policy]
    )
    await services.catalog.approve(Actor("finance"), proposal.id, None)


def _customer(number: int) -> dict[str, Any]:
    return {
        "id": f"customer-{number}",
        "sequence": f"cus_{number:09}",
        "currency": "usd",
        "created_at": START,
        "revision": 1,
        "token_generation": 1,
        "provider_id": f"cus_{number}",
        "credit_balance_minor": 0,
    }


def _subscription(number: int) -> dict[str, Any]:
    return {
        "id": f"sub_{number:09}",
        "customer_id": f"customer-{number}",
        "product_id": "workspace",
        "status": "active",
        "interval": "month",
        "currency": "usd",
        "period_start": START,
        "period_end": RENEWAL,
        "anchor": START,
        "started_at": START,
        "provider_id": f"sub_{number}",
        "quantities": {},
        "pending_lines": [],
        "future_generation": 0,
    }


def _item(number: int) -> dict[str, Any]:
    return {
        "id": f"itm_{number:09}",
        "subscription_id": f"sub_{number:09}",
        "package_id": "professional",
        "version": 1,
        "entitlements_version": 1,
        "quantity": 1,
        "started_at": START,
        "charges": {"base": {"provider_item_id": f"si_{number}"}},
    }


async def each_once(services: Services, total: int) -> None:
    """Every customer was moved, once, and the sum says so."""
    async with services.database.read() as session:
        moved = (
            await session.execute(
                select(
                    func.count(),
                    func.count(ChangeRow.customer_id.distinct()),
                    func.sum(ChangeRow.mrr_delta_minor),
                ).where(ChangeRow.status == "applied")
            )
        ).one()
        held = (
            await session.execute(
                select(
                    SubscriptionItemRow.version, SubscriptionItemRow.price_factor, func.count()
                ).group_by(SubscriptionItemRow.version, SubscriptionItemRow.price_factor)
            )
        ).all()
    assert tuple(moved) == (total, total, 990 * total), moved
    assert [tuple(row) for row in held] == [(2, Decimal("0.726"), total)], held
    [migration] = await services.migrations.every()
    assert (migration.status, migration.moved, migration.customers) == ("completed", total, total)


async def main(total: int) -> int:
    found: dict[str, Measured] = {}
    with tempfile.TemporaryDirectory() as name, postgresql(durable=True) as server:
        if server is not None:
            out.print("… on PostgreSQL", style="dim")
            engine = create_async_engine(server, isolation_level="AUTOCOMMIT")
            async with engine.connect() as connection:
                await connection.execute(text("CREATE DATABASE bench"))
            await engine.dispose()
            found["PostgreSQL"] = await measured(server.replace("/postgres?", "/bench?"), total)
        out.print("… on SQLite", style="dim")
        found["SQLite"] = await measured(f"sqlite+aiosqlite:///{name}/bench.db", total)
    table = Table(title=f"{total:,} subscriptions moved by one policy, the worker killed twice")
    headings = ["", "made to wait/s", "moved at the renewal/s", "memory of a worker, MB"]
    rows = [[name, *(f"{value:,.0f}" for value in row)] for name, row in found.items()]
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*row)
    out.print(table)
    if total == SUBSCRIPTIONS:
        write_table("migrations", headings, rows)
    broken = [
        name
        for name, row in found.items()
        if min(row[:2]) < MOVED_PER_SECOND_AT_LEAST or row.megabytes > MEGABYTES_AT_MOST
    ]
    words = f"slower, or in more memory, than is promised: {', '.join(broken)}"
    out.print(words if broken else "Every promise is kept.", style="red" if broken else "green")
    return 1 if broken else 0


if __name__ == "__main__":
    if "--worker" in sys.argv:
        asyncio.run(work(sys.argv[-1], datetime.fromisoformat(sys.argv[-2])))
    else:
        sizes = itertools.chain(map(int, sys.argv[1:]), [SUBSCRIPTIONS])
        sys.exit(asyncio.run(main(next(sizes))))
