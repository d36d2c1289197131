"""The ledger: what happened, who did it, why, and what it is worth. Append only, hash-chained.

Each stream (`catalog`, `customer:<id>`, `keys`) is one chain: an entry carries the hash of its
predecessor, so that streams never wait for each other and nothing in one can be changed unseen.
"""

import hashlib
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from entitlements.audit.tables import AuditEntryRow
from entitlements.kernel.ids import new_id
from entitlements.kernel.money import Money
from entitlements.kernel.period import format_instant


class Actor(msgspec.Struct, frozen=True):
    """Who acts, for the ledger: `name` such as `key:finance-console`, `customer:acme/ann`."""

    name: str
    request_id: str | None = None


SYSTEM = Actor("system")

_HEADS = "audit_heads"
_Heads = dict[str, tuple[int, str | None]]


class AuditFilter(msgspec.Struct, frozen=True, kw_only=True):
    stream: str | None = None
    actor: str | None = None
    action: str | None = None
    object_type: str | None = None
    object_id: str | None = None
    from_: datetime | None = None
    to: datetime | None = None


def customer_stream(customer_id: str) -> str:
    return f"customer:{customer_id}"


async def append(
    session: AsyncSession,
    *,
    stream: str,
    at: datetime,
    actor: Actor,
    action: str,
    object_type: str,
    object_id: str,
    before: Any = None,
    after: Any = None,
    reason: str | None = None,
    mrr_delta: Money | None = None,
) -> AuditEntryRow:
    """Add an entry in the caller's transaction, which must already hold the stream's lock.

    What serialises a stream is the row lock of its object (the customer, the catalog); the unique
    `(stream, sequence)` turns a missed lock into an error, never into a fork of the chain.
    """
    heads: _Heads = session.info.get(_HEADS, {})
    known = stream in heads
    sequence, previous_hash = heads[stream] if known else await _head(session, stream)
    entry = AuditEntryRow(
        id=new_id("aud"),
        stream=stream,
        sequence=sequence + 1,
        at=at,
        actor=actor.name,
        action=action,
        object_type=object_type,
        object_id=object_id,
        before=_as_json(before),
        after=_as_json(after),
        reason=reason,
        request_id=actor.request_id,
        mrr_delta_minor=mrr_delta.amount_minor if mrr_delta else None,
        currency=mrr_delta.currency if mrr_delta else None,
        previous_hash=previous_hash,
    )
    entry.hash = entry_hash(entry)
    session.add(entry)
    if known:
        heads[stream] = entry.sequence, entry.hash
    else:
        await session.flush()
    return entry


async def read_heads(session: AsyncSession, streams: Sequence[str]) -> None:
    """Read where some streams end, all at once: a transaction that has locked them, and appends to
    many, need not ask for each."""
    newest = (
        select(AuditEntryRow.stream, func.max(AuditEntryRow.sequence).label("sequence"))
        .where(AuditEntryRow.stream.in_(streams))
        .group_by(AuditEntryRow.stream)
        .subquery()
    )
    ends = await session.execute(
        select(AuditEntryRow.stream, AuditEntryRow.sequence, AuditEntryRow.hash).join(
            newest,
            (AuditEntryRow.stream == newest.c.stream)
            & (AuditEntryRow.sequence == newest.c.sequence),
        )
    )
    heads: _Heads = dict.fromkeys(streams, (0, None))
    heads |= {stream: (sequence, hash) for stream, sequence, hash in ends}
    session.info[_HEADS] = heads


async def _head(session: AsyncSession, stream: str) -> tuple[int, str | None]:
    """The last sequence of a stream, 0 before its first entry, and that entry's hash."""
    head = (
        await session.execute(
            select(AuditEntryRow.sequence, AuditEntryRow.hash)
            .where(AuditEntryRow.stream == stream)
            .order_by(AuditEntryRow.sequence.desc())
            .limit(1)
        )
    ).first()
    return (head.sequence, head.hash) if head else (0, None)


def _as_json(value: Any) -> Any:
    """Plain JSON data, so that what is hashed now equals what is read back later."""
    return None if value is None else msgspec.json.decode(msgspec.json.encode(value))


def entry_hash(entry: AuditEntryRow) -> str:
    """SHA-256, in hex, over every field but the hash itself, in canonical JSON."""
    fields = {
        "id": entry.id,
        "stream": entry.stream,
        "sequence": entry.sequence,
        "at": format_instant(entry.at),
        "actor": entry.actor,
        "action": entry.action,
        "object_type": entry.object_type,
        "object_id": entry.object_id,
        "before": entry.before,
        "after": entry.after,
        "reason": entry.reason,
        "request_id": entry.request_id,
        "mrr_delta_minor": entry.mrr_delta_minor,
        "currency": entry.currency,
        "previous_hash": entry.previous_hash,
    }
    return hashlib.sha256(msgspec.json.encode(fields, order="sorted")).hexdigest()


async def entries(
    session: AsyncSession, filter: AuditFilter, *, first: int, after: str | None
) -> Sequence[AuditEntryRow]:
    """Up to `first` entries, newest first, older than the entry `after`."""
    conditions = _conditions(filter)
    if after is not None:
        conditions.append(AuditEntryRow.id < after)
    query = select(AuditEntryRow).where(*conditions).order_by(AuditEntryRow.id.desc()).limit(first)
    return (await session.scalars(query)).all()


async def every(session: AsyncSession, filter: AuditFilter) -> AsyncIterator[AuditEntryRow]:
    """All entries, oldest first, however many: a few hundred are in memory at a time."""
    query = select(AuditEntryRow).where(*_conditions(filter)).order_by(AuditEntryRow.id)
    async for entry in await session.stream_scalars(query.execution_options(yield_per=500)):
        yield entry
        session.expunge(entry)


async def count(session: AsyncSession, filter: AuditFilter) -> int:
    query = select(func.count()).select_from(AuditEntryRow).where(*_conditions(filter))
    return await session.scalar(query) or 0


def _conditions(filter: AuditFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [
        column == value
        for column, value in (
            (AuditEntryRow.stream, filter.stream),
            (AuditEntryRow.actor, filter.actor),
            (AuditEntryRow.action, filter.action),
            (AuditEntryRow.object_type, filter.object_type),
            (AuditEntryRow.object_id, filter.object_id),
        )
        if value is not None
    ]
    if filter.from_ is not None:
        conditions.append(AuditEntryRow.at >= filter.from_)
    if filter.to is not None:
        conditions.append(AuditEntryRow.at < filter.to)
    return conditions
