"""Counting what customers use, against what they may."""

import asyncio
import json
import random
import sys
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import select

from entitlements.access.tables import DenialRow
from entitlements.kernel.errors import IdempotencyConflict
from entitlements.services import Services
from entitlements.worker import work_once
from tests import recorders
from tests.api import Api
from tests.conftest import on_sqlite, publish

"""For what is decided without a statement of its own."""

DENIALS = """query ($id: ID!, $first: Int! = 50) { customer(id: $id) {
  denials(first: $first) { feature { id } day reason count } } }"""


def _meter(id: str, reset: str) -> dict[str, Any]:
    return {"id": id, "name": id, "kind": "metered", "unit": "call", "aggregation": "sum",
            "reset": reset}  # fmt: skip


def _flat(amount: str) -> dict[str, Any]:
    return {"id": "fee", "name": "Fee", "model": "flat",
            "prices": {"usd": {"month": amount, "year": f"{amount}0"}}}  # fmt: skip


def _per_seat(amount: str) -> dict[str, Any]:
    return {"id": "seats", "name": "Seats", "model": "per_unit", "quantity": "seats", "minimum": 2,
            "prices": {"usd": {"month": amount, "year": f"{amount}0"}}}  # fmt: skip


def _metered(amount: str) -> dict[str, Any]:
    return {"id": "calls", "name": "Calls", "model": "per_unit", "quantity": "calls",
            "billing": "in_arrears",
            "prices": {"usd": {"month": amount, "year": amount}}}  # fmt: skip


def _document(**policy: Any) -> dict[str, Any]:
    """A small plan and a large one; calls by billing period, jobs by the hour, seats in use."""
    return {
        "currencies": ["usd"],
        "features": [
            _meter("calls", "billing_period"),
            _meter("jobs", "hour"),
            _meter("exports", "never"),
            {"id": "seats", "name": "Seats", "kind": "metered", "unit": "seat",
             "aggregation": "level"},
            {"id": "sso", "name": "SSO", "kind": "boolean"},
        ],
        "products": [
            {
                "id": "app", "name": "App",
                "policy": {"downgrade": {"timing": "now", "proration": "none"} | policy},
                "plans": [
                    {"id": "small", "name": "Small", "charges": [_flat("10.00")],
                     "entitlements": {"calls": {"limit": 10, "warn_at_percent": [50, 80]},
                                      "jobs": {"limit": 2, "overage": True},
                                      "seats": {"limit": 3}, "sso": True}},
                    {"id": "large", "name": "Large", "charges": [_flat("50.00")],
                     "entitlements": {"calls": {"limit": 100}, "jobs": {"unlimited": True},
                                      "seats": {"limit": 20}, "sso": True}},
                    {"id": "team", "name": "Team", "entitlements": {"seats": {"limit": 50}},
                     "charges": [_flat("90.00"), _per_seat("2.00")]},
                    {"id": "billed", "name": "Billed", "entitlements": {"calls": {"limit": 12}},
                     "charges": [_flat("95.00"), _metered("0.05")]},
                ],
                "add_ons": [
                    {"id": "more-calls", "name": "More calls", "kind": "capacity",
                     "entitlements": {"calls": {"add": 5}}, "charges": [_flat("3.00")]},
                ],
            }
        ],
    }  # fmt: skip


@pytest.fixture
async def small(api: Api, services: Services) -> Api:
    """`ant` on Small since 1 March 2026, 12:00."""
    await publish(services, _document())
    await api.create_customer("ant")
    started = await api.change("start", customerId="ant", planId="small")
    assert started["__typename"] == "ChangeCommitted", started
    return api


async def test_use_is_counted_up_to_the_limit_and_begins_anew_with_the_period(small: Api) -> None:
    revision = (await small.customer("ant"))["revision"]
    token = await small.token("ant", "USE", "READ")
    first = await token.consume("calls", "a", quantity=4)
    assert first["decision"] | {"sources": ...} == {
        "allowed": True, "reason": None, "overLimit": False, "used": "4", "remaining": "6",
        "resetsAt": "2026-04-01T12:00:00Z", "warning": None, "revision": revision,
        "value": {"limit": "10", "unlimited": False, "overage": False}, "sources": ...,
    }  # fmt: skip
    assert (await token.consume("calls", "b", quantity=4))["decision"]["warning"] == 80
    denied = (await token.consume("calls", "c", quantity=3))["decision"]
    assert (denied["allowed"], denied["reason"]) == (False, "LIMIT_EXCEEDED")
    assert (denied["used"], denied["remaining"]) == ("8", "2")
    assert (await token.access(None, "calls", quantity=3))["reason"] == "LIMIT_EXCEEDED"
    asked = await token.access(None, "calls", quantity=2)
    assert (asked["allowed"], asked["used"], asked["warning"]) == (True, "8", 80)

    await small.advance("2026-04-01T11:59:59Z")
    assert (await token.access(None, "calls"))["used"] == "8"
    await small.advance("2026-04-01T12:00:00Z")
    anew = await token.access(None, "calls")
    assert (anew["used"], anew["resetsAt"]) == ("0", "2026-05-01T12:00:00Z")
    assert (await small.customer("ant"))["subscriptions"][0]["currentPeriod"] == {
        "start": "2026-04-01T12:00:00Z", "end": "2026-05-01T12:00:00Z"
    }  # fmt: skip


async def test_a_repeated_key_gets_the_first_answer_word_for_word(small: Api) -> None:
    yes = await small.consume("calls", "yes", customerId="ant", quantity=9)
    no = await small.consume("calls", "no", customerId="ant", quantity=2)
    assert (yes["decision"]["allowed"], no["decision"]["reason"]) == (True, "LIMIT_EXCEEDED")
    await small.purchase(customerId="ant", addOnId="more-calls", idempotencyKey="buy")

    assert await small.consume("calls", "yes", customerId="ant", quantity=9) == yes | {
        "duplicate": True
    }
    assert await small.consume("calls", "no", customerId="ant", quantity=2) == no | {
        "duplicate": True
    }
    other = await small.consume("calls", "yes", customerId="ant", quantity=1)
    assert other["__typename"] == "IdempotencyConflict"
    counted = await small.consume("calls", "new", customerId="ant", quantity=6)
    assert (counted["decision"]["used"], counted["decision"]["remaining"]) == ("15", "0")


async def test_keys_are_forgotten_after_a_week_and_counters_after_their_time(
    small: Api, services: Services
) -> None:
    await small.consume("calls", "key", customerId="ant", quantity=9)
    await small.consume("jobs", "key-2", customerId="ant")
    await small.advance("2026-03-08T12:00:01Z")
    while await work_once(services):
        pass
    again = await small.consume("calls", "key", customerId="ant", quantity=9)
    assert (again["duplicate"], again["decision"]["used"]) == (False, "9")
    assert not again["decision"]["allowed"]
    assert await services.usage.purge() == 0


async def test_an_event_that_was_forgotten_is_too_old_to_count_again(
    small: Api, services: Services
) -> None:
    event = {"id": "e", "customerId": "ant", "featureId": "jobs", "quantity": 1,
             "at": "2026-03-01T11:00:00Z"}  # fmt: skip
    assert (await small.record(event))["accepted"] == 1
    await small.advance("2026-04-05T11:00:00Z")  # 35 days later, to the second
    assert await services.usage.purge() == 0
    assert (await small.record(event))["duplicates"] == 1
    await small.advance("2026-04-06T12:00:01Z")
    assert await services.usage.purge() == 2  # the event, and the counter of its hour
    [rejected] = (await small.record(event))["rejected"]
    assert rejected["code"] == "TOO_OLD"
    history = """{ usageHistory(customerId: "ant", featureId: "jobs",
      from: "2026-03-01T00:00:00Z", to: "2026-03-02T00:00:00Z") { quantity } }"""
    assert await small.ask(history) == {"usageHistory": [{"quantity": "1"}]}


@on_sqlite
async def test_overage_counts_past_the_limit_and_says_so(small: Api) -> None:
    for key, over in (("1", False), ("2", False), ("3", True)):
        counted = (await small.consume("jobs", key, customerId="ant"))["decision"]
        assert (counted["allowed"], counted["overLimit"]) == (True, over)
    assert (counted["used"], counted["remaining"]) == ("3", "0")
    assert counted["resetsAt"] == "2026-03-01T13:00:00Z"


@on_sqlite
async def test_a_change_of_plan_never_resets_a_counter(small: Api) -> None:
    await small.consume("calls", "a", customerId="ant", quantity=7)
    await small.advance("2026-03-11T00:00:00Z")
    await small.change("up", customerId="ant", planId="large")
    grown = await small.access("ant", "calls")
    assert (grown["used"], grown["remaining"]) == ("7", "93")
    assert grown["resetsAt"] == "2026-04-01T12:00:00Z"


async def test_a_year_that_is_billed_by_the_year_counts_all_of_its_months(small: Api) -> None:
    started = await small.change("year", customerId="ant", planId="billed", interval="YEAR")
    assert started["__typename"] == "ChangeCommitted", started
    await small.consume("calls", "a", customerId="ant", quantity=4)
    await small.advance("2026-05-05T00:00:00Z")
    counted = (await small.consume("calls", "b", customerId="ant", quantity=7))["decision"]
    assert (counted["used"], counted["remaining"]) == ("11", "1")
    assert counted["resetsAt"] == "2027-03-01T12:00:00Z"
    denied = (await small.consume("calls", "c", customerId="ant", quantity=2))["decision"]
    assert (denied["reason"], denied["used"]) == ("LIMIT_EXCEEDED", "11")
    assert (await small.access("ant", "calls"))["used"] == "11"
    await small.change("up", customerId="ant", planId="large", timing="NOW", reason="a mistake")
    monthly = await small.access("ant", "calls")  # nothing bills it now: the month since 1 May
    assert (monthly["used"], monthly["resetsAt"]) == ("7", "2026-06-01T12:00:00Z")


@on_sqlite
async def test_what_is_not_granted_is_denied_and_what_is_no_sum_is_refused(small: Api) -> None:
    for customer, feature, reason in (
        ("ant", "exports", "NOT_ENTITLED"),
        ("ant", "nothing", "FEATURE_NOT_FOUND"),
        ("nobody", "calls", "CUSTOMER_NOT_FOUND"),
    ):
        for _ in range(2):
            denied = await small.consume(feature, f"{feature}-key", customerId=customer)
            assert denied["decision"]["reason"] == reason
    token = await small.token("ant", "USE")
    others = await token.consume("calls", "theirs", customerId="bee")
    assert others["decision"]["reason"] == "CUSTOMER_NOT_FOUND"
    reader = await small.token("ant", "READ")
    assert await reader.refused(
        'mutation { consume(featureId: "calls", idempotencyKey: "x") { __typename } }'
    ) == "FORBIDDEN"  # fmt: skip

    for feature, quantity, path, code in (
        ("seats", 1, "featureId", "NOT_A_SUM"),
        ("sso", 1, "featureId", "NOT_A_SUM"),
        ("calls", 0, "quantity", "OUT_OF_RANGE"),
        ("calls", -5, "quantity", "OUT_OF_RANGE"),
        ("calls", 10**12 + 1, "quantity", "OUT_OF_RANGE"),
    ):
        refused = await small.consume(feature, "k", customerId="ant", quantity=quantity)
        assert refused["issues"] == [{"path": [path], "code": code}]
    for key in ("", "x" * 256, "a\nb"):
        refused = await small.consume("calls", key, customerId="ant")
        assert refused["issues"] == [{"path": ["idempotencyKey"], "code": "LENGTH"}]


async def test_a_level_is_what_is_in_use_and_may_always_go_down(small: Api) -> None:
    async def set_level(level: int, key: str) -> tuple[Any, ...]:
        decision = (await small.set_level("seats", level, key, customerId="ant"))["decision"]
        return tuple(decision[name] for name in ("allowed", "reason", "used", "remaining"))

    assert await set_level(3, "a") == (True, None, "3", "0")
    assert await set_level(4, "b") == (False, "LIMIT_EXCEEDED", "3", "0")
    assert (await small.access("ant", "seats"))["reason"] == "LIMIT_EXCEEDED"
    await small.change("up", customerId="ant", planId="large")
    assert await set_level(12, "c") == (True, None, "12", "8")
    await small.change("down", customerId="ant", planId="small")
    assert await set_level(11, "d") == (True, None, "11", "0")
    assert await set_level(12, "e") == (False, "LIMIT_EXCEEDED", "11", "0")
    assert await set_level(0, "f") == (True, None, "0", "3")
    again = await small.set_level("seats", 12, "e", customerId="ant")
    assert (again["duplicate"], again["decision"]["used"]) == (True, "11")
    refused = await small.set_level("calls", 1, "g", customerId="ant")
    assert refused["issues"] == [{"path": ["featureId"], "code": "NOT_A_LEVEL"}]
    refused = await small.set_level("seats", -1, "g", customerId="ant")
    assert refused["issues"] == [{"path": ["level"], "code": "OUT_OF_RANGE"}]


async def test_events_count_once_in_the_window_of_their_instant_and_above_the_limit(
    small: Api,
) -> None:
    await small.advance("2026-04-03T00:00:00Z")

    def event(id: str, quantity: int, **more: Any) -> dict[str, Any]:
        return {"id": id, "customerId": "ant", "featureId": "calls", "quantity": quantity} | more

    batch = [
        event("now", 8),
        event("late", 5, at="2026-03-31T23:00:00Z"),
        event("later", 30, at="2026-04-01T12:00:00Z"),
        event("now", 8),
        event("now", 9),
        event("old", 1, at="2026-02-26T23:59:59Z"),
        event("early", 1, at="2026-04-03T00:05:01Z"),
        event("none", 0),
        event("who", 1, customerId="nobody"),
        event("what", 1, featureId="nothing"),
        event("seats", 1, featureId="seats"),
        event("", 1),
    ]
    recorded = await small.record(*batch)
    codes = {e["id"]: e["code"] for e in recorded["rejected"]}
    assert (recorded["accepted"], recorded["duplicates"]) == (3, 1)
    assert codes == {
        "old": "TOO_OLD", "early": "IN_FUTURE", "none": "OUT_OF_RANGE",
        "who": "CUSTOMER_NOT_FOUND", "what": "FEATURE_NOT_FOUND", "seats": "NOT_A_SUM",
        "": "ID", "now": "ID_REUSED",
    }  # fmt: skip
    again = await small.record(*batch)
    assert (again["accepted"], again["duplicates"]) == (0, 4)
    asked = await small.access("ant", "calls")
    assert (asked["allowed"], asked["used"], asked["remaining"]) == (False, "38", "0")

    days = await small.ask(
        """{ usageHistory(customerId: "ant", featureId: "calls", from: "2026-03-31T00:00:00Z",
                          to: "2026-04-03T00:00:01Z") { date quantity } }"""
    )
    assert [(day["date"][:10], day["quantity"]) for day in days["usageHistory"]] == [
        ("2026-03-31", "5"), ("2026-04-01", "30"), ("2026-04-02", "0"), ("2026-04-03", "8"),
    ]  # fmt: skip
    assert (await small.record())["issues"] == [{"path": ["events"], "code": "LENGTH"}]


async def test_the_history_of_a_level_is_what_each_day_ended_with(small: Api) -> None:
    await small.set_level("seats", 3, "a", customerId="ant")
    await small.set_level("seats", 2, "b", customerId="ant")
    await small.advance("2026-03-03T00:00:00Z")
    await small.set_level("seats", 1, "c", customerId="ant")
    history = """query ($from: DateTime!, $to: DateTime!) { usageHistory(
      customerId: "ant", featureId: "seats", from: $from, to: $to) { quantity } }"""
    span = {"from": "2026-02-28T00:00:00Z", "to": "2026-03-05T00:00:00Z"}
    days = (await small.ask(history, **span))["usageHistory"]
    assert [day["quantity"] for day in days] == ["0", "2", "2", "1", "0"]
    later = (await small.ask(history, **span | {"from": "2026-03-02T00:00:00Z"}))["usageHistory"]
    assert [day["quantity"] for day in later] == ["2", "1", "0"]
    assert await small.refused(history, **span | {"to": "2027-03-05T00:00:00Z"}) == "BAD_USER_INPUT"
    assert await small.refused(history, **span | {"to": span["from"]}) == "BAD_USER_INPUT"


@on_sqlite
async def test_entitlements_show_what_is_used_of_them(small: Api) -> None:
    await small.consume("calls", "a", customerId="ant", quantity=4)
    await small.set_level("seats", 2, "b", customerId="ant")
    found = await small.ask(
        """{ customers { nodes { entitlements { feature { id } used remaining resetsAt } } } }"""
    )
    [customer] = found["customers"]["nodes"]
    figures = {
        e["feature"]["id"]: (e["used"], e["remaining"], e["resetsAt"])
        for e in customer["entitlements"]
    }
    assert figures == {
        "calls": ("4", "6", "2026-04-01T12:00:00Z"),
        "jobs": ("0", "2", "2026-03-01T13:00:00Z"),
        "seats": ("2", "1", None),
        "sso": (None, None, None),
    }


@on_sqlite
async def test_a_downgrade_shows_what_is_used_above_the_limits_after_it(small: Api) -> None:
    await small.change("up", customerId="ant", planId="large")
    await small.set_level("seats", 8, "a", customerId="ant")
    await small.consume("calls", "b", customerId="ant", quantity=40)
    await small.consume("jobs", "c", customerId="ant", quantity=3)
    quote = await small.preview(customerId="ant", planId="small")
    assert [(v["feature"]["id"], v["used"], v["limitAfter"]) for v in quote["usageViolations"]] == [
        ("calls", "40", "10"), ("jobs", "3", "2"), ("seats", "8", "3"),
    ]  # fmt: skip
    assert "Seats: 8 are in use, and the limit will be 3" in quote["warnings"]
    down = await small.commit(quote["token"], "down")
    assert down["__typename"] == "ChangeCommitted"
    grown = await small.preview(customerId="ant", planId="large")
    assert grown["usageViolations"] == []


@on_sqlite
async def test_a_policy_may_refuse_to_go_below_what_is_used(small: Api, services: Services) -> None:
    await publish(services, _document(over_limit="refuse"))
    await small.change("up", customerId="ant", planId="large")
    await small.set_level("seats", 3, "a", customerId="ant")
    await small.consume("jobs", "b", customerId="ant", quantity=9)  # may be passed: not in the way
    quote = await small.preview(customerId="ant", planId="small")
    assert quote["__typename"] == "Quote"
    await small.set_level("seats", 4, "c", customerId="ant")
    for refused in (
        await small.preview(customerId="ant", planId="small"),
        await small.commit(quote["token"], "down"),
    ):
        [issue] = refused["issues"]
        assert (issue["path"], issue["code"]) == (["planId"], "OVER_LIMIT")
        assert "Seats" in issue["message"]
    await small.set_level("seats", 3, "d", customerId="ant")
    down = await small.change("again", customerId="ant", planId="small")
    assert down["__typename"] == "ChangeCommitted"


@on_sqlite
async def test_a_level_first_charged_is_bought_as_it_is_in_use(small: Api) -> None:
    seats = {"feature": {"id": "seats"}}
    await small.set_level("seats", 3, "a", customerId="ant")
    quote = await small.preview(customerId="ant", planId="team")
    lines = [(line["chargeId"], line["quantity"]) for line in quote["lines"]]
    assert ("seats", "3") in lines
    await small.set_level("seats", 1, "b", customerId="ant")
    stale = await small.commit(quote["token"], "stale")
    assert stale["__typename"] == "QuoteStale"
    await small.change("team", customerId="ant", planId="team")
    [held] = (await small.customer("ant"))["subscriptions"]
    assert held["quantities"] == [seats | {"quantity": "2"}]  # the minimum
    await small.set_level("seats", 2, "c", customerId="ant")
    [held] = (await small.customer("ant"))["subscriptions"]
    assert held["quantities"] == [seats | {"quantity": "2"}]  # what is bought never follows use


async def test_what_is_denied_is_counted_by_day_and_reason_and_who_is_not_there_is_not(
    small: Api, services: Services
) -> None:
    for key in ("a", "b"):
        await small.consume("calls", key, customerId="ant", quantity=11)
    await small.consume("calls", "b", customerId="ant", quantity=11)  # the same one again
    await small.access("ant", "exports")
    await small.access("ant", "nothing")
    await small.access("nobody", "calls")
    await small.access("ant", "calls")
    await services.signals.flush()
    await small.access("ant", "exports")
    await services.signals.flush()
    async with services.database.read() as session:
        found = (await session.scalars(select(DenialRow).order_by(DenialRow.feature_id))).all()
    assert [(row.customer_id, row.feature_id, row.reason, row.count) for row in found] == [
        ("ant", "calls", "limit_exceeded", 2), ("ant", "exports", "not_entitled", 2),
    ]  # fmt: skip
    assert {str(row.day) for row in found} == {"2026-03-01"}

    denied = await small.ask(DENIALS, id="ant")
    assert denied["customer"]["denials"] == [
        {"feature": {"id": "calls"}, "day": "2026-03-01T00:00:00Z", "reason": "LIMIT_EXCEEDED",
         "count": "2"},
        {"feature": {"id": "exports"}, "day": "2026-03-01T00:00:00Z", "reason": "NOT_ENTITLED",
         "count": "2"},
    ]  # fmt: skip
    assert len((await small.ask(DENIALS, id="ant", first=1))["customer"]["denials"]) == 1
    assert await small.refused(DENIALS, id="ant", first=201) == "BAD_USER_INPUT"
    ant = await small.token("ant")
    assert (await ant.ask(DENIALS, id="ant"))["customer"]["denials"] == []


async def test_two_processes_never_count_past_the_limit_and_agree_on_every_key(
    small: Api, database_url: str
) -> None:
    """64 clients ask at once; both processes ask for every key, from other ends of the list."""
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.consumers", database_url, offset,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )
        for offset in ("0", "48")
    ]  # fmt: skip
    for process in processes:
        assert process.stdout
        assert await process.stdout.readline() == b"ready\n"
    told = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    one, other = (json.loads(out) for out, _ in told)
    assert one.keys() == other.keys()
    for key, (allowed, used, duplicate) in one.items():
        assert other[key][:2] == [allowed, used]
        assert other[key][2] is not duplicate
    allowed_at = sorted(used for allowed, used, _ in one.values() if allowed)
    assert allowed_at == list(range(1, 11))
    assert (await small.access("ant", "calls"))["used"] == "10"


async def test_a_killed_process_loses_no_event_that_it_acknowledged(
    small: Api, services: Services, database_url: str
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.recorders", database_url, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout
    acknowledged = 0
    while acknowledged < 20:
        acknowledged = int(await process.stdout.readline())
    process.kill()
    rest = (await process.stdout.read()).split()
    await process.wait()
    acknowledged = int(rest[-1]) if rest else acknowledged
    assert acknowledged < recorders.BATCHES, "it was killed while it was at it"

    of_batch = recorders.BATCH * recorders.QUANTITY
    counted = int((await small.access("ant", "jobs"))["used"])
    assert counted >= acknowledged * of_batch
    assert counted % of_batch == 0, "a batch counts as a whole, or not at all"
    again = [await services.usage.record(recorders.batch(n)) for n in range(acknowledged + 4)]
    assert sum(recorded.duplicates for recorded in again) == counted // recorders.QUANTITY
    wanted = len(again) * of_batch
    assert int((await small.access("ant", "jobs"))["used"]) == wanted


@on_sqlite
async def test_each_limit_begins_anew_at_its_own_boundary(api: Api, services: Services) -> None:
    resets = ("hour", "day", "week", "month", "billing_period", "never")
    document = _document()
    document["features"] += [_meter(f"by-{reset}".replace("_", "-"), reset) for reset in resets]
    ids = [f"by-{reset}".replace("_", "-") for reset in resets]
    document["products"][0]["plans"][0]["entitlements"] |= {id: {"limit": 1} for id in ids}
    await publish(services, document)
    await api.create_customer("ant")
    await api.advance("2026-03-04T10:30:00Z")  # a Wednesday
    await api.change("start", customerId="ant", planId="small")
    left = set(ids)
    for at, begins_anew in (
        ("2026-03-04T10:59:59Z", set()),
        ("2026-03-04T11:00:00Z", {"by-hour"}),
        ("2026-03-05T00:00:00Z", {"by-hour", "by-day"}),
        ("2026-03-09T00:00:00Z", {"by-hour", "by-day", "by-week"}),
        ("2026-04-01T00:00:00Z", {"by-hour", "by-day", "by-week", "by-month"}),
        ("2026-04-04T10:30:00Z", {"by-hour", "by-day", "by-billing-period"}),
        ("2027-04-04T10:30:00Z", {*ids} - {"by-never"}),
    ):
        for id in left:
            counted = await api.consume(id, f"{at}-{id}-before", customerId="ant")
            assert counted["decision"]["allowed"], (at, id)
        await api.advance(at)
        left = set()
        for id in ids:
            if (await api.access("ant", id))["allowed"]:
                left.add(id)
        assert left == begins_anew, at


@on_sqlite
async def test_who_cancels_falls_back_to_the_free_plan_and_goes_on_counting(
    api: Api, services: Services
) -> None:
    document = _document()
    free = {"id": "free", "name": "Free", "charges": [_flat("0.00")],
            "entitlements": {"calls": {"limit": 5}, "sso": False}}  # fmt: skip
    document["products"][0]["plans"].insert(0, free)
    document["products"][0]["fallback_plan"] = "free"
    await publish(services, document)
    await api.create_customer("ant")
    await api.change("start", customerId="ant", planId="small")
    await api.consume("calls", "a", customerId="ant", quantity=9)
    await api.cancel("end", customerId="ant", productId="app")
    assert (await api.access("ant", "sso"))["allowed"]
    await api.advance("2026-04-01T12:00:00Z")
    lost = await api.access("ant", "sso")
    assert (lost["allowed"], lost["reason"]) == (False, "NO_ACTIVE_SUBSCRIPTION")
    kept = await api.access("ant", "calls", quantity=5)
    [source] = kept["sources"]
    assert (kept["allowed"], kept["used"], source["kind"]) == (True, "0", "FALLBACK")
    counted = await api.consume("calls", "b", customerId="ant", quantity=5)
    assert counted["decision"]["remaining"] == "0"


async def test_what_is_settled_together_is_answered_as_if_one_came_after_the_other(
    small: Api, services: Services
) -> None:
    """A hundred at one moment, keys used again among them, beside the same one by one."""
    await small.create_customer("bee")
    await small.change("start-bee", customerId="bee", planId="small")
    chance = random.Random(8)
    steps = [
        (chance.choice(["consume", "consume", "set_level"]), chance.randint(1, 4), f"k{n % 70}")
        for n in range(100)
    ]
    revision = {id: (await small.customer(id))["revision"] for id in ("ant", "bee")}
    assert revision["ant"] == revision["bee"]

    async def outcome(customer_id: str, step: tuple[str, int, str]) -> object:
        mutation, quantity, key = step
        feature_id = "calls" if mutation == "consume" else "seats"
        try:
            counted = await getattr(services.usage, mutation)(
                customer_id, feature_id, quantity, key
            )
        except IdempotencyConflict:
            return "conflict"
        return counted.duplicate, counted.answer.decision, counted.answer.resets_at

    together = await asyncio.gather(*(outcome("ant", step) for step in steps))
    alone = [await outcome("bee", step) for step in steps]
    assert together == alone
    assert len({str(each) for each in alone}) > 15
    for feature_id in ("calls", "seats"):
        [ant, bee] = [await small.access(id, feature_id) for id in ("ant", "bee")]
        assert ant["used"] == bee["used"] != "0"
        asked = ("2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z")
        days = [
            await services.usage.history(id, feature_id, *map(datetime.fromisoformat, asked))
            for id in ("ant", "bee")
        ]
        assert days[0] == days[1] != []


@on_sqlite
async def test_a_downgrade_that_waits_is_refused_for_what_is_there_not_for_what_resets(
    small: Api, services: Services
) -> None:
    document = _document(timing="period_end", over_limit="refuse")
    await publish(services, document)
    await small.change("up", customerId="ant", planId="large")
    await small.consume("calls", "a", customerId="ant", quantity=40)
    await small.set_level("seats", 4, "b", customerId="ant")
    refused = await small.preview(customerId="ant", planId="small")
    assert [issue["code"] for issue in refused["issues"]] == ["OVER_LIMIT"]
    await small.set_level("seats", 3, "c", customerId="ant")
    quote = await small.preview(customerId="ant", planId="small")
    assert [v["feature"]["id"] for v in quote["usageViolations"]] == ["calls"]
    assert (await small.commit(quote["token"], "down"))["change"]["status"] == "SCHEDULED"
    await small.advance("2026-04-01T12:00:00Z")
    calls = await small.access("ant", "calls")
    assert (calls["used"], calls["remaining"]) == ("0", "10")
