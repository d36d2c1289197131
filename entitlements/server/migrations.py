"""Bringing a database to the newest shape: from the wheel, or from a checkout."""

from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, select
from sqlalchemy.ext.asyncio import AsyncEngine

import entitlements
import entitlements.access.tables
import entitlements.audit.tables
import entitlements.billing.tables
import entitlements.catalog.tables
import entitlements.grants.tables
import entitlements.notices.tables
import entitlements.server.tables
import entitlements.subscriptions.tables
from entitlements.kernel.errors import ValidationFailed
from entitlements.storage.base import Base
from entitlements.storage.engine import WRITE
from entitlements.storage.installation import InstallationRow

ALL_TABLES = Base.metadata


def _config() -> Config:
    package = Path(entitlements.__file__).parent
    packaged = package / "_migrations"
    config = Config()
    scripts = packaged if packaged.is_dir() else package.parent / "alembic"
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    return config


async def migrate(engine: AsyncEngine, *, mode: str, revision: str = "head") -> None:
    """Upgrade (or, to an older revision, downgrade) the database.

    `mode` is `sandbox` or `live`: the first migration stamps the database with it, for ever.
    """
    config = _config()
    config.attributes["mode"] = mode

    def run(connection: Connection) -> None:
        _refuse_the_other_mode(connection, mode)
        config.attributes["connection"] = connection
        if revision == "base" or revision.startswith("-"):
            command.downgrade(config, revision)
        else:
            command.upgrade(config, revision)

    async with engine.execution_options(**WRITE).begin() as connection:
        await connection.run_sync(run)


def _refuse_the_other_mode(connection: Connection, mode: str) -> None:
    if not inspect(connection).has_table("installation"):
        return
    stamped = connection.scalar(select(InstallationRow.mode))
    if stamped not in (None, mode):
        raise ValidationFailed.of(
            "ENTITLEMENTS_SANDBOX",
            "OTHER_MODE",
            f"the database was made for a {stamped} service, and this one is {mode}",
        )


async def is_at_head(engine: AsyncEngine) -> bool:
    return await _revision(engine) == _scripts().get_current_head()


async def refuse_if_behind(engine: AsyncEngine) -> None:
    """`ValidationFailed` where migrations of ours have not run. A database that is ahead will do:
    the next version of the service is being rolled out."""
    revision, scripts = await _revision(engine), _scripts()
    known = {script.revision for script in scripts.walk_revisions()}
    if revision in known and revision != scripts.get_current_head():
        words = "the database is older than this version of the service: run `entitlements migrate`"
        raise ValidationFailed.of("ENTITLEMENTS_DATABASE_URL", "NOT_MIGRATED", words)


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


async def _revision(engine: AsyncEngine) -> str | None:
    def current(connection: Connection) -> str | None:
        return MigrationContext.configure(connection).get_current_revision()

    async with engine.connect() as connection:
        return await connection.run_sync(current)


async def differences(engine: AsyncEngine) -> list[object]:
    """How the database differs from the tables that the code declares: nothing, at head."""

    def compare(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), ALL_TABLES))

    async with engine.connect() as connection:
        return await connection.run_sync(compare)
