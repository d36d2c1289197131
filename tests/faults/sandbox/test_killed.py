"""A sandbox that is killed keeps what it answered, and nothing by halves."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import stripe

_PROGRAM = """
import sys, uvicorn
from pathlib import Path
from entitlements.sandbox.app import create_app
app = create_app(Path(sys.argv[1]), public_url="http://127.0.0.1:" + sys.argv[2])
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="error")
"""


class Killable:
    def __init__(self, file: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen([sys.executable, "-c", _PROGRAM, str(file), str(port)])
        self.client = stripe.StripeClient(
            "sk_test_x", base_addresses={"api": self.url}, max_network_retries=0
        )
        end = time.monotonic() + 15
        while time.monotonic() < end:
            try:
                httpx.get(self.url, trust_env=False)
                return
            except httpx.TransportError:
                time.sleep(0.05)
        raise AssertionError("the sandbox did not start")

    def kill(self) -> None:
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()


def test_a_killed_sandbox_keeps_what_it_answered_and_nothing_by_halves(tmp_path: Path) -> None:
    file = tmp_path / "stripe.db"
    first = Killable(file)
    product = first.client.v1.products.create({"name": "Pro"}).id
    price: Any = {
        "product": product,
        "currency": "usd",
        "unit_amount": 1000,
        "recurring": {"interval": "month"},
    }
    price_id = first.client.v1.prices.create(price).id
    answered: list[str] = []

    def buy() -> None:
        for i in range(10_000):
            key = f"buy-{i}"
            try:
                customer = first.client.v1.customers.create(
                    {
                        "name": key,
                        "payment_method": "pm_card_visa",
                        "invoice_settings": {"default_payment_method": "pm_card_visa"},
                    }
                )
                sub: Any = {"customer": customer.id, "items": [{"price": price_id}]}
                made = first.client.v1.subscriptions.create(sub, {"idempotency_key": key})
            except stripe.APIConnectionError:
                return
            answered.append(made.id)

    buyer = threading.Thread(target=buy)
    buyer.start()
    while len(answered) < 20:
        time.sleep(0.01)
    first.kill()
    buyer.join()

    second = Killable(file)
    try:
        v1 = second.client.v1
        subs = {s.id: s for s in v1.subscriptions.list({"limit": 100}).auto_paging_iter()}
        invoices = list(v1.invoices.list({"limit": 100}).auto_paging_iter())
        created = v1.events.list({"limit": 100, "type": "customer.subscription.created"})
        assert set(answered) <= set(subs)
        assert len(invoices) == len(subs) == len(list(created.auto_paging_iter()))
        assert {s.latest_invoice for s in subs.values()} == {i.id for i in invoices}
        assert {(s.status) for s in subs.values()} == {"active"}
        assert {i.status for i in invoices} == {"paid"}
        last = len(answered) - 1
        again: Any = {
            "customer": subs[answered[last]].customer,
            "items": [{"price": price_id}],
        }
        replayed = v1.subscriptions.create(again, {"idempotency_key": f"buy-{last}"})
        assert replayed.id == answered[last]
    finally:
        second.kill()


def test_a_clock_that_was_advancing_goes_on_after_a_kill(tmp_path: Path) -> None:
    file = tmp_path / "stripe.db"
    start = 1_767_225_600
    first = Killable(file)
    v1 = first.client.v1
    clock = v1.test_helpers.test_clocks.create({"frozen_time": start}).id
    product = v1.products.create({"name": "Pro"}).id
    price: Any = {
        "product": product,
        "currency": "usd",
        "unit_amount": 1000,
        "recurring": {"interval": "month"},
    }
    price_id = v1.prices.create(price).id
    for i in range(10):
        customer = v1.customers.create(
            {
                "name": str(i),
                "test_clock": clock,
                "payment_method": "pm_card_visa",
                "invoice_settings": {"default_payment_method": "pm_card_visa"},
            }
        )
        v1.subscriptions.create({"customer": customer.id, "items": [{"price": price_id}]})
    target = start + 731 * 86_400
    assert v1.test_helpers.test_clocks.advance(clock, {"frozen_time": target}).status == "advancing"
    first.kill()

    second = Killable(file)
    try:
        v1 = second.client.v1
        end = time.monotonic() + 30
        while v1.test_helpers.test_clocks.retrieve(clock).status != "ready":
            assert time.monotonic() < end
            time.sleep(0.05)
        invoices = list(v1.invoices.list({"limit": 100}).auto_paging_iter())
        assert len(invoices) == 10 * 25
        assert {i.status for i in invoices} == {"paid"}
        periods = {(i.customer, i.lines.data[0].period.start) for i in invoices}
        assert len(periods) == len(invoices)
    finally:
        second.kill()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
