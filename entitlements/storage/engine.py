"""One engine a process. SQLite writes begin with `BEGIN IMMEDIATE`, reads with a snapshot."""

from typing import Any

import msgspec
from sqlalchemy import Connection, event, exc
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from entitlements.kernel.errors import ValidationFailed

SQLITE_BUSY_TIMEOUT_MS = 10_000
_NOT_NOW = ("08", "53", "57P", "SQLITE_BUSY", "SQLITE_CANTOPEN", "SQLITE_IOERR")
"""SQLSTATE classes (connection, resources, shutdown), and SQLite's names for the like."""

WRITE = {"sqlite_begin": "IMMEDIATE"}
"""Execution options of a transaction that writes: takes SQLite's one write lock at its start."""


READ = {"isolation_level": "AUTOCOMMIT"}
"""Those of reading on PostgreSQL, see `Database.read`."""


def is_unreachable(error: BaseException | None) -> bool:
    """Whether an error says that the database cannot be asked now."""
    if isinstance(error, exc.DBAPIError):
        cause = error.orig
        said = getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorname", None)
        return (
            error.connection_invalidated
            or isinstance(cause, OSError)
            or (said or "").startswith(_NOT_NOW)
        )
    return isinstance(error, OSError | exc.TimeoutError)  # TimeoutError is an OSError


def _dumps(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def create_engine(url: str) -> AsyncEngine:
    """The engine for `sqlite+aiosqlite:///…` or `postgresql+asyncpg://…`.

    Its errors, which end in logs, name statements without the values that they were given.
    """
    backend = make_url(url).drivername
    if backend == "postgresql+asyncpg":
        engine = create_async_engine(
            url,
            pool_size=20,
            max_overflow=20,
            hide_parameters=True,
            json_serializer=_dumps,
            json_deserializer=msgspec.json.decode,
            connect_args={"server_settings": {"timezone": "UTC", "lock_timeout": "15000"}},
        )
        event.listen(engine.sync_engine, "checkout", _refuse_closed)
        return engine
    if backend != "sqlite+aiosqlite":
        raise ValidationFailed.of(
            "ENTITLEMENTS_DATABASE_URL",
            "DATABASE_URL",
            f"{backend} is not supported: use sqlite+aiosqlite:///ABSOLUTE or postgresql+asyncpg://",
        )
    engine = create_async_engine(
        url,
        pool_size=10,
        max_overflow=10,
        hide_parameters=True,
        json_serializer=_dumps,
        json_deserializer=msgspec.json.decode,
    )
    event.listen(engine.sync_engine, "connect", _configure_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _refuse_closed(connection: Any, _record: Any, _proxy: Any) -> None:
    """A connection that the server has closed is replaced. The driver knows: asking costs nothing,
    while a ping (`pool_pre_ping`) costs three round trips each time."""
    if connection.driver_connection.is_closed():
        raise exc.DisconnectionError


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves, in `_begin_sqlite`
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "foreign_keys=ON",
        "synchronous=FULL",
        f"busy_timeout={SQLITE_BUSY_TIMEOUT_MS}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    mode = connection.get_execution_options().get("sqlite_begin", "DEFERRED")
    connection.exec_driver_sql(f"BEGIN {mode}")
