"""Checkout in setup mode, and the pages that people see."""

import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.unit.sandbox.conftest import World, refused

RETURN = "http://127.0.0.1:9/back?session={CHECKOUT_SESSION_ID}"
CANCEL = "http://127.0.0.1:9/cancelled"


@pytest.fixture
def browser() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, follow_redirects=False) as http:
        yield http


def session(world: World, **more: Any) -> Any:
    params: Any = {
        "mode": "setup",
        "customer": world.customer,
        "success_url": RETURN,
        "cancel_url": CANCEL,
        "currency": "usd",
    }
    return world.v1.checkout.sessions.create(params | more)


def test_checkout_saves_a_card_and_returns(world: World, browser: httpx.Client) -> None:
    made = session(world, metadata={"change": "chg_1"})
    assert "pm_card_visa" in browser.get(made.url).text
    declined = browser.post(made.url, data={"card": "pm_card_chargeDeclined"})
    assert "declined" in declined.text
    back = browser.post(made.url, data={"card": "pm_card_visa"})
    assert back.status_code == 303
    assert back.headers["location"] == RETURN.replace("{CHECKOUT_SESSION_ID}", made.id)
    done = world.v1.checkout.sessions.retrieve(made.id, {"expand": ["setup_intent.payment_method"]})
    assert (done.status, done.url) == ("complete", None)
    assert done.setup_intent.payment_method.customer == world.customer  # type: ignore[union-attr]
    assert world.events("checkout.session.completed") == ["checkout.session.completed"]
    assert browser.post(made.url, data={"card": "pm_card_visa"}).status_code == 410


def test_checkout_asks_for_authentication(world: World, browser: httpx.Client) -> None:
    made = session(world)
    asked = browser.post(made.url, data={"card": "pm_card_authenticationRequired"})
    assert "3-D Secure" in asked.text
    assert "Choose another card" in browser.post(made.url, data={"action": "refuse"}).text
    browser.post(made.url, data={"card": "pm_card_authenticationRequired"})
    assert browser.post(made.url, data={"action": "authenticate"}).status_code == 303


def test_checkout_can_be_left_and_expires(world: World, browser: httpx.Client) -> None:
    made = session(world)
    assert browser.post(made.url, data={"action": "cancel"}).headers["location"] == CANCEL
    assert world.v1.checkout.sessions.retrieve(made.id).status == "open"
    assert world.v1.checkout.sessions.expire(made.id).status == "expired"
    assert browser.get(made.url).status_code == 410
    soon = int(time.time()) + 60
    assert refused(lambda: session(world, expires_at=soon)).param == "expires_at"
    assert refused(lambda: session(world, mode="payment")).param == "mode"


def test_the_overview_shows_what_is_there_and_escapes_it(
    world: World, url: str, browser: httpx.Client
) -> None:
    world.v1.customers.create({"name": "<script>alert(1)</script>"})
    world.card()
    world.subscribe(world.price())
    text = browser.get(url).text
    assert "<script>" not in text
    assert world.customer in text
    invoice = re.search(r'href="(/invoice/[^"]+)"', text)
    assert invoice is not None
    assert "Due" in browser.get(url + invoice[1]).text
    assert browser.get(f"{url}/invoice/none").status_code == 404
