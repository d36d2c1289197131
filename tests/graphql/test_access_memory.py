"""A check is answered from memory, and never from what has been changed."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import event, text, update
from sqlalchemy.exc import OperationalError

from entitlements.access import snapshots
from entitlements.access.service import Check
from entitlements.audit.ledger import Actor
from entitlements.catalog.model import EntitlementValue, GrantMode
from entitlements.kernel.clock import SettableClock, monotonic_seconds
from entitlements.server import keys
from entitlements.services import Services, opened_services
from entitlements.settings import Settings
from entitlements.subscriptions.change import Authority
from entitlements.subscriptions.service import Caller
from entitlements.subscriptions.tables import CustomerRow
from tests.api import Api
from tests.conftest import START, on_sqlite, publish
from tests.graphql.test_catalog_memory import counted

"""For what does not depend on the database: it is in memory."""

STAFF = Caller(Actor("staff"), Authority.STAFF)
MANY = """{ accessMany(customerId: "acme", checks: [
  {featureId: "sso"}, {featureId: "dashboards"}, {featureId: "integrations", atLeast: "3"},
  {featureId: "support-channel", atLeast: "chat"}, {featureId: "nothing"}]) {
  featureId allowed reason revision unsureSince value { enabled number choice }
  sources { kind package { versionId } } } }"""


@pytest.fixture
async def acme(api: Api, example: Any) -> None:
    await api.create_customer("acme")
    await api.change("start", customerId="acme", planId="starter")


@pytest.fixture
async def other(services: Services, settings: Settings) -> AsyncIterator[Services]:
    """Another process on the same database."""
    async with opened_services(settings, clock=SettableClock(START)) as opened:
        await until(lambda: opened.feed.is_fresh("customer"))
        yield opened


async def until(true: Callable[[], bool]) -> None:
    start = monotonic_seconds()
    while not true():
        assert monotonic_seconds() < start + 5, "waited in vain"
        await asyncio.sleep(0.002)


async def settled(services: Services, customer_id: str = "acme") -> None:
    """Until every commit was looked at (on SQLite), and the customer is remembered."""
    await until(lambda: services.feed.is_fresh("customer"))
    await asyncio.sleep(0.15)
    await services.access.check(customer_id, [Check("sso")])


async def remembered(services: Services, api: Api) -> Any:
    """Ask until both the customer and the bearer are remembered, and nothing is being looked at."""
    await api.ask(MANY)
    await until(lambda: services.feed.is_fresh("customer") and services.feed.is_fresh("key"))
    await asyncio.sleep(0.15)
    return await api.ask(MANY)


async def allowed(services: Services, feature_id: str = "dashboards") -> bool:
    [answer] = await services.access.check("acme", [Check(feature_id)])
    return answer.decision.allowed


async def lend(services: Services, feature_id: str = "dashboards", **more: Any) -> str:
    on = EntitlementValue(enabled=True)
    override = await services.overrides.set(
        STAFF, "acme", feature_id, GrantMode.SET, on, "test", **more
    )
    return override.id


@contextmanager
def outage(services: Services, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """The database cannot be reached: every statement fails, and the feed hears nothing."""

    def fail(*_: Any) -> None:
        raise OperationalError("", {}, ConnectionRefusedError("the database is away"))

    engine = services.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", fail)
    try:
        with patch.context() as within:
            within.setattr(services.feed, "is_fresh", lambda _: False)
            yield
    finally:
        event.remove(engine, "before_cursor_execute", fail)


# ── hits ─────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("acme")
async def test_a_check_sends_no_statement_whoever_asks(api: Api, services: Services) -> None:
    _, key = await keys.create(services.database, Actor("test"), role="service", name="back end")
    token, service = await api.token("acme"), api.bound_to(key)
    await until(lambda: services.feed.is_fresh("customer"))
    for asking in (api, token, service):
        first = await remembered(services, asking)
        with counted(services) as statements:
            for _ in range(3):
                assert await asking.ask(MANY) == first
        assert statements == [], asking.bearer[:12]
    answers = {a["featureId"]: (a["allowed"], a["reason"]) for a in first["accessMany"]}
    assert answers == {
        "sso": (False, "NOT_ENTITLED"),
        "dashboards": (False, "NOT_ENTITLED"),
        "integrations": (True, None),
        "support-channel": (False, "VALUE_TOO_LOW"),
        "nothing": (False, "FEATURE_NOT_FOUND"),
    }


async def test_who_is_not_there_is_remembered_until_they_are(
    api: Api, services: Services, other: Services, example: Any
) -> None:
    reason = '{ access(customerId: "acme", featureId: "sso") { reason } }'
    await remembered(services, api)
    for _ in range(2):
        with counted(services) as statements:
            assert (await api.ask(reason))["access"]["reason"] == "CUSTOMER_NOT_FOUND"
    assert statements == []
    [unknown] = await other.access.check("acme", [Check("sso")])
    await api.create_customer("acme")
    assert (await api.ask(reason))["access"]["reason"] == "NO_ACTIVE_SUBSCRIPTION"
    [known] = await other.access.check("acme", [Check("sso")], min_revision=1)
    assert (unknown.revision, known.revision) == (0, 1)


@on_sqlite
@pytest.mark.usefixtures("acme")
async def test_asking_all_at_once_reads_once(services: Services) -> None:
    await settled(services)
    services.snapshots._kept.clear()
    with counted(services) as statements:
        await asyncio.gather(*(allowed(services) for _ in range(50)))
    assert len([s for s in statements if "FROM customer" in s]) == 1


@on_sqlite
@pytest.mark.usefixtures("acme")
async def test_so_many_customers_are_remembered_and_no_more(api: Api, services: Services) -> None:
    memory = services.snapshots
    memory._kept._at_most = 2
    for name in ("ant", "bee", "cat"):
        await api.create_customer(name)
    await asyncio.sleep(0.15)  # on SQLite each commit is looked at
    for name in ("ant", "bee", "cat"):
        await api.access(name, "sso")
    for n in range(50):
        await api.access(f"nobody-{n}", "sso")
    assert list(memory._kept) == ["bee", "cat"]
    assert REGISTRY.get_sample_value("entitlements_snapshot_size") == 2


# ── never old ────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("acme")
async def test_what_one_process_changes_another_answers_within_a_moment(
    services: Services, other: Services
) -> None:
    assert not await allowed(services)
    assert not await allowed(other)
    lent = await lend(services)
    assert await allowed(services), "in its own process: at once"
    start = monotonic_seconds()
    while not await allowed(other):
        assert monotonic_seconds() < start + 5
        await asyncio.sleep(0.001)
    # Milliseconds on PostgreSQL, one look later on SQLite; the machine may be busy.
    assert monotonic_seconds() - start < 1
    await services.overrides.end(STAFF, lent, "test")
    [answer] = await other.access.check("acme", [Check("dashboards")], min_revision=5)
    assert not answer.decision.allowed


@pytest.mark.usefixtures("acme")
async def test_a_change_that_nobody_announced_in_code_is_heard_all_the_same(
    services: Services, other: Services
) -> None:
    """By hand, or in bulk: the database itself says so."""
    await allowed(services)
    await allowed(other)
    async with services.database.write() as session:
        await session.execute(update(CustomerRow).values(revision=100))
        await session.execute(text("UPDATE customer SET name = 'by hand'"))
    for each in (services, other):
        memory = each.snapshots
        await until(lambda memory=memory: memory._kept.peek("acme") is None)  # type: ignore[misc]
        [answer] = await each.access.check("acme", [Check("sso")])
        assert answer.revision == 100


@on_sqlite
@pytest.mark.usefixtures("acme")
async def test_a_read_that_began_before_a_change_is_not_kept(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    await settled(services)
    memory = services.snapshots
    memory._kept.clear()
    read, going = memory._batches._settle, asyncio.Event()

    async def slow(loads: Any) -> Any:
        found = await read(loads)
        await going.wait()
        return found

    monkeypatch.setattr(memory._batches, "_settle", slow)
    early = asyncio.create_task(allowed(services))
    await asyncio.sleep(0.05)
    await lend(services)
    late = asyncio.create_task(allowed(services))
    await asyncio.sleep(0.05)
    going.set()
    assert (await early, await late, await allowed(services)) == (False, True, True)


@on_sqlite
@pytest.mark.usefixtures("acme")
async def test_whoever_cannot_be_read_holds_up_nobody_who_is_read_with_them(
    api: Api, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    for id in ("bad", "good"):
        await api.create_customer(id)
    await settled(services)
    services.snapshots._kept.clear()
    merged = snapshots.grants_of

    def broken(catalog: Any, state: Any, at: Any) -> Any:
        if state.id == "bad":
            raise ValueError("a row that nobody understands")
        return merged(catalog, state, at)

    monkeypatch.setattr(snapshots, "grants_of", broken)
    asked = [services.access.check(id, [Check("sso")]) for id in ("bad", "good", "acme")]
    bad, *others = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(bad, ValueError)
    assert all(isinstance(one, list) for one in others), others


@on_sqlite
@pytest.mark.usefixtures("acme")
async def test_time_alone_changes_the_answer_without_a_read(
    api: Api, services: Services, settings: Settings
) -> None:
    await lend(services, ends_at=START + timedelta(days=1))
    await settled(services)
    assert isinstance(services.clock, SettableClock)
    with counted(services) as statements:
        services.clock.set(START + timedelta(days=1, microseconds=-1))
        assert await allowed(services)
        services.clock.set(START + timedelta(days=1))
        assert not await allowed(services)
    assert statements == []


@on_sqlite
@pytest.mark.usefixtures("acme")
async def test_another_catalog_changes_the_answer_without_a_read(
    services: Services, example: Any
) -> None:
    await settled(services)
    example["features"].append({"id": "new", "name": "New", "kind": "boolean"})
    await publish(services, example)
    with counted(services) as statements:
        [answer] = await services.access.check("acme", [Check("new")])
    assert answer.decision.reason == "not_entitled"
    assert statements == []


@pytest.mark.usefixtures("acme")
async def test_a_revision_that_is_not_there_yet_is_waited_for(
    services: Services, other: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    [now] = await other.access.check("acme", [Check("dashboards")])
    asked = asyncio.create_task(
        other.access.check("acme", [Check("dashboards")], min_revision=now.revision + 1)
    )
    await asyncio.sleep(0.1)
    assert not asked.done()
    await lend(services)
    [then] = await asked
    assert (then.decision.allowed, then.revision) == (True, now.revision + 1)


@on_sqlite
@pytest.mark.usefixtures("acme")
async def test_a_revision_that_never_comes_is_refused(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "REVISION_WAIT_SECONDS", 0.1)
    far = '{ access(customerId: "acme", featureId: "sso", minRevision: 1000) { allowed } }'
    assert await api.refused(far) == "REVISION_NOT_REACHED"


# ── keys and tokens ──────────────────────────────────────────────────────────


@pytest.mark.usefixtures("acme")
async def test_what_another_process_revokes_is_refused_within_a_moment(
    api: Api, services: Services, other: Services
) -> None:
    row, key = await keys.create(services.database, Actor("test"), role="service", name="back end")

    async def revoke_key() -> None:
        await keys.revoke(other.database, Actor("test"), row.id)

    async def revoke_token() -> None:
        await other.customers.revoke_tokens(STAFF, "acme")

    for bearer, revoke in (
        (await api.token("acme"), revoke_token),
        (api.bound_to(key), revoke_key),
    ):
        await remembered(services, bearer)
        with counted(services) as statements:
            await bearer.ask("{ viewer { role } }")
        assert statements == []
        await revoke()
        start = monotonic_seconds()
        while (await bearer.send("{ viewer { role } }")).status_code != 401:
            assert monotonic_seconds() < start + 5
            await asyncio.sleep(0.001)  # nothing else waits: all of it is in memory
    assert (await (await api.token("acme")).send("{ viewer { role } }")).status_code == 200


@on_sqlite
@pytest.mark.usefixtures("acme")
async def test_a_token_newer_than_what_is_remembered_is_good_at_once(
    api: Api, services: Services, other: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.ask(MANY)
    monkeypatch.setattr(services.snapshots, "_drop", lambda _: None)
    services.feed._drops["customer"] = lambda _: None  # as if it had not been heard of yet
    await other.customers.revoke_tokens(STAFF, "acme")
    assert (await (await api.token("acme")).send(MANY)).status_code == 200
    services.snapshots._kept.clear()


# ── without a database ───────────────────────────────────────────────────────


@on_sqlite
@pytest.mark.usefixtures("acme")
async def test_while_the_database_is_away_what_is_known_goes_on_answering_and_says_so(
    api: Api, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, key = await keys.create(services.database, Actor("test"), role="service", name="back end")
    token, service = await api.token("acme"), api.bound_to(key)
    sure = await token.ask(MANY)
    await service.ask(MANY)
    with outage(services, monkeypatch):
        for asking in (token, service, token):
            unsure = await asking.ask(MANY)
            for answer in unsure["accessMany"]:
                assert answer.pop("unsureSince") is not None
            expected = [a | {"unsureSince": None} for a in unsure["accessMany"]]
            assert expected == sure["accessMany"]
        unknown = '{ access(customerId: "bee", featureId: "sso") { allowed } }'
        assert await service.refused(unknown) == "UNAVAILABLE"
        for counting in ('consume(featureId: "api-calls"', 'setLevel(featureId: "seats", level: 1'):
            asked = f"""mutation {{ {counting}, customerId: "acme", idempotencyKey: "k") {{
              __typename }} }}"""
            assert await service.refused(asked) == "UNAVAILABLE"
        newer = '{ access(customerId: "acme", featureId: "sso", minRevision: 99) { allowed } }'
        assert await service.refused(newer) == "UNAVAILABLE"
        assert await token.refused("{ customer { name } }") == "UNAVAILABLE"
        never_seen = await api.bound_to("ent_service_x").send(MANY)
        assert (never_seen.status_code, never_seen.headers["retry-after"]) == (503, "1")
    services.snapshots._patience._retry_at = 0.0
    assert await token.ask(MANY) == sure
