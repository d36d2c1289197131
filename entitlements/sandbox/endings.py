"""The end of a subscription: cancelled now, at an instant asked for, or never begun."""

from entitlements.sandbox import changes, customers, invoice_items, invoices, payments
from entitlements.sandbox.errors import Json, missing
from entitlements.sandbox.events import emit, now
from entitlements.sandbox.routes import Call, endpoint
from entitlements.sandbox.shapes import render
from entitlements.sandbox.store import Transaction
from entitlements.sandbox.subscriptions import ENDED, keep, refuse_while_advancing


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
        expire_incomplete(tx, sub)
        return
    final = None
    if invoice_now:
        waiting = invoice_items.pending_items(tx, customer["id"], sub["id"])
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
            invoice_items.pend(tx, customer, line)
    else:
        for item in invoice_items.pending_items(tx, customer["id"], sub["id"]):
            if item["proration"] and item["_subscription"] == sub["id"]:
                invoice_items.drop_item(tx, item)
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


def finish(tx: Transaction, sub: Json, at: int) -> None:
    """A cancellation that was asked for: bill what is left over, then end."""
    customer = customers.customer_of(tx, sub["customer"])
    ends = min(item["current_period_end"] for item in sub["_items"])
    prorate = at < ends and sub.get("_cancel_prorates", True)
    trialing = sub["status"] == "trialing"
    lines = final_lines(tx, sub, at, prorate=prorate, with_usage=not trialing)
    drop_pending(tx, sub)
    waiting = invoice_items.pending_items(tx, customer["id"], sub["id"])
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


def _end_all(tx: Transaction, customer: Json) -> None:
    for sub in tx.find("subscription", customer=customer["id"]):
        if sub["status"] not in ENDED:
            end(tx, sub, now(tx, sub), "cancellation_requested")


def expire_incomplete(tx: Transaction, sub: Json) -> None:
    at = now(tx, sub)
    sub |= {"status": "incomplete_expired", "ended_at": at, "canceled_at": at}
    keep(tx, sub)
    invoice = tx.get(sub["latest_invoice"]) if sub["latest_invoice"] else None
    if invoice and invoice["status"] == "open":
        invoices.void(tx, invoice)
    emit(tx, "customer.subscription.updated", sub)


customers.DELETED.append(_end_all)
