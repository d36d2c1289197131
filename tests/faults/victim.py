"""A process that does one operation and dies at a chosen point of it.

The points are: before each statement, before and after each commit, before each call of the
provider is sent and after its answer has come.
"""

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import stripe
from sqlalchemy import event

from entitlements.storage.unit_of_work import Database
from tests.faults.operations import OPERATIONS
from tests.faults.world import opened

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.faults.victim"])


async def run_victim(
    operation: str, database_url: str, provider_url: str, memo: dict[str, Any], dies_at: int | None
) -> list[str]:
    """The points that it passed; empty if it died, as it does where it comes to `dies_at`."""
    told, tells = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(
        target=_main, args=(operation, database_url, provider_url, memo, dies_at, tells)
    )
    process.start()
    tells.close()
    try:
        passed: list[str] = await asyncio.to_thread(told.recv)
    except EOFError:
        passed = []
    await asyncio.to_thread(process.join)
    assert process.exitcode == (0 if passed else -signal.SIGKILL), process.exitcode
    return passed


def _main(
    operation: str,
    database_url: str,
    provider_url: str,
    memo: dict[str, Any],
    dies_at: int | None,
    tells: Connection,
) -> None:
    tells.send(asyncio.run(_operate(operation, database_url, provider_url, memo, dies_at)))


async def _operate(
    operation: str, database_url: str, provider_url: str, memo: dict[str, Any], dies_at: int | None
) -> list[str]:
    passed: list[str] = []

    def point(name: str) -> None:
        passed.append(name)
        if len(passed) - 1 == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    async with opened(database_url, provider_url, memo) as world:
        _watch_database(world.services.database, point)
        _watch_provider(point)
        await OPERATIONS[operation].ask(world)
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


def _watch_provider(point: Callable[[str], None]) -> None:
    request = stripe.HTTPXClient.request_async

    async def watched(self: Any, method: str, url: str, *rest: Any) -> Any:
        name = f"{method.upper()} /v1/{url.partition('/v1/')[2].partition('?')[0]}"
        point(f"before {name}")
        answer = await request(self, method, url, *rest)
        point(f"after {name}")
        return answer

    stripe.HTTPXClient.request_async = watched  # type: ignore[method-assign]
