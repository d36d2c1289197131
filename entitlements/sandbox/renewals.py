"""What time does to a subscription: notices, renewals, retries of what was not paid."""

from entitlements.sandbox import changes, customers, invoice_items, invoices, payments
from entitlements.sandbox.endings import drop_pending, end, expire_incomplete, finish
from entitlements.sandbox.errors import Json
from entitlements.sandbox.events import emit, now
from entitlements.sandbox.shapes import render
from entitlements.sandbox.store import Transaction
from entitlements.sandbox.subscriptions import DAY, changing, keep, notices
from entitlements.sandbox.upcoming import upcoming

RETRY_DAYS = (3, 5, 7)
"""A failed renewal is tried again so many days after the attempt before."""


def run_due(tx: Transaction, sub: Json, at: int) -> None:
    """Do the one thing that is due first on a subscription."""
    pending = sub["_pending"]
    if sub["status"] == "incomplete":
        expire_incomplete(tx, sub)
    elif pending and pending["expires_at"] <= at:
        with changing(tx, sub):
            drop_pending(tx, sub)
        emit(tx, "customer.subscription.pending_update_expired", sub)
    elif sub["cancel_at"] and sub["cancel_at"] <= at:
        finish(tx, sub, sub["cancel_at"])
    elif due := [kind for when, kind in notices(sub) if when <= at]:
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
        waiting=invoice_items.pending_items(tx, customer["id"], sub["id"]),
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
