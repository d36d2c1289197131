"""Processes that do one operation and die at a chosen point of it.

The points are: before each statement, before and after each commit, before each call of the
provider is sent and after its answer has come.
"""

import asyncio
import contextlib
import multiprocessing
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from multiprocessing.connection import Connection
from typing import Any
from unittest import mock

import stripe
from sqlalchemy import event

from entitlements.storage.unit_of_work import Database
from tests.faults.operations import OPERATIONS
from tests.faults.world import opened

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.faults.victim"])

_operating = ContextVar("operating", default=False)

Run = tuple[str, str, str, dict[str, Any], int | None]
"""The operation's name, the database, the provider, the memo, the point to die at."""


class Victims:
    """Processes that do one operation after the other has died: all of them forks of one.

    That one does the operation first, undisturbed: so its forks find everything imported and made.
    """

    def __init__(self, orders: Connection) -> None:
        self._orders = orders

    @classmethod
    @asynccontextmanager
    async def at_hand(cls) -> AsyncIterator["Victims"]:
        ours, theirs = PROCESSES.Pipe()
        process = PROCESSES.Process(target=_forking, args=(theirs,))
        process.start()
        theirs.close()
        try:
            with ours:
                yield cls(ours)
        finally:
            await asyncio.to_thread(process.join)

    async def undisturbed(
        self, operation: str, database_url: str, provider_url: str, memo: dict[str, Any]
    ) -> list[str]:
        """The points that an operation passes."""
        passed = await self._run((operation, database_url, provider_url, memo, None))
        assert isinstance(passed, list), passed
        return passed

    async def run(
        self, operation: str, database_url: str, provider_url: str, memo: dict[str, Any], at: int
    ) -> None:
        """Do it, and die at a point, or live where it comes to fewer points this time."""
        status = await self._run((operation, database_url, provider_url, memo, at))
        assert status in (0, -signal.SIGKILL), status

    async def _run(self, run: Run) -> Any:
        self._orders.send(run)
        return await asyncio.to_thread(self._orders.recv)


def _forking(orders: Connection) -> None:
    with contextlib.suppress(EOFError):
        while True:
            run: Run = orders.recv()
            if run[-1] is None:
                orders.send(asyncio.run(_operate(*run)))
            elif child := os.fork():
                orders.send(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            else:
                asyncio.run(_operate(*run))
                os._exit(0)


async def _operate(
    operation: str, database_url: str, provider_url: str, memo: dict[str, Any], dies_at: int | None
) -> list[str]:
    passed: list[str] = []

    def point(name: str) -> None:
        if not _operating.get():  # what runs by itself beside it comes at another point each time
            return
        passed.append(name)
        if len(passed) - 1 == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    async with opened(database_url, provider_url, memo) as world:
        _watch_database(world.services.database, point)
        with _watched_provider(point):
            _operating.set(True)
            await OPERATIONS[operation].ask(world)
            _operating.set(False)
    return passed


def _watch_database(database: Database, point: Callable[[str], None]) -> None:
    engine = database.engine.sync_engine
    do_commit = engine.dialect.do_commit

    def before_statement(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        point(" ".join(statement.split()[:3]))

    def commit(connection: Any) -> None:
        point("before COMMIT")
        do_commit(connection)
        point("after COMMIT")

    event.listen(engine, "before_cursor_execute", before_statement)
    engine.dialect.do_commit = commit  # type: ignore[method-assign]


@contextmanager
def _watched_provider(point: Callable[[str], None]) -> Iterator[None]:
    request = stripe.HTTPXClient.request_async

    async def watched(self: Any, method: str, url: str, *rest: Any) -> Any:
        name = f"{method.upper()} /v1/{url.partition('/v1/')[2].partition('?')[0]}"
        point(f"before {name}")
        answer = await request(self, method, url, *rest)
        point(f"after {name}")
        return answer

    with mock.patch.object(stripe.HTTPXClient, "request_async", watched):
        yield
