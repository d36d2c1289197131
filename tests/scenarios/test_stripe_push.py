"""The catalog laid out at the provider: pushed once, mended, archived, and never waited for."""

import asyncio
import copy
import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import stripe
from sqlalchemy import select
from typer.testing import CliRunner

from entitlements.billing.push import Kind, Plan
from entitlements.billing.tables import WebhookEventRow
from entitlements.billing.webhooks import OUTCOMES
from entitlements.cli import app
from entitlements.kernel.errors import PaymentProviderUnavailable
from entitlements.kernel.period import Interval
from entitlements.services import Services
from entitlements.settings import Settings
from entitlements.subscriptions.lines import Slot
from tests.api import Api
from tests.conftest import ADMIN_KEY, on_sqlite, publish
from tests.events import WEBHOOK_SECRET, deliver
from tests.faults.test_provider_faults import fault
from tests.provider_traffic import SERVICE_KEY


@pytest.fixture
async def there(sandbox_url: str) -> AsyncIterator[Any]:
    """The provider, as somebody sees it who works there by hand."""
    http = stripe.HTTPXClient(allow_sync_methods=False)
    client = stripe.StripeClient("sk_test_x", base_addresses={"api": sandbox_url}, http_client=http)
    yield client.v1
    await http.close_async()  # type: ignore[no-untyped-call]


async def prices(there: Any) -> dict[str, Any]:
    """Every price at the provider by its lookup key."""
    found = [p async for p in (await there.prices.list_async({"limit": 100})).auto_paging_iter()]
    assert len({p.lookup_key for p in found}) == len(found), "a price was made twice"
    return {p.lookup_key: p for p in found}


async def push(services: Services) -> Plan:
    plan = await services.payments.catalog_push.plan()
    assert not await services.payments.catalog_push.carry_out(plan)
    return plan


def kinds(plan: Plan) -> Counter[Kind]:
    return Counter(action.kind for action in plan.actions)


def _sold(id: str, month: str, **more: Any) -> dict[str, Any]:
    prices = {"usd": {"month": month, "year": f"{month[:-3]}0.00"}}
    charge = {"id": "base", "name": id, "model": "flat", "prices": prices}
    return {"id": id, "name": id.title(), "charges": [charge], **more}


SMALL: dict[str, Any] = {
    "currencies": ["usd"],
    "features": [{"id": "sso", "name": "SSO", "kind": "boolean"}],
    "products": [
        {
            "id": "work",
            "name": "Work",
            "plans": [
                _sold("starter", "29.00", entitlements={}),
                _sold("professional", "99.00", entitlements={"sso": True}),
            ],
            "add_ons": [
                _sold(id, "10.00", kind="module", entitlements={"sso": True})
                for id in ("sso-module", "old-module")
            ],
        }
    ],
}


@pytest.fixture
async def small(services: Services) -> dict[str, Any]:
    return await publish(services, SMALL)


def dearer(document: dict[str, Any], name: str | None = None) -> dict[str, Any]:
    """With another price of the first plan, and maybe another name."""
    changed = copy.deepcopy(document)
    plan = changed["products"][0]["plans"][0]
    plan["charges"][0]["prices"]["usd"] = {"month": "31.00", "year": "310.00"}
    plan["name"] = name or plan["name"]
    return changed


@on_sqlite
async def test_the_command_shows_its_plan_does_it_once_and_then_has_nothing_to_do(
    settings: Settings, example: Any, there: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {
        "DATABASE_URL": settings.database_url,
        "STRIPE_API_KEY": SERVICE_KEY,
        "STRIPE_API_BASE": settings.stripe_api_base,
        "STRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET,
        "ADMIN_KEY": ADMIN_KEY,
        "SANDBOX": "true",
    }
    for name, value in environment.items():
        monkeypatch.setenv(f"ENTITLEMENTS_{name}", value)

    async def run(*words: str) -> tuple[int, str]:
        found = await asyncio.to_thread(CliRunner().invoke, app, ["stripe", "push", *words])
        return found.exit_code, found.stdout

    ends, said = await run("--dry-run")
    assert ends == 1
    assert "create price" in said
    assert not await prices(there)

    ends, said = await run()
    assert (ends, said.splitlines()[-1].startswith("Done: ")) == (0, True)
    made = await prices(there)
    assert made["starter@1/base/usd/month"].unit_amount == 2900
    assert (await there.products.retrieve_async("package_starter")).name == "Starter"

    ends, said = await run("--dry-run", "--json")
    found = json.loads(said)
    assert (ends, found["actions"], found["catalog_revision"]) == (0, [], 1)
    assert found["unchanged"] > len(made)
    ends, said = await run()
    assert (ends, said[:13]) == (0, "Nothing to do")
    assert await prices(there) == made

    monkeypatch.setenv("ENTITLEMENTS_STRIPE_API_BASE", "http://127.0.0.1:9")
    monkeypatch.setattr("entitlements.billing.transport.ATTEMPTS", 1)
    assert (await run())[0] == 2


@on_sqlite
async def test_a_purchase_takes_the_prices_that_were_pushed(
    api: Api, services: Services, small: Any, there: Any
) -> None:
    await push(services)
    made = await prices(there)
    await api.create_customer("acme")
    assert (await api.change("start", customerId="acme", planId="starter"))["revision"]
    assert await prices(there) == made


async def test_a_version_that_nobody_holds_is_archived_and_one_that_is_held_can_still_be_bought(
    api: Api, services: Services, small: Any, there: Any
) -> None:
    await push(services)
    await api.create_customer("acme")
    await api.change("start", customerId="acme", planId="starter")
    renamed = dearer(small, "Basic")
    retired = renamed["products"][0]["add_ons"].pop()["id"]
    await publish(services, renamed)

    plan = await push(services)

    assert kinds(plan)[Kind.CREATE_PRICE] > 0
    assert [a.after for a in plan.actions if a.kind is Kind.RENAME_PRODUCT] == ["Basic"]
    assert not plan.drift
    found = await prices(there)
    assert found["starter@1/base/usd/month"].active
    assert found["starter@2/base/usd/month"].unit_amount == 3100
    of_retired = [p for key, p in found.items() if key.startswith(f"{retired}@")]
    assert of_retired
    assert not any(price.active for price in of_retired)
    assert not (await there.products.retrieve_async(f"package_{retired}")).active
    assert not (await services.payments.catalog_push.plan()).actions

    yearly = await api.change("year", customerId="acme", interval="YEAR")
    assert yearly["customer"]["subscriptions"][0]["plan"]["versionId"] == "starter@1"

    await api.create_customer("new-co")
    await api.change("start", customerId="new-co", planId="starter")
    await api.change("up", customerId="acme", planId="professional")
    assert {a.name for a in (await push(services)).actions if a.kind is Kind.ARCHIVE_PRICE} >= {
        "starter@1/base/usd/month"
    }
    assert not (await prices(there))["starter@1/base/usd/month"].active

    # A move that is rolled back puts somebody on it again.
    catalog = await services.catalog.current()
    slot = Slot("starter", 1, "base", 1, 1)
    await services.payments.prices.ensure(catalog, [slot], "usd", Interval.MONTH)
    assert (await prices(there))["starter@1/base/usd/month"].active
    assert not (await services.payments.catalog_push.plan()).drift

    await publish(services, small)  # what was retired is sold again
    again = await push(services)
    assert Kind.RESTORE_PRODUCT in kinds(again)
    assert not (await services.payments.catalog_push.plan()).actions


@on_sqlite
async def test_a_push_that_breaks_off_is_gone_on_with_and_makes_nothing_twice(
    services: Services, example: Any, there: Any, sandbox_url: str
) -> None:
    catalog_push = services.payments.catalog_push
    whole = await catalog_push.plan()
    await fault(sandbox_url, kind="rate_limit", times=3, path="/v1/prices")
    await fault(sandbox_url, kind="cut_after", times=2, method="POST", path="/v1/prices")

    class Killed(BaseException):
        pass

    done = 0

    def die_midway(_: object) -> None:
        nonlocal done
        done += 1
        if done == len(whole.actions) // 2:
            raise Killed

    with pytest.raises(Killed):
        await catalog_push.carry_out(whole, die_midway)

    rest = await catalog_push.plan()
    assert 0 < len(rest.actions) <= len(whole.actions) // 2
    await fault(sandbox_url, kind="error_before", times=99, method="POST", path="/v1/prices")
    with pytest.raises(PaymentProviderUnavailable):
        await catalog_push.carry_out(rest)
    async with asyncio.timeout(30):
        while (await catalog_push.plan()).actions:
            try:
                await push(services)
            except PaymentProviderUnavailable:
                continue
    assert len(await prices(there)) == kinds(whole)[Kind.CREATE_PRICE]


async def test_what_is_edited_there_by_hand_is_told_and_mended_and_what_we_do_is_not(
    api: Api, services: Services, small: Any, there: Any, sandbox_url: str
) -> None:
    catalog_push = services.payments.catalog_push
    await push(services)
    await publish(services, dearer(small, "Basic"))
    assert not await catalog_push.drift()  # only not pushed yet
    await push(services)
    await deliver(api, services, sandbox_url)

    async def in_the_inbox() -> set[tuple[str, str | None]]:
        async with services.database.read() as session:
            query = select(WebhookEventRow).where(WebhookEventRow.status == "drift")
            return {(row.object_id or "", row.error) for row in await session.scalars(query)}

    assert await in_the_inbox() == set()
    before = OUTCOMES.labels("drift")._value.get()
    made = await prices(there)
    archived, moved = made["starter@2/base/usd/month"], made["professional@1/base/usd/month"]
    await there.prices.update_async(archived.id, {"active": False})
    await there.prices.update_async(moved.id, {"lookup_key": "mine"})
    await there.prices.update_async(made["starter@2/base/usd/year"].id, {"nickname": "Yearly"})
    await there.products.update_async("package_starter", {"name": "Mine"})
    await there.products.create_async({"name": "Not of the catalog"})

    await deliver(api, services, sandbox_url)

    assert await in_the_inbox() == {
        (archived.id, "restore price starter@2/base/usd/month"),
        (
            moved.id,
            "move lookup key professional@1/base/usd/month: mine → professional@1/base/usd/month",
        ),
        ("package_starter", "rename product package_starter: Mine → Basic"),
    }
    assert OUTCOMES.labels("drift")._value.get() - before >= 3
    assert len(await catalog_push.drift()) == 3
    await push(services)
    assert await catalog_push.drift() == ()
    assert (await prices(there)).keys() == made.keys()
