"""Subscription schedules: what a subscription changes to at later boundaries, phase by phase.

Made from a subscription, whose present state is the first phase. At a phase's end the next one's
items take the place of the old, before the renewal that is due at the same instant.
"""

from typing import Any

import stripe

from entitlements.sandbox import changes, endings, invoice_items, subscriptions, updates
from entitlements.sandbox.changes import Wanted
from entitlements.sandbox.customers import customer_of
from entitlements.sandbox.errors import Json, invalid, not_covered
from entitlements.sandbox.events import emit, now
from entitlements.sandbox.periods import step
from entitlements.sandbox.routes import Call, endpoint
from entitlements.sandbox.shapes import PAGE, in_range, merge_metadata, page, plain_shape, render
from entitlements.sandbox.store import Transaction, make_id

MAX_PHASES = 10
MAX_INTERVALS = 1095

plain_shape("subscription_schedule", stripe.SubscriptionSchedule)


@endpoint(
    "POST",
    "/v1/subscription_schedules",
    "SubscriptionScheduleCreateParams",
    "from_subscription",
)
def create_schedule(call: Call) -> Json:
    tx = call.tx
    if "from_subscription" not in call.params:
        raise not_covered("a schedule without from_subscription")
    sub = tx.need(call.params["from_subscription"], "subscription", "from_subscription")
    subscriptions.refuse_while_advancing(tx, customer_of(tx, sub["customer"]))
    if sub["status"] in (*subscriptions.ENDED, "incomplete"):
        raise invalid(
            f"You cannot migrate a subscription that is {sub['status']}.", "from_subscription"
        )
    if sub["schedule"]:
        raise invalid(
            f"You cannot migrate a subscription that is already attached to a schedule: "
            f"`{sub['schedule']}`.",
            "from_subscription",
        )
    schedule = _new_schedule(tx, sub)
    tx.save(schedule)
    emit(tx, "subscription_schedule.created", schedule)
    with subscriptions.changing(tx, sub):
        sub["schedule"] = schedule["id"]
    return render(tx, schedule)


def _new_schedule(tx: Transaction, sub: Json) -> Json:
    start = min(item["current_period_start"] for item in sub["_items"])
    end = min(item["current_period_end"] for item in sub["_items"])
    at = now(tx, sub)
    phase = _phase(sub, start, end, [_phase_item(i) for i in sub["_items"]])
    return {
        "id": make_id("sub_sched"),
        "object": "subscription_schedule",
        "billing_mode": sub["billing_mode"],
        "canceled_at": None,
        "completed_at": None,
        "created": at,
        "current_phase": {"start_date": start, "end_date": end},
        "customer": sub["customer"],
        "default_settings": {
            "application_fee_percent": None,
            "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
            "billing_cycle_anchor": "automatic",
            "billing_thresholds": None,
            "collection_method": "charge_automatically",
            "default_payment_method": sub["default_payment_method"],
            "description": None,
            "invoice_settings": {
                "account_tax_ids": None,
                "custom_fields": None,
                "days_until_due": None,
                "description": None,
                "footer": None,
                "issuer": {"account": None, "type": "self"},
            },
            "on_behalf_of": None,
            "transfer_data": None,
        },
        "end_behavior": "release",
        "livemode": False,
        "metadata": {},
        "pause_schedules": [],
        "phases": [phase],
        "released_at": None,
        "released_subscription": None,
        "status": "active",
        "subscription": sub["id"],
        "test_clock": sub["test_clock"],
        "_due": end,
    }


def _phase_item(item: Json) -> Json:
    return {
        "billing_thresholds": None,
        "discounts": [],
        "metadata": item.get("metadata") or {},
        "plan": item["price"],
        "price": item["price"],
        "quantity": item["quantity"],
        "tax_rates": [],
    }


def _phase(sub: Json, start: int, end: int, items: list[Json], **fields: Any) -> Json:
    return {
        "add_invoice_items": [],
        "application_fee_percent": None,
        "automatic_tax": None,
        "billing_cycle_anchor": None,
        "billing_thresholds": None,
        "collection_method": None,
        "currency": sub["currency"],
        "default_payment_method": None,
        "default_tax_rates": [],
        "description": None,
        "discounts": [],
        "end_date": end,
        "invoice_settings": None,
        "items": items,
        "metadata": {},
        "on_behalf_of": None,
        "proration_behavior": "create_prorations",
        "start_date": start,
        "transfer_data": None,
        "trial": None,
        "trial_end": sub["trial_end"] if sub["status"] == "trialing" else None,
    } | fields


_PHASE = "phases[]."


@endpoint(
    "POST",
    "/v1/subscription_schedules/{id}",
    "SubscriptionScheduleUpdateParams",
    f"end_behavior metadata proration_behavior {_PHASE}items[].price {_PHASE}items[].quantity "
    f"{_PHASE}items[].metadata {_PHASE}start_date {_PHASE}end_date {_PHASE}duration "
    f"{_PHASE}proration_behavior {_PHASE}billing_cycle_anchor {_PHASE}metadata {_PHASE}trial_end "
    f"{_PHASE}currency",
)
def update_schedule(call: Call) -> Json:
    tx, p = call.tx, call.params
    schedule = _active(tx, call.path["id"])
    sub = tx.need(schedule["subscription"], "subscription")
    subscriptions.refuse_while_advancing(tx, customer_of(tx, sub["customer"]))
    before = render(tx, schedule)
    if p.get("end_behavior") in ("none", "renew"):
        raise not_covered(f"end_behavior {p['end_behavior']}", "end_behavior")
    if "end_behavior" in p:
        schedule["end_behavior"] = p["end_behavior"]
    schedule["metadata"] = merge_metadata(schedule["metadata"], p.get("metadata"))
    if "phases" in p:
        schedule["phases"] = _phases(tx, schedule, sub, p["phases"])
        schedule["current_phase"]["end_date"] = schedule["phases"][0]["end_date"]
        schedule["_due"] = schedule["phases"][0]["end_date"]
    tx.save(schedule)
    emit(tx, "subscription_schedule.updated", schedule, before)
    return render(tx, schedule)


def _active(tx: Transaction, id: str) -> Json:
    schedule = tx.need(id, "subscription_schedule")
    if schedule["status"] != "active":
        raise invalid(f"You cannot change a subscription schedule that is {schedule['status']}.")
    return schedule


def _phases(tx: Transaction, schedule: Json, sub: Json, given: list[Json]) -> list[Json]:
    if not 1 <= len(given) <= MAX_PHASES:
        raise invalid(f"A schedule has 1 to {MAX_PHASES} phases.", "phases")
    phases: list[Json] = []
    start = schedule["current_phase"]["start_date"]
    if given[0].get("start_date") != start:
        raise invalid(
            f"The first phase must begin when the current one did: {start}.",
            "phases[0][start_date]",
        )
    for i, wanted in enumerate(given):
        name = f"phases[{i}]"
        if wanted.get("start_date", start) != start:
            raise invalid("A phase begins when the one before it ends.", f"{name}[start_date]")
        items = _checked_items(tx, sub, wanted["items"], name)
        if i == 0:
            _same_as_now(sub, items)
        end = _end_of(tx, wanted, items, start, name)
        if i == 0 and end <= now(tx, sub):
            raise invalid("The current phase cannot end in the past.", f"{name}[end_date]")
        phases.append(
            _phase(
                sub,
                start,
                end,
                items,
                billing_cycle_anchor=wanted.get("billing_cycle_anchor"),
                metadata=wanted.get("metadata", {}),
                proration_behavior=wanted.get("proration_behavior", "create_prorations"),
                trial_end=_trial_of(sub, wanted, i, name),
            )
        )
        start = end
    return phases


def _trial_of(sub: Json, wanted: Json, index: int, name: str) -> int | None:
    """A phase keeps the trial that runs; none is begun by a schedule here."""
    running = sub["trial_end"] if sub["status"] == "trialing" and index == 0 else None
    if wanted.get("trial_end", running) != running:
        raise not_covered("a trial begun by a schedule", f"{name}[trial_end]")
    return running


def _checked_items(tx: Transaction, sub: Json, given: list[Json], name: str) -> list[Json]:
    at = now(tx, sub)
    made = [changes.new_item(tx, item, at, f"{name}[items][{i}]") for i, item in enumerate(given)]
    changes.check_items(tx, made, sub["currency"], f"{name}[items]")
    return [_phase_item(item) for item in made]


def _same_as_now(sub: Json, items: list[Json]) -> None:
    """The current phase cannot change anything: that is what updating the subscription is for."""
    present = sorted((i["price"], i["quantity"] or 0) for i in sub["_items"])
    if sorted((i["price"], i["quantity"] or 0) for i in items) != present:
        raise not_covered("changing the current phase's items", "phases[0][items]")


def _end_of(tx: Transaction, wanted: Json, items: list[Json], start: int, name: str) -> int:
    if "end_date" in wanted and "duration" in wanted:
        raise invalid("Pass end_date or duration, not both.", f"{name}[duration]")
    end = wanted.get("end_date")
    if end == "now":
        raise not_covered("a phase that ends now", f"{name}[end_date]")
    if end is None:
        recurring = changes.price_of(tx, items[0])["recurring"]
        duration: Json = wanted.get("duration") or recurring
        count = duration.get("interval_count", 1)
        if not 1 <= count <= MAX_INTERVALS:
            raise invalid(f"Must be between 1 and {MAX_INTERVALS}.", f"{name}[duration]")
        end = step(start, {"interval": duration["interval"], "interval_count": count}, 1)
    if end <= start:
        raise invalid("A phase must end after it begins.", f"{name}[end_date]")
    return int(end)


@endpoint(
    "POST",
    "/v1/subscription_schedules/{id}/release",
    "SubscriptionScheduleReleaseParams",
    "preserve_cancel_date",
)
def release_schedule(call: Call) -> Json:
    tx = call.tx
    schedule = _active(tx, call.path["id"])
    sub = tx.need(schedule["subscription"], "subscription")
    subscriptions.refuse_while_advancing(tx, customer_of(tx, sub["customer"]))
    release(tx, schedule, sub)
    return render(tx, schedule)


def release(tx: Transaction, schedule: Json, sub: Json) -> None:
    """Let the subscription go on as it is, without the schedule."""
    schedule |= {
        "status": "released",
        "released_at": now(tx, sub),
        "released_subscription": sub["id"],
        "subscription": None,
        "current_phase": None,
        "_due": None,
    }
    tx.save(schedule)
    emit(tx, "subscription_schedule.released", schedule)
    with subscriptions.changing(tx, sub):
        sub["schedule"] = None


@endpoint(
    "POST",
    "/v1/subscription_schedules/{id}/cancel",
    "SubscriptionScheduleCancelParams",
    "invoice_now prorate",
)
def cancel_schedule(call: Call) -> Json:
    """Cancels the subscription too."""
    tx, p = call.tx, call.params
    schedule = _active(tx, call.path["id"])
    sub = tx.need(schedule["subscription"], "subscription")
    subscriptions.refuse_while_advancing(tx, customer_of(tx, sub["customer"]))
    endings.cancel(tx, sub, invoice_now=p.get("invoice_now", True), prorate=p.get("prorate", True))
    return render(tx, schedule)


@endpoint("GET", "/v1/subscription_schedules/{id}", "SubscriptionScheduleRetrieveParams", "")
def retrieve_schedule(call: Call) -> Json:
    return render(call.tx, call.tx.need(call.path["id"], "subscription_schedule"))


@endpoint(
    "GET",
    "/v1/subscription_schedules",
    "SubscriptionScheduleListParams",
    f"customer created released_at canceled_at {PAGE}",
)
def list_schedules(call: Call) -> Json:
    p = call.params
    filters = {"customer": p["customer"]} if "customer" in p else {}

    def keep(schedule: Json) -> bool:
        return all(
            name not in p or in_range(schedule[name] or -1, p[name])
            for name in ("created", "released_at", "canceled_at")
        )

    return page(call.tx, "/v1/subscription_schedules", "subscription_schedule", p, keep, **filters)


# --- by time


def run_due(tx: Transaction, schedule: Json, at: int) -> None:
    """The current phase ends: enter the next, or end as the schedule says."""
    sub = tx.need(schedule["subscription"], "subscription")
    phase = changes.phase_after(schedule, at)
    if phase is None:
        _end(tx, schedule, sub, at)
        return
    before = render(tx, schedule)
    schedule["current_phase"] = {"start_date": phase["start_date"], "end_date": phase["end_date"]}
    schedule["_due"] = phase["end_date"]
    tx.save(schedule)
    with subscriptions.changing(tx, sub):
        endings.drop_pending(tx, sub)
        _enter(tx, sub, phase, at)
    emit(tx, "subscription_schedule.updated", schedule, before)


def _end(tx: Transaction, schedule: Json, sub: Json, at: int) -> None:
    if schedule["end_behavior"] == "release":
        release(tx, schedule, sub)
        return
    schedule |= {
        "status": "completed",
        "completed_at": at,
        "current_phase": None,
        "_due": None,
    }
    tx.save(schedule)
    with subscriptions.changing(tx, sub):
        sub["schedule"] = None
        sub["cancel_at"] = at  # ends as a cancellation that was asked for, before any renewal
    emit(tx, "subscription_schedule.completed", schedule)


def _enter(tx: Transaction, sub: Json, phase: Json, at: int) -> None:
    sub["metadata"] = merge_metadata(sub["metadata"], phase["metadata"])
    if all(item["current_period_end"] == at for item in sub["_items"]):
        _enter_at_boundary(tx, sub, phase, at)
    else:
        wanted = Wanted(
            at=at,
            now=at,
            items=_difference(sub, phase),
            proration=phase["proration_behavior"],
            anchor_now=phase["billing_cycle_anchor"] == "phase_start",
        )
        updates.change(tx, sub, wanted, {})


def _enter_at_boundary(tx: Transaction, sub: Json, phase: Json, at: int) -> None:
    """No time is left of the old items: the renewal that is due now charges the new ones."""
    customer = customer_of(tx, sub["customer"])
    items, left = changes.items_at_boundary(tx, sub["_items"], phase["items"], at)
    for line in changes.usage_so_far(tx, sub, left, at):
        invoice_items.pend(tx, customer, line)
    sub["_items"] = items
    if phase["billing_cycle_anchor"] == "phase_start":
        sub["billing_cycle_anchor"] = at


def _difference(sub: Json, phase: Json) -> list[Json]:
    """The item parameters that lead from what is held to a phase."""
    held = {item["price"]: item for item in sub["_items"]}
    given: list[Json] = []
    for wanted in phase["items"]:
        item = held.pop(wanted["price"], None)
        quantity = {} if wanted["quantity"] is None else {"quantity": wanted["quantity"]}
        given.append(({"id": item["id"]} if item else {"price": wanted["price"]}) | quantity)
    return given + [{"id": item["id"], "deleted": True} for item in held.values()]
