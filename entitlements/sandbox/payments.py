"""Paying invoices: an attempt with a card, authentication, and the payment intents' endpoints."""

from entitlements.sandbox import invoices
from entitlements.sandbox.cards import Decline, attach, card_of, method_of
from entitlements.sandbox.errors import CardError, Json, invalid
from entitlements.sandbox.events import emit, now
from entitlements.sandbox.intents import cancel_intent, intent_of
from entitlements.sandbox.routes import Call, endpoint
from entitlements.sandbox.shapes import PAGE, merge_metadata, page, render
from entitlements.sandbox.store import Transaction

PAID, FAILED, ACTION = "paid", "failed", "action"

NO_METHOD = Decline(
    "resource_missing",
    "",
    "This customer has no attached payment source or default payment method.",
)


def default_method(tx: Transaction, invoice: Json) -> Json | None:
    """The payment method an invoice is charged to: its own, its subscription's, the customer's."""
    customer = tx.need(invoice["customer"], "customer", "customer")
    sub = tx.get(invoice["_parent"]) if invoice["_parent"] else None
    candidates = (
        invoice["default_payment_method"],
        sub and sub["default_payment_method"],
        customer["invoice_settings"]["default_payment_method"],
    )
    chosen = next(filter(None, candidates), None)
    return tx.get(chosen) if chosen else None


def attempt(
    tx: Transaction, invoice: Json, method: Json | None = None, *, authenticated: bool = False
) -> str:
    """Try to pay an open invoice: `paid`, `failed`, or `action` (to authenticate)."""
    intent = intent_of(tx, invoice)
    assert intent is not None
    method = method or default_method(tx, invoice)
    invoice |= {"attempt_count": invoice["attempt_count"] + 1, "attempted": True}
    if method is None:
        return _fail(tx, invoice, intent, NO_METHOD, None)
    intent["payment_method"] = method["id"]
    card = card_of(method)
    renewal = invoice["billing_reason"] == "subscription_cycle"
    asks = card.authentication == "always" or (
        card.authentication == "setup" and not method["_set_up"]
    )
    asks = asks or (card.authentication == "renewal" and renewal)
    if asks and not authenticated:
        return _ask(tx, invoice, intent)
    decline = card.charge or (card.renewal if renewal else None)
    if decline:
        return _fail(tx, invoice, intent, decline, method)
    method["_set_up"] = True
    tx.save(method)
    return _succeed(tx, invoice, intent)


def await_confirmation(tx: Transaction, invoice: Json, method: Json | None) -> None:
    """Leave the payment to the customer, with their card filled in where there is one."""
    intent = intent_of(tx, invoice)
    assert intent is not None
    if method is not None:
        intent |= {"payment_method": method["id"], "status": "requires_confirmation"}
        tx.save(intent)


def _succeed(tx: Transaction, invoice: Json, intent: Json) -> str:
    at = now(tx, invoice)
    intent |= {
        "status": "succeeded",
        "amount_received": intent["amount"],
        "last_payment_error": None,
        "next_action": None,
    }
    tx.save(intent)
    for payment in tx.find("invoice_payment", parent=invoice["id"]):
        if payment["payment"]["payment_intent"] == intent["id"]:
            payment |= {"status": "paid", "amount_paid": intent["amount"]}
            payment["status_transitions"] |= {"paid_at": at}
            tx.save(payment)
            emit(tx, "invoice_payment.paid", payment)
    emit(tx, "payment_intent.succeeded", intent)
    invoices.mark_paid(tx, invoice, intent["amount"])
    return PAID


def _ask(tx: Transaction, invoice: Json, intent: Json) -> str:
    before = render(tx, invoice)
    intent |= {"status": "requires_action", "last_payment_error": None}
    tx.save(intent)
    tx.save(invoice)
    emit(tx, "payment_intent.requires_action", intent)
    emit(tx, "invoice.updated", invoice, before | {"attempted": False})
    emit(tx, "invoice.payment_failed", invoice)
    emit(tx, "invoice.payment_action_required", invoice)
    return ACTION


def _fail(
    tx: Transaction, invoice: Json, intent: Json, decline: Decline, method: Json | None
) -> str:
    error = {
        "code": decline.code,
        "decline_code": decline.decline_code or None,
        "message": decline.message,
        "payment_method": method and render(tx, method),
        "type": "card_error" if method else "invalid_request_error",
    }
    intent |= {
        "status": "requires_payment_method",
        "payment_method": None,
        "next_action": None,
        "last_payment_error": error,
    }
    tx.save(intent)
    tx.save(invoice)
    emit(tx, "payment_intent.payment_failed", intent)
    emit(tx, "invoice.payment_failed", invoice)
    return FAILED


def refusal(tx: Transaction, invoice: Json, outcome: str) -> CardError:
    """The 402 for an attempt that did not pay."""
    intent = intent_of(tx, invoice)
    assert intent is not None
    shown = render(tx, intent)
    if outcome == ACTION:
        return CardError(
            "This payment requires additional user action before it can be completed "
            "successfully. Payment can be completed using the PaymentIntent associated with the "
            "invoice.",
            code="invoice_payment_intent_requires_action",
            payment_intent=shown,
        )
    error = intent["last_payment_error"]
    return CardError(
        error["message"],
        code=error["code"],
        decline_code=error["decline_code"],
        payment_intent=shown,
        payment_method=error["payment_method"],
    )


@endpoint(
    "POST",
    "/v1/invoices/{id}/pay",
    "InvoicePayParams",
    "payment_method off_session paid_out_of_band",
)
def pay_invoice(call: Call) -> Json:
    tx, p = call.tx, call.params
    invoice = invoices.invoice_at(call)
    if invoice["status"] == "draft":
        invoices.finalize(tx, invoice)
    elif invoice["status"] not in ("open", "uncollectible"):
        raise invalid(f"Invoice is already {invoice['status']}.", code="invoice_not_editable")
    if invoice["status"] == "paid":
        return render(tx, invoice)
    if p.get("paid_out_of_band"):
        cancel_intent(tx, invoice, "automatic")
        invoices.mark_paid(tx, invoice, invoice["amount_due"], off_stripe=True)
        return render(tx, invoice)
    method = None
    if p.get("payment_method"):
        customer = tx.need(invoice["customer"], "customer", "customer")
        method = _chosen(tx, p["payment_method"], customer)
    outcome = attempt(tx, invoice, method)
    if outcome != PAID:
        error = refusal(tx, invoice, outcome)
        error.keeps_effects = True
        raise error
    return render(tx, invoice)


def _chosen(tx: Transaction, id: str, customer: Json) -> Json:
    """A payment method named in a call: the customer's, or a named test card, made theirs."""
    if tx.get(id) is None:
        return attach(tx, id, customer)
    return method_of(tx, id, customer["id"], "payment_method")


def authenticate(tx: Transaction, invoice: Json, *, passed: bool) -> str:
    """The end of 3-D Secure for an open invoice."""
    intent = intent_of(tx, invoice)
    if intent is None or intent["status"] != "requires_action":
        raise invalid("This payment does not wait for authentication.")
    method = tx.get(intent["payment_method"])
    if passed:
        invoice["attempt_count"] -= 1  # the same attempt goes on
        return attempt(tx, invoice, method, authenticated=True)
    failed = Decline(
        "payment_intent_authentication_failure",
        "",
        "We are unable to authenticate your payment method. Please choose a different payment "
        "method and try again.",
    )
    return _fail(tx, invoice, intent, failed, method)


@endpoint("GET", "/v1/payment_intents/{id}", "PaymentIntentRetrieveParams", "client_secret")
def retrieve_intent(call: Call) -> Json:
    intent = call.tx.need(call.path["id"], "payment_intent")
    secret = call.params.get("client_secret")
    if secret is not None and secret != intent["client_secret"]:
        raise invalid("The client_secret provided does not match.", "client_secret")
    return render(call.tx, intent)


@endpoint("GET", "/v1/payment_intents", "PaymentIntentListParams", f"customer {PAGE}")
def list_intents(call: Call) -> Json:
    filters = {"customer": call.params["customer"]} if "customer" in call.params else {}
    return page(call.tx, "/v1/payment_intents", "payment_intent", call.params, **filters)


@endpoint("POST", "/v1/payment_intents/{id}", "PaymentIntentUpdateParams", "metadata description")
def update_intent(call: Call) -> Json:
    tx = call.tx
    intent = tx.need(call.path["id"], "payment_intent")
    intent["metadata"] = merge_metadata(intent["metadata"], call.params.get("metadata"))
    if "description" in call.params:
        intent["description"] = call.params["description"] or None
    return render(tx, tx.save(intent))


@endpoint(
    "POST",
    "/v1/payment_intents/{id}/confirm",
    "PaymentIntentConfirmParams",
    "payment_method return_url off_session",
)
def confirm_intent(call: Call) -> Json:
    tx = call.tx
    intent = tx.need(call.path["id"], "payment_intent")
    if intent["status"] not in (
        "requires_payment_method",
        "requires_confirmation",
        "requires_action",
    ):
        raise invalid(
            f"You cannot confirm this PaymentIntent because it has a status of {intent['status']}.",
            code="payment_intent_unexpected_state",
        )
    customer = tx.need(intent["customer"], "customer", "customer")
    invoice = tx.need(intent["_parent"], "invoice", "invoice")
    wanted = call.params.get("payment_method")
    method = _chosen(tx, wanted, customer) if wanted else default_method(tx, invoice)
    if method is None:
        raise invalid(
            "You cannot confirm this PaymentIntent because it's missing a payment method.",
            "payment_method",
            "payment_intent_unexpected_state",
        )
    outcome = attempt(tx, invoice, method)
    if outcome == FAILED:
        error = refusal(tx, invoice, outcome)
        error.keeps_effects = True
        raise error
    return render(tx, intent)
