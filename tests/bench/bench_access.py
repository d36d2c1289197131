"""What one check costs over HTTP, beside an empty web server, stock Strawberry and Mercurius.

Each server runs on one core and the load (wrk) on the other, in turns, several rounds; a ratio is
of two turns of one round, and the median of the rounds is shown. `make bench` prints it, and writes
it to the README. wrk and npm have to be there: `apt-get install wrk npm`; the peers that npm brings
are installed by this program.
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from entitlements.access import tokens
from entitlements.access.guard import Guard
from entitlements.catalog import examples
from entitlements.catalog.document import read
from entitlements.server.migrations import migrate
from entitlements.services import Services, opened_services
from entitlements.settings import load_settings
from entitlements.storage.engine import create_engine
from entitlements.subscriptions.target import ChangeRequest
from tests.bench.bench_webhooks import CALLER, WEBHOOK_SECRET, sandbox
from tests.bench.load import Promise, Seen, missing, running, wrk
from tests.bench.readme import write_table
from tests.conftest import publish

out = Console(width=110)

PEERS = Path(__file__).parent / "peers"
ADMIN_KEY = "ent_admin_for_bench_only"
ROUNDS = 5
CONNECTIONS = 16
MORE_CONNECTIONS = (1, 128, 512)
CHECKS = 50
DECISIONS = 200_000

ONE = (
    "query one($feature: ID!) { access(featureId: $feature) "
    "{ allowed reason revision value { enabled number choice } } }"
)
MANY = (
    "query many($checks: [AccessInput!]!) { accessMany(checks: $checks) "
    "{ featureId allowed reason } }"
)
FEATURES = ("dashboards", "sso", "support-channel", "workflows")
ONE_ASKS = {"feature": FEATURES[0]}
MANY_ASKS = {"checks": [{"featureId": FEATURES[n % len(FEATURES)]} for n in range(CHECKS)]}
BODIES: dict[str, dict[str, Any]] = {
    "one": {"query": ONE, "operationName": "one", "variables": ONE_ASKS},
    "many": {"query": MANY, "operationName": "many", "variables": MANY_ASKS},
    "one by id": {"documentId": "one", "operationName": "one", "variables": ONE_ASKS},
    "many by id": {"documentId": "many", "operationName": "many", "variables": MANY_ASKS},
}

Turn = tuple[str, str, int]
"""Who is asked, what, over how many connections."""

TURNS: list[Turn] = [
    *[(peer, "one", CONNECTIONS) for peer in ("bare", "ours", "mercurius", "stock")],
    ("ours", "one by id", CONNECTIONS),
    *[(peer, "many", CONNECTIONS) for peer in ("bare", "mercurius")],
    ("ours", "many by id", CONNECTIONS),
    ("bare", "one", 1),
    *[("ours", "one by id", connections) for connections in MORE_CONNECTIONS],
]


@asynccontextmanager
async def ours(directory: Path) -> AsyncIterator[tuple[str, str, Services]]:
    """`entitlements serve` with one worker, a customer's token, and the services."""
    trusted = directory / "trusted.json"
    trusted.write_text(json.dumps({"one": ONE, "many": MANY}))
    database_url = f"sqlite+aiosqlite:///{directory / 'bench.db'}"
    engine = create_engine(database_url)
    await migrate(engine, mode="sandbox")
    await engine.dispose()
    async with sandbox(directory / "sandbox") as provider_url:
        given: dict[str, Any] = {
            "database_url": database_url,
            "stripe_api_key": "sk_test_for_bench",
            "stripe_api_base": provider_url,
            "stripe_webhook_secret": WEBHOOK_SECRET,
            "admin_key": ADMIN_KEY,
            "sandbox": True,
            "trusted_documents": trusted,
            "public_requests_per_second": 0,
        }
        async with opened_services(load_settings(**given)) as services:
            await publish(services, read(examples.text("workspace")).document)
            await services.customers.create_customer(
                CALLER, "acme", sandbox_payment_method="pm_card_visa"
            )
            quote = await services.changes.preview(CALLER, "acme", ChangeRequest(plan_id="starter"))
            await services.changes.commit(CALLER, quote.token, "start")
            generation = await services.snapshots.token_generation("acme", at_least=0)
            token = tokens.issue(
                services.signer,
                "acme",
                generation,
                scopes=("read",),
                ttl_seconds=tokens.TTL_SECONDS_AT_MOST,
                subject=None,
            ).token
            environment = {f"ENTITLEMENTS_{name.upper()}": str(v) for name, v in given.items()}
            serve = (sys.executable, "-m", "entitlements", "serve", "--port", "{port}")
            async with running(*serve, **environment) as url:
                yield url, token, services


async def answer(url: str, token: str, body: dict[str, Any]) -> Any:
    """The second answer: from then on all is remembered."""
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}) as client:
        await client.post(url, json=body)
        found = (await client.post(url, json=body)).json()
    assert "errors" not in found, found
    return found


async def data_for_peers(services: Services, token: str, answers: dict[str, Any]) -> Any:
    """The customer's values, as the contract shows them; and what is to be answered."""
    known = await services.snapshots.get("acme")
    assert known.snapshot.grants is not None
    values = {id: granted.value for id, granted in known.snapshot.grants.features.items()}
    features = {
        id: {
            "enabled": value.enabled,
            "number": None if value.number is None else str(value.number),
            "choice": value.choice,
        }
        for id, value in values.items()
        if value is not None
    }
    customer = {"revision": str(known.snapshot.revision), "features": features}
    return {"answers": answers, "tokens": {token: "acme"}, "customers": {"acme": customer}}


async def measured(directory: Path) -> tuple[dict[Turn, list[Seen]], float, float]:
    """What wrk saw, by turn; the seconds of one decision of the guard, and of a dict's look-up."""
    async with AsyncExitStack() as stack:
        root, token, services = await stack.enter_async_context(ours(directory))
        urls = {"ours": f"{root}/graphql"}
        answers = {
            name: await answer(urls["ours"], token, BODIES[f"{name} by id"])
            for name in ("one", "many")
        }
        file = directory / "data.json"
        file.write_text(json.dumps(await data_for_peers(services, token, answers)))
        python = (sys.executable, "-m", "tests.bench.peers")
        for peer, command in {
            "bare": (*python[:2], f"{python[2]}.bare"),
            "stock": (*python[:2], f"{python[2]}.stock"),
            "mercurius": ("node", str(PEERS / "mercurius.mjs")),
        }.items():
            url = await stack.enter_async_context(running(*command, "{port}", str(file)))
            urls[peer] = f"{url}/graphql"
            for name, told in answers.items():
                assert (found := await answer(urls[peer], token, BODIES[name])) == told, found
        seen: dict[Turn, list[Seen]] = {turn: [] for turn in TURNS}
        for number in range(ROUNDS):
            out.print(f"… round {number + 1} of {ROUNDS}", style="dim")
            for turn in TURNS:
                peer, body, connections = turn
                found = await wrk(urls[peer], token, BODIES[body], connections=connections)
                seen[turn].append(found)
        async with Guard(root, ADMIN_KEY) as guard:
            assert (await guard.check("acme", FEATURES[0])).how
            decision = seconds(lambda: guard.check_now("acme", FEATURES[0]))
        look_up = {"acme": True}
        return seen, decision, seconds(lambda: look_up["acme"])


def seconds(act: Callable[[], object]) -> float:
    """Of one call, the best of some rounds; what an empty call takes is not counted."""

    def taken(call: Callable[[], object]) -> float:
        times = []
        for _ in range(5):
            began = time.perf_counter()
            for _ in range(DECISIONS):
                call()
            times.append((time.perf_counter() - began) / DECISIONS)
        return min(times)

    return max(taken(act) - taken(lambda: None), 1e-9)


def promises(seen: dict[Turn, list[Seen]], decision: float, look_up: float) -> list[Promise]:
    def ratio(one: Turn, other: Turn) -> float:
        pairs = zip(seen[one], seen[other], strict=True)
        return statistics.median(a.per_second / b.per_second for a, b in pairs)

    by_id, alone, bare = ("ours", "one by id", 16), ("ours", "one by id", 1), ("bare", "one", 16)
    many = ("ours", "many by id", 16)
    slower = statistics.median(
        a.p50_ms / b.p50_ms for a, b in zip(seen[alone], seen["bare", "one", 1], strict=True)
    )
    return [
        Promise("`access` by `documentId` : bare ASGI, the same bytes", ratio(by_id, bare), 0.70),
        Promise("the same : Mercurius with its JIT", ratio(by_id, ("mercurius", "one", 16)), 1.1),
        Promise("1 connection, p50 : bare ASGI", slower, 1.3, below=True),
        Promise(
            "1 connection, p99",
            statistics.median(each.p99_ms for each in seen[alone]),
            1.0,
            below=True,
            unit=" ms",
        ),
        Promise(
            "`access` ad hoc : stock Strawberry with its caches",
            ratio(("ours", "one", 16), ("stock", "one", 16)),
            1.2,
        ),
        Promise(
            f"`accessMany` of {CHECKS} : Mercurius with its JIT",
            ratio(many, ("mercurius", "many", 16)),
            0.9,
        ),
        Promise(
            "a check of it : a single `access`",
            ratio(by_id, many) / CHECKS,
            1 / 15,
            below=True,
        ),
        Promise("one decision of the guard", decision * 1e6, 1.0, below=True, unit=" µs"),
    ]


async def main() -> int:
    if absent := missing("wrk", "npm", "node", "taskset"):
        out.print(f"left out: {', '.join(absent)} (apt-get install wrk npm)", style="red")
        return 0
    npm = await asyncio.create_subprocess_exec("npm", "install", "--silent", cwd=PEERS)
    if await npm.wait():
        out.print("left out: npm cannot bring the peers", style="red")
        return 0
    with tempfile.TemporaryDirectory() as name:
        seen, decision, look_up = await measured(Path(name))
    rows = promises(seen, decision, look_up)
    headings = ["", "found", "promised", "kept"]
    _print(headings, [row.cells for row in rows])
    figures = ["who : what : connections", "requests/s", "p50, ms", "p99, ms"]
    cells = [
        [" : ".join(map(str, turn)), *(_median(each, n) for n in range(3))]
        for turn, each in seen.items()
    ]
    cells.append([f"the guard : a dict's look-up, {decision / look_up:.0f} times", "", "", ""])
    _print(figures, cells)
    write_table("access", headings, [row.cells for row in rows])
    write_table("access-figures", figures, cells)
    return 0 if all(row.kept for row in rows) else 1


def _median(seen: list[Seen], column: int) -> str:
    found = statistics.median(each[column] for each in seen)
    return f"{found:,.0f}" if column == 0 else f"{found:.2f}"


def _print(headings: list[str], rows: list[list[str]]) -> None:
    table = Table(*headings)
    for row in rows:
        table.add_row(*row)
    out.print(table)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
