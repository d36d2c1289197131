"""Principals for the API's tests."""

import pytest

from entitlements.audit.ledger import Actor
from entitlements.server import keys
from entitlements.services import Services
from tests.api import Api


@pytest.fixture
async def other_admin(api: Api, services: Services) -> Api:
    """The API, asked by a second admin: who approves what the first proposes."""
    _, key = await keys.create(services.database, Actor("test"), role="admin", name="other")
    return api.bound_to(key)
