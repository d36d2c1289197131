"""What a proposal is worth, as the contract shows it."""

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import strawberry

from entitlements.catalog.proposals import GrandfatherPolicy
from entitlements.finance import impact as domain
from graphql_schema.context import Info
from graphql_schema.permissions import CUSTOMERS
from graphql_schema.types.enums import describe_enum
from graphql_schema.types.money import Money, money

if TYPE_CHECKING:
    from graphql_schema.types.customers import Customer

describe_enum(
    GrandfatherPolicy,
    "When those who hold an older version of a package move to a new one.",
    KEEP="Never.",
    KEEP_UNTIL="At the first renewal at or after a date.",
    AT_RENEWAL="At a renewal, counted from publishing.",
    NOW="At once; the difference is prorated onto the next invoice.",
)
LazyCustomer = Annotated["Customer", strawberry.lazy("graphql_schema.types.customers")]


def _amounts(found: Mapping[str, int]) -> list[Money]:
    return [money(minor, currency) for currency, minor in sorted(found.items())]


@strawberry.type(description="What becomes of those who hold one version of what changes.")
class VersionImpact:
    found: strawberry.Private[domain.VersionImpact]

    @strawberry.field(description="The version held.")
    def version_id(self) -> strawberry.ID:
        return strawberry.ID(f"{self.found.package_id}@{self.found.version}")

    @strawberry.field(description="The version that the proposal brings.")
    def to_version_id(self) -> strawberry.ID:
        return strawberry.ID(f"{self.found.package_id}@{self.found.to_version}")

    @strawberry.field(description="How many hold it.")
    def customers(self) -> int:
        return self.found.customers

    @strawberry.field(description="What is proposed for its price.")
    def policy(self) -> GrandfatherPolicy:
        return self.found.price

    @strawberry.field(description="What is proposed for its entitlements.")
    def entitlements_policy(self) -> GrandfatherPolicy:
        return self.found.entitlements

    @strawberry.field(
        description="By how much their MRR moves with their first move, under the cap; one a "
        "currency, none where nobody moves."
    )
    def mrr_delta(self) -> list[Money]:
        return _amounts(self.found.mrr_delta)

    @strawberry.field(description="The same without the cap: to the price of the new version.")
    def uncapped_mrr_delta(self) -> list[Money]:
        return _amounts(self.found.uncapped_mrr_delta)


@strawberry.type(description="What one subscription of a customer is worth, before and after.")
class CustomerImpact:
    customer: LazyCustomer = strawberry.field(description="Whose it is.")
    mrr_before: Money = strawberry.field(description="Per month, now.")
    mrr_after: Money = strawberry.field(description="Per month, once all moves are over.")
    moves_at: datetime | None = strawberry.field(description="When the first move is.")


@strawberry.type(description="The MRR of everything sold, after the last move of a day.")
class MrrStep:
    at: datetime = strawberry.field(description="When that move is; days are UTC.")
    mrr: list[Money] = strawberry.field(description="One a currency.")


@strawberry.type(description="What is paid for one package, before and after.")
class PackageImpact:
    package_id: strawberry.ID = strawberry.field(description="The package.")
    mrr_now: list[Money] = strawberry.field(description="Per month, now; one a currency.")
    mrr_after: list[Money] = strawberry.field(
        description="Per month, once all moves are over; one a currency."
    )


@strawberry.type(
    description="What a proposal is worth, by what is held when it is worked out: nobody is taken "
    "to buy, cancel or change anything. Who has cancelled already or is on trial does not move."
)
class Impact:
    found: strawberry.Private[domain.Impact]

    @strawberry.field(description="When it was worked out.")
    def computed_at(self) -> datetime:
        return self.found.computed_at

    @strawberry.field(description="Customers who hold an older version of what changes.")
    def customers_affected(self) -> int:
        return self.found.customers_affected

    @strawberry.field(
        description="Customers of these who keep the price of one, as far as is known."
    )
    def stays_grandfathered(self) -> int:
        return self.found.stays_grandfathered

    @strawberry.field(
        description=f"The {domain.MOST_AFFECTED} subscriptions whose MRR moves most. Empty for "
        "roles that may not read customers."
    )
    async def most_affected(self, info: Info) -> list[CustomerImpact]:
        from graphql_schema.types.customers import Customer

        if info.context.principal.role not in CUSTOMERS:
            return []
        most = self.found.most_affected
        views = await info.context.customers.load_many([each.customer_id for each in most])
        return [
            CustomerImpact(
                customer=Customer(view=view),
                mrr_before=money(each.mrr_before_minor, each.currency),
                mrr_after=money(each.mrr_after_minor, each.currency),
                moves_at=each.moves_at,
            )
            for each, view in zip(most, views, strict=True)
            if view is not None
        ]

    @strawberry.field(description="By version held of what changes.")
    def versions(self) -> list[VersionImpact]:
        return [VersionImpact(found=each) for each in self.found.versions]

    @strawberry.field(description="By package, of everything sold.")
    def packages(self) -> list[PackageImpact]:
        return [
            PackageImpact(
                package_id=strawberry.ID(each.package_id),
                mrr_now=_amounts(each.mrr_now),
                mrr_after=_amounts(each.mrr_after),
            )
            for each in self.found.packages
        ]

    @strawberry.field(description="The MRR of everything sold, now; one a currency.")
    def mrr_now(self) -> list[Money]:
        return _amounts(self.found.mrr_now)

    @strawberry.field(
        description="The MRR after each day on which somebody's price moves, for "
        f"{domain.HORIZON.days // 366} years at the most."
    )
    def mrr_steps(self) -> list[MrrStep]:
        return [MrrStep(at=step.at, mrr=_amounts(step.mrr)) for step in self.found.mrr_steps]
