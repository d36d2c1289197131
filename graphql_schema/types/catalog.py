"""What is sold, as the contract shows it: thin views of one frozen catalog.

A type holds the domain's struct and the `Catalog` it came from, so that everything reached from it
is of that same catalog. Nothing here reads the database; a field costs no more than what it shows.
"""

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

import strawberry

from entitlements.catalog import model as domain
from entitlements.kernel.period import Interval
from entitlements.pricing import discounts
from graphql_schema.types.enums import describe_enum
from graphql_schema.types.money import Money, money, money_type
from graphql_schema.types.scalars import BigInt

# ── features and what is granted of them ─────────────────────────────────────

describe_enum(
    domain.FeatureKind,
    "What values a feature has.",
    BOOLEAN="Had or not.",
    NUMBER="A number, such as hours; `higherIsBetter` says which way is more.",
    ENUM="One of the feature's `values`.",
    METERED="A quantity with a limit.",
)
describe_enum(
    domain.Aggregation,
    "How the quantity of a METERED feature is counted.",
    SUM="Consumption: what is used adds up.",
    LEVEL="What there is at present, such as seats.",
)
describe_enum(
    domain.ResetPeriod,
    "When the count of a METERED feature begins again. Hours, days, weeks and months are UTC's.",
    NEVER="Never.",
    HOUR="With each hour.",
    DAY="At midnight.",
    WEEK="On Monday at midnight.",
    MONTH="On the first of the month.",
    BILLING_PERIOD="With the period of the charge that meters it, else monthly from the "
    "subscription's anchor.",
)
describe_enum(
    domain.GrantMode,
    "How a grant counts beside others of the same feature.",
    SET="It says the value; of several the best counts.",
    ADD="It adds to a METERED limit, once for each of the package that is held.",
    REPLACE="It stands in place of all others, better or worse. Overrides alone do that.",
)


@strawberry.type(description="Something that a package may grant.")
class Feature:
    id: strawberry.ID = strawberry.field(description="Its key in the catalog, such as `api-calls`.")
    name: str = strawberry.field(description="For people.")
    description: str | None = strawberry.field(description="For people; null if there is none.")
    kind: domain.FeatureKind = strawberry.field(description="What values it has.")
    unit: str | None = strawberry.field(description="What is counted, in the singular: `call`.")
    values: list[str] | None = strawberry.field(
        description="ENUM: every value, weakest first; else null."
    )
    higher_is_better: bool | None = strawberry.field(
        description="NUMBER: whether a higher number is better; else null."
    )
    aggregation: domain.Aggregation | None = strawberry.field(
        description="METERED: how it is counted; else null."
    )
    reset: domain.ResetPeriod | None = strawberry.field(
        description="METERED: when the count begins again; else null."
    )


def feature_type(feature: domain.Feature) -> Feature:
    return Feature(
        id=strawberry.ID(feature.id),
        name=feature.name,
        description=feature.description,
        kind=feature.kind,
        unit=feature.unit,
        values=list(feature.values) if feature.kind is domain.FeatureKind.ENUM else None,
        higher_is_better=feature.higher_is_better,
        aggregation=feature.aggregation,
        reset=feature.reset,
    )


@strawberry.type(
    description="What is granted of a feature: the fields of the feature's kind are set."
)
class EntitlementValue:
    enabled: bool | None = strawberry.field(description="BOOLEAN: whether it is had.")
    number: Decimal | None = strawberry.field(description="NUMBER: the number, exact.")
    choice: str | None = strawberry.field(description="ENUM: one of the feature's `values`.")
    limit: BigInt | None = strawberry.field(
        description="METERED: how many units; null where it is unlimited."
    )
    unlimited: bool | None = strawberry.field(description="METERED: whether there is no limit.")
    overage: bool | None = strawberry.field(
        description="METERED: whether the limit may be passed; null where it is unlimited."
    )
    warn_at_percent: list[int] | None = strawberry.field(
        description="METERED: at which percentages of the limit a warning is due, rising."
    )


def entitlement_value_type(value: domain.EntitlementValue) -> EntitlementValue:
    metered = value.limit is not None or value.unlimited is not None
    unlimited = bool(value.unlimited)
    limited = metered and not unlimited
    return EntitlementValue(
        enabled=value.enabled,
        number=value.number,
        choice=value.choice,
        limit=BigInt(value.limit or 0) if limited else None,
        unlimited=unlimited if metered else None,
        overage=bool(value.overage) if limited else None,
        warn_at_percent=list(value.warn_at_percent) if metered else None,
    )


@strawberry.type(description="One grant of a package.")
class PackageEntitlement:
    feature: Feature = strawberry.field(description="What is granted.")
    mode: domain.GrantMode = strawberry.field(description="How it counts beside other grants.")
    value: EntitlementValue = strawberry.field(description="How much of it.")


@strawberry.type(description="Units of a metered feature.")
class FeatureQuantity:
    feature: Feature = strawberry.field(description="What is counted.")
    quantity: BigInt = strawberry.field(description="How many units.")


# ── charges and prices ───────────────────────────────────────────────────────

describe_enum(
    domain.PricingModel,
    "How a charge follows from the billable units: the quantity, or the minimum if that is more, "
    "less what is included.",
    FLAT="A fixed amount for each.",
    PER_UNIT="A rate for each unit.",
    VOLUME="All units at the rate of the tier that their number falls in.",
    GRADUATED="Each slice of the units at its own tier's rate.",
    PACKAGE="A rate for each block of units, rounded up to whole blocks.",
)
describe_enum(
    domain.BillingTime,
    "When a charge is billed.",
    IN_ADVANCE="At the start of the period, for what is held.",
    IN_ARREARS="At the end of the period, for what was used.",
)


@strawberry.type(description="A step of a tiered price.")
class PriceTier:
    up_to: BigInt | None = strawberry.field(
        description="The last unit of the tier, inclusive; null in the last tier."
    )
    unit_amount: Decimal = strawberry.field(description="Per unit, in major units.")
    flat_amount: Decimal = strawberry.field(
        description="Once, where the tier applies, in major units."
    )


@strawberry.type(
    description="What a charge costs in one currency and interval. Amounts are in major units, "
    "before tax, with up to 12 decimals."
)
class Price:
    charge: strawberry.Private[domain.Charge]
    currency: str = strawberry.field(description="ISO 4217 code, lower case.")
    interval: Interval = strawberry.field(description="For how long the amounts pay.")
    flat_amount: Decimal | None = strawberry.field(description="FLAT: the amount; else null.")
    unit_amount: Decimal | None = strawberry.field(
        description="PER_UNIT: per unit. PACKAGE: per block. Else null."
    )
    tiers: list[PriceTier] | None = strawberry.field(
        description="VOLUME, GRADUATED: the tiers, lowest first; else null."
    )

    @strawberry.field(
        description="YEAR: what a year saves against twelve months, in percent; negative if it is "
        "dearer. Null for MONTH, or where tiers save differently so that no single figure is true."
    )
    def annual_saving_percent(self) -> Decimal | None:
        if self.interval is not Interval.YEAR:
            return None
        return discounts.annual_saving_percent(self.charge, self.currency)


def _price_type(charge: domain.Charge, price: domain.Price) -> Price:
    return Price(
        charge=charge,
        currency=price.currency,
        interval=price.interval,
        flat_amount=price.flat_amount,
        unit_amount=price.unit_amount,
        tiers=[_tier_type(tier) for tier in price.tiers] or None,
    )


def _tier_type(tier: domain.Tier) -> PriceTier:
    up_to = None if tier.up_to is None else BigInt(tier.up_to)
    return PriceTier(up_to=up_to, unit_amount=tier.unit, flat_amount=tier.flat)


@strawberry.type(description="One thing that a package costs.")
class Charge:
    catalog: strawberry.Private[domain.Catalog]
    source: strawberry.Private[domain.Charge]
    id: strawberry.ID = strawberry.field(description="Unique within the package.")
    name: str = strawberry.field(description="For people, as on the invoice.")
    model: domain.PricingModel = strawberry.field(description="How the amount follows.")
    billing: domain.BillingTime = strawberry.field(description="When it is billed.")
    included_quantity: BigInt = strawberry.field(description="How many units cost nothing.")
    minimum_quantity: BigInt | None = strawberry.field(
        description="How many units are billed at the least; null for no minimum."
    )
    package_size: BigInt | None = strawberry.field(
        description="PACKAGE: units per block, rounded up; else null."
    )

    @strawberry.field(
        description="Whose level that is bought, or whose use, is the quantity; null where the "
        "package's own quantity is counted."
    )
    def quantity_feature(self) -> Feature | None:
        feature_id = self.source.quantity_feature
        return None if feature_id is None else feature_type(self.catalog.feature(feature_id))

    @strawberry.field(description="A price for each currency and interval that it is sold in.")
    def prices(self) -> list[Price]:
        return [_price_type(self.source, price) for price in self.source.prices]


def charge_type(catalog: domain.Catalog, charge: domain.Charge) -> Charge:
    return Charge(
        catalog=catalog,
        source=charge,
        id=strawberry.ID(charge.id),
        name=charge.name,
        model=charge.model,
        billing=charge.billing,
        included_quantity=BigInt(charge.included),
        minimum_quantity=None if charge.minimum is None else BigInt(charge.minimum),
        package_size=None if charge.package_size is None else BigInt(charge.package_size),
    )


@strawberry.type(description="What is saved against a dearer way.")
class Saving:
    amount: Money = strawberry.field(description="How much less is paid.")
    percent: Decimal = strawberry.field(
        description="The amount in percent of the dearer way, to two decimals."
    )


def saving_type(saving: discounts.Saving) -> Saving:
    return Saving(amount=money_type(saving.amount), percent=saving.percent)


# ── trials ───────────────────────────────────────────────────────────────────

describe_enum(
    domain.TrialEnd,
    "What happens when a trial ends.",
    CONVERT="It is bought, if there is a payment method; otherwise it expires.",
    EXPIRE="It is gone, unless it was converted before.",
)


@strawberry.type(description="A step of the guide through a trial.")
class TrialStep:
    week: int = strawberry.field(description="In which week of the trial; 1 is the first.")
    title: str = strawberry.field(description="For people.")
    body: str = strawberry.field(description="For people.")


@strawberry.type(description="How a package may be tried, free of charge.")
class TrialTerms:
    days: int = strawberry.field(description="How many days it lasts.")
    requires_payment_method: bool = strawberry.field(
        description="Whether a payment method is needed to begin."
    )
    at_end: domain.TrialEnd = strawberry.field(description="What happens at the end.")
    guide: list[TrialStep] = strawberry.field(description="What to do with it, by week.")


def _trial_type(terms: domain.TrialTerms) -> TrialTerms:
    return TrialTerms(
        days=terms.days,
        requires_payment_method=terms.requires_payment_method,
        at_end=terms.at_end,
        guide=[TrialStep(week=s.week, title=s.title, body=s.body) for s in terms.guide],
    )


# ── packages ─────────────────────────────────────────────────────────────────


@strawberry.interface(
    description="What can be bought: a plan, an add-on or a bundle, at one version. "
    "A version never changes; wording is of the catalog it is read from."
)
class Package:
    catalog: strawberry.Private[domain.Catalog]
    source: strawberry.Private[domain.AnyPackage]
    id: strawberry.ID = strawberry.field(description="Its key in the catalog, such as `pro`.")
    version: int = strawberry.field(description="Counts from 1.")
    version_id: strawberry.ID = strawberry.field(description="Id and version, such as `pro@3`.")
    name: str = strawberry.field(description="For people.")
    description: str | None = strawberry.field(description="For people; null if there is none.")
    self_serve: bool = strawberry.field(
        description="Whether customers can buy it themselves; otherwise it is contact-sales. "
        "False wherever it has no charges."
    )
    published_at: datetime = strawberry.field(description="From when on this version was sold.")
    latest_version: int = strawberry.field(
        description="The last version of it in this catalog; above `version`: there is a later one."
    )

    @strawberry.field(description="What it is part of.")
    def product(self) -> "Product":
        return product_type(self.catalog, self.catalog.products[self.source.product_id])

    @strawberry.field(description="What it grants, in the order of the catalog's features.")
    def entitlements(self) -> list[PackageEntitlement]:
        return [
            PackageEntitlement(
                feature=feature_type(self.catalog.feature(granted.feature_id)),
                mode=granted.mode,
                value=entitlement_value_type(granted.value),
            )
            for granted in self.source.entitlements
        ]

    @strawberry.field(description="What it costs; none for contact-sales without a list price.")
    def charges(self) -> list[Charge]:
        return [charge_type(self.catalog, charge) for charge in self.source.charges]

    @strawberry.field(description="How it may be tried; null if it may not.")
    def trial(self) -> TrialTerms | None:
        return None if self.source.trial is None else _trial_type(self.source.trial)


@strawberry.type(description="A tier of a product: what a subscription is to.")
class Plan(Package):
    source: strawberry.Private[domain.Plan]
    rank: int = strawberry.field(description="Its place among the product's tiers; 0 is lowest.")

    @strawberry.field(description="The plan whose entitlements it takes over; null if none.")
    def extends(self) -> "Plan | None":
        base = self.source.extends
        return None if base is None else next(iter(_plans(self.catalog, [base])), None)

    @strawberry.field(description="Those sold now that work with this plan.")
    def add_ons(self) -> "list[AddOn]":
        product = self.catalog.products[self.source.product_id]
        return [add_on_type(self.catalog, a) for a in product.add_ons if a.fits(self.source.id)]


describe_enum(
    domain.AddOnKind,
    "What sort of an add-on it is.",
    MODULE="A part of the product with a use of its own.",
    FEATURE_PACK="Several features together.",
    INTEGRATION="A connection with something else.",
    FEATURE="A single feature.",
    CAPACITY="More of something that is counted.",
    SUPPORT="More help.",
)


@strawberry.type(description="What is bought beside a plan.")
class AddOn(Package):
    source: strawberry.Private[domain.AddOn]
    kind: domain.AddOnKind = strawberry.field(description="What sort it is.")
    problem: str | None = strawberry.field(description="What it solves, for people.")
    audience: str | None = strawberry.field(description="Whom it is for, for people.")
    max_quantity: int | None = strawberry.field(
        description="How many can be held; null for any number."
    )

    @strawberry.field(description="The plans it can be bought with, lowest tier first.")
    def works_with(self) -> list[Plan]:
        product = self.catalog.products[self.source.product_id]
        named = self.source.works_with
        return _plans(self.catalog, [p.id for p in product.plans] if named is None else named)

    @strawberry.field(description="What must be held as well, by itself or within a bundle.")
    def requires(self) -> "list[AddOn]":
        return _add_ons(self.catalog, self.source.requires)

    @strawberry.field(description="What cannot be held at the same time.")
    def excludes(self) -> "list[AddOn]":
        return _add_ons(self.catalog, self.source.excludes)


@strawberry.type(description="A package that a bundle consists of.")
class BundleComponent:
    package: Package = strawberry.field(description="At the version that the bundle pins.")
    quantity: int = strawberry.field(description="How many of it, in one bundle.")


@strawberry.type(description="Several packages together for less.")
class Bundle(Package):
    source: strawberry.Private[domain.Bundle]
    use_case: str | None = strawberry.field(description="What it is for, for people.")

    @strawberry.field(description="What it consists of.")
    def components(self) -> list[BundleComponent]:
        return [
            BundleComponent(
                package=package_type(self.catalog, self.catalog.version(c.package_id, c.version)),
                quantity=c.quantity,
            )
            for c in self.source.components
        ]

    @strawberry.field(
        description="What one saves per interval against its parts bought singly, without metered "
        "charges; levels count as when first bought. 0 where it has no list price. A currency or "
        "interval that it is not sold in is BAD_USER_INPUT."
    )
    def saving(
        self,
        currency: Annotated[
            str, strawberry.argument(description="ISO 4217 code, lower case, of the catalog's.")
        ],
        interval: Annotated[
            Interval, strawberry.argument(description="For how long both ways pay.")
        ],
    ) -> Saving:
        if not self.source.charges:  # contact-sales: nothing to compare the parts with
            return Saving(amount=money(0, currency), percent=Decimal(0))
        return saving_type(discounts.bundle_saving(self.catalog, self.source, currency, interval))


def package_type(catalog: domain.Catalog, package: domain.AnyPackage) -> Plan | AddOn | Bundle:
    """The view of a package at its version, which may be an old one; all around it is current."""
    if isinstance(package, domain.Plan):
        return plan_type(catalog, package)
    return (
        add_on_type(catalog, package)
        if isinstance(package, domain.AddOn)
        else bundle_type(catalog, package)
    )


def plan_type(catalog: domain.Catalog, plan: domain.Plan) -> Plan:
    return Plan(**_package(catalog, plan), rank=plan.rank)


def add_on_type(catalog: domain.Catalog, add_on: domain.AddOn) -> AddOn:
    return AddOn(
        **_package(catalog, add_on),
        kind=add_on.kind,
        problem=add_on.problem,
        audience=add_on.audience,
        max_quantity=add_on.max_quantity,
    )


def bundle_type(catalog: domain.Catalog, bundle: domain.Bundle) -> Bundle:
    return Bundle(**_package(catalog, bundle), use_case=bundle.use_case)


def _package(catalog: domain.Catalog, package: domain.AnyPackage) -> dict[str, Any]:
    """What plans, add-ons and bundles have in common."""
    return {
        "catalog": catalog,
        "source": package,
        "id": strawberry.ID(package.id),
        "version": package.version,
        "version_id": strawberry.ID(package.version_id),
        "name": package.name,
        "description": package.description,
        "self_serve": not package.contact_sales,
        "published_at": package.published_at,
        "latest_version": catalog.latest_versions[package.id],
    }


def _plans(catalog: domain.Catalog, ids: Iterable[str]) -> list[Plan]:
    found = [p for id in ids if isinstance(p := _last(catalog, id), domain.Plan)]
    return [plan_type(catalog, plan) for plan in sorted(found, key=lambda plan: plan.rank)]


def _add_ons(catalog: domain.Catalog, ids: Iterable[str]) -> list[AddOn]:
    return [
        add_on_type(catalog, a) for id in ids if isinstance(a := _last(catalog, id), domain.AddOn)
    ]


def _last(catalog: domain.Catalog, package_id: str) -> domain.AnyPackage:
    """A package as sold now, or as sold last: an old version may name one that is retired."""
    return catalog.version(package_id, catalog.latest_versions[package_id])


# ── products and the catalog ─────────────────────────────────────────────────


@strawberry.type(description="Something sold by itself; a customer has one subscription to it.")
class Product:
    catalog: strawberry.Private[domain.Catalog]
    source: strawberry.Private[domain.Product]
    id: strawberry.ID = strawberry.field(description="Its key in the catalog.")
    name: str = strawberry.field(description="For people.")

    @strawberry.field(description="The tiers sold now, lowest first.")
    def plans(self) -> list[Plan]:
        return [plan_type(self.catalog, plan) for plan in self.source.plans]

    @strawberry.field(description="Those sold now.")
    def add_ons(self) -> list[AddOn]:
        return [add_on_type(self.catalog, add_on) for add_on in self.source.add_ons]

    @strawberry.field(description="Those sold now.")
    def bundles(self) -> list[Bundle]:
        return [bundle_type(self.catalog, bundle) for bundle in self.source.bundles]


def product_type(catalog: domain.Catalog, product: domain.Product) -> Product:
    return Product(catalog=catalog, source=product, id=strawberry.ID(product.id), name=product.name)


@strawberry.type(description="All that is sold at one time.")
class Catalog:
    source: strawberry.Private[domain.Catalog]
    revision: int = strawberry.field(
        description="Counts the catalogs that were published; 0 before the first."
    )
    effective_at: datetime = strawberry.field(description="From when on it is what is sold.")
    currencies: list[str] = strawberry.field(
        description="ISO 4217 codes, lower case; the first is the default."
    )

    @strawberry.field(description="Every feature, in the catalog's order.")
    def features(self) -> list[Feature]:
        return [feature_type(feature) for feature in self.source.features.values()]

    @strawberry.field(description="Every product that something is sold of.")
    def products(self) -> list[Product]:
        sold = [product for product in self.source.products.values() if product.packages]
        return [product_type(self.source, product) for product in sold]


def catalog_type(catalog: domain.Catalog) -> Catalog:
    return Catalog(
        source=catalog,
        revision=catalog.revision,
        effective_at=catalog.effective_at,
        currencies=list(catalog.currencies),
    )
