"""The ledger in the API."""

from datetime import datetime
from typing import Self

import strawberry

from entitlements.audit import ledger
from entitlements.audit.tables import AuditEntryRow
from graphql_schema.types.money import Money, money
from graphql_schema.types.pages import PageInfo
from graphql_schema.types.scalars import JSON, BigInt


@strawberry.type(
    description="Something that was done: by whom, to what, why, and what it is worth."
)
class AuditEntry:
    id: strawberry.ID = strawberry.field(description="Sorts by creation.")
    stream: str = strawberry.field(
        description="The chain that it belongs to: `catalog`, `customer:<id>`, `keys`."
    )
    sequence: BigInt = strawberry.field(
        description="Its place in the stream, from 1, without gaps."
    )
    at: datetime = strawberry.field(description="When, by the service's clock.")
    actor: str = strawberry.field(
        description="Who: `key:<name>`, `customer:<id>/<person>`, `system`."
    )
    action: str = strawberry.field(description="What was done, such as `change.applied`.")
    object_type: str = strawberry.field(description="The kind of thing that it was done to.")
    object_id: strawberry.ID = strawberry.field(description="Which one.")
    before: JSON | None = strawberry.field(description="What was changed, as it was.")
    after: JSON | None = strawberry.field(description="What was changed, as it is since.")
    reason: str | None = strawberry.field(description="Why, in the words of who did it.")
    request_id: str | None = strawberry.field(description="The request that did it.")
    mrr_delta: Money | None = strawberry.field(description="What it does to the MRR, if anything.")
    hash: str = strawberry.field(description="SHA-256 over every other field, in hex.")
    previous_hash: str | None = strawberry.field(description="The hash of the entry before it.")

    @classmethod
    def of(cls, row: AuditEntryRow) -> Self:
        delta = None
        if row.mrr_delta_minor is not None and row.currency is not None:
            delta = money(row.mrr_delta_minor, row.currency)
        return cls(
            id=strawberry.ID(row.id),
            stream=row.stream,
            sequence=BigInt(row.sequence),
            at=row.at,
            actor=row.actor,
            action=row.action,
            object_type=row.object_type,
            object_id=strawberry.ID(row.object_id),
            before=row.before,
            after=row.after,
            reason=row.reason,
            request_id=row.request_id,
            mrr_delta=delta,
            hash=row.hash,
            previous_hash=row.previous_hash,
        )


@strawberry.type(description="A page of the ledger, newest first.")
class AuditConnection:
    nodes: list[AuditEntry] = strawberry.field(description="The entries.")
    page_info: PageInfo = strawberry.field(description="Whether and where there is more.")


@strawberry.type(
    description="Whether every chain and seal adds up: no gap, every link, hash and head right."
)
class AuditVerification:
    ok: bool = strawberry.field(description="True where the ledger is consistent in itself.")
    entries: BigInt = strawberry.field(description="How many entries were read.")
    seals: BigInt = strawberry.field(description="How many seals were checked.")
    first_broken: AuditEntry | None = strawberry.field(
        description="The first entry that does not add up; null too where one is missing."
    )
    problem: str | None = strawberry.field(
        description="What is wrong, in words; also of an entry or a seal that is missing."
    )


@strawberry.input(description="Which entries; what is left out does not matter.")
class AuditFilter:
    stream: str | None = strawberry.field(default=None, description="Of this chain.")
    actor: str | None = strawberry.field(default=None, description="By this actor.")
    action: str | None = strawberry.field(default=None, description="Of this action.")
    object_type: str | None = strawberry.field(default=None, description="To this kind of thing.")
    object_id: strawberry.ID | None = strawberry.field(default=None, description="To this thing.")
    from_: datetime | None = strawberry.field(default=None, name="from", description="At or after.")
    to: datetime | None = strawberry.field(default=None, description="Before.")

    def domain(self) -> ledger.AuditFilter:
        return ledger.AuditFilter(
            stream=self.stream,
            actor=self.actor,
            action=self.action,
            object_type=self.object_type,
            object_id=self.object_id,
            from_=self.from_,
            to=self.to,
        )
