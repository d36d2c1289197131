"""After all that people do, no secret is in the database or in what was logged: looked for by what
it is. By its shape it is looked for after every test (`tests/conftest.py`)."""

import io
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import structlog

from entitlements.audit.ledger import Actor
from entitlements.server import keys
from entitlements.services import Services
from tests.api import Api
from tests.conftest import ADMIN_KEY
from tests.events import WEBHOOK_SECRET, signed
from tests.leaks import leaked
from tests.provider_traffic import SERVICE_KEY

CARD = r"\b[3-6]\d{12,15}\b"
"""The number of one."""


@pytest.fixture
def database_url(sqlite_database_url: str) -> str:
    return sqlite_database_url


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What is logged, as a server writes it."""
    written, before = io.StringIO(), structlog.get_config()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(written),
        cache_logger_on_first_use=False,
    )
    yield written
    structlog.configure(**before)


async def test_no_secret_stays_in_the_database_or_in_the_logs(
    api: Api,
    services: Services,
    example: Any,
    log: io.StringIO,
    capfd: pytest.CaptureFixture[str],
) -> None:
    _, key = await keys.create(services.database, Actor("test"), role="service", name="back end")
    shop = api.bound_to(key)
    await shop.create_customer("ant")
    quote = await shop.preview(customerId="ant", planId="professional")
    await shop.commit(quote["token"], "start")
    token = (await api.token("ant", "READ", "BUY")).bearer
    ant = api.bound_to(token)
    denied = """{ access(featureId: "dashboards") { unlocks { offerToken } } }"""
    offers = (await ant.ask(denied))["access"]["unlocks"]
    await ant.purchase(addOnId="extra-calls", idempotencyKey="k")
    await shop.create_customer("bee", card="pm_card_authenticationRequired")
    await shop.change("asks", customerId="bee", planId="starter")
    await ant.set_up_payment_method("ant")
    endpoint = await api.ask(
        """mutation { createWebhookEndpoint(url: "http://localhost:9/x",
             events: ["change.applied"]) { ... on WebhookEndpointCreated { secret } } }"""
    )
    payload = '{"id": "evt_1", "type": "x", "livemode": false, "data": {"object": {}}}'
    for headers in (signed(payload), {"Stripe-Signature": "t=1,v1=" + "0" * 64}):
        await api.client.post("/webhooks/stripe", content=payload, headers=headers)
    await api.bound_to(key[:-1] + "x").send("{ viewer { role } }")
    await services.webhooks.work()

    with closing(sqlite3.connect(services.database.engine.url.database or "")) as database:
        stored = "\n".join(database.iterdump())
    logged = log.getvalue() + "".join(capfd.readouterr())
    assert "ant" in stored
    assert "webhook_refused" in logged
    known = {
        ADMIN_KEY, key, token, quote["token"], WEBHOOK_SECRET, SERVICE_KEY,
        signed(payload)["Stripe-Signature"][-64:], *(offer["offerToken"] for offer in offers),
    }  # fmt: skip
    known |= {str(found["secret"]) for found in endpoint.values() if found}
    for place, text in (("database", stored), ("logs", logged)):
        assert not [secret for secret in known if secret in text], place
        assert leaked(text.encode()) == [], place
        assert not re.findall(CARD, text), place
