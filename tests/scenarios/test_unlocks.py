"""A denial carries its remedy: what to buy, at which price, and a token that buys it."""

import copy
import random
from datetime import timedelta
from typing import Any

import pytest

from entitlements.access.service import Check
from entitlements.kernel.clock import SettableClock
from entitlements.kernel.period import format_instant
from entitlements.services import Services, opened_services
from entitlements.settings import Settings
from entitlements.subscriptions.orders import DIFFERENCES
from tests.api import Api
from tests.conftest import on_sqlite, publish
from tests.provider_traffic import Traffic
from tests.scenarios.test_differences import wrongly_priced

"""For what does not depend on which database it is."""


def said(unlocks: list[Any]) -> list[tuple[Any, ...]]:
    return [
        (
            u["package"]["id"],
            u["quantity"],
            int(u["dueNow"]["amountMinor"]),
            int(u["recurringDelta"]["amountMinor"]),
        )
        for u in unlocks
    ]


async def start(api: Api, **change: Any) -> None:
    await api.create_customer("acme")
    started = await api.change("start", customerId="acme", **change)
    assert started["__typename"] == "ChangeCommitted"


@pytest.mark.usefixtures("example")
async def test_a_denial_says_what_to_buy_and_one_click_buys_it_at_that_price(
    api: Api, services: Services, settings: Settings, traffic: Traffic
) -> None:
    await start(api, planId="starter")
    await api.advance(format_instant(services.clock.now() + timedelta(days=10, seconds=7)))
    portal = await api.token("acme", "READ", "BUY")
    calls = len(traffic.calls)
    found = await portal.unlocks(None, "dashboards")
    # A discount makes the pack cheaper than its module; Enterprise is for sales to sell.
    assert said(found) == [
        ("growth-pack", 1, 13243, 19550),
        ("advanced-analytics", 1, 13548, 20000),
    ]
    assert [u["trialDays"] for u in found] == [None, 14]
    assert len(traffic.calls) == calls, "priced without a call to the provider"
    assert found[0]["expiresAt"] == format_instant(services.clock.now() + timedelta(minutes=15))

    await api.advance(format_instant(services.clock.now() + timedelta(minutes=14)))
    bought = await portal.commit(found[1]["offerToken"], "unlock")

    assert bought["__typename"] == "ChangeCommitted"
    assert bought["change"]["status"] == "APPLIED"
    assert (await portal.access(None, "dashboards", minRevision=bought["revision"]))["allowed"]
    async with opened_services(settings, clock=SettableClock(services.clock.now())) as other:
        checks = [Check("dashboards")]
        [answer] = await other.access.check("acme", checks, min_revision=int(bought["revision"]))
        assert answer.decision.allowed, "in another process, too"
    assert await portal.unlocks(None, "dashboards") == []
    paid = (await api.customer("acme"))["invoices"]["nodes"][0]
    assert paid["amountPaid"]["amountMinor"] == "13548"
    assert await portal.commit(found[1]["offerToken"], "unlock") == bought


@on_sqlite
@pytest.mark.usefixtures("example")
async def test_more_of_what_is_held_is_offered_in_the_number_that_is_missing(api: Api) -> None:
    await start(api, planId="starter")
    await api.change("desk", customerId="acme", planId="help-desk-team")
    # Starter has 5 users; 12 more take 7 single ones, or Professional's 25 and nothing else.
    seats = await api.unlocks("acme", "seats", quantity="12")
    assert said(seats) == [("extra-seats", 7, 7000, 7000), ("professional", 1, 7000, 7000)]
    # Agents are bought by number: 2 are held, 5 are asked for.
    [agents] = await api.unlocks("acme", "agents", quantity="5")
    assert said([agents]) == [("help-desk-team", 0, 4500, 4500)]
    assert agents["quantities"] == [{"feature": {"id": "agents"}, "quantity": "3"}]
    assert await api.unlocks("acme", "agents", quantity="201") == []  # 200 are the most to buy
    assert (await api.commit(agents["offerToken"], "agents"))["__typename"] == "ChangeCommitted"
    assert (await api.access("acme", "agents", quantity="5"))["allowed"]

    refused = await api.ask(
        """mutation { setLevel(customerId: "acme", featureId: "agents", level: "9",
             idempotencyKey: "l") { ... on Consumed { decision { allowed unlocks {
               quantities { quantity } } } } } }"""
    )
    [unlock] = refused["setLevel"]["decision"]["unlocks"]
    assert unlock["quantities"] == [{"quantity": "4"}]


@on_sqlite
@pytest.mark.usefixtures("example")
async def test_who_has_nothing_is_offered_what_to_begin_with(api: Api) -> None:
    await api.create_customer("new")
    found = await api.unlocks("new", "support-channel", atLeast="chat")
    assert said(found) == [("professional", 1, 9900, 9900)]
    done = await api.commit(found[0]["offerToken"], "begin")
    assert done["customer"]["subscriptions"][0]["plan"]["versionId"] == "professional@1"


@on_sqlite
@pytest.mark.usefixtures("example")
async def test_nothing_is_offered_that_cannot_be_bought_now(api: Api, services: Services) -> None:
    await start(api, planId="starter")
    # Sold by sales only; requires what is not held; taken away by hand.
    assert await api.unlocks("acme", "named-manager") == []
    assert said(await api.unlocks("acme", "lead-scoring")) == [
        ("marketing-automation", 1, 15000, 15000)
    ]
    await api.ask(
        """mutation { setOverride(input: {customerId: "acme", featureId: "dashboards",
             mode: REPLACE, value: {enabled: false}, reason: "abuse"}) { __typename } }"""
    )
    assert await api.unlocks("acme", "dashboards") == []
    # A change waits for the bank's question: another one is `CHANGE_IN_PROGRESS`.
    await api.create_customer("bank", "pm_card_authenticationRequired")
    waiting = await api.change("start", customerId="bank", planId="starter")
    assert waiting["__typename"] == "PaymentActionRequired"
    assert await api.unlocks("bank", "dashboards") == []
    # Nobody is offered anything about somebody else.
    other = await (await api.token("bank")).ask(
        """{ access(customerId: "acme", featureId: "workflows") { reason unlocks { quantity } } }"""
    )
    assert other["access"] == {"reason": "CUSTOMER_NOT_FOUND", "unlocks": []}


@on_sqlite
@pytest.mark.usefixtures("example")
async def test_remedies_are_for_ten_denials_of_a_request(api: Api) -> None:
    await start(api, planId="starter")
    checks = [{"featureId": "seats", "quantity": str(6 + n)} for n in range(12)]
    found = await api.ask(
        """query ($checks: [AccessInput!]!) {
             accessMany(customerId: "acme", checks: $checks) {
               unlocks(first: 1) { quantity } } }""",
        checks=checks,
    )
    assert [len(d["unlocks"]) for d in found["accessMany"]] == [1] * 10 + [0] * 2
    code = await api.refused(
        """{ access(customerId: "acme", featureId: "sso") { unlocks(first: 11) { quantity } } }"""
    )
    assert code == "BAD_USER_INPUT"


async def test_a_newer_catalog_does_not_stale_an_offer_but_a_changed_customer_does(
    api: Api, services: Services, example: dict[str, Any]
) -> None:
    await start(api, planId="starter")
    [offer, *_] = await api.unlocks("acme", "workflows")
    [other, *_] = await api.unlocks("acme", "audit-log")
    dearer = copy.deepcopy(example)
    for add_on in dearer["products"][0]["add_ons"]:
        if add_on["id"] == "workflow-automation":
            add_on["charges"][0]["prices"]["usd"]["month"] = "130.00"
    await publish(services, dearer)

    bought = await api.commit(offer["offerToken"], "buy")

    [line] = bought["change"]["lines"]
    assert line["package"] == {"versionId": "workflow-automation@1"}
    assert line["amount"] == {"amountMinor": "10000"}
    stale = await api.commit(other["offerToken"], "other")
    assert stale["__typename"] == "QuoteStale"
    assert stale["quote"]["dueNow"] == {"amountMinor": "15000"}
    assert (await api.commit(stale["quote"]["token"], "fresh"))["__typename"] == "ChangeCommitted"
    [late, *_] = await api.unlocks("acme", "dashboards")
    await api.advance(format_instant(services.clock.now() + timedelta(minutes=15)))
    expired = await api.commit(late["offerToken"], "late")
    assert expired["__typename"] == "QuoteExpired"
    assert expired["quote"] is not None
    forged = await api.commit(late["offerToken"][:-2], "forged")
    assert forged["issues"][0]["code"] == "INVALID_TOKEN"


@on_sqlite
@pytest.mark.usefixtures("example")
async def test_what_the_provider_would_charge_otherwise_is_not_charged_by_an_offer(
    api: Api, services: Services, sandbox_url: str
) -> None:
    await start(api, planId="starter")
    [offer, *_] = await api.unlocks("acme", "api-calls", quantity="20000")
    assert said([offer]) == [("extra-calls", 1, 1500, 1500)]
    await wrongly_priced(services, sandbox_url)

    stale = await api.commit(offer["offerToken"], "buy")

    assert stale["__typename"] == "QuoteStale"
    assert stale["quote"]["dueNow"] == {"amountMinor": "1600"}
    assert len((await api.customer("acme"))["invoices"]["nodes"]) == 1


@on_sqlite
@pytest.mark.usefixtures("example")
async def test_during_a_trial_what_may_be_tried_joins_it_free_and_is_offered_first(
    api: Api, services: Services
) -> None:
    await api.create_customer("acme")
    tried = await api.start_trial("try", customerId="acme", packageId="professional")
    assert tried["__typename"] == "TrialStarted"
    joins, ends = await api.unlocks("acme", "dashboards")
    assert said([joins]) == [("advanced-analytics", 1, 0, 20000)]
    assert joins["trialDays"] == 14
    # What cannot be tried is bought, and ends the trial: the plan is paid for with it.
    assert said([ends]) == [("growth-pack", 1, 9900 + 19550, 19550)]
    assert ends["trialDays"] is None

    joined = await api.commit(joins["offerToken"], "join")

    assert joined["__typename"] == "ChangeCommitted"
    assert (await api.access("acme", "dashboards"))["allowed"]
    customer = await api.customer("acme")
    assert customer["subscriptions"][0]["status"] == "TRIALING"
    assert {i["total"]["amountMinor"] for i in customer["invoices"]["nodes"]} <= {"0"}


FEATURES = ("dashboards", "workflows", "sso", "audit-log", "exports", "lead-scoring",
            "seats", "storage", "api-calls", "agents", "integrations")  # fmt: skip


@on_sqlite
@pytest.mark.usefixtures("example")
@pytest.mark.parametrize("seed", [1, 2])
async def test_whatever_is_offered_gives_what_it_promised_at_the_amount_it_named(
    api: Api, services: Services, seed: int
) -> None:
    chance = random.Random(seed)
    await api.create_customer("acme")
    disagreements = DIFFERENCES._value.get()
    accepted = 0
    for step in range(10):
        pause = timedelta(seconds=chance.choice([0, 1, 86_399, 400_000]))
        await api.advance(format_instant(services.clock.now() + pause))
        feature = chance.choice(FEATURES)
        more = {"quantity": str(chance.choice([1, 7, 30, 20_000]))}
        offers = await api.unlocks("acme", feature, first=10, **more)
        if not offers:
            continue
        offer = chance.choice(offers)
        bought = await api.commit(offer["offerToken"], f"step-{step}")
        assert bought["__typename"] == "ChangeCommitted", (feature, offer, bought)
        assert bought["change"]["status"] == "APPLIED"
        assert (await api.access("acme", feature, **more))["allowed"]
        paid = (await api.customer("acme"))["invoices"]["nodes"][0]["amountPaid"]
        assert abs(int(paid["amountMinor"]) - int(offer["dueNow"]["amountMinor"])) <= len(
            bought["change"]["lines"]
        )
        accepted += 1
    assert accepted >= 4
    assert DIFFERENCES._value.get() == disagreements
