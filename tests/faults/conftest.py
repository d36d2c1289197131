"""Faults are repeated often here: what pauses between tries, pauses briefly."""

from collections.abc import AsyncIterator

import pytest

from entitlements.billing import transport
from tests.faults.world import Provider


@pytest.fixture(autouse=True)
def _retried_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call waits half a second and more before it is tried again."""
    monkeypatch.setattr(transport, "FIRST_PAUSE_SECONDS", 0.01)


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with Provider.serving() as serving:
        yield serving
