"""From a bearer to a principal: the admin key of the settings, an API key, a customer token."""

import hmac

from sqlalchemy import select

from entitlements.access import tokens
from entitlements.kernel.errors import Unauthenticated
from entitlements.server import keys
from entitlements.services import Services
from entitlements.subscriptions.tables import CustomerRow
from graphql_schema.permissions import CustomerScope, Principal, Role

_REALM = "a bearer is needed: Authorization: Bearer <key or token>"


async def authenticate(services: Services, authorization: str | None) -> Principal:
    """Raises `Unauthenticated`, always with the same words, for anything that is not good now."""
    scheme, _, bearer = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not bearer:
        raise Unauthenticated(_REALM)
    bearer = bearer.strip()
    admin_key = services.settings.admin_key.get_secret_value()
    if admin_key and hmac.compare_digest(bearer.encode(), admin_key.encode()):
        return Principal(role=Role.ADMIN, name="key:admin")
    found = await _token(services, bearer) if bearer.count(".") == 2 else None
    if found is None and bearer.startswith(keys.PREFIX):
        row = await keys.find(services.database, bearer)
        found = Principal(role=Role(row.role), name=f"key:{row.name}") if row else None
    if found is None:
        raise Unauthenticated(_REALM)
    return found


async def _token(services: Services, bearer: str) -> Principal | None:
    claims = tokens.read(services.signer, bearer)
    if claims is None:
        return None
    async with services.database.read() as session:
        generation = await session.scalar(
            select(CustomerRow.token_generation).where(CustomerRow.id == claims.customer_id)
        )
    if generation != claims.generation:
        return None
    person = f"/{claims.subject}" if claims.subject else ""
    return Principal(
        role=Role.CUSTOMER,
        name=f"customer:{claims.customer_id}{person}",
        scopes=frozenset(CustomerScope(scope) for scope in claims.scopes),
        customer_id=claims.customer_id,
    )
