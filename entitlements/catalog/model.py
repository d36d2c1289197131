"""What is sold, frozen and in memory: the resolved form of a published catalog document.

Nothing here refers to wording that makes a version or not; `document.py` resolves the file into
these, `service.py` numbers and stores them. Every struct is immutable and safe to share.
"""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import ClassVar

import msgspec

from entitlements.kernel.period import Interval


class FeatureKind(StrEnum):
    BOOLEAN = "boolean"
    NUMBER = "number"
    ENUM = "enum"
    METERED = "metered"


class Aggregation(StrEnum):
    SUM = "sum"  # consumption: what is used adds up
    LEVEL = "level"  # a current quantity, such as seats


class ResetPeriod(StrEnum):
    NEVER = "never"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    BILLING_PERIOD = "billing_period"


class Feature(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a package may grant. Which fields are set follows from `kind`."""

    id: str
    name: str
    kind: FeatureKind
    description: str | None = None
    unit: str | None = None
    values: tuple[str, ...] = ()  # ENUM: weakest first
    higher_is_better: bool | None = None  # NUMBER
    aggregation: Aggregation | None = None  # METERED
    reset: ResetPeriod | None = None  # METERED


class GrantMode(StrEnum):
    SET = "set"
    ADD = "add"
    REPLACE = "replace"


class EntitlementValue(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is granted of one feature: exactly the fields of the feature's kind are set.

    BOOLEAN `enabled`; NUMBER `number`; ENUM `choice`; METERED `limit` (units, or None with
    `unlimited`), `overage` (may it be passed), `warn_at_percent`.
    """

    enabled: bool | None = None
    number: Decimal | None = None
    choice: str | None = None
    limit: int | None = None
    unlimited: bool | None = None
    overage: bool | None = None
    warn_at_percent: tuple[int, ...] = ()


class Entitlement(msgspec.Struct, frozen=True):
    """One grant of a package. `ADD` is for metered limits and counts once per package held."""

    feature_id: str
    mode: GrantMode
    value: EntitlementValue


class PricingModel(StrEnum):
    FLAT = "flat"
    PER_UNIT = "per_unit"
    VOLUME = "volume"
    GRADUATED = "graduated"
    PACKAGE = "package"


class BillingTime(StrEnum):
    IN_ADVANCE = "in_advance"
    IN_ARREARS = "in_arrears"


class Tier(msgspec.Struct, frozen=True):
    """A price step. `up_to` is inclusive, None in the last; amounts in major units."""

    up_to: int | None
    unit: Decimal
    flat: Decimal


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """What a charge costs in one currency and interval, in major units, up to 12 decimals.

    FLAT sets `flat_amount`; PER_UNIT and PACKAGE (per block) `unit_amount`; VOLUME and GRADUATED
    `tiers`, of which the last has no end.
    """

    currency: str
    interval: Interval
    flat_amount: Decimal | None = None
    unit_amount: Decimal | None = None
    tiers: tuple[Tier, ...] = ()


class Charge(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a package costs.

    `quantity_feature` is the LEVEL feature whose bought quantity is counted (licensed), or the
    SUM feature whose use is billed (`metered`). Without it the package's own quantity is counted,
    times `units_per_package` (more than 1 only for a bundle's component held several times).
    `component_id` names the component of a bundle that the charge pays for.
    """

    id: str
    name: str
    model: PricingModel
    billing: BillingTime
    prices: tuple[Price, ...]
    quantity_feature: str | None = None
    metered: bool = False
    included: int = 0
    minimum: int | None = None
    package_size: int | None = None
    units_per_package: int = 1
    component_id: str | None = None

    def price(self, currency: str, interval: Interval) -> Price | None:
        """The price in a currency and interval; a metered one falls back to the month's."""
        found = {p.interval: p for p in self.prices if p.currency == currency}
        return found.get(interval) or (found.get(Interval.MONTH) if self.metered else None)


class TrialEnd(StrEnum):
    CONVERT = "convert"
    EXPIRE = "expire"


class TrialStep(msgspec.Struct, frozen=True):
    week: int
    title: str
    body: str


class TrialTerms(msgspec.Struct, frozen=True, kw_only=True):
    days: int
    at_end: TrialEnd
    requires_payment_method: bool = False
    guide: tuple[TrialStep, ...] = ()


class AddOnKind(StrEnum):
    MODULE = "module"
    FEATURE_PACK = "feature_pack"
    INTEGRATION = "integration"
    FEATURE = "feature"
    CAPACITY = "capacity"
    SUPPORT = "support"


class Package(msgspec.Struct, frozen=True, kw_only=True, tag_field="package"):
    """What can be bought: a plan, an add-on or a bundle, at one immutable version.

    `version` is 0 until it is published. A package without charges is contact-sales.
    """

    id: str
    product_id: str
    name: str
    description: str | None = None
    version: int = 0
    published_at: datetime | None = None
    self_serve: bool = True
    entitlements: tuple[Entitlement, ...] = ()
    charges: tuple[Charge, ...] = ()
    trial: TrialTerms | None = None

    @property
    def version_id(self) -> str:
        return f"{self.id}@{self.version}"

    @property
    def contact_sales(self) -> bool:
        return not self.self_serve or not self.charges

    def charge(self, charge_id: str) -> Charge:
        return next(c for c in self.charges if c.id == charge_id)


class Plan(Package, frozen=True, kw_only=True, tag="plan"):
    rank: int  # 0 is the lowest tier of its product
    extends: str | None = None


class AddOn(Package, frozen=True, kw_only=True, tag="add_on"):
    kind: AddOnKind
    problem: str | None = None
    audience: str | None = None
    works_with: tuple[str, ...] | None = None  # plan ids; None: every plan of the product
    requires: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    max_quantity: int | None = None

    def fits(self, plan_id: str) -> bool:
        return self.works_with is None or plan_id in self.works_with


class BundleComponent(msgspec.Struct, frozen=True):
    """A package at the version that the bundle pins, and how many of it."""

    package_id: str
    version: int
    quantity: int


class Bundle(Package, frozen=True, kw_only=True, tag="bundle"):
    use_case: str | None = None
    components: tuple[BundleComponent, ...]
    discount_percent: Decimal | None = None  # None: charges of its own


AnyPackage = Plan | AddOn | Bundle


class ChangeTiming(StrEnum):
    NOW = "now"
    PERIOD_END = "period_end"


class ProrationMode(StrEnum):
    INVOICE_NOW = "invoice_now"
    NEXT_INVOICE = "next_invoice"
    NONE = "none"


class OverLimit(StrEnum):
    ALLOW = "allow"
    REFUSE = "refuse"


class ChangeRule(msgspec.Struct, frozen=True):
    """When one kind of change takes effect and how it is prorated."""

    timing: ChangeTiming
    proration: ProrationMode


_NOW = ChangeRule(ChangeTiming.NOW, ProrationMode.INVOICE_NOW)
_PERIOD_END = ChangeRule(ChangeTiming.PERIOD_END, ProrationMode.NONE)


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """How a product's subscriptions change. The defaults are CATALOG.md's."""

    upgrade: ChangeRule = _NOW
    downgrade: ChangeRule = _PERIOD_END
    over_limit: OverLimit = OverLimit.ALLOW
    longer_interval: ChangeRule = _NOW
    shorter_interval: ChangeRule = _PERIOD_END
    cancellation: ChangeRule = _PERIOD_END
    past_due_grace_days: int = 14
    customer_may_choose: tuple[ChangeTiming, ...] = ()


class Product(msgspec.Struct, frozen=True, kw_only=True):
    """Something sold by itself. `intervals` are those that its licensed charges are priced in."""

    id: str
    name: str
    plans: tuple[Plan, ...]  # lowest tier first
    add_ons: tuple[AddOn, ...] = ()
    bundles: tuple[Bundle, ...] = ()
    fallback_plan: str | None = None
    policy: Policy = Policy()
    intervals: tuple[Interval, ...] = ()

    @property
    def packages(self) -> tuple[AnyPackage, ...]:
        return (*self.plans, *self.add_ons, *self.bundles)


class Catalog(msgspec.Struct, frozen=True, kw_only=True):
    """One published revision, and every version that was ever published with or before it."""

    EMPTY: ClassVar["Catalog"]

    revision: int
    effective_at: datetime
    currencies: tuple[str, ...]  # the first is the default
    features: dict[str, Feature]
    products: dict[str, Product]  # one that was left out stays, with nothing to sell
    current: dict[str, AnyPackage]  # by package id: what is sold now
    versions: dict[str, AnyPackage]  # by version id, `pro@3`: sold now or once
    latest_versions: dict[str, int]  # by package id, the retired included
    retired_features: dict[str, Feature] = {}  # left out since; only old versions name them

    def version(self, package_id: str, version: int) -> AnyPackage:
        """The package at a version that somebody holds; published versions never go away."""
        return self.versions[f"{package_id}@{version}"]

    def feature(self, feature_id: str) -> Feature:
        """A feature that some version names, also one that the document has left out since."""
        return self.features.get(feature_id) or self.retired_features[feature_id]


Catalog.EMPTY = Catalog(
    revision=0,
    effective_at=datetime.fromisoformat("1970-01-01T00:00:00+00:00"),
    currencies=(),
    features={},
    products={},
    current={},
    versions={},
    latest_versions={},
)
