"""Plans side by side, as the contract shows them."""

import strawberry

from entitlements.catalog.model import Catalog
from entitlements.grants import comparison
from graphql_schema.types.catalog import (
    AddOn,
    EntitlementValue,
    Feature,
    Plan,
    Product,
    add_on_type,
    entitlement_value_type,
    feature_type,
    plan_type,
    product_type,
)


@strawberry.type(description="One feature in one plan.")
class ComparisonCell:
    plan: Plan = strawberry.field(description="The plan.")
    included: bool = strawberry.field(description="Whether the plan gives any of the feature.")
    value: EntitlementValue | None = strawberry.field(
        description="What the plan itself gives; null where it says nothing of the feature. "
        "Of a level that is bought by the unit: the most that may be bought."
    )
    via_add_ons: list[AddOn] = strawberry.field(
        description="Add-ons that work with the plan and give more of the feature than it does."
    )


@strawberry.type(description="One feature over all the plans.")
class ComparisonRow:
    feature: Feature = strawberry.field(description="The feature.")
    cells: list[ComparisonCell] = strawberry.field(description="One for each plan, in their order.")


@strawberry.type(description="Plans side by side: the ✓ and ✗ of a pricing page.")
class PlanComparison:
    product: Product = strawberry.field(description="What the plans are of.")
    plans: list[Plan] = strawberry.field(
        description="In the order asked for, otherwise lowest tier first."
    )
    rows: list[ComparisonRow] = strawberry.field(
        description="One for each feature that a plan, or an add-on of the product, touches."
    )


def comparison_type(catalog: Catalog, compared: comparison.Comparison) -> PlanComparison:
    return PlanComparison(
        product=product_type(catalog, compared.product),
        plans=[plan_type(catalog, plan) for plan in compared.plans],
        rows=[
            ComparisonRow(
                feature=feature_type(row.feature),
                cells=[_cell_type(catalog, cell) for cell in row.cells],
            )
            for row in compared.rows
        ],
    )


def _cell_type(catalog: Catalog, cell: comparison.ComparisonCell) -> ComparisonCell:
    return ComparisonCell(
        plan=plan_type(catalog, cell.plan),
        included=cell.included,
        value=None if cell.value is None else entitlement_value_type(cell.value),
        via_add_ons=[add_on_type(catalog, add_on) for add_on in cell.via_add_ons],
    )
