"""Holders of older versions: kept, moved by policy, capped, told, rolled back; and what they give
up by what they change themselves."""

import asyncio
import copy
from collections.abc import Awaitable, Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select, text
from typer.testing import CliRunner

from entitlements.audit.ledger import Actor
from entitlements.catalog.proposals import GrandfatherPolicy, Policy
from entitlements.cli import app
from entitlements.kernel.clock import SettableClock
from entitlements.kernel.period import parse_instant
from entitlements.services import Services, opened_services
from entitlements.settings import Settings
from entitlements.subscriptions.tables import ChangeRow
from tests.api import Api
from tests.bench import bench_migrations as bench
from tests.conftest import on_sqlite
from tests.reconciliation import reconciled_clean

"""For what the rules decide and storage does not."""

Edit = Callable[[dict[str, Any]], None]

HOLDERS = 60
RENEWALS = [f"2026-{month:02}-01T12:00:00Z" for month in range(4, 13)]


def plan_of(document: dict[str, Any], plan_id: str = "professional") -> dict[str, Any]:
    plans: list[dict[str, Any]] = document["products"][0]["plans"]
    return next(plan for plan in plans if plan["id"] == plan_id)


def dearer(month: str, year: str = "1500.00") -> Edit:
    """Professional at another price."""

    def edit(document: dict[str, Any]) -> None:
        plan_of(document)["charges"][0]["prices"]["usd"] = {"month": month, "year": year}

    return edit


def richer(document: dict[str, Any]) -> None:
    plan_of(document)["entitlements"]["audit-log"] = True


async def published(
    services: Services, document: dict[str, Any], *edits: Edit, **policy: Any
) -> dict[str, Any]:
    """A newer catalog, with a policy for those who hold Professional as it was."""
    document = copy.deepcopy(document)
    for edit in edits:
        edit(document)
    said = [Policy(package_id="professional", **policy)] if policy else []
    proposal = await services.catalog.propose(
        Actor("pricing"), document, "costs have risen", policies=said
    )
    await services.catalog.approve(Actor("finance"), proposal.id, None)
    return document


async def start(api: Api, customer_id: str = "acme", **more: Any) -> None:
    await api.create_customer(customer_id)
    done = await api.change("start", customerId=customer_id, **{"planId": "professional", **more})
    assert done["__typename"] == "ChangeCommitted", done


async def invoiced(api: Api, customer_id: str = "acme") -> list[int]:
    """The totals of all invoices, oldest first."""
    nodes = (await api.customer(customer_id))["invoices"]["nodes"]
    return [int(invoice["total"]["amountMinor"]) for invoice in reversed(nodes)]


@on_sqlite
async def test_a_price_rises_by_its_cap_at_each_renewal_until_it_is_at_list(
    api: Api, services: Services, example: Any
) -> None:
    await start(api)
    await published(
        services,
        example,
        dearer("150.00"),
        price=GrandfatherPolicy.AT_RENEWAL,
        renewals=2,
        max_increase_percent=Decimal(20),
    )
    await api.advance(RENEWALS[4])
    assert await invoiced(api) == [9900, 9900, 11880, 14256, 15000, 15000]
    deltas = [
        entry["mrrDelta"]["amountMinor"]
        for entry in await api.audit(stream="customer:acme", action="change.applied")
    ]
    assert deltas == ["744", "2376", "1980", "9900"]
    ids = await api.ask('{ customer(id: "acme") { invoices { nodes { id } } } }')
    fourth = ids["customer"]["invoices"]["nodes"][-4]["id"]
    explain = "query ($id: ID!) { explainCharge(invoiceId: $id, line: 0) { steps } }"
    steps = (await api.ask(explain, id=fourth))["explainCharge"]["steps"]
    assert any("Grandfathered: × 0.9504 of that = $142.56" in step for step in steps)
    await reconciled_clean(services)


ITEMS = """query ($id: ID!) { customer(id: $id) { subscriptions {
  scheduledChanges { id effectiveAt description }
  items { package { versionId } entitlementsVersion recurring { amountMinor } grandfathered {
    heldVersion latestVersion policy movesAt entitlementsPolicy entitlementsMoveAt noticeAt
    capPercent listRecurring { amountMinor } } } } } }"""

MIGRATION = "id fromVersionId toVersionId status customers moved failed proposal { reason }"

MIGRATIONS = f"query {{ migrations {{ {MIGRATION} }} }}"

LOST = """mutation ($input: ChangeInput!) { previewChange(input: $input) { ... on Quote {
  grandfatheringLost { packageId heldVersion latestVersion recurring { amountMinor }
                       listRecurring { amountMinor } } } } }"""


async def held(api: Api, customer_id: str = "acme") -> Any:
    [subscription] = (await api.ask(ITEMS, id=customer_id))["customer"]["subscriptions"]
    return subscription


async def versions(api: Api, customer_id: str = "acme") -> list[str]:
    return [item["package"]["versionId"] for item in (await held(api, customer_id))["items"]]


async def decide(api: Api, mutation: str, id: str, reason: str | None = "as agreed") -> Any:
    said = "" if reason is None else ', reason: "as agreed"'
    found = await api.ask(
        f'''mutation {{ {mutation}(id: "{id}"{said}) {{ __typename
              ... on Migration {{ {MIGRATION} }} ... on UserError {{ code }} }} }}'''
    )
    return found[mutation]


async def lost(api: Api, **change: Any) -> Any:
    found = await api.ask(LOST, input={"customerId": "acme", **change})
    return found["previewChange"]["grandfatheringLost"]


@on_sqlite
async def test_what_is_kept_stays_through_seats_and_intervals_and_is_given_up_by_an_upgrade(
    api: Api, services: Services, example: Any
) -> None:
    await start(api, addOns=[{"id": "extra-seats", "quantity": 2}])
    await published(services, example, dearer("150.00"), richer, entitlements=GrandfatherPolicy.NOW)
    await api.advance("2026-03-02T12:00:00Z")
    assert (await api.access("acme", "audit-log"))["allowed"]
    item = next(i for i in (await held(api))["items"] if i["entitlementsVersion"] == 2)
    assert (item["package"]["versionId"], item["recurring"]["amountMinor"]) == (
        "professional@1",
        "9900",
    )
    assert item["grandfathered"] == {
        "heldVersion": 1,
        "latestVersion": 2,
        "policy": "KEEP",
        "movesAt": None,
        "entitlementsPolicy": "KEEP",
        "entitlementsMoveAt": None,
        "noticeAt": None,
        "capPercent": None,
        "listRecurring": {"amountMinor": "15000"},
    }
    more = {"addOns": [{"id": "extra-seats", "quantity": 5}]}
    assert await lost(api, **more) == []
    await api.change("seats", customerId="acme", **more)
    quote = await api.preview(customerId="acme", interval="YEAR")
    assert quote["recurringAfter"]["amountMinor"] == str(99000 + 5 * 10000)
    await api.commit(quote["token"], "year")
    assert await versions(api) == ["professional@1", "extra-seats@1"]
    assert (await api.access("acme", "audit-log"))["allowed"]
    gone = {
        "packageId": "professional",
        "heldVersion": 1,
        "latestVersion": 2,
        "recurring": {"amountMinor": "99000"},
        "listRecurring": {"amountMinor": "150000"},
    }
    assert await lost(api, toLatestVersions=True) == [gone]
    assert await lost(api, planId="starter") == [gone]
    quote = await api.preview(customerId="acme", toLatestVersions=True)
    await api.commit(quote["token"], "latest")
    assert await versions(api) == ["professional@2", "extra-seats@1"]
    assert all(item["grandfathered"] is None for item in (await held(api))["items"])
    await reconciled_clean(services)


@on_sqlite
async def test_a_price_that_moves_at_once_is_prorated_onto_the_next_invoice(
    api: Api, services: Services, example: Any
) -> None:
    await start(api)
    await api.advance("2026-03-17T00:00:00Z")  # half of the period
    await published(services, example, dearer("150.00"), price=GrandfatherPolicy.NOW)
    await api.advance("2026-03-17T00:00:01Z")
    assert await versions(api) == ["professional@2"]
    assert await invoiced(api) == [9900]
    await api.advance(RENEWALS[0])
    assert await invoiced(api) == [9900, 15000 + 7500 - 4950]
    await api.advance(RENEWALS[1])
    assert (await invoiced(api))[-1] == 15000
    [migration] = (await api.ask(MIGRATIONS))["migrations"]
    assert (migration["status"], migration["customers"], migration["moved"]) == ("COMPLETED", 1, 1)
    await reconciled_clean(services)


@on_sqlite
async def test_a_price_that_changes_twice_before_anyone_renews_moves_each_holder_once(
    api: Api, services: Services, example: Any
) -> None:
    renewal = {"price": GrandfatherPolicy.AT_RENEWAL, "renewals": 1}
    await start(api, "first")
    second = await published(services, example, dearer("120.00"), **renewal)
    await start(api, "second")
    while await services.moving.work():  # the first move waits already
        pass
    await published(services, second, dearer("150.00"), **renewal)
    await start(api, "third")
    await published(services, second, dearer("150.00"), richer)  # kept, and cancels nothing
    await api.advance(RENEWALS[0])
    for customer_id, paid in (("first", 9900), ("second", 12000), ("third", 15000)):
        assert await versions(api, customer_id) == ["professional@3"]
        assert await invoiced(api, customer_id) == [paid, 15000]
        nodes = (await api.customer(customer_id))["changes"]["nodes"]
        assert [c["status"] for c in nodes].count("APPLIED") == (1 if paid == 15000 else 2)
    found = {
        m["fromVersionId"] + ">" + m["toVersionId"]: (m["customers"], m["moved"])
        for m in (await api.ask(MIGRATIONS))["migrations"]
    }
    assert found == {
        "professional@1>professional@2": (0, 0),
        "professional@1>professional@3": (1, 1),
        "professional@2>professional@3": (1, 1),
    }


async def test_a_migration_is_paused_resumed_and_rolled_back(
    api: Api, services: Services, example: Any
) -> None:
    await start(api)
    await published(
        services, example, dearer("150.00"), price=GrandfatherPolicy.AT_RENEWAL, renewals=1
    )
    await api.advance("2026-03-10T12:00:00Z")
    [waiting] = (await held(api))["scheduledChanges"]
    assert waiting["description"] == "Professional at the price of version 2"
    assert (await api.take_back(waiting["id"]))["code"] == "MOVED_BY_POLICY"
    [migration] = (await api.ask(MIGRATIONS))["migrations"]
    assert migration == {
        "id": migration["id"],
        "fromVersionId": "professional@1",
        "toVersionId": "professional@2",
        "status": "SCHEDULED",
        "customers": 1,
        "moved": 0,
        "failed": 0,
        "proposal": {"reason": "costs have risen"},
    }
    assert (await decide(api, "pauseMigration", migration["id"]))["status"] == "PAUSED"
    assert (await decide(api, "pauseMigration", migration["id"]))["code"] == "PAUSED"
    await api.advance(RENEWALS[0])
    assert await invoiced(api) == [9900, 9900]
    assert (await held(api))["items"][0]["grandfathered"]["movesAt"] is None
    assert (await decide(api, "resumeMigration", migration["id"], None))["status"] == "SCHEDULED"
    assert (await held(api))["items"][0]["grandfathered"]["movesAt"] == RENEWALS[1]
    await api.advance(RENEWALS[1])
    assert (await invoiced(api))[-1] == 15000
    assert (await decide(api, "rollBackMigration", migration["id"]))["status"] == "ROLLED_BACK"
    await api.advance(RENEWALS[2])
    assert await versions(api) == ["professional@1"]
    assert await invoiced(api) == [9900, 9900, 15000, 9900]
    assert (await decide(api, "resumeMigration", migration["id"], None))["code"] == "ROLLED_BACK"
    [done] = (await api.ask(MIGRATIONS))["migrations"]
    assert (done["moved"], done["customers"]) == (0, 1)
    decided = [e["action"] for e in await api.audit(stream="catalog", objectType="migration")]
    assert decided == ["migration.rolled_back", "migration.resumed", "migration.paused"]
    await reconciled_clean(services)


@on_sqlite
async def test_finance_follows_and_rolls_back_a_migration_from_a_terminal(
    api: Api, services: Services, example: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await start(api)
    until = parse_instant(RENEWALS[2])
    await published(
        services,
        example,
        dearer("150.00"),
        price=GrandfatherPolicy.KEEP_UNTIL,
        until=until,
        notice_days=10,
    )
    endpoint = """mutation { createWebhookEndpoint(url: "http://127.0.0.1:9/", events: ["*"]) {
      ... on WebhookEndpointCreated { endpoint { id } } } }"""
    await api.ask(endpoint)
    while await services.moving.work():
        pass
    notices = await api.ask("{ webhookDeliveries(first: 9) { nodes { event } } }")
    assert [n["event"] for n in notices["webhookDeliveries"]["nodes"]] == ["price.moving"]
    legacy = """{ legacyVersions { versionId customers mrr { amountMinor }
                                   gapToList { amountMinor } endsAt } }"""
    assert (await api.ask(legacy))["legacyVersions"] == [
        {
            "versionId": "professional@1",
            "customers": 1,
            "mrr": [{"amountMinor": "9900"}],
            "gapToList": [{"amountMinor": "5100"}],
            "endsAt": RENEWALS[2],
        }
    ]
    monkeypatch.setenv("ENTITLEMENTS_DATABASE_URL", settings.database_url)
    monkeypatch.setenv("ENTITLEMENTS_SANDBOX", "true")

    def run(*words: str, ends: int = 0) -> str:
        result = CliRunner().invoke(app, ["catalog", "migrations", *words])
        assert result.exit_code == ends, (result.output, result.exception)
        return result.stdout

    [migration] = (await api.ask(MIGRATIONS))["migrations"]
    about = f"{migration['id']}: professional@1 to professional@2"
    shown = await asyncio.to_thread(run, "show", migration["id"])
    assert shown == f"{about}, scheduled, 0 of 1 moved\n"
    assert migration["id"] in await asyncio.to_thread(run, "list")
    why = ("--reason", "too many complaints", "--as", "bob")
    await asyncio.to_thread(run, "pause", migration["id"], *why)
    await asyncio.to_thread(run, "resume", migration["id"], "--as", "bob")
    done = await asyncio.to_thread(run, "rollback", migration["id"], *why)
    assert done == f"{about}, rolled_back, 0 of 1 moved\n"
    await asyncio.to_thread(run, "pause", migration["id"], *why, ends=1)
    await asyncio.to_thread(run, "show", "mig_none", ends=2)
    await api.advance(RENEWALS[3])
    assert set(await invoiced(api)) == {9900}
    assert (await held(api))["items"][0]["grandfathered"]["movesAt"] is None


async def test_several_workers_move_every_holder_once(settings: Settings) -> None:
    """On rows written directly: the payment provider has no part in it."""
    clock = SettableClock(bench.START)
    async with (
        opened_services(settings, clock=clock) as one,
        opened_services(settings, clock=clock) as other,
    ):
        await bench.seed(one, HOLDERS)

        async def together(work: Callable[[Services], Awaitable[int]]) -> None:
            while any(await asyncio.gather(*(work(each) for each in (one, other) * 2))):
                pass

        clock.set(bench.START + timedelta(days=1))
        await together(lambda each: each.moving.work(limit=10))
        clock.set(bench.RENEWAL)
        await together(lambda each: each.due.work())
        await bench.each_once(one, HOLDERS)


@on_sqlite
async def test_what_sales_sells_moves_by_our_own_calendar(
    api: Api, services: Services, example: Any
) -> None:
    """Billed outside: the provider tells of no renewal, and no price is known here."""
    await start(api, planId="enterprise")

    def without_manager(document: dict[str, Any]) -> None:
        plan_of(document, "enterprise")["entitlements"]["named-manager"] = False

    policy = Policy(
        package_id="enterprise",
        price=GrandfatherPolicy.AT_RENEWAL,
        renewals=2,
        entitlements=GrandfatherPolicy.AT_RENEWAL,
    )
    document = copy.deepcopy(example)
    without_manager(document)
    proposal = await services.catalog.propose(
        Actor("pricing"), document, "nobody calls", policies=[policy]
    )
    await services.catalog.approve(Actor("finance"), proposal.id, None)
    await api.advance(RENEWALS[0])
    assert (await api.access("acme", "named-manager"))["allowed"]
    await api.advance(RENEWALS[1])
    assert await versions(api) == ["enterprise@2"]
    assert not (await api.access("acme", "named-manager"))["allowed"]


@on_sqlite
async def test_one_who_cannot_be_read_holds_up_nobody(settings: Settings) -> None:
    clock = SettableClock(bench.START)
    async with opened_services(settings, clock=clock) as services:
        await bench.seed(services, 3)
        clock.set(bench.START + timedelta(days=1))
        broken = "UPDATE subscription_item SET price_factor = 'none' WHERE id = 'itm_000000001'"
        async with services.database.write() as session:
            await session.execute(text(broken))
        while await services.moving.work():
            pass
        async with services.database.read() as session:
            moved = await session.scalars(select(ChangeRow.customer_id).order_by(ChangeRow.id))
            assert moved.all() == ["customer-0", "customer-2"]
