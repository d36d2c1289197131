"""Inputs that estimates and changes share."""

import strawberry

from graphql_schema.types.scalars import BigInt


@strawberry.input(description="Units of a metered feature: a level to buy, or the use expected.")
class QuantityInput:
    feature_id: strawberry.ID = strawberry.field(description="The feature, such as `seats`.")
    quantity: BigInt = strawberry.field(description="How many units.")


@strawberry.input(description="How many of a package.")
class PackageQuantityInput:
    id: strawberry.ID = strawberry.field(description="The add-on's or bundle's id.")
    quantity: int = strawberry.field(default=1, description="How many of it.")
