"""What is sold is answered from memory: a request reads no database while nothing is published."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event

from entitlements.audit.ledger import Actor
from entitlements.kernel.clock import SettableClock
from entitlements.services import Services
from tests.api import Api
from tests.conftest import START

CATALOG = """{ catalog { revision effectiveAt currencies features { id name kind }
  products { id plans { versionId rank entitlements { feature { id } value { enabled limit } }
      charges { id prices { currency interval flatAmount } } addOns { id } }
    addOns { versionId worksWith { id } requires { id } }
    bundles { versionId components { quantity package { versionId } }
      saving(currency: "usd", interval: MONTH) { percent } } } } }"""
COMPARISON = """{ comparePlans(productId: "workspace") { rows { feature { id } cells {
  included viaAddOns { id } } } } }"""
ESTIMATE = """{ estimate(input: {planId: "starter", interval: MONTH, currency: "usd",
  addOns: [{id: "extra-seats", quantity: 51}]}) {
  total { amountMinor } cheaper { saving { amountMinor } } } }"""


asking = ContextVar("asking", default=False)


@contextmanager
def counted(services: Services) -> Iterator[list[str]]:
    """The statements that what is asked in the block sends to the database.

    What runs in the background, the feed's own look at the database, is another context's.
    """
    statements: list[str] = []
    token = asking.set(True)

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if asking.get():
            statements.append(statement)

    engine = services.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        asking.reset(token)
        event.remove(engine, "before_cursor_execute", note)


@pytest.mark.parametrize("query", [CATALOG, COMPARISON, ESTIMATE], ids=["all", "compare", "price"])
async def test_a_question_about_the_catalog_reads_no_database(
    api: Api, services: Services, example: Any, query: str
) -> None:
    first = await api.ask(query)
    with counted(services) as statements:
        assert await api.ask(query) == first
        assert await api.ask(query) == first
    assert statements == []


async def test_an_approved_catalog_takes_effect_by_the_clock_without_a_read(
    api: Api, services: Services, example: Any
) -> None:
    example["products"][0]["plans"][0]["name"] = "Basic"
    at = START + timedelta(days=1)
    proposal = await services.catalog.propose(
        Actor("pricing"), example, "A better name", effective_at=at
    )
    await services.catalog.approve(Actor("finance"), proposal.id, None)
    name = '{ plan(id: "starter") { name } catalog { revision } }'
    assert isinstance(services.clock, SettableClock)
    with counted(services) as statements:
        services.clock.set(at - timedelta(microseconds=1))
        before = await api.ask(name)
        services.clock.set(at)
        after = await api.ask(name)
    assert (before["plan"]["name"], before["catalog"]["revision"]) == ("Starter", 1)
    assert (after["plan"]["name"], after["catalog"]["revision"]) == ("Basic", 2)
    assert statements == []


async def test_without_a_feed_every_answer_first_looks_for_a_newer_revision(
    api: Api, services: Services, example: Any
) -> None:
    await services.feed.close()
    with counted(services) as statements:
        assert (await api.ask("{ catalog { revision } }"))["catalog"]["revision"] == 1
    assert [s for s in statements if "catalog_revision" in s] != []
