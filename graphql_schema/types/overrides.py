"""What staff grants or takes by hand, as the contract shows it."""

from datetime import datetime
from decimal import Decimal
from typing import Self

import strawberry

from entitlements.catalog import model
from entitlements.catalog.model import Catalog, GrantMode
from entitlements.grants import overrides
from graphql_schema.types.catalog import (
    EntitlementValue,
    Feature,
    entitlement_value_type,
    feature_type,
)
from graphql_schema.types.scalars import BigInt


@strawberry.type(description="What staff granted or took by hand, beside the packages held.")
class Override:
    id: strawberry.ID = strawberry.field(description="The override's id, `ovr_…`.")
    feature: Feature = strawberry.field(description="The feature.")
    mode: GrantMode = strawberry.field(
        description="SET is one more source, ADD adds to a limit, REPLACE wins over all others."
    )
    value: EntitlementValue = strawberry.field(description="What it grants.")
    reason: str = strawberry.field(description="Why, in the words of who set it.")
    created_by: str = strawberry.field(description="Who set it.")
    created_at: datetime = strawberry.field(description="From when on it is in force.")
    ends_at: datetime | None = strawberry.field(
        description="From when on it is not in force any more; null: until it is ended."
    )

    @classmethod
    def of(cls, feature: model.Feature, override: overrides.Override) -> Self:
        return cls(
            id=strawberry.ID(override.id),
            feature=feature_type(feature),
            mode=override.mode,
            value=entitlement_value_type(override.value),
            reason=override.reason,
            created_by=override.created_by,
            created_at=override.created_at,
            ends_at=override.ends_at,
        )


def override_types(
    catalog: Catalog, held: tuple[overrides.Override, ...], at: datetime
) -> list[Override]:
    """Those in force, newest first, of features that there are."""
    every = catalog.retired_features | catalog.features
    return [
        Override.of(every[override.feature_id], override)
        for override in reversed(held)
        if override.in_force(at) and override.feature_id in every
    ]


@strawberry.input(description="A value of a feature: only the fields of the feature's kind.")
class EntitlementValueInput:
    enabled: bool | None = strawberry.field(default=None, description="BOOLEAN.")
    number: Decimal | None = strawberry.field(default=None, description="NUMBER.")
    choice: str | None = strawberry.field(
        default=None, description="ENUM: one of the feature's `values`."
    )
    limit: BigInt | None = strawberry.field(
        default=None, description="METERED: units; with ADD how many to add."
    )
    unlimited: bool | None = strawberry.field(
        default=None, description="METERED: true instead of a limit."
    )
    overage: bool | None = strawberry.field(
        default=None, description="METERED: whether the limit may be passed."
    )

    def domain(self) -> model.EntitlementValue:
        return model.EntitlementValue(
            enabled=self.enabled,
            number=self.number,
            choice=self.choice,
            limit=self.limit,
            unlimited=self.unlimited,
            overage=self.overage,
        )


@strawberry.input(description="An override to set.")
class SetOverrideInput:
    customer_id: strawberry.ID = strawberry.field(description="Whose it is.")
    feature_id: strawberry.ID = strawberry.field(description="A feature of the present catalog.")
    mode: GrantMode = strawberry.field(
        description="SET is one more source, ADD adds to a limit, REPLACE wins over all others."
    )
    value: EntitlementValueInput = strawberry.field(description="What it grants.")
    reason: str = strawberry.field(description="Why: mandatory, up to 2000 characters.")
    ends_at: datetime | None = strawberry.field(
        default=None,
        description="From when on it is over. Support has to say one within 90 days; without one "
        "it lasts until it is ended.",
    )
