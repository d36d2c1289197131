"""Changes of a subscription: applied at once, or pending until their invoice is paid."""

from typing import Any

from entitlements.sandbox import changes, customers, invoice_items, invoices, payments
from entitlements.sandbox.changes import Plan, Wanted
from entitlements.sandbox.endings import expire_incomplete
from entitlements.sandbox.errors import Json, invalid, not_covered
from entitlements.sandbox.events import emit, now
from entitlements.sandbox.intents import intent_of
from entitlements.sandbox.renewals import schedule_retry
from entitlements.sandbox.routes import Call, endpoint
from entitlements.sandbox.shapes import merge_metadata, render
from entitlements.sandbox.store import Transaction
from entitlements.sandbox.subscriptions import (
    ENDED,
    INCOMPLETE_HOURS,
    ITEM,
    SETTINGS,
    changing,
    keep,
    refuse_while_advancing,
    set_cancellation,
    set_fields,
)

_FREE_WITH_PENDING = frozenset(
    "items proration_behavior proration_date billing_cycle_anchor trial_end payment_behavior "
    "metadata expand".split()
)


@endpoint(
    "POST",
    "/v1/subscriptions/{id}",
    "SubscriptionUpdateParams",
    f"{SETTINGS} {ITEM} items[].id items[].deleted proration_behavior proration_date "
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
        set_cancellation(sub, p, now(tx, sub))
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
            invoice_items.pend(tx, customer, line)
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
        waiting=invoice_items.pending_items(tx, customer["id"], sub["id"]),
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
                expire_incomplete(tx, sub)
        elif sub["status"] in ("past_due", "unpaid"):
            sub["status"] = standing(tx, sub)
        if invoice["status"] == "paid":
            _save_method(tx, sub, invoice)


def _settle_pending(tx: Transaction, sub: Json, invoice: Json, pending: Json) -> None:
    sub["_pending"] = None
    if invoice["status"] != "paid":
        invoice_items.release_waiting(tx, invoice)
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


invoices.SETTLED.append(_invoice_settled)
