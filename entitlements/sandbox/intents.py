"""Payment intents, as far as invoices need them: one for each invoice that has an amount due."""

import stripe

from entitlements.sandbox.errors import Json
from entitlements.sandbox.events import emit, now
from entitlements.sandbox.shapes import plain_shape, public, shape
from entitlements.sandbox.store import Transaction, make_id

plain_shape("invoice_payment", stripe.InvoicePayment)


@shape("payment_intent", stripe.PaymentIntent)
def _render_intent(tx: Transaction, doc: Json) -> Json:
    shown = public(doc)
    if doc["status"] == "requires_action":
        invoice = tx.get(doc["_parent"])
        url = f"{tx.public_url}/invoice/{invoice['_lookup']}" if invoice else None
        shown["next_action"] = {
            "type": "redirect_to_url",
            "redirect_to_url": {"url": url, "return_url": None},
        }
    return shown


def open_intent(tx: Transaction, invoice: Json, customer: Json) -> None:
    """The payment of a finalized invoice, not yet attempted."""
    id = make_id("pi")
    intent = {
        "id": id,
        "object": "payment_intent",
        "amount": invoice["amount_due"],
        "amount_capturable": 0,
        "amount_received": 0,
        "automatic_payment_methods": None,
        "capture_method": "automatic",
        "client_secret": f"{id}_secret_{make_id('s')[2:]}",
        "confirmation_method": "automatic",
        "created": now(tx, invoice),
        "currency": invoice["currency"],
        "customer": customer["id"],
        "description": f"Invoice {invoice['number']}",
        "last_payment_error": None,
        "livemode": False,
        "metadata": {},
        "next_action": None,
        "payment_method": None,
        "payment_method_types": ["card"],
        "setup_future_usage": "off_session",
        "status": "requires_payment_method",
        "test_clock": customer["test_clock"],
        "_parent": invoice["id"],
    }
    payment = {
        "id": make_id("inpay"),
        "object": "invoice_payment",
        "amount_paid": None,
        "amount_requested": invoice["amount_due"],
        "created": now(tx, invoice),
        "currency": invoice["currency"],
        "invoice": invoice["id"],
        "is_default": True,
        "livemode": False,
        "payment": {"type": "payment_intent", "payment_intent": id},
        "status": "open",
        "status_transitions": {"canceled_at": None, "paid_at": None},
        "test_clock": customer["test_clock"],
        "_customer": customer["id"],
        "_parent": invoice["id"],
    }
    tx.save(intent)
    tx.save(payment)
    invoice["_intent"] = id
    emit(tx, "payment_intent.created", intent)


def cancel_intent(tx: Transaction, invoice: Json, reason: str) -> None:
    intent = intent_of(tx, invoice)
    if intent is None or intent["status"] in ("succeeded", "canceled"):
        return
    at = now(tx, invoice)
    intent |= {
        "status": "canceled",
        "canceled_at": at,
        "cancellation_reason": reason,
        "next_action": None,
    }
    tx.save(intent)
    emit(tx, "payment_intent.canceled", intent)
    for payment in tx.find("invoice_payment", parent=invoice["id"]):
        if payment["status"] == "open":
            payment["status"] = "canceled"
            payment["status_transitions"] |= {"canceled_at": at}
            tx.save(payment)


def intent_of(tx: Transaction, invoice: Json) -> Json | None:
    return tx.get(invoice["_intent"]) if invoice["_intent"] else None
