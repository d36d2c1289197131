"""Invoices that are not made: what a change would bill, or the next renewal. Nothing is stored."""

from entitlements.sandbox import (
    changes,
    customers,
    endings,
    invoice_items,
    invoices,
    signup,
    updates,
)
from entitlements.sandbox.changes import Plan, Wanted
from entitlements.sandbox.errors import Json, invalid
from entitlements.sandbox.events import now
from entitlements.sandbox.routes import Call, endpoint
from entitlements.sandbox.shapes import merge_metadata, render
from entitlements.sandbox.store import Transaction
from entitlements.sandbox.subscriptions import ENDED
from entitlements.sandbox.upcoming import unchanged, upcoming

_ITEM = "subscription_details.items[]."


@endpoint(
    "POST",
    "/v1/invoices/create_preview",
    "InvoiceCreatePreviewParams",
    f"customer subscription currency preview_mode {_ITEM}id {_ITEM}price {_ITEM}quantity "
    f"{_ITEM}deleted {_ITEM}metadata subscription_details.proration_date "
    "subscription_details.proration_behavior subscription_details.billing_cycle_anchor.type "
    "subscription_details.billing_cycle_anchor.timestamp subscription_details.trial_end "
    "subscription_details.cancel_now subscription_details.cancel_at_period_end "
    "subscription_details.cancel_at subscription_details.metadata "
    "subscription_details.billing_mode.type",
)
def create_preview(call: Call) -> Json:
    tx, p = call.tx, call.params
    details = p.get("subscription_details", {})
    recurring = p.get("preview_mode") == "recurring"
    if "subscription" in p:
        sub = tx.need(p["subscription"], "subscription", "subscription")
        if p.get("customer", sub["customer"]) != sub["customer"]:
            raise invalid("The subscription belongs to another customer.", "customer")
        invoice = preview_change(tx, sub, details, recurring=recurring)
    elif details.get("items"):
        invoice = _preview_new(tx, p, details, recurring=recurring)
    else:
        raise invalid("Pass subscription, or subscription_details[items].")
    return render(tx, invoice)


def preview_change(tx: Transaction, sub: Json, details: Json, *, recurring: bool) -> Json:
    if sub["status"] in ENDED:
        raise invalid(
            "No upcoming invoices for a canceled subscription.", code="invoice_upcoming_none"
        )
    sub = dict(sub)
    if "metadata" in details:
        sub["metadata"] = merge_metadata(sub["metadata"], details["metadata"])
    if details.get("cancel_now"):
        return _preview_end(tx, sub, details)
    name = "subscription_details[items]"
    try:
        wanted = updates.wanted_of(tx, sub, details, name)
    except Exception as error:
        _rename_param(error)
        raise
    plan = changes.plan(tx, sub, wanted) if wanted else unchanged(sub)
    bills_now = wanted and (
        plan.begins_period or (wanted.proration == "always_invoice" and plan.prorations)
    )
    if wanted and bills_now and not recurring:
        return _preview_now(tx, sub, wanted, plan)
    return upcoming(tx, sub, plan, details, recurring=recurring, wanted=wanted)


def _rename_param(error: Exception) -> None:
    """The same mistake, named as it is in a preview's parameters."""
    body = getattr(error, "body", {})
    param = body.get("param", "")
    if param and not param.startswith("subscription_details"):
        head, _, rest = param.partition("[")
        body["param"] = f"subscription_details[{head}]" + (f"[{rest}" if rest else "")


def _preview_now(tx: Transaction, sub: Json, wanted: Wanted, plan: Plan) -> Json:
    """What the update would invoice at once: what waits, then its own lines."""
    customer = customers.customer_of(tx, sub["customer"])
    waiting = invoice_items.pending_items(tx, customer["id"], sub["id"])
    lines = [invoice_items.line_of(item) for item in waiting] + plan.prorations + plan.charges
    return invoices.compose(
        tx,
        customer,
        sub,
        lines,
        "upcoming",
        now(tx, sub),
        preview=True,
        proration_date=wanted.at if plan.prorations else None,
    )


def _preview_end(tx: Transaction, sub: Json, details: Json) -> Json:
    customer = customers.customer_of(tx, sub["customer"])
    at = details.get("proration_date", now(tx, sub))
    prorate = details.get("proration_behavior", "create_prorations") != "none"
    waiting = invoice_items.pending_items(tx, customer["id"], sub["id"])
    lines = [invoice_items.line_of(item) for item in waiting]
    lines += endings.final_lines(tx, sub, at, prorate=prorate, with_usage=True)
    return invoices.compose(
        tx,
        customer,
        sub,
        lines,
        "upcoming",
        now(tx, sub),
        preview=True,
        proration_date=at if prorate else None,
    )


def _preview_new(tx: Transaction, p: Json, details: Json, *, recurring: bool) -> Json:
    """The first invoice of a subscription that is not created."""
    known = "customer" in p
    customer = customers.customer_of(tx, p["customer"]) if known else customers.blank()
    anchor = details.get("billing_cycle_anchor", {})
    asked = {k: v for k, v in details.items() if k != "billing_cycle_anchor"}
    if "timestamp" in anchor:
        asked["billing_cycle_anchor"] = anchor["timestamp"]
    if "currency" in p:
        asked["currency"] = p["currency"]
    sub, charges = signup.draft(tx, customer, asked, "subscription_details[items]")
    if recurring:
        at = now(tx, customer)
        sub["billing_cycle_anchor"] = at
        charges = [
            line
            for item in sub["_items"]
            for line in changes.begin_item_period(tx, sub, item, at, at)
        ]
    waiting = [] if recurring else invoice_items.pending_items(tx, customer["id"], sub["id"])
    lines = [invoice_items.line_of(item) for item in waiting] + charges
    shown = invoices.compose(tx, customer, sub, lines, "upcoming", now(tx, customer), preview=True)
    return shown if known else shown | {"customer": None}
