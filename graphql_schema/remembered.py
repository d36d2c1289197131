"""A customer as far as it is remembered: what a compiled document shows without a read."""

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

from entitlements.access.snapshots import Known
from entitlements.kernel.errors import NotFound
from graphql_schema.coercion import NotHere
from graphql_schema.context import Context
from graphql_schema.permissions import customer_of
from graphql_schema.types.access import entitlement_types


class Asked:
    """What of a request the resolvers are given; `variables` are for arguments within."""

    __slots__ = ("context", "variables")

    def __init__(self, context: Context, variables: Mapping[str, Any]) -> None:
        self.context = context
        self.variables = variables


async def customer(_self: None, info: Asked, id: str | None = None) -> Known | None:
    """What is known of a customer; the resolver reads it from the database."""
    try:
        customer_id = customer_of(info.context.principal, id)
    except NotFound:
        return None
    known = await info.context.services.snapshots.get(customer_id)
    if known.unsure_since is not None:
        raise NotHere
    return known if known.snapshot.state is not None else None


async def customer_with_counters(_self: None, info: Asked, id: str | None = None) -> Known | None:
    known = await customer(None, info, id)
    if known is not None and known.snapshot.state is not None:
        state, catalog = known.snapshot.state, known.catalog
        context = info.context
        usage = context.services.usage
        used = await usage.used(catalog, [state], catalog.features.values(), context.now)
        context.usage.prime(state.id, used[state.id])
    return known


def _entitlements(known: Known) -> Any:
    state, grants = known.snapshot.state, known.snapshot.grants
    assert state is not None
    assert grants is not None
    return entitlement_types(state.id, known.catalog, grants)


OF_CUSTOMER: Mapping[str, Callable[[Known], Any]] = {
    "id": attrgetter("snapshot.state.id"),
    "revision": attrgetter("snapshot.revision"),
    "entitlements": _entitlements,
}
"""What of a customer is shown from memory."""
