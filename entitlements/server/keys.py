"""API keys: made by the command line, stored as hashes, shown once, revocable."""

import hashlib
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select

from entitlements.audit import ledger
from entitlements.audit.ledger import Actor
from entitlements.kernel.clock import wall_now
from entitlements.kernel.errors import NotFound, ValidationFailed
from entitlements.kernel.ids import new_id, random_token
from entitlements.server.tables import ApiKeyRow
from entitlements.storage.installation import lock_installation
from entitlements.storage.unit_of_work import Database
from graphql_schema.permissions import Role

PREFIX = "ent_"
KEYS_STREAM = "keys"
ROLES = tuple(role for role in Role if role is not Role.CUSTOMER)


def hash_key(key: str) -> str:
    """SHA-256, in hex: a key has 240 random bits, so that no slow hash is needed."""
    return hashlib.sha256(key.encode()).hexdigest()


async def create(
    database: Database, actor: Actor, *, role: str, name: str, expires_at: datetime | None = None
) -> tuple[ApiKeyRow, str]:
    """A new key and its row. The key is in no other place: it cannot be shown again."""
    if role not in set(ROLES):
        raise ValidationFailed.of("role", "UNKNOWN_ROLE", f"one of {', '.join(ROLES)}")
    if not 1 <= len(name.strip()) <= 100:
        raise ValidationFailed.of("name", "LENGTH", "a name has 1 to 100 characters")
    key = f"{PREFIX}{role}_{random_token(30)}"
    row = ApiKeyRow(
        id=new_id("key"),
        name=name.strip(),
        role=role,
        hash=hash_key(key),
        created_at=wall_now(),
        created_by=actor.name,
        expires_at=expires_at,
    )
    async with database.write() as session:
        session.add(row)
        await lock_installation(session)
        await ledger.append(
            session,
            stream=KEYS_STREAM,
            at=row.created_at,
            actor=actor,
            action="key.created",
            object_type="key",
            object_id=row.id,
            after={"name": row.name, "role": role, "expires_at": expires_at},
        )
    return row, key


async def revoke(database: Database, actor: Actor, key_id: str) -> ApiKeyRow:
    async with database.write() as session:
        await lock_installation(session)
        row = await session.get(ApiKeyRow, key_id)
        if row is None:
            raise NotFound("key", key_id)
        if row.revoked_at is None:
            row.revoked_at = wall_now()
            await ledger.append(
                session,
                stream=KEYS_STREAM,
                at=row.revoked_at,
                actor=actor,
                action="key.revoked",
                object_type="key",
                object_id=row.id,
            )
    return row


async def every(database: Database) -> Sequence[ApiKeyRow]:
    """All keys, the newest first, the revoked included. Their number is small by nature."""
    async with database.read() as session:
        query = select(ApiKeyRow).order_by(ApiKeyRow.id.desc()).limit(1000)
        return (await session.scalars(query)).all()


async def find(database: Database, key: str) -> ApiKeyRow | None:
    """The row of a key that is good now."""
    async with database.read() as session:
        row = await session.scalar(select(ApiKeyRow).where(ApiKeyRow.hash == hash_key(key)))
    if row is None or row.revoked_at is not None:
        return None
    expired = row.expires_at is not None and row.expires_at <= wall_now()
    return None if expired else row
