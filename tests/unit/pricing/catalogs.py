"""Small catalogs for the tests of pricing and grants, written as a company would say them."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from entitlements.catalog.model import (
    AddOn,
    AddOnKind,
    Aggregation,
    AnyPackage,
    BillingTime,
    Bundle,
    BundleComponent,
    Catalog,
    Charge,
    Entitlement,
    EntitlementValue,
    Feature,
    FeatureKind,
    GrantMode,
    Plan,
    Price,
    PricingModel,
    Product,
    ResetPeriod,
    Tier,
)
from entitlements.kernel.period import Interval

AT = datetime(2026, 3, 1, tzinfo=UTC)
PRODUCT = "workspace"

FEATURES = {
    feature.id: feature
    for feature in (
        Feature(id="dashboards", name="Dashboards", kind=FeatureKind.BOOLEAN),
        Feature(id="sso", name="Single sign-on", kind=FeatureKind.BOOLEAN),
        Feature(
            id="support-hours", name="Response", kind=FeatureKind.NUMBER, higher_is_better=False
        ),
        Feature(
            id="channel", name="Channel", kind=FeatureKind.ENUM, values=("email", "chat", "phone")
        ),
        Feature(
            id="seats",
            name="Seats",
            kind=FeatureKind.METERED,
            aggregation=Aggregation.LEVEL,
            reset=ResetPeriod.NEVER,
        ),
        Feature(
            id="calls",
            name="API calls",
            kind=FeatureKind.METERED,
            aggregation=Aggregation.SUM,
            reset=ResetPeriod.BILLING_PERIOD,
        ),
    )
}


def flat(month: str, year: str | None = None, *, id: str = "fee", **more: Any) -> Charge:
    """A flat fee in dollars; the year is ten months unless said."""
    yearly = Decimal(year) if year is not None else 10 * Decimal(month)
    prices = (
        Price(currency="usd", interval=Interval.MONTH, flat_amount=Decimal(month)),
        Price(currency="usd", interval=Interval.YEAR, flat_amount=yearly),
    )
    return _charge(id, PricingModel.FLAT, prices, **more)


def tiered(model: PricingModel, *steps: tuple[int | None, str], **more: Any) -> Charge:
    """Tiers as (up_to, unit) in dollars; the year is ten months."""
    prices = tuple(
        Price(
            currency="usd",
            interval=interval,
            tiers=tuple(Tier(up_to, Decimal(unit) * times, Decimal(0)) for up_to, unit in steps),
        )
        for interval, times in ((Interval.MONTH, 1), (Interval.YEAR, 10))
    )
    return _charge(more.pop("id", "units"), model, prices, **more)


def volume_seats(**more: Any) -> Charge:
    """1–10 at $10, 11–50 at $8, 51 and more at $6: a volume charge on bought seats."""
    steps = ((10, "10"), (50, "8"), (None, "6"))
    return tiered(PricingModel.VOLUME, *steps, id="seats", quantity_feature="seats", **more)


def overage(rate: str, per: int, included: int = 0) -> Charge:
    """Use of API calls in started blocks, billed by the month."""
    price = Price(currency="usd", interval=Interval.MONTH, unit_amount=Decimal(rate))
    return _charge(
        "overage",
        PricingModel.PACKAGE,
        (price,),
        quantity_feature="calls",
        metered=True,
        package_size=per,
        included=included,
    )


def _charge(id: str, model: PricingModel, prices: tuple[Price, ...], **more: Any) -> Charge:
    billing = BillingTime.IN_ARREARS if more.get("metered") else BillingTime.IN_ADVANCE
    return Charge(id=id, name=id, model=model, billing=billing, prices=prices, **more)


def grants(**values: Any) -> tuple[Entitlement, ...]:
    """By feature: true, "chat", 24, or for a metered one a limit, "unlimited", ("add", 100)."""
    return tuple(_grant(id.replace("_", "-"), value) for id, value in values.items())


def _grant(feature_id: str, value: Any) -> Entitlement:
    kind = FEATURES[feature_id].kind
    mode = GrantMode.SET
    match value:
        case ("add", added):
            mode, granted = GrantMode.ADD, limit(added)
        case EntitlementValue():
            granted = value
        case "unlimited":
            granted = EntitlementValue(unlimited=True)
        case _ if kind is FeatureKind.METERED:
            granted = limit(value)
        case _ if kind is FeatureKind.BOOLEAN:
            granted = EntitlementValue(enabled=value)
        case _ if kind is FeatureKind.ENUM:
            granted = EntitlementValue(choice=value)
        case _:
            granted = EntitlementValue(number=Decimal(value))
    return Entitlement(feature_id, mode, granted)


def limit(units: int, *, overage: bool = False, warn: tuple[int, ...] = ()) -> EntitlementValue:
    return EntitlementValue(limit=units, unlimited=False, overage=overage, warn_at_percent=warn)


def plan(id: str, *charges: Charge, rank: int = 0, **more: Any) -> Plan:
    return Plan(
        id=id,
        product_id=PRODUCT,
        name=_name(id),
        version=1,
        rank=rank,
        charges=charges,
        entitlements=more.pop("gives", ()),
        **more,
    )


def add_on(id: str, *charges: Charge, **more: Any) -> AddOn:
    return AddOn(
        id=id,
        product_id=PRODUCT,
        name=_name(id),
        version=1,
        kind=AddOnKind.MODULE,
        charges=charges,
        entitlements=more.pop("gives", ()),
        **more,
    )


def bundle(id: str, *charges: Charge, of: dict[str, int], **more: Any) -> Bundle:
    components = tuple(BundleComponent(part, 1, quantity) for part, quantity in of.items())
    return Bundle(
        id=id,
        product_id=PRODUCT,
        name=_name(id),
        version=1,
        charges=charges,
        components=components,
        **more,
    )


def _name(id: str) -> str:
    return id.replace("-", " ").capitalize()


def catalog(*packages: AnyPackage, fallback_plan: str | None = None) -> Catalog:
    """A catalog of one product, all packages at version 1, in dollars."""
    product = Product(
        id=PRODUCT,
        name="Workspace",
        plans=tuple(p for p in packages if isinstance(p, Plan)),
        add_ons=tuple(p for p in packages if isinstance(p, AddOn)),
        bundles=tuple(p for p in packages if isinstance(p, Bundle)),
        fallback_plan=fallback_plan,
        intervals=(Interval.MONTH, Interval.YEAR),
    )
    return Catalog(
        revision=1,
        effective_at=AT,
        currencies=("usd",),
        features=FEATURES,
        products={PRODUCT: product},
        current={package.id: package for package in packages},
        versions={package.version_id: package for package in packages},
        latest_versions={package.id: 1 for package in packages},
    )


STARTER = plan(
    "starter", flat("29", "290"), gives=grants(seats=5, calls=10_000, channel="email", sso=False)
)
PROFESSIONAL = plan(
    "professional",
    flat("99", "986.04"),
    volume_seats(),
    overage("1.50", 1000, included=100_000),
    rank=1,
    gives=grants(seats="unlimited", calls=limit(100_000, overage=True), channel="chat", sso=True),
)
ENTERPRISE = plan("enterprise", rank=2, self_serve=False, gives=grants(seats="unlimited"))
EMAIL = add_on("email-campaigns", flat("50"), max_quantity=1)
SCORING = add_on("lead-scoring", flat("75"), max_quantity=1)
LANDING = add_on("landing-pages", flat("50"), max_quantity=1)
ANALYTICS = add_on(
    "analytics",
    flat("200", "2000"),
    works_with=("starter", "professional"),
    max_quantity=1,
    gives=grants(dashboards=True),
)
CALLS = add_on("extra-calls", flat("15"), gives=grants(calls=("add", 100_000)))
MARKETING = bundle(
    "marketing", flat("150"), of={"email-campaigns": 1, "lead-scoring": 1, "landing-pages": 1}
)
WORKSPACE = catalog(
    STARTER, PROFESSIONAL, ENTERPRISE, EMAIL, SCORING, LANDING, ANALYTICS, CALLS, MARKETING
)
