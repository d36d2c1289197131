"""Everything that calls the provider: what is there before, and the request to disturb."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from entitlements.catalog import examples
from entitlements.catalog.document import read
from entitlements.kernel.errors import PaymentProviderUnavailable
from entitlements.kernel.period import add_months
from tests.conftest import publish
from tests.events import events_of
from tests.faults.world import CUSTOMER, Prepared, Provider, World, opened
from tests.reconciliation import findings

Step = Callable[[World], Awaitable[Any]]


@dataclass(frozen=True)
class Operation:
    """`prepare` leaves what the request needs in `world.memo`; `ask` may be asked again.

    `answers` are the types that an answer may have in the end: the first is the undisturbed one.
    `again` are actions that the ledger may have more often than undisturbed: each try is told.
    `at_the_end` are those by which it is told that a try is over: who died has told nothing.
    """

    prepare: Step
    ask: Step
    answers: tuple[str, ...] = ("ChangeCommitted",)
    again: tuple[str, ...] = ()
    at_the_end: tuple[str, ...] = ()


async def prepared(
    operation: Operation, database_url: str, directory: Path, provider: Provider
) -> Prepared:
    """Do what comes before, on an empty database, and let go of it."""
    file = directory / "prepared.sandbox"
    async with provider.over(file) as sandbox_url, opened(database_url, sandbox_url) as world:
        await publish(world.services, read(examples.text("workspace")).document)
        await operation.prepare(world)
        return Prepared(database_url, file, world.memo)


_WORKSPACE = {"customerId": CUSTOMER, "productId": "workspace"}


# ── what is there before ─────────────────────────────────────────────────────


def _customer_with(card: str | None) -> Step:
    async def prepare(world: World) -> None:
        await world.api.create_customer(CUSTOMER, card)

    return prepare


async def _on(world: World, plan: str = "starter", card: str = "pm_card_visa") -> None:
    await world.api.create_customer(CUSTOMER, card)
    started = await world.api.change("start", customerId=CUSTOMER, planId=plan)
    assert started["__typename"] == "ChangeCommitted", started


def _quoted(before: Step, **change: Any) -> Step:
    """A quote is at hand, so that its commit alone is disturbed."""

    async def prepare(world: World) -> None:
        await before(world)
        quote = await world.api.preview(customerId=CUSTOMER, **change)
        assert quote["__typename"] == "Quote", quote
        world.memo["token"] = quote["token"]

    return prepare


async def _with_add_on(world: World) -> None:
    await _on(world)
    bought = await world.api.purchase(
        customerId=CUSTOMER, addOnId="extra-calls", idempotencyKey="before"
    )
    assert bought["__typename"] == "ChangeCommitted", bought


def _new_card(before: Step, card: str) -> Step:
    """Another card is saved, on the provider's page."""

    async def prepare(world: World) -> None:
        await before(world)
        page = await world.api.set_up_payment_method(CUSTOMER)
        await world.press(page["url"], card=card)
        if card == "pm_card_authenticationRequired":
            await world.press(page["url"], action="authenticate")
        await world.run_down()

    return prepare


async def _asked_for_a_card(world: World) -> None:
    await world.api.create_customer(CUSTOMER, None)
    asked = await world.api.change("start", customerId=CUSTOMER, planId="starter")
    await world.press(asked["url"], card="pm_card_visa")
    await _remember_events(world)


async def _asked_to_authenticate(world: World) -> None:
    await world.api.create_customer(CUSTOMER, "pm_card_authenticationRequired")
    asked = await world.api.change("start", customerId=CUSTOMER, planId="starter")
    world.memo |= {"change": asked["change"]["id"], "page": asked["hostedUrl"]}


async def _asked_to_authenticate_an_add_on(world: World) -> None:
    await _new_card(_on, "pm_card_authenticationRequired")(world)
    asked = await world.api.purchase(
        customerId=CUSTOMER, addOnId="extra-calls", idempotencyKey="before"
    )
    assert asked["__typename"] == "PaymentActionRequired", asked
    world.memo |= {"change": asked["change"]["id"], "page": asked["hostedUrl"]}


def _authenticated(before: Step, action: str = "authenticate") -> Step:
    async def prepare(world: World) -> None:
        await before(world)
        await world.press(world.memo["page"], action=action)
        await _remember_events(world)

    return prepare


async def _to_be_canceled(world: World) -> None:
    await _on(world)
    canceled = await world.api.cancel("before", **_WORKSPACE)
    assert canceled["change"]["status"] == "SCHEDULED", canceled
    world.memo["change"] = canceled["change"]["id"]


async def _to_be_downgraded(world: World) -> None:
    await _on(world, "professional")
    planned = await world.api.change("before", customerId=CUSTOMER, planId="starter")
    assert planned["change"]["status"] == "SCHEDULED", planned
    world.memo["change"] = planned["change"]["id"]


def _trying(before: Step, package: str) -> Step:
    async def prepare(world: World) -> None:
        await before(world)
        started = await _start_trial(package, "before")(world)
        world.memo["trial"] = started["trial"]["id"]

    return prepare


async def _past_due(world: World) -> None:
    await _on(world, card="pm_card_visa_declinesAtRenewal")
    await world.api.advance("2026-04-02T12:00:00Z")


async def _past_due_with_another_card(world: World) -> None:
    await _new_card(_past_due, "pm_card_mastercard")(world)
    query = '{ customer(id: "acme") { invoices(first: 1) { nodes { id } } } }'
    [invoice] = (await world.api.ask(query))["customer"]["invoices"]["nodes"]
    world.memo["invoice"] = invoice["id"]


def _month_later(before: Step) -> Step:
    """A month passes at the provider, unseen; its webhooks are on their way."""

    async def prepare(world: World) -> None:
        await before(world)
        await world.services.payments.advance_clock(add_months(world.services.clock.now(), 1))
        await _remember_events(world)

    return prepare


async def _fails_at_renewal(world: World) -> None:
    await _on(world, card="pm_card_visa_declinesAtRenewal")


async def _remember_events(world: World) -> None:
    world.memo["events"] = await events_of(world.provider)


# ── the request ──────────────────────────────────────────────────────────────


def _preview(**change: Any) -> Step:
    async def ask(world: World) -> Any:
        return await world.api.preview(customerId=CUSTOMER, **change)

    return ask


async def _commit(world: World) -> Any:
    return await world.api.commit(world.memo["token"], "disturbed")


async def _purchase(world: World) -> Any:
    return await world.api.purchase(
        customerId=CUSTOMER, addOnId="extra-calls", idempotencyKey="disturbed"
    )


def _start_trial(package: str, key: str = "disturbed") -> Step:
    async def ask(world: World) -> Any:
        return await world.api.start_trial(key, customerId=CUSTOMER, packageId=package)

    return ask


async def _convert_trial(world: World) -> Any:
    return await world.api.convert_trial(world.memo["trial"], "disturbed")


async def _cancel_trial(world: World) -> Any:
    return await world.api.cancel_trial(world.memo["trial"])


async def _cancel_at_end(world: World) -> Any:
    return await world.api.cancel("disturbed", **_WORKSPACE)


async def _cancel_now(world: World) -> Any:
    return await world.api.cancel("disturbed", **_WORKSPACE, timing="NOW", reason="asked")


async def _cancel_what_waits(world: World) -> Any:
    return await world.api.take_back(world.memo["change"])


async def _pay(world: World) -> Any:
    return await world.api.pay_invoice(world.memo["invoice"], "disturbed")


async def _set_up(world: World) -> Any:
    return await world.api.set_up_payment_method(CUSTOMER)


async def _hear(world: World) -> Any:
    """The provider's webhooks arrive, and are applied."""
    await world.post_events(world.memo["events"])
    while await world.services.webhooks.work():
        pass
    done = await world.inbox_is_done()
    return {"__typename": "Done" if done else "PaymentProviderUnavailable"}


async def _use_to_tell(world: World) -> None:
    """So much that it is paid for, some of it told already."""
    await world.api.create_customer(CUSTOMER, "pm_card_visa")
    started = await world.api.change("start", customerId=CUSTOMER, planId="help-desk-team")
    assert started["__typename"] == "ChangeCommitted", started
    for id in ("told", "untold"):
        if id == "untold":
            await world.services.metering.report_all()
        event = {"id": id, "customerId": CUSTOMER, "featureId": "conversations", "quantity": 1350}
        assert (await world.api.record(event))["accepted"] == 1


async def _tell_use(world: World) -> Any:
    try:
        await world.services.metering.report_all()
    except PaymentProviderUnavailable as error:
        return {"__typename": type(error).__name__}
    return {"__typename": "Done"}


async def _use_too_late(world: World) -> None:
    """Of a month whose invoice is final."""
    await _use_to_tell(world)
    await world.api.advance("2026-04-10T00:00:00Z")
    late = {"id": "late", "customerId": CUSTOMER, "featureId": "conversations", "quantity": 200}
    assert (await world.api.record(late | {"at": "2026-03-31T00:00:00Z"}))["accepted"] == 1


async def _repair(world: World) -> Any:
    try:
        left = [found for found in await findings(world.services, repair=True) if not found.mended]
    except PaymentProviderUnavailable as error:
        return {"__typename": type(error).__name__}
    return {"__typename": "PaymentProviderUnavailable" if left else "Done"}


async def _canceled(world: World) -> None:
    await _on(world)
    await _cancel_now(world)


async def _erase(world: World) -> Any:
    return await world.api.erase(CUSTOMER)


async def _push(world: World) -> Any:
    push = world.services.payments.catalog_push
    try:
        refused = await push.carry_out(await push.plan(["professional"]))
    except PaymentProviderUnavailable as error:
        return {"__typename": type(error).__name__}
    return {"__typename": "Refused" if refused else "Done"}


async def _pushed_before(world: World) -> None:
    """What it is called and what it costs has changed since."""
    await _on(world)
    assert await _push(world) == {"__typename": "Done"}
    document = read(examples.text("workspace")).document
    plans = document["products"][0]["plans"]
    professional = next(plan for plan in plans if plan["id"] == "professional")
    professional["name"] = "Professional Plus"
    professional["charges"][0]["prices"]["usd"]["month"] = "120.00"
    await publish(world.services, document)


async def _use_told(world: World) -> None:
    await _use_to_tell(world)
    await world.services.metering.report_all()


async def _compare(world: World) -> Any:
    """Reads everything of the customer, and writes nothing."""
    try:
        found = await findings(world.services)
    except PaymentProviderUnavailable as error:
        return {"__typename": type(error).__name__}
    return {"__typename": "Differs" if found else "Done"}


async def _pass_time(world: World) -> Any:
    asked = 'mutation { advanceSandboxClock(to: "2026-04-02T00:00:00Z") { now } }'
    told = (await world.api.send(asked)).json()
    return {"__typename": "PaymentProviderUnavailable" if "errors" in told else "Done"}


_TWICE = ("ChangeCommitted", "Conflict")
"""What has no key answers a second time that there is nothing to do any more."""

OPERATIONS = {
    "the first preview of all": Operation(
        _customer_with("pm_card_visa"), _preview(planId="starter"), ("Quote",)
    ),
    "the first preview of what is metered": Operation(
        _customer_with("pm_card_visa"), _preview(planId="help-desk-team"), ("Quote",)
    ),
    "a first purchase": Operation(
        _quoted(_customer_with("pm_card_visa"), planId="starter"), _commit
    ),
    "a first purchase that is declined": Operation(
        _quoted(_customer_with("pm_card_chargeCustomerFail"), planId="starter"),
        _commit, ("PaymentDeclined",),
    ),
    "a first purchase that asks for 3-D Secure": Operation(
        _quoted(_customer_with("pm_card_authenticationRequired"), planId="starter"),
        _commit, ("PaymentActionRequired",),
    ),
    "a first purchase without a card": Operation(
        _quoted(_customer_with(None), planId="starter"),
        _commit, ("CheckoutRequired",),
    ),
    "an add-on": Operation(_on, _purchase),
    "an add-on that is declined": Operation(
        _new_card(_on, "pm_card_chargeCustomerFail"), _purchase, ("PaymentDeclined",)
    ),
    "an add-on that asks for 3-D Secure": Operation(
        _new_card(_on, "pm_card_authenticationRequired"), _purchase, ("PaymentActionRequired",)
    ),
    "an upgrade": Operation(_quoted(_on, planId="professional"), _commit),
    "an upgrade that drops an add-on": Operation(
        _quoted(_with_add_on, planId="professional", addOns=[{"id": "extra-calls", "quantity": 0}],
                timing="NOW", reason="they asked for it"),
        _commit,
    ),
    "month to year": Operation(_quoted(_on, interval="YEAR"), _commit),
    "a downgrade at the end": Operation(
        _quoted(lambda world: _on(world, "professional"), planId="starter"), _commit
    ),
    "a downgrade taken back": Operation(_to_be_downgraded, _cancel_what_waits, _TWICE),
    "an add-on before a downgrade": Operation(
        _quoted(_to_be_downgraded, addOns=[{"id": "extra-calls"}]), _commit
    ),
    "a cancellation now": Operation(_with_add_on, _cancel_now),
    "a cancellation in arrears": Operation(_past_due, _cancel_now),
    "a cancellation at the end": Operation(_on, _cancel_at_end),
    "a cancellation taken back": Operation(_to_be_canceled, _cancel_what_waits, _TWICE),
    "a first purchase given up": Operation(_asked_to_authenticate, _cancel_what_waits, _TWICE),
    "an add-on given up": Operation(_asked_to_authenticate_an_add_on, _cancel_what_waits, _TWICE),
    "a plan on trial": Operation(
        _customer_with("pm_card_visa"), _start_trial("starter"), ("TrialStarted",)
    ),
    "an add-on on trial": Operation(_on, _start_trial("advanced-analytics"), ("TrialStarted",)),
    "an add-on on trial without the card that it needs": Operation(
        _trying(_customer_with(None), "starter"), _start_trial("workflow-automation"),
        ("CheckoutRequired",),
    ),
    "a plan's trial converted": Operation(
        _trying(_customer_with("pm_card_visa"), "starter"), _convert_trial
    ),
    "a plan's trial whose conversion is declined": Operation(
        _trying(_customer_with("pm_card_chargeCustomerFail"), "starter"), _convert_trial,
        ("PaymentDeclined",),
    ),
    "an add-on's trial converted": Operation(_trying(_on, "advanced-analytics"), _convert_trial),
    "a plan's trial given up": Operation(
        _trying(_customer_with("pm_card_visa"), "starter"), _cancel_trial, ("TrialPayload",)
    ),
    "a saved card": Operation(
        _on, _set_up, ("CheckoutRequired",), ("customer.payment_method_asked",)
    ),
    "an open invoice paid": Operation(
        _past_due_with_another_card, _pay, ("InvoicePaid",), ("invoice.payment_asked",)
    ),
    "use that is told": Operation(_use_to_tell, _tell_use, ("Done",)),
    "use that came too late": Operation(
        _use_too_late, _repair, ("Done",),
        ("reconciliation.begun",), ("reconciliation.repaired",),
    ),
    "a customer erased": Operation(_canceled, _erase, ("CustomerPayload",)),
    "a package pushed": Operation(_on, _push, ("Done",)),
    "a package pushed anew": Operation(_pushed_before, _push, ("Done",)),
    "the books compared": Operation(_use_told, _compare, ("Done",)),
    "a month that passes": Operation(_on, _pass_time, ("Done",)),
    "webhooks of a Checkout": Operation(_asked_for_a_card, _hear, ("Done",)),
    "webhooks of 3-D Secure passed": Operation(
        _authenticated(_asked_to_authenticate_an_add_on), _hear, ("Done",)
    ),
    "webhooks of 3-D Secure failed": Operation(
        _authenticated(_asked_to_authenticate_an_add_on, "refuse"), _hear, ("Done",)
    ),
    "webhooks of a downgrade": Operation(_month_later(_to_be_downgraded), _hear, ("Done",)),
    "webhooks of a renewal": Operation(_month_later(_on), _hear, ("Done",)),
    "webhooks of a failed renewal": Operation(_month_later(_fails_at_renewal), _hear, ("Done",)),
}  # fmt: skip
