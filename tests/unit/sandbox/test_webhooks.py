"""Events reach the endpoints that asked for them: signed, at least once, also after a restart."""

import contextlib
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import stripe

from entitlements.sandbox import deliveries
from tests.unit.sandbox.conftest import Served, refused, sdk


class Receiver:
    """An HTTP server that notes what it is sent; `status` is what it answers, `after_seconds`."""

    def __init__(self, port: int = 0) -> None:
        self.got: list[tuple[bytes, str]] = []
        self.status = 200
        self.after_seconds = 0.0
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.got.append((body, self.headers["stripe-signature"]))
                time.sleep(receiver.after_seconds)
                with contextlib.suppress(ConnectionError):  # nobody waits for it any more
                    self.send_response(receiver.status)
                    self.end_headers()

            def log_message(self, *args: Any) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def types(self) -> list[str]:
        return [json.loads(body)["type"] for body, _ in self.got]

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.stop()


@pytest.fixture
def hook(client: stripe.StripeClient, receiver: Receiver) -> Iterator[stripe.WebhookEndpoint]:
    made = client.v1.webhook_endpoints.create(
        {"url": receiver.url, "enabled_events": ["customer.created", "customer.updated"]}
    )
    yield made
    client.v1.webhook_endpoints.delete(made.id)


def until(happened: Callable[[], Any], seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def test_an_event_is_sent_as_the_sdk_verifies_it(
    client: stripe.StripeClient, receiver: Receiver, hook: stripe.WebhookEndpoint
) -> None:
    assert hook.secret is not None
    client.v1.products.create({"name": "nobody asked"})
    customer = client.v1.customers.create({"name": "Ada"})
    client.v1.customers.update(customer.id, {"name": "Bea"})
    until(lambda: len(receiver.got) == 2)
    body, signature = next(g for g in receiver.got if b"customer.updated" in g[0])
    event = stripe.Webhook.construct_event(body, signature, hook.secret)
    assert event.data.object["name"] == "Bea"
    assert event.data.previous_attributes is not None
    assert event.data.previous_attributes["name"] == "Ada"
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.Webhook.construct_event(body + b" ", signature, hook.secret)
    until(lambda: client.v1.events.retrieve(event.id).pending_webhooks == 0)
    assert "secret" not in json.dumps(
        {k: v for k, v in client.v1.webhook_endpoints.retrieve(hook.id).to_dict().items() if v}
    )


def test_a_failed_delivery_is_retried(
    client: stripe.StripeClient, receiver: Receiver, hook: stripe.WebhookEndpoint
) -> None:
    receiver.status = 500
    client.v1.customers.create({"name": "Ada"})
    until(lambda: receiver.got)
    event = json.loads(receiver.got[0][0])["id"]
    missed = client.v1.events.list({"delivery_success": False, "type": "customer.created"})
    assert event in [e.id for e in missed.data]
    receiver.status = 200
    until(lambda: len(receiver.got) == 2)
    assert json.loads(receiver.got[1][0])["id"] == event


def test_a_receiver_that_is_too_slow_is_sent_it_again(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "TIMEOUT_SECONDS", 0.2)
    served = Served()
    client = sdk(served.url)
    receiver.after_seconds = 0.6
    client.v1.webhook_endpoints.create(
        {"url": receiver.url, "enabled_events": ["customer.created"]}
    )
    client.v1.customers.create({"name": "Ada"})
    until(lambda: receiver.got)
    receiver.after_seconds = 0
    until(lambda: len(receiver.got) == 2)
    until(lambda: not client.v1.events.list({"delivery_success": False}).data)
    served.stop()


@pytest.mark.parametrize(
    ("kind", "times"), [("webhook_duplicate", 2), ("webhook_drop", 0), ("webhook_delay", 1)]
)
def test_webhooks_misbehave_on_request(
    client: stripe.StripeClient,
    raw: httpx.Client,
    receiver: Receiver,
    hook: stripe.WebhookEndpoint,
    kind: str,
    times: int,
) -> None:
    raw.post("/_sandbox/faults", json={"kind": kind, "types": ["customer.*"], "seconds": 0.1})
    client.v1.customers.create({"name": "Ada"})
    until(lambda: len(receiver.got) >= times)
    time.sleep(0.3)
    assert len(receiver.got) == times


def test_webhooks_can_be_reordered(
    client: stripe.StripeClient,
    raw: httpx.Client,
    receiver: Receiver,
    hook: stripe.WebhookEndpoint,
) -> None:
    raw.post("/_sandbox/faults", json={"kind": "webhook_reorder", "types": ["customer.created"]})
    customer = client.v1.customers.create({"name": "Ada"})
    client.v1.customers.update(customer.id, {"name": "Bea"})
    until(lambda: len(receiver.got) == 2)
    assert receiver.types() == ["customer.updated", "customer.created"]


def test_what_was_not_delivered_is_delivered_after_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "stripe.db"
    away = Receiver()
    port = away.port
    away.stop()
    first = Served(file)
    client = sdk(first.url)
    client.v1.webhook_endpoints.create({"url": away.url, "enabled_events": ["*"]})
    client.v1.customers.create({"name": "Ada"})
    before = time.monotonic()
    first.stop()
    assert time.monotonic() - before < 2
    back = Receiver(port)
    second = Served(file)
    try:
        until(lambda: "customer.created" in back.types())
    finally:
        second.stop()
        back.stop()


def test_endpoints_are_checked(client: stripe.StripeClient) -> None:
    create = client.v1.webhook_endpoints.create
    hook = create({"url": "http://x.test", "enabled_events": ["*"]})
    disabled = client.v1.webhook_endpoints.update(hook.id, {"disabled": True})
    assert disabled.status == "disabled"
    client.v1.webhook_endpoints.delete(hook.id)
    old: Any = {"url": "http://x.test", "enabled_events": ["*"], "api_version": "2020-08-27"}
    assert refused(lambda: create(old)).param == "api_version"
