"""Pages for people: what is there, the hosted invoice, Checkout; and the control path for tests.

`/_sandbox/…` takes and answers JSON: faults, the dunning setting, and the end of an
authentication without a browser.
"""

import html
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from entitlements.kernel.money import Money
from entitlements.sandbox import cards, checkout, payments
from entitlements.sandbox.engine import Engine
from entitlements.sandbox.errors import Json, StripeError, missing
from entitlements.sandbox.faults import Fault
from entitlements.sandbox.intents import intent_of
from entitlements.sandbox.store import Transaction

_ROWS = 50
_OFFERED = (
    ("pm_card_visa", "Visa that works"),
    ("pm_card_mastercard", "Mastercard that works"),
    ("pm_card_authenticationRequired", "Card that needs 3-D Secure"),
    ("pm_card_chargeCustomerFail", "Card that can be saved and then fails"),
    ("pm_card_visa_declinesAtRenewal", "Card that works once and fails at renewals"),
    ("pm_card_chargeDeclined", "Card that is declined"),
)


def page_routes(engine: Engine) -> list[Route]:
    pages = _Pages(engine)
    return [
        Route("/", pages.overview),
        Route("/invoice/{key}", pages.invoice, methods=["GET", "POST"]),
        Route("/invoice/{key}/pdf", pages.invoice),
        Route("/checkout/{id}", pages.checkout, methods=["GET", "POST"]),
        Route("/_sandbox/faults", pages.faults, methods=["GET", "POST", "DELETE"]),
        Route("/_sandbox/settings", pages.settings, methods=["GET", "POST"]),
        Route("/_sandbox/authenticate/{id}", pages.authenticate, methods=["POST"]),
    ]


class _Pages:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    # --- overview

    async def overview(self, request: Request) -> Response:
        with self.engine.transaction() as tx:
            tables = [
                _table("Customers", _latest(tx, "customer"), _customer_row),
                _table("Subscriptions", _latest(tx, "subscription"), _subscription_row),
                _table("Invoices", _latest(tx, "invoice"), _invoice_row),
                _table("Events", _latest(tx, "event"), _event_row),
            ]
        return _page("Sandbox Stripe", "".join(tables))

    # --- hosted invoice

    async def invoice(self, request: Request) -> Response:
        form = await _form(request)
        note = ""
        with self.engine.transaction() as tx:
            invoice = _invoice_by_key(tx, request.path_params["key"])
            if invoice is None:
                return _page("No such invoice", "", status=404)
            if request.method == "POST":
                note = _act_on_invoice(tx, invoice, form)
            body = _invoice_body(tx, invoice, note)
        self.engine.after_commit()
        return _page(f"Invoice {invoice['number'] or ''}", body)

    # --- checkout

    async def checkout(self, request: Request) -> Response:
        form = await _form(request)
        with self.engine.transaction() as tx:
            session = tx.get(request.path_params["id"])
            if session is None or session["object"] != "checkout.session":
                return _page("No such session", "", status=404)
            if session["status"] != "open":
                body = f"<p>This session is {html.escape(session['status'])}.</p>"
                return _page("Save a card", body, status=410)
            answer = _act_on_session(tx, session, form)
        self.engine.after_commit()
        return answer

    # --- control

    async def faults(self, request: Request) -> Response:
        if request.method == "POST":
            try:
                fault = msgspec.convert(await _json(request), Fault)
            except (msgspec.ValidationError, ValueError) as error:
                return JSONResponse({"error": str(error)}, 400)
            self.engine.faults.active.append(fault)
        elif request.method == "DELETE":
            self.engine.faults.active.clear()
        return JSONResponse(msgspec.to_builtins(self.engine.faults.active))

    async def settings(self, request: Request) -> Response:
        with self.engine.transaction() as tx:
            if request.method == "POST":
                try:
                    given = msgspec.convert(await _json(request), Settings)
                except (msgspec.ValidationError, ValueError) as error:
                    return JSONResponse({"error": str(error)}, 400)
                tx.set_setting("dunning_end", given.dunning_end)
            return JSONResponse({"dunning_end": tx.setting("dunning_end", "canceled")})

    async def authenticate(self, request: Request) -> Response:
        """Ends the 3-D Secure of a payment or setup intent: `{"result": "pass" | "fail"}`."""
        try:
            passed = (await _json(request))["result"] == "pass"
        except (ValueError, KeyError, TypeError):
            return JSONResponse({"error": "pass a result"}, 400)
        try:
            with self.engine.transaction() as tx:
                status = _authenticate(tx, request.path_params["id"], passed=passed)
        except StripeError as error:
            return JSONResponse({"error": error.body}, error.status)
        self.engine.after_commit()
        return JSONResponse({"status": status})


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    """What the account does after the last retry of a failed renewal."""

    dunning_end: str = "canceled"

    def __post_init__(self) -> None:
        if self.dunning_end not in ("canceled", "unpaid", "past_due"):
            raise ValueError("dunning_end is canceled, unpaid or past_due")


# --- actions


def _authenticate(tx: Transaction, id: str, *, passed: bool) -> str:
    intent = tx.get(id)
    if intent is None or intent["object"] not in ("payment_intent", "setup_intent"):
        raise missing("intent", id)
    if intent["object"] == "payment_intent":
        invoice = tx.need(intent["_parent"], "invoice")
        payments.authenticate(tx, invoice, passed=passed)
    else:
        _authenticate_setup(tx, intent, passed=passed)
    return str(intent["status"])


def _authenticate_setup(tx: Transaction, intent: Json, *, passed: bool) -> None:
    if intent["status"] != "requires_action":
        raise StripeError(400, "This setup does not wait for authentication.")
    if passed:
        cards.confirm_setup(tx, intent, authenticated=True)
    else:
        cards.fail_authentication(tx, intent)


def _act_on_invoice(tx: Transaction, invoice: Json, form: dict[str, str]) -> str:
    """Pay, or end the authentication; answers what to tell."""
    action = form.get("action", "")
    if invoice["status"] not in ("open", "uncollectible"):
        return f"Nothing to do: the invoice is {invoice['status']}."
    try:
        if action in ("authenticate", "refuse"):
            outcome = payments.authenticate(tx, invoice, passed=action == "authenticate")
        else:
            customer = tx.need(invoice["customer"], "customer")
            name = form.get("card")
            method = cards.attach(tx, name, customer) if name else None
            outcome = payments.attempt(tx, invoice, method)
    except StripeError as error:
        return str(error)
    return {
        payments.PAID: "Paid. Thank you.",
        payments.FAILED: "The payment failed.",
        payments.ACTION: "Your bank asks you to confirm this payment.",
    }[outcome]


def _act_on_session(tx: Transaction, session: Json, form: dict[str, str]) -> Response:
    action = form.get("action", "")
    note = ""
    if action == "cancel":
        return RedirectResponse(session["cancel_url"] or session["success_url"], 303)
    try:
        if action == "authenticate":
            outcome = checkout.complete(tx, session, None, authenticated=True)
        elif action == "refuse":
            cards.fail_authentication(tx, tx.need(session["setup_intent"], "setup_intent"))
            outcome, note = "open", "The authentication failed. Choose another card."
        elif "card" in form:
            if form["card"] not in cards.CARDS:
                raise missing("PaymentMethod", form["card"], "card")
            outcome = checkout.complete(tx, session, form["card"], authenticated=False)
        else:
            outcome = "open"
    except StripeError as error:
        outcome, note = "open", str(error)
    if outcome == "complete":
        return RedirectResponse(checkout.success_url(session), 303)
    return _page("Save a card", _session_body(tx, session, note))


# --- html


def _invoice_by_key(tx: Transaction, key: str) -> Json | None:
    return next(iter(tx.find("invoice", lookup=key)), None)


def _invoice_body(tx: Transaction, invoice: Json, note: str) -> str:
    rows = "".join(
        f"<tr><td>{_text(line['description'])}</td>"
        f"<td class=n>{_money(line['amount'], invoice['currency'])}</td></tr>"
        for line in invoice["_lines"]
    )
    due = _money(invoice["amount_due"], invoice["currency"])
    body = (
        f"<p>{_text(note)}</p><p>Status: <b>{_text(invoice['status'])}</b></p>"
        f"<table>{rows}<tr><th>Due</th><th class=n>{due}</th></tr></table>"
    )
    if invoice["status"] != "open":
        return body
    intent = intent_of(tx, invoice)
    if intent and intent["status"] == "requires_action":
        return body + _buttons((("authenticate", "Complete 3-D Secure"), ("refuse", "Fail it")))
    return body + _buttons((("pay", "Pay with the saved card"),)) + _card_buttons()


def _session_body(tx: Transaction, session: Json, note: str) -> str:
    intent = tx.need(session["setup_intent"], "setup_intent")
    body = f"<p>{_text(note)}</p><p>Choose the card to save.</p>"
    if intent["status"] == "requires_action":
        return body + _buttons((("authenticate", "Complete 3-D Secure"), ("refuse", "Fail it")))
    return body + _card_buttons() + _buttons((("cancel", "Back without a card"),))


def _buttons(actions: Iterable[tuple[str, str]]) -> str:
    return "".join(
        f'<form method=post><button name=action value="{a}">{_text(label)}</button></form>'
        for a, label in actions
    )


def _card_buttons() -> str:
    return "".join(
        f'<form method=post><button name=card value="{name}">{_text(label)} '
        f"(•••• {cards.CARDS[name].last4})</button></form>"
        for name, label in _OFFERED
    )


def _latest(tx: Transaction, kind: str) -> list[Json]:
    found = []
    for doc in tx.scan(kind):
        found.append(doc)
        if len(found) == _ROWS:
            break
    return found


def _table(title: str, docs: list[Json], row: Any) -> str:
    rows = "".join(
        "<tr>" + "".join(f"<td>{cell}</td>" for cell in row(doc)) + "</tr>" for doc in docs
    )
    return f"<h2>{title}</h2><table>{rows or '<tr><td>none yet</td></tr>'}</table>"


def _customer_row(doc: Json) -> list[str]:
    balance = _money(doc["balance"], doc["currency"] or "usd")
    return [_text(doc["id"]), _text(doc["name"]), _text(doc["email"]), f"balance {balance}"]


def _subscription_row(doc: Json) -> list[str]:
    end = min(item["current_period_end"] for item in doc["_items"])
    items = ", ".join(f"{i['quantity'] or 'metered'} × {i['price']}" for i in doc["_items"])
    return [
        _text(doc["id"]),
        _text(doc["customer"]),
        _text(doc["status"]),
        _text(items),
        f"until {_when(end)}",
    ]


def _invoice_row(doc: Json) -> list[str]:
    link = f'<a href="/invoice/{doc["_lookup"]}">{_text(doc["number"] or "draft")}</a>'
    return [
        link,
        _text(doc["customer"]),
        _text(doc["status"]),
        _money(doc["total"], doc["currency"]),
        _text(doc["billing_reason"]),
        _when(doc["created"]),
    ]


def _event_row(doc: Json) -> list[str]:
    about = doc["data"]["object"]
    return [_when(doc["created"]), _text(doc["type"]), _text(about.get("id"))]


def _money(amount: int, currency: str) -> str:
    return _text(Money(amount, currency).formatted())


def _when(at: int) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}"


def _text(value: Any) -> str:
    return html.escape("" if value is None else str(value))


_STYLE = (
    "body{font:16px/1.5 system-ui;margin:2rem auto;max-width:60rem;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid #ddd;padding:.3rem;"
    "text-align:left}.n{text-align:right}button{font:inherit;padding:.5rem 1rem;margin:.2rem 0}"
)


def _page(title: str, body: str, status: int = 200) -> HTMLResponse:
    text = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{_text(title)}</title>"
        f"<style>{_STYLE}</style><h1>{_text(title)}</h1>{body}"
        "<p><small>A sandbox: no money moves here.</small></p></html>"
    )
    return HTMLResponse(text, status)


async def _form(request: Request) -> dict[str, str]:
    body = await request.body()
    return dict(parse_qsl(body.decode("utf-8", "replace"), max_num_fields=20))


async def _json(request: Request) -> Any:
    return json.loads(await request.body() or b"{}")
