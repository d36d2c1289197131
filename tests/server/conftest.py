"""The API over TCP, for what a test transport cannot do: WebSockets and streams."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from entitlements.services import Services
from tests.api import Api
from tests.serving import serving


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

    async with serving(services) as url:
        yield url
