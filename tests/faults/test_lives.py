"""Random customers, changes, faults and steps of the clock: after each the books balance.

The books are kept here, apart from the service: prices and entitlements by tables of this file,
renewals and prorations added up by hand. What is held is read; what it must cost and grant is not.
"""

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, strategies
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import func, select

from entitlements.audit.tables import AuditEntryRow
from entitlements.kernel.clock import SettableClock
from entitlements.worker import work_once
from tests.api import Api
from tests.conftest import publish
from tests.events import events_of, post
from tests.faults.world import Prepared, Provider, World, opened, until_answered
from tests.reconciliation import reconciled_clean
from tests.stories import granted, half_away, minor

# ── what is sold ─────────────────────────────────────────────────────────────

PLANS = {"small": 19_99, "medium": 49_00, "large": 120_07}
ADD_ONS = {"analytics": 30_01, "tracker": 7_50, "calls": 15_00}
SEAT_TIERS = ((5, 9_99), (20, 7_49), (None, 5_00))  # of all seats, the rate of the tier
BUNDLE = {"analytics": 1, "calls": 2}  # at 15 % off
MOST_OF = {"analytics": 1, "tracker": 1}

GRANTS: dict[str, dict[str, Any]] = {
    "small": {"support": "email", "hours": 48, "calls": 1000},
    "medium": {"support": "chat", "hours": 24, "calls": 5000, "sso": True},
    "large": {"support": "chat", "hours": 8, "calls": 20_000, "sso": True, "dashboards": True},
    "analytics": {"dashboards": True},
    "tracker": {"support": "phone", "hours": 12},
}
CALLS_OF_ONE = 500
SUPPORT = ("email", "chat", "phone")


def _flat(id: str, month_minor: int) -> dict[str, Any]:
    prices = {"month": f"{Decimal(month_minor) / 100:.2f}", "year": f"{month_minor // 10}.00"}
    return {"id": id, "name": id, "model": "flat", "prices": {"usd": prices}}


def _seats() -> dict[str, Any]:
    tiers = {
        interval: [
            {"up_to": up_to, "unit": f"{Decimal(rate * months) / 100:.2f}"}
            for up_to, rate in SEAT_TIERS
        ]
        for interval, months in (("month", 1), ("year", 10))
    }
    return {
        "id": "seats", "name": "Seats", "model": "volume", "quantity": "seats", "prices":
        {"usd": tiers},
    }  # fmt: skip


def document(dearer_minor: int = 0) -> dict[str, Any]:
    """The catalog; the plan in the middle may cost more per month."""
    prices = PLANS | {"medium": PLANS["medium"] + dearer_minor}
    plan_grants = {
        plan: GRANTS[plan]
        | {"calls": {"limit": GRANTS[plan]["calls"]}, "seats": {"unlimited": True}}
        for plan in PLANS
    }
    metered = {"kind": "metered", "unit": "one"}
    add_on_grants = GRANTS | {"calls": {"calls": {"add": CALLS_OF_ONE}}}
    return {
        "currencies": ["usd"],
        "features": [
            {"id": "seats", "name": "Seats", "aggregation": "level", "reset": "never", **metered},
            {"id": "calls", "name": "Calls", "aggregation": "sum", "reset": "month", **metered},
            {"id": "sso", "name": "SSO", "kind": "boolean"},
            {"id": "dashboards", "name": "Dashboards", "kind": "boolean"},
            {"id": "support", "name": "Support", "kind": "enum", "values": list(SUPPORT)},
            {"id": "hours", "name": "Hours", "kind": "number", "unit": "hour",
             "higher_is_better": False},
        ],
        "products": [
            {
                "id": "app",
                "name": "App",
                "policy": {"past_due_grace_days": 5},
                "plans": [
                    {"id": plan, "name": plan, "entitlements": plan_grants[plan],
                     "charges": [_flat("base", prices[plan]), _seats()]}
                    for plan in PLANS
                ],
                "add_ons": [
                    {"id": id, "name": id, "kind": "module", "entitlements": add_on_grants[id],
                     "max_quantity": MOST_OF.get(id), "charges": [_flat("fee", price)],
                     **({"requires": ["analytics"]} if id == "tracker" else {}),
                     **({"works_with": ["small", "medium"]} if id == "analytics" else {})}
                    for id, price in ADD_ONS.items()
                ],
                "bundles": [
                    {"id": "pack", "name": "Pack", "discount_percent": "15",
                     "components": [{"id": id, "quantity": n} for id, n in BUNDLE.items()]}
                ],
            }
        ],
    }  # fmt: skip


def prices_of(
    version_id: str, quantity: int, seats: int, interval: str, dearer: dict[str, int]
) -> list[Fraction]:
    """What each charge of a package costs for a whole interval, by the tables above."""

    def flat(month_minor: int) -> Fraction:
        return Fraction(month_minor // 10 * 100 if interval == "YEAR" else month_minor)

    id = version_id.partition("@")[0]
    if id == "pack":
        return [flat(ADD_ONS[part]) * n * 85 / 100 * quantity for part, n in BUNDLE.items()]
    if id in ADD_ONS:
        return [flat(ADD_ONS[id]) * quantity]
    rate = next(rate for up_to, rate in SEAT_TIERS if up_to is None or seats <= up_to)
    months = 10 if interval == "YEAR" else 1
    return [flat(PLANS[id] + dearer.get(version_id, 0)), Fraction(rate * months * seats)]


def cost_of(held: Any, dearer: dict[str, int]) -> list[int]:
    """The lines of a renewal, by the tables above, without those of nothing."""
    seats = sum(int(q["quantity"]) for q in held["quantities"])
    lines = [
        half_away(price)
        for item in held["items"]
        for price in prices_of(
            item["package"]["versionId"], item["quantity"], seats, held["interval"], dearer
        )
    ]
    return sorted(line for line in lines if line)


def grants_of(held: Any) -> dict[str, Any]:
    """What is granted by what is held, merged here."""
    seats = sum(int(q["quantity"]) for q in held["quantities"])
    parts: Counter[str] = Counter()
    for item in held["items"]:
        id = item["package"]["versionId"].partition("@")[0]
        parts.update(
            {part: n * item["quantity"] for part, n in BUNDLE.items()}
            if id == "pack"
            else {id: item["quantity"]}
        )
    sources = [GRANTS[part] for part in parts if part in GRANTS]
    calls = sum(source.get("calls", 0) for source in sources) + CALLS_OF_ONE * parts["calls"]
    found: dict[str, Any] = {
        "seats": seats,
        "calls": calls,
        "support": max((s["support"] for s in sources if "support" in s), key=SUPPORT.index),
        "hours": min(s["hours"] for s in sources if "hours" in s),
    }
    return found | {f: True for f in ("sso", "dashboards") if any(s.get(f) for s in sources)}


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """Values of the API as `grants_of` writes them."""
    found: dict[str, Any] = {}
    for feature, value in values.items():
        if value["limit"] is not None:
            found[feature] = int(value["limit"])
        elif value["number"] is not None:
            found[feature] = int(value["number"])
        else:
            found[feature] = value["choice"] or value["enabled"]
    return {feature: value for feature, value in found.items() if value is not False}


CUSTOMER = """query ($id: ID!) { customer(id: $id) { revision creditBalance { amountMinor }
  entitlements { feature { id }
    value { enabled number choice limit unlimited overage } }
  subscriptions { status interval recurring { amountMinor } mrr { amountMinor }
    graceEndsAt cancelAt currentPeriod { start end } quantities { feature { id } quantity }
    items { package { versionId } quantity } scheduledChanges { id } }
  changes(first: 200) { nodes { id status total { amountMinor }
    lines { amount { amountMinor } } } }
  invoices(first: 200) { nodes { id status } } } }"""

AS_OF = """query ($id: ID!, $at: DateTime!) { customer(id: $id) { asOf(at: $at) {
  entitlements { feature { id }
    value { enabled number choice limit unlimited overage } }
  subscriptions { status interval recurring { amountMinor } mrr { amountMinor }
    graceEndsAt cancelAt currentPeriod { start end } quantities { feature { id } quantity }
    items { package { versionId } quantity } scheduledChanges { id } } } } }"""

MOVEMENTS = """{ mrrMovements(from: "2026-01-01T00:00:00Z", to: "2035-12-01T00:00:00Z",
  currency: "usd") { opening { amountMinor } closing { amountMinor } } }"""

CUSTOMERS = ("acme", "bolt")
CARDS = ("pm_card_visa", "pm_card_chargeCustomerFail", "pm_card_authenticationRequired")
OUTCOMES = (
    "ChangeCommitted",
    "PaymentDeclined",
    "PaymentActionRequired",
    "InvoicePaid",
    "InvoicePaymentRequired",
    "NotFound",
)
SEEN: Counter[str] = Counter()
"""How often each answer was had: printed, as what never happens is not tested."""

KINDS = ("rate_limit", "error_before", "error_after", "cut_before", "cut_after")

maybe = strategies.none
faults = maybe() | strategies.fixed_dictionaries(
    {
        "kind": strategies.sampled_from(KINDS),
        "times": strategies.sampled_from([1, 3, 8]),
        "after": strategies.integers(0, 6),
    }
)
customers = strategies.sampled_from(CUSTOMERS)


class Books:
    """What one customer must have been charged, by what was seen of them."""

    def __init__(self) -> None:
        self.renewals_minor = 0
        self.free = False  # something of this period was not prorated: credits are less then


class Lives(RuleBasedStateMachine):
    """Two customers and a service that stumbles. `prepared` is what each life begins with."""

    prepared: Prepared

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stop = asyncio.Event()
        self.books = {who: Books() for who in CUSTOMERS}
        self.dearer: dict[str, int] = {}
        self.keys = 0
        self.asked: dict[str, tuple[str, str]] = {}
        self.world: World = self.runner.run(self._open())
        self.api: Api = self.world.api

    async def _open(self) -> World:
        ready: asyncio.Future[World] = asyncio.get_running_loop().create_future()

        async def keep() -> None:
            async with Provider.serving() as provider, self.prepared.again(provider) as world:
                ready.set_result(world)
                await self.stop.wait()

        self.keeping = asyncio.create_task(keep())
        await asyncio.wait([ready, self.keeping], return_when=asyncio.FIRST_COMPLETED)
        if self.keeping.done():
            await self.keeping
        return ready.result()

    def teardown(self) -> None:
        async def close() -> None:
            self.stop.set()
            await self.keeping

        self.runner.run(close())
        self.runner.close()

    @initialize(
        who=customers,
        plan=strategies.sampled_from(list(PLANS)),
        interval=strategies.sampled_from(["MONTH", "YEAR"]),
    )
    def begin(self, who: str, plan: str, interval: str) -> None:
        wanted = {"customerId": who, "planId": plan, "interval": interval, "proration": None}
        self.runner.run(self._change(who, wanted, None))

    # ── what may happen ──────────────────────────────────────────────────────

    @rule(
        who=customers,
        plan=maybe() | strategies.sampled_from(list(PLANS)),
        interval=maybe() | maybe() | strategies.sampled_from(["MONTH", "YEAR"]),
        seats=maybe() | strategies.sampled_from([0, 1, 5, 6, 21]),
        add_ons=strategies.dictionaries(
            strategies.sampled_from(list(ADD_ONS)), strategies.integers(0, 3), max_size=2
        ),
        pack=maybe() | maybe() | strategies.integers(0, 2),
        timing=maybe() | maybe() | strategies.sampled_from(["NOW", "PERIOD_END"]),
        proration=maybe()
        | maybe()
        | strategies.sampled_from(["INVOICE_NOW", "NEXT_INVOICE", "NONE"]),
        fault=faults,
    )
    def change(
        self,
        who: str,
        plan: str | None,
        interval: str | None,
        seats: int | None,
        add_ons: dict[str, int],
        pack: int | None,
        timing: str | None,
        proration: str | None,
        fault: dict[str, Any] | None,
    ) -> None:
        wanted = {
            "customerId": who,
            "planId": plan,
            "interval": interval,
            "quantities": None if seats is None else [{"featureId": "seats", "quantity": seats}],
            "addOns": [{"id": id, "quantity": n} for id, n in add_ons.items()],
            "bundles": None if pack is None else [{"id": "pack", "quantity": pack}],
            "timing": timing,
            "proration": proration,
            "reason": "for a test",
        }
        self.runner.run(self._change(who, wanted, fault))

    @rule(who=customers, fault=faults, id=strategies.sampled_from(list(ADD_ONS)))
    def one_click(self, who: str, fault: dict[str, Any] | None, id: str) -> None:
        key = self._key()
        asked = {"customerId": who, "addOnId": id, "idempotencyKey": key}
        self.runner.run(self._once(who, fault, lambda w: w.api.purchase(**asked)))

    @rule(who=customers, fault=faults, timing=maybe() | strategies.just("NOW"))
    def cancel(self, who: str, fault: dict[str, Any] | None, timing: str | None) -> None:
        key = self._key()
        asked = {"customerId": who, "productId": "app", "timing": timing, "reason": "for a test"}
        self.runner.run(self._once(who, fault, lambda w: w.api.cancel(key, **asked)))

    @rule(who=customers, fault=faults, n=strategies.integers(0, 3))
    def take_back(self, who: str, fault: dict[str, Any] | None, n: int) -> None:
        async def taken_back() -> None:
            found = (await self._look(who))["changes"]["nodes"]
            waiting = [c["id"] for c in found if c["status"] == "SCHEDULED"]
            if waiting:
                change_id = waiting[n % len(waiting)]
                again = ("SETTLED",)  # it was taken back the first time
                await self._once(who, fault, lambda w: w.api.take_back(change_id), again)

        self.runner.run(taken_back())

    @rule(who=customers, card=strategies.sampled_from(CARDS))
    def save_card(self, who: str, card: str) -> None:
        async def saved() -> None:
            page = await self.api.set_up_payment_method(who)
            assert page["__typename"] == "CheckoutRequired", page
            await self.world.press(page["url"], card=card)
            if card == "pm_card_authenticationRequired":
                await self.world.press(page["url"], action="authenticate")
            await self.world.run_down()

        self.runner.run(saved())

    @rule(who=customers, fault=faults)
    def pay(self, who: str, fault: dict[str, Any] | None) -> None:
        async def paid() -> None:
            found = (await self._look(who))["invoices"]["nodes"]
            key = self._key()
            open_ones = [i["id"] for i in found if i["status"] == "open"]
            if open_ones:
                await self._once(who, fault, lambda w: w.api.pay_invoice(open_ones[0], key))

        self.runner.run(paid())

    @rule(who=customers, action=strategies.sampled_from(["authenticate", "refuse", "give up"]))
    def answer_the_bank(self, who: str, action: str) -> None:
        """A payment waits for the customer, on the provider's page."""

        async def answered() -> None:
            if who not in self.asked:
                return
            change_id, url = self.asked.pop(who)
            if action == "give up":
                await self.api.take_back(change_id)
            else:
                with contextlib.suppress(AssertionError):  # the page may have gone
                    await self.world.press(url, action=action)
            await self.world.run_down()
            self.books[who].free = True
            changes = (await self._look(who))["changes"]["nodes"]
            [status] = [c["status"] for c in changes if c["id"] == change_id]
            SEEN[f"{action}: {status}"] += 1
            assert status in ("APPLIED", "FAILED", "CANCELED"), status

        self.runner.run(answered())

    @rule(
        seconds=strategies.sampled_from([1, 3600, 5 * 86_400, 20 * 86_400]),
        to_the_end_of=maybe() | customers,
        early=strategies.sampled_from([0, 0, 1]),
        away=strategies.booleans(),
    )
    def pass_time(self, seconds: int, to_the_end_of: str | None, early: int, away: bool) -> None:
        """So long, or to the end of a customer's period, or a second before; perhaps nobody is
        there when it happens, and the provider tells of it only afterwards."""

        async def passed() -> None:
            to = self._now() + timedelta(seconds=seconds)
            held = (await self._look(to_the_end_of))["subscriptions"] if to_the_end_of else []
            for subscription in held:
                to = instant(subscription["currentPeriod"]["end"]) - timedelta(seconds=early)
            await self._pass(max(to, self._now()), away)

        self.runner.run(passed())

    @rule(dearer=strategies.sampled_from([1_00, 5_55]))
    def raise_a_price(self, dearer: int) -> None:
        """Of a plan, for whoever buys it from now on."""

        async def raised() -> None:
            version = (await self.api.ask('{ plan(id: "medium") { version } }'))["plan"]["version"]
            total = self.dearer.get(f"medium@{version}", 0) + dearer
            await publish(self.world.services, document(total))
            self.dearer[f"medium@{version + 1}"] = total

        self.runner.run(raised())

    @rule(newest_first=strategies.booleans())
    def hear_webhooks(self, newest_first: bool) -> None:
        """All of them, again."""

        async def heard() -> None:
            events = await events_of(self.world.provider)
            for event in events[:: -1 if newest_first else 1][-40:]:
                assert await post(self.api, event) == 200
            await self.world.drain_inbox()

        self.runner.run(heard())

    # ── how it happens ───────────────────────────────────────────────────────

    def _key(self) -> str:
        self.keys += 1
        return f"key-{self.keys}"

    def _now(self) -> datetime:
        return self.world.services.clock.now()

    async def _look(self, who: str) -> Any:
        return (await self.api.ask(CUSTOMER, id=who))["customer"]

    async def _change(self, who: str, wanted: Any, fault: dict[str, Any] | None) -> None:
        before = await self._look(who)
        quote = await self.api.preview(**wanted)
        if quote["__typename"] != "Quote":
            refused(quote)
            assert await self._look(who) == before
            return
        key = self._key()
        commit = self._once(who, fault, lambda w: w.api.commit(quote["token"], key))
        done = await commit
        if done is None or done["__typename"] != "ChangeCommitted":
            return
        after = await self._look(who)
        if done["change"]["status"] == "SCHEDULED":
            assert holdings(after) == holdings(before)
            return
        assert done["change"]["status"] == "APPLIED", done
        [held] = after["subscriptions"]
        assert held["recurring"] == quote["recurringAfter"]
        unprorated = wanted["proration"] == "NONE" and bool(before["subscriptions"])
        books = self.books[who]
        begins = (
            not before["subscriptions"]
            or before["subscriptions"][0]["currentPeriod"] != (held["currentPeriod"])
        )
        if not (unprorated or books.free):
            [change] = [c for c in after["changes"]["nodes"] if c["id"] == done["change"]["id"]]
            lines = sorted(m for x in change["lines"] if (m := minor(x["amount"])))
            expected = self._lines(before["subscriptions"], held, begins)
            assert lines == expected, (lines, expected)
        books.free = not begins and (books.free or unprorated)

    def _lines(self, before: Any, after: Any, begins: bool) -> list[int]:
        """Credits for all that was paid differently, charges for all that is, to the second."""
        old = [(s, _slots(s, self.dearer)) for s in before]
        new = _slots(after, self.dearer)
        left = {id(s): _left(s["currentPeriod"], self._now()) for s, _ in old}
        found = []
        for subscription, slots in old:
            for slot, price in slots.items():
                if begins or slot not in new:
                    found.append(-half_away(price * left[id(subscription)]))
        there = {slot for _, slots in old for slot in slots}
        share = Fraction(1) if begins else _left(after["currentPeriod"], self._now())
        found += [half_away(p * share) for s, p in new.items() if begins or s not in there]
        return sorted(line for line in found if line)

    async def _once(
        self,
        who: str,
        fault: dict[str, Any] | None,
        ask: Callable[[World], Awaitable[Any]],
        again: tuple[str, ...] = (),
    ) -> Any:
        """The answer in the end, a fault or not, and the same when asked again."""
        before = await self._look(who)
        if fault is not None:
            await self.world.fault(**fault)
        answer = await until_answered(self.world, ask)
        if fault is not None:
            await self.world.run_down()
            repeated = await until_answered(self.world, ask)
            if repeated.get("code") not in again:
                assert repeated["__typename"] == answer["__typename"], (answer, repeated)
        kind = answer["__typename"]
        SEEN[f"{kind} {answer.get('code') or answer.get('change', {}).get('status', '')}"] += 1
        if kind in ("ValidationFailed", "Conflict"):
            refused(answer)
            assert holdings(await self._look(who)) == holdings(before)
            return None
        if kind == "PaymentActionRequired":
            self.asked[who] = (answer["change"]["id"], answer["hostedUrl"])
        assert kind in OUTCOMES, answer
        if kind in ("PaymentDeclined", "PaymentActionRequired"):
            assert holdings(await self._look(who)) == holdings(before)
        return answer

    async def _pass(self, to: datetime, away: bool) -> None:
        while True:
            ends = {}
            for who in CUSTOMERS:
                for held in (await self._look(who))["subscriptions"]:
                    ends[who] = instant(held["currentPeriod"]["end"])
            due = [end for end in ends.values() if end <= to]
            if not due:
                break
            await self._move(min(due), away)
            for who, end in ends.items():
                if end == min(due):
                    await self._renewed(who, end)
        await self._move(to, away)

    async def _move(self, to: datetime, away: bool) -> None:
        at, seen = self._now(), {who: await self._look(who) for who in CUSTOMERS}
        await self._to(to, away)
        if to > at:
            for who, answer in seen.items():
                then = await self.api.ask(AS_OF, id=who, at=at.isoformat())
                for name, told in then["customer"]["asOf"].items():
                    assert told == answer[name], (who, at)

    async def _to(self, to: datetime, away: bool) -> None:
        services = self.world.services
        if away:
            await services.payments.advance_clock(to)
            assert isinstance(services.clock, SettableClock)
            services.clock.set(to)
            await self.world.run_down()
            while await work_once(services):
                pass
        await self.api.advance(to.isoformat())

    async def _renewed(self, who: str, at: datetime) -> None:
        for held in (await self._look(who))["subscriptions"]:
            assert instant(held["currentPeriod"]["start"]) == at
            SEEN[f"renewed {held['status']}"] += 1
            self.books[who].renewals_minor += sum(cost_of(held, self.dearer))
            self.books[who].free = False

    # ── what always holds ────────────────────────────────────────────────────

    @invariant()
    def the_books_balance(self) -> None:
        async def balance() -> None:
            await reconciled_clean(self.world.services)
            for who in CUSTOMERS:
                await self._balance(who)
            await self._mrr_adds_up()

        self.runner.run(balance())

    async def _mrr_adds_up(self) -> None:
        """What moved it, what the ledger says of it, and what is held come to the same."""
        held = [
            subscription["mrr"]
            for who in CUSTOMERS
            for subscription in (await self._look(who))["subscriptions"]
        ]
        found = (await self.api.ask(MOVEMENTS))["mrrMovements"]
        async with self.world.services.database.read() as session:
            told = await session.scalar(select(func.sum(AuditEntryRow.mrr_delta_minor))) or 0
        closing = minor(found["closing"])
        assert (minor(found["opening"]), closing) == (0, sum(minor(mrr) for mrr in held))
        assert closing == told

    async def _balance(self, who: str) -> None:
        customer, books = await self._look(who), self.books[who]
        for held in customer["subscriptions"]:
            assert minor(held["recurring"]) == sum(cost_of(held, self.dearer))
            grace = held["graceEndsAt"]
            access = held["status"] == "ACTIVE" or (
                held["status"] == "PAST_DUE" and grace and self._now() < instant(grace)
            )
            expected = grants_of(held) if access else {}
            assert plain(granted(customer)) == expected, (held, plain(granted(customer)))
        if not customer["subscriptions"]:
            assert granted(customer) == {}
        theirs = [
            c
            for c in await self.world.at_provider("/v1/customers")
            if c["metadata"]["customer"] == who
        ]
        totals = {
            c["id"]: minor(c["total"])
            for c in customer["changes"]["nodes"]
            if c["status"] == "APPLIED"
        }
        explained = books.renewals_minor + sum(totals.values())
        if not theirs:
            assert explained == 0
            return
        [at_provider] = theirs
        of_customer = {"customer": at_provider["id"]}
        invoices = await self.world.at_provider("/v1/invoices", **of_customer)
        items = await self.world.at_provider("/v1/invoiceitems", **of_customer, pending="true")
        standing = [i for i in invoices if i["status"] != "void"]
        # What a change would have cost that nobody paid is owed by nobody; a renewal is.
        owed = [
            i
            for i in invoices
            if i["status"] not in ("void", "open") or i["billing_reason"] == "subscription_cycle"
        ]
        billed = sum(x["total"] for x in owed) + sum(x["amount"] for x in items)
        assert billed == explained, (who, billed, explained, totals, books.renewals_minor)
        credit, paid = -at_provider["balance"], sum(i["amount_paid"] for i in standing)
        assert minor(customer["creditBalance"]) == credit
        assert credit <= paid
        assert sum(i["total"] for i in standing) == sum(i["amount_due"] for i in standing) - credit


def refused(answer: Any) -> None:
    """A refusal has a code, and a message."""
    codes = [issue["code"] for issue in answer.get("issues", ())] or [answer["code"]]
    SEEN[codes[0]] += 1
    assert all(re.fullmatch("[A-Z_]+", code) for code in codes), answer
    assert answer["message"]


def holdings(customer: Any) -> Any:
    """What is held and granted, without what waits."""
    held = [
        {k: v for k, v in s.items() if k not in ("scheduledChanges", "cancelAt")}
        for s in customer["subscriptions"]
    ]
    return held, granted(customer)


def _slots(held: Any, dearer: dict[str, int]) -> dict[tuple[str, int, int], Fraction]:
    """What is paid for: package version, which charge of it, how many; with the price."""
    seats = sum(int(q["quantity"]) for q in held["quantities"])
    found = {}
    for item in held["items"]:
        version, n = item["package"]["versionId"], item["quantity"]
        prices = prices_of(version, n, seats, held["interval"], dearer)
        for position, price in enumerate(prices):
            is_seats = position == 1 and version.partition("@")[0] in PLANS
            found[version, position, seats if is_seats else n] = price
    return found


def _left(period: Any, now: datetime) -> Fraction:
    start, end = instant(period["start"]), instant(period["end"])
    return Fraction(int((end - now).total_seconds()), int((end - start).total_seconds()))


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_whatever_happens_the_books_balance(
    database_url: str, tmp_path: Path, soak: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "prepared.sandbox"

    async def prepare() -> None:
        async with (
            Provider.serving() as provider,
            provider.over(file) as sandbox_url,
            opened(database_url, sandbox_url) as world,
        ):
            await publish(world.services, document())
            for who in CUSTOMERS:
                await world.api.create_customer(who)

    asyncio.run(prepare())
    monkeypatch.setattr(Lives, "prepared", Prepared(database_url, file, {}), raising=False)
    on_sqlite = database_url.startswith("sqlite")
    few = 3 if on_sqlite else 1
    run_state_machine_as_test(
        Lives,
        settings=hypothesis.settings(
            max_examples=100 if soak else few,
            stateful_step_count=30 if soak else 10,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, *([Phase.shrink] if soak else [])],
        ),
    )
    print(dict(SEEN.most_common()))
