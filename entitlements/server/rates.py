"""How often a principal may ask, in this process: so many a second, and for a while faster.

Keys of staff and back ends have a limit where the operator sets one. What is in public, customer
tokens and publishable keys, has one from the start; a publishable key is everybody's, so that it
is counted by the address that asks.
"""

from typing import Final

from starlette.types import Scope

from entitlements.kernel.clock import monotonic_seconds
from entitlements.kernel.lru import Lru
from entitlements.settings import Settings
from graphql_schema.documents import NOT_TRUSTED
from graphql_schema.permissions import Principal, Role

BURST_SECONDS: Final = 4.0
"""What is allowed in this time may come at once."""

REMEMBERED_AT_MOST: Final = 10_000

COUNTED: Final = "entitlements.counted"
"""In a request's scope: it was counted already."""


class Rates:
    """One application's. Of each who asks it remembers one instant: when they would be done, were
    they to ask as evenly as they may (the generic cell rate algorithm)."""

    def __init__(self, settings: Settings) -> None:
        self._all = settings.requests_per_second
        self._public = settings.public_requests_per_second
        self._done_at: Lru[str, float] = Lru(REMEMBERED_AT_MOST)

    def wait_seconds(self, principal: Principal, address: str) -> float:
        """0, and the request counts; or in how many seconds it would be taken."""
        per_second = self._public if principal.role in NOT_TRUSTED else self._all
        if not per_second:
            return 0.0
        key = _key(principal, address)
        now = monotonic_seconds()
        done_at = max(self._done_at.get(key) or now, now) + 1 / per_second
        too_early = done_at - now - BURST_SECONDS
        if too_early > 0:
            return too_early
        self._done_at[key] = done_at
        return 0.0


def _key(principal: Principal, address: str) -> str:
    return f"{principal.name} {address}" if principal.role is Role.PUBLISHABLE else principal.name


def address_of(scope: Scope) -> str:
    """Who is at the other end, or before a proxy that is trusted (`FORWARDED_ALLOW_IPS`)."""
    client = scope.get("client")
    return client[0] if client else ""
