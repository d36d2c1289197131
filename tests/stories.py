"""Stories told as tables of steps, each change with its dry-run twin.

A step that changes something is previewed first, which must leave no trace; what the preview said
is then held against what happens: the change's lines, the invoice as the provider has it, credit,
what is paid per interval, entitlements, and the next invoice, on the day it is written. Amounts
are worked out here, by seconds and by hand; nothing of the service's own arithmetic is used.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from typing import Any

import httpx

from entitlements.catalog import examples
from entitlements.catalog.document import read
from entitlements.kernel.clock import SettableClock
from entitlements.services import Services
from entitlements.worker import work_once
from tests.api import COMMIT, Api
from tests.conftest import publish
from tests.reconciliation import reconciled_clean

Period = tuple[str, str]
"""Start and end of a billing period, as a story states it."""

Amount = tuple[str, str, int]
"""An invoice line: its kind, its package, minor units."""

Step = Callable[["Story"], Awaitable[None]]

APPLIED = ("change.requested", "change.applied")
SCHEDULED = ("change.requested", "change.scheduled")
RENEWED = ("subscription.followed",)
NOTHING: tuple[str, ...] = ()

_LINES = "lines { kind package { id } period { start end } amount { amountMinor } }"
_VALUE = "{ enabled number choice limit unlimited overage }"
PREVIEW = f"""mutation ($input: ChangeInput!) {{ previewChange(input: $input) {{ __typename
  ... on Quote {{ token direction effectiveAt dueNow {{ amountMinor }} {_LINES}
    creditBalanceAfter {{ amountMinor }} recurringBefore {{ amountMinor }}
    recurringAfter {{ amountMinor }} nextInvoice {{ at total {{ amountMinor }} {_LINES} }}
    entitlementChanges {{ feature {{ id }} before {_VALUE} after {_VALUE} }}
    removedAddOns {{ id }} warnings }}
  ... on UserError {{ code message }} ... on ValidationFailed {{ issues {{ path code }} }} }} }}"""
CUSTOMER = f"""query ($id: ID!) {{ customer(id: $id) {{ revision creditBalance {{ amountMinor }}
  entitlements {{ feature {{ id }} value {_VALUE} sources {{ kind package {{ id }} }} }}
  subscriptions {{ status interval recurring {{ amountMinor }}
    currentPeriod {{ start end }}
    items {{ package {{ id versionId }} quantity recurring {{ amountMinor }} }}
    scheduledChanges {{ id effectiveAt }} }}
  changes {{ nodes {{ id status }} }} }} }}"""
_OUTCOME = f"query ($id: ID!) {{ change(id: $id) {{ status total {{ amountMinor }} {_LINES} }} }}"


def half_away(exact: Fraction) -> int:
    """To whole minor units, half away from zero."""
    whole = int(abs(exact) + Fraction(1, 2))
    return whole if exact >= 0 else -whole


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def share(of: Period, left_at: str) -> Fraction:
    """Seconds that are left of a period, over all its seconds."""
    start, end, at = instant(of[0]), instant(of[1]), instant(left_at)
    return Fraction(int((end - at).total_seconds()), int((end - start).total_seconds()))


@dataclass(frozen=True)
class Line:
    """A line as a story states it: the price of one whole period, and which period that is."""

    kind: str
    package: str
    price_minor: int
    of: Period

    def amount(self, at: str) -> Amount:
        exact = self.price_minor * share(self.of, at)
        return self.kind, self.package, half_away(-exact if self.kind == "CREDIT" else exact)


def credit(package: str, price_minor: int, of: Period) -> Line:
    return Line("CREDIT", package, price_minor, of)


def charge(package: str, price_minor: int, of: Period) -> Line:
    return Line("CHARGE", package, price_minor, of)


@dataclass
class Story:
    """What has happened so far, and what is to be expected of the rest."""

    api: Api
    services: Services
    provider: httpx.AsyncClient
    now: str = ""
    waiting: list[Amount] = field(default_factory=list)  # for the next invoice
    invoices: list[list[Amount]] = field(default_factory=list)  # oldest first
    upcoming: Any = None  # what the newest preview said of the next invoice
    later: list[tuple[str, list[Any], str]] = field(default_factory=list)
    entries: int = 0
    keys: int = 0

    async def tell(self, *steps: Step) -> None:
        await self.api.create_customer("acme")
        self.entries = len(await self.ledger())
        for step in steps:
            await step(self)
        await reconciled_clean(self.services)

    # ── looking ──────────────────────────────────────────────────────────────

    async def customer(self) -> Any:
        return (await self.api.ask(CUSTOMER, id="acme"))["customer"]

    async def ledger(self) -> list[str]:
        return [e["action"] for e in await self.api.audit(stream="customer:acme")][::-1]

    async def at_provider(self) -> tuple[int, list[Any]]:
        """The customer's balance and their invoices, oldest first, as the provider has them."""
        found = (await self.provider.get("/v1/customers")).json()["data"]
        if not found:
            return 0, []
        [customer] = found
        params = {"customer": customer["id"], "limit": "100"}
        page = (await self.provider.get("/v1/invoices", params=params)).json()
        return customer["balance"], page["data"][::-1]

    async def seen(self) -> Any:
        return await self.customer(), await self.ledger(), await self.at_provider()

    # ── checking ─────────────────────────────────────────────────────────────

    async def told(self, *actions: str) -> None:
        """The ledger has exactly these entries since it was looked at last."""
        entries = await self.ledger()
        assert tuple(entries[self.entries :]) == actions, (self.now, entries[self.entries :])
        self.entries = len(entries)

    async def invoiced(self) -> list[Any]:
        """Every invoice that was expected is at the provider, and no other; they are paid.

        A line of what was not used is there, too, and says nothing.
        """
        _, found = await self.at_provider()
        amounts = [
            sorted(x["amount"] for x in i["lines"]["data"] if x["amount"] or x["quantity"])
            for i in found
        ]
        expected = [sorted(x[2] for x in lines) for lines in self.invoices]
        assert amounts == expected, (self.now, amounts, expected)
        assert [i["total"] for i in found] == [sum(x) for x in expected]
        assert {i["status"] for i in found} <= {"paid"}
        return found

    async def quote(self, wanted: dict[str, Any]) -> Any:
        """A preview. It leaves no trace, here or at the provider."""
        before = await self.seen()
        asked = {"customerId": "acme", **wanted}
        found = (await self.api.ask(PREVIEW, input=asked))["previewChange"]
        assert await self.seen() == before
        return found

    async def arrive(self, at: str) -> None:
        """Move the clock, and look at each renewal on the way: it is what was foretold of it."""
        while moments := [m for m in (self.next_at, *(e[2] for e in self.later)) if m and m <= at]:
            await self._let_pass(min(moments))
        self.now = at
        await self.api.advance(at)
        await self.invoiced()

    @property
    def next_at(self) -> str | None:
        return self.upcoming and str(self.upcoming["at"])

    async def _let_pass(self, at: str) -> None:
        """A boundary: the next invoice is written, and what waited for it takes effect."""
        expected = granted(await self.customer())
        for _, changes, effective_at in self.later:
            expected = changed(expected, changes) if effective_at <= at else expected
        self.later = [entry for entry in self.later if entry[2] > at]
        self.now = at
        await self.pass_to(at)
        customer = await self.customer()
        assert granted(customer) == expected
        if at != self.next_at:  # it was the end
            await self.invoiced()
            return
        lines, self.waiting = self.upcoming["lines"], []
        self.invoices.append(amounts(lines))
        newest = (await self.invoiced())[-1]
        assert newest["total"] == minor(self.upcoming["total"])
        assert newest["billing_reason"] == "subscription_cycle"
        assert newest["created"] == instant(at).timestamp()
        [held] = customer["subscriptions"]
        period = held["currentPeriod"]
        assert period["start"] == at
        renewed = [line for line in lines if line["period"]["start"] == at]
        assert sum(minor(line["amount"]) for line in renewed) == minor(held["recurring"])
        next_period = {"start": period["end"], "end": ""}
        again = [line | {"period": next_period} for line in renewed]
        self.upcoming = {"at": period["end"], "total": held["recurring"], "lines": again}

    async def pass_to(self, at: str) -> None:
        """How the clock comes to a boundary; a story may see to it that we are away meanwhile."""
        await self.api.advance(at)


# ── reading answers ──────────────────────────────────────────────────────────


def minor(money: dict[str, Any]) -> int:
    return int(money["amountMinor"])


def amounts(lines: list[Any]) -> list[Amount]:
    return sorted((x["kind"], x["package"]["id"], minor(x["amount"])) for x in lines)


def granted(customer: Any) -> dict[str, Any]:
    """Values by feature; a value of nothing is none."""
    found = {e["feature"]["id"]: e["value"] for e in customer["entitlements"]}
    return {feature: value for feature, value in found.items() if value is not None}


def changed(values: dict[str, Any], changes: list[Any]) -> dict[str, Any]:
    """Values after what a quote says of them; each must begin where they are."""
    after = dict(values)
    for change in changes:
        feature = change["feature"]["id"]
        assert after.get(feature) == change["before"], (feature, after.get(feature), change)
        after[feature] = change["after"]
    return {feature: value for feature, value in after.items() if value is not None}


# ── steps ────────────────────────────────────────────────────────────────────


def at(when: str, *told: str) -> Step:
    """Time passes, and the ledger tells exactly this of it."""

    async def step(story: Story) -> None:
        await story.arrive(when)
        await story.told(*told)

    return step


def change(
    *lines: Line,
    due: int,
    recurring: int,
    told: tuple[str, ...] = APPLIED,
    by: str | None = None,
    credit_after: int = 0,
    effective: str | None = None,
    **wanted: Any,
) -> Step:
    """A change with its twin. `lines` are its own, worked by hand; `due` is what is paid now.

    `effective` says that it waits, until when. `by` is who commits: staff, or the customer.
    """

    async def step(story: Story) -> None:
        await _change(story, lines, due, recurring, told, by, credit_after, effective, wanted)

    return step


async def _change(
    story: Story,
    lines: tuple[Line, ...],
    due: int,
    recurring: int,
    told: tuple[str, ...],
    by: str | None,
    credit_after: int,
    effective: str | None,
    wanted: dict[str, Any],
) -> None:
    own = sorted(line.amount(story.now) for line in lines)
    on_next_invoice = wanted.get("proration") == "NEXT_INVOICE"
    invoiced = bool(own) and not on_next_invoice
    before = await story.customer()

    quote = await story.quote(wanted)
    assert quote["__typename"] == "Quote", quote
    assert amounts(quote["lines"]) == sorted([*own, *(story.waiting if invoiced else [])])
    assert minor(quote["dueNow"]) == due
    assert minor(quote["recurringAfter"]) == recurring
    assert minor(quote["creditBalanceAfter"]) == credit_after
    assert quote["effectiveAt"] == (effective or story.now)

    story.keys += 1
    api = story.api if by is None else await story.api.token("acme", "READ", "BUY")
    done = (await api.ask(COMMIT, token=quote["token"], key=f"step-{story.keys}"))["commitChange"]
    assert done["__typename"] == "ChangeCommitted", done
    outcome = (await story.api.ask(_OUTCOME, id=done["change"]["id"]))["change"]
    assert outcome["status"] == ("SCHEDULED" if effective else "APPLIED")
    assert amounts(outcome["lines"]) == own
    assert minor(outcome["total"]) == sum(amount for _, _, amount in own)

    if invoiced:
        story.invoices.append(amounts(quote["lines"]))
        story.waiting = []
    elif on_next_invoice:
        story.waiting += own
    found = await story.invoiced()
    if invoiced:
        assert found[-1]["amount_paid"] == due
    assert -(await story.at_provider())[0] == credit_after
    after = await story.customer()
    assert minor(after["creditBalance"]) == credit_after
    waits = [(c["id"], c["effectiveAt"]) for s in after["subscriptions"]
             for c in s["scheduledChanges"]]  # fmt: skip
    story.later = [entry for entry in story.later if (entry[0], entry[2]) in waits]
    if effective:
        assert granted(after) == granted(before)
        assert [s["recurring"] for s in after["subscriptions"]] == [quote["recurringBefore"]]
        story.later.append((done["change"]["id"], quote["entitlementChanges"], effective))
    else:
        assert granted(after) == changed(granted(before), quote["entitlementChanges"])
        now = [minor(s["recurring"]) for s in after["subscriptions"]]
        assert now == ([recurring] if quote["nextInvoice"] or recurring else [])
    story.upcoming = quote["nextInvoice"]
    await story.told(*told)


def refused(code: str, path: str | None = None, *, by: str | None = None, **wanted: Any) -> Step:
    """A preview that is refused, with a typed error; nothing has changed by it."""

    async def step(story: Story) -> None:
        before = await story.seen()
        api = story.api if by is None else await story.api.token("acme", "READ", "BUY")
        asked = {"customerId": "acme", **wanted}
        found = (await api.ask(PREVIEW, input=asked))["previewChange"]
        if path is None:
            assert found.get("code") == code, found
        else:
            issues = [(".".join(i["path"]), i["code"]) for i in found["issues"]]
            assert (path, code) in issues, found
        assert await story.seen() == before

    return step


def holds(*packages: str, interval: str = "MONTH", period: Period | None = None) -> Step:
    """What is held: `starter@1`, or `extra-seats@1×3`."""

    async def step(story: Story) -> None:
        [held] = (await story.customer())["subscriptions"]
        found = Counter({i["package"]["versionId"]: i["quantity"] for i in held["items"]})
        names = [name if n == 1 else f"{name}×{n}" for name, n in found.items()]
        assert sorted(names) == sorted(packages)
        assert held["interval"] == interval
        if period is not None:
            assert (held["currentPeriod"]["start"], held["currentPeriod"]["end"]) == period

    return step


def balance(credit_minor: int) -> Step:
    """The customer's credit, here and at the provider; below 0 is carried to the next invoice."""

    async def step(story: Story) -> None:
        assert minor((await story.customer())["creditBalance"]) == credit_minor
        assert -(await story.at_provider())[0] == credit_minor

    return step


def take_back(*told: str) -> Step:
    """What was scheduled last is taken back: it is as if it had never been asked."""

    async def step(story: Story) -> None:
        before = await story.customer()
        change_id, _, _ = story.later.pop()
        done = await story.api.take_back(change_id)
        assert done["change"]["status"] == "CANCELED", done
        after = await story.customer()
        assert granted(after) == granted(before)
        [held] = after["subscriptions"]
        period = {"start": held["currentPeriod"]["end"], "end": ""}
        story.upcoming = {
            "at": period["start"],
            "total": held["recurring"],
            "lines": [
                {
                    "kind": "CHARGE",
                    "package": item["package"],
                    "period": period,
                    "amount": item["recurring"],
                }
                for item in held["items"]
            ],
        }
        await story.told(*told)

    return step


def away_until(when: str, *told: str) -> Step:
    """The service is down while the provider's time goes on, over a renewal; then it comes back."""

    async def step(story: Story) -> None:
        boundary = story.next_at
        assert boundary is not None
        assert boundary < when

        async def nobody_there(_: str) -> None:
            await story.services.payments.advance_clock(instant(when))
            assert isinstance(story.services.clock, SettableClock)
            story.services.clock.set(instant(when))
            while await work_once(story.services):
                pass
            await story.api.advance(when)

        story.pass_to = nobody_there  # type: ignore[method-assign]
        await story.arrive(when)
        del story.pass_to  # type: ignore[attr-defined]
        await story.told(*told)

    return step


def publish_price(plan_id: str, month: str, year: str) -> Step:
    """From now on a plan costs something else, for whoever buys it new."""

    async def step(story: Story) -> None:
        document = read(examples.text("workspace")).document
        [plan] = [p for p in document["products"][0]["plans"] if p["id"] == plan_id]
        plan["charges"][0]["prices"]["usd"] = {"month": month, "year": year}
        before = granted(await story.customer())
        await publish(story.services, document)
        assert granted(await story.customer()) == before
        await story.told(*NOTHING)

    return step


def cancel(told: tuple[str, ...], *, ends: str) -> Step:
    """Cancelled at the end of the period: until then nothing changes, afterwards all is gone."""

    async def step(story: Story) -> None:
        before = await story.customer()
        done = await story.api.cancel("cancel", customerId="acme", productId="workspace")
        assert done["change"]["status"] == "SCHEDULED", done
        after = await story.customer()
        assert granted(after) == granted(before)
        everything = [
            {"feature": {"id": feature}, "before": value, "after": None}
            for feature, value in granted(after).items()
        ]
        story.later = [(done["change"]["id"], everything, ends)]
        story.upcoming = None
        await story.told(*told)

    return step
