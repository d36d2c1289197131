"""Changes that wait for the end of the period: what is quoted is what happens, then and once."""

import asyncio
from datetime import datetime
from typing import Any

import httpx
import pytest

from entitlements.kernel.clock import SettableClock
from entitlements.kernel.period import parse_instant
from entitlements.services import Services, opened_services
from entitlements.settings import Settings
from entitlements.worker import work_once
from tests.api import Api
from tests.conftest import on_sqlite
from tests.events import deliver, events_of
from tests.reconciliation import reconciled_clean

"""For what the rules decide and storage does not."""

END = "2026-04-01T12:00:00Z"
FEWER = {"addOns": [{"id": "extra-seats", "quantity": 5}]}


async def _start(api: Api, card: str = "pm_card_visa", **more: Any) -> None:
    await api.create_customer("acme", card)
    wanted = {"planId": "professional", "addOns": [{"id": "extra-seats", "quantity": 10}], **more}
    started = await api.change("start", customerId="acme", **wanted)
    assert started["__typename"] == "ChangeCommitted", started


async def _schedule(api: Api, key: str, **change: Any) -> str:
    done = await api.change(key, customerId="acme", **change)
    assert done["__typename"] == "ChangeCommitted", done
    assert done["change"]["status"] == "SCHEDULED"
    return str(done["change"]["id"])


async def _held(api: Api) -> Any:
    [held] = (await api.customer("acme"))["subscriptions"]
    return held


async def _planned(sandbox_url: str) -> list[Any]:
    """What the provider will do: whether it ends, and the phases of each schedule in force."""
    async with httpx.AsyncClient(auth=("sk_test_x", ""), base_url=sandbox_url) as client:
        subs = (await client.get("/v1/subscriptions?limit=100")).json()["data"]
        schedules = (await client.get("/v1/subscription_schedules?limit=100")).json()["data"]
    ends = [sub["cancel_at_period_end"] for sub in subs]
    active = [s for s in schedules if s["status"] == "active"]
    return [*ends, *([len(i["items"]) for i in s["phases"]] for s in active)]


def _items(held: Any) -> dict[str, int]:
    return {item["package"]["versionId"]: item["quantity"] for item in held["items"]}


async def test_a_downgrade_waits_for_the_renewal_and_is_what_it_was_quoted(
    api: Api, services: Services, sandbox_url: str, example: Any
) -> None:
    await _start(api, addOns=[{"id": "extra-seats", "quantity": 10}, {"id": "api-access"}])
    before = await api.customer("acme")

    quote = await api.preview(customerId="acme", planId="starter")
    assert (quote["direction"], quote["effectiveAt"]) == ("DOWNGRADE", END)
    assert (quote["lines"], quote["dueNow"]["amountMinor"]) == ([], "0")
    assert quote["removedAddOns"] == [{"id": "api-access"}]
    assert quote["recurringBefore"]["amountMinor"] == "44900"
    assert quote["recurringAfter"]["amountMinor"] == "12900"
    assert quote["nextInvoice"]["at"] == END
    assert {c["feature"]["id"] for c in quote["entitlementChanges"]} >= {"sso", "bulk-api"}
    done = await api.commit(quote["token"], "down")
    assert (done["change"]["status"], done["change"]["total"]["amountMinor"]) == ("SCHEDULED", "0")
    assert (await api.commit(quote["token"], "down"))["change"] == done["change"]

    held = await _held(api)
    assert _items(held) == _items(before["subscriptions"][0])
    assert held["scheduledChanges"] == [
        {
            "id": done["change"]["id"],
            "description": "Starter instead of Professional, API Access removed",
            "effectiveAt": END,
            "change": {"id": done["change"]["id"], "status": "SCHEDULED"},
        }
    ]
    assert await _planned(sandbox_url) == [False, [3, 2]]
    assert (await api.access("acme", "sso"))["allowed"]

    await api.advance("2026-04-01T11:59:59Z")
    assert (await api.access("acme", "sso"))["allowed"]
    assert len((await api.customer("acme"))["invoices"]["nodes"]) == 1
    await api.advance(END)

    customer = await api.customer("acme")
    [held] = customer["subscriptions"]
    assert _items(held) == {"starter@1": 1, "extra-seats@1": 10}
    assert held["recurring"] == quote["recurringAfter"]
    assert held["scheduledChanges"] == []
    assert not (await api.access("acme", "sso"))["allowed"]
    assert len(customer["invoices"]["nodes"]) == 2
    assert customer["invoices"]["nodes"][0]["total"] == quote["nextInvoice"]["total"]
    told = [(e["action"], e["mrrDelta"]) for e in await api.audit(stream="customer:acme")]
    applied = ("change.applied", {"amountMinor": "-32000"})
    assert told[:4] == [
        ("subscription.followed", None),
        applied,
        ("change.scheduled", None),
        ("change.requested", None),
    ]
    assert await _planned(sandbox_url) == [False]
    await api.advance("2026-05-01T12:00:00Z")
    newest = (await api.customer("acme"))["invoices"]["nodes"][0]
    assert newest["total"] == quote["nextInvoice"]["total"]
    assert (await api.ask("{ verifyAudit { ok } }"))["verifyAudit"]["ok"]


@on_sqlite
async def test_a_scheduled_change_taken_back_never_happens(
    api: Api, sandbox_url: str, example: Any
) -> None:
    await _start(api)
    first = await _schedule(api, "down", planId="starter")
    assert (await api.preview(customerId="acme", planId="professional"))["issues"][0]["code"] == (
        "NOTHING_TO_CHANGE"
    )
    taken_back = await api.take_back(first)
    assert taken_back["change"]["status"] == "CANCELED"
    assert await _planned(sandbox_url) == [False]
    assert (await api.take_back(first))["code"] == "SETTLED"
    await api.advance(END)
    assert _items(await _held(api)) == {"professional@1": 1, "extra-seats@1": 10}
    assert (await api.customer("acme"))["invoices"]["nodes"][0]["total"]["amountMinor"] == "19900"


@on_sqlite
async def test_a_later_change_of_the_same_thing_replaces_and_others_wait_beside_it(
    api: Api, sandbox_url: str, example: Any
) -> None:
    await _start(api, addOns=[{"id": "extra-seats", "quantity": 10}, {"id": "security-pack"}])
    first = await _schedule(api, "fewer", **FEWER)
    removal = await _schedule(api, "less", addOns=[{"id": "security-pack", "quantity": 0}])

    quote = await api.preview(customerId="acme", addOns=[{"id": "extra-seats", "quantity": 7}])
    assert quote["recurringAfter"]["amountMinor"] == "16900"  # without the security pack
    assert [w for w in quote["warnings"] if "10 → 5" in w and "dropped" in w]
    assert [c["feature"]["id"] for c in quote["entitlementChanges"]] == ["seats"]
    second = (await api.commit(quote["token"], "seven"))["change"]["id"]

    customer = await api.customer("acme")
    statuses = {c["id"]: (c["status"], c["failure"]) for c in customer["changes"]["nodes"]}
    assert statuses[first] == ("CANCELED", {"code": "REPLACED"})
    scheduled = customer["subscriptions"][0]["scheduledChanges"]
    assert [change["id"] for change in scheduled] == [removal, second]
    await api.advance("2026-05-01T12:00:00Z")
    customer = await api.customer("acme")
    assert _items(customer["subscriptions"][0]) == {"professional@1": 1, "extra-seats@1": 7}
    totals = [invoice["total"] for invoice in customer["invoices"]["nodes"]]
    assert totals[:2] == [quote["nextInvoice"]["total"]] * 2
    deltas = [
        e["mrrDelta"]["amountMinor"]
        for e in await api.audit(stream="customer:acme", action="change.applied")
        if e["mrrDelta"]
    ]
    assert deltas == ["-3000", "-15000", "34900"]


@on_sqlite
async def test_a_purchase_keeps_the_queue_and_the_next_invoice_shows_both(
    api: Api, sandbox_url: str, example: Any
) -> None:
    await _start(api)
    await _schedule(api, "down", planId="starter")
    quote = await api.preview(customerId="acme", addOns=[{"id": "premium-support"}])
    assert quote["nextInvoice"]["total"]["amountMinor"] == "12900"  # it does not fit Starter
    assert (await api.commit(quote["token"], "buy"))["change"]["status"] == "APPLIED"
    assert await _planned(sandbox_url) == [False, [3, 2]]
    assert (await api.access("acme", "support-hours", atLeast="4"))["allowed"]

    upgrade = await api.preview(customerId="acme", planId="professional", interval="YEAR")
    assert "is dropped" in upgrade["warnings"][-1]
    await api.advance(END)
    held = await _held(api)
    assert _items(held) == {"starter@1": 1, "extra-seats@1": 10}
    assert (await api.customer("acme"))["invoices"]["nodes"][0]["total"]["amountMinor"] == "12900"


@on_sqlite
async def test_what_no_longer_applies_is_dropped_with_a_reason(api: Api, example: Any) -> None:
    await _start(api, addOns=[{"id": "email-campaigns"}])
    waits = {"addOns": [{"id": "lead-scoring"}], "timing": "PERIOD_END", "reason": "as agreed"}
    first = await _schedule(api, "later", **waits)
    removal = {"addOns": [{"id": "email-campaigns", "quantity": 0}]}
    quote = await api.preview(customerId="acme", **removal, timing="NOW", reason="as agreed")
    assert "Lead Scoring" in quote["warnings"][0]
    await api.commit(quote["token"], "now")
    changes = {c["id"]: c for c in (await api.customer("acme"))["changes"]["nodes"]}
    assert changes[first]["status"] == "CANCELED"
    assert changes[first]["failure"] == {"code": "NO_LONGER_APPLIES"}


@on_sqlite
async def test_a_year_waits_for_its_end_and_a_month_begins_there(api: Api, example: Any) -> None:
    await _start(api, interval="YEAR")
    quote = await api.preview(customerId="acme", interval="MONTH")
    assert (quote["effectiveAt"], quote["dueNow"]["amountMinor"]) == ("2027-03-01T12:00:00Z", "0")
    assert quote["recurringAfter"]["amountMinor"] == "19900"
    await api.commit(quote["token"], "monthly")
    await api.advance("2027-03-01T12:00:00Z")
    customer = await api.customer("acme")
    [held] = customer["subscriptions"]
    assert held["interval"] == "MONTH"
    assert held["currentPeriod"]["end"] == "2027-04-01T12:00:00Z"
    assert [i["total"]["amountMinor"] for i in customer["invoices"]["nodes"]] == ["19900", "199000"]


@on_sqlite
async def test_a_new_period_moves_what_waits_to_its_end(api: Api, example: Any) -> None:
    await _start(api)
    await _schedule(api, "fewer", **FEWER)
    quote = await api.preview(customerId="acme", interval="YEAR")
    assert quote["warnings"] == []
    assert quote["nextInvoice"]["total"]["amountMinor"] == "149000"
    done = await api.commit(quote["token"], "yearly")
    assert done["change"]["status"] == "APPLIED", done
    [waiting] = (await _held(api))["scheduledChanges"]
    assert waiting["effectiveAt"] == quote["nextInvoice"]["at"] == "2027-03-01T12:00:00Z"
    await api.advance(waiting["effectiveAt"])
    assert _items(await _held(api)) == {"professional@1": 1, "extra-seats@1": 5}
    newest = (await api.customer("acme"))["invoices"]["nodes"][0]
    assert newest["total"] == quote["nextInvoice"]["total"]


@on_sqlite
async def test_what_ends_is_quoted_with_what_is_lost_and_nothing_else_goes_with_it(
    api: Api, example: Any
) -> None:
    await _start(api)
    mixed = await api.preview(customerId="acme", cancel=True, planId="starter")
    assert [(i["path"], i["code"]) for i in mixed["issues"]] == [(["cancel"], "NOTHING_ELSE")]
    quote = await api.preview(customerId="acme", cancel=True)
    assert (quote["direction"], quote["effectiveAt"]) == ("CANCELLATION", END)
    assert (quote["dueNow"], quote["recurringAfter"]) == ({"amountMinor": "0"},) * 2
    assert {c["feature"]["id"]: c["better"] for c in quote["entitlementChanges"]}["sso"] is False
    assert (await _held(api))["cancelAt"] is None
    done = await api.commit(quote["token"], "end")
    assert done["__typename"] == "ChangeCommitted", done
    assert (await _held(api))["cancelAt"] == END


@on_sqlite
async def test_a_cancellation_drops_what_waits_and_undoing_it_lets_go_on(
    api: Api, sandbox_url: str, example: Any
) -> None:
    await _start(api)
    first = await _schedule(api, "fewer", **FEWER)
    ended = await api.cancel("cancel", customerId="acme", productId="workspace")
    assert ended["change"]["status"] == "SCHEDULED", ended
    assert await _planned(sandbox_url) == [True]
    refused = await api.preview(customerId="acme", **FEWER)
    assert (refused["__typename"], refused["code"]) == ("Conflict", "CANCELLATION_SCHEDULED")
    customer = await api.customer("acme")
    dropped = next(c for c in customer["changes"]["nodes"] if c["id"] == first)
    assert (dropped["status"], dropped["failure"]) == ("CANCELED", {"code": "SUBSCRIPTION_ENDS"})

    assert (await api.take_back(ended["change"]["id"]))["change"]["status"] == "CANCELED"
    assert await _planned(sandbox_url) == [False]
    await api.advance(END)
    assert _items(await _held(api)) == {"professional@1": 1, "extra-seats@1": 10}


async def _on_3d_secure(api: Api, services: Services, sandbox_url: str) -> None:
    await api.create_customer("acme", "pm_card_authenticationRequired")
    asked = await api.change("start", customerId="acme", planId="professional")
    await _press(asked["hostedUrl"], action="authenticate")
    await deliver(api, services, sandbox_url)


async def _press(url: str, **form: str) -> None:
    async with httpx.AsyncClient() as client:
        await client.post(url, data=form)


async def _card_page(api: Api) -> str:
    page = await api.ask(
        """mutation { setUpPaymentMethod(customerId: "acme") {
             ... on CheckoutRequired { url } } }"""
    )
    return str(page["setUpPaymentMethod"]["url"])


@on_sqlite
@pytest.mark.parametrize("ending", ["abandoned", "refused", "declined"])
async def test_a_purchase_that_is_not_paid_restores_what_was_planned(
    api: Api, services: Services, sandbox_url: str, example: Any, ending: str
) -> None:
    await _on_3d_secure(api, services, sandbox_url)
    await _schedule(api, "down", planId="starter")
    assert await _planned(sandbox_url) == [False, [1, 1]]
    if ending == "declined":
        await _press(await _card_page(api), card="pm_card_chargeCustomerFail")
        await deliver(api, services, sandbox_url)
        declined = await api.purchase(
            customerId="acme", addOnId="extra-calls", idempotencyKey="buy"
        )
        assert declined["__typename"] == "PaymentDeclined", declined
        assert await _planned(sandbox_url) == [False, [1, 1]]
        return
    asked = await api.purchase(customerId="acme", addOnId="extra-calls", idempotencyKey="buy")
    assert asked["__typename"] == "PaymentActionRequired", asked
    assert await _planned(sandbox_url) == [False]
    await reconciled_clean(services)
    if ending == "abandoned":
        await api.take_back(asked["change"]["id"])
    else:
        await _press(asked["hostedUrl"], action="refuse")
        await deliver(api, services, sandbox_url)
    assert await _planned(sandbox_url) == [False, [1, 1]]


@on_sqlite
async def test_a_payment_that_waits_over_the_renewal_does_not_make_it_dearer(
    api: Api, services: Services, sandbox_url: str, example: Any
) -> None:
    """The schedule made room for a purchase that was never paid: the renewal is put right."""
    await _on_3d_secure(api, services, sandbox_url)
    page = await _card_page(api)
    await api.advance("2026-03-31T18:00:00Z")
    await _schedule(api, "down", planId="starter")
    asked = await api.purchase(customerId="acme", addOnId="security-pack", idempotencyKey="buy")
    assert asked["__typename"] == "PaymentActionRequired", asked
    await _press(page, card="pm_card_visa")
    await deliver(api, services, sandbox_url)

    await api.advance("2026-04-01T12:00:05Z")
    while await services.alignment.waiting() or await work_once(services):
        await asyncio.sleep(0.1)
    await deliver(api, services, sandbox_url)
    customer = await api.customer("acme")
    assert _items(customer["subscriptions"][0]) == {"starter@1": 1}
    assert not (await api.access("acme", "sso"))["allowed"]
    paid = {i["total"]["amountMinor"]: i["status"] for i in customer["invoices"]["nodes"]}
    assert paid == {"-7000": "paid", "9900": "paid", "363": "void"}
    assert customer["creditBalance"]["amountMinor"] == "7000"
    assert await _planned(sandbox_url) == [False]


@on_sqlite
async def test_a_change_at_the_renewal_belongs_to_the_new_period(api: Api, example: Any) -> None:
    await _start(api)
    quote = await api.preview(customerId="acme", addOns=[{"id": "extra-seats", "quantity": 11}])
    await api.advance(END)
    stale = await api.commit(quote["token"], "more")
    assert stale["__typename"] in ("QuoteStale", "QuoteExpired")
    fresh = await api.preview(customerId="acme", addOns=[{"id": "extra-seats", "quantity": 11}])
    assert [line["amount"]["amountMinor"] for line in fresh["lines"]] == ["-10000", "8800"]
    assert fresh["nextInvoice"]["at"] == "2026-05-01T12:00:00Z"


async def test_away_over_the_renewal_everything_is_right_and_once(
    api: Api, services: Services, sandbox_url: str, example: Any
) -> None:
    await _start(api)
    await _schedule(api, "down", planId="starter")
    entries = len(await api.audit(stream="customer:acme"))
    later = parse_instant("2026-04-01T12:00:10Z")
    await services.payments.advance_clock(later)
    _set(services, later)

    assert not (await api.access("acme", "sso"))["allowed"]  # before anybody has done anything
    held = await _held(api)
    assert (held["plan"], held["scheduledChanges"]) == ({"versionId": "starter@1"}, [])
    assert held["currentPeriod"]["start"] == END
    assert len(await api.audit(stream="customer:acme")) == entries

    done = await api.purchase(customerId="acme", addOnId="extra-calls", idempotencyKey="buy")
    assert done["change"]["status"] == "APPLIED", done
    while await work_once(services):
        pass
    customer = await api.customer("acme")
    assert _items(customer["subscriptions"][0]) == {
        "starter@1": 1, "extra-seats@1": 10, "extra-calls@1": 1,
    }  # fmt: skip
    totals = [i["total"]["amountMinor"] for i in customer["invoices"]["nodes"]]
    assert totals == ["1500", "12900", "19900"]
    applied = await api.audit(stream="customer:acme", action="change.applied")
    assert len(applied) == 3
    assert await _planned(sandbox_url) == [False]


@on_sqlite
async def test_the_providers_news_of_the_renewal_may_come_first(
    api: Api, services: Services, sandbox_url: str, example: Any
) -> None:
    await _start(api)
    await _schedule(api, "down", planId="starter")
    later = parse_instant("2026-04-01T12:00:10Z")
    await services.payments.advance_clock(later)  # ours stands still
    await deliver(api, services, sandbox_url)
    assert _items(await _held(api)) == {"starter@1": 1, "extra-seats@1": 10}
    _set(services, later)
    await work_once(services)
    assert len(await api.audit(stream="customer:acme", action="change.applied")) == 2
    assert await _planned(sandbox_url) == [False]


@on_sqlite
async def test_what_was_taken_back_while_the_provider_is_down_is_told_later(
    api: Api, services: Services, sandbox_url: str, example: Any
) -> None:
    await _start(api)
    ended = await api.cancel("cancel", customerId="acme", productId="workspace")
    async with httpx.AsyncClient(base_url=sandbox_url) as client:
        await client.post("/_sandbox/faults", json={"kind": "cut_before", "times": 50})
        down = await api.take_back(ended["change"]["id"])
        assert down["__typename"] == "PaymentProviderUnavailable", down
        await client.delete("/_sandbox/faults")
    assert (await _held(api))["cancelAt"] is None
    while await _planned(sandbox_url) != [False]:
        await work_once(services)
        await asyncio.sleep(0.1)
    assert (await _held(api))["cancelAt"] is None


def _set(services: Services, at: datetime) -> None:
    assert isinstance(services.clock, SettableClock)
    services.clock.set(at)


async def test_two_workers_let_it_take_effect_once(
    api: Api, services: Services, settings: Settings, sandbox_url: str, example: Any
) -> None:
    await _start(api)
    await _schedule(api, "down", planId="starter")
    later = parse_instant("2026-04-01T12:00:10Z")
    await services.payments.advance_clock(later)
    _set(services, later)
    async with opened_services(settings, clock=SettableClock(later)) as other:
        await asyncio.gather(*(work_once(each) for each in (services, other) * 3))
    applied = await api.audit(stream="customer:acme", action="change.applied")
    assert [e["mrrDelta"]["amountMinor"] for e in applied] == ["-7000", "19900"]
    assert _items(await _held(api)) == {"starter@1": 1, "extra-seats@1": 10}


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("error_after", "/v1/subscription_schedules"),
        ("cut_after", "/v1/subscription_schedules/sub_sched_"),
    ],
)
async def test_a_fault_while_scheduling_ends_scheduled_once(
    api: Api, services: Services, sandbox_url: str, example: Any, kind: str, path: str
) -> None:
    await _start(api)
    quote = await api.preview(customerId="acme", planId="starter")
    async with httpx.AsyncClient(base_url=sandbox_url) as client:
        fault = {"kind": kind, "times": 50, "method": "POST", "path": path}
        await client.post("/_sandbox/faults", json=fault)
        down = await api.commit(quote["token"], "down")
        assert down["__typename"] == "PaymentProviderUnavailable", down
        await client.delete("/_sandbox/faults")
    for _ in range(100):
        await work_once(services)
        [held] = (await api.customer("acme"))["subscriptions"]
        if held["scheduledChanges"]:
            break
        await asyncio.sleep(0.1)
    assert (await api.commit(quote["token"], "down"))["change"]["status"] == "SCHEDULED"
    assert await _planned(sandbox_url) == [False, [2, 2]]
    made = [e["type"] for e in await events_of(sandbox_url)].count("subscription_schedule.created")
    assert made == 1
