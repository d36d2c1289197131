"""Checks, counting and buying at the same time, by one process and by two, on PostgreSQL.

The service, PostgreSQL, the sandbox and the load share the machine. Each load runs in turn: checks
alone; with a `consume` for every tenth request; and with a customer meanwhile who buys and gives up
an add-on as fast as the answers come. `make bench` prints it, and writes it to the README. wrk has
to be there: `apt-get install wrk`.
"""

import asyncio
import itertools
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from entitlements.catalog import examples
from entitlements.catalog.document import read
from entitlements.server.migrations import migrate
from entitlements.services import opened_services
from entitlements.settings import load_settings
from entitlements.storage.engine import create_engine
from entitlements.subscriptions.target import ChangeRequest
from tests.bench.bench_webhooks import CALLER, WEBHOOK_SECRET, sandbox
from tests.bench.load import missing, running, wrk
from tests.bench.readme import write_table
from tests.conftest import publish
from tests.postgres import postgresql

out = Console(width=110)

ADMIN_KEY = "ent_admin_for_bench_only"
CUSTOMERS = 50
CONNECTIONS = 16
SECONDS = 8
WORKERS = (1, 2)

LOAD = """
local n = 0
local check = '{"query":"query check($c: ID!) { access(customerId: $c, ' ..
  'featureId: \\\\"dashboards\\\\") { allowed reason revision } }",' ..
  '"variables":{"c":"customer-%%d"}}'
local count = '{"query":"mutation count($c: ID!, $k: String!) { consume(customerId: $c, ' ..
  'featureId: \\\\"api-calls\\\\", idempotencyKey: $k) { ... on Consumed { decision ' ..
  '{ allowed } } } }","variables":{"c":"customer-%%d","k":"%(run)s-%%d"}}'
request = function()
  n = n + 1
  local body = string.format(check, n %% %(customers)d)
  if %(counts)s and n %% 10 == 0 then body = string.format(count, n %% %(customers)d, n) end
  return wrk.format(nil, nil, nil, body)
end
"""
BUY = """mutation ($key: String!) { purchaseAddOn(input: {customerId: "buyer",
  addOnId: "advanced-analytics", idempotencyKey: $key}) { __typename } }"""
PREVIEW = """mutation { previewChange(input: {customerId: "buyer", timing: NOW, reason: "bench",
  addOns: [{id: "advanced-analytics", quantity: 0}]}) { ... on Quote { token } } }"""
COMMIT = """mutation ($token: String!, $key: String!) {
  commitChange(token: $token, idempotencyKey: $key) { __typename } }"""


async def buying(url: str, until: float, keys: "itertools.count[int]") -> int:
    """How often the add-on was bought or given up."""
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    done = 0
    async with httpx.AsyncClient(headers=headers, timeout=30) as client:

        async def ask(query: str, **variables: Any) -> Any:
            asked = {"query": query, "variables": variables}
            [(_, found)] = (await client.post(url, json=asked)).json()["data"].items()
            return found

        while time.monotonic() < until:
            bought = await ask(BUY, key=f"buy-{next(keys)}")
            quote = await ask(PREVIEW)
            given_up = await ask(COMMIT, token=quote["token"], key=f"give-{next(keys)}")
            for told in (bought, given_up):
                assert told["__typename"] == "ChangeCommitted", told
            done += 2
    return done


async def measured(directory: Path, server: str) -> list[list[str]]:
    engine = create_async_engine(server, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        await connection.execute(text("CREATE DATABASE mixed"))
    await engine.dispose()
    rows, keys = [], itertools.count()
    async with sandbox(directory / "sandbox") as provider_url:
        given: dict[str, Any] = {
            "database_url": server.replace("/postgres?", "/mixed?"),
            "stripe_api_key": "sk_test_for_bench",
            "stripe_api_base": provider_url,
            "stripe_webhook_secret": WEBHOOK_SECRET,
            "admin_key": ADMIN_KEY,
            "sandbox": True,
        }
        database = create_engine(given["database_url"])
        await migrate(database, mode="sandbox")
        await database.dispose()
        async with opened_services(load_settings(**given)) as services:
            await publish(services, read(examples.text("workspace")).document)
            for id in ("buyer", *(f"customer-{n}" for n in range(CUSTOMERS))):
                await services.customers.create_customer(
                    CALLER, id, sandbox_payment_method="pm_card_visa"
                )
                wanted = ChangeRequest(plan_id="professional")
                quote = await services.changes.preview(CALLER, id, wanted)
                await services.changes.commit(CALLER, quote.token, "start")
        environment = {f"ENTITLEMENTS_{name.upper()}": str(v) for name, v in given.items()}
        for workers in WORKERS:
            serve = ("-m", "entitlements", "serve", "--port", "{port}", "--workers", str(workers))
            async with running(sys.executable, *serve, cores="0,1", **environment) as root:
                url = f"{root}/graphql"

                async def load(*, counts: bool, seconds: int, url: str = url) -> Any:
                    what = {
                        "run": next(keys),
                        "customers": CUSTOMERS,
                        "counts": str(counts).lower(),
                    }
                    body = LOAD % what
                    return await wrk(url, ADMIN_KEY, body, connections=CONNECTIONS, seconds=seconds)

                await load(counts=True, seconds=2)  # whoever is asked about is in memory
                alone = await load(counts=False, seconds=SECONDS)
                counted = await load(counts=True, seconds=SECONDS)
                until = time.monotonic() + SECONDS
                all_three, bought = await asyncio.gather(
                    load(counts=True, seconds=SECONDS), buying(url, until, keys)
                )
            for what, seen, changes in (
                ("checks", alone, ""),
                ("a tenth counts", counted, ""),
                ("and somebody buys", all_three, f"{bought / SECONDS:.1f}"),
            ):
                figures = f"{seen.per_second:,.0f}", f"{seen.p50_ms:.2f}", f"{seen.p99_ms:.2f}"
                rows.append([f"{workers} : {what}", *figures, changes])
    return rows


async def main() -> int:
    if absent := missing("wrk", "taskset"):
        out.print(f"left out: {', '.join(absent)} (apt-get install wrk)", style="red")
        return 0
    with tempfile.TemporaryDirectory() as name, postgresql(durable=True) as server:
        if server is None:
            out.print("left out: PostgreSQL is not there", style="red")
            return 0
        rows = await measured(Path(name), server)
    headings = ["processes : load", "requests/s", "p50, ms", "p99, ms", "changes/s"]
    table = Table(*headings)
    for row in rows:
        table.add_row(*row)
    out.print(table)
    write_table("mixed", headings, rows)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
