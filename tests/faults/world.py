"""A world to break: the service, its database and the provider as files, copied for each case.

What is done before the fault is done once; every case begins with a copy of what that left. Time
stands still, so that two cases that ended well have ended alike.
"""

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from sqlalchemy import func, inspect, select, text, update
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from starlette.types import ASGIApp, Receive, Scope, Send

from entitlements.billing.tables import UsageReportRow, WebhookEventRow
from entitlements.billing.webhooks import WAITING
from entitlements.kernel.clock import SettableClock, wall_now
from entitlements.kernel.ids import new_id
from entitlements.sandbox.app import create_app as create_sandbox
from entitlements.server.app import create_app
from entitlements.server.demo import listen, serving_sandbox
from entitlements.services import Services, opened_services
from entitlements.settings import Settings, load_settings
from entitlements.subscriptions.tables import ChangeRow, CustomerRow, SubscriptionRow
from entitlements.worker import work_once
from tests.api import Api
from tests.conftest import ADMIN_KEY, START
from tests.events import WEBHOOK_SECRET, events_of, post

CUSTOMER = "acme"
"""Whom every operation is about."""


@dataclass
class World:
    """One running service beside one provider. `memo` is what an operation needs of its past."""

    services: Services
    api: Api
    provider: httpx.AsyncClient
    memo: dict[str, Any] = field(default_factory=dict)

    async def at_provider(self, path: str, **params: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        asked = {"limit": "100", **params}
        while True:
            page = (await self.provider.get(path, params=asked)).json()
            found += page["data"]
            if not page["has_more"]:
                return found
            asked["starting_after"] = found[-1]["id"]

    async def fault(self, **what: Any) -> None:
        answer = await self.provider.post("/_sandbox/faults", json=what)
        assert answer.is_success, answer.text

    async def press(self, url: str, **form: str) -> None:
        """What a customer does on a page of the provider, which may have moved since."""
        answer = await self.provider.post(urlsplit(url).path, data=form)
        assert answer.status_code < 400, answer.text

    async def heal(self) -> None:
        """The provider behaves again, and whoever died or was refused is waited for no longer."""
        await self.provider.delete("/_sandbox/faults")
        async with self.services.database.write() as session:
            await session.execute(update(ChangeRow).values(leased_until=wall_now()))
            await session.execute(update(WebhookEventRow).values(due_at=wall_now()))
            await session.execute(update(UsageReportRow).values(leased_until=wall_now()))
            unforgotten = CustomerRow.erase_due_at.is_not(None)
            await session.execute(
                update(CustomerRow).where(unforgotten).values(erase_due_at=wall_now())
            )
            untold = SubscriptionRow.align_due_at.is_not(None)
            await session.execute(
                update(SubscriptionRow).where(untold).values(align_due_at=wall_now())
            )

    async def post_events(self, events: list[dict[str, Any]]) -> None:
        """All at once, as the provider does."""
        assert set(await asyncio.gather(*(post(self.api, event) for event in events))) <= {200}

    async def drain_inbox(self) -> None:
        """Whatever was refused is tried again at once, until nothing is left."""
        for _ in range(50):
            while await self.services.webhooks.work():
                pass
            if await self.inbox_is_done():
                return
            await self.heal()
        raise AssertionError("the inbox does not come to an end")

    async def _is_done(self) -> bool:
        async with self.services.database.read() as session:
            for due in (SubscriptionRow.align_due_at, CustomerRow.erase_due_at):
                if await session.scalar(select(func.count()).where(due.is_not(None))):
                    return False
        return await self.inbox_is_done()

    async def inbox_is_done(self) -> bool:
        query = select(func.count()).select_from(WebhookEventRow)
        async with self.services.database.read() as session:
            return not await session.scalar(query.where(WebhookEventRow.status.in_(WAITING)))

    async def run_down(self) -> None:
        """A webhook of each type arrives (what it tells is fetched), and the worker works."""
        await self.heal()
        newest = {event["type"]: event for event in await events_of(self.provider)}
        await self.post_events(list(newest.values()))
        for _ in range(20):
            if not await work_once(self.services) and await self._is_done():
                return
            await self.heal()
        raise AssertionError("the worker does not come to an end")


def settings_of(database_url: str, sandbox_url: str) -> Settings:
    return load_settings(
        database_url=database_url,
        stripe_api_key="sk_test_for_tests",
        stripe_api_base=sandbox_url,
        stripe_webhook_secret=WEBHOOK_SECRET,
        admin_key=ADMIN_KEY,
        sandbox=True,
    )


@asynccontextmanager
async def opened(
    database_url: str, sandbox_url: str, memo: dict[str, Any] | None = None
) -> AsyncIterator[World]:
    """A service that begins, on what another one left."""
    settings = settings_of(database_url, sandbox_url)
    async with opened_services(settings, clock=SettableClock(START)) as services:

        @asynccontextmanager
        async def already_open() -> AsyncIterator[Services]:
            yield services

        app = create_app(already_open)
        app.state.services = services
        transport = httpx.ASGITransport(app)
        async with (
            httpx.AsyncClient(
                transport=transport, base_url="http://x", timeout=60, verify=False
            ) as client,
            httpx.AsyncClient(
                base_url=sandbox_url, auth=("sk_test_x", ""), verify=False
            ) as at_provider,
        ):
            yield World(services, Api(client, ADMIN_KEY), at_provider, dict(memo or {}))


class Provider:
    """One server of the provider, over one file after the other.

    To start a server and to stop it would take as long as a case.
    """

    def __init__(self) -> None:
        self.url = ""
        self._sandbox: ASGIApp | None = None
        self._answering = 0

    @asynccontextmanager
    async def over(self, file: Path) -> AsyncIterator[str]:
        """Where it is, as it would be if it had been started on this file."""
        sandbox = create_sandbox(file, public_url=self.url)
        async with sandbox.router.lifespan_context(sandbox):
            self._sandbox = sandbox
            yield self.url
            while self._answering:  # also what nobody waits for any more
                await asyncio.sleep(0.01)
            self._sandbox = None

    def _in_place_of(self, server_only: ASGIApp) -> ASGIApp:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                return await server_only(scope, receive, send)
            assert self._sandbox is not None
            self._answering += 1
            try:
                await self._sandbox(scope, receive, send)
            finally:
                self._answering -= 1

        return app

    @classmethod
    @asynccontextmanager
    async def serving(cls) -> AsyncIterator["Provider"]:
        provider = cls()
        bound = listen("127.0.0.1", 0)
        async with serving_sandbox(None, bound, watch=provider._in_place_of) as provider.url:
            yield provider


# ── copies ───────────────────────────────────────────────────────────────────


@dataclass
class Prepared:
    """What was there before the fault: a database and a provider's file that nobody has open."""

    database_url: str
    sandbox_file: Path
    memo: dict[str, Any]

    @asynccontextmanager
    async def copied(self) -> AsyncIterator["Prepared"]:
        """A copy of both, dropped at the end."""
        name = new_id("case")
        sandbox_file = self.sandbox_file.with_name(f"{name}.sandbox")
        shutil.copy(self.sandbox_file, sandbox_file)
        url = make_url(self.database_url)
        if url.get_backend_name() == "sqlite":
            copy = Path(url.database or "").with_name(f"{name}.db")
            shutil.copy(url.database or "", copy)
            yield Prepared(f"sqlite+aiosqlite:///{copy}", sandbox_file, self.memo)
            copy.unlink()
        else:
            await _at_server(
                self.database_url, f'CREATE DATABASE "{name}" TEMPLATE "{url.database}"'
            )
            copied = url.set(database=name).render_as_string(hide_password=False)
            yield Prepared(copied, sandbox_file, self.memo)
            await _at_server(self.database_url, f'DROP DATABASE "{name}" WITH (FORCE)')
        sandbox_file.unlink()

    @asynccontextmanager
    async def running(self, provider: Provider) -> AsyncIterator[World]:
        async with (
            provider.over(self.sandbox_file) as sandbox_url,
            opened(self.database_url, sandbox_url, self.memo) as world,
        ):
            yield world

    @asynccontextmanager
    async def again(self, provider: Provider) -> AsyncIterator[World]:
        """A copy of it all, running."""
        async with self.copied() as copy, copy.running(provider) as world:
            yield world


async def _at_server(url: str, statement: str) -> None:
    server = make_url(url).set(database="postgres")
    engine = create_async_engine(server, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        await connection.execute(text(statement))
    await engine.dispose()


# ── what is left ─────────────────────────────────────────────────────────────

_CHANCE = re.compile(
    r"[0-9A-Za-z]{20,}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    r"|\b(?=[A-Z]*\d)(?=\d*[A-Z])[0-9A-Z]{8}\b"  # a customer's, before the numbers of invoices
)
_INSTANT = re.compile(r"(\d{4}-\d\d-\d\d)[ T]\d\d:\d\d:\d\d(?:\.\d+)?|\b\d{10}(?:\.\d+)?\b")


async def left_behind(prepared: Prepared) -> list[str]:
    """All that is stored, here and at the provider, so that the same is the same text.

    What is drawn by chance (ids, secrets, hashes of them) is called by order of appearance; the
    machine's time, which leases and the ledger are told in, is the same at all times.
    """
    lines = await _rows(prepared.database_url)
    lines += await _rows(f"sqlite+aiosqlite:///{prepared.sandbox_file}")
    names: dict[str, str] = {}
    return [_CHANCE.sub(lambda m: names.setdefault(m[0], f"#{len(names)}"), x) for x in lines]


async def _rows(url: str) -> list[str]:
    """Of every table, once nobody else has it open."""
    today = wall_now().date()

    def instant(match: re.Match[str]) -> str:
        """`now` where it is one of the machine's time, in words or in seconds."""
        if match[1]:
            on = date.fromisoformat(match[1])
        else:
            on = datetime.fromtimestamp(float(match[0]), UTC).date()
        return "now" if abs(on - today) <= timedelta(days=1) else match[0]

    engine = create_async_engine(url)
    found: list[str] = []
    async with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            await _until_alone(connection)
        tables = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
        for table in sorted(tables):
            rows = await connection.execute(select(text("*")).select_from(text(f'"{table}"')))
            told = [_INSTANT.sub(instant, f"{table} {' '.join(map(str, row))}") for row in rows]
            found += sorted(told, key=lambda line: _CHANCE.sub("#", line))
    await engine.dispose()
    return found


async def _until_alone(connection: AsyncConnection) -> None:
    """The server notices that whoever was connected has died."""
    others = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    async with asyncio.timeout(60):
        while await connection.scalar(others):
            await asyncio.sleep(0.005)


# ── how it ended ─────────────────────────────────────────────────────────────

_ID = re.compile(r"\b([a-z]{2,4})_[0-9A-Za-z]{12,}\b")


async def outcome(world: World) -> dict[str, Any]:
    """All that can be seen from outside, here and at the provider; ids by order of appearance."""
    customers = [
        c for c in await world.at_provider("/v1/customers") if c["metadata"]["customer"] == CUSTOMER
    ]
    theirs: dict[str, Any] = {"customers": len(customers)}
    for customer in customers:
        of_customer = {"customer": customer["id"]}
        subscriptions = await world.at_provider("/v1/subscriptions", **of_customer, status="all")
        theirs |= {
            "balance": customer["balance"],
            "subscriptions": [_subscription(s) for s in subscriptions],
            "invoices": [
                (i["status"], i["billing_reason"], i["total"], i["amount_paid"])
                for i in await world.at_provider("/v1/invoices", **of_customer)
            ],
            "use": await _use(world, customer["id"]),
        }
    found = {
        "customer": await world.api.customer(CUSTOMER),
        "provider": theirs,
        "prices": sorted(p["lookup_key"] for p in await world.at_provider("/v1/prices")),
        "ledger": [(e["action"], e["actor"]) for e in await world.api.audit()],
    }
    names: dict[str, str] = {}

    def renamed(match: re.Match[str]) -> str:
        return names.setdefault(match[0], f"{match[1]}_{len(names)}")

    found["customer"].pop("revision")
    found["customer"]["invoices"]["nodes"].sort(key=json.dumps)
    return dict(json.loads(_ID.sub(renamed, json.dumps(found))))


async def _use(world: World, customer_id: str) -> dict[str, float]:
    """What the provider's meters say of a customer."""
    counted: dict[str, float] = {}
    asked = {"customer": customer_id, "start_time": "0", "end_time": "4102444800"}
    for meter in await world.at_provider("/v1/billing/meters"):
        url = f"/v1/billing/meters/{meter['id']}/event_summaries"
        for summary in (await world.provider.get(url, params=asked)).json()["data"]:
            counted[meter["event_name"]] = summary["aggregated_value"]
    return counted


def _subscription(found: dict[str, Any]) -> dict[str, Any]:
    items = [(i["price"]["lookup_key"], i.get("quantity")) for i in found["items"]["data"]]
    return {
        "status": found["status"],
        "items": sorted(items),
        "pending": found["pending_update"] is not None,
        "ends": found["cancel_at_period_end"],
    }


def drift(found: dict[str, Any]) -> list[str]:
    """Where what is stored here is not what is at the provider."""
    here, there = found["customer"], found["provider"]
    if not there["customers"]:
        return [f"held by nobody at the provider: {s}" for s in here["subscriptions"]]
    held = sorted(
        (s["status"].lower(), sorted(i["package"]["versionId"] for i in s["items"]))
        for s in here["subscriptions"]
    )
    provided = sorted(
        (s["status"], sorted({key.split("/")[0] for key, _ in s["items"]}))
        for s in there["subscriptions"]
        if s["status"] not in ("canceled", "incomplete", "incomplete_expired")
    )
    invoices = sorted(
        (i["status"], int(i["total"]["amountMinor"])) for i in here["invoices"]["nodes"]
    )
    invoiced = sorted((status, total) for status, _, total, _ in there["invoices"])
    compared = {
        "customers at the provider": (1, there["customers"]),
        "subscriptions": (held, [(s, list(keys)) for s, keys in provided]),
        "invoices": (invoices, invoiced),
        "credit": (int(here["creditBalance"]["amountMinor"]), -there["balance"]),
    }
    return [f"{what}: {us} ≠ {them}" for what, (us, them) in compared.items() if us != them]


async def until_answered(world: World, ask: Any) -> Any:
    """What a client does: asks again, with the same key, for as long as the answer is 'not now'."""
    for attempt in range(30):
        answer = await ask(world)
        if answer["__typename"] != "PaymentProviderUnavailable":
            return answer
        await world.heal()
        await asyncio.sleep(0.1 if attempt else 0)
    raise AssertionError(f"no answer: {answer}")
