"""The shape of the catalog document, key by key: what may stand where, before what it means.

One declaration serves twice: the document is decoded by it (`structure.py`), and `json_schema()`
prints it for editors. What a JSON Schema cannot say is in `rules.py`.
"""

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Any, Final, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    StrictBool,
    StrictStr,
    Tag,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import PydanticCustomError

from entitlements.catalog.model import (
    AddOnKind,
    Aggregation,
    BillingTime,
    ChangeTiming,
    FeatureKind,
    OverLimit,
    Policy,
    PricingModel,
    ProrationMode,
    ResetPeriod,
    TrialEnd,
)
from entitlements.kernel.money import RATE_DECIMALS, is_currency, plain

# A limit on everything. Those of the format are CATALOG.md's; the rest are generous.
AMOUNT_MAX = 1_000_000_000  # major units
QUANTITY_MAX = 10**12  # times the largest package quantity: within 64 bits
PACKAGE_QUANTITY_MAX = 1_000_000
FEATURES_MAX = 10_000
PRODUCTS_MAX = 200
PACKAGES_PER_PRODUCT_MAX = 500
CHARGES_MAX = 20  # per package: a subscription at the payment provider has at most 20 items
TIERS_MAX = 100
RELATIONS_MAX = 100  # add-ons that one requires, or excludes
ENUM_VALUES_MAX = 100
CURRENCIES_MAX = 100
TRIAL_DAYS_MIN, TRIAL_DAYS_MAX = 14, 30

_NUMBER = re.compile(r"-?\d{1,40}(\.\d{1,40})?([eE][+-]?\d{1,2})?", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u2028\u2029]")


class Dropped:
    """Stands in a list for an item that is not well formed, so that the others keep their place."""


DROPPED: Final = Dropped()


def _number(value: Any) -> Decimal:
    """A number as written, as text or not; exact, without an exponent.

    >>> _number("29.10"), _number(5), _number("1e3")
    (Decimal('29.10'), Decimal('5'), Decimal('1000'))
    """
    if isinstance(value, Decimal) and abs(value.adjusted()) < 100:
        return _without_exponent(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return Decimal(value)
    if not isinstance(value, str):
        raise PydanticCustomError("WRONG_TYPE", "a number is expected")
    if not _NUMBER.fullmatch(value):
        raise PydanticCustomError("INVALID_NUMBER", 'a number is expected, such as 5 or "29.00"')
    return _without_exponent(Decimal(value))


def _without_exponent(value: Decimal) -> Decimal:
    exponent = value.as_tuple().exponent
    value = value if value else value.copy_abs()
    return plain(value) if exponent not in range(-40, 1) else value


def number_value(value: Any) -> Decimal | None:
    """The value of a NUMBER feature; None where it is no number, too large or too fine."""
    try:
        number = _number(value)
    except PydanticCustomError:
        return None
    within = number.copy_abs() <= QUANTITY_MAX and _decimals(number) <= RATE_DECIMALS
    return number if within else None


def _decimals(value: Decimal) -> int:
    digits = value.as_tuple()
    assert isinstance(digits.exponent, int)
    trailing = len(digits.digits) - len("".join(map(str, digits.digits)).rstrip("0"))
    return max(-digits.exponent - trailing, 0) if value else 0


def _exact(least: int, most: int, *, exclusive: bool = False) -> PlainValidator:
    """A decimal between two bounds, of at most 12 decimals."""

    def check(value: Any) -> Decimal:
        number = _number(value)
        within = least < number < most if exclusive else least <= number <= most
        if not within:
            words = "more than {least} and less than" if exclusive else "between {least} and"
            bounds = {"least": f"{least:,}", "most": f"{most:,}"}
            raise PydanticCustomError("OUT_OF_RANGE", words + " {most} is expected", bounds)
        if _decimals(number) > RATE_DECIMALS:
            words = "at most {places} decimals are expected"
            raise PydanticCustomError("TOO_MANY_DECIMALS", words, {"places": RATE_DECIMALS})
        return number

    return PlainValidator(check)


def _whole(least: int, most: int) -> PlainValidator:
    """A whole number between two bounds."""

    def check(value: Any) -> int:
        number = _number(value)
        if not least <= number <= most:
            bounds = {"least": f"{least:,}", "most": f"{most:,}"}
            words = "between {least} and {most} is expected"
            raise PydanticCustomError("OUT_OF_RANGE", words, bounds)
        if number != int(number):
            raise PydanticCustomError("NOT_WHOLE", "a whole number is expected")
        return int(number)

    return PlainValidator(check)


def _number_schema(least: int, most: int, *, whole: bool = False) -> WithJsonSchema:
    pattern = r"^-?\d+$" if whole else r"^-?\d+(\.\d+)?$"
    written = {"type": "integer" if whole else "number", "minimum": least, "maximum": most}
    return WithJsonSchema({"anyOf": [written, {"type": "string", "pattern": pattern}]})


def _words(value: str) -> str:
    if _CONTROL.search(value):
        raise PydanticCustomError("CONTROL_CHARACTER", "a control character is not allowed")
    if not value.strip():
        raise PydanticCustomError("EMPTY", "some text is expected")
    return value


def _currency(value: str) -> str:
    if not is_currency(value):
        hint = "" if not is_currency(value.lower()) else ", in lower case"
        words = "a currency code of ISO 4217 is expected" + hint
        raise PydanticCustomError("UNKNOWN_CURRENCY", words)
    return value


def _keep_dropped(value: Any, validate: Any) -> Any:
    return value if value is DROPPED else validate(value)


def _price_form(value: Any) -> str:
    return "tiers:" if isinstance(value, list) else "amount:"


def _value_form(value: Any) -> str:
    return "limits:" if isinstance(value, dict) else "scalar:"


def _scalar(value: Any) -> bool | str | Decimal:
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int | Decimal):
        return Decimal(value)
    raise PydanticCustomError("WRONG_TYPE", "true, false, a number, a text or a limit is expected")


_SCALAR: Final = PlainValidator(
    _scalar,
    json_schema_input_type=bool | int | float | str,  # numbers as they are written
)

UNION_TAGS: Final = frozenset({"tiers:", "amount:", "limits:", "scalar:"})
"""What pydantic puts into the location of a mistake beside keys and indexes."""

T = TypeVar("T")
Items = list[Annotated[T, WrapValidator(_keep_dropped)]]
"""A list whose broken items are `DROPPED` on the second look."""

Id = Annotated[StrictStr, Field(pattern=r"^[a-z0-9-]{1,64}$")]
Name = Annotated[StrictStr, Field(max_length=200), AfterValidator(_words)]
Prose = Annotated[StrictStr, Field(max_length=5000), AfterValidator(_words)]
Currency = Annotated[StrictStr, Field(pattern=r"^[A-Za-z]{3}$"), AfterValidator(_currency)]
Amount = Annotated[Decimal, _exact(0, AMOUNT_MAX), _number_schema(0, AMOUNT_MAX)]
Percent = Annotated[Decimal, _exact(0, 100, exclusive=True), _number_schema(0, 100)]
Quantity = Annotated[int, _whole(0, QUANTITY_MAX), _number_schema(0, QUANTITY_MAX, whole=True)]
Count = Annotated[int, _whole(1, QUANTITY_MAX), _number_schema(1, QUANTITY_MAX, whole=True)]
Holdings = Annotated[
    int, _whole(1, PACKAGE_QUANTITY_MAX), _number_schema(1, PACKAGE_QUANTITY_MAX, whole=True)
]


class Shape(BaseModel):
    """Part of the document. Unknown keys are refused, and nothing is converted silently."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        model_title_generator=lambda shape: shape.__name__.removesuffix("Shape"),
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_left_out(cls, value: Any) -> Any:
        if not isinstance(value, dict) or None not in value.values():
            return value
        optional = {name for name, field in cls.model_fields.items() if not field.is_required()}
        return {k: v for k, v in value.items() if v is not None or k not in optional}


def _needs(
    key: str, value: str, *, required: Sequence[str] = (), refused: Sequence[str] = ()
) -> Any:
    """A JSON Schema condition: with this value of a key, these are needed and those refused."""
    then = {"required": list(required), "properties": dict.fromkeys(refused, False)}
    when = {"properties": {key: {"const": value}}, "required": [key]}
    return {"if": when, "then": {k: v for k, v in then.items() if v}}


class FeatureShape(Shape):
    """Something that a package may grant."""

    model_config = ConfigDict(
        json_schema_extra={
            "allOf": [
                _needs(
                    "kind",
                    "boolean",
                    refused=["values", "higher_is_better", "aggregation", "reset"],
                ),
                _needs(
                    "kind",
                    "number",
                    required=["higher_is_better"],
                    refused=["values", "aggregation", "reset"],
                ),
                _needs(
                    "kind",
                    "enum",
                    required=["values"],
                    refused=["higher_is_better", "aggregation", "reset"],
                ),
                _needs(
                    "kind",
                    "metered",
                    required=["aggregation"],
                    refused=["values", "higher_is_better"],
                ),
            ]
        }
    )

    id: Id = Field(description="Names the feature for ever: checks and entitlements use it.")
    name: Name = Field(description="For people.")
    kind: FeatureKind = Field(
        description="boolean: on or off. number: a figure. enum: one of listed values. metered:"
        " a quantity that is used, against a limit."
    )
    description: Prose | None = Field(None, description="For people: what it is.")
    unit: Name | None = Field(
        None, description="What is counted, in the singular: seat, call, hour."
    )
    values: Annotated[Items[Name], Field(min_length=1, max_length=ENUM_VALUES_MAX)] | None = Field(
        None, description="enum: the values that exist, weakest first."
    )
    higher_is_better: StrictBool | None = Field(
        None, description="number: whether more is better (false for a response time)."
    )
    aggregation: Aggregation | None = Field(
        None,
        description="metered: sum for consumption, level for a current quantity such as seats.",
    )
    reset: ResetPeriod | None = Field(
        None,
        description="metered: when what was used starts from 0 again. billing_period follows the"
        " charge that meters it, otherwise the subscription's month. A level never resets.",
    )


class MeteredShape(Shape):
    """What is granted of a metered feature: exactly one of limit, unlimited and add."""

    limit: Quantity | None = Field(None, description="Sets the limit, in the feature's unit.")
    unlimited: StrictBool | None = Field(None, description="true: no limit.")
    add: Quantity | None = Field(
        None, description="Add-ons only: raises the limit, times the quantity of the add-on held."
    )
    overage: StrictBool = Field(
        False, description="Whether use may pass the limit; free unless a metered charge bills it."
    )
    warn_at_percent: Annotated[
        Items[Annotated[int, _whole(1, 1000), _number_schema(1, 1000, whole=True)]],
        Field(max_length=10),
    ] = Field([], description="Percentages of the limit at which to warn, rising.")


class TrialStepShape(Shape):
    """One step of a guided trial."""

    week: Annotated[int, _whole(1, 5), _number_schema(1, 5, whole=True)] = Field(
        description="The week of the trial it is meant for, from 1."
    )
    title: Name = Field(description="For people.")
    body: Prose = Field(description="For people.")


class TrialShape(Shape):
    """The terms of a free trial."""

    days: Annotated[
        int,
        _whole(TRIAL_DAYS_MIN, TRIAL_DAYS_MAX),
        _number_schema(TRIAL_DAYS_MIN, TRIAL_DAYS_MAX, whole=True),
    ] = Field(description="How long it lasts: 14 to 30 days.")
    at_end: TrialEnd = Field(
        description="convert: becomes a paid subscription (needs a payment method). expire: ends."
    )
    requires_payment_method: StrictBool = Field(
        False, description="Whether it only starts with a payment method on file."
    )
    guide: Annotated[Items[TrialStepShape], Field(max_length=50)] = Field(
        [], description="Steps for people, by week."
    )


class TierShape(Shape):
    """A price step."""

    up_to: Count | None = Field(
        description="The last quantity of the tier, inclusive; null in the last tier."
    )
    unit: Amount = Field(description="Per unit, in major units.")
    flat: Amount = Field(Decimal(0), description="Due once where the tier applies, in major units.")


AmountOrTiers = Annotated[
    Annotated[Amount, Tag("amount:")]
    | Annotated[
        list[Annotated[TierShape, WrapValidator(_keep_dropped)]],
        Field(min_length=1, max_length=TIERS_MAX),
        Tag("tiers:"),
    ],
    Discriminator(_price_form),
]


class IntervalPricesShape(Shape):
    """Prices of one currency: an amount, or tiers where the model is volume or graduated."""

    month: AmountOrTiers | None = Field(None, description="Per month, in major units.")
    year: AmountOrTiers | None = Field(None, description="Per year, in major units.")


class ChargeShape(Shape):
    """One thing that a package costs."""

    model_config = ConfigDict(
        json_schema_extra={
            "allOf": [
                _needs("model", "package", required=["package_size"]),
                _needs("model", "flat", refused=["quantity", "minimum", "package_size"]),
            ]
        }
    )

    id: Id = Field(description="Names the charge within its package.")
    name: Name = Field(description="For people: on invoices.")
    model: PricingModel = Field(
        description="flat: an amount. per_unit: a rate per unit. volume: every unit at the rate of"
        " the tier that the quantity falls in. graduated: each slice at its own tier's rate."
        " package: a rate per started block of package_size."
    )
    quantity: Id | None = Field(
        None,
        description="A metered feature: a level (what is bought of it is billed in advance) or a"
        " sum (what is used is billed in arrears). Left out: the package's own quantity.",
    )
    included: Quantity = Field(0, description="Units that cost nothing.")
    minimum: Quantity | None = Field(None, description="The least that is billed. Not on a sum.")
    package_size: Count | None = Field(None, description="package: units per block.")
    billing: BillingTime | None = Field(
        None, description="in_advance for licensed charges, in_arrears for metered ones."
    )
    annual_discount_percent: Percent | None = Field(
        None, description="Prices the year from the month: month × 12 × (1 − p/100)."
    )
    prices: dict[Id, IntervalPricesShape] = Field(
        description="By currency: a price for every interval that the product sells in."
    )


EntitlementsShape = dict[
    Id,
    Annotated[
        Annotated[Any, _SCALAR, Tag("scalar:")] | Annotated[MeteredShape, Tag("limits:")],
        Discriminator(_value_form),
    ],
]


class PackageShape(Shape):
    id: Id = Field(description="Names the package for ever, in the whole catalog: pro is pro@3.")
    name: Name = Field(description="For people.")
    description: Prose | None = Field(None, description="For people.")
    self_serve: StrictBool = Field(
        True, description="false: customers ask, and staff approves (contact sales)."
    )
    trial: TrialShape | None = Field(None, description="Left out: no trial.")


_ENTITLEMENTS = Field(
    description="By feature: true or false, a number, a listed value, or a limit"
    " ({limit: 5}, {unlimited: true}; add-ons: {add: 5})."
)
_CHARGES = Field(
    max_length=CHARGES_MAX,
    description="What it costs; [] is contact sales, and free is a flat 0.",
)


class PlanShape(PackageShape):
    """A tier of a product; a customer holds one."""

    extends: Id | None = Field(
        None, description="Another plan of the product whose entitlements it takes, then its own."
    )
    entitlements: EntitlementsShape = _ENTITLEMENTS
    charges: Items[ChargeShape] = _CHARGES


class AddOnShape(PackageShape):
    """Something bought on top of a plan."""

    kind: AddOnKind = Field(description="How it is grouped in a shop.")
    problem: Prose | None = Field(None, description="The problem it solves, for people.")
    audience: Prose | None = Field(None, description="Whom it is for, for people.")
    works_with: Items[Id] | None = Field(
        None, description="The plans it can be bought with; left out: every plan of the product."
    )
    requires: Annotated[Items[Id], Field(max_length=RELATIONS_MAX)] = Field(
        [], description="Add-ons that have to be held with it."
    )
    excludes: Annotated[Items[Id], Field(max_length=RELATIONS_MAX)] = Field(
        [], description="Add-ons that cannot be held with it."
    )
    max_quantity: Holdings | None = Field(None, description="The most one customer may hold.")
    entitlements: EntitlementsShape = _ENTITLEMENTS
    charges: Items[ChargeShape] = _CHARGES


class ComponentShape(Shape):
    """A part of a bundle."""

    id: Id = Field(description="An add-on of the product, or (once) a plan.")
    quantity: Holdings = Field(1, description="How many of it; a plan once.")


class BundleShape(PackageShape):
    """Several packages sold as one, for less: a discount or charges of its own."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["discount_percent"]}, {"required": ["charges"]}]}
    )

    use_case: Prose | None = Field(None, description="What it is for, for people.")
    components: Annotated[Items[ComponentShape], Field(min_length=1, max_length=50)] = Field(
        description="What it consists of."
    )
    discount_percent: Percent | None = Field(
        None, description="Off the sum of the parts' licensed charges."
    )
    charges: Items[ChargeShape] | None = Field(
        None, max_length=CHARGES_MAX, description="Its own prices, cheaper than the parts' sum."
    )


class RuleShape(Shape):
    timing: ChangeTiming | None = Field(None, description="When it takes effect.")
    proration: ProrationMode | None = Field(
        None, description="How the rest of a period is settled: now, with the next invoice, or not."
    )


class UpgradeShape(RuleShape):
    """To a higher tier; also additions. Default: now, invoice_now."""


class DowngradeShape(RuleShape):
    """To a lower tier; also removals. Default: period_end, none, allow."""

    over_limit: OverLimit | None = Field(
        None, description="Whether it is allowed while use is above the new limits."
    )


class LongerIntervalShape(RuleShape):
    """From month to year. Default: now, invoice_now."""


class ShorterIntervalShape(RuleShape):
    """From year to month. Default: period_end, none."""


class CancellationShape(RuleShape):
    """Default: period_end, none."""


class PolicyShape(Shape):
    """How the product's subscriptions change."""

    upgrade: UpgradeShape = UpgradeShape()
    downgrade: DowngradeShape = DowngradeShape()
    longer_interval: LongerIntervalShape = LongerIntervalShape()
    shorter_interval: ShorterIntervalShape = ShorterIntervalShape()
    cancellation: CancellationShape = CancellationShape()
    past_due_grace_days: Annotated[int, _whole(0, 365), _number_schema(0, 365, whole=True)] = Field(
        Policy().past_due_grace_days, description="Full access after a payment failed, in days."
    )
    customer_may_choose: Annotated[Items[ChangeTiming], Field(max_length=2)] = Field(
        [], description="The timings that a customer's own token may ask for."
    )


class ProductShape(Shape):
    """Something sold by itself: a customer holds at most one live subscription of it."""

    id: Id = Field(description="Names the product for ever.")
    name: Name = Field(description="For people.")
    fallback_plan: Id | None = Field(
        None, description="The free plan of those without a live subscription."
    )
    policy: PolicyShape = PolicyShape()
    plans: Items[PlanShape] = Field(description="The tiers, lowest first.")
    add_ons: Items[AddOnShape] = Field([], description="What is bought on top of a plan.")
    bundles: Items[BundleShape] = Field([], description="Several of these, sold as one for less.")


class CatalogShape(Shape):
    """What a company sells."""

    currencies: Annotated[Items[Currency], Field(min_length=1, max_length=CURRENCIES_MAX)] = Field(
        description="ISO 4217, lower case; the first is the default."
    )
    features: Annotated[Items[FeatureShape], Field(max_length=FEATURES_MAX)] = Field(
        description="What packages may grant."
    )
    products: Annotated[Items[ProductShape], Field(max_length=PRODUCTS_MAX)] = Field(
        description="What is sold."
    )


KEY_ORDER: Final = tuple(
    dict.fromkeys(
        key
        for shape in (
            *(CatalogShape, ProductShape, PlanShape, AddOnShape, BundleShape, ComponentShape),
            *(ChargeShape, IntervalPricesShape, TierShape, TrialShape, TrialStepShape),
            *(FeatureShape, MeteredShape, PolicyShape, DowngradeShape),
        )
        for key in shape.model_fields
    )
)
"""The order in which a document that we write has its keys."""
KNOWN_KEYS: Final = sorted(KEY_ORDER)


class _Generator(GenerateJsonSchema):
    """Without the titles that only repeat a key."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the catalog document (draft 2020-12), for editors to complete and check.

    It says less than `document.parse` refuses: references and sums are beyond it.
    """
    made = CatalogShape.model_json_schema(schema_generator=_Generator)
    return {"$schema": _Generator.schema_dialect} | made | {"title": "Catalog document"}
