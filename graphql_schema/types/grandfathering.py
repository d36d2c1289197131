"""What holders of older versions keep, and the migrations that move them."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

import strawberry

from entitlements.catalog.proposals import GrandfatherPolicy
from entitlements.subscriptions import migrations as domain
from entitlements.subscriptions.migrations import MigrationStatus
from entitlements.subscriptions.standing import Standing
from graphql_schema.context import Context
from graphql_schema.types.enums import describe_enum
from graphql_schema.types.money import Money, money
from graphql_schema.types.proposals import CatalogProposal, proposal_type

describe_enum(
    MigrationStatus,
    "How far a migration is.",
    SCHEDULED="Nobody has moved yet.",
    RUNNING="Some have moved, others are still to.",
    PAUSED="Nobody is moved, and no price that it capped rises, until it is resumed.",
    COMPLETED="Nobody is left to move.",
    ROLLED_BACK="Whoever was moved returns at their next renewal, and nobody else is moved.",
)


@strawberry.type(description="What an item keeps of an older version or price, and until when.")
class Grandfathering:
    package_id: strawberry.ID = strawberry.field(description="The package.")
    held_version: int = strawberry.field(description="The version whose price is paid.")
    latest_version: int = strawberry.field(description="The newest version that was published.")
    policy: GrandfatherPolicy = strawberry.field(
        description="Of the price: the one that moves it next. AT_RENEWAL where it only rises."
    )
    moves_at: datetime | None = strawberry.field(
        description="When the price moves, or rises, next. Null: never, or not while its migration "
        "is paused."
    )
    entitlements_policy: GrandfatherPolicy = strawberry.field(
        description="Of what is granted: the one that moves it next."
    )
    entitlements_move_at: datetime | None = strawberry.field(
        description="When what is granted moves next. Null: never, or not while it is paused."
    )
    notice_at: datetime | None = strawberry.field(
        description="When it was told that the price moves: at publishing. Null where it does not."
    )
    cap_percent: Decimal | None = strawberry.field(
        description="The most that one renewal may raise it, in percent; null: no cap."
    )
    recurring: Money = strawberry.field(description="What is paid per interval.")
    list_recurring: Money = strawberry.field(
        description="What the latest version would cost per interval, at the quantity held."
    )


def grandfathering_type(standing: Standing, currency: str) -> Grandfathering:
    return Grandfathering(
        package_id=strawberry.ID(standing.package_id),
        held_version=standing.held_version,
        latest_version=standing.latest_version,
        policy=standing.policy,
        moves_at=standing.moves_at,
        entitlements_policy=standing.entitlements_policy,
        entitlements_move_at=standing.entitlements_move_at,
        notice_at=standing.notice_at,
        cap_percent=standing.cap_percent,
        recurring=money(standing.recurring_minor, currency),
        list_recurring=money(standing.list_recurring_minor, currency),
    )


@strawberry.type(
    description="Those on an older version, or on the latest below its list price, all together."
)
class LegacyVersion:
    version_id: strawberry.ID = strawberry.field(description="Such as `pro@3`.")
    customers: int = strawberry.field(description="How many hold it.")
    mrr: list[Money] = strawberry.field(description="Their MRR with it, one a currency.")
    gap_to_list: list[Money] = strawberry.field(
        description="How much more the latest version would be at list, one a currency."
    )
    ends_at: datetime | None = strawberry.field(
        description="When the last of them is off it, by the policies there are. Null: somebody "
        "stays."
    )


def legacy_types(found: Sequence[domain.LegacyVersion]) -> list[LegacyVersion]:
    return [
        LegacyVersion(
            version_id=strawberry.ID(f"{each.package_id}@{each.version}"),
            customers=each.customers,
            mrr=[money(m.amount_minor, m.currency) for m in each.mrr],
            gap_to_list=[money(m.amount_minor, m.currency) for m in each.gap_to_list],
            ends_at=each.ends_at,
        )
        for each in found
    ]


@strawberry.type(
    description="What a proposal's policy does to those who held one older version of a package."
)
class Migration:
    id: strawberry.ID = strawberry.field(description="Its id, `mig_…`.")
    proposal: CatalogProposal = strawberry.field(description="Whose policy it is.")
    from_version_id: strawberry.ID = strawberry.field(description="Such as `pro@3`.")
    to_version_id: strawberry.ID = strawberry.field(
        description="What the proposal published; a later policy may take them further."
    )
    status: MigrationStatus = strawberry.field(description="How far it is.")
    customers: int = strawberry.field(
        description="How many it has moved or is still to move. Who ends or gives the version up "
        "meanwhile does not count."
    )
    moved: int = strawberry.field(description="How many it has moved.")
    failed: int = strawberry.field(
        description="How many of those left cannot be moved as they are, such as for want of a "
        "price; `changes` of the customer say why. They are tried again at each renewal."
    )


def migration_type(context: Context, found: domain.Migration) -> Migration:
    return Migration(
        id=strawberry.ID(found.row.id),
        proposal=proposal_type(context, found.proposal),
        from_version_id=strawberry.ID(found.from_version_id),
        to_version_id=strawberry.ID(found.to_version_id),
        status=found.status,
        customers=found.customers,
        moved=found.moved,
        failed=found.failed,
    )
