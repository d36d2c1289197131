"""What finance's proofs cost: the ledger verified, a proposal over 100,000 subscriptions, a
customer as of long ago, and what being recorded adds to a purchase.

`make bench` prints it, and writes it to the README; it ends with 1 where it takes longer than is
promised. SQLite, one process; rows are written directly where it says so.
"""

import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from sqlalchemy import insert

from entitlements.audit import ledger, seals
from entitlements.audit.ledger import Actor
from entitlements.audit.tables import AuditEntryRow
from entitlements.catalog import examples
from entitlements.catalog.document import read
from entitlements.catalog.proposals import GrandfatherPolicy, Policy
from entitlements.finance.impact import Impact
from entitlements.kernel.clock import SettableClock
from entitlements.kernel.ids import new_id
from entitlements.kernel.period import add_months
from entitlements.server.demo import listen, serving_sandbox
from entitlements.server.migrations import migrate
from entitlements.services import Services, opened_services
from entitlements.settings import load_settings
from entitlements.storage.engine import create_engine
from entitlements.subscriptions.change import Authority
from entitlements.subscriptions.request import ChangeRequest
from entitlements.subscriptions.service import Caller
from entitlements.subscriptions.tables import (
    CustomerRevisionRow,
    CustomerRow,
    SubscriptionItemRow,
    SubscriptionRow,
)
from tests.bench.readme import write_table

ENTRIES = 100_000
SUBSCRIPTIONS = 100_000
REVISIONS = (10, 1_000, 10_000)
PURCHASES = 30
SEEDED_AT_A_TIME = 2_000
START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
CALLER = Caller(Actor("bench"), Authority.STAFF)

VERIFIED_PER_SECOND_AT_LEAST = 2_000
IMPACT_SECONDS_AT_MOST = 20
IMPACT_MEGABYTES_AT_MOST = 100
AS_OF_GROWS_AT_MOST = 5
RECORDING_RATIO_AT_MOST = 1.6
"""What is promised, with room for a slow machine."""


@contextlib.asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Services]:
    """The service with the example catalog, beside a sandbox of the provider."""
    url = f"sqlite+aiosqlite:///{directory / 'bench.db'}"
    engine = create_engine(url)
    await migrate(engine, mode="sandbox")
    await engine.dispose()
    async with serving_sandbox(None, listen("127.0.0.1", 0)) as sandbox_url:
        settings = load_settings(
            database_url=url,
            stripe_api_key="sk_test_for_bench",
            stripe_api_base=sandbox_url,
            stripe_webhook_secret="whsec_for_bench",
            admin_key="ent_admin_for_bench_only",
            sandbox=True,
        )
        async with opened_services(settings, clock=SettableClock(START)) as services:
            document = read(examples.text("workspace")).document
            proposed = await services.catalog.propose(Actor("ann"), document, "for a bench")
            await services.catalog.approve(Actor("bob"), proposed.id, None)
            yield services


async def timed(work: Callable[[], Awaitable[Any]]) -> float:
    begin = time.perf_counter()
    await work()
    return time.perf_counter() - begin


async def verified_per_second(services: Services) -> float:
    """Chains of a hundred entries each, written directly."""
    async with services.database.write() as session:
        for stream in range(ENTRIES // 100):
            previous: str | None = None
            rows = []
            for sequence in range(1, 101):
                entry = AuditEntryRow(
                    id=new_id("aud"), stream=f"customer:b{stream}", sequence=sequence, at=START,
                    actor="bench", action="change.applied", object_type="change",
                    object_id="chg_1", before=None, after={"status": "applied", "items": [1, 2]},
                    reason=None, request_id=None, mrr_delta_minor=100, currency="usd",
                    previous_hash=previous,
                )  # fmt: skip
                entry.hash = previous = ledger.entry_hash(entry)
                rows.append({c.name: getattr(entry, c.name) for c in AuditEntryRow.__table__.c})
            await session.execute(insert(AuditEntryRow), rows)

    async def verify() -> None:
        async with services.database.read(streaming=True) as session:
            found = await seals.verify(session, services.signer)
        assert found.ok
        assert found.entries >= ENTRIES

    return ENTRIES / await timed(verify)


async def impact_of(services: Services) -> tuple[float, float]:
    """Seconds, and how many megabytes more there are at its peak; rows written directly."""
    for first in range(0, SUBSCRIPTIONS, SEEDED_AT_A_TIME):
        await _seed(services, range(first, first + SEEDED_AT_A_TIME))
    document = read(examples.text("workspace")).document
    document["products"][0]["plans"][1]["charges"][0]["prices"]["usd"]["month"] = "149.00"
    policy = Policy(
        package_id="professional",
        price=GrandfatherPolicy.AT_RENEWAL,
        renewals=1,
        max_increase_percent=Decimal(10),
    )
    row = await services.catalog.propose(Actor("ann"), document, "dearer", policies=[policy])
    found: list[Impact] = []

    async def predict() -> None:
        found.append(msgspec.convert(await services.catalog.impact_of(row), Impact))

    Path("/proc/self/clear_refs").write_text("5")  # forget the highest that there was
    before = _kilobytes("VmRSS")
    seconds = await timed(predict)
    assert found[0].customers_affected == SUBSCRIPTIONS
    return seconds, _kilobytes("VmHWM") / 1024 - before / 1024


def _kilobytes(name: str) -> int:
    """Of this process: `VmRSS` now, `VmHWM` at the most since it was forgotten."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith(name)))


async def _seed(services: Services, numbers: range) -> None:
    ids = [f"cust_{n:06}" for n in numbers]
    anchors = [START - timedelta(hours=n % 720) for n in numbers]
    async with services.database.write() as session:
        customers = [
            {"id": id, "sequence": f"cus_{id}", "currency": "usd", "created_at": START,
             "revision": 1, "token_generation": 1, "credit_balance_minor": 0}
            for id in ids
        ]  # fmt: skip
        await session.execute(insert(CustomerRow), customers)
        subscriptions = [
            {"id": f"sub_{id}", "customer_id": id, "product_id": "workspace", "status": "active",
             "interval": "month", "currency": "usd", "period_start": anchor,
             "period_end": add_months(anchor, 1), "anchor": anchor, "started_at": anchor,
             "quantities": {}, "pending_lines": []}
            for id, anchor in zip(ids, anchors, strict=True)
        ]  # fmt: skip
        await session.execute(insert(SubscriptionRow), subscriptions)
        items = [
            {"id": f"itm_{id}_{package}", "subscription_id": f"sub_{id}", "package_id": package,
             "version": 1, "entitlements_version": 1, "quantity": 1, "started_at": START,
             "charges": {}}
            for id in ids
            for package in ("professional", "advanced-analytics")
        ]  # fmt: skip
        await session.execute(insert(SubscriptionItemRow), items)


async def as_of(services: Services) -> list[float]:
    """Milliseconds to know what a customer held half their history ago, by its length."""
    found = []
    for length in REVISIONS:
        id = f"old_{length}"
        await services.customers.create_customer(CALLER, id)
        async with services.database.write() as session:
            stored = await session.get_one(CustomerRevisionRow, (id, 1))
            rows = [
                {"customer_id": id, "revision": n, "at": START + timedelta(seconds=n),
                 "state": stored.state}
                for n in range(2, length + 1)
            ]  # fmt: skip
            await session.execute(insert(CustomerRevisionRow), rows)
        at = START + timedelta(seconds=length // 2)
        services.clock.set(START + timedelta(days=1))  # type: ignore[attr-defined]
        catalog = await services.catalog.as_of(at)

        async def look(id: str = id, at: datetime = at, catalog: Any = catalog) -> None:
            assert await services.customers.views_at([id], catalog, at)

        await look()
        found.append(1000 * statistics.median([await timed(look) for _ in range(50)]))
    return found


async def purchases(services: Services, name: str) -> float:
    """Milliseconds of a first purchase, preview and commit, with the sandbox's own time."""
    times = []
    for n in range(PURCHASES):
        id = f"{name}_{n}"
        await services.customers.create_customer(CALLER, id, sandbox_payment_method="pm_card_visa")
        request = ChangeRequest(plan_id="starter")
        quote = await services.changes.preview(CALLER, id, request)

        async def commit(token: str = quote.token, id: str = id) -> None:
            await services.changes.commit(CALLER, token, f"key_{id}")

        times.append(await timed(commit))
    return 1000 * statistics.median(times)


async def recording(services: Services) -> tuple[float, float]:
    """A purchase with the ledger and the history, and with neither."""
    await purchases(services, "warm")
    recorded = await purchases(services, "with")
    completing, append = services.database.completing[:], ledger.append

    async def nothing(*_: object, **__: object) -> None:
        pass

    services.database.completing.clear()
    ledger.append = nothing  # type: ignore[assignment]
    try:
        bare = await purchases(services, "without")
    finally:
        services.database.completing.extend(completing)
        ledger.append = append
    return recorded, bare


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


async def measure() -> int:
    with tempfile.TemporaryDirectory() as directory:
        async with opened(Path(directory)) as services:
            recorded, bare = await recording(services)
            print(f"… purchases: {recorded:.1f} ms recorded, {bare:.1f} ms not")
            lengths = await as_of(services)
            per_second = await verified_per_second(services)
            print(f"… verified: {per_second:,.0f} a second; as of: {lengths}")
        async with opened(_made(Path(directory, "impact"))) as services:
            seconds, megabytes = await impact_of(services)
    rows = [
        ("verify the ledger", f"{per_second:,.0f} entries a second", f"{ENTRIES:,} entries"),
        ("impact of a price change", f"{seconds:.1f} s, {megabytes:.0f} MB",
         f"{SUBSCRIPTIONS:,} subscriptions with two packages each"),
        *(("a customer as of half their history ago", f"{ms:.1f} ms", f"{n:,} revisions")
          for n, ms in zip(REVISIONS, lengths, strict=True)),
        ("a purchase, recorded", f"{recorded:.0f} ms", f"{recorded / bare:.2f} × of one that is "
         "neither in the ledger nor in the history"),
    ]  # fmt: skip
    table = Table("", "measured", "of")
    for row in rows:
        table.add_row(*row)
    Console(width=110).print(table)
    write_table("finance", ["", "measured", "of"], rows)
    broken = [
        words
        for words, kept in (
            ("verify", per_second >= VERIFIED_PER_SECOND_AT_LEAST),
            ("impact", seconds <= IMPACT_SECONDS_AT_MOST),
            ("memory", megabytes <= IMPACT_MEGABYTES_AT_MOST),
            ("as of", lengths[-1] <= AS_OF_GROWS_AT_MOST * lengths[0]),
            ("recording", recorded / bare <= RECORDING_RATIO_AT_MOST),
        )
        if not kept
    ]
    print(f"BROKEN: {', '.join(broken)}" if broken else "kept: all that is promised")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(measure()))
