"""The published catalog: kept in memory, revision by revision; and how a document gets published.

Nothing is published but through a proposal: document, reason, and somebody else's approval.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from entitlements.audit import ledger
from entitlements.audit.ledger import Actor
from entitlements.catalog import versions
from entitlements.catalog.diff import Difference, diff, summary
from entitlements.catalog.document import Draft, parse
from entitlements.catalog.model import AnyPackage, Catalog
from entitlements.catalog.proposals import Policy, PublishedPolicy, check_policies, notes
from entitlements.catalog.tables import CatalogProposalRow, CatalogRevisionRow, PackageVersionRow
from entitlements.catalog.versions import Publication
from entitlements.kernel.clock import Clock
from entitlements.kernel.errors import Conflict, Issue, NotFound, ValidationFailed
from entitlements.kernel.ids import new_id
from entitlements.kernel.period import format_instant
from entitlements.storage.feed import ChangeFeed
from entitlements.storage.installation import lock_installation
from entitlements.storage.unit_of_work import Database

CATALOG_STREAM = "catalog"
CATALOG_CHANNEL = "catalog"
KEPT_REVISIONS = 8
"""How many past revisions a process keeps in memory, beside the present and those to come."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What a proposal changes, as it would be published: the new versions of packages, with the
    policies for those who hold older ones. `catalog` has every version that may be held,
    `published` the policies that are approved already."""

    catalog: Catalog
    published: Mapping[str, Sequence[PublishedPolicy]]
    new_versions: tuple[AnyPackage, ...]
    policies: tuple[Policy, ...]
    effective_at: datetime


class SoldVersion(msgspec.Struct, frozen=True):
    """A version of a package: the revision that brought it and what proposed that, and when it was
    sold: from `effective_at`, up to `ended_at` if that is known."""

    package: AnyPackage
    revision: int
    effective_at: datetime
    ended_at: datetime | None
    proposal: CatalogProposalRow | None = None


class CatalogService:
    """`held_versions` tells which version ids somebody holds: their features may not go. `impact`
    tells what a change of the catalog is worth, which is kept with the decision on it.

    While `feed` is fresh the catalog of any instant whose revision is in memory is answered without
    reading; otherwise each answer first reads whether there is a newer revision.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        feed: ChangeFeed,
        *,
        held_versions: Callable[[AsyncSession], Awaitable[set[str]]],
        require_second_approver: bool,
        impact: Callable[[Change], Awaitable[object]],
    ) -> None:
        self._database = database
        self._clock = clock
        self._feed = feed
        self._held_versions = held_versions
        self._require_second_approver = require_second_approver
        self._impact = impact
        self._effective_at: list[datetime] = []  # of revision 1, 2, …: it never falls
        self._loaded: dict[int, Catalog] = {}  # the one used last stands last
        self._policies: dict[str, list[PublishedPolicy]] = {}
        self._policies_of = 0  # the revision up to which they are known
        feed.subscribe(CATALOG_CHANNEL, self._refresh)

    # ── reading ──────────────────────────────────────────────────────────────

    async def current(self) -> Catalog:
        """What is sold now; revision 0 where nothing was published yet."""
        return await self.as_of(self._clock.now())

    async def as_of(self, at: datetime) -> Catalog:
        """What was, or will be, sold at an instant, as far as it is approved."""
        if not self._feed.is_fresh(CATALOG_CHANNEL):
            await self._refresh()
        return await self.revision(self._revision_at(at))

    def remembered(self, at: datetime) -> Catalog | None:
        """What is sold at an instant as far as it was last known, without reading."""
        return self._loaded.get(self._revision_at(at))

    async def latest(self) -> Catalog:
        """The latest approved revision, in effect or not yet: what a proposal changes."""
        await self._refresh()
        return await self.revision(len(self._effective_at))

    async def revision(self, revision: int) -> Catalog:
        """Raises `NotFound` where there is no such revision."""
        if revision in self._loaded or revision == 0:
            return self._remembered(revision)
        async with self._database.read() as session:
            return await self._load(session, revision)

    async def document(self, revision: int) -> Any:
        """The document that a revision was published from, as it was proposed."""
        async with self._database.read() as session:
            row = await session.get(CatalogRevisionRow, revision)
        if row is None:
            raise NotFound("revision", str(revision))
        return row.document

    async def history_of(self, package_id: str) -> list[SoldVersion]:
        """Every version that a package had, has or is approved to have, newest first.

        Raises `NotFound` where there never was such a package.
        """
        latest = await self.latest()
        if package_id not in latest.latest_versions:
            raise NotFound("package", package_id)
        of_package = PackageVersionRow.package_id == package_id
        found: list[SoldVersion] = []
        async with self._database.read() as session:
            rows = await session.execute(
                select(
                    PackageVersionRow.version,
                    PackageVersionRow.revision,
                    CatalogRevisionRow.effective_at,
                )
                .join(CatalogRevisionRow, CatalogRevisionRow.revision == PackageVersionRow.revision)
                .where(of_package)
                .order_by(PackageVersionRow.version.desc())
            )
            until = latest.revision + 1
            for version, revision, effective_at in rows:
                until = await self._sold_until(session, package_id, revision, until)
                ended_at = None
                if until <= latest.revision:
                    ended_at = self._effective_at[until - 1]
                package = latest.version(package_id, version)
                found.append(SoldVersion(package, revision, effective_at, ended_at))
                until = revision
            proposals = await session.scalars(
                select(CatalogProposalRow).where(
                    CatalogProposalRow.published_revision.in_([sold.revision for sold in found])
                )
            )
            by_revision = {row.published_revision: row for row in proposals}
        return [
            msgspec.structs.replace(sold, proposal=by_revision.get(sold.revision)) for sold in found
        ]

    async def _sold_until(
        self, session: AsyncSession, package_id: str, sold_in: int, until: int
    ) -> int:
        """The first revision before `until` that does not sell a package any more, else `until`.

        What was left out comes back as another version: it is sold at first, and then it is not.
        """
        gone = until
        while gone - sold_in > 1:
            middle = gone - 1 if gone == until else (sold_in + gone) // 2
            resolved = await session.scalar(
                select(CatalogRevisionRow.resolved).where(CatalogRevisionRow.revision == middle)
            )
            if package_id in versions.sold_in(resolved or ""):
                sold_in = middle
            else:
                gone = middle
        return gone

    async def policies(self) -> Mapping[str, Sequence[PublishedPolicy]]:
        """What was said of those who hold older versions, by package id, in order of publishing:
        also what is approved and takes effect later. A package that is not there is kept."""
        await self.current()
        latest = len(self._effective_at)
        if self._policies_of < latest:
            async with self._database.read() as session:
                found = await _policies(session, self._policies_of, latest)
            if self._policies_of < latest:  # not learned meanwhile
                for published in found:
                    self._policies.setdefault(published.policy.package_id, []).append(published)
                self._policies_of = latest
        return self._policies

    def _revision_at(self, at: datetime) -> int:
        return bisect_right(self._effective_at, at)

    async def _refresh(self, _keys: Iterable[str] | None = None) -> None:
        """Learn of new revisions, and load what is sold now and what will be: then it changes by
        the clock alone."""
        async with self._database.read() as session:
            known = len(self._effective_at)
            query = select(CatalogRevisionRow.revision, CatalogRevisionRow.effective_at)
            query = query.where(CatalogRevisionRow.revision > known)
            for row in await session.execute(query.order_by(CatalogRevisionRow.revision)):
                if row.revision == len(self._effective_at) + 1:  # not learned meanwhile
                    self._effective_at.append(row.effective_at)
            for revision in self._lasting():
                if revision not in self._loaded:
                    await self._load(session, revision)

    def _lasting(self) -> range:
        """The revision that is sold now and those to come."""
        now = max(self._revision_at(self._clock.now()), 1)
        return range(now, len(self._effective_at) + 1)

    def _remembered(self, revision: int) -> Catalog:
        if revision == 0:
            return Catalog.EMPTY
        catalog = self._loaded[revision] = self._loaded.pop(revision)
        return catalog

    async def _load(self, session: AsyncSession, revision: int) -> Catalog:
        """A revision with its history: what the one before knows, if that is in memory."""
        if revision in self._loaded or revision == 0:
            return self._remembered(revision)
        row = await session.get(CatalogRevisionRow, revision)
        if row is None:
            raise NotFound("revision", str(revision))
        before = self._loaded.get(revision - 1)
        if before is not None:
            older: Iterable[Any] = before.versions.values()
        else:
            query = select(PackageVersionRow.content).where(PackageVersionRow.revision < revision)
            older = [versions.decode_package(c) for c in await session.scalars(query)]
        catalog = versions.decode_revision(row.resolved, older)
        self._loaded[revision] = catalog
        lasting = self._lasting()
        past = [kept for kept in self._loaded if kept not in lasting]
        for stale in past[:-KEPT_REVISIONS]:
            del self._loaded[stale]
        return catalog

    # ── proposals ────────────────────────────────────────────────────────────

    async def propose(
        self,
        actor: Actor,
        document: Any,
        reason: str,
        *,
        effective_at: datetime | None = None,
        policies: Sequence[Policy] = (),
        base_revision: int | None = None,
    ) -> CatalogProposalRow:
        """Store a whole document as a proposal on the latest approved revision.

        `base_revision` is the one that the document was written on: `Conflict` (`STALE_BASE`) where
        another was approved since, which the document would undo unseen. Raises `ValidationFailed`
        with every mistake of the document (paths begin with `document`) and of the rest. Nothing is
        stored then.
        """
        now = self._clock.now()
        if not reason.strip():
            raise ValidationFailed.of("reason", "REASON_REQUIRED", "say why: finance will read it")
        if effective_at is not None and effective_at < now:
            raise ValidationFailed.of("effectiveAt", "IN_THE_PAST", "the instant is in the past")
        draft = await asyncio.to_thread(_parsed, document)
        async with self._database.write() as session:
            await lock_installation(session)
            base = await self._latest(session)
            if base_revision not in (None, base.revision):
                raise await self._stale(session, base_revision or 0, base)
            if effective_at is not None and effective_at < base.effective_at:
                raise ValidationFailed.of("effectiveAt", "BEFORE_BASE", _before_base(base))
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
                draft=versions.encode(draft).decode(),
                policies=msgspec.to_builtins(policies),
            )
            session.add(row)
            await session.flush()
            await self._record(
                session,
                actor,
                row,
                "proposal.proposed",
                after={
                    "status": row.status,
                    "base_revision": base.revision,
                    "effective_at": effective_at,
                    "changes": summary(diff(base, draft)),
                },
                reason=reason,
            )
        return row

    async def against_held(self, draft: Draft) -> list[Issue]:
        """What a draft would take from those who hold a package; such a draft is refused."""
        await self._refresh()
        async with self._database.read() as session:
            base = await self._latest(session)
            return versions.check_against(draft, base, await self._held_versions(session))

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
        """Approve and, at its effective instant, publish. Other open proposals are superseded.

        `Conflict`: `DECIDED`, `STALE_BASE` where another was approved since it was proposed,
        `OWN_PROPOSAL`, `BEFORE_BASE` where its base takes effect later than it would.
        """
        now, impact = self._clock.now(), await self._impact_if_open(proposal_id)
        async with self._database.write() as session:
            await lock_installation(session)
            base = await self._latest(session)
            row = await self._undecided(session, proposal_id, base)
            if self._require_second_approver and row.proposed_by == actor.name:
                raise Conflict("nobody approves their own proposal", code="OWN_PROPOSAL")
            effective_at = max(row.effective_at or now, now)
            if effective_at < base.effective_at:
                raise Conflict(_before_base(base), code="BEFORE_BASE")
            draft = _draft_of(row)
            await self._check(session, draft, base, [])
            publication = versions.publish(
                draft,
                base,
                revision=base.revision + 1,
                effective_at=effective_at,
                published_at=effective_at,
            )
            await _store(session, publication, base, row.document, now)
            row.status, row.effective_at = "approved", effective_at
            row.published_revision, row.impact = publication.catalog.revision, impact
            await self._decide(session, actor, row, "proposal.approved", note, now, publication)
            await self._supersede(session, actor, row)
            await self._feed.announce(session, CATALOG_CHANNEL, str(row.published_revision))
        await self._refresh()
        return row

    async def reject(self, actor: Actor, proposal_id: str, note: str) -> CatalogProposalRow:
        if not note.strip():
            raise ValidationFailed.of("note", "NOTE_REQUIRED", "say why it is rejected")
        impact = await self._impact_if_open(proposal_id)
        async with self._database.write() as session:
            await lock_installation(session)
            base = await self._latest(session)
            row = await self._undecided(session, proposal_id, base)
            row.status, row.impact = "rejected", impact
            await self._decide(session, actor, row, "proposal.rejected", note, self._clock.now())
        return row

    async def _impact_if_open(self, proposal_id: str) -> object:
        """What is signed: worked out before anything is locked, since it looks at every holder."""
        row = await self.proposal(proposal_id)
        if row is None or row.status != "proposed":
            return None
        return await self.impact_of(row)

    async def impact_of(self, row: CatalogProposalRow) -> object:
        """What a proposal is worth, as plain data: as it was signed once decided, else now."""
        if row.impact is not None:
            return row.impact
        return msgspec.to_builtins(await self._impact(await self._change_of(row)))

    async def _change_of(self, row: CatalogProposalRow) -> Change:
        """What a proposal changes of the revision that it was proposed on."""
        base = await self.revision(row.base_revision)
        effective_at = row.effective_at or self._clock.now()
        publication = versions.publish(
            _draft_of(row),
            base,
            revision=base.revision + 1,
            effective_at=effective_at,
            published_at=effective_at,
        )
        return Change(
            catalog=await self.latest(),
            published=await self.policies(),
            new_versions=publication.new_versions,
            policies=msgspec.convert(row.policies, tuple[Policy, ...]),
            effective_at=effective_at,
        )

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
        """What a proposal changes, field by field, in the revision that it was proposed on."""
        return diff(await self.revision(row.base_revision), _draft_of(row))

    async def notes_of(self, row: CatalogProposalRow) -> list[Issue]:
        """What somebody should know who decides on it: see `proposals.notes`."""
        return notes(_draft_of(row), await self.revision(row.base_revision))

    async def _latest(self, session: AsyncSession) -> Catalog:
        revision = await session.scalar(select(func.max(CatalogRevisionRow.revision)))
        return await self._load(session, revision or 0)

    async def _undecided(
        self, session: AsyncSession, proposal_id: str, latest: Catalog
    ) -> CatalogProposalRow:
        row = await session.get(CatalogProposalRow, proposal_id)
        if row is None:
            raise NotFound("proposal", proposal_id)
        if row.status == "superseded":
            raise await self._stale(session, row.base_revision, latest)
        if row.status != "proposed":
            raise Conflict(f"the proposal is {row.status} already", code="DECIDED")
        return row

    async def _stale(self, session: AsyncSession, base: int, latest: Catalog) -> Conflict:
        """Says what changed in between."""
        if base > latest.revision:
            return Conflict(f"there is no revision {base} yet", code="STALE_BASE")
        changes = summary(diff(await self._load(session, base), latest))
        return Conflict(
            f"it changes revision {base}, and revision {latest.revision} has been approved since "
            f"({changes.words()}): look at that, and propose anew",
            code="STALE_BASE",
        )

    async def _supersede(
        self, session: AsyncSession, actor: Actor, approved: CatalogProposalRow
    ) -> None:
        """Nothing else that is open can be approved from now on: its base is the latest no more."""
        query = select(CatalogProposalRow).where(CatalogProposalRow.status == "proposed")
        for row in (await session.scalars(query.order_by(CatalogProposalRow.id))).all():
            row.status = "superseded"
            after = {"status": row.status, "superseded_by": approved.id}
            await self._record(session, actor, row, "proposal.superseded", after=after)

    async def _decide(
        self,
        session: AsyncSession,
        actor: Actor,
        row: CatalogProposalRow,
        action: str,
        note: str | None,
        now: datetime,
        publication: Publication | None = None,
    ) -> None:
        row.decided_by, row.decided_at, row.decision_note = actor.name, now, note
        await session.flush()
        before: dict[str, Any] = {"status": "proposed"}
        after: dict[str, Any] = {"status": row.status}
        if publication is not None:
            before |= {"revision": row.base_revision}
            after |= {
                "revision": row.published_revision,
                "effective_at": row.effective_at,
                "changes": summary(
                    diff(await self._load(session, row.base_revision), publication.catalog)
                ),
                "new_versions": [package.version_id for package in publication.new_versions],
            }
        await self._record(session, actor, row, action, before=before, after=after, reason=note)

    async def _record(
        self,
        session: AsyncSession,
        actor: Actor,
        row: CatalogProposalRow,
        action: str,
        *,
        before: Any = None,
        after: Any,
        reason: str | None = None,
    ) -> None:
        await ledger.append(
            session,
            stream=CATALOG_STREAM,
            at=self._clock.now(),
            actor=actor,
            action=action,
            object_type="proposal",
            object_id=row.id,
            before=before,
            after=after,
            reason=reason,
        )


def _parsed(document: Any) -> Draft:
    try:
        return parse(document)
    except ValidationFailed as error:
        raise ValidationFailed(
            [msgspec.structs.replace(i, path=("document", *i.path)) for i in error.issues]
        ) from None


def _draft_of(row: CatalogProposalRow) -> Draft:
    """What was proposed, as it was understood then: later rules do not change it."""
    return parse(row.document) if row.draft is None else versions.decode_draft(row.draft)


def _before_base(base: Catalog) -> str:
    at = format_instant(base.effective_at)
    return f"revision {base.revision}, which it changes, takes effect at {at}: not before that"


async def _store(
    session: AsyncSession, publication: Publication, base: Catalog, document: Any, now: datetime
) -> None:
    """The revision, its new versions, and the present wording of those that it goes on selling."""
    catalog = publication.catalog
    session.add(
        CatalogRevisionRow(
            revision=catalog.revision,
            effective_at=catalog.effective_at,
            published_at=now,
            document=document,
            resolved=versions.encode_revision(catalog).decode(),
        )
    )
    await session.flush()
    new = [_version_row(package, catalog.revision) for package in publication.new_versions]
    session.add_all(PackageVersionRow(**row) for row in new)
    await session.flush()
    reworded = [
        {"package_id": package.id, "version": package.version, "content": _content(package)}
        for package in catalog.current.values()
        if package.version_id in base.versions and package != base.versions[package.version_id]
    ]
    if reworded:
        await session.execute(update(PackageVersionRow), reworded)


async def _policies(session: AsyncSession, after: int, to: int) -> list[PublishedPolicy]:
    """What the revisions after one and up to another say of holders of older versions."""
    versions_of: dict[str, list[tuple[int, int]]] = {}
    query = select(
        PackageVersionRow.package_id, PackageVersionRow.revision, PackageVersionRow.version
    )
    for package_id, revision, version in await session.execute(query):
        versions_of.setdefault(package_id, []).append((revision, version))
    rows = await session.scalars(
        select(CatalogProposalRow)
        .where(
            CatalogProposalRow.published_revision > after,
            CatalogProposalRow.published_revision <= to,
        )
        .order_by(CatalogProposalRow.published_revision)
    )
    found = []
    for row in rows:
        assert row.published_revision is not None
        assert row.effective_at is not None
        for policy in msgspec.convert(row.policies, tuple[Policy, ...]):
            known = versions_of.get(policy.package_id, ())
            versions = [v for revision, v in known if revision <= row.published_revision]
            found.append(
                PublishedPolicy(
                    version=max(versions),
                    published_at=row.effective_at,
                    policy=policy,
                    proposal_id=row.id,
                    reason=row.reason,
                )
            )
    return found


def _version_row(package: AnyPackage, revision: int) -> dict[str, Any]:
    return {
        "package_id": package.id,
        "version": package.version,
        "revision": revision,
        "content": _content(package),
    }


def _content(package: AnyPackage) -> str:
    return versions.encode(package).decode()
