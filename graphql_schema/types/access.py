"""What a customer may do, and why or why not."""

from datetime import UTC, datetime, time
from typing import Annotated, Self

import strawberry

from entitlements.access.offering import DENIALS_AT_MOST, Denial, Offered
from entitlements.access.service import Answer, Check
from entitlements.access.tables import DenialRow
from entitlements.access.unlocks import UNLOCKS_AT_MOST
from entitlements.catalog import model
from entitlements.catalog.model import Catalog, GrantMode
from entitlements.grants import sources
from entitlements.grants.decide import DenialReason, standing
from entitlements.grants.merge import FeatureGrants, Grants
from entitlements.grants.sources import GrantSourceKind
from entitlements.kernel.errors import ValidationFailed
from entitlements.subscriptions.violations import Used
from graphql_schema.context import Info
from graphql_schema.types.catalog import (
    EntitlementValue,
    Feature,
    FeatureQuantity,
    Package,
    entitlement_value_type,
    feature_type,
    package_type,
)
from graphql_schema.types.enums import describe_enum
from graphql_schema.types.money import Money, money
from graphql_schema.types.scalars import BigInt

describe_enum(
    DenialReason,
    "Why not, in order of precedence: the first that applies is given.",
    CUSTOMER_NOT_FOUND="There is no such customer.",
    FEATURE_NOT_FOUND="There is no such feature.",
    NO_ACTIVE_SUBSCRIPTION="Every subscription ended, or there never was one.",
    SUBSCRIPTION_UNPAID="A subscription that would grant it is not paid.",
    TRIAL_ENDED="A trial that ended without being bought granted it.",
    REVOKED="An override took it away.",
    NOT_ENTITLED="Nothing that is held grants it.",
    VALUE_TOO_LOW="It is granted, but less of it than what is asked for.",
    LIMIT_EXCEEDED="The limit would be passed.",
)
describe_enum(
    GrantSourceKind,
    "What kind of thing grants a feature.",
    PLAN="The plan held.",
    ADD_ON="An add-on held.",
    BUNDLE="A component of a bundle held.",
    TRIAL="Something on trial.",
    OVERRIDE="Staff, by hand.",
    FALLBACK="The free plan of those without a subscription with access.",
)


@strawberry.type(description="One thing that grants a feature, and what it contributes.")
class GrantSource:
    catalog: strawberry.Private[Catalog]
    source: strawberry.Private[sources.GrantSource]

    @strawberry.field(description="What kind of thing it is.")
    def kind(self) -> GrantSourceKind:
        return self.source.kind

    @strawberry.field(description="The package, at the version whose entitlements hold.")
    def package(self) -> Package | None:
        found = self.source.package
        return None if found is None else package_type(self.catalog, found)

    @strawberry.field(description="How many of it: an ADD counts so often.")
    def quantity(self) -> int:
        return self.source.quantity

    @strawberry.field(description="Whether it sets, adds to or replaces the value.")
    def mode(self) -> GrantMode:
        return self.source.mode

    @strawberry.field(description="What one of it contributes.")
    def value(self) -> EntitlementValue:
        return entitlement_value_type(self.source.value)

    @strawberry.field(description="When it ends, where that is known.")
    def ends_at(self) -> datetime | None:
        return self.source.ends_at


@strawberry.type(description="How often a customer was denied a feature on a day, for one reason.")
class DenialCount:
    feature: Feature = strawberry.field(description="The feature.")
    day: datetime = strawberry.field(description="When the UTC day begins.")
    reason: DenialReason = strawberry.field(description="Why not.")
    count: BigInt = strawberry.field(description="How many times.")
    last_at: datetime = strawberry.field(description="When it was last counted.")

    @classmethod
    def of(cls, catalog: Catalog, row: DenialRow) -> Self:
        return cls(
            feature=feature_type(catalog.feature(row.feature_id)),
            day=datetime.combine(row.day, time(), UTC),
            reason=DenialReason(row.reason),
            count=BigInt(row.count),
            last_at=row.last_at,
        )


def _source_types(catalog: Catalog, every: tuple[sources.GrantSource, ...]) -> list[GrantSource]:
    return [GrantSource(catalog=catalog, source=source) for source in every]


@strawberry.type(description="What a customer has of one feature.")
class Entitlement:
    feature: Feature = strawberry.field(description="The feature.")
    value: EntitlementValue = strawberry.field(description="The value that holds.")
    sources: list[GrantSource] = strawberry.field(description="Everything that grants it.")
    customer_id: strawberry.Private[str | None]  # None: as it stood once; what was used is not told
    granted: strawberry.Private[model.EntitlementValue]

    @classmethod
    def of(
        cls,
        customer_id: str | None,
        catalog: Catalog,
        feature: model.Feature,
        granted: FeatureGrants,
    ) -> Self:
        assert granted.value is not None
        return cls(
            feature=feature_type(feature),
            value=entitlement_value_type(granted.value),
            sources=_source_types(catalog, granted.sources),
            customer_id=customer_id,
            granted=granted.value,
        )

    async def _used(self, info: Info) -> Used | None:
        if self.customer_id is None:
            return None
        usage = await info.context.usage.load(self.customer_id)
        return usage.get(self.feature.id)

    @strawberry.field(description="METERED: units used in the present window; or the level.")
    async def used(self, info: Info) -> BigInt | None:
        used = await self._used(info)
        return BigInt(used.quantity) if used else None

    @strawberry.field(description="METERED: units left; null where there is no limit.")
    async def remaining(self, info: Info) -> BigInt | None:
        used = await self._used(info)
        return _big(standing(self.granted, used.quantity)[0]) if used else None

    @strawberry.field(description="METERED: when the present window ends; null: never.")
    async def resets_at(self, info: Info) -> datetime | None:
        used = await self._used(info)
        return used.resets_at if used else None


def entitlement_types(
    customer_id: str | None, catalog: Catalog, grants: Grants
) -> list[Entitlement]:
    """Everything that is granted, in the catalog's order of features; to nobody in particular
    where use is not to be told."""
    return [
        Entitlement.of(customer_id, catalog, feature, grants.of(feature.id))
        for feature in catalog.features.values()
        if grants.of(feature.id).value is not None
    ]


@strawberry.type(
    description="Something to buy that would turn a denial into yes, now. Priced by our engine "
    "alone, without tax."
)
class Unlock:
    offered: strawberry.Private[Offered]

    @strawberry.field(description="What to buy: a plan to move to, or something beside it.")
    def package(self) -> Package:
        return package_type(self.offered.catalog, self.offered.unlock.package)

    @strawberry.field(
        description="How many of it to add to what is held; 0 where only more of a level is bought."
    )
    def quantity(self) -> int:
        return self.offered.unlock.quantity

    @strawberry.field(description="Levels, seats say, and how many more of each are bought.")
    def quantities(self) -> list[FeatureQuantity]:
        catalog = self.offered.catalog
        return [
            FeatureQuantity(
                feature=feature_type(catalog.feature(feature_id)), quantity=BigInt(quantity)
            )
            for feature_id, quantity in self.offered.unlock.quantities.items()
        ]

    @strawberry.field(description="What is charged now, after credit; never below 0.")
    def due_now(self) -> Money:
        return money(self.offered.unlock.due_now_minor, self.offered.unlock.plan.currency)

    @strawberry.field(description="By how much the recurring amount changes, per interval.")
    def recurring_delta(self) -> Money:
        unlock = self.offered.unlock
        return money(unlock.recurring_delta_minor, unlock.plan.currency)

    @strawberry.field(
        description="Days of the trial (`startTrial`) that is open to this customer and would do "
        "as well; null: none."
    )
    def trial_days(self) -> int | None:
        return self.offered.unlock.trial_days

    @strawberry.field(
        description="`commitChange` takes it, at `dueNow` to the minor unit a line. A newer "
        "catalog does not make it stale; a changed customer does."
    )
    def offer_token(self) -> str:
        return self.offered.token

    @strawberry.field(description="Until when the offer is good.")
    def expires_at(self) -> datetime:
        return self.offered.expires_at


@strawberry.type(description="The answer to one check: yes, or no with exactly one reason.")
class AccessDecision:
    answer: strawberry.Private[Answer]
    denial: strawberry.Private[Denial | None]

    @strawberry.field(description="The feature asked about.")
    def feature_id(self) -> strawberry.ID:
        return strawberry.ID(self.answer.check.feature_id)

    @strawberry.field(description="May they do it now?")
    def allowed(self) -> bool:
        return self.answer.decision.allowed

    @strawberry.field(description="Why not; null when allowed.")
    def reason(self) -> DenialReason | None:
        return self.answer.decision.reason

    @strawberry.field(description="Allowed only because overage is.")
    def over_limit(self) -> bool:
        return self.answer.decision.over_limit

    @strawberry.field(description="What is granted, if anything.")
    def value(self) -> EntitlementValue | None:
        value = self.answer.decision.value
        return None if value is None else entitlement_value_type(value)

    @strawberry.field(description="METERED: units used in the window.")
    def used(self) -> BigInt | None:
        return _big(self.answer.decision.used)

    @strawberry.field(description="METERED: units left; null where there is no limit.")
    def remaining(self) -> BigInt | None:
        return _big(self.answer.decision.remaining)

    @strawberry.field(
        description="METERED: when the window ends and counting begins at 0; null: never."
    )
    def resets_at(self) -> datetime | None:
        return self.answer.resets_at

    @strawberry.field(description="The highest warnAtPercent reached.")
    def warning(self) -> int | None:
        return self.answer.decision.warning

    @strawberry.field(description="The customer's revision answered from.")
    def revision(self) -> BigInt:
        return BigInt(self.answer.revision)

    @strawberry.field(description="Everything that grants the feature.")
    def sources(self) -> list[GrantSource]:
        return _source_types(self.answer.catalog, self.answer.decision.sources)

    @strawberry.field(
        description="Null: this is so now. Else the database cannot be reached, and this is what "
        "was known at that instant."
    )
    def unsure_since(self) -> datetime | None:
        return self.answer.unsure_since

    @strawberry.field(
        description="What this customer could buy themself to turn this answer into yes, cheapest "
        "first: by what it adds a month, then by what is due now. Empty when allowed, and where "
        f"nothing helps. For {DENIALS_AT_MOST} denials of a request; empty for further ones."
    )
    async def unlocks(
        self,
        info: Info,
        first: Annotated[
            int, strawberry.argument(description=f"How many at most, from 1 to {UNLOCKS_AT_MOST}.")
        ] = 3,
    ) -> list[Unlock]:
        if not 1 <= first <= UNLOCKS_AT_MOST:
            words = f"from 1 to {UNLOCKS_AT_MOST} unlocks"
            raise ValidationFailed.of("first", "OUT_OF_RANGE", words)
        if self.denial is None:
            return []
        return [
            Unlock(offered=offered) for offered in await info.context.unlocks(self.denial, first)
        ]

    @classmethod
    def of(cls, answer: Answer, customer_id: str | None = None, check: Check | None = None) -> Self:
        """The answer; to one of a customer, with the check that its remedies have to pass."""
        denial = None
        if not answer.decision.allowed and customer_id is not None and check is not None:
            denial = Denial(customer_id, check, answer.revision)
        return cls(answer=answer, denial=denial)


def _big(number: int | None) -> BigInt | None:
    return None if number is None else BigInt(number)


@strawberry.input(description="One question of `accessMany`.")
class AccessInput:
    feature_id: strawberry.ID = strawberry.field(description="The feature asked about.")
    quantity: BigInt | None = strawberry.field(
        default=BigInt(1), description="METERED: how many more units; 1 where it is left out."
    )
    at_least: str | None = strawberry.field(
        default=None, description="ENUM and NUMBER: the value needed."
    )

    def domain(self) -> Check:
        quantity = 1 if self.quantity is None else self.quantity
        return Check(self.feature_id, quantity, self.at_least)
