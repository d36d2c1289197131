"""Subscriptions: their states, and everything that happens to them, asked for or by time.

incomplete → active ⇄ past_due → canceled | unpaid; trialing → active;
incomplete → incomplete_expired.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import stripe

from entitlements.sandbox import cards, changes, customers, invoices, payments
from entitlements.sandbox.catalog import plan_of
from entitlements.sandbox.changes import Plan, Wanted
from entitlements.sandbox.errors import Json, invalid, missing, not_covered
from entitlements.sandbox.events import emit, now
from entitlements.sandbox.intents import intent_of
from entitlements.sandbox.periods import containing
from entitlements.sandbox.routes import Call, endpoint
from entitlements.sandbox.shapes import (
    PAGE,
    in_range,
    list_object,
    merge_metadata,
    page,
    page_of,
    public,
    render,
    shape,
)
from entitlements.sandbox.store import Transaction, make_id
from entitlements.sandbox.upcoming import upcoming

DAY = 86_400
ENDED = ("canceled", "incomplete_expired")
INCOMPLETE_HOURS = 23
"""How long a first payment and a pending update are waited for."""
RETRY_DAYS = (3, 5, 7)
"""A failed renewal is tried again so many days after the attempt before."""
TRIAL_NOTICE_DAYS = 3
UPCOMING_DAYS = 7
_TWO_YEARS = 2 * 366 * DAY


# --- shape


@shape("subscription_item", stripe.SubscriptionItem)
def _render_item(tx: Transaction, doc: Json) -> Json:
    return doc


@shape("subscription", stripe.Subscription)
def _render_subscription(tx: Transaction, doc: Json) -> Json:
    return public(doc) | {
        "items": list_object(
            f"/v1/subscription_items?subscription={doc['id']}", shown_items(tx, doc, doc["_items"])
        ),
        "pending_update": _pending_update(tx, doc),
    }


def shown_items(tx: Transaction, sub: Json, items: list[Json]) -> list[Json]:
    return [_shown_item(tx, sub, item) for item in items]


def _shown_item(tx: Transaction, sub: Json, item: Json) -> Json:
    price = render(tx, changes.price_of(tx, item))
    return public(item) | {
        "object": "subscription_item",
        "billed_until": item["current_period_end"] if item["quantity"] is not None else None,
        "billing_thresholds": None,
        "current_trial": None,
        "discounts": [],
        "plan": render(tx, plan_of(price)),
        "price": price,
        "subscription": sub["id"],
        "tax_rates": [],
    }


def _pending_update(tx: Transaction, sub: Json) -> Json | None:
    pending = sub["_pending"]
    if not pending or not pending["shown"]:
        return None
    return {
        "billing_cycle_anchor": pending["anchor"] if pending["anchor_now"] else None,
        "cancel_at_period_end": None,
        "discount": None,
        "discounts": None,
        "expires_at": pending["expires_at"],
        "metadata": pending["metadata"],
        "subscription_items": shown_items(tx, sub, pending["items"]),
        "trial_end": pending["trial_end_given"],
        "trial_from_plan": None,
    }


# --- keeping


@contextmanager
def changing(tx: Transaction, sub: Json) -> Iterator[None]:
    """All that happens to a subscription within is one `customer.subscription.updated`."""
    if sub["id"] in tx.held:
        yield
        return
    before = render(tx, sub)
    tx.held.add(sub["id"])
    try:
        yield
    finally:
        tx.held.discard(sub["id"])
    keep(tx, sub)
    if sub["status"] not in ENDED:  # an end is its own event
        emit(tx, "customer.subscription.updated", sub, before)


def keep(tx: Transaction, sub: Json) -> Json:
    """Save, with the instant at which something is due next."""
    sub["_due"] = next_due(sub)
    return tx.save(sub)


def next_due(sub: Json) -> int | None:
    if sub["status"] in ENDED:
        return None
    if sub["status"] == "incomplete":
        return int(sub["created"]) + INCOMPLETE_HOURS * 3600
    due = [item["current_period_end"] for item in sub["_items"]]
    due += [at for at, _ in _notices(sub)]
    if sub["cancel_at"]:
        due.append(sub["cancel_at"])
    if sub["_pending"]:
        due.append(sub["_pending"]["expires_at"])
    return int(min(due))


def _notices(sub: Json) -> list[tuple[int, str]]:
    """What is announced before it happens, and has not been yet."""
    notices = []
    end = min(item["current_period_end"] for item in sub["_items"])
    if sub["status"] == "trialing" and not sub["_trial_noticed"]:
        notice = max(sub["trial_end"] - TRIAL_NOTICE_DAYS * DAY, sub["trial_start"])
        notices.append((notice, "trial_will_end"))
    start = max(item["current_period_start"] for item in sub["_items"])
    long_enough = end - start > UPCOMING_DAYS * DAY
    if long_enough and sub["_upcoming_for"] != end and not sub["cancel_at"]:
        notices.append((end - UPCOMING_DAYS * DAY, "upcoming"))
    return notices


# --- create

_SETTINGS = (
    "default_payment_method description metadata cancel_at cancel_at_period_end off_session "
    "collection_method payment_settings.save_default_payment_method "
    "payment_settings.payment_method_types trial_settings.end_behavior.missing_payment_method "
)
_ITEM = "items[].price items[].quantity items[].metadata "


@endpoint(
    "POST",
    "/v1/subscriptions",
    "SubscriptionCreateParams",
    f"{_SETTINGS} {_ITEM} customer currency payment_behavior trial_end trial_period_days "
    "billing_cycle_anchor proration_behavior billing_mode.type billing_mode.flexible",
)
def create_subscription(call: Call) -> Json:
    tx, p = call.tx, call.params
    for param in ("customer", "items"):
        if not p.get(param):
            raise invalid(f"Missing required param: {param}.", param, "parameter_missing")
    customer = customers.customer_of(tx, p["customer"])
    behaviour = p.get("payment_behavior", "allow_incomplete")
    if behaviour == "pending_if_incomplete":
        raise invalid(
            "pending_if_incomplete can only be used when a subscription is updated.",
            "payment_behavior",
        )
    refuse_while_advancing(tx, customer)
    sub, charges = draft(tx, customer, p)
    customers.settle_currency(tx, customer, sub["currency"])
    keep(tx, sub)
    emit(tx, "customer.subscription.created", sub)
    with changing(tx, sub):
        waiting = invoices.pending_items(tx, customer["id"], sub["id"])
        at = now(tx, sub)
        if charges or waiting:
            _first_invoice(tx, customer, sub, charges, waiting, at, behaviour)
        else:
            sub["status"] = "active"
    return render(tx, sub)


def draft(tx: Transaction, customer: Json, p: Json, name: str = "items") -> tuple[Json, list[Json]]:
    """A new subscription as asked for and the lines of its first invoice; nothing is saved."""
    at = now(tx, customer)
    if p.get("billing_mode", {}).get("type", "flexible") != "flexible":
        raise not_covered("billing_mode classic", "billing_mode[type]")
    items = [changes.new_item(tx, given, at, f"{name}[{i}]") for i, given in enumerate(p["items"])]
    currency = changes.check_items(tx, items, p.get("currency"), name)
    sub = _blank(customer, at, currency) | {"_items": items}
    set_fields(tx, sub, customer, p)
    sub["trial_end"] = _trial_end(p, at)
    prorates = p.get("proration_behavior", "create_prorations") != "none"
    if sub["trial_end"]:
        sub |= {"trial_start": at, "billing_cycle_anchor": sub["trial_end"], "status": "trialing"}
        period = (at, sub["trial_end"])
        for item in items:
            item |= {"current_period_start": at, "current_period_end": sub["trial_end"]}
        charges = [changes.trial_line(tx, sub, item, period) for item in items]
    else:
        sub["billing_cycle_anchor"] = _first_anchor(tx, p, items, at)
        anchor = sub["billing_cycle_anchor"]
        charges = [
            line
            for item in items
            for line in changes.first_charge(tx, sub, item, anchor, at, prorates=prorates)
        ]
    _set_cancellation(sub, p, at)
    return sub, charges


def _trial_end(p: Json, at: int) -> int | None:
    end = p.get("trial_end")
    if "trial_period_days" in p:
        if end is not None:
            raise invalid("Pass trial_end or trial_period_days, not both.", "trial_period_days")
        if not 0 <= p["trial_period_days"] <= 730:
            raise invalid("Must be between 0 and 730.", "trial_period_days")
        return at + p["trial_period_days"] * DAY if p["trial_period_days"] else None
    if end in (None, "now"):
        return None
    if end <= at:
        raise invalid(
            "Invalid timestamp: must be an integer Unix timestamp in the future.", "trial_end"
        )
    if end > at + _TWO_YEARS:
        raise invalid(
            "Invalid timestamp: can be no more than two years in the future.", "trial_end"
        )
    return int(end)


def _first_anchor(tx: Transaction, p: Json, items: list[Json], at: int) -> int:
    anchor = p.get("billing_cycle_anchor")
    if anchor is None:
        return at
    if anchor <= at:
        raise invalid("billing_cycle_anchor must be in the future.", "billing_cycle_anchor")
    for item in items:
        recurring = changes.price_of(tx, item)["recurring"]
        _, end = containing(anchor, recurring, at)
        if anchor > end:
            raise invalid(
                "billing_cycle_anchor cannot be later than the next natural billing date.",
                "billing_cycle_anchor",
            )
    return int(anchor)


def _blank(customer: Json, at: int, currency: str) -> Json:
    return {
        "id": make_id("sub"),
        "object": "subscription",
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
        "billing_cycle_anchor": at,
        "billing_mode": {
            "type": "flexible",
            "flexible": {"proration_discounts": "included"},
            "updated_at": at,
        },
        "billing_schedules": [],
        "cancel_at": None,
        "cancel_at_period_end": False,
        "canceled_at": None,
        "cancellation_details": {
            "comment": None,
            "feedback": None,
            "feedback_option": None,
            "reason": None,
        },
        "collection_method": "charge_automatically",
        "created": at,
        "currency": currency,
        "customer": customer["id"],
        "default_payment_method": None,
        "default_tax_rates": [],
        "description": None,
        "discounts": [],
        "ended_at": None,
        "invoice_settings": {
            "account_tax_ids": None,
            "custom_fields": None,
            "description": None,
            "footer": None,
            "issuer": {"account": None, "type": "self"},
        },
        "latest_invoice": None,
        "livemode": False,
        "metadata": {},
        "payment_settings": {
            "payment_method_options": None,
            "payment_method_types": None,
            "save_default_payment_method": "off",
        },
        "schedule": None,
        "start_date": at,
        "status": "incomplete",
        "test_clock": customer["test_clock"],
        "trial_end": None,
        "trial_settings": {
            "end_behavior": {
                "billing_cycle_anchor": "now",
                "missing_payment_method": "create_invoice",
            }
        },
        "trial_start": None,
        "_items": [],
        "_pending": None,
        "_trial_noticed": False,
        "_upcoming_for": None,
        "_due": None,
    }


def set_fields(tx: Transaction, sub: Json, customer: Json, p: Json) -> None:
    """The settings that cost nothing."""
    if p.get("collection_method", "charge_automatically") != "charge_automatically":
        raise not_covered("collection_method send_invoice", "collection_method")
    if "default_payment_method" in p:
        method = p["default_payment_method"]
        if method:
            cards.method_of(tx, method, customer["id"], "default_payment_method")
        sub["default_payment_method"] = method or None
    if "description" in p:
        sub["description"] = p["description"] or None
    sub["metadata"] = merge_metadata(sub["metadata"], p.get("metadata"))
    sub["payment_settings"] |= p.get("payment_settings", {})
    missing = p.get("trial_settings", {}).get("end_behavior", {}).get("missing_payment_method")
    if missing == "pause":
        raise not_covered("pausing at a trial's end", "trial_settings[end_behavior]")
    if missing:
        sub["trial_settings"]["end_behavior"] |= {"missing_payment_method": missing}


def _first_invoice(
    tx: Transaction,
    customer: Json,
    sub: Json,
    charges: list[Json],
    waiting: list[Json],
    at: int,
    behaviour: str,
) -> None:
    invoice = invoices.create(
        tx,
        customer,
        sub,
        charges,
        "subscription_create",
        at,
        items=sub["_items"],
        waiting=waiting,
    )
    invoices.finalize(tx, invoice)
    if invoice["status"] == "paid":
        return
    method = payments.default_method(tx, invoice)
    if behaviour == "default_incomplete":
        payments.await_confirmation(tx, invoice, method)
        return
    if method is None:
        raise invalid(payments.NO_METHOD.message, code="resource_missing")
    outcome = payments.attempt(tx, invoice)
    if outcome != payments.PAID and behaviour == "error_if_incomplete":
        raise payments.refusal(tx, invoice, outcome)


# --- update

_FREE_WITH_PENDING = frozenset(
    "items proration_behavior proration_date billing_cycle_anchor trial_end payment_behavior "
    "metadata expand".split()
)


@endpoint(
    "POST",
    "/v1/subscriptions/{id}",
    "SubscriptionUpdateParams",
    f"{_SETTINGS} {_ITEM} items[].id items[].deleted proration_behavior proration_date "
    "payment_behavior billing_cycle_anchor.type trial_end cancellation_details.comment "
    "cancellation_details.feedback",
)
def update_subscription(call: Call) -> Json:
    tx, p = call.tx, call.params
    sub = tx.need(call.path["id"], "subscription")
    update(tx, sub, p)
    return render(tx, sub)


def update(tx: Transaction, sub: Json, p: Json) -> None:
    customer = customers.customer_of(tx, sub["customer"])
    refuse_while_advancing(tx, customer)
    _check_update(tx, sub, p)
    pending = p.get("payment_behavior") == "pending_if_incomplete"
    wanted = wanted_of(tx, sub, p)
    with changing(tx, sub):
        fields = {k: v for k, v in p.items() if k != "metadata"} if pending else p
        set_fields(tx, sub, customer, fields)
        _set_cancellation(sub, p, now(tx, sub))
        sub["cancellation_details"] |= p.get("cancellation_details", {})
        if wanted is None:
            if pending:
                sub["metadata"] = merge_metadata(sub["metadata"], p.get("metadata"))
            return
        if sub["_pending"]:
            # A newer change takes the place of one that was not paid.
            invoices.void(tx, tx.need(sub["_pending"]["invoice"], "invoice"))
        change(tx, sub, wanted, p)


def _check_update(tx: Transaction, sub: Json, p: Json) -> None:
    if sub["status"] in ENDED and set(p) - {"metadata", "cancellation_details", "expand"}:
        raise invalid(
            "A canceled subscription can only update its cancellation_details and metadata."
        )
    changed = set(p) & {"items", "billing_cycle_anchor", "trial_end"}
    ending = set(p) & {"cancel_at", "cancel_at_period_end"}
    if sub["schedule"] and (changed or ending):
        raise invalid(
            f"The subscription is managed by the subscription schedule `{sub['schedule']}`, and "
            "cannot be changed directly. Release the schedule first.",
            min(changed | ending),
        )
    if sub["status"] == "incomplete" and changed:
        raise invalid(
            "The first invoice of this subscription is not paid: its items cannot be changed.",
            min(changed),
        )
    if p.get("payment_behavior") == "pending_if_incomplete":
        _check_pending(p)


def _check_pending(p: Json) -> None:
    refused = sorted(set(p) - _FREE_WITH_PENDING)
    if refused:
        raise invalid(
            "When payment_behavior is pending_if_incomplete these parameters cannot be passed: "
            + ", ".join(refused),
            refused[0],
        )
    for i, item in enumerate(p.get("items", [])):
        for field in sorted(set(item) - {"id", "price", "quantity"}):
            raise invalid(
                f"When payment_behavior is pending_if_incomplete, items[{i}][{field}] cannot be "
                "passed.",
                f"items[{i}][{field}]",
            )


def wanted_of(tx: Transaction, sub: Json, p: Json, items_name: str = "items") -> Wanted | None:
    """The change that parameters ask for; None where they change nothing that costs."""
    present = now(tx, sub)
    anchor_now = p.get("billing_cycle_anchor", {}).get("type") == "now"
    kind = p.get("billing_cycle_anchor", {}).get("type")
    if "billing_cycle_anchor" in p and kind not in ("now", "unchanged"):
        raise invalid("Must be now or unchanged.", "billing_cycle_anchor[type]")
    proration = p.get("proration_behavior", "create_prorations")
    at = p.get("proration_date", present)
    if "proration_date" in p:
        _check_proration_date(
            sub, p["proration_date"], anchor_now or p.get("trial_end") == "now", proration
        )
    if anchor_now and sub["status"] == "trialing":
        raise not_covered("a reset of the anchor during a trial", "billing_cycle_anchor")
    if not (p.get("items") or anchor_now or "trial_end" in p):
        return None
    return Wanted(
        at=at,
        now=present,
        items=p.get("items", []),
        proration=proration,
        anchor_now=anchor_now,
        trial_end=p.get("trial_end"),
        items_name=items_name,
    )


def _check_proration_date(sub: Json, date: int, resets: bool, proration: str) -> None:
    if resets:
        raise invalid(
            "You cannot specify proration_date when the billing cycle anchor is reset.",
            "proration_date",
        )
    if proration == "none":
        raise invalid(
            "You cannot specify proration_date with proration_behavior none.", "proration_date"
        )
    start = min(item["current_period_start"] for item in sub["_items"])
    end = min(item["current_period_end"] for item in sub["_items"])
    if not start <= date < end:
        raise invalid(
            "Invalid proration_date: it must be within the current billing period.",
            "proration_date",
        )


def change(tx: Transaction, sub: Json, wanted: Wanted, p: Json) -> None:
    """Apply a change: bill it now or let it wait, as its proration and payment behaviour say."""
    plan = changes.plan(tx, sub, wanted)
    customer = customers.customer_of(tx, sub["customer"])
    bills_now = plan.begins_period or (wanted.proration == "always_invoice" and plan.prorations)
    behaviour = p.get("payment_behavior", "allow_incomplete")
    metadata = p.get("metadata") if behaviour == "pending_if_incomplete" else None
    if not bills_now:
        apply(tx, sub, plan, metadata)
        for line in plan.prorations:
            invoices.pend(tx, customer, line)
        return
    if behaviour == "pending_if_incomplete":
        sub["_pending"] = _pending_of(sub, wanted, plan, metadata)
    else:
        apply(tx, sub, plan, None)
    invoice = invoices.create(
        tx,
        customer,
        sub,
        plan.prorations + plan.charges,
        "subscription_update",
        now(tx, sub),
        items=plan.items,
        waiting=invoices.pending_items(tx, customer["id"], sub["id"]),
        proration_date=wanted.at if plan.prorations else None,
    )
    if sub["_pending"]:
        sub["_pending"]["invoice"] = invoice["id"]
    invoices.finalize(tx, invoice)
    if invoice["status"] == "open":
        _collect(tx, sub, invoice, behaviour)


def apply(tx: Transaction, sub: Json, plan: Plan, metadata: Any) -> None:
    sub |= {
        "_items": plan.items,
        "billing_cycle_anchor": plan.anchor,
        "trial_start": plan.trial_start,
        "trial_end": plan.trial_end,
        "metadata": merge_metadata(sub["metadata"], metadata),
    }
    at = now(tx, sub)
    if sub["cancel_at_period_end"]:
        sub["cancel_at"] = max(item["current_period_end"] for item in plan.items)
    if plan.trial_end and plan.trial_end > at:
        sub |= {"status": "trialing", "_trial_noticed": False}
    elif sub["status"] == "trialing":
        sub["status"] = "active"


def _pending_of(sub: Json, wanted: Wanted, plan: Plan, metadata: Any) -> Json:
    ends = [item["current_period_end"] for item in sub["_items"]]
    ends.append(wanted.now + INCOMPLETE_HOURS * 3600)
    if sub["status"] == "trialing":
        ends.append(sub["trial_end"])
    return {
        "anchor": plan.anchor,
        "anchor_now": wanted.anchor_now,
        "expires_at": min(ends),
        "invoice": None,
        "items": plan.items,
        "metadata": merge_metadata(sub["metadata"], metadata) if metadata is not None else None,
        "shown": False,
        "trial_end": plan.trial_end,
        "trial_end_given": plan.trial_end if wanted.trial_end is not None else None,
        "trial_start": plan.trial_start,
    }


def _collect(tx: Transaction, sub: Json, invoice: Json, behaviour: str) -> None:
    """Pay for a change that is billed now."""
    if behaviour == "default_incomplete":
        payments.await_confirmation(tx, invoice, payments.default_method(tx, invoice))
        sub["status"] = "past_due"
        return
    outcome = payments.attempt(tx, invoice)
    if outcome == payments.PAID:
        return
    if behaviour == "error_if_incomplete":
        raise payments.refusal(tx, invoice, outcome)
    if behaviour == "pending_if_incomplete":
        sub["_pending"]["shown"] = True
        return
    sub["status"] = "past_due"
    schedule_retry(tx, invoice)


def _set_cancellation(sub: Json, p: Json, at: int) -> None:
    if "cancel_at" in p and "cancel_at_period_end" in p:
        raise invalid("Pass cancel_at or cancel_at_period_end, not both.", "cancel_at")
    ends = [item["current_period_end"] for item in sub["_items"]]
    if "cancel_at_period_end" in p:
        asked = p["cancel_at_period_end"]
        if asked and sub["cancel_at_period_end"]:
            return
        _cancel_at(sub, max(ends) if asked else None, at)
        sub["cancel_at_period_end"] = asked
    elif "cancel_at" in p:
        when = p["cancel_at"]
        if isinstance(when, str) and when:
            if when == "max_billed_until":
                raise not_covered("cancel_at max_billed_until", "cancel_at")
            when = max(ends) if when == "max_period_end" else min(ends)
        if when and when <= at:
            raise invalid("cancel_at must be in the future.", "cancel_at")
        _cancel_at(sub, when or None, at)
        sub["cancel_at_period_end"] = False
        sub["_cancel_prorates"] = p.get("proration_behavior", "create_prorations") != "none"


def _cancel_at(sub: Json, when: int | None, at: int) -> None:
    sub["cancel_at"] = when
    sub["canceled_at"] = at if when else None
    sub["cancellation_details"] |= {"reason": "cancellation_requested" if when else None}


# --- cancel


@endpoint(
    "DELETE",
    "/v1/subscriptions/{id}",
    "SubscriptionCancelParams",
    "invoice_now prorate cancellation_details.comment cancellation_details.feedback",
)
def cancel_subscription(call: Call) -> Json:
    tx, p = call.tx, call.params
    sub = tx.need(call.path["id"], "subscription")
    refuse_while_advancing(tx, customers.customer_of(tx, sub["customer"]))
    if sub["status"] in ENDED:
        raise missing("subscription", sub["id"])
    sub["cancellation_details"] |= p.get("cancellation_details", {})
    cancel(tx, sub, invoice_now=p.get("invoice_now", False), prorate=p.get("prorate", False))
    return render(tx, sub)


def cancel(tx: Transaction, sub: Json, *, invoice_now: bool, prorate: bool) -> None:
    """End a subscription now, with a final invoice or without."""
    at = now(tx, sub)
    customer = customers.customer_of(tx, sub["customer"])
    lines = final_lines(tx, sub, at, prorate=prorate, with_usage=invoice_now)
    drop_pending(tx, sub)
    if sub["status"] == "incomplete":
        _expire_incomplete(tx, sub)
        return
    final = None
    if invoice_now:
        waiting = invoices.pending_items(tx, customer["id"], sub["id"])
        if lines or waiting:
            final = invoices.create(
                tx,
                customer,
                sub,
                lines,
                "subscription_update",
                at,
                items=sub["_items"],
                waiting=waiting,
            )
    elif prorate:
        for line in lines:
            invoices.pend(tx, customer, line)
    else:
        for item in invoices.pending_items(tx, customer["id"], sub["id"]):
            if item["proration"] and item["_subscription"] == sub["id"]:
                invoices.drop_item(tx, item)
    end(tx, sub, at, "cancellation_requested")
    if final is not None:
        invoices.finalize(tx, final)
        if final["status"] == "open":
            payments.attempt(tx, final)


def final_lines(
    tx: Transaction, sub: Json, at: int, *, prorate: bool, with_usage: bool
) -> list[Json]:
    """What an end at an instant credits, and the usage not billed yet."""
    lines = []
    if prorate and sub["status"] != "trialing":
        lines = changes.credits(tx, sub, at)
    if with_usage:
        lines += changes.usage_so_far(tx, sub, sub["_items"], at)
    return lines


def drop_pending(tx: Transaction, sub: Json) -> None:
    """Void the invoice of an update that was not paid; the update goes with it."""
    if sub["_pending"] and sub["_pending"]["invoice"]:
        invoices.void(tx, tx.need(sub["_pending"]["invoice"], "invoice"))


def end(tx: Transaction, sub: Json, at: int, reason: str) -> None:
    """The end: nothing is collected by itself any more."""
    drop_pending(tx, sub)
    sub |= {"status": "canceled", "ended_at": at, "canceled_at": sub["canceled_at"] or at}
    if sub["cancellation_details"]["reason"] is None:
        sub["cancellation_details"] |= {"reason": reason}
    for invoice in tx.find("invoice", parent=sub["id"]):
        if invoice["status"] == "open":
            invoice |= {"auto_advance": False, "next_payment_attempt": None, "_due": None}
            tx.save(invoice)
    if sub["schedule"]:
        _end_schedule(tx, sub, at)
    keep(tx, sub)
    emit(tx, "customer.subscription.deleted", sub)


def _end_schedule(tx: Transaction, sub: Json, at: int) -> None:
    schedule = tx.need(sub["schedule"], "subscription_schedule")
    before = render(tx, schedule)
    schedule |= {"status": "canceled", "canceled_at": at, "_due": None, "current_phase": None}
    tx.save(schedule)
    emit(tx, "subscription_schedule.canceled", schedule, before)


# --- what its invoices do to it


def _invoice_settled(tx: Transaction, invoice: Json) -> None:
    sub = tx.get(invoice["_parent"]) if invoice["_parent"] else None
    if sub is None or sub["status"] in ENDED:
        return
    with changing(tx, sub):
        pending = sub["_pending"]
        if pending and pending["invoice"] == invoice["id"]:
            _settle_pending(tx, sub, invoice, pending)
        elif sub["status"] == "incomplete":
            if invoice["status"] == "paid":
                sub["status"] = "active"
            elif invoice["status"] == "void":
                _expire_incomplete(tx, sub)
        elif sub["status"] in ("past_due", "unpaid"):
            sub["status"] = standing(tx, sub)
        if invoice["status"] == "paid":
            _save_method(tx, sub, invoice)


invoices.SETTLED.append(_invoice_settled)


def _end_all(tx: Transaction, customer: Json) -> None:
    for sub in tx.find("subscription", customer=customer["id"]):
        if sub["status"] not in ENDED:
            end(tx, sub, now(tx, sub), "cancellation_requested")


customers.DELETED.append(_end_all)


def _settle_pending(tx: Transaction, sub: Json, invoice: Json, pending: Json) -> None:
    sub["_pending"] = None
    if invoice["status"] != "paid":
        invoices.release_waiting(tx, invoice)
        return
    sub |= {
        "_items": pending["items"],
        "billing_cycle_anchor": pending["anchor"],
        "trial_start": pending["trial_start"],
        "trial_end": pending["trial_end"],
    }
    if pending["metadata"] is not None:
        sub["metadata"] = pending["metadata"]
    if sub["status"] == "trialing" and sub["trial_end"] <= now(tx, sub):
        sub["status"] = "active"
    if pending["shown"]:
        keep(tx, sub)
        emit(tx, "customer.subscription.pending_update_applied", sub)


def standing(tx: Transaction, sub: Json) -> str:
    """Active once the newest invoice that counts is no longer open."""
    for invoice in reversed(tx.find("invoice", parent=sub["id"])):
        if invoice["status"] == "open" and invoice["attempted"]:
            return str(sub["status"])
        if invoice["status"] in ("paid", "uncollectible"):
            break
    return "active"


def _save_method(tx: Transaction, sub: Json, invoice: Json) -> None:
    if sub["payment_settings"]["save_default_payment_method"] != "on_subscription":
        return
    intent = intent_of(tx, invoice)
    if intent and intent["payment_method"]:
        sub["default_payment_method"] = intent["payment_method"]


def _expire_incomplete(tx: Transaction, sub: Json) -> None:
    at = now(tx, sub)
    sub |= {"status": "incomplete_expired", "ended_at": at, "canceled_at": at}
    keep(tx, sub)
    invoice = tx.get(sub["latest_invoice"]) if sub["latest_invoice"] else None
    if invoice and invoice["status"] == "open":
        invoices.void(tx, invoice)
    emit(tx, "customer.subscription.updated", sub)


# --- by time


def run_due(tx: Transaction, sub: Json, at: int) -> None:
    """Do the one thing that is due first on a subscription."""
    pending = sub["_pending"]
    if sub["status"] == "incomplete":
        _expire_incomplete(tx, sub)
    elif pending and pending["expires_at"] <= at:
        with changing(tx, sub):
            drop_pending(tx, sub)
        emit(tx, "customer.subscription.pending_update_expired", sub)
    elif sub["cancel_at"] and sub["cancel_at"] <= at:
        _finish(tx, sub, sub["cancel_at"])
    elif due := [kind for when, kind in _notices(sub) if when <= at]:
        _notify(tx, sub, due[0])
    else:
        with changing(tx, sub):
            renew(tx, sub, min(item["current_period_end"] for item in sub["_items"]))


def _notify(tx: Transaction, sub: Json, kind: str) -> None:
    if kind == "trial_will_end":
        sub["_trial_noticed"] = True
        emit(tx, "customer.subscription.trial_will_end", sub)
    else:
        sub["_upcoming_for"] = min(item["current_period_end"] for item in sub["_items"])
        emit(tx, "invoice.upcoming", upcoming(tx, sub))
    keep(tx, sub)


def _finish(tx: Transaction, sub: Json, at: int) -> None:
    """A cancellation that was asked for: bill what is left over, then end."""
    customer = customers.customer_of(tx, sub["customer"])
    ends = min(item["current_period_end"] for item in sub["_items"])
    prorate = at < ends and sub.get("_cancel_prorates", True)
    trialing = sub["status"] == "trialing"
    lines = final_lines(tx, sub, at, prorate=prorate, with_usage=not trialing)
    drop_pending(tx, sub)
    waiting = invoices.pending_items(tx, customer["id"], sub["id"])
    final = None
    if lines or waiting:
        final = invoices.create(
            tx,
            customer,
            sub,
            lines,
            "subscription_cycle",
            at,
            items=sub["_items"],
            waiting=waiting,
        )
    end(tx, sub, at, "cancellation_requested")
    if final is not None:
        invoices.finalize(tx, final)
        if final["status"] == "open":
            payments.attempt(tx, final)


def renew(tx: Transaction, sub: Json, at: int) -> None:
    """Begin the next period of each item whose period ends: invoice it and pay it at once."""
    customer = customers.customer_of(tx, sub["customer"])
    trial_ends = sub["status"] == "trialing" and sub["trial_end"] <= at
    if trial_ends:
        if _cancels_without_method(tx, sub, customer):
            end(tx, sub, at, "payment_failed")
            return
        sub["status"] = "active"
    start = min(item["current_period_start"] for item in sub["_items"])
    lines = changes.renewal_lines(tx, sub, sub["_items"], at, bills_usage=not trial_ends)
    invoice = invoices.create(
        tx,
        customer,
        sub,
        lines,
        "subscription_cycle",
        at,
        items=sub["_items"],
        waiting=invoices.pending_items(tx, customer["id"], sub["id"]),
        period_start=start,
        period_end=at,
    )
    if sub["status"] == "unpaid":
        invoice["auto_advance"] = False  # a draft until somebody finalizes it
        tx.save(invoice)
        return
    invoices.finalize(tx, invoice)
    if invoice["status"] == "open" and payments.attempt(tx, invoice) != payments.PAID:
        sub["status"] = "past_due"
        schedule_retry(tx, invoice)


def _cancels_without_method(tx: Transaction, sub: Json, customer: Json) -> bool:
    has = sub["default_payment_method"] or customer["invoice_settings"]["default_payment_method"]
    return not has and sub["trial_settings"]["end_behavior"]["missing_payment_method"] == "cancel"


def schedule_retry(tx: Transaction, invoice: Json) -> None:
    done = invoice.get("_retries", 0)
    if done < len(RETRY_DAYS):
        at = now(tx, invoice) + RETRY_DAYS[done] * DAY
        invoice |= {"next_payment_attempt": at, "_due": at, "_retries": done + 1}
    else:
        invoice |= {"next_payment_attempt": None, "_due": None}
    tx.save(invoice)


def retry(tx: Transaction, invoice: Json) -> None:
    """Try a failed invoice again; after the last time the account's setting decides."""
    sub = tx.need(invoice["_parent"], "subscription")
    with changing(tx, sub):
        before = render(tx, invoice)
        invoice |= {"_due": None, "next_payment_attempt": None}
        tx.save(invoice)
        if payments.attempt(tx, invoice) == payments.PAID:
            return
        schedule_retry(tx, invoice)
        emit(tx, "invoice.updated", invoice, before)
        if invoice["next_payment_attempt"] is None:
            _give_up(tx, sub)


def _give_up(tx: Transaction, sub: Json) -> None:
    outcome = tx.setting("dunning_end", "canceled")
    if outcome == "canceled":
        end(tx, sub, now(tx, sub), "payment_failed")
    elif outcome == "unpaid":
        sub["status"] = "unpaid"


def refuse_while_advancing(tx: Transaction, customer: Json) -> None:
    clock = tx.get(customer["test_clock"]) if customer["test_clock"] else None
    if clock and clock["status"] != "ready":
        raise invalid(
            "Test clock advancement underway - cannot perform modifications.", "test_clock"
        )


# --- read


@endpoint("GET", "/v1/subscriptions/{id}", "SubscriptionRetrieveParams", "")
def retrieve_subscription(call: Call) -> Json:
    return render(call.tx, call.tx.need(call.path["id"], "subscription"))


@endpoint(
    "GET",
    "/v1/subscriptions",
    "SubscriptionListParams",
    "customer price status created current_period_start current_period_end test_clock "
    f"collection_method {PAGE}",
)
def list_subscriptions(call: Call) -> Json:
    p = call.params

    def keep_it(sub: Json) -> bool:
        return (
            _has_status(sub, p.get("status"))
            and p.get("customer") in (None, sub["customer"])
            and p.get("test_clock") in (None, sub["test_clock"])
            and p.get("collection_method") in (None, sub["collection_method"])
            and (p.get("price") is None or any(i["price"] == p["price"] for i in sub["_items"]))
            and in_range(sub["created"], p.get("created"))
            and all(
                any(in_range(i[name], p.get(name)) for i in sub["_items"])
                for name in ("current_period_start", "current_period_end")
            )
        )

    filters = {"customer": p["customer"]} if "customer" in p else {}
    return page(call.tx, "/v1/subscriptions", "subscription", p, keep_it, **filters)


def _has_status(sub: Json, wanted: str | None) -> bool:
    if wanted is None:
        return sub["status"] not in ENDED
    if wanted == "ended":
        return sub["status"] in ENDED
    return wanted in ("all", sub["status"])


@endpoint("GET", "/v1/subscription_items", "SubscriptionItemListParams", f"subscription {PAGE}")
def list_items(call: Call) -> Json:
    tx = call.tx
    sub = tx.need(call.params["subscription"], "subscription", "subscription")
    items = shown_items(tx, sub, sub["_items"])
    return page_of("/v1/subscription_items", "subscription_item", items, call.params)


@endpoint("GET", "/v1/subscription_items/{id}", "SubscriptionItemRetrieveParams", "")
def retrieve_item(call: Call) -> Json:
    for sub in call.tx.find("subscription"):
        for item in sub["_items"]:
            if item["id"] == call.path["id"]:
                return _shown_item(call.tx, sub, item)
    raise missing("subscription item", call.path["id"])
