"""Transactions. One mutation is one `write()`; a read resolver takes its own short `read()`."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from entitlements.storage.announcing import announced
from entitlements.storage.engine import READ, WRITE


class Database:
    """Where services get their sessions. A session is never shared between tasks."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self._writing = engine.execution_options(**WRITE)
        self._reading = engine.execution_options(**READ) if self.is_postgresql else engine
        self.committed: list[Callable[[str, str], None]] = []
        self.completing: list[Callable[[AsyncSession], Awaitable[None]]] = []
        # SQLite has one writer: within a process its turn is a queue, not a race of time-outs.
        self._turn = contextlib.nullcontext() if self.is_postgresql else asyncio.Lock()

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """A transaction that is committed at the end of the block, or rolled back by an error.

        Whoever is in `completing` adds what belongs to it before that. Whoever is in `committed` is
        told after it, before the caller goes on, what is announced.
        """
        async with (
            self._turn,
            AsyncSession(self._writing, expire_on_commit=False) as session,
        ):
            async with session.begin():
                yield session
                for complete in self.completing:
                    await complete(session)
            for channel, key in announced(session):
                for told in self.committed:
                    told(channel, key)

    @asynccontextmanager
    async def read(self, *, streaming: bool = False) -> AsyncIterator[AsyncSession]:
        """For reading: one snapshot on SQLite, on PostgreSQL what is committed at each statement.

        So there is no transaction on PostgreSQL, which would cost two round trips and promise no
        more, but where rows are streamed: a cursor lives in one.
        """
        engine = self.engine if streaming else self._reading
        async with AsyncSession(engine, expire_on_commit=False) as session, session.begin():
            yield session

    @asynccontextmanager
    async def rows(self) -> AsyncIterator[AsyncConnection]:
        """`read()` for plain rows: without a session, of which a few rows take a third longer."""
        async with self._reading.connect() as connection:
            yield connection

    @property
    def is_postgresql(self) -> bool:
        return self.engine.dialect.name == "postgresql"

    async def close(self) -> None:
        await self.engine.dispose()
