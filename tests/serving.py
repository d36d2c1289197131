"""The application over TCP, by the server and the protocol that `entitlements serve` has."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.types import ASGIApp

from entitlements.server.app import create_app
from entitlements.server.demo import Server, listen, server_config
from entitlements.services import Services


@asynccontextmanager
async def serving(
    services: Services, *, around: Callable[[ASGIApp], ASGIApp] = lambda app: app
) -> AsyncIterator[str]:
    """`HOST:PORT`, while the block runs. The services are the test's own, and stay open.

    `around` may put something around the application.
    """

    @asynccontextmanager
    async def already_open() -> AsyncIterator[Services]:
        yield services

    bound = listen("127.0.0.1", 0)
    server = Server(server_config(around(create_app(already_open))))
    task = asyncio.create_task(server.serve(sockets=[bound]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield f"127.0.0.1:{bound.getsockname()[1]}"
    finally:
        services.streams.close()
        server.should_exit = True
        await asyncio.wait_for(task, 10)
