"""Invoices: their lines, what is due, how they are paid, and the items that wait for the next one.

draft → open → paid | void | uncollectible. What is due is the total less the customer's credit;
a negative total becomes credit, a total below the currency's smallest charge is carried over.
"""

from collections.abc import Callable, Iterable
from typing import Any

import stripe

from entitlements.sandbox import customers
from entitlements.sandbox.errors import Json, invalid
from entitlements.sandbox.events import emit, now
from entitlements.sandbox.intents import cancel_intent, intent_of, open_intent
from entitlements.sandbox.invoice_items import line_of, pending_items, release_waiting
from entitlements.sandbox.proration import SMALLEST_CHARGE_MINOR
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

SETTLED: list[Callable[[Transaction, Json], None]] = []
"""Who wants to know that an invoice was paid, voided or given up (the subscriptions do)."""

LINES_SHOWN = 10
"""How many lines an invoice carries itself; the rest is in its list of lines, as at Stripe."""


def _payments(tx: Transaction, doc: Json) -> Json:
    found = [render(tx, p) for p in tx.find("invoice_payment", parent=doc["id"])]
    return list_object("/v1/invoice_payments", found)


def _confirmation_secret(tx: Transaction, doc: Json) -> Json | None:
    intent = intent_of(tx, doc)
    if intent is None or doc["status"] == "draft":
        return None
    return {"client_secret": intent["client_secret"], "type": "payment_intent"}


@shape(
    "invoice",
    stripe.Invoice,
    includable={"payments": _payments, "confirmation_secret": _confirmation_secret},
)
def _render_invoice(tx: Transaction, doc: Json) -> Json:
    lines = doc["_lines"]
    shown = lines[:LINES_SHOWN]
    url = None
    if doc["status"] not in ("draft", None) and not doc["_preview"]:
        url = f"{tx.public_url}/invoice/{doc['_lookup']}"
    return public(doc) | {
        "hosted_invoice_url": url,
        "invoice_pdf": f"{url}/pdf" if url else None,
        "lines": list_object(
            f"/v1/invoices/{doc['id']}/lines", shown, has_more=len(lines) > LINES_SHOWN
        ),
    }


# --- what is due


def settle(total: int, balance: int, currency: str) -> tuple[int, int]:
    """What is charged for a total, and the customer's balance after it (negative is credit).

    >>> settle(1000, -300, "usd"), settle(-500, 0, "usd"), settle(30, 0, "usd")
    ((700, 0), (0, -500), (0, 30))
    """
    due = total + balance
    if total < 0 or due <= 0:
        return 0, due
    if due < SMALLEST_CHARGE_MINOR.get(currency, 1):
        return 0, due
    return due, 0


def compose(
    tx: Transaction,
    customer: Json,
    sub: Json | None,
    lines: list[Json],
    reason: str,
    at: int,
    *,
    preview: bool = False,
    proration_date: int | None = None,
    **fields: Any,
) -> Json:
    """An invoice over lines, as a draft; nothing is saved."""
    id = make_id("upcoming_in" if preview else "in")
    currency = lines[0]["currency"] if lines else sub["currency"] if sub else customer["currency"]
    total = sum(line["amount"] for line in lines)
    due, after = settle(total, customer["balance"], currency)
    starts = [line["period"]["start"] for line in lines]
    invoice: Json = {
        "id": id,
        "object": "invoice",
        "account_country": "US",
        "account_name": "Sandbox",
        "amount_due": due,
        "amount_overpaid": 0,
        "amount_paid": 0,
        "amount_paid_off_stripe": 0,
        "amount_remaining": due,
        "amount_shipping": 0,
        "attempt_count": 0,
        "attempted": False,
        "auto_advance": sub is not None,
        "automatic_tax": {
            "disabled_reason": None,
            "enabled": False,
            "liability": None,
            "provider": None,
            "status": None,
        },
        "billing_reason": reason,
        "collection_method": "charge_automatically",
        "created": at,
        "currency": currency,
        "customer": customer["id"],
        "customer_address": customer["address"],
        "customer_email": customer["email"],
        "customer_name": customer["name"],
        "customer_phone": customer["phone"],
        "customer_shipping": customer["shipping"],
        "customer_tax_exempt": customer["tax_exempt"],
        "customer_tax_ids": [],
        "default_tax_rates": [],
        "default_payment_method": None,
        "description": None,
        "discounts": [],
        "ending_balance": after if preview else None,
        "issuer": {"account": None, "type": "self"},
        "livemode": False,
        "metadata": {},
        "next_payment_attempt": None,
        "number": None,
        "parent": sub and _parent_of(sub, proration_date),
        "payment_settings": {
            "default_mandate": None,
            "payment_method_options": None,
            "payment_method_types": None,
        },
        "period_end": at,
        "period_start": min(starts, default=at) if reason == "subscription_cycle" else at,
        "post_payment_credit_notes_amount": 0,
        "pre_payment_credit_notes_amount": 0,
        "starting_balance": customer["balance"],
        "status": "draft",
        "status_transitions": {
            "finalized_at": None,
            "marked_uncollectible_at": None,
            "paid_at": None,
            "voided_at": None,
        },
        "subtotal": total,
        "subtotal_excluding_tax": total,
        "test_clock": customer["test_clock"],
        "total": total,
        "total_discount_amounts": [],
        "total_excluding_tax": total,
        "total_pretax_credit_amounts": [],
        "total_taxes": [],
        "webhooks_delivered_at": None,
        "_lookup": make_id("inv"),
        "_lines": _own(lines, id),
        "_parent": sub and sub["id"],
        "_preview": preview,
        "_intent": None,
        "_was_pending": [],
    }
    return invoice | fields


def _own(lines: list[Json], invoice: str) -> list[Json]:
    """The lines as one invoice's. A credit of a debit that had waited as well names it here."""
    there = {line["id"] for line in lines}
    owned = []
    for line in lines:
        mine = public(line) | {"invoice": invoice}
        details = (line["parent"] or {}).get("subscription_item_details")
        debit = line.get("_credits")
        if details and debit in there and not details["proration_details"]["credited_items"]:
            credited = {"invoice": invoice, "invoice_line_items": [debit]}
            details = details | {"proration_details": {"credited_items": credited}}
            mine["parent"] = line["parent"] | {"subscription_item_details": details}
        owned.append(mine)
    return owned


def _parent_of(sub: Json, proration_date: int | None) -> Json:
    return {
        "type": "subscription_details",
        "quote_details": None,
        "subscription_details": {
            "metadata": dict(sub["metadata"]),
            "subscription": sub["id"],
            "subscription_proration_date": proration_date,
        },
    }


def create(
    tx: Transaction,
    customer: Json,
    sub: Json | None,
    lines: list[Json],
    reason: str,
    at: int,
    *,
    items: Iterable[Json] = (),
    waiting: Iterable[Json] = (),
    proration_date: int | None = None,
    **fields: Any,
) -> Json:
    """A draft invoice over new lines and waiting items.

    `items` are the subscription's items as they will be: the debits on them learn which line
    charged them, so that a later credit can name it.
    """
    waiting = list(waiting)
    all_lines = [line_of(item) for item in waiting] + lines
    invoice = compose(
        tx, customer, sub, all_lines, reason, at, proration_date=proration_date, **fields
    )
    for item in waiting:
        item["invoice"] = invoice["id"]
        tx.save(item)
    invoice["_was_pending"] = [item["id"] for item in waiting]
    by_line = {line["id"]: line for line in invoice["_lines"]}
    for item in items:
        debit = item.get("_debit")
        if debit and debit["line"] in by_line:
            debit["invoice"] = invoice["id"]
    tx.save(invoice)
    emit(tx, "invoice.created", invoice)
    if sub is not None:
        sub["latest_invoice"] = invoice["id"]
        tx.save(sub)
    return invoice


def finalize(tx: Transaction, invoice: Json) -> None:
    """Number it, take the customer's balance into account, and open it; nothing due is paid."""
    if invoice["status"] != "draft":
        raise invalid("This invoice is already finalized, you can't re-finalize it.")
    customer = tx.need(invoice["customer"], "customer", "customer")
    at = now(tx, invoice)
    customers.settle_currency(tx, customer, invoice["currency"])
    due, after = settle(invoice["total"], customer["balance"], invoice["currency"])
    invoice |= {
        "amount_due": due,
        "amount_remaining": due,
        "effective_at": at,
        "starting_balance": customer["balance"],
        "ending_balance": after,
        "number": f"{customer['invoice_prefix']}-{customer['next_invoice_sequence']:04d}",
        "status": "open",
    }
    invoice["status_transitions"] |= {"finalized_at": at}
    customer["next_invoice_sequence"] += 1
    tx.save(customer)
    if after != customer["balance"]:
        _move_balance(tx, customer, invoice, after - customer["balance"])
    if due:
        open_intent(tx, invoice, customer)
    tx.save(invoice)
    emit(tx, "invoice.finalized", invoice)
    if not due:
        mark_paid(tx, invoice)


def _move_balance(tx: Transaction, customer: Json, invoice: Json, change: int) -> None:
    before = render(tx, customer)
    small = invoice["total"] > 0 and change > 0 and invoice["amount_due"] == 0
    type = "invoice_too_small" if small and customer["balance"] >= 0 else "applied_to_invoice"
    customers.adjust_balance(tx, customer, change, type, invoice=invoice["id"])
    emit(tx, "customer.updated", customer, before)


def mark_paid(tx: Transaction, invoice: Json, amount: int = 0, *, off_stripe: bool = False) -> None:
    before = render(tx, invoice)
    at = now(tx, invoice)
    invoice |= {
        "status": "paid",
        "attempted": True,
        "amount_paid": amount,
        "amount_paid_off_stripe": amount if off_stripe else 0,
        "amount_remaining": 0,
        "auto_advance": False,
        "next_payment_attempt": None,
        "_due": None,
    }
    invoice["status_transitions"] |= {"paid_at": at}
    tx.save(invoice)
    emit(tx, "invoice.updated", invoice, before)
    emit(tx, "invoice.paid", invoice)
    emit(tx, "invoice.payment_succeeded", invoice)
    _settled(tx, invoice)


def _settled(tx: Transaction, invoice: Json) -> None:
    for listener in SETTLED:
        listener(tx, invoice)


def void(tx: Transaction, invoice: Json) -> None:
    """Give an open invoice up: the balance it took is returned, its payment cancelled."""
    if invoice["status"] not in ("open", "uncollectible"):
        raise invalid(
            f"You can only void an open invoice; this one is {invoice['status']}.",
            code="invoice_not_editable",
        )
    customer = tx.need(invoice["customer"], "customer", "customer")
    taken = invoice["ending_balance"] - invoice["starting_balance"]
    if taken:
        before = render(tx, customer)
        customers.adjust_balance(
            tx, customer, -taken, "unapplied_from_invoice", invoice=invoice["id"]
        )
        emit(tx, "customer.updated", customer, before)
    cancel_intent(tx, invoice, "void_invoice")
    invoice |= {
        "status": "void",
        "auto_advance": False,
        "next_payment_attempt": None,
        "_due": None,
    }
    invoice["status_transitions"] |= {"voided_at": now(tx, invoice)}
    tx.save(invoice)
    emit(tx, "invoice.voided", invoice)
    _settled(tx, invoice)


# --- endpoints


def invoice_at(call: Call) -> Json:
    return call.tx.need(call.path["id"], "invoice")


@endpoint("GET", "/v1/invoices/{id}", "InvoiceRetrieveParams", "")
def retrieve_invoice(call: Call) -> Json:
    return render(call.tx, invoice_at(call))


@endpoint(
    "GET",
    "/v1/invoices",
    "InvoiceListParams",
    f"customer subscription status created due_date collection_method {PAGE}",
)
def list_invoices(call: Call) -> Json:
    p = call.params
    for kind in ("customer", "subscription"):
        if kind in p:
            call.tx.need(p[kind], kind, kind)

    def keep(invoice: Json) -> bool:
        return (
            p.get("status") in (None, invoice["status"])
            and p.get("customer") in (None, invoice["customer"])
            and p.get("collection_method") in (None, invoice["collection_method"])
            and "due_date" not in p
            and in_range(invoice["created"], p.get("created"))
        )

    filters = {"customer": p["customer"]} if "customer" in p else {}
    if "subscription" in p:
        filters = {"parent": p["subscription"]}
    return page(call.tx, "/v1/invoices", "invoice", p, keep, **filters)


@endpoint("GET", "/v1/invoices/{id}/lines", "InvoiceLineItemListParams", PAGE)
def list_lines(call: Call) -> Json:
    invoice = invoice_at(call)
    url = f"/v1/invoices/{invoice['id']}/lines"
    return page_of(url, "line_item", invoice["_lines"], call.params)


@endpoint(
    "POST",
    "/v1/invoices",
    "InvoiceCreateParams",
    "customer subscription auto_advance collection_method currency default_payment_method "
    "description metadata pending_invoice_items_behavior",
)
def create_invoice(call: Call) -> Json:
    tx, p = call.tx, call.params
    sub = (
        tx.need(p["subscription"], "subscription", "subscription") if "subscription" in p else None
    )
    if sub is None and "customer" not in p:
        raise invalid("Missing required param: customer.", "customer", "parameter_missing")
    customer = customers.customer_of(tx, p.get("customer") or sub["customer"])  # type: ignore[index]
    if p.get("collection_method") == "send_invoice":
        raise invalid("This sandbox only covers charge_automatically.", "collection_method")
    include = p.get("pending_invoice_items_behavior") == "include" or sub is not None
    waiting = pending_items(tx, customer["id"], sub["id"] if sub else None) if include else []
    if sub is not None and not waiting:
        raise invalid(
            "Nothing to invoice for subscription", code="invoice_no_subscription_line_items"
        )
    fields: Json = {
        "auto_advance": p.get("auto_advance", False),
        "description": p.get("description"),
        "metadata": merge_metadata({}, p.get("metadata")),
        "default_payment_method": p.get("default_payment_method"),
    }
    if not waiting:
        fields["currency"] = p.get("currency") or customer["currency"] or "usd"
    at = now(tx, customer)
    return render(tx, create(tx, customer, sub, [], "manual", at, waiting=waiting, **fields))


@endpoint(
    "POST",
    "/v1/invoices/{id}",
    "InvoiceUpdateParams",
    "auto_advance default_payment_method description metadata",
)
def update_invoice(call: Call) -> Json:
    tx, p = call.tx, call.params
    invoice = invoice_at(call)
    before = render(tx, invoice)
    if invoice["status"] != "draft" and "description" in p:
        raise invalid(
            "Finalized invoices can't be updated in this way.",
            "description",
            "invoice_not_editable",
        )
    invoice |= {k: p[k] for k in ("auto_advance", "description") if k in p}
    if "default_payment_method" in p:
        invoice["default_payment_method"] = p["default_payment_method"] or None
    invoice["metadata"] = merge_metadata(invoice["metadata"], p.get("metadata"))
    tx.save(invoice)
    emit(tx, "invoice.updated", invoice, before)
    return render(tx, invoice)


@endpoint("DELETE", "/v1/invoices/{id}", "InvoiceDeleteParams", "")
def delete_invoice(call: Call) -> Json:
    tx = call.tx
    invoice = invoice_at(call)
    if invoice["status"] != "draft" or invoice["_parent"]:
        raise invalid("You can only delete draft one-off invoices.", code="invoice_not_editable")
    release_waiting(tx, invoice)
    emit(tx, "invoice.deleted", invoice)
    invoice["_deleted"] = True
    return render(tx, tx.save(invoice))


@endpoint("POST", "/v1/invoices/{id}/finalize", "InvoiceFinalizeInvoiceParams", "auto_advance")
def finalize_invoice(call: Call) -> Json:
    tx = call.tx
    invoice = invoice_at(call)
    if "auto_advance" in call.params:
        invoice["auto_advance"] = call.params["auto_advance"]
    finalize(tx, invoice)
    return render(tx, invoice)


@endpoint("POST", "/v1/invoices/{id}/void", "InvoiceVoidInvoiceParams", "")
def void_invoice(call: Call) -> Json:
    invoice = invoice_at(call)
    void(call.tx, invoice)
    return render(call.tx, invoice)


@endpoint("POST", "/v1/invoices/{id}/mark_uncollectible", "InvoiceMarkUncollectibleParams", "")
def mark_uncollectible(call: Call) -> Json:
    tx = call.tx
    invoice = invoice_at(call)
    if invoice["status"] != "open":
        raise invalid(
            "You can only mark an open invoice uncollectible.", code="invoice_not_editable"
        )
    invoice |= {
        "status": "uncollectible",
        "auto_advance": False,
        "next_payment_attempt": None,
        "_due": None,
    }
    invoice["status_transitions"] |= {"marked_uncollectible_at": now(tx, invoice)}
    tx.save(invoice)
    emit(tx, "invoice.marked_uncollectible", invoice)
    _settled(tx, invoice)
    return render(tx, invoice)


@endpoint("GET", "/v1/invoice_payments", "InvoicePaymentListParams", f"invoice status {PAGE}")
def list_payments(call: Call) -> Json:
    p = call.params
    filters = {"parent": p["invoice"]} if "invoice" in p else {}
    return page(
        call.tx,
        "/v1/invoice_payments",
        "invoice_payment",
        p,
        lambda each: p.get("status") in (None, each["status"]),
        **filters,
    )


@endpoint("GET", "/v1/invoice_payments/{id}", "InvoicePaymentRetrieveParams", "")
def retrieve_payment(call: Call) -> Json:
    return render(call.tx, call.tx.need(call.path["id"], "invoice_payment"))
