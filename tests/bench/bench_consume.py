"""What counting costs on PostgreSQL, beside pgbench doing the same update; and how cost grows.

20 clients count one unit at a time, of one counter that all of them want, and of 1,000; over HTTP
there are 32. pgbench does `UPDATE … SET used = used + 1 WHERE id = …` on as many rows, with as many
clients, in turns with ours; a ratio is of two turns that follow each other, and the median of some
rounds is shown. Beside it: how late a change is heard of by another process, what the first answer
for a customer costs who is not in memory, and how that grows with customers and features.
`make bench` prints it, and writes it to the README. pgbench and wrk have to be there: `apt-get
install postgresql-contrib wrk`.
"""

import asyncio
import itertools
import re
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
from rich.console import Console
from rich.table import Table
from sqlalchemy import event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import create_async_engine

from entitlements.access.service import Check
from entitlements.audit.ledger import Actor
from entitlements.catalog.model import EntitlementValue, GrantMode
from entitlements.server.migrations import migrate
from entitlements.services import Services, opened_services
from entitlements.settings import Settings, load_settings
from entitlements.storage.engine import create_engine
from entitlements.subscriptions.change import Authority
from entitlements.subscriptions.service import Caller
from tests.bench.load import Promise, missing, running, wrk
from tests.bench.readme import write_table
from tests.conftest import publish
from tests.postgres import postgresql

out = Console(width=110)

ROUNDS = 3
SECONDS = 3
CLIENTS = 20
HTTP_CLIENTS = 32
COUNTERS = 1_000
CHANGES = 200
FIRST_ANSWERS = 300
CUSTOMERS = (1_000, 30_000, 1_000_000)
FEATURES = (10, 100, 1_000)
CHECKS = 20_000
ADMIN_KEY = "ent_admin_for_bench_only"
ONE, MANY, OVER_HTTP = "one counter", "1,000 counters", "1,000 counters over HTTP"
LEAST = {ONE: 3.0, MANY: 0.60, OVER_HTTP: 0.30}
"""What is promised, as a ratio to pgbench."""
STAFF = Caller(Actor("bench"), Authority.STAFF)


def catalog_of(features: int) -> dict[str, Any]:
    """A free plan with a counter, and switches until there are so many features."""
    switches = [f"switch-{n}" for n in range(features - 1)]
    calls = {"id": "calls", "name": "Calls", "kind": "metered", "aggregation": "sum"}
    free = {"id": "fee", "name": "Fee", "model": "flat", "prices": {"usd": {"month": "0.00"}}}
    plan = {
        "id": "free",
        "name": "Free",
        "entitlements": {"calls": {"limit": 10**9}, **dict.fromkeys(switches, True)},
        "charges": [free],
    }
    return {
        "currencies": ["usd"],
        "features": [
            {**calls, "reset": "month", "unit": "call"},
            *({"id": id, "name": id, "kind": "boolean"} for id in switches),
        ],
        "products": [{"id": "app", "name": "App", "fallback_plan": "free", "plans": [plan]}],
    }


@asynccontextmanager
async def counting(server: str) -> AsyncIterator[tuple[Services, Settings]]:
    """The services over a fresh database, with 1,000 customers and as many rows for pgbench."""
    await _execute(server, "CREATE DATABASE consume")
    url = make_url(server).set(database="consume")
    settings = load_settings(
        database_url=url.render_as_string(hide_password=False),
        stripe_api_key="sk_test_for_bench",
        stripe_api_base="http://127.0.0.1:1",
        stripe_webhook_secret="whsec_for_bench",
        admin_key=ADMIN_KEY,
        sandbox=True,
    )
    engine = create_engine(settings.database_url)
    await migrate(engine, mode="sandbox")
    await engine.dispose()
    await _execute(
        settings.database_url,
        "CREATE TABLE bench (id integer PRIMARY KEY, used bigint NOT NULL)",
        f"INSERT INTO bench SELECT n, 0 FROM generate_series(1, {COUNTERS}) n",
    )
    async with opened_services(settings) as services:
        await publish(services, catalog_of(FEATURES[0]))
        await add_customers(settings, 0, COUNTERS)
        yield services, settings


async def add_customers(settings: Settings, first: int, end: int) -> None:
    await _execute(
        settings.database_url,
        "INSERT INTO customer (id, sequence, currency, created_at, revision, token_generation, "
        "credit_balance_minor) SELECT 'customer-' || n, to_char(n, 'FM00000000000000000000'), "
        f"'usd', now(), 1, 1, 0 FROM generate_series({first}, {end - 1}) n",
        "ANALYZE customer",
    )


async def _execute(url: str, *statements: str) -> None:
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        for statement in statements:
            await connection.execute(text(statement))
    await engine.dispose()


# ── counting ─────────────────────────────────────────────────────────────────


async def consumed(services: Services, rows: int, keys: "itertools.count[int]") -> float:
    """Counts a second, by clients that each wait for their answer."""
    began = time.monotonic()
    done = 0

    async def client(number: int) -> None:
        nonlocal done
        for n in itertools.count(number * 7_919):
            if time.monotonic() > began + SECONDS:
                return
            customer_id, key = f"customer-{n % rows}", f"key-{next(keys)}"
            found = await services.usage.consume(customer_id, "calls", 1, key)
            assert found.answer.decision.allowed
            done += 1

    await asyncio.gather(*map(client, range(CLIENTS)))
    return done / (time.monotonic() - began)


async def updated(url: URL, rows: int, clients: int, directory: Path) -> float:
    """What pgbench does in a second."""
    script = directory / "update.sql"
    script.write_text(
        f"\\set id random(1, {rows})\nUPDATE bench SET used = used + 1 WHERE id = :id;\n"
    )
    where = ["-h", str(url.query.get("host") or url.host), "-U", str(url.username or "postgres")]
    if url.port:
        where += ["-p", str(url.port)]
    process = await asyncio.create_subprocess_exec(
        *("pgbench", "-n", "-M", "prepared", "-f", str(script), "-c", str(clients)),
        *("-T", str(SECONDS), *where, str(url.database)),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    said, _ = await process.communicate()
    found = re.search(r"tps = ([\d.]+)", said.decode())
    assert found is not None, said
    return float(found[1])


REQUESTS = """
local n = 0
local body = '{"operationName":"count","query":"mutation count($c: ID!, $k: String!) { ' ..
  'consume(customerId: $c, featureId: \\\\"calls\\\\", idempotencyKey: $k) { ' ..
  '... on Consumed { duplicate decision { allowed remaining } } } }",' ..
  '"variables":{"c":"customer-%%d","k":"%s-%%d"}}'
request = function()
  n = n + 1
  return wrk.format(nil, nil, nil, string.format(body, (n * 7919) %% %d, n))
end
"""


async def ratios(
    services: Services, settings: Settings, directory: Path
) -> dict[str, list[tuple[float, float]]]:
    """Counts and updates a second, by what they are of."""
    url, keys = make_url(settings.database_url), itertools.count()
    found: dict[str, list[tuple[float, float]]] = {}
    serve = (sys.executable, "-m", "entitlements", "serve", "--port", "{port}")
    environment = {
        f"ENTITLEMENTS_{name}": value
        for name, value in {
            "DATABASE_URL": settings.database_url,
            "STRIPE_API_KEY": "sk_test_for_bench",
            "STRIPE_API_BASE": settings.stripe_api_base,
            "STRIPE_WEBHOOK_SECRET": "whsec_for_bench",
            "ADMIN_KEY": ADMIN_KEY,
            "SANDBOX": "true",
        }.items()
    }
    async with running(*serve, cores="0,1", **environment) as root:

        async def over_http() -> float:
            requests = REQUESTS % (next(keys), COUNTERS)
            seen = await wrk(
                f"{root}/graphql",
                ADMIN_KEY,
                requests,
                connections=HTTP_CLIENTS,
                seconds=SECONDS,
            )
            return seen.per_second

        await over_http()  # all customers are remembered
        await consumed(services, COUNTERS, keys)
        for number in range(ROUNDS):
            out.print(f"… round {number + 1} of {ROUNDS}", style="dim")
            turns: list[tuple[str, int, int, Callable[[], Awaitable[float]]]] = [
                (ONE, 1, CLIENTS, lambda: consumed(services, 1, keys)),
                (MANY, COUNTERS, CLIENTS, lambda: consumed(services, COUNTERS, keys)),
                (OVER_HTTP, COUNTERS, HTTP_CLIENTS, over_http),
            ]
            for what, rows, clients, ours in turns:
                mine = await ours()
                theirs = await updated(url, rows, clients, directory)
                found.setdefault(what, []).append((mine, theirs))
    return found


# ── memory ───────────────────────────────────────────────────────────────────


async def staleness(services: Services, settings: Settings) -> list[float]:
    """Milliseconds from the end of a change to another process knowing it, of some changes."""
    found = []
    async with opened_services(settings, clock=services.clock) as other:
        while not other.feed.is_fresh("customer"):
            await asyncio.sleep(0.01)
        for n in range(CHANGES):
            id = f"customer-{n}"
            await other.snapshots.get(id)
            value = EntitlementValue(enabled=False)
            await services.overrides.set(STAFF, id, "switch-0", GrantMode.REPLACE, value, "bench")
            began = time.perf_counter()
            while (await other.snapshots.get(id)).snapshot.revision == 1:
                await asyncio.sleep(0.0005)
            found.append(1000 * (time.perf_counter() - began))
    return found


async def first_answers(services: Services, settings: Settings, first: int) -> tuple[float, float]:
    """Milliseconds of a first answer, and of the same rows by asyncpg alone; medians."""
    asked: list[tuple[str, Any]] = []

    def listen(_connection: Any, _cursor: Any, statement: str, given: Any, *_: Any) -> None:
        asked.append((statement, given))

    sync = services.database.engine.sync_engine
    event.listen(sync, "before_cursor_execute", listen)
    await services.snapshots.get(f"customer-{first}")
    event.remove(sync, "before_cursor_execute", listen)
    assert asked
    url = make_url(settings.database_url).set(drivername="postgresql")
    raw = await asyncpg.connect(url.render_as_string(hide_password=False))
    ours, theirs = [], []
    for n in range(first + 1, first + 1 + FIRST_ANSWERS):
        began = time.perf_counter()
        await services.snapshots.get(f"customer-{n}")
        ours.append(1000 * (time.perf_counter() - began))
        began = time.perf_counter()
        for statement, given in asked:
            same = [f"customer-{n}" if value == f"customer-{first}" else value for value in given]
            await raw.fetch(statement, *same)
        theirs.append(1000 * (time.perf_counter() - began))
    await raw.close()
    return statistics.median(ours), statistics.median(theirs)


async def check_us(services: Services, first: int) -> float:
    """Microseconds of a check of customers who are in memory; the best of some rounds."""
    ids = [f"customer-{n}" for n in range(first, first + FIRST_ANSWERS)]
    checks = [Check("switch-0")]
    for id in ids:
        await services.access.check(id, checks)
    found = []
    for _ in range(5):
        began = time.perf_counter()
        for n in range(CHECKS):
            await services.access.check(ids[n % len(ids)], checks)
        found.append(1e6 * (time.perf_counter() - began) / CHECKS)
    return min(found)


async def memory_kb(services: Services, first: int) -> float:
    """Kilobytes that a customer takes in memory."""
    await services.snapshots.get(f"customer-{first}")
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for n in range(first + 1, first + 1 + FIRST_ANSWERS):
        await services.snapshots.get(f"customer-{n}")
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (after - before) / FIRST_ANSWERS / 1000


async def growth(services: Services, settings: Settings) -> list[list[str]]:
    """How a check, a first answer and the memory of a customer grow."""
    rows = []
    there = COUNTERS
    for customers in CUSTOMERS:
        await add_customers(settings, there, max(customers, there))
        there = max(customers, there)
        rows.append(await _grown(settings, f"{customers:,} customers"))
    for features in FEATURES:
        if features != FEATURES[0]:
            await publish(services, catalog_of(features))
        rows.append(await _grown(settings, f"{features:,} features"))
    return rows


async def _grown(settings: Settings, what: str) -> list[str]:
    """Of a process that has just begun."""
    out.print(f"… {what}", style="dim")
    async with opened_services(settings) as services:
        while not services.feed.is_fresh("customer"):
            await asyncio.sleep(0.01)
        memory = await memory_kb(services, 0)
        answer_ms, _ = await first_answers(services, settings, FIRST_ANSWERS + 1)
        in_process_us = await check_us(services, 0)
    return [what, f"{in_process_us:.1f}", f"{answer_ms:.2f}", f"{memory:.1f}"]


async def main() -> int:
    if absent := missing("pgbench", "wrk", "taskset"):
        out.print(f"left out: {', '.join(absent)} (apt-get install postgresql-contrib wrk)")
        return 0
    with tempfile.TemporaryDirectory() as name, postgresql(durable=True) as server:
        if server is None:
            out.print("left out: PostgreSQL is not there", style="red")
            return 0
        async with counting(server) as (services, settings):
            late = await staleness(services, settings)
            first_ms, raw_ms = await first_answers(services, settings, 500)
            counted = await ratios(services, settings, Path(name))
            grown = await growth(services, settings)
    promises = [
        Promise(
            f"`consume` : pgbench, {what}",
            statistics.median(ours / theirs for ours, theirs in each),
            LEAST[what],
        )
        for what, each in counted.items()
    ]
    promises += [
        Promise("a first answer : asyncpg, the same rows", raw_ms / first_ms, 0.3),
        Promise(
            "known elsewhere, p99",
            statistics.quantiles(late, n=100)[98],
            100,
            below=True,
            unit=" ms",
        ),
    ]
    _print("consume", ["", "found", "promised", "kept"], [row.cells for row in promises])
    headings = ["", "a check in process, µs", "a first answer, ms", "a customer in memory, kB"]
    figures = [
        [f"{what}: {_median(each, 0)} a second, pgbench {_median(each, 1)}", "", "", ""]
        for what, each in counted.items()
    ]
    _print("growth", headings, [*grown, *figures])
    return 0 if all(row.kept for row in promises) else 1


def _median(pairs: Sequence[tuple[float, float]], side: int) -> str:
    return f"{statistics.median(pair[side] for pair in pairs):,.0f}"


def _print(bench: str, headings: list[str], rows: list[list[str]]) -> None:
    table = Table(*headings)
    for row in rows:
        table.add_row(*row)
    out.print(table)
    write_table(bench, headings, rows)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
