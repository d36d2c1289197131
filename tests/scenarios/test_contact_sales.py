"""What sales sells: asked for by a customer, approved by staff; with charges, or billed outside."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from entitlements.audit.ledger import Actor
from entitlements.server import keys
from entitlements.services import Services
from entitlements.subscriptions.tables import SubscriptionRow
from entitlements.worker import work_once
from tests.api import Api
from tests.conftest import on_sqlite, publish
from tests.events import deliver
from tests.faults.test_provider_faults import fault
from tests.reconciliation import findings, reconciled_clean
from tests.scenarios.test_payments import press

"""For what does not depend on which it is."""


APP = {"customerId": "acme", "productId": "app"}


def _flat(month: int) -> list[dict[str, Any]]:
    usd = {"month": f"{month}.00", "year": f"{month * 10}.00"}
    return [{"id": "fee", "name": "Fee", "model": "flat", "prices": {"usd": usd}}]


def _add_on(id: str, month: int | None, **more: Any) -> dict[str, Any]:
    charges = [] if month is None else _flat(month)
    return {"id": id, "name": id.title(), "kind": "module", "entitlements": {f"has-{id}": True},
            "charges": charges, **more}  # fmt: skip


def _catalog(custom: int = 500, **policy: Any) -> dict[str, Any]:
    """Two tiers that anybody buys, and two that sales sells: `enterprise` has no charges."""
    names = ("reports", "onboarding", "concierge", "sso")
    now = {"timing": "now", "proration": "invoice_now"}
    return {
        "currencies": ["usd"],
        "features": [{"id": f"has-{n}", "name": n, "kind": "boolean"} for n in names],
        "products": [
            {
                "id": "app", "name": "App",
                "policy": {"downgrade": now, "shorter_interval": now, **policy},
                "plans": [
                    {"id": "basic", "name": "Basic", "entitlements": {}, "charges": _flat(20)},
                    {"id": "team", "name": "Team", "entitlements": {}, "charges": _flat(100)},
                    {"id": "custom", "name": "Custom", "self_serve": False,
                     "entitlements": {"has-sso": True}, "charges": _flat(custom)},
                    {"id": "enterprise", "name": "Enterprise", "self_serve": False,
                     "entitlements": {"has-sso": True}, "charges": []},
                ],
                "add_ons": [
                    _add_on("reports", 30),
                    _add_on("onboarding", 70, self_serve=False, max_quantity=5),
                    _add_on("concierge", None),
                ],
                "bundles": [
                    {"id": "launch", "name": "Launch", "charges": _flat(90),
                     "components": [{"id": "reports"}, {"id": "onboarding"}]},
                ],
            }
        ],
    }  # fmt: skip


_ANSWER = """__typename
  ... on ChangeCommitted { change { id status failure { code message } decidedBy decisionNote } }
  ... on PaymentActionRequired { hostedUrl change { id status } }
  ... on CheckoutRequired { url pendingChange { id status } }
  ... on QuoteStale { quote { token dueNow { amountMinor } } }
  ... on UserError { code message } ... on ValidationFailed { issues { path code } }"""


async def approve(api: Api, id: str, note: str | None = None) -> Any:
    query = """mutation ($id: ID!, $note: String) { approveChange(id: $id, note: $note) { %s } }"""
    return (await api.ask(query % _ANSWER, id=id, note=note))["approveChange"]


async def decline(api: Api, id: str, note: str) -> Any:
    query = """mutation ($id: ID!, $note: String!) { declineChange(id: $id, note: $note) { %s } }"""
    return (await api.ask(query % _ANSWER, id=id, note=note))["declineChange"]


async def awaiting(api: Api) -> list[str]:
    found = await api.ask("{ changesAwaitingApproval { nodes { id customer { id } } } }")
    return [change["id"] for change in found["changesAwaitingApproval"]["nodes"]]


async def keyed(api: Api, services: Services, role: str) -> Api:
    _, key = await keys.create(services.database, Actor("test"), role=role, name=role)
    return api.bound_to(key)


async def ask_for(api: Api, key: str, **change: Any) -> str:
    """Commit what needs approval; the id of the change that waits."""
    asked = await api.change(key, **change)
    assert (asked["__typename"], asked["code"]) == ("ApprovalRequired", "APPROVAL_REQUIRED"), asked
    assert asked["pendingChange"]["status"] == "AWAITING_APPROVAL"
    return str(asked["pendingChange"]["id"])


async def statuses(api: Api) -> list[str]:
    return [c["status"] for c in (await api.customer("acme"))["changes"]["nodes"]]


async def test_what_a_customer_asks_sales_for_is_approved_and_then_paid(
    api: Api, services: Services
) -> None:
    await publish(services, _catalog())
    await api.create_customer("acme")
    await api.change("start", customerId="acme", planId="team")
    buyer = await api.token("acme", "READ", "BUY")
    before = await api.customer("acme")

    quote = await buyer.preview(planId="custom")
    assert quote["approvalRequired"]
    assert quote["dueNow"] == {"amountMinor": "40000"}
    asked = await buyer.commit(quote["token"], "up")
    assert asked["__typename"] == "ApprovalRequired", asked
    assert await buyer.commit(quote["token"], "up") == asked
    change_id = asked["pendingChange"]["id"]
    waiting = await api.customer("acme")
    assert int(waiting["revision"]) == int(before["revision"]) + 1
    assert (waiting["subscriptions"], waiting["invoices"]) == (
        before["subscriptions"], before["invoices"])  # fmt: skip
    assert not (await api.access("acme", "has-sso"))["allowed"]

    support, finance = [await keyed(api, services, r) for r in ("support", "finance")]
    for reader in (support, finance, api):
        assert await awaiting(reader) == [change_id]
    service = await keyed(api, services, "service")
    for nobody in (buyer, service, await keyed(api, services, "pricing")):
        assert await nobody.refused("{ changesAwaitingApproval { nodes { id } } }") == "FORBIDDEN"
    attempt = "mutation ($id: ID!) { approveChange(id: $id) { __typename } }"
    for nobody in (buyer, service, finance):
        assert await nobody.refused(attempt, id=change_id) == "FORBIDDEN"

    done = await approve(support, change_id, "as agreed by telephone")
    assert done["change"] == {
        "id": change_id,
        "status": "APPLIED",
        "failure": None,
        "decidedBy": "key:support",
        "decisionNote": "as agreed by telephone",
    }
    customer = await api.customer("acme")
    assert customer["subscriptions"][0]["plan"] == {"versionId": "custom@1"}
    assert customer["invoices"]["nodes"][0]["amountPaid"] == quote["dueNow"]
    assert (await api.access("acme", "has-sso"))["allowed"]
    assert (await buyer.commit(quote["token"], "up"))["change"]["status"] == "APPLIED"
    assert await awaiting(support) == []

    entries = await api.audit(objectId=change_id)
    said = [(e["action"], e["actor"], e["reason"]) for e in reversed(entries)]
    assert [action for action, _, _ in said] == [
        "change.approval_asked", "change.approved", "change.applied"]  # fmt: skip
    assert said[1][1:] == ("key:support", "as agreed by telephone")
    for again in (await approve(support, change_id), await decline(api, change_id, "no")):
        assert (again["__typename"], again["code"]) == ("Conflict", "NOT_AWAITING_APPROVAL")


@on_sqlite
async def test_what_is_declined_withdrawn_or_asked_anew_does_not_go_on(
    api: Api, services: Services
) -> None:
    await publish(services, _catalog())
    await api.create_customer("acme")
    await api.create_customer("other")
    service = await keyed(api, services, "service")
    buyer = await api.token("acme", "READ", "BUY")

    first = await ask_for(buyer, "one", planId="custom")
    second = await ask_for(service, "two", customerId="acme", planId="enterprise")
    assert await statuses(api) == ["AWAITING_APPROVAL", "CANCELED"]  # it took the first's place
    assert await awaiting(api) == [second]
    blank = await decline(api, second, "  ")
    assert blank["issues"] == [{"path": ["note"], "code": "REQUIRED"}]
    assert (await decline(api, second, "x" * 2001))["__typename"] == "ValidationFailed"
    declined = await decline(api, second, "not before the audit")
    assert declined["change"]["status"] == "FAILED"
    failure = {"code": "APPROVAL_DECLINED", "message": "not before the audit"}
    assert declined["change"]["failure"] == failure
    told = await buyer.ask("{ customer { changes { nodes { failure { code message } } } } }")
    assert told["customer"]["changes"]["nodes"][0] == {"failure": failure}
    for gone in (first, second):
        assert (await approve(api, gone))["code"] == "NOT_AWAITING_APPROVAL"
    assert (await approve(api, "chg_nobody"))["__typename"] == "NotFound"
    assert (await decline(api, "chg_nobody", "no"))["__typename"] == "NotFound"

    third = await ask_for(buyer, "three", planId="custom")
    stranger = await api.token("other", "READ", "BUY")
    assert (await stranger.take_back(third))["__typename"] == "NotFound"
    assert (await buyer.take_back(third))["change"]["status"] == "CANCELED"
    assert (await buyer.take_back(third))["code"] == "SETTLED"
    assert (await approve(api, third))["code"] == "NOT_AWAITING_APPROVAL"
    assert (await api.customer("acme"))["subscriptions"] == []


@on_sqlite
async def test_above_what_was_agreed_the_customer_is_asked_again(
    api: Api, services: Services
) -> None:
    await publish(services, _catalog())
    await api.create_customer("acme")
    buyer = await api.token("acme", "READ", "BUY")
    asked = await ask_for(buyer, "up", planId="custom")
    await publish(services, _catalog(custom=600))

    stale = await approve(api, asked)
    assert (stale["__typename"], stale["code"]) == ("QuoteStale", "QUOTE_STALE")
    assert stale["quote"]["dueNow"] == {"amountMinor": "60000"}
    [change] = (await api.customer("acme"))["changes"]["nodes"]
    assert (change["status"], change["failure"]["code"]) == ("FAILED", "QUOTE_STALE")
    again = await buyer.commit(stale["quote"]["token"], "agreed")
    assert again["__typename"] == "ApprovalRequired", again
    done = await approve(api, again["pendingChange"]["id"])
    assert done["change"]["status"] == "APPLIED"

    # A change of something else goes on meanwhile, also one that the approval then has to wait for.
    asked = await ask_for(buyer, "onboarding", addOns=[{"id": "onboarding"}])
    bought = await buyer.change("reports", addOns=[{"id": "reports"}])
    assert bought["__typename"] == "ChangeCommitted", bought
    assert (await approve(api, asked))["change"]["status"] == "APPLIED"
    items = (await api.customer("acme"))["subscriptions"][0]["items"]
    assert {i["package"]["versionId"] for i in items} == {"custom@2", "reports@1", "onboarding@1"}


@on_sqlite
async def test_an_approved_change_waits_for_the_customers_bank_or_card(
    api: Api, services: Services, sandbox_url: str
) -> None:
    await publish(services, _catalog())
    await api.create_customer("acme", "pm_card_authenticationRequired")
    asked = await ask_for(await api.token("acme", "READ", "BUY"), "up", planId="custom")
    waits = await approve(api, asked)
    assert waits["__typename"] == "PaymentActionRequired", waits
    await press(waits["hostedUrl"], action="authenticate")
    await deliver(api, services, sandbox_url)
    assert await statuses(api) == ["APPLIED"]

    await api.create_customer("poor", None)
    buyer = await api.token("poor", "READ", "BUY")
    asked = await ask_for(buyer, "up", planId="custom")
    waits = await approve(api, asked)
    assert waits["__typename"] == "CheckoutRequired", waits
    await press(waits["url"], card="pm_card_visa")
    await deliver(api, services, sandbox_url)
    [held] = (await buyer.customer())["subscriptions"]
    assert held["plan"] == {"versionId": "custom@1"}

    await api.create_customer("declined", "pm_card_chargeCustomerFail")
    asked = await ask_for(await api.token("declined", "READ", "BUY"), "up", planId="custom")
    assert (await approve(api, asked))["__typename"] == "PaymentDeclined"
    assert (await api.customer("declined"))["subscriptions"] == []


@on_sqlite
async def test_nothing_of_sales_is_bought_without_them(api: Api, services: Services) -> None:
    await publish(services, _catalog())
    await api.create_customer("acme")
    await api.change("start", customerId="acme", planId="team")
    buyer = await api.token("acme", "READ", "BUY")
    service = await keyed(api, services, "service")
    support = await keyed(api, services, "support")
    asked = await buyer.purchase(addOnId="onboarding", idempotencyKey="one")
    assert asked["__typename"] == "ApprovalRequired", asked
    assert await buyer.purchase(addOnId="onboarding", idempotencyKey="one") == asked
    asked = await service.purchase(customerId="acme", addOnId="concierge", idempotencyKey="two")
    assert asked["__typename"] == "ApprovalRequired"
    await ask_for(buyer, "bundle", bundles=[{"id": "launch"}])

    # A quote of staff decides nothing: who commits it does.
    quote = await support.preview(customerId="acme", addOns=[{"id": "onboarding"}])
    assert (await buyer.commit(quote["token"], "handed"))["__typename"] == "ApprovalRequired"
    quote = await buyer.preview(addOns=[{"id": "onboarding"}])
    done = await support.commit(quote["token"], "by-staff")
    assert done["change"]["status"] == "APPLIED", done
    await ask_for(buyer, "more", addOns=[{"id": "onboarding", "quantity": 2}])
    fewer = await buyer.change("fewer", addOns=[{"id": "onboarding", "quantity": 0}])
    assert fewer["change"]["status"] == "APPLIED", fewer


async def test_billed_outside_nothing_is_asked_of_the_provider(
    api: Api, services: Services, sandbox_url: str
) -> None:
    await publish(services, _catalog())
    await api.create_customer("acme", None)
    quote = await api.preview(customerId="acme", planId="enterprise")
    assert quote["lines"] == []
    assert (quote["dueNow"], quote["nextInvoice"]) == ({"amountMinor": "0"}, None)
    done = await api.commit(quote["token"], "start")
    assert done["__typename"] == "ChangeCommitted", done
    assert (await api.ask('{ customer(id: "acme") { providerId } }'))["customer"] == {
        "providerId": None
    }

    await api.advance("2026-05-15T12:00:00Z")
    customer = await api.customer("acme")
    [held] = customer["subscriptions"]
    assert held["status"] == "ACTIVE"
    assert held["currentPeriod"] == {"start": "2026-05-01T12:00:00Z", "end": "2026-06-01T12:00:00Z"}
    assert held["recurring"] == held["mrr"] == {"amountMinor": "0"}
    assert customer["invoices"]["nodes"] == []
    added = await api.change("more", customerId="acme", addOns=[{"id": "concierge"}])
    assert added["change"]["status"] == "APPLIED"

    first = await api.cancel("one", **APP)
    assert first["change"]["status"] == "SCHEDULED", first
    [held] = (await api.customer("acme"))["subscriptions"]
    assert held["cancelAt"] == "2026-06-01T12:00:00Z"
    assert (await api.take_back(first["change"]["id"]))["change"]["status"] == "CANCELED"
    assert (await api.customer("acme"))["subscriptions"][0]["cancelAt"] is None
    await api.cancel("two", **APP)
    await api.advance("2026-06-01T12:00:00Z")
    assert (await api.access("acme", "has-sso"))["reason"] == "NO_ACTIVE_SUBSCRIPTION"
    assert (await api.customer("acme"))["subscriptions"] == []
    assert await statuses(api) == ["APPLIED", "CANCELED", "APPLIED", "APPLIED"]
    await work_once(services)
    ended = await api.audit(action="subscription.ended")
    assert [entry["objectId"] for entry in ended] == [held["id"]]

    await api.change("again", customerId="acme", planId="enterprise")
    ended = await api.cancel("three", **APP, timing="NOW", reason="asked for")
    assert ended["change"]["status"] == "APPLIED"
    assert (await api.customer("acme"))["subscriptions"] == []
    assert (await api.ask("{ verifyAudit { ok } }"))["verifyAudit"] == {"ok": True}


@on_sqlite
async def test_while_only_the_billing_is_to_end_the_provider_is_as_it_should_be(
    api: Api, services: Services, sandbox_url: str
) -> None:
    await publish(services, _catalog())
    await api.create_customer("acme")
    await api.change("start", customerId="acme", planId="team")
    later = {"timing": "PERIOD_END", "reason": "agreed"}
    waits = await api.change("up", customerId="acme", planId="enterprise", **later)
    assert waits["change"]["status"] == "SCHEDULED", waits
    await reconciled_clean(services)

    async with httpx.AsyncClient(auth=("sk_test_by_hand", "")) as hands:
        url = f"{sandbox_url}/v1/subscriptions"
        [there] = (await hands.get(url)).json()["data"]
        await hands.post(f"{url}/{there['id']}", data={"cancel_at_period_end": "false"})
    [found] = await findings(services, repair=True)
    assert (found.drift.path, found.mended) == ("billing_ends", True)
    await reconciled_clean(services)
    await api.advance("2026-04-05T00:00:00Z")
    customer = await api.customer("acme")
    assert customer["subscriptions"][0]["plan"] == {"versionId": "enterprise@1"}
    assert len(customer["invoices"]["nodes"]) == 1
    await reconciled_clean(services)


def _sum(lines: Any) -> int:
    return sum(int(line["amount"]["amountMinor"]) for line in lines)


async def test_the_last_charge_goes_and_the_first_one_comes_back(
    api: Api, services: Services, sandbox_url: str
) -> None:
    await publish(services, _catalog())
    await api.create_customer("acme")
    await api.change("start", customerId="acme", planId="team")
    await api.advance("2026-03-17T00:00:00Z")  # half of the month is left

    quote = await api.preview(customerId="acme", planId="enterprise")
    assert [int(line["amount"]["amountMinor"]) for line in quote["lines"]] == [-5000]
    assert quote["creditBalanceAfter"] == {"amountMinor": "5000"}
    assert (quote["dueNowExact"], quote["nextInvoice"]) == (False, None)
    done = await api.commit(quote["token"], "up")
    assert _sum(done["change"]["lines"]) == -5000
    assert done["change"]["mrrDelta"] == {"amountMinor": "-10000"}
    customer = await api.customer("acme")
    [held] = customer["subscriptions"]
    assert (held["status"], held["plan"]) == ("ACTIVE", {"versionId": "enterprise@1"})
    assert customer["creditBalance"] == {"amountMinor": "5000"}
    assert [i["total"]["amountMinor"] for i in customer["invoices"]["nodes"]] == ["-5000", "10000"]
    await deliver(api, services, sandbox_url)  # that it ended at the provider changes nothing here
    await api.advance("2026-04-20T00:00:00Z")
    assert (await api.customer("acme"))["subscriptions"][0]["id"] == held["id"]
    assert len((await api.customer("acme"))["invoices"]["nodes"]) == 2

    # An add-on with a charge: billed here from now on, in a period of its own.
    quote = await api.preview(customerId="acme", addOns=[{"id": "reports"}])
    assert (quote["dueNow"], quote["creditApplied"]) == ({"amountMinor": "0"},
                                                         {"amountMinor": "3000"})  # fmt: skip
    assert (await api.commit(quote["token"], "reports"))["change"]["status"] == "APPLIED"
    [held] = (await api.customer("acme"))["subscriptions"]
    assert held["currentPeriod"] == {"start": "2026-04-20T00:00:00Z", "end": "2026-05-20T00:00:00Z"}
    assert held["recurring"] == {"amountMinor": "3000"}
    removed = await api.change("none", customerId="acme", addOns=[{"id": "reports", "quantity": 0}])
    assert removed["change"]["status"] == "APPLIED", removed
    assert (await api.customer("acme"))["creditBalance"] == {"amountMinor": "5000"}

    refused = await api.preview(customerId="acme", planId="team", timing="PERIOD_END", reason="x")
    assert refused["issues"][0]["code"] == "NO_PAID_PERIOD"
    quote = await api.preview(customerId="acme", planId="team")
    assert (quote["direction"], quote["dueNow"]) == ("DOWNGRADE", {"amountMinor": "5000"})
    assert not quote["approvalRequired"]
    assert (await api.commit(quote["token"], "down"))["change"]["status"] == "APPLIED"
    customer = await api.customer("acme")
    assert customer["invoices"]["nodes"][0]["amountPaid"] == quote["dueNow"]
    await api.advance("2026-05-20T00:00:00Z")
    assert len((await api.customer("acme"))["invoices"]["nodes"]) == len(
        customer["invoices"]["nodes"]) + 1  # fmt: skip
    await deliver(api, services, sandbox_url)
    assert len((await api.customer("acme"))["subscriptions"]) == 1


@on_sqlite
async def test_the_last_charge_goes_with_the_end_of_its_period(
    api: Api, services: Services, sandbox_url: str
) -> None:
    late = {"timing": "period_end", "proration": "none"}
    await publish(services, _catalog(downgrade=late))
    await api.create_customer("acme")
    await api.change("start", customerId="acme", planId="team")
    support = await keyed(api, services, "support")
    buyer = await api.token("acme", "READ", "BUY")
    quote = await support.preview(
        customerId="acme", planId="enterprise", timing="PERIOD_END", reason="agreed"
    )
    assert (quote["lines"], quote["nextInvoice"]) == ([], None)
    asked = await buyer.commit(quote["token"], "up")
    assert asked["__typename"] == "ApprovalRequired", asked
    done = await approve(api, asked["pendingChange"]["id"])
    assert done["change"]["status"] == "SCHEDULED", done
    await deliver(api, services, sandbox_url)
    [held] = (await api.customer("acme"))["subscriptions"]
    assert held["cancelAt"] is None  # at the provider it ends, here it lives on
    assert (await buyer.take_back(done["change"]["id"]))["change"]["status"] == "CANCELED"
    again = await support.change(
        "again", customerId="acme", planId="enterprise", timing="PERIOD_END", reason="agreed"
    )
    assert again["change"]["status"] == "SCHEDULED", again

    await services.payments.advance_clock(datetime(2026, 4, 2, tzinfo=UTC))  # theirs is ahead
    await deliver(api, services, sandbox_url)
    await api.advance("2026-04-20T00:00:00Z")
    customer = await api.customer("acme")
    [held] = customer["subscriptions"]
    assert (held["plan"], held["status"]) == ({"versionId": "enterprise@1"}, "ACTIVE")
    assert held["currentPeriod"] == {"start": "2026-04-01T12:00:00Z", "end": "2026-05-01T12:00:00Z"}
    assert len(customer["invoices"]["nodes"]) == 1
    assert (await api.access("acme", "has-sso"))["allowed"]

    await api.change("reports", customerId="acme", addOns=[{"id": "reports"}])
    removed = await buyer.change("none", addOns=[{"id": "reports", "quantity": 0}])
    assert removed["change"]["status"] == "SCHEDULED", removed
    await api.advance("2026-06-10T00:00:00Z")
    await deliver(api, services, sandbox_url)
    customer = await api.customer("acme")
    [held] = customer["subscriptions"]
    assert [i["package"]["versionId"] for i in held["items"]] == ["enterprise@1"]
    assert (held["status"], len(customer["invoices"]["nodes"])) == ("ACTIVE", 2)
    async with services.database.read() as session:
        stored = await session.scalar(select(SubscriptionRow))
    assert stored is not None
    assert (stored.provider_id, stored.align_due_at) == (None, None)


@on_sqlite
@pytest.mark.parametrize(
    ("method", "kind", "answer"),
    [
        ("DELETE", "error_before", "PaymentProviderUnavailable"),  # it never arrives
        ("DELETE", "cut_after", "ChangeCommitted"),  # sent again, it finds that it has ended
        ("GET", "error_before", "PaymentProviderUnavailable"),  # it has ended, and we do not know
    ],
)
async def test_an_approval_that_is_cut_off_is_finished_once(
    api: Api, services: Services, sandbox_url: str, method: str, kind: str, answer: str
) -> None:
    await publish(services, _catalog())
    await api.create_customer("acme")
    await api.change("start", customerId="acme", planId="team")
    buyer = await api.token("acme", "READ", "BUY")
    asked = await ask_for(buyer, "up", planId="enterprise")
    await fault(sandbox_url, kind=kind, times=9, method=method, path="/v1/subscriptions")
    assert (await approve(api, asked))["__typename"] == answer
    if answer == "PaymentProviderUnavailable":
        assert await statuses(api) == ["PENDING", "APPLIED"]
        assert (await approve(api, asked))["code"] == "NOT_AWAITING_APPROVAL"

    async with httpx.AsyncClient() as client:
        await client.delete(f"{sandbox_url}/_sandbox/faults")
    for _ in range(100):
        await work_once(services)
        if await statuses(api) == ["APPLIED", "APPLIED"]:
            break
        await asyncio.sleep(0.1)
    customer = await api.customer("acme")
    assert customer["subscriptions"][0]["plan"] == {"versionId": "enterprise@1"}
    assert customer["creditBalance"] == {"amountMinor": "10000"}
    assert len(customer["invoices"]["nodes"]) == 2
    actions = [entry["action"] for entry in await api.audit(objectId=asked)]
    assert actions == ["change.applied", "change.approved", "change.approval_asked"]


CHOICES: list[tuple[str, dict[str, str], str | None]] = [
    ("customer", {"timing": "PERIOD_END"}, "NOT_YOURS_TO_CHOOSE"),
    ("customer", {"timing": "NOW"}, None),
    ("customer", {"proration": "INVOICE_NOW"}, "NOT_YOURS_TO_CHOOSE"),
    ("service", {"timing": "PERIOD_END"}, "NOT_YOURS_TO_CHOOSE"),
    ("service", {"timing": "NOW"}, None),
    ("service", {"proration": "NONE"}, "NOT_YOURS_TO_CHOOSE"),
    ("service", {"proration": "INVOICE_NOW"}, "NOT_YOURS_TO_CHOOSE"),
    ("service", {"proration": "NEXT_INVOICE"}, None),
    ("support", {"timing": "NOW"}, None),
    ("support", {"proration": "NONE"}, "REASON_REQUIRED"),
    ("support", {"proration": "NONE", "reason": "goodwill"}, None),
    ("admin", {"proration": "NONE"}, "REASON_REQUIRED"),
    ("admin", {"proration": "NONE", "reason": "goodwill"}, None),
]


@on_sqlite
async def test_who_may_choose_when_and_how(api: Api, services: Services) -> None:
    rule = {"timing": "now", "proration": "next_invoice"}
    await publish(services, _catalog(upgrade=rule, customer_may_choose=["now"]))
    await api.create_customer("acme")
    await api.change("start", customerId="acme", planId="basic")
    asking = {"customer": await api.token("acme", "READ", "BUY"), "admin": api}
    for role in ("service", "support"):
        asking[role] = await keyed(api, services, role)
    for role, choice, code in CHOICES:
        answer = await asking[role].preview(customerId="acme", planId="team", **choice)
        found = answer["issues"][0]["code"] if code else answer["__typename"]
        assert found == (code or "Quote"), (role, choice, answer)
    finance = await keyed(api, services, "finance")
    attempt = """mutation { previewChange(input: {customerId: "acme", planId: "team"}) {
                   __typename } }"""
    assert await finance.refused(attempt) == "FORBIDDEN"

    # What staff chose holds when the customer commits it.
    quote = await asking["support"].preview(
        customerId="acme", planId="team", proration="NONE", reason="goodwill"
    )
    done = await asking["customer"].commit(quote["token"], "gift")
    assert (done["change"]["status"], done["change"]["lines"]) == ("APPLIED", [])
