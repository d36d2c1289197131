"""The published catalog: loaded whole, kept per revision; and how a document gets published.

Nothing is published but through a proposal: document, reason, and somebody else's approval.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from entitlements.audit import ledger
from entitlements.audit.ledger import Actor
from entitlements.catalog import versions
from entitlements.catalog.diff import Difference, diff
from entitlements.catalog.document import Draft, parse
from entitlements.catalog.model import Catalog
from entitlements.catalog.proposals import Policy, check_policies
from entitlements.catalog.tables import CatalogProposalRow, CatalogRevisionRow, PackageVersionRow
from entitlements.kernel.clock import Clock
from entitlements.kernel.errors import Conflict, NotFound, ValidationFailed
from entitlements.kernel.ids import new_id
from entitlements.storage.installation import lock_installation
from entitlements.storage.unit_of_work import Database

CATALOG_STREAM = "catalog"
KEPT_REVISIONS = 8
"""How many revisions a process keeps in memory; the present one is always among them."""


class CatalogService:
    """`held_versions` tells which version ids somebody holds: their features may not go."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        held_versions: Callable[[AsyncSession], Awaitable[set[str]]],
        require_second_approver: bool,
    ) -> None:
        self._database = database
        self._clock = clock
        self._held_versions = held_versions
        self._require_second_approver = require_second_approver
        self._loaded: dict[int, Catalog] = {}

    # ── reading ──────────────────────────────────────────────────────────────

    async def current(self) -> Catalog:
        """What is sold now; revision 0 where nothing was published yet."""
        return await self.as_of(self._clock.now())

    async def as_of(self, at: datetime) -> Catalog:
        """What was, or will be, sold at an instant."""
        async with self._database.read() as session:
            revision = await session.scalar(
                select(func.max(CatalogRevisionRow.revision)).where(
                    CatalogRevisionRow.effective_at <= at
                )
            )
        return await self.revision(revision or 0)

    async def revision(self, revision: int) -> Catalog:
        if revision == 0:
            return Catalog.EMPTY
        if revision not in self._loaded:
            async with self._database.read() as session:
                self._loaded[revision] = await _load(session, revision)
            for stale in sorted(self._loaded)[:-KEPT_REVISIONS]:
                del self._loaded[stale]
        return self._loaded[revision]

    # ── proposals ────────────────────────────────────────────────────────────

    async def propose(
        self,
        actor: Actor,
        document: Any,
        reason: str,
        *,
        effective_at: datetime | None = None,
        policies: Sequence[Policy] = (),
    ) -> CatalogProposalRow:
        """Store a whole document as a proposal on the latest approved revision.

        Raises `ValidationFailed` with every mistake of the document (paths begin with `document`)
        and of the rest; nothing is stored then.
        """
        now = self._clock.now()
        if not reason.strip():
            raise ValidationFailed.of("reason", "REASON_REQUIRED", "say why: finance will read it")
        if effective_at is not None and effective_at < now:
            raise ValidationFailed.of("effectiveAt", "IN_THE_PAST", "the instant is in the past")
        draft = _parsed(document)
        async with self._database.write() as session:
            await lock_installation(session)
            base = await _latest(session)
            await self._check(session, draft, base, policies)
            row = CatalogProposalRow(
                id=new_id("prp"),
                status="proposed",
                reason=reason,
                proposed_by=actor.name,
                created_at=now,
                effective_at=effective_at,
                base_revision=base.revision,
                document=document,
                policies=msgspec.to_builtins(policies),
            )
            session.add(row)
            await session.flush()
            await self._record(session, actor, row, "proposal.proposed", reason=reason)
        return row

    async def _check(
        self, session: AsyncSession, draft: Draft, base: Catalog, policies: Sequence[Policy]
    ) -> None:
        held = await self._held_versions(session)
        issues = [
            msgspec.structs.replace(issue, path=("document", *issue.path))
            for issue in versions.check_against(draft, base, held)
        ]
        issues += check_policies(policies, base, draft)
        if issues:
            raise ValidationFailed(issues)

    async def approve(self, actor: Actor, proposal_id: str, note: str | None) -> CatalogProposalRow:
        """Approve and, at its effective instant, publish. The base must still be the latest."""
        now = self._clock.now()
        async with self._database.write() as session:
            await lock_installation(session)
            row = await _open_proposal(session, proposal_id)
            if self._require_second_approver and row.proposed_by == actor.name:
                raise Conflict("nobody approves their own proposal", code="OWN_PROPOSAL")
            base = await _latest(session)
            if base.revision != row.base_revision:
                raise Conflict(
                    f"it was proposed on revision {row.base_revision}, and {base.revision} has "
                    "been approved since: propose it anew on that",
                    code="STALE_BASE",
                )
            effective_at = max(row.effective_at or now, now)
            if effective_at < base.effective_at:
                raise Conflict(
                    f"revision {base.revision} takes effect later, at {base.effective_at}",
                    code="BEFORE_BASE",
                )
            draft = _parsed(row.document)
            await self._check(session, draft, base, [])
            await _store_revision(session, draft, base, row, effective_at, now)
            row.status, row.effective_at = "approved", effective_at
            row.published_revision = base.revision + 1
            await self._decide(session, actor, row, "proposal.approved", note, now)
        return row

    async def reject(self, actor: Actor, proposal_id: str, note: str) -> CatalogProposalRow:
        if not note.strip():
            raise ValidationFailed.of("note", "NOTE_REQUIRED", "say why it is rejected")
        async with self._database.write() as session:
            await lock_installation(session)
            row = await _open_proposal(session, proposal_id)
            row.status = "rejected"
            await self._decide(session, actor, row, "proposal.rejected", note, self._clock.now())
        return row

    async def proposal(self, proposal_id: str) -> CatalogProposalRow | None:
        async with self._database.read() as session:
            return await session.get(CatalogProposalRow, proposal_id)

    async def proposals(
        self, status: str | None, *, first: int, after: str | None
    ) -> Sequence[CatalogProposalRow]:
        """Up to `first` proposals, newest first. `published` is an approved one in effect."""
        query = select(CatalogProposalRow)
        now = self._clock.now()
        if status in ("approved", "published"):
            query = query.where(
                CatalogProposalRow.status == "approved",
                CatalogProposalRow.effective_at <= now
                if status == "published"
                else CatalogProposalRow.effective_at > now,
            )
        elif status is not None:
            query = query.where(CatalogProposalRow.status == status)
        if after is not None:
            query = query.where(CatalogProposalRow.id < after)
        async with self._database.read() as session:
            query = query.order_by(CatalogProposalRow.id.desc()).limit(first)
            return (await session.scalars(query)).all()

    def status_of(self, row: CatalogProposalRow) -> str:
        """An approved proposal is published from its effective instant on, with no job for it."""
        in_effect = row.effective_at is not None and row.effective_at <= self._clock.now()
        return "published" if row.status == "approved" and in_effect else row.status

    async def diff_of(self, row: CatalogProposalRow) -> list[Difference]:
        """What a proposal changes, field by field, against the revision it was proposed on."""
        return diff(await self.revision(row.base_revision), parse(row.document))

    async def _decide(
        self,
        session: AsyncSession,
        actor: Actor,
        row: CatalogProposalRow,
        action: str,
        note: str | None,
        now: datetime,
    ) -> None:
        row.decided_by, row.decided_at, row.decision_note = actor.name, now, note
        await session.flush()
        await self._record(session, actor, row, action, reason=note)

    async def _record(
        self,
        session: AsyncSession,
        actor: Actor,
        row: CatalogProposalRow,
        action: str,
        reason: str | None,
    ) -> None:
        await ledger.append(
            session,
            stream=CATALOG_STREAM,
            at=self._clock.now(),
            actor=actor,
            action=action,
            object_type="proposal",
            object_id=row.id,
            after={
                "status": row.status,
                "base_revision": row.base_revision,
                "published_revision": row.published_revision,
                "effective_at": row.effective_at,
            },
            reason=reason,
        )


def _parsed(document: Any) -> Draft:
    try:
        return parse(document)
    except ValidationFailed as error:
        raise ValidationFailed(
            [msgspec.structs.replace(i, path=("document", *i.path)) for i in error.issues]
        ) from None


async def _open_proposal(session: AsyncSession, proposal_id: str) -> CatalogProposalRow:
    row = await session.get(CatalogProposalRow, proposal_id)
    if row is None:
        raise NotFound("proposal", proposal_id)
    if row.status != "proposed":
        raise Conflict(f"the proposal is {row.status} already", code="DECIDED")
    return row


async def _latest(session: AsyncSession) -> Catalog:
    """The latest approved revision, in effect or not yet."""
    revision = await session.scalar(select(func.max(CatalogRevisionRow.revision)))
    return await _load(session, revision) if revision else Catalog.EMPTY


async def _load(session: AsyncSession, revision: int) -> Catalog:
    row = await session.get_one(CatalogRevisionRow, revision)
    return versions.decode_catalog(row.resolved.encode())


async def _store_revision(
    session: AsyncSession,
    draft: Draft,
    base: Catalog,
    proposal: CatalogProposalRow,
    effective_at: datetime,
    now: datetime,
) -> None:
    publication = versions.publish(
        draft,
        base,
        revision=base.revision + 1,
        effective_at=effective_at,
        published_at=effective_at,
    )
    session.add(
        CatalogRevisionRow(
            revision=publication.catalog.revision,
            effective_at=effective_at,
            published_at=now,
            document=proposal.document,
            resolved=versions.encode(publication.catalog).decode(),
        )
    )
    await session.flush()
    session.add_all(
        PackageVersionRow(
            package_id=package.id,
            version=package.version,
            revision=publication.catalog.revision,
            content=versions.encode(package).decode(),
        )
        for package in publication.new_versions
    )
    await session.flush()
