"""From a bearer to a principal: the settings' admin key, an API key, a customer token, OIDC.

What was found good is remembered, 60 seconds at most, so that a request reads no database for it.
A key that is revoked is dropped by the change feed; a token is compared with its customer's
generation, which is in the customer's snapshot, at each request.
"""

import hmac
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

import msgspec
from sqlalchemy import select

from entitlements.access import tokens
from entitlements.kernel.clock import monotonic_seconds, wall_now
from entitlements.kernel.errors import Unauthenticated, Unavailable
from entitlements.kernel.lru import Lru
from entitlements.server import keys
from entitlements.server.oidc import issuer_of
from entitlements.server.tables import KEY_CHANNEL, ApiKeyRow
from entitlements.services import Services
from entitlements.storage.engine import is_unreachable
from entitlements.storage.patience import Patience
from graphql_schema.permissions import CustomerScope, Principal, Role

REMEMBERED_SECONDS: Final = 60.0
REMEMBERED_AT_MOST: Final = 10_000
_REALM = "a bearer is needed: Authorization: Bearer <key or token>"


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who a bearer is, and until when it is good (wall time; None: until it is revoked).

    `generation` is a customer token's, `key_id` an API key's.
    """

    principal: Principal
    expires_at: datetime | None = None
    generation: int | None = None
    key_id: str | None = None

    def expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= wall_now()


_ADMIN = Identity(principal=Principal(role=Role.ADMIN, name="key:admin"))


class _Remembered(msgspec.Struct, frozen=True):
    identity: Identity
    until: float


class Authenticator:
    """One application's."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._admin_key = services.settings.admin_key.get_secret_value().encode()
        self._remembered: Lru[str, _Remembered] = Lru(REMEMBERED_AT_MOST)
        self._drops = 0
        self._patience = Patience()
        self._issuer = issuer_of(services.settings)
        services.feed.subscribe(KEY_CHANNEL, self._refresh, drop=self._drop)

    async def authenticate(self, authorization: str | None) -> Identity:
        """Raises `Unauthenticated`, always with the same words, for anything that is not good now,
        and `Unavailable` where it cannot be told, since the database cannot be reached."""
        scheme, _, bearer = (authorization or "").partition(" ")
        bearer = bearer.strip()
        if scheme.lower() != "bearer" or not bearer:
            raise Unauthenticated(_REALM)
        if self._admin_key and hmac.compare_digest(bearer.encode(), self._admin_key):
            return _ADMIN
        try:
            found = await self._identity(bearer)
        except Exception as error:
            if not is_unreachable(error):
                raise
            raise Unavailable("the database cannot be reached: try again") from error
        if found is None or found.expired():
            raise Unauthenticated(_REALM)
        return found

    def remembered(self, authorization: bytes) -> Identity | None:
        """Who a bearer was found to be, if that is good now and nothing has to be asked for it."""
        if authorization[:7].lower() != b"bearer " or not authorization.isascii():
            return None
        bearer = authorization[7:].strip()
        if self._admin_key and hmac.compare_digest(bearer, self._admin_key):
            return _ADMIN
        found = self._remembered.get(keys.hash_key(bearer.decode()))
        if found is None or found.until <= monotonic_seconds() or found.identity.expired():
            return None
        identity = found.identity
        if identity.generation is None:
            return identity if self._services.feed.is_fresh(KEY_CHANNEL) else None
        assert identity.principal.customer_id is not None
        snapshot = self._services.snapshots.at_hand(identity.principal.customer_id)
        if snapshot is None or snapshot.token_generation != identity.generation:
            return None
        return identity

    async def _identity(self, bearer: str) -> Identity | None:
        digest = keys.hash_key(bearer)
        remembered = self._remembered.get(digest)
        if remembered is not None and remembered.until <= monotonic_seconds():
            remembered = None
        if remembered is not None and remembered.identity.key_id is not None:
            if self._services.feed.is_fresh(KEY_CHANNEL):
                return remembered.identity
            return await self._asked_again(bearer, digest, remembered)
        if remembered is None:
            drops = self._drops
            found = await self._find(bearer)
            if found is not None and drops == self._drops:  # else it may have been revoked
                until = monotonic_seconds() + REMEMBERED_SECONDS
                self._remembered[digest] = _Remembered(found, until)
        else:
            found = remembered.identity
        if found is not None and found.generation is not None:
            return found if await self._is_current(found) else None
        return found

    async def _asked_again(
        self, bearer: str, digest: str, remembered: _Remembered
    ) -> Identity | None:
        """While revocations cannot be heard a key is looked up, as long as that is possible."""
        good = await self._patience.read(lambda: self._is_good(bearer))
        if good is False:
            self._remembered.pop(digest)
            return None
        return remembered.identity

    async def _is_good(self, bearer: str) -> bool:
        return await keys.find(self._services.database, bearer) is not None

    async def _find(self, bearer: str) -> Identity | None:
        if bearer.count(".") == 2:
            return self._token(bearer) or await self._staff(bearer)
        if not bearer.startswith(keys.PREFIX):
            return None
        row = await keys.find(self._services.database, bearer)
        if row is None:
            return None
        principal = Principal(role=Role(row.role), name=f"key:{row.name}")
        return Identity(principal=principal, expires_at=row.expires_at, key_id=row.id)

    def _token(self, bearer: str) -> Identity | None:
        claims = tokens.read(self._services.signer, bearer)
        if claims is None:
            return None
        person = f"/{claims.subject}" if claims.subject else ""
        principal = Principal(
            role=Role.CUSTOMER,
            name=f"customer:{claims.customer_id}{person}",
            scopes=frozenset(CustomerScope(scope) for scope in claims.scopes),
            customer_id=claims.customer_id,
        )
        expires_at = datetime.fromtimestamp(claims.expires_at, UTC)
        return Identity(principal=principal, expires_at=expires_at, generation=claims.generation)

    async def _staff(self, bearer: str) -> Identity | None:
        found = await self._issuer.principal(bearer) if self._issuer else None
        return Identity(principal=found[0], expires_at=found[1]) if found else None

    async def _is_current(self, identity: Identity) -> bool:
        assert identity.principal.customer_id is not None
        assert identity.generation is not None
        generation = await self._services.snapshots.token_generation(
            identity.principal.customer_id, at_least=identity.generation
        )
        return generation == identity.generation

    # ── forgetting ───────────────────────────────────────────────────────────

    def _drop(self, key_id: str) -> None:
        self._drops += 1
        self._forget({key_id})

    async def _refresh(self, _keys: Iterable[str] | None = None) -> None:
        """Keys may have been revoked unheard: ask which are still good."""
        self._drops += 1
        held = {id for id in map(self._key_id, self._remembered) if id is not None}
        if held:
            query = select(ApiKeyRow.id).where(
                ApiKeyRow.id.in_(held), ApiKeyRow.revoked_at.is_(None)
            )
            async with self._services.database.read() as session:
                self._forget(held - set(await session.scalars(query)))

    def _forget(self, key_ids: set[str]) -> None:
        for digest in [d for d in self._remembered if self._key_id(d) in key_ids]:
            self._remembered.pop(digest)

    def _key_id(self, digest: str) -> str | None:
        remembered = self._remembered.peek(digest)
        return remembered.identity.key_id if remembered else None
