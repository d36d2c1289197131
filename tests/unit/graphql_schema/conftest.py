"""The real services for the schema, on a database file of their own."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from entitlements.services import build_services
from entitlements.settings import Settings
from entitlements.storage.base import Base
from entitlements.storage.engine import create_engine
from entitlements.storage.installation import InstallationRow
from entitlements.storage.unit_of_work import Database
from tests.unit.graphql_schema.asking import Api

NOW = datetime(2040, 1, 1, tzinfo=UTC)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    url = f"sqlite+aiosqlite:///{tmp_path / 'entitlements.db'}"
    engine = create_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    database = Database(engine)
    async with database.write() as session:
        session.add(InstallationRow(id=1, mode="sandbox", sandbox_now=NOW))
    await database.close()
    services = await build_services(
        Settings(
            database_url=url,
            stripe_api_key="sk_test_0",
            stripe_api_base="http://127.0.0.1:9",  # nothing is asked of it here
            admin_key="an-admin-key-of-tests",
            sandbox=True,
        )
    )
    yield Api(services)
    await services.close()


@pytest.fixture
async def shop(api: Api) -> Api:
    """The example of 2025, and half a year later the one that followed it."""
    await api.publish("workspace-2025")
    api.set_clock(datetime(2040, 7, 1, tzinfo=UTC))
    await api.publish("workspace")
    return api
