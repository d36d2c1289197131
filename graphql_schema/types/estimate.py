"""Estimates, as the contract shows them."""

import strawberry

from entitlements.catalog import model
from entitlements.kernel.period import Interval
from entitlements.pricing import estimate as pricing
from graphql_schema.types.catalog import (
    Charge,
    FeatureQuantity,
    Package,
    Saving,
    charge_type,
    feature_type,
    package_type,
    saving_type,
)
from graphql_schema.types.inputs import PackageQuantityInput, QuantityInput
from graphql_schema.types.money import Money, money_type
from graphql_schema.types.scalars import BigInt


@strawberry.input(description="What would be bought, by somebody who holds nothing yet.")
class EstimateInput:
    plan_id: strawberry.ID | None = strawberry.field(default=None, description="The plan.")
    add_ons: list[PackageQuantityInput] | None = strawberry.field(
        default=None, description="Add-ons, and how many of each."
    )
    bundles: list[PackageQuantityInput] | None = strawberry.field(
        default=None, description="Bundles, and how many of each."
    )
    quantities: list[QuantityInput] | None = strawberry.field(
        default=None,
        description="Levels to buy, such as seats, and the use expected in a month, whatever the "
        "interval. A level left out is taken as when first bought; use left out is none.",
    )
    currency: str | None = strawberry.field(
        default=None, description="ISO 4217 code, lower case; the catalog's first if left out."
    )
    interval: Interval = strawberry.field(
        default=Interval.MONTH, description="How often it would be billed."
    )


def estimate_request(input: EstimateInput) -> pricing.EstimateRequest:
    return pricing.EstimateRequest(
        plan_id=input.plan_id,
        add_ons=_packages(input.add_ons),
        bundles=_packages(input.bundles),
        quantities=tuple(
            pricing.FeatureQuantity(wanted.feature_id, wanted.quantity)
            for wanted in input.quantities or ()
        ),
        currency=input.currency,
        interval=input.interval,
    )


def _packages(wanted: list[PackageQuantityInput] | None) -> tuple[pricing.PackageQuantity, ...]:
    return tuple(pricing.PackageQuantity(package.id, package.quantity) for package in wanted or ())


@strawberry.type(description="One charge of an estimate.")
class EstimateLine:
    package: Package = strawberry.field(description="What is charged for.")
    charge: Charge = strawberry.field(description="Which of its charges.")
    quantity: BigInt = strawberry.field(
        description="The units it counts, before what is included: of use, those of one bill."
    )
    amount: Money = strawberry.field(description="What it comes to per interval.")
    explanation: str = strawberry.field(description="How it comes about, in words and figures.")


@strawberry.type(description="How many of a package.")
class PackageQuantity:
    package: Package = strawberry.field(description="At the version sold now.")
    quantity: int = strawberry.field(description="How many of it.")


@strawberry.type(description="Packages that give at least all that was asked for, for less.")
class CheaperOption:
    description: str = strawberry.field(description="What is bought, for people.")
    total: Money = strawberry.field(description="What it costs per interval.")
    saving: Money = strawberry.field(description="How much less that is per interval.")
    plan_id: strawberry.ID | None = strawberry.field(
        description="The plan; null where there is none, or one within a bundle."
    )
    add_ons: list[strawberry.ID] = strawberry.field(description="The add-ons, each once.")
    bundles: list[strawberry.ID] = strawberry.field(description="The bundles, each once.")
    packages: list[PackageQuantity] = strawberry.field(
        description="All of these, with how many of each to buy."
    )
    quantities: list[FeatureQuantity] = strawberry.field(
        description="The levels to buy with them, such as seats."
    )


@strawberry.type(
    description="What a choice of packages would cost at the prices of today, before tax."
)
class Estimate:
    total: Money = strawberry.field(description="Per interval: the sum of the lines.")
    lines: list[EstimateLine] = strawberry.field(
        description="One for each charge; of use, where some is expected."
    )
    monthly_equivalent: Money = strawberry.field(
        description="The total, or a twelfth of a year's, rounded."
    )
    annual_saving: Saving | None = strawberry.field(
        description="What paying by the year saves in a year, against twelve months; null where "
        "that saves nothing or is not offered."
    )
    cheaper: list[CheaperOption] = strawberry.field(
        description="A bundle or another tier that gives all of this for less: the best with each "
        "tier, cheapest first."
    )
    cheaper_complete: bool = strawberry.field(
        description="False where the search for cheaper ways was cut short, so that there may be "
        "a better one."
    )


def estimate_type(catalog: model.Catalog, estimate: pricing.Estimate) -> Estimate:
    return Estimate(
        total=money_type(estimate.total),
        lines=[_line_type(catalog, line) for line in estimate.lines],
        monthly_equivalent=money_type(estimate.monthly_equivalent),
        annual_saving=None
        if estimate.annual_saving is None
        else saving_type(estimate.annual_saving),
        cheaper=[_option_type(catalog, option) for option in estimate.cheaper],
        cheaper_complete=estimate.cheaper_complete,
    )


def _line_type(catalog: model.Catalog, line: pricing.EstimateLine) -> EstimateLine:
    return EstimateLine(
        package=package_type(catalog, line.package),
        charge=charge_type(catalog, line.charge),
        quantity=BigInt(line.quantity),
        amount=money_type(line.amount),
        explanation=line.explanation,
    )


def _option_type(catalog: model.Catalog, option: pricing.CheaperOption) -> CheaperOption:
    plan = () if option.plan_id is None else (pricing.PackageQuantity(option.plan_id),)
    return CheaperOption(
        description=option.description,
        total=money_type(option.total),
        saving=money_type(option.saving),
        plan_id=None if option.plan_id is None else strawberry.ID(option.plan_id),
        add_ons=[strawberry.ID(add_on.id) for add_on in option.add_ons],
        bundles=[strawberry.ID(bundle.id) for bundle in option.bundles],
        packages=[
            PackageQuantity(
                package=package_type(catalog, catalog.current[part.id]), quantity=part.quantity
            )
            for part in (*plan, *option.add_ons, *option.bundles)
        ],
        quantities=[
            FeatureQuantity(
                feature=feature_type(catalog.feature(bought.feature_id)),
                quantity=BigInt(bought.quantity),
            )
            for bought in option.quantities
        ],
    )
