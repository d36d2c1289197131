"""What is taken of events of use: a million of them, of which a fifth are there already.

They come in batches of 1000, some at a time, out of order, for 100 customers, to the service that
`recordUsage` stands before. Then the counters are held against what was sent, to the unit. `make
bench` prints it, and writes it to the README; it ends with 1 where a unit is missing or too many.
"""

import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import create_async_engine

from entitlements.access.counters import Event
from entitlements.access.tables import UsageCounterRow, UsageEventRow
from entitlements.audit.ledger import Actor
from entitlements.kernel.clock import SettableClock
from entitlements.server.migrations import migrate
from entitlements.services import Services, opened_services
from entitlements.settings import load_settings
from entitlements.storage.engine import create_engine
from entitlements.subscriptions.change import Authority
from entitlements.subscriptions.service import Caller
from tests.bench.readme import write_table
from tests.conftest import START, publish
from tests.postgres import postgresql

out = Console(width=110)

EVENTS = 1_000_000
DUPLICATES_PERCENT = 20
CUSTOMERS = 100
BATCH = 1_000
AT_ONCE = 2
CALLER = Caller(Actor("bench"), Authority.SERVICE)
DOCUMENT: dict[str, Any] = {
    "currencies": ["usd"],
    "features": [
        {"id": "calls", "name": "Calls", "kind": "metered", "unit": "call", "aggregation": "sum",
         "reset": "billing_period"},
    ],
    "products": [
        {"id": "app", "name": "App", "plans": [
            {"id": "pro", "name": "Pro", "entitlements": {"calls": {"limit": 10}},
             "charges": [{"id": "fee", "name": "Fee", "model": "flat",
                          "prices": {"usd": {"month": "10.00"}}}]}]}
    ],
}  # fmt: skip

RECEIVED_AT_LEAST = 3_000.0
"""What is promised, events a second, with room for a slow machine."""


class Measured(NamedTuple):
    received_per_second: float
    batch_ms: float  # the median
    wrong: int  # customers whose counter is not what was sent


async def measured(database_url: str, events: int) -> Measured:
    engine = create_engine(database_url)
    await migrate(engine, mode="sandbox")
    await engine.dispose()
    settings = load_settings(
        database_url=database_url,
        stripe_api_key="sk_test_for_bench",
        stripe_api_base="http://127.0.0.1:9",  # nobody is asked
        admin_key="ent_admin_for_bench_only",
        sandbox=True,
    )
    async with opened_services(settings, clock=SettableClock(START)) as services:
        await publish(services, DOCUMENT)
        for number in range(CUSTOMERS):
            await services.customers.create_customer(CALLER, _customer(number))
        return await _recorded(services, events)


def _customer(number: int) -> str:
    return f"customer-{number}"


def _event(number: int, at: datetime) -> Event:
    """The event of a number: the same whenever it comes."""
    scattered = number * 2_654_435_761 % 2**32  # Knuth's multiplicative hash
    return Event(
        id=f"event-{number}",
        customer_id=_customer(scattered % CUSTOMERS),
        feature_id="calls",
        quantity=1 + scattered % 9,
        at=at - timedelta(seconds=scattered % 36_000),
    )


def _batches(events: int, at: datetime) -> Iterator[list[Event]]:
    """So many events in all: a fifth of each batch has come before, in another order."""
    chance = random.Random(1)
    fresh = BATCH * (100 - DUPLICATES_PERCENT) // 100
    for number in range(events // BATCH):
        new = range(number * fresh, (number + 1) * fresh)
        again = [chance.randrange(max(new.stop, 1)) for _ in range(BATCH - fresh)]
        numbers = [*new, *again]
        chance.shuffle(numbers)
        yield [_event(each, at) for each in numbers]


async def _recorded(services: Services, events: int) -> Measured:
    at = services.clock.now()
    waiting = _batches(events, at)
    took: list[float] = []
    accepted = duplicates = 0
    begin = time.monotonic()

    async def sender() -> None:
        nonlocal accepted, duplicates
        for batch in waiting:
            sent = time.monotonic()
            recorded = await services.usage.record(batch)
            took.append(time.monotonic() - sent)
            assert not recorded.rejected, recorded.rejected[:1]
            accepted += recorded.accepted
            duplicates += recorded.duplicates

    await asyncio.gather(*(sender() for _ in range(AT_ONCE)))
    seconds = time.monotonic() - begin
    fresh = events * (100 - DUPLICATES_PERCENT) // 100
    assert (accepted, duplicates) == (fresh, events - fresh), (accepted, duplicates)
    wanted: Counter[str] = Counter()
    for number in range(fresh):
        event = _event(number, at)
        wanted[event.customer_id] += event.quantity
    async with services.database.read() as session:
        rows = await session.execute(
            select(UsageCounterRow.customer_id, func.sum(UsageCounterRow.used)).group_by(
                UsageCounterRow.customer_id
            )
        )
        counted = {customer_id: int(used) for customer_id, used in rows}
        stored = await session.scalar(select(func.count()).select_from(UsageEventRow))
    assert stored == fresh, stored
    wrong = sum(counted.get(id) != units for id, units in wanted.items())
    took.sort()
    return Measured(events / seconds, 1000 * took[len(took) // 2], wrong)


async def main(events: int) -> int:
    found: dict[str, Measured] = {}
    with tempfile.TemporaryDirectory() as name, postgresql(durable=True) as server:
        if server is not None:
            out.print("… on PostgreSQL", style="dim")
            engine = create_async_engine(server, isolation_level="AUTOCOMMIT")
            async with engine.connect() as connection:
                await connection.execute(text("CREATE DATABASE bench"))
            await engine.dispose()
            url = server.replace("/postgres?", "/bench?")
            found["PostgreSQL"] = await measured(url, events)
        else:
            out.print("… on SQLite, as there is no PostgreSQL", style="dim")
            url = f"sqlite+aiosqlite:///{Path(name) / 'bench.db'}"
            found["SQLite"] = await measured(url, events)
    table = Table(title=f"{events:,} events of use, {DUPLICATES_PERCENT} % of them known already")
    headings = ["", "events/s", "a batch of 1,000, ms", "counters that are wrong"]
    rows = [[name, *(f"{value:,.0f}" for value in row)] for name, row in found.items()]
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*row)
    out.print(table)
    if events == EVENTS:
        write_table("usage", headings, rows)
    slow = [n for n, row in found.items() if row.received_per_second < RECEIVED_AT_LEAST]
    wrong = [n for n, row in found.items() if row.wrong]
    words = f"wrong counters: {', '.join(wrong)}" if wrong else ""
    if slow and not wrong:
        words = f"fewer than {RECEIVED_AT_LEAST:,.0f} events a second: {', '.join(slow)}"
    out.print(words or "Every promise is kept.", style="red" if words else "green")
    return 1 if words else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS)))
