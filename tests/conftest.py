"""What the tests stand on: both databases, the sandbox over HTTP, the API, a clock to move."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest
from sqlalchemy import select, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from entitlements.audit.ledger import Actor
from entitlements.billing import transport
from entitlements.catalog import examples
from entitlements.catalog.document import read
from entitlements.kernel.clock import SettableClock
from entitlements.kernel.ids import new_id
from entitlements.server.app import create_app
from entitlements.server.demo import listen, serving_sandbox
from entitlements.server.migrations import migrate
from entitlements.services import Services, opened_services
from entitlements.settings import Settings, load_settings
from entitlements.storage.engine import create_engine
from entitlements.subscriptions.tables import CustomerRow
from tests.api import Api
from tests.events import WEBHOOK_SECRET, events_of
from tests.leaks import leaked, leaked_into
from tests.postgres import NO_POSTGRESQL, postgresql
from tests.provider_traffic import SERVICE_KEY, Traffic

# A busy machine is slow at making examples, too: no test of ours may depend on time. A build tries
# the same examples each time; whoever runs the tests by hand looks for new ones.
hypothesis.settings.register_profile(
    "ours",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("ours")

# The provider of the tests is next door: who was turned away need not wait long.
transport.FIRST_PAUSE_SECONDS = 0.05

ADMIN_KEY = "ent_admin_for_tests_only"
START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
"""When every test's time begins, unless it says otherwise."""

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
"""For a test to which the database makes no difference, or that is about one of them."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="every case, not a sample: some hours")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is marked `soak` runs in `make soak` only."""
    if not config.getoption("--soak"):
        left_out = [item for item in items if item.get_closest_marker("soak")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("soak")]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test had written to the logs has no secret in it."""
    report = yield
    written = "\n".join(text for _, text in report.sections) if report.when == "teardown" else ""
    if report.passed and (found := leaked(written.encode(errors="replace"))):
        report.outcome, report.longrepr = "failed", f"{', '.join(found)} was logged"
    return report


@pytest.fixture
def soak(request: pytest.FixtureRequest) -> bool:
    """Whether every case is wanted, and not a sample."""
    return bool(request.config.getoption("--soak"))


# ── databases ────────────────────────────────────────────────────────────────


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str | None]:
    with postgresql() as url:
        yield url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database to copy."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    asyncio.run(_migrated(f"sqlite+aiosqlite:///{path}"))
    return path


@pytest.fixture(scope="session")
def postgresql_template(postgresql_server: str | None) -> str | None:
    """A migrated database to copy; its name."""
    if postgresql_server is None:
        return None
    name = new_id("template")
    asyncio.run(_statement(postgresql_server, f'CREATE DATABASE "{name}"'))
    asyncio.run(_migrated(_on(postgresql_server, name)))
    return name


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A migrated, empty database, on each of the two."""
    if request.param == "sqlite":
        path = tmp_path / "entitlements.db"
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite+aiosqlite:///{path}"
        assert leaked_into(path) == [], "no secret stays in a database"
        return
    server = request.getfixturevalue("postgresql_server")
    if server is None:
        pytest.skip(NO_POSTGRESQL)
    template = request.getfixturevalue("postgresql_template")
    name = new_id("test")
    asyncio.run(_statement(server, f'CREATE DATABASE "{name}" TEMPLATE "{template}"'))
    yield _on(server, name)
    asyncio.run(_statement(server, f'DROP DATABASE "{name}" WITH (FORCE)'))


def _on(server: str, name: str) -> str:
    return make_url(server).set(database=name).render_as_string(hide_password=False)


async def _statement(url: str, statement: str) -> None:
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        await connection.execute(text(statement))
    await engine.dispose()


async def _migrated(url: str) -> None:
    engine = create_engine(url)
    await migrate(engine, mode="sandbox")
    await engine.dispose()


# ── the service ──────────────────────────────────────────────────────────────


@pytest.fixture
async def traffic() -> Traffic:
    """What passes between the service and the sandbox."""
    return Traffic()


@pytest.fixture
async def sandbox_url(traffic: Traffic) -> AsyncIterator[str]:
    """A fresh sandbox of the payment provider, over HTTP; all that passed is checked at the end."""
    async with serving_sandbox(None, listen("127.0.0.1", 0), watch=traffic.watch) as url:
        yield url
        async with httpx.AsyncClient(base_url=url, verify=False) as client:
            await client.delete("/_sandbox/faults")
        await events_of(url)
    traffic.check()


@pytest.fixture
def settings(database_url: str, sandbox_url: str) -> Settings:
    return load_settings(
        database_url=database_url,
        stripe_api_key=SERVICE_KEY,
        stripe_api_base=sandbox_url,
        stripe_webhook_secret=WEBHOOK_SECRET,
        admin_key=ADMIN_KEY,
        sandbox=True,
    )


@pytest.fixture
async def services(settings: Settings) -> AsyncIterator[Services]:
    """The service, its clock standing at START until a test moves it."""
    async with opened_services(settings, clock=SettableClock(START)) as opened:
        yield opened
        await no_snapshot_is_old(opened)


async def no_snapshot_is_old(services: Services) -> None:
    """Whatever a test did to a customer: what is remembered of them is not from before it."""
    for _ in range(100):
        async with services.database.read() as session:
            stored = dict(
                (await session.execute(select(CustomerRow.id, CustomerRow.revision))).all()
            )
        kept = services.snapshots.revisions()
        if all(stored[id] == revision for id, revision in kept.items()):
            return
        await asyncio.sleep(0.02)  # written past the ORM: the database itself says so
    raise AssertionError(f"remembered {kept}, stored {stored}")


@pytest.fixture
async def api(services: Services) -> AsyncIterator[Api]:
    """The API over HTTP, asked with the admin key."""

    @asynccontextmanager
    async def already_open() -> AsyncIterator[Services]:
        yield services

    app = create_app(already_open)
    app.state.services = services
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://entitlements", verify=False
    ) as client:
        yield Api(client, ADMIN_KEY)


@pytest.fixture
async def example(services: Services) -> dict[str, Any]:
    """The example catalog, published; its document."""
    document = read(examples.text("workspace")).document
    return await publish(services, document)


async def publish(services: Services, document: dict[str, Any]) -> dict[str, Any]:
    proposal = await services.catalog.propose(Actor("pricing"), document, "for a test")
    await services.catalog.approve(Actor("finance"), proposal.id, None)
    return document
