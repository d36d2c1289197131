"""The API over TCP, for what a test transport cannot do: WebSockets and streams."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from entitlements.server.app import create_app
from entitlements.server.demo import Server, listen, server_config
from entitlements.services import Services
from tests.api import Api


@pytest.fixture
def sqlite_database_url(sqlite_template: Path, tmp_path: Path) -> str:
    """For what has nothing to do with the database: one of the two will do."""
    path = shutil.copy(sqlite_template, tmp_path / "entitlements.db")
    return f"sqlite+aiosqlite:///{path}"


@pytest.fixture
async def url(services: Services, api: Api, example: Any) -> AsyncIterator[str]:
    """The API over TCP, with a customer on the starter plan."""
    await api.create_customer("acme")
    await api.change("start", customerId="acme", planId="starter")

    @asynccontextmanager
    async def already_open() -> AsyncIterator[Services]:
        yield services

    app = create_app(already_open)
    app.state.services = services
    bound = listen("127.0.0.1", 0)
    server = Server(server_config(app, lifespan="off"))
    task = asyncio.create_task(server.serve(sockets=[bound]))
    while not server.started:
        await asyncio.sleep(0.01)
    yield f"127.0.0.1:{bound.getsockname()[1]}"
    services.streams.close()
    server.should_exit = True
    await asyncio.wait_for(task, 10)
