"""For a Strawberry schema: a field that is open only to customers who have a feature."""

from collections.abc import Callable
from typing import Any

from strawberry.extensions.field_extension import AsyncExtensionResolver, FieldExtension
from strawberry.types import Info

from entitlements.access.guard.client import Guard


def _from_context(name: str) -> Callable[[Info], Any]:
    def find(info: Info) -> Any:
        context = info.context
        return context[name] if isinstance(context, dict) else getattr(context, name)

    return find


class RequiresEntitlement(FieldExtension):
    """Asks before the resolver runs; raises `Denied`, whose `extensions` the client sees.

    The guard and the customer's id are `guard` and `customer_id` of the request's context, a dict
    or an object, unless it is said where else they are.
    """

    def __init__(
        self,
        feature_id: str,
        *,
        at_least: str | None = None,
        guard: Callable[[Info], Guard] | None = None,
        customer_id: Callable[[Info], str] | None = None,
    ) -> None:
        self._feature_id = feature_id
        self._at_least = at_least
        self._guard = guard or _from_context("guard")
        self._customer_id = customer_id or _from_context("customer_id")

    async def resolve_async(
        self, next_: AsyncExtensionResolver, source: Any, info: Info, **kwargs: Any
    ) -> Any:
        guard = self._guard(info)
        await guard.require(self._customer_id(info), self._feature_id, at_least=self._at_least)
        return await next_(source, info, **kwargs)
