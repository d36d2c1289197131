"""Cards: the test payment methods by name, how each behaves, and setting one up for later.

Attaching a named test card makes a payment method of the customer's own, as at Stripe. Names and
behaviour are those of https://docs.stripe.com/testing, and three of our own, which say so.
"""

from typing import Any

import msgspec
import stripe

from entitlements.sandbox.errors import CardError, Json, invalid, missing
from entitlements.sandbox.events import emit, now
from entitlements.sandbox.routes import Call, endpoint
from entitlements.sandbox.shapes import PAGE, merge_metadata, page, plain_shape, render
from entitlements.sandbox.store import Transaction, make_id


class Decline(msgspec.Struct, frozen=True):
    code: str
    decline_code: str
    message: str = "Your card was declined."


_GENERIC = Decline("card_declined", "generic_decline")
_FUNDS = Decline("card_declined", "insufficient_funds", "Your card has insufficient funds.")


class Card(msgspec.Struct, frozen=True):
    """How a card behaves. `charge` refuses every payment, `renewal` those of renewals only.

    `authentication` is when the customer has to authenticate: `always`, `setup` (not again once
    it was set up), `never`.
    """

    brand: str = "visa"
    last4: str = "4242"
    attach: Decline | None = None
    charge: Decline | None = None
    renewal: Decline | None = None
    authentication: str = "never"
    country: str = "US"
    funding: str = "credit"


CARDS: dict[str, Card] = {
    "pm_card_visa": Card(),
    "pm_card_visa_debit": Card(last4="5556", funding="debit"),
    "pm_card_mastercard": Card("mastercard", "4444"),
    "pm_card_mastercard_debit": Card("mastercard", "8210", funding="debit"),
    "pm_card_mastercard_prepaid": Card("mastercard", "5100", funding="prepaid"),
    "pm_card_amex": Card("amex", "8431"),
    "pm_card_discover": Card("discover", "1117"),
    "pm_card_diners": Card("diners", "0004"),
    "pm_card_jcb": Card("jcb", "0505"),
    "pm_card_unionpay": Card("unionpay", "0005"),
    "pm_card_us": Card(),
    "pm_card_de": Card(last4="0008", country="DE"),
    "pm_card_fr": Card(last4="0003", country="FR"),
    "pm_card_gb": Card(last4="0000", country="GB"),
    # Refused when they are to be attached.
    "pm_card_chargeDeclined": Card(last4="0002", attach=_GENERIC),
    "pm_card_visa_chargeDeclined": Card(last4="0002", attach=_GENERIC),
    "pm_card_visa_chargeDeclinedInsufficientFunds": Card(last4="9995", attach=_FUNDS),
    "pm_card_chargeDeclinedInsufficientFunds": Card(last4="9995", attach=_FUNDS),
    "pm_card_visa_chargeDeclinedLostCard": Card(
        last4="9987", attach=Decline("card_declined", "lost_card")
    ),
    "pm_card_visa_chargeDeclinedStolenCard": Card(
        last4="9979", attach=Decline("card_declined", "stolen_card")
    ),
    "pm_card_chargeDeclinedExpiredCard": Card(
        last4="0069", attach=Decline("expired_card", "expired_card", "Your card has expired.")
    ),
    "pm_card_chargeDeclinedIncorrectCvc": Card(
        last4="0127",
        attach=Decline("incorrect_cvc", "incorrect_cvc", "Your card's security code is incorrect."),
    ),
    "pm_card_chargeDeclinedProcessingError": Card(
        last4="0119",
        attach=Decline(
            "processing_error",
            "processing_error",
            "An error occurred while processing your card. Try again in a little bit.",
        ),
    ),
    "pm_card_visa_chargeDeclinedVelocityLimitExceeded": Card(
        last4="6975", attach=Decline("card_declined", "card_velocity_exceeded")
    ),
    "pm_card_chargeDeclinedFraudulent": Card(
        last4="0019", attach=Decline("card_declined", "fraudulent")
    ),
    # Attached, then every payment fails.
    "pm_card_chargeCustomerFail": Card(last4="0341", charge=_GENERIC),
    # 3-D Secure.
    "pm_card_authenticationRequired": Card(last4="3184", authentication="always"),
    "pm_card_threeDSecure2Required": Card(last4="3220", authentication="always"),
    "pm_card_threeDSecureRequired": Card(last4="3063", authentication="always"),
    "pm_card_authenticationRequiredOnSetup": Card(last4="3155", authentication="setup"),
    "pm_card_authenticationRequiredSetupForOffSession": Card(last4="3155", authentication="setup"),
    "pm_card_authenticationRequiredChargeDeclinedInsufficientFunds": Card(
        last4="9235", authentication="always", charge=_FUNDS
    ),
    "pm_card_threeDSecureOptional": Card(last4="3055"),
    # Our own, not Stripe's.
    "pm_card_visa_declinesAtRenewal": Card(last4="7001", renewal=_GENERIC),
    "pm_card_chargeCustomerFailInsufficientFunds": Card(last4="7002", charge=_FUNDS),
    "pm_card_authenticationRequiredAtRenewal": Card(last4="7003", authentication="renewal"),
}

plain_shape("payment_method", stripe.PaymentMethod)
plain_shape("setup_intent", stripe.SetupIntent)


def declined(decline: Decline, **details: Any) -> CardError:
    return CardError(
        decline.message, code=decline.code, decline_code=decline.decline_code, **details
    )


def card_of(method: Json) -> Card:
    return CARDS[method["_card"]]


def method_of(tx: Transaction, id: str, customer: str, param: str) -> Json:
    """A payment method that this customer has."""
    method = tx.need(id, "payment_method", param)
    if method["customer"] != customer:
        raise invalid(
            f"The customer does not have a payment method with the ID {id}. The payment method "
            "must be attached to the customer.",
            param,
            "resource_missing",
        )
    return method


def attach(tx: Transaction, id: str, customer: Json) -> Json:
    """Attach a payment method, or a named test card as a new one."""
    method = tx.get(id)
    if method is None and id in CARDS:
        card = CARDS[id]
        if card.attach:
            raise declined(card.attach)
        method = _new_method(tx, id, customer)
    method = tx.need(method["id"] if method else id, "payment_method", "payment_method")
    if method["customer"] not in (None, customer["id"]):
        raise invalid("The payment method is already attached to another customer.")
    if method["_detached"]:
        raise invalid(
            "This PaymentMethod was previously used or detached from a Customer, and may not be "
            "used again."
        )
    if method["customer"] is None:
        method["customer"] = customer["id"]
        tx.save(method)
        emit(tx, "payment_method.attached", method)
    return method


def _new_method(tx: Transaction, name: str, customer: Json) -> Json:
    card = CARDS[name]
    method = {
        "id": make_id("pm"),
        "object": "payment_method",
        "allow_redisplay": "unspecified",
        "billing_details": {
            "address": dict.fromkeys(("city", "country", "line1", "line2", "postal_code", "state")),
            "email": customer["email"],
            "name": customer["name"],
            "phone": None,
            "tax_id": None,
        },
        "card": _card_details(card),
        "created": now(tx, customer),
        "customer": None,
        "livemode": False,
        "metadata": {},
        "test_clock": customer["test_clock"],
        "type": "card",
        "_card": name,
        "_detached": False,
        "_set_up": False,
    }
    return tx.save(method)


def _card_details(card: Card) -> Json:
    return {
        "brand": card.brand,
        "checks": {
            "address_line1_check": None,
            "address_postal_code_check": None,
            "cvc_check": "pass",
        },
        "country": card.country,
        "description": None,
        "display_brand": card.brand,
        "exp_month": 12,
        "exp_year": 2040,
        "fingerprint": f"sandbox{card.brand}{card.last4}",
        "funding": card.funding,
        "generated_from": None,
        "iin": None,
        "issuer": None,
        "last4": card.last4,
        "networks": {"available": [card.brand], "preferred": None},
        "regulated_status": "unregulated",
        "three_d_secure_usage": {"supported": True},
        "wallet": None,
    }


@endpoint("POST", "/v1/payment_methods/{id}/attach", "PaymentMethodAttachParams", "customer")
def attach_method(call: Call) -> Json:
    if "customer" not in call.params:
        raise invalid("Missing required param: customer.", "customer", "parameter_missing")
    customer = call.tx.need(call.params["customer"], "customer", "customer")
    if call.tx.get(call.path["id"]) is None and call.path["id"] not in CARDS:
        raise missing("PaymentMethod", call.path["id"], "payment_method")
    return render(call.tx, attach(call.tx, call.path["id"], customer))


@endpoint("POST", "/v1/payment_methods/{id}/detach", "PaymentMethodDetachParams", "")
def detach_method(call: Call) -> Json:
    tx = call.tx
    method = tx.need(call.path["id"], "payment_method")
    if method["customer"] is None:
        raise invalid("The payment method you provided is not attached to a customer.")
    customer = tx.need(method["customer"], "customer", "customer")
    before = render(tx, method)
    method |= {"customer": None, "_detached": True}
    tx.save(method)
    _forget(tx, customer, method["id"])
    emit(tx, "payment_method.detached", method, before)
    return render(tx, method)


def _forget(tx: Transaction, customer: Json, method: str) -> None:
    """No default may point to a detached payment method."""
    if customer["invoice_settings"]["default_payment_method"] == method:
        before = render(tx, customer)
        customer["invoice_settings"] |= {"default_payment_method": None}
        tx.save(customer)
        emit(tx, "customer.updated", customer, before)
    for sub in tx.find("subscription", customer=customer["id"]):
        if sub["default_payment_method"] == method:
            before = render(tx, sub)
            sub["default_payment_method"] = None
            tx.save(sub)
            emit(tx, "customer.subscription.updated", sub, before)


@endpoint("GET", "/v1/payment_methods/{id}", "PaymentMethodRetrieveParams", "")
def retrieve_method(call: Call) -> Json:
    return render(call.tx, call.tx.need(call.path["id"], "payment_method"))


@endpoint(
    "POST", "/v1/payment_methods/{id}", "PaymentMethodUpdateParams", "metadata allow_redisplay"
)
def update_method(call: Call) -> Json:
    tx = call.tx
    method = tx.need(call.path["id"], "payment_method")
    before = render(tx, method)
    method["metadata"] = merge_metadata(method["metadata"], call.params.get("metadata"))
    if "allow_redisplay" in call.params:
        method["allow_redisplay"] = call.params["allow_redisplay"]
    tx.save(method)
    emit(tx, "payment_method.updated", method, before)
    return render(tx, method)


@endpoint("GET", "/v1/payment_methods", "PaymentMethodListParams", f"customer type {PAGE}")
def list_methods(call: Call) -> Json:
    return _list(call, call.params.get("customer"), "/v1/payment_methods")


@endpoint(
    "GET",
    "/v1/customers/{id}/payment_methods",
    "CustomerPaymentMethodListParams",
    f"type {PAGE}",
)
def list_customer_methods(call: Call) -> Json:
    customer = call.tx.need(call.path["id"], "customer")
    return _list(call, customer["id"], f"/v1/customers/{customer['id']}/payment_methods")


@endpoint(
    "GET",
    "/v1/customers/{id}/payment_methods/{method}",
    "CustomerPaymentMethodRetrieveParams",
    "",
)
def retrieve_customer_method(call: Call) -> Json:
    method = call.tx.need(call.path["method"], "payment_method")
    if method["customer"] != call.path["id"]:
        raise missing("PaymentMethod", call.path["method"])
    return render(call.tx, method)


def _list(call: Call, customer: str | None, url: str) -> Json:
    wanted = call.params.get("type")
    if customer is None:
        raise invalid("Missing required param: customer.", "customer", "parameter_missing")
    call.tx.need(customer, "customer", "customer")
    return page(
        call.tx,
        url,
        "payment_method",
        call.params,
        lambda method: wanted in (None, method["type"]),
        customer=customer,
    )


# --- setup intents


@endpoint(
    "POST",
    "/v1/setup_intents",
    "SetupIntentCreateParams",
    "customer payment_method allowed_payment_method_types usage metadata description confirm "
    "automatic_payment_methods return_url",
)
def create_setup_intent(call: Call) -> Json:
    tx, p = call.tx, call.params
    customer = tx.need(p["customer"], "customer", "customer") if p.get("customer") else None
    intent = new_setup_intent(tx, customer, metadata=merge_metadata({}, p.get("metadata")))
    intent |= {k: p[k] for k in ("usage", "description", "allowed_payment_method_types") if k in p}
    if p.get("payment_method"):
        _take(tx, intent, p["payment_method"])
    tx.save(intent)
    emit(tx, "setup_intent.created", intent)
    if p.get("confirm"):
        confirm_setup(tx, intent)
    return render(tx, intent)


def new_setup_intent(tx: Transaction, customer: Json | None, **fields: Any) -> Json:
    id = make_id("seti")
    intent: Json = {
        "id": id,
        "object": "setup_intent",
        "cancellation_reason": None,
        "client_secret": f"{id}_secret_{make_id('s')[2:]}",
        "created": now(tx, customer) if customer else tx.wall,
        "customer": customer["id"] if customer else None,
        "last_setup_error": None,
        "livemode": False,
        "metadata": {},
        "next_action": None,
        "payment_method": None,
        "payment_method_types": ["card"],
        "status": "requires_payment_method",
        "usage": "off_session",
        "test_clock": customer["test_clock"] if customer else None,
        "_card_name": None,
    } | fields
    return tx.save(intent)


def _take(tx: Transaction, intent: Json, id: str) -> None:
    """Note the payment method; a named test card is attached once it is confirmed."""
    if tx.get(id) is None and id in CARDS:
        intent["_card_name"] = id
    else:
        intent["payment_method"] = tx.need(id, "payment_method", "payment_method")["id"]
    intent["status"] = "requires_confirmation"


def confirm_setup(tx: Transaction, intent: Json, *, authenticated: bool = False) -> None:
    """Set the card up: succeed, ask for authentication, or note the error and raise it."""
    name = intent["_card_name"]
    method = tx.get(intent["payment_method"]) if intent["payment_method"] else None
    card = CARDS[name] if name else card_of(method) if method else None
    if card is None:
        raise invalid("You cannot confirm this SetupIntent because it's missing a payment method.")
    if card.attach:
        intent |= {"status": "requires_payment_method", "_card_name": None}
        error = declined(card.attach)
        intent["last_setup_error"] = error.body
        tx.save(intent)
        emit(tx, "setup_intent.setup_failed", intent)
        error.keeps_effects = True
        raise error
    if card.authentication in ("always", "setup") and not authenticated:
        intent |= {"status": "requires_action", "next_action": {"type": "use_stripe_sdk"}}
        tx.save(intent)
        emit(tx, "setup_intent.requires_action", intent)
        return
    if intent["customer"]:
        customer = tx.need(intent["customer"], "customer", "customer")
        method = attach(tx, name or intent["payment_method"], customer)
        method["_set_up"] = True
        tx.save(method)
        intent["payment_method"] = method["id"]
    intent |= {"status": "succeeded", "next_action": None, "last_setup_error": None}
    tx.save(intent)
    emit(tx, "setup_intent.succeeded", intent)


def fail_authentication(tx: Transaction, intent: Json) -> None:
    """The customer did not pass 3-D Secure: another card is needed."""
    intent |= {
        "status": "requires_payment_method",
        "next_action": None,
        "last_setup_error": CardError(
            "We are unable to authenticate your payment method.",
            code="setup_intent_authentication_failure",
        ).body,
        "_card_name": None,
    }
    tx.save(intent)
    emit(tx, "setup_intent.setup_failed", intent)


@endpoint("GET", "/v1/setup_intents/{id}", "SetupIntentRetrieveParams", "")
def retrieve_setup_intent(call: Call) -> Json:
    return render(call.tx, call.tx.need(call.path["id"], "setup_intent"))


@endpoint("GET", "/v1/setup_intents", "SetupIntentListParams", f"customer payment_method {PAGE}")
def list_setup_intents(call: Call) -> Json:
    p = call.params
    return page(
        call.tx,
        "/v1/setup_intents",
        "setup_intent",
        p,
        lambda i: (
            p.get("customer") in (None, i["customer"])
            and p.get("payment_method") in (None, i["payment_method"])
        ),
    )


@endpoint(
    "POST",
    "/v1/setup_intents/{id}/confirm",
    "SetupIntentConfirmParams",
    "payment_method return_url",
)
def confirm_setup_intent(call: Call) -> Json:
    tx = call.tx
    intent = tx.need(call.path["id"], "setup_intent")
    if intent["status"] in ("succeeded", "canceled"):
        raise invalid(
            f"You cannot confirm this SetupIntent because it has a status of {intent['status']}.",
            code="setup_intent_unexpected_state",
        )
    if call.params.get("payment_method"):
        _take(tx, intent, call.params["payment_method"])
    confirm_setup(tx, intent)
    return render(tx, intent)


@endpoint("POST", "/v1/setup_intents/{id}/cancel", "SetupIntentCancelParams", "cancellation_reason")
def cancel_setup_intent(call: Call) -> Json:
    tx = call.tx
    intent = tx.need(call.path["id"], "setup_intent")
    if intent["status"] in ("succeeded", "canceled"):
        raise invalid(
            f"You cannot cancel this SetupIntent because it has a status of {intent['status']}.",
            code="setup_intent_unexpected_state",
        )
    intent |= {
        "status": "canceled",
        "cancellation_reason": call.params.get("cancellation_reason"),
        "next_action": None,
    }
    tx.save(intent)
    emit(tx, "setup_intent.canceled", intent)
    return render(tx, intent)
