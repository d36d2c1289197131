"""Trials: what is shown is what is charged, at the end what was agreed happens, and once."""

import asyncio
import copy
from typing import Any

import pytest

from entitlements.kernel.clock import SettableClock
from entitlements.kernel.period import parse_instant
from entitlements.services import Services, opened_services
from entitlements.settings import Settings
from entitlements.worker import work_once
from tests.api import Api
from tests.conftest import on_sqlite, publish
from tests.events import deliver
from tests.receiver import receiving
from tests.scenarios.test_notices import deliveries, listen
from tests.scenarios.test_payments import press, save_card

END = "2026-03-15T12:00:00Z"  # 14 days after START


UNLOCKS = """{ access(customerId: "acme", featureId: "dashboards") { unlocks {
  trialDays package { id } } } }"""


async def _with_plan(api: Api, card: str | None = "pm_card_visa", plan: str = "starter") -> None:
    await api.create_customer("acme", card)
    done = await api.change("start", customerId="acme", planId=plan)
    assert done["__typename"] == "ChangeCommitted", done


async def _try(api: Api, package: str, key: str = "try", **more: Any) -> Any:
    started = await api.start_trial(key, customerId="acme", packageId=package, **more)
    assert started["__typename"] == "TrialStarted", started
    return started["trial"]


async def _invoices(api: Api) -> list[str]:
    """Totals in minor units, newest first."""
    nodes = (await api.customer("acme"))["invoices"]["nodes"]
    return [invoice["total"]["amountMinor"] for invoice in nodes]


async def test_an_add_on_is_tried_at_once_and_bought_at_its_end_on_the_next_invoice(
    api: Api, example: Any
) -> None:
    await _with_plan(api)
    assert not (await api.access("acme", "dashboards"))["allowed"]
    remedies = await api.ask(UNLOCKS)
    offered = {u["package"]["id"]: u["trialDays"] for u in remedies["access"]["unlocks"]}
    assert offered["advanced-analytics"] == 14
    assert offered["growth-pack"] is None
    criteria = ["Ten dashboards are in use"]
    started = await api.start_trial(
        "try", customerId="acme", packageId="advanced-analytics", successCriteria=criteria
    )
    trial = started["trial"]
    assert (trial["status"], trial["endsAt"], trial["atEnd"]) == ("ACTIVE", END, "CONVERT")
    assert trial["successCriteria"] == criteria
    assert trial["currentStep"]["week"] == 1
    access = await api.access("acme", "dashboards", minRevision=started["revision"])
    assert access["allowed"]
    assert [s["kind"] for s in access["sources"]] == ["TRIAL"]
    again = await api.start_trial(
        "try", customerId="acme", packageId="advanced-analytics", successCriteria=criteria
    )
    assert again["trial"]["id"] == trial["id"]
    assert await _invoices(api) == ["2900"]

    await api.advance("2026-03-08T12:00:00Z")
    assert (await api.trials("acme"))[0]["currentStep"]["week"] == 2
    await api.advance(END)
    [trial] = await api.trials("acme")
    assert (trial["status"], trial["conversion"], trial["currentStep"]) == ("CONVERTED", None, None)
    assert (await api.access("acme", "dashboards"))["sources"][0]["kind"] == "ADD_ON"
    assert await _invoices(api) == ["2900"]
    change = (await api.customer("acme"))["changes"]["nodes"][0]
    assert change["total"]["amountMinor"] == "10968"  # 17 of 31 days of 200.00
    await api.advance("2026-04-01T12:00:00Z")
    assert (await _invoices(api))[0] == str(2900 + 20000 + 10968)
    told = [e["action"] for e in await api.audit(stream="customer:acme") if "trial" in e["action"]]
    assert told == ["trial.converted", "trial.started"]
    assert (await api.ask("{ verifyAudit { ok } }"))["verifyAudit"]["ok"]


@on_sqlite
async def test_converting_early_charges_what_the_conversion_shows_and_keeps_what_was_agreed(
    api: Api, services: Services, example: dict[str, Any]
) -> None:
    await _with_plan(api)
    trial = await _try(api, "advanced-analytics")
    extended = await api.extend_trial(trial["id"], 10, "their team was away")
    assert extended["trial"]["endsAt"] == "2026-03-25T12:00:00Z"
    await api.advance("2026-03-20T12:00:00Z")
    assert (await api.access("acme", "dashboards"))["allowed"]

    dearer = copy.deepcopy(example)
    [fee] = next(a for a in dearer["products"][0]["add_ons"] if a["id"] == "advanced-analytics")[
        "charges"
    ]
    fee["prices"]["usd"]["month"] = "300.00"
    await publish(services, dearer)
    conversion = (await api.trials("acme"))[0]["conversion"]
    assert conversion["recurringAfter"]["amountMinor"] == str(2900 + 20000)
    done = await api.convert_trial(trial["id"], "convert")
    assert done["__typename"] == "ChangeCommitted", done
    assert done["change"]["total"] == conversion["dueNow"] == {"amountMinor": "7742"}  # 12 of 31
    assert (await _invoices(api)) == ["7742", "2900"]
    assert (await api.convert_trial(trial["id"], "convert"))["change"] == done["change"]
    over = await api.convert_trial(trial["id"], "again")
    assert (over["__typename"], over["code"]) == ("Conflict", "TRIAL_OVER")
    held = (await api.customer("acme"))["subscriptions"][0]["items"]
    assert "advanced-analytics@1" in {item["package"]["versionId"] for item in held}
    assert (await api.extend_trial(trial["id"], 3))["code"] == "TRIAL_OVER"


@on_sqlite
async def test_a_declined_conversion_leaves_the_trial_until_another_card_pays(
    api: Api, services: Services, sandbox_url: str, example: Any
) -> None:
    await _with_plan(api)
    trial = await _try(api, "email-campaigns")
    await save_card(api, services, sandbox_url, "pm_card_chargeCustomerFail")
    for _ in range(2):
        declined = await api.convert_trial(trial["id"], "one")
        assert declined["__typename"] == "PaymentDeclined", declined
    assert (await api.trials("acme"))[0]["status"] == "ACTIVE"
    assert (await api.access("acme", "email-campaigns"))["allowed"]

    await save_card(api, services, sandbox_url, "pm_card_authenticationRequired")
    asked = await api.convert_trial(trial["id"], "two")
    assert asked["__typename"] == "PaymentActionRequired", asked
    await press(asked["hostedUrl"], action="authenticate")
    await deliver(api, services, sandbox_url)
    assert (await api.trials("acme"))[0]["status"] == "CONVERTED"
    assert (await _invoices(api))[0] == "5000"


@on_sqlite
async def test_a_plan_is_tried_without_a_card_and_leaves_nothing_but_a_reason(
    api: Api, example: Any
) -> None:
    await api.create_customer("acme", None)
    started = await api.start_trial("try", customerId="acme", packageId="professional")
    assert started["customer"]["subscriptions"] == [
        {
            "status": "TRIALING",
            "plan": {"versionId": "professional@1"},
            "trialEndsAt": END,
            "cancelAt": END,
        }
    ]
    customer = await api.customer("acme")
    assert customer["subscriptions"][0]["mrr"]["amountMinor"] == "0"
    assert (await api.access("acme", "sso"))["sources"][0]["kind"] == "TRIAL"
    conversion = (await api.trials("acme"))[0]["conversion"]
    assert (conversion["dueNow"]["amountMinor"], conversion["direction"]) == ("9900", "NEW")

    needs_card = await api.start_trial("more", customerId="acme", packageId="workflow-automation")
    assert needs_card["__typename"] == "CheckoutRequired", needs_card
    await _try(api, "advanced-analytics", "analytics")  # beside it, until its own end

    await api.advance("2026-03-15T11:59:59Z")
    assert (await api.access("acme", "sso"))["allowed"]
    await api.advance(END)
    assert [t["status"] for t in await api.trials("acme")] == ["EXPIRED", "EXPIRED"]
    assert (await api.customer("acme"))["subscriptions"] == []
    for feature in ("sso", "dashboards"):
        assert (await api.access("acme", feature))["reason"] == "TRIAL_ENDED"
    refused = await api.start_trial("again", customerId="acme", packageId="professional")
    assert (refused["__typename"], refused["code"]) == ("TrialNotAvailable", "ALREADY_TRIED")
    allowed = await api.start_trial(
        "again", customerId="acme", packageId="professional", allowAgain=True, reason="a new team"
    )
    assert allowed["trial"]["status"] == "ACTIVE", allowed
    assert set(await _invoices(api)) <= {"0"}
    mrr = [e["mrrDelta"] for e in await api.audit(stream="customer:acme") if e["mrrDelta"]]
    assert {delta["amountMinor"] for delta in mrr} == {"0"}


@on_sqlite
async def test_what_is_bought_in_a_plans_trial_ends_it_unless_it_may_be_tried_itself(
    api: Api, sandbox_url: str, example: Any
) -> None:
    await api.create_customer("acme")
    await _try(api, "starter")
    joining = await api.preview(customerId="acme", addOns=[{"id": "advanced-analytics"}])
    assert (joining["dueNow"]["amountMinor"], joining["lines"]) == ("0", [])
    done = await api.commit(joining["token"], "join")
    assert done["change"]["total"]["amountMinor"] == "0"
    joined, _ = await api.trials("acme")
    assert (joined["status"], joined["endsAt"], joined["atEnd"]) == ("ACTIVE", END, "EXPIRE")
    assert (await api.access("acme", "dashboards"))["sources"][0]["kind"] == "TRIAL"
    bought = await api.purchase(customerId="acme", addOnId="email-campaigns", idempotencyKey="e")
    assert bought["change"]["total"]["amountMinor"] == "0"
    mail = (await api.trials("acme"))[0]
    gone = await api.cancel_trial(mail["id"])
    assert gone["trial"]["status"] == "CANCELED", gone
    assert gone["customer"]["subscriptions"] == [{"status": "TRIALING"}]
    assert (await api.access("acme", "email-campaigns"))["reason"] == "TRIAL_ENDED"

    await api.advance("2026-03-05T12:00:00Z")
    quote = await api.preview(customerId="acme", addOns=[{"id": "security-pack"}])
    assert quote["dueNow"]["amountMinor"] == str(2900 + 20000 + 15000)
    assert not quote["dueNowExact"]
    bought = await api.commit(quote["token"], "buy")
    assert bought["change"]["total"] == quote["dueNow"], bought
    statuses = [t["status"] for t in await api.trials("acme")]
    assert statuses == ["CANCELED", "CONVERTED", "CONVERTED"]
    [held] = (await api.customer("acme"))["subscriptions"]
    assert (held["status"], held["cancelAt"]) == ("ACTIVE", None)
    assert held["currentPeriod"]["start"] == "2026-03-05T12:00:00Z"
    await api.advance("2026-04-05T12:00:00Z")
    assert (await _invoices(api))[:2] == ["37900", "37900"]
    mrr = [e["mrrDelta"] for e in await api.audit(stream="customer:acme") if e["mrrDelta"]]
    assert sum(int(delta["amountMinor"]) for delta in mrr) == 37900


@on_sqlite
async def test_a_plans_trial_converts_early_for_what_it_shows_or_stays_as_it_was(
    api: Api, services: Services, sandbox_url: str, example: Any
) -> None:
    await api.create_customer("acme", "pm_card_chargeCustomerFail")
    trial = await _try(api, "help-desk-team", quantities=[{"featureId": "agents", "quantity": "7"}])
    assert (await api.access("acme", "agents", quantity="7"))["allowed"]
    assert not (await api.access("acme", "agents", quantity="8"))["allowed"]
    declined = await api.convert_trial(trial["id"], "one")
    assert declined["__typename"] == "PaymentDeclined", declined
    [held] = (await api.customer("acme"))["subscriptions"]
    assert (held["status"], held["cancelAt"]) == ("TRIALING", END)

    await save_card(api, services, sandbox_url, "pm_card_visa")
    await api.advance("2026-03-10T12:00:00Z")
    conversion = (await api.trials("acme"))[0]["conversion"]
    done = await api.convert_trial(trial["id"], "two")
    assert done["change"]["total"] == conversion["dueNow"], done
    assert (await _invoices(api))[0] == conversion["dueNow"]["amountMinor"] != "0"
    [held] = (await api.customer("acme"))["subscriptions"]
    assert (held["status"], held["cancelAt"]) == ("ACTIVE", None)
    assert held["quantities"] == [{"feature": {"id": "agents"}, "quantity": "7"}]
    await api.advance("2026-03-20T12:00:00Z")
    assert (await api.access("acme", "agents"))["allowed"]


@on_sqlite
@pytest.mark.parametrize("card", ["pm_card_visa", None])
async def test_a_plan_that_converts_at_its_end_needs_a_card(
    api: Api, services: Services, example: dict[str, Any], card: str | None
) -> None:
    converting = copy.deepcopy(example)
    converting["products"][0]["plans"][0]["trial"]["at_end"] = "convert"
    await publish(services, converting)
    await api.create_customer("acme", card)
    await _try(api, "starter")
    await api.advance(END)
    [trial] = await api.trials("acme")
    held = (await api.customer("acme"))["subscriptions"]
    mrr = [e["mrrDelta"] for e in await api.audit(stream="customer:acme") if e["mrrDelta"]]
    if card is None:
        assert (trial["status"], held) == ("EXPIRED", [])
        assert (await api.access("acme", "seats"))["reason"] == "TRIAL_ENDED"
    else:
        assert (trial["status"], held[0]["status"]) == ("CONVERTED", "ACTIVE")
        assert (await _invoices(api))[0] == "2900"
        assert mrr[0]["amountMinor"] == "2900"


@on_sqlite
async def test_a_trial_that_needs_a_card_begins_once_one_is_saved(
    api: Api, services: Services, sandbox_url: str, example: Any
) -> None:
    await api.create_customer("acme", None)
    await _try(api, "starter", "plan")
    asked = await api.start_trial("try", customerId="acme", packageId="workflow-automation")
    assert asked["pendingChange"]["status"] == "AWAITING_CHECKOUT"
    assert asked["pendingChange"]["total"]["amountMinor"] == "0"
    assert not (await api.access("acme", "workflows"))["allowed"]
    await press(asked["url"], card="pm_card_visa")
    await deliver(api, services, sandbox_url)
    assert (await api.access("acme", "workflows"))["allowed"]
    again = await api.start_trial("try", customerId="acme", packageId="workflow-automation")
    assert again["trial"]["endsAt"] == "2026-03-22T12:00:00Z"


@on_sqlite
async def test_a_plans_trial_is_extended_at_the_provider_too_and_given_up_at_once(
    api: Api, example: Any
) -> None:
    async with receiving() as receiver:
        created = await listen(api, receiver.url, "trial.ending")
        assert created["__typename"] == "WebhookEndpointCreated"
        await api.create_customer("acme")
        trial = await _try(api, "starter")
        longer = await api.extend_trial(trial["id"], 5)
        assert longer["trial"]["endsAt"] == "2026-03-20T12:00:00Z"
        await api.advance("2026-03-17T11:59:59Z")
        assert (await api.access("acme", "seats"))["allowed"]
        assert (await deliveries(api))["nodes"] == []
        await api.advance("2026-03-18T12:00:00Z")
        assert [d["event"] for d in (await deliveries(api))["nodes"]] == ["trial.ending"]
    for _ in range(2):
        gone = await api.cancel_trial(trial["id"])
        assert gone["trial"]["status"] == "CANCELED", gone
        assert gone["customer"]["subscriptions"] == []
    assert set(await _invoices(api)) <= {"0"}
    assert (await api.access("acme", "seats"))["reason"] == "TRIAL_ENDED"


@on_sqlite
@pytest.mark.parametrize("card", ["pm_card_visa", None])
async def test_an_add_ons_trial_that_ends_within_a_plans_joins_it_or_without_a_card_expires(
    api: Api, example: Any, card: str | None
) -> None:
    await api.create_customer("acme", card)
    plan = await _try(api, "professional", "plan")
    await _try(api, "advanced-analytics")
    await api.extend_trial(plan["id"], 10)
    await api.advance(END)
    analytics, professional = await api.trials("acme")
    assert (professional["status"], professional["endsAt"]) == ("ACTIVE", "2026-03-25T12:00:00Z")
    assert (await api.access("acme", "sso"))["allowed"]
    access = await api.access("acme", "dashboards")
    if card is None:
        assert (analytics["status"], access["reason"]) == ("EXPIRED", "TRIAL_ENDED")
    else:
        assert (analytics["status"], access["allowed"]) == ("ACTIVE", True)
        assert analytics["endsAt"] == professional["endsAt"]
    await api.advance("2026-03-25T12:00:00Z")
    assert {t["status"] for t in await api.trials("acme")} == {"EXPIRED"}
    assert (await api.access("acme", "dashboards"))["reason"] == "TRIAL_ENDED"
    assert (await api.customer("acme"))["subscriptions"] == []
    assert set(await _invoices(api)) <= {"0"}


async def test_two_workers_convert_a_trial_once(
    api: Api, services: Services, settings: Settings, example: Any
) -> None:
    await _with_plan(api)
    await _try(api, "advanced-analytics")
    await services.payments.advance_clock(parse_instant(END))
    assert isinstance(services.clock, SettableClock)
    services.clock.set(parse_instant("2026-03-15T12:00:10Z"))
    # Nobody has done anything yet: what is about to be bought is granted on.
    assert (await api.access("acme", "dashboards"))["allowed"]
    async with opened_services(settings, clock=SettableClock(services.clock.now())) as other:
        await asyncio.gather(*(s.trials.work() for s in (services, other, services, other)))
        while await work_once(services) or await work_once(other):
            pass
    assert (await api.trials("acme"))[0]["status"] == "CONVERTED"
    converted = await api.audit(stream="customer:acme", action="trial.converted")
    applied = await api.audit(stream="customer:acme", action="change.applied")
    assert (len(converted), len(applied)) == (1, 3)
    items = (await api.customer("acme"))["subscriptions"][0]["items"]
    assert sorted(i["package"]["versionId"] for i in items) == ["advanced-analytics@1", "starter@1"]


@on_sqlite
async def test_a_trial_of_a_bundle_counts_for_its_parts_and_is_given_up_by_the_customer(
    api: Api, example: Any
) -> None:
    await _with_plan(api)
    acme = await api.token("acme", "READ", "BUY")
    started = await acme.start_trial("try", packageId="marketing-automation")
    trial = started["trial"]
    assert (await api.access("acme", "lead-scoring"))["allowed"]
    refused = await acme.start_trial("part", packageId="email-campaigns")
    assert refused["code"] == "ON_TRIAL"
    assert await acme.refused(
        """mutation ($id: ID!) { extendTrial(id: $id, days: 1, reason: "x") { __typename } }""",
        id=trial["id"],
    ) == ("FORBIDDEN")

    gone = await acme.cancel_trial(trial["id"])
    assert gone["trial"]["status"] == "CANCELED"
    assert (await api.access("acme", "lead-scoring"))["reason"] == "TRIAL_ENDED"
    refused = await acme.start_trial("part2", packageId="email-campaigns")
    assert refused["code"] == "ALREADY_TRIED"
    again = await acme.start_trial("b", packageId="email-campaigns", allowAgain=True, reason="x")
    assert [i["code"] for i in again["issues"]] == ["NOT_YOURS_TO_CHOOSE"]


@on_sqlite
async def test_mistakes_are_named_and_change_nothing(api: Api, example: Any) -> None:
    await _with_plan(api)
    revision = (await api.customer("acme"))["revision"]
    for package, code in {
        "security-pack": "NO_TRIAL",
        "starter": "ALREADY_HELD",
        "professional": "SUBSCRIPTION_HELD",
        "enterprise": "NO_TRIAL",
    }.items():
        refused = await api.start_trial(f"k-{package}", customerId="acme", packageId=package)
        assert (refused["__typename"], refused["code"]) == ("TrialNotAvailable", code)
    analytics = {"customerId": "acme", "packageId": "advanced-analytics"}
    seats = [{"featureId": "seats", "quantity": "3"}]
    for wrong, path, code in (
        ({"packageId": "nothing"}, ["packageId"], "UNKNOWN_PACKAGE"),
        ({"successCriteria": ["x"] * 21}, ["successCriteria"], "TOO_MANY"),
        ({"successCriteria": ["x", " "]}, ["successCriteria", "1"], "LENGTH"),
        ({"allowAgain": True}, ["reason"], "REASON_REQUIRED"),
        ({"quantities": seats}, ["quantities", "seats"], "NOT_SOLD_BY_QUANTITY"),
        ({"interval": "YEAR"}, ["interval"], "OTHER_INTERVAL"),
    ):
        refused = await api.start_trial("wrong", **(analytics | wrong))
        assert refused["issues"] == [{"path": path, "code": code}], refused
    assert (await api.customer("acme"))["revision"] == revision
    trial = await _try(api, "advanced-analytics")
    other = await api.start_trial("try", customerId="acme", packageId="email-campaigns")
    assert other["__typename"] == "IdempotencyConflict"
    for days in (0, -3, 31):
        refused = await api.extend_trial(trial["id"], days)
        assert refused["issues"] == [{"path": ["days"], "code": "OUT_OF_RANGE"}]
    refused = await api.extend_trial(trial["id"], 1, " ")
    assert refused["issues"] == [{"path": ["reason"], "code": "REASON_REQUIRED"}]
    assert (await api.cancel_trial("trl_none"))["__typename"] == "NotFound"
