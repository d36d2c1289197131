"""Seals: the ends of the ledger's chains at an instant, under a key that is not in the database.

A chain proves that its entries belong together; whoever owns the database could still write all of
it anew, or cut its end off. A seal names the heads of the streams that moved since the seal before
and carries its predecessor's MAC. It is emitted, too: kept elsewhere, it proves the seals as well.
"""

import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from entitlements.audit.ledger import entry_hash
from entitlements.audit.tables import AuditEntryRow, AuditSealRow
from entitlements.kernel.clock import wall_now
from entitlements.kernel.ids import first_id_at
from entitlements.kernel.period import format_instant
from entitlements.kernel.signing import Signer

EVERY = timedelta(hours=1)
_LOOK_BACK = timedelta(hours=1)
"""No transaction takes that long: an entry older than this, before a seal, was seen by it."""

_PURPOSE = "audit-seal"
_HEADS_AT_ONCE = 200


class Seal(msgspec.Struct, frozen=True, kw_only=True):
    """What is emitted of a seal: one line, to be kept where the database's owner has no hand in."""

    sequence: int
    at: datetime
    streams: int
    heads_digest: str
    previous_mac: str | None
    kid: str
    mac: str

    @property
    def message(self) -> bytes:
        """What the MAC is over."""
        said = [self.sequence, format_instant(self.at), self.heads_digest, self.previous_mac]
        return msgspec.json.encode(said)


def _digest(heads: dict[str, Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(heads, order="sorted")).hexdigest()


def seal_of(row: AuditSealRow) -> Seal:
    return Seal(
        sequence=row.sequence,
        at=row.at,
        streams=len(row.heads),
        heads_digest=_digest(row.heads),
        previous_mac=row.previous_mac,
        kid=row.kid,
        mac=row.mac,
    )


async def seal(session: AsyncSession, signer: Signer) -> tuple[Seal | None, bool]:
    """Seal what has moved since the last seal; the newest seal, and whether it is new.

    Two at once run into the primary key: `IntegrityError` for the slower one.
    """
    previous = await session.scalar(
        select(AuditSealRow).order_by(AuditSealRow.sequence.desc()).limit(1)
    )
    heads = await _heads(session, previous.at if previous else None)
    if not heads or (previous is not None and heads.items() <= previous.heads.items()):
        return (seal_of(previous) if previous else None), False
    row = AuditSealRow(
        sequence=previous.sequence + 1 if previous else 1,
        at=wall_now().replace(microsecond=0),
        heads=heads,
        previous_mac=previous.mac if previous else None,
        kid="",
        mac="",
    )
    row.kid, row.mac = signer.mac(_PURPOSE, seal_of(row).message)
    session.add(row)
    await session.flush()
    return seal_of(row), True


async def is_due(session: AsyncSession) -> bool:
    """Whether something was written since the newest seal, and that is an hour old."""
    newest = await session.scalar(select(func.max(AuditSealRow.at)))
    if newest is not None and wall_now() - newest < EVERY:
        return False
    written = select(AuditEntryRow.id).limit(1)
    if newest is not None:
        written = written.where(AuditEntryRow.id >= first_id_at("aud", newest))
    return await session.scalar(written) is not None


async def _heads(session: AsyncSession, since: datetime | None) -> dict[str, Any]:
    """The last entry of every stream, or of those that moved shortly before an instant or later."""
    ends = select(
        AuditEntryRow.stream, func.max(AuditEntryRow.sequence).label("sequence")
    ).group_by(AuditEntryRow.stream)
    if since is not None:
        first = first_id_at("aud", since - _LOOK_BACK)
        moved = select(AuditEntryRow.stream).where(AuditEntryRow.id >= first)
        ends = ends.where(AuditEntryRow.stream.in_(moved))
    last = ends.subquery()
    found = await session.execute(
        select(AuditEntryRow.stream, AuditEntryRow.sequence, AuditEntryRow.hash).join(
            last,
            (last.c.stream == AuditEntryRow.stream) & (last.c.sequence == AuditEntryRow.sequence),
        )
    )
    return {stream: [sequence, hash] for stream, sequence, hash in found}


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """`first_broken` is the first entry, in order of stream and sequence, that does not add up;
    `problem` says in words what is wrong, also where an entry or a seal is missing."""

    ok: bool
    entries: int
    seals: int = 0
    first_broken: AuditEntryRow | None = None
    problem: str | None = None


async def verify(
    session: AsyncSession,
    signer: Signer,
    stream: str | None = None,
    *,
    kept: Sequence[Seal] = (),
    progress: Callable[[int], None] = lambda entries: None,
) -> Verification:
    """Prove every chain, or one, and every seal: no gap, every link, hash and head right.

    `kept` are seals that were emitted and kept elsewhere: each must be among the stored ones.
    """
    found = await _verify_chains(session, stream, progress)
    if not found.ok:
        return found
    sealed, previous = 0, None
    rows = await session.stream_scalars(
        select(AuditSealRow).order_by(AuditSealRow.sequence).execution_options(yield_per=20)
    )
    by_sequence = {one.sequence: one for one in kept}
    broken: tuple[str, AuditEntryRow | None] | None = None
    async for row in rows:
        sealed += 1
        said = seal_of(row)
        linked = (row.sequence, row.previous_mac) == (sealed, previous)
        if not linked or not signer.is_mac(_PURPOSE, said.message, row.kid, row.mac):
            broken = (f"seal {row.sequence} is not one of ours, or was altered", None)
        elif by_sequence.pop(row.sequence, said) != said:
            broken = (f"seal {row.sequence} is not the one that was kept", None)
        else:
            broken = await _verify_heads(session, row, stream)
        if broken is not None:
            break
        previous = row.mac
        session.expunge(row)
    if broken is None and by_sequence:
        broken = (f"seal {min(by_sequence)} was kept and is missing: the end was cut off", None)
    if broken is None:
        return msgspec.structs.replace(found, seals=sealed)
    problem, entry = broken
    return Verification(
        ok=False, entries=found.entries, seals=sealed, first_broken=entry, problem=problem
    )


async def _verify_chains(
    session: AsyncSession, stream: str | None, progress: Callable[[int], None]
) -> Verification:
    query = select(AuditEntryRow).order_by(AuditEntryRow.stream, AuditEntryRow.sequence)
    if stream is not None:
        query = query.where(AuditEntryRow.stream == stream)
    entries = 0
    previous: AuditEntryRow | None = None
    async for entry in await session.stream_scalars(query.execution_options(yield_per=500)):
        if previous is not None and previous.stream != entry.stream:
            previous = None
        expected = (previous.sequence + 1, previous.hash) if previous else (1, None)
        entries += 1
        linked = (entry.sequence, entry.previous_hash) == expected
        if not linked or entry.hash != entry_hash(entry):
            words = "was altered" if linked else "does not follow the one before it"
            problem = f"{entry.stream} {entry.sequence} {words}"
            return Verification(ok=False, entries=entries, first_broken=entry, problem=problem)
        previous = entry
        session.expunge(entry)
        if entries % 500 == 0:
            progress(entries)
    progress(entries)
    return Verification(ok=True, entries=entries)


async def _verify_heads(
    session: AsyncSession, row: AuditSealRow, stream: str | None
) -> tuple[str, AuditEntryRow | None] | None:
    """Whether every entry that a seal names is there, as it was."""
    heads = {s: tuple(head) for s, head in row.heads.items() if stream in (None, s)}
    wanted = [(s, sequence) for s, (sequence, _) in sorted(heads.items())]
    for start in range(0, len(wanted), _HEADS_AT_ONCE):
        batch = wanted[start : start + _HEADS_AT_ONCE]
        there = {
            (entry.stream, entry.sequence): entry
            for entry in await session.scalars(
                select(AuditEntryRow).where(
                    tuple_(AuditEntryRow.stream, AuditEntryRow.sequence).in_(batch)
                )
            )
        }
        for name, sequence in batch:
            entry = there.get((name, sequence))
            if entry is None:
                return f"{name} {sequence} was sealed and is missing", None
            if entry.hash != heads[name][1]:
                return f"{name} {sequence} is not what seal {row.sequence} sealed", entry
            session.expunge(entry)
    return None
