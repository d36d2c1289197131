"""PostgreSQL: counting in one statement, which is a transaction of its own.

The connection is kept for it, so that nothing else passes over the wire: not the look whether it
is alive, nor the begin and the end of a transaction. One that fails is thrown away.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import exc
from sqlalchemy.ext.asyncio import AsyncConnection

from entitlements.access import counters
from entitlements.access.counters import CounterKey, Steps
from entitlements.storage.engine import is_unreachable
from entitlements.storage.unit_of_work import Database

_NOT_AS_SEEN = ("22012", "40P01", "55P03")
"""The statement's own refusal; a deadlock or a lock that is held for long, with others who lock."""


class Swaps:
    """One process's. At most one statement is under way at a time."""

    def __init__(self, database: Database) -> None:
        self._engine = database.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._connection: AsyncConnection | None = None
        self._turn = asyncio.Lock()

    async def look(self, keys: Sequence[CounterKey]) -> dict[CounterKey, int] | None:
        """What counters say, without those that are not there; None where it cannot be asked."""
        rows = await self._said(*counters.looked(keys))
        return None if rows is None else {(row[0], row[1], row[2]): row[3] for row in rows}

    async def swap(
        self,
        seen: Mapping[CounterKey, int | None],
        now: Mapping[CounterKey, int],
        new: Sequence[Mapping[str, Any]],
        steps: Steps,
    ) -> bool:
        """Whether it was written. False also where the connection was lost: nobody knows then."""
        return await self._said(*counters.swapped(seen, now, new, steps)) is not None

    async def _said(self, statement: str, given: tuple[list[Any], ...]) -> Sequence[Any] | None:
        async with self._turn:
            try:
                if self._connection is None:
                    self._connection = await self._engine.connect()
                return (await self._connection.exec_driver_sql(statement, given)).all()
            except BaseException as error:
                cause = error.orig if isinstance(error, exc.DBAPIError) else None
                if getattr(cause, "sqlstate", "") in _NOT_AS_SEEN:
                    return None
                await self._drop()
                if is_unreachable(error):  # if it was written all the same, its keys are there
                    return None
                raise

    async def close(self) -> None:
        async with self._turn:
            await self._drop()

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.invalidate()
            await connection.close()
