"""For Starlette and FastAPI: a dependency of an endpoint that only some customers may use."""

from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.requests import Request

from entitlements.access.guard.client import Guard
from entitlements.access.guard.verdict import Verdict


class Requires:
    """`Depends(Requires("sso", guard=guard, customer_id=…))`, or `await requires(request)`.

    A customer who does not have it gets 403, in words that name the feature and the reason.
    """

    def __init__(
        self,
        feature_id: str,
        *,
        guard: Guard,
        customer_id: Callable[[Request], str],
        at_least: str | None = None,
    ) -> None:
        self._feature_id = feature_id
        self._guard = guard
        self._customer_id = customer_id
        self._at_least = at_least

    async def __call__(self, request: Request) -> Verdict:
        verdict = await self._guard.check(
            self._customer_id(request), self._feature_id, at_least=self._at_least
        )
        if not verdict.allowed:
            raise HTTPException(403, f"{self._feature_id}: {verdict.reason}")
        return verdict
