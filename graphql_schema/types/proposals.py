"""Changes of the catalog on their way: what is proposed, by whom, why, and what it changes."""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum

import msgspec
import strawberry

from entitlements.catalog import proposals as domain
from entitlements.catalog.diff import Difference, DifferenceKind
from entitlements.catalog.tables import CatalogProposalRow
from entitlements.finance import impact
from graphql_schema.context import Context, Info
from graphql_schema.types.enums import describe_enum
from graphql_schema.types.errors import Issue
from graphql_schema.types.impact import Impact
from graphql_schema.types.pages import PageInfo
from graphql_schema.types.scalars import JSON


class ProposalStatus(StrEnum):
    PROPOSED = "proposed"
    APPROVED = "approved"
    PUBLISHED = "published"
    REJECTED = "rejected"
    SUPERSEDED = "superseded"


describe_enum(
    ProposalStatus,
    "How far a proposal has come.",
    PROPOSED="It waits for somebody's decision.",
    APPROVED="It is decided, and takes effect at its instant.",
    PUBLISHED="It took effect: it is, or was, what is sold.",
    REJECTED="It was refused.",
    SUPERSEDED="Another was approved on the same revision: it has to be proposed anew.",
)
describe_enum(
    DifferenceKind,
    "What happened to a part of the catalog.",
    ADDED="It is new.",
    REMOVED="It is left out.",
    CHANGED="It has another value.",
)


@strawberry.input(
    description="What happens to those who hold an older version of a package. "
    "A package that no policy names is KEEP for both."
)
class GrandfatherPolicyInput:
    package_id: strawberry.ID = strawberry.field(
        description="A package that is sold both before and after."
    )
    price: domain.GrandfatherPolicy = strawberry.field(
        default=domain.GrandfatherPolicy.KEEP, description="Of the charges."
    )
    entitlements: domain.GrandfatherPolicy = strawberry.field(
        default=domain.GrandfatherPolicy.KEEP, description="Of what is granted."
    )
    until: datetime | None = strawberry.field(
        default=None, description="The date of KEEP_UNTIL, and of it alone."
    )
    renewals: int | None = strawberry.field(
        default=None, description="At which renewal, of AT_RENEWAL alone: 1 is the next, up to 120."
    )
    max_increase_percent: Decimal | None = strawberry.field(
        default=None,
        description="The most that one renewal may raise what is paid, in percent; "
        "null for no cap.",
    )
    notice_days: int | None = strawberry.field(
        default=None, description="Days between notice and move, at the least: 0 to 366."
    )


def policy_of(input: GrandfatherPolicyInput) -> domain.Policy:
    return domain.Policy(
        package_id=input.package_id,
        price=input.price,
        entitlements=input.entitlements,
        until=input.until,
        renewals=input.renewals,
        max_increase_percent=input.max_increase_percent,
        notice_days=input.notice_days,
    )


@strawberry.input(description="A whole catalog, to be published when somebody else approves it.")
class ProposeCatalogInput:
    document: JSON = strawberry.field(
        description="The catalog document, whole: a package left out is retired. Amounts are text."
    )
    reason: str = strawberry.field(description="Why. Finance reads it, and it is kept.")
    effective_at: datetime | None = strawberry.field(
        default=None, description="When it takes effect; at its approval if left out."
    )
    policies: list[GrandfatherPolicyInput] | None = strawberry.field(
        default=None, description="What happens to those who hold an older version."
    )
    base_revision: int | None = strawberry.field(
        default=None,
        description="The revision that the document was written on: Conflict, STALE_BASE, if "
        "another was approved since, so that no change of somebody else is undone unseen.",
    )


@strawberry.type(
    description="What happens to those who hold an older version of a package. "
    "A package that no policy names is KEEP for both."
)
class ProposedPolicy:
    package_id: strawberry.ID = strawberry.field(description="The package.")
    price: domain.GrandfatherPolicy = strawberry.field(description="Of the charges.")
    entitlements: domain.GrandfatherPolicy = strawberry.field(description="Of what is granted.")
    until: datetime | None = strawberry.field(description="KEEP_UNTIL: the date; else null.")
    renewals: int | None = strawberry.field(
        description="AT_RENEWAL: at which renewal, 1 is the next; else null."
    )
    max_increase_percent: Decimal | None = strawberry.field(
        description="The most that one renewal may raise what is paid, in percent; null: no cap."
    )
    notice_days: int | None = strawberry.field(
        description="Days between notice and move, at the least; null: none."
    )


def _policy_type(policy: domain.Policy) -> ProposedPolicy:
    return ProposedPolicy(
        package_id=strawberry.ID(policy.package_id),
        price=policy.price,
        entitlements=policy.entitlements,
        until=policy.until,
        renewals=policy.renewals,
        max_increase_percent=policy.max_increase_percent,
        notice_days=policy.notice_days,
    )


@strawberry.type(description="One field that a proposal changes, or one part with all that is in.")
class CatalogDifference:
    path: str = strawberry.field(
        description="Where, in ids with dots between: "
        "`products.workspace.plans.starter.charges.base.prices.usd.month`."
    )
    package_id: strawberry.ID | None = strawberry.field(
        description="The package it belongs to; null where it is of none."
    )
    kind: DifferenceKind = strawberry.field(description="What happened to it.")
    before: JSON | None = strawberry.field(description="Null where it is new. Amounts are text.")
    after: JSON | None = strawberry.field(description="Null where it is left out.")
    wording: bool = strawberry.field(
        description="Whether it is only wording, which makes no new version."
    )
    rise_percent: Decimal | None = strawberry.field(
        description="How much a number rises, in percent to two decimals; null where it has none."
    )


def _difference_type(difference: Difference) -> CatalogDifference:
    package_id = difference.package_id
    return CatalogDifference(
        path=difference.path,
        package_id=None if package_id is None else strawberry.ID(package_id),
        kind=difference.kind,
        before=None if difference.before is None else JSON(difference.before),
        after=None if difference.after is None else JSON(difference.after),
        wording=difference.wording,
        rise_percent=difference.percent,
    )


@strawberry.type(description="A catalog that somebody wants to be sold from some instant on.")
class CatalogProposal:
    row: strawberry.Private[CatalogProposalRow]
    id: strawberry.ID = strawberry.field(description="Its id, such as `prp_…`.")
    status: ProposalStatus = strawberry.field(description="How far it has come.")
    reason: str = strawberry.field(description="Why it was proposed.")
    proposed_by: str = strawberry.field(description="Who proposed it, as in the audit entries.")
    created_at: datetime = strawberry.field(description="When it was proposed.")
    effective_at: datetime = strawberry.field(
        description="From when on it is sold. Where no instant was asked for that is its approval, "
        "and until then the present."
    )
    base_revision: int = strawberry.field(
        description="The catalog that it changes. It can be approved while that is the latest."
    )
    published_revision: int | None = strawberry.field(
        description="Its own revision, from approval on; else null."
    )
    decided_by: str | None = strawberry.field(description="Who approved or rejected it.")
    decided_at: datetime | None = strawberry.field(description="When that was.")
    decision_note: str | None = strawberry.field(description="What they said.")

    @strawberry.field(description="The catalog document, whole. Amounts are text.")
    def document(self) -> JSON:
        return JSON(msgspec.to_builtins(self.row.document))

    @strawberry.field(description="What happens to those who hold an older version.")
    def policies(self) -> list[ProposedPolicy]:
        stored = msgspec.convert(self.row.policies, list[domain.Policy])
        return [_policy_type(policy) for policy in stored]

    @strawberry.field(
        description="What somebody should know who decides on it. RETIRED, RETURNED and "
        "SAME_AS_BEFORE, with the package's id for a path; PROBABLE_RENAME, and what is legal but "
        "odd about what is new, with the path in the document. Compares two whole catalogs."
    )
    async def notes(self, info: Info) -> list[Issue]:
        found = await info.context.services.catalog.notes_of(self.row)
        return [Issue(path=list(n.path), code=n.code, message=n.message) for n in found]

    @strawberry.field(
        description="What it changes in its base, field by field: the catalog's own first, then by "
        "product and package. Compares two whole catalogs."
    )
    async def diff(self, info: Info) -> list[CatalogDifference]:
        found = await info.context.services.catalog.diff_of(self.row)
        return [_difference_type(difference) for difference in found]

    @strawberry.field(
        description="What it is worth. Worked out now while it is open, which reads everybody who "
        "holds something: some seconds for a hundred thousand. As it was signed once decided."
    )
    async def impact(self, info: Info) -> Impact:
        found = await info.context.services.catalog.impact_of(self.row)
        return Impact(found=msgspec.convert(found, impact.Impact))


def proposal_type(context: Context, row: CatalogProposalRow) -> CatalogProposal:
    return CatalogProposal(
        row=row,
        id=strawberry.ID(row.id),
        status=ProposalStatus(context.services.catalog.status_of(row)),
        reason=row.reason,
        proposed_by=row.proposed_by,
        created_at=row.created_at,
        effective_at=row.effective_at or row.decided_at or context.now,
        base_revision=row.base_revision,
        published_revision=row.published_revision,
        decided_by=row.decided_by,
        decided_at=row.decided_at,
        decision_note=row.decision_note,
    )


@strawberry.type(description="A page of proposals, newest first.")
class CatalogProposalConnection:
    nodes: list[CatalogProposal] = strawberry.field(description="The proposals.")
    page_info: PageInfo = strawberry.field(description="Whether and where the list goes on.")
