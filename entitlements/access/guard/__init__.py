"""For other applications: may this customer do this, decided in their own process.

Nothing here needs what the service is made of: `client` needs httpx alone, `field` Strawberry, and
`dependency` Starlette (or FastAPI, which is made of it).
"""

from entitlements.access.guard.client import Guard
from entitlements.access.guard.verdict import Denied, Verdict

__all__ = ["Denied", "Guard", "Verdict"]
