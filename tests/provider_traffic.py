"""All that passes between the service and the payment provider in a test, held against the rules.

Requests are checked by the sandbox itself, against the SDK's typed parameters; this checks the
answers and the events against its classes, and that each call of the service's has an idempotency
key of ours and a permission that the README asks for.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.conformance import mistakes

SERVICE_KEY = "sk_test_for_tests"
"""The API key of the service, which its calls are known by."""

README = Path(__file__).parent.parent / "README.md"

PERMISSIONS = {
    "billing/meter_events": "Billing Meter Events",
    "billing/meters": "Billing Meters",
    "checkout/sessions": "Checkout Sessions",
    "customers": "Customers",
    "events": "Events",
    "invoiceitems": "Invoices",
    "invoices": "Invoices",
    "payment_intents": "Payment Intents",
    "payment_methods": "Payment Methods",
    "prices": "Prices",
    "products": "Products",
    "setup_intents": "Setup Intents",
    "subscription_items": "Subscriptions",
    "subscription_schedules": "Subscriptions",
    "subscriptions": "Subscriptions",
}
"""What a restricted key of the provider's must be given, by the beginning of a path."""

EXPANDED = {
    "default_payment_method": "Payment Methods",
    "payment_intent": "Payment Intents",
    "setup_intent": "Setup Intents",
}

_MADE_UP_BY_THE_SDK = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Call(NamedTuple):
    """One call of the service's to the provider."""

    method: str
    path: str
    query: str
    idempotency_key: str | None
    status: int


class Traffic:
    """What passed. `mistakes` are differences between answers and the SDK's types."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.mistakes: list[str] = []

    def watch(self, app: ASGIApp) -> ASGIApp:
        async def watched(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
                await app(scope, receive, send)
                return
            status, body, whole = 0, bytearray(), False

            async def sending(message: Message) -> None:
                nonlocal status, whole
                if message["type"] == "http.response.start":
                    status = message["status"]
                else:
                    body.extend(message.get("body", b""))
                    whole = not message.get("more_body", False)
                await send(message)

            await app(scope, receive, sending)
            self._note(scope, status, bytes(body) if whole else b"")

        return watched

    def _note(self, scope: Scope, status: int, body: bytes) -> None:
        method, path = scope["method"], scope["path"]
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        if headers.get("authorization") == f"Bearer {SERVICE_KEY}":
            query = scope["query_string"].decode()
            key = headers.get("idempotency-key")
            self.calls.append(Call(method, path, query, key, status))
        if status == 200 and body:
            found = mistakes(json.loads(body))
            self.mistakes += [f"{method} {path}: {mistake}" for mistake in found]

    def check(self) -> None:
        """Fail where something that passed is not as it should be."""
        assert not self.mistakes, self.mistakes[:10]
        unnamed = [f"{call.method} {call.path}" for call in self.calls if _without_a_key(call)]
        assert not unnamed, f"without an idempotency key of ours: {unnamed}"
        refused = {need for call in self.calls for need in _needs(call)} - _granted()
        assert not refused, f"the README asks for no such permission of the key: {refused}"


def _without_a_key(call: Call) -> bool:
    """A preview is a POST that only reads: the SDK's own key will do."""
    if call.method != "POST" or call.path == "/v1/invoices/create_preview":
        return False
    return call.idempotency_key is None or bool(_MADE_UP_BY_THE_SDK.fullmatch(call.idempotency_key))


def _needs(call: Call) -> set[tuple[str, str]]:
    """Permissions, as `("read", "Prices")`. Test clocks are only there with a full test key."""
    path = call.path.removeprefix("/v1/")
    if path.startswith("test_helpers/"):
        return set()
    what = max((p for p in PERMISSIONS if path.startswith(p)), key=len, default=None)
    named = {("read" if call.method == "GET" else "write", PERMISSIONS[what] if what else path)}
    expanded = [value for name, value in parse_qsl(call.query) if name.startswith("expand")]
    last = {path.rpartition(".")[2] for path in expanded}
    return named | {("read", EXPANDED[name]) for name in last if name in EXPANDED}


@cache
def _granted() -> set[tuple[str, str]]:
    """What the README tells to give a restricted key; who may write may read."""
    words = re.sub(r" \(.*?\)", "", " ".join(README.read_text().split()))
    found = re.search(r"needs \*write\* for (.*?),? and \*read\* for (.*?)\.", words)
    assert found, "the README tells the permissions of a restricted key"
    write, read = (set(re.split(r", | and ", names)) for names in found.groups())
    return {("write", name) for name in write} | {("read", name) for name in write | read}
