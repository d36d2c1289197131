"""Runs the migrations on the database that is configured, on SQLite and on PostgreSQL."""

import asyncio

from alembic import context
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from entitlements.server.migrations import ALL_TABLES
from entitlements.settings import load_settings
from entitlements.storage.engine import WRITE, create_engine


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=ALL_TABLES,
        compare_server_default=True,
        transaction_per_migration=False,
    )
    with context.begin_transaction():
        context.run_migrations()


async def _run_online(engine: AsyncEngine) -> None:
    async with engine.execution_options(**WRITE).connect() as connection:
        await connection.run_sync(_run)
        await connection.commit()
    await engine.dispose()


if (given := context.config.attributes.get("connection")) is not None:
    _run(given)
else:
    asyncio.run(_run_online(create_engine(load_settings().database_url)))
