"""A sandbox behind real HTTP and the SDK that calls it; each answer is held against its types."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import stripe
import uvicorn

from entitlements.sandbox.app import create_app
from tests.conformance import mistakes

AUGUST_6 = 1596749288
"""The start of the period in Stripe's own proration example."""
DAY = 86_400


class Served:
    """A sandbox on a loopback port, in a thread."""

    def __init__(self, data_file: Any = None, **options: Any) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        app = create_app(data_file, public_url=self.url, **options)
        config = uvicorn.Config(app, log_level="error", lifespan="on")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True
        )
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    sandbox = Served()
    yield sandbox
    sandbox.stop()


@pytest.fixture
def url(served: Served) -> str:
    return served.url


class Checked(stripe.RequestsClient):
    """The SDK's own HTTP client, which fails the test on an answer that its types do not allow."""

    def request(self, *args: Any, **options: Any) -> Any:
        content, status, headers = super().request(*args, **options)
        body = json.loads(content)
        found = [] if "error" in body else mistakes(body)
        assert not found, found
        return content, status, headers


def sdk(url: str, **options: Any) -> stripe.StripeClient:
    settings: Any = {"max_network_retries": 0, "http_client": Checked()} | options
    return stripe.StripeClient("sk_test_sandbox", base_addresses={"api": url}, **settings)


@pytest.fixture(scope="module")
def client(served: Served) -> stripe.StripeClient:
    return sdk(served.url)


@pytest.fixture
def raw(url: str) -> Iterator[httpx.Client]:
    """Plain HTTP, for what the SDK would not send."""
    with httpx.Client(
        base_url=url, headers={"Authorization": "Bearer sk_test_x"}, trust_env=False
    ) as http:
        yield http


class World:
    """A customer on a test clock of their own, with a card, and prices to buy."""

    def __init__(self, client: stripe.StripeClient, start: int = AUGUST_6, **customer: Any) -> None:
        self.client = client
        self.v1 = client.v1
        self.clock = self.v1.test_helpers.test_clocks.create({"frozen_time": start}).id
        self.now = start
        given: Any = {"name": "Ada", "email": "ada@example.com", "test_clock": self.clock}
        self.customer = self.v1.customers.create(given | customer).id
        self.product = self.v1.products.create({"name": "Pro"}).id

    def card(self, name: str = "pm_card_visa") -> str:
        method = self.v1.payment_methods.attach(name, {"customer": self.customer})
        self.v1.customers.update(
            self.customer, {"invoice_settings": {"default_payment_method": method.id}}
        )
        return method.id

    def price(self, amount: int | None = 1000, interval: str = "month", **more: Any) -> str:
        params: dict[str, Any] = {
            "product": self.product,
            "currency": "usd",
            "recurring": {"interval": interval},
        } | more
        if amount is not None:
            params["unit_amount"] = amount
        return self.v1.prices.create(params).id  # type: ignore[arg-type]

    def subscribe(self, *prices: str, **more: Any) -> stripe.Subscription:
        params: Any = {"customer": self.customer, "items": [{"price": p} for p in prices]} | more
        return self.v1.subscriptions.create(params)

    def advance(self, to: int) -> None:
        clock = self.v1.test_helpers.test_clocks.advance(self.clock, {"frozen_time": to})
        while clock.status != "ready":
            time.sleep(0.01)
            clock = self.v1.test_helpers.test_clocks.retrieve(self.clock)
        self.now = to

    def invoices(self, **more: Any) -> list[stripe.Invoice]:
        """Oldest first."""
        params: Any = {"customer": self.customer, "limit": 100} | more
        return list(reversed(self.v1.invoices.list(params).data))

    def events(self, *types: str) -> list[str]:
        """Which of these the customer has seen, oldest first."""
        found = self.v1.events.list({"limit": 100, "types": list(types)}).auto_paging_iter()
        mine = [e.type for e in found if self.customer in str(e.data.object)]
        return list(reversed(mine))


@pytest.fixture
def world(client: stripe.StripeClient) -> World:
    return World(client)


@pytest.fixture
def new_world(client: stripe.StripeClient) -> Callable[..., World]:
    return lambda **more: World(client, **more)


def lines_of(invoice: stripe.Invoice) -> list[int]:
    return [line.amount for line in invoice.lines.data]


def refused(call: Callable[[], Any]) -> Any:
    """The SDK's error for a call that is refused."""
    with pytest.raises(stripe.StripeError) as caught:
        call()
    return caught.value
