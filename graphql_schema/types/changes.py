"""Changes: what they would do (quotes), what they did, and the invoices that came of them."""

from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Self

import msgspec
import strawberry
from strawberry.types.field import StrawberryField

from entitlements.catalog.model import Catalog, ChangeTiming, ProrationMode
from entitlements.kernel import errors
from entitlements.kernel.errors import ValidationFailed
from entitlements.kernel.period import Interval
from entitlements.subscriptions import invoice_line, tables
from entitlements.subscriptions import quote as quotes
from entitlements.subscriptions.change import ChangeDirection
from entitlements.subscriptions.invoice_line import LineKind
from entitlements.subscriptions.request import ChangeRequest
from entitlements.subscriptions.standing import standing_of
from graphql_schema.context import Info
from graphql_schema.types.catalog import (
    AddOn,
    EntitlementValue,
    Feature,
    Package,
    add_on_type,
    entitlement_value_type,
    feature_type,
    package_type,
)
from graphql_schema.types.enums import describe_enum
from graphql_schema.types.errors import (
    Conflict,
    IdempotencyConflict,
    NotFound,
    PaymentDeclined,
    PaymentProviderUnavailable,
    UserError,
)
from graphql_schema.types.errors import ValidationFailed as ValidationFailedType
from graphql_schema.types.grandfathering import Grandfathering, grandfathering_type
from graphql_schema.types.inputs import PackageQuantityInput, QuantityInput
from graphql_schema.types.money import Money, Period, money, period_type
from graphql_schema.types.pages import PageInfo
from graphql_schema.types.scalars import BigInt

if TYPE_CHECKING:
    from graphql_schema.types.customers import Customer, Subscription

LazyCustomer = Annotated["Customer", strawberry.lazy("graphql_schema.types.customers")]
LazySubscription = Annotated["Subscription", strawberry.lazy("graphql_schema.types.customers")]

describe_enum(
    ChangeTiming,
    "When a change takes effect.",
    NOW="At once.",
    PERIOD_END="At the end of the billing period.",
)
describe_enum(
    ProrationMode,
    "How the rest of the running period is settled.",
    INVOICE_NOW="Credited and charged on an invoice of its own, at once.",
    NEXT_INVOICE="Credited and charged on the next invoice.",
    NONE="Not at all.",
)
describe_enum(
    ChangeDirection,
    "What kind of change it is. Upgrade or downgrade is decided by rank, never by price.",
    NEW="A first subscription of the product.",
    UPGRADE="A higher plan, or more of what is held.",
    DOWNGRADE="A lower plan, or less of what is held.",
    SIDEGRADE="Something for something else, or another interval.",
    ADDITION="An add-on or a bundle is added.",
    REMOVAL="An add-on or a bundle is removed.",
    CANCELLATION="The subscription ends.",
    NONE="Nothing changes.",
)
describe_enum(
    LineKind,
    "What an invoice line is. Credits and discounts are negative.",
    CHARGE="Something is charged.",
    CREDIT="Unused time comes back.",
    DISCOUNT="A reduction.",
    TAX="Tax, by the provider.",
)


class ChangeStatus(StrEnum):
    PENDING = "pending"
    AWAITING_PAYMENT = "awaiting_payment"
    AWAITING_CHECKOUT = "awaiting_checkout"
    AWAITING_APPROVAL = "awaiting_approval"
    SCHEDULED = "scheduled"
    APPLIED = "applied"
    CANCELED = "canceled"
    FAILED = "failed"


describe_enum(
    ChangeStatus,
    "How far a change has come.",
    PENDING="Being carried out.",
    AWAITING_PAYMENT="The customer has to authenticate the payment; see `payment`.",
    AWAITING_CHECKOUT="The customer has to save a payment method first.",
    AWAITING_APPROVAL="Staff has to approve it first.",
    SCHEDULED="It waits for its instant.",
    APPLIED="Done: what it grants is there.",
    CANCELED="Given up before it was done.",
    FAILED="Not done; see `failure`. What is held is as it was.",
)


@strawberry.type(description="The part of a line that is one module's revenue.")
class Allocation:
    package: Package = strawberry.field(description="The module.")
    amount: Money = strawberry.field(description="Its part.")


@strawberry.type(description="One line of an invoice, rounded once.")
class InvoiceLine:
    id: strawberry.ID | None = strawberry.field(description="The provider's id, once invoiced.")
    kind: LineKind = strawberry.field(description="What it is.")
    package: Package | None = strawberry.field(description="What it is for, at its version.")
    charge_id: strawberry.ID | None = strawberry.field(
        description="Which of the package's charges."
    )
    description: str = strawberry.field(description="For people.")
    quantity: BigInt | None = strawberry.field(description="Units counted.")
    period: Period | None = strawberry.field(description="The time that it covers.")
    amount: Money = strawberry.field(description="Negative for credits and discounts.")
    allocations: list[Allocation] = strawberry.field(description="A bundle's, over its modules.")


def line_type(catalog: Catalog, line: invoice_line.Line, currency: str) -> InvoiceLine:
    def package(package_id: str | None, version: int | None) -> Package | None:
        found = catalog.versions.get(f"{package_id}@{version}")
        return package_type(catalog, found) if found else None

    return InvoiceLine(
        id=strawberry.ID(line.id) if line.id else None,
        kind=line.kind,
        package=package(line.package_id, line.version),
        charge_id=strawberry.ID(line.charge_id) if line.charge_id else None,
        description=line.description,
        quantity=None if line.quantity is None else BigInt(line.quantity),
        period=None if line.period is None else period_type(line.period),
        amount=money(line.amount_minor, currency),
        allocations=[
            Allocation(package=module, amount=money(part.amount_minor, currency))
            for part in line.allocations
            if (module := package(part.package_id, part.version)) is not None
        ],
    )


def stored_lines(catalog: Catalog, stored: object, currency: str) -> list[InvoiceLine]:
    return [
        line_type(catalog, line, currency)
        for line in msgspec.convert(stored, tuple[invoice_line.Line, ...])
    ]


@strawberry.type(description="Why a change was not done.")
class ChangeFailure:
    code: str = strawberry.field(description="Stable, upper case.")
    message: str = strawberry.field(description="For people.")


@strawberry.type(description="Where the customer goes on to pay.")
class PaymentAction:
    client_secret: str | None = strawberry.field(
        description="For the provider's front-end library."
    )
    hosted_url: str = strawberry.field(description="The provider's own page.")
    expires_at: datetime = strawberry.field(description="After it the change is given up.")


@strawberry.type(description="A change of what a customer holds, from its intent to its end.")
class Change:
    row: strawberry.Private[tables.ChangeRow]

    @strawberry.field(description="The change's id, `chg_…`.")
    def id(self) -> strawberry.ID:
        return strawberry.ID(self.row.id)

    @strawberry.field(description="How far it has come.")
    def status(self) -> ChangeStatus:
        return ChangeStatus(self.row.status)

    @strawberry.field(description="What kind of change it is.")
    def direction(self) -> ChangeDirection:
        return ChangeDirection(self.row.direction)

    @strawberry.field(description="What it does, for people.")
    def description(self) -> str:
        return self.row.description

    @strawberry.field(description="When it takes effect.")
    def effective_at(self) -> datetime:
        return self.row.effective_at

    @strawberry.field(description="When it was asked for.")
    def created_at(self) -> datetime:
        return self.row.created_at

    @strawberry.field(description="Who asked for it.")
    def created_by(self) -> str:
        return self.row.created_by

    @strawberry.field(description="Whose it is.")
    async def customer(self, info: Info) -> LazyCustomer:
        from graphql_schema.types.customers import Customer

        view = await info.context.customers.load(self.row.customer_id)
        assert view is not None
        return Customer(view=view)

    @strawberry.field(description="Why it was asked for, where that was said.")
    def reason(self) -> str | None:
        return self.row.reason

    @strawberry.field(description="Who approved or declined it, where that was needed.")
    def decided_by(self) -> str | None:
        return self.row.decided_by

    @strawberry.field(description="When it was approved or declined.")
    def decided_at(self) -> datetime | None:
        return self.row.decided_at

    @strawberry.field(description="What was said with the approval, or why it was declined.")
    def decision_note(self) -> str | None:
        return self.row.decision_note

    @strawberry.field(description="What it charges and credits.")
    async def lines(self, info: Info) -> list[InvoiceLine]:
        return stored_lines(await info.context.catalog(), self.row.lines, self.row.currency)

    @strawberry.field(description="The sum of its lines.")
    def total(self) -> Money:
        return money(self.row.total_minor, self.row.currency)

    @strawberry.field(description="What it does to the monthly recurring revenue.")
    def mrr_delta(self) -> Money:
        return money(self.row.mrr_delta_minor, self.row.currency)

    @strawberry.field(
        description="Why it was not done; null unless it FAILED, or was CANCELED by something else."
    )
    def failure(self) -> ChangeFailure | None:
        if self.row.failure_code is None:
            return None
        return ChangeFailure(
            code=self.row.failure_code, message=self.row.failure_message or "it was refused"
        )

    @strawberry.field(
        description="Where the customer goes on while it is AWAITING_PAYMENT. "
        "`clientSecret` asks the provider."
    )
    async def payment(self, info: Info) -> PaymentAction | None:
        row = self.row
        if row.status != "awaiting_payment" or row.hosted_url is None:
            return None
        payments = info.context.services.payments
        secret = None
        if row.invoice_provider_id is not None:
            secret = await payments.client_secret(row.invoice_provider_id)
        assert row.payment_expires_at is not None
        return PaymentAction(
            client_secret=secret, hosted_url=row.hosted_url, expires_at=row.payment_expires_at
        )


@strawberry.type(description="A page of changes, newest first.")
class ChangeConnection:
    nodes: list[Change] = strawberry.field(description="The changes.")
    page_info: PageInfo = strawberry.field(description="Whether and where there is more.")


@strawberry.type(description="A change that waits for its instant.")
class ScheduledChange:
    id: strawberry.ID = strawberry.field(description="The change's own id.")
    effective_at: datetime = strawberry.field(description="When it takes effect.")
    description: str = strawberry.field(description="What it does, for people.")
    created_at: datetime = strawberry.field(description="When it was asked for.")
    change: Change = strawberry.field(description="The change.")

    @classmethod
    def of(cls, row: tables.ChangeRow, effective_at: datetime | None = None) -> Self:
        """`effective_at` is when it was to take effect, where that is not what is known now."""
        return cls(
            id=strawberry.ID(row.id),
            effective_at=effective_at or row.effective_at,
            description=row.description,
            created_at=row.created_at,
            change=Change(row=row),
        )


@strawberry.type(description="An invoice, as the payment provider has it.")
class Invoice:
    row: strawberry.Private[tables.InvoiceRow]
    catalog: strawberry.Private[Catalog]
    held: strawberry.Private["Subscription | None"]

    @strawberry.field(description="The invoice's id, `inv_…`.")
    def id(self) -> strawberry.ID:
        return strawberry.ID(self.row.id)

    @strawberry.field(description="The id at the payment provider; null but for staff.")
    def provider_id(self, info: Info) -> str | None:
        return self.row.provider_id if info.context.may_see_provider_ids else None

    @strawberry.field(description="The number that is printed on it.")
    def number(self) -> str | None:
        return self.row.number

    @strawberry.field(description="draft, open, paid, void or uncollectible.")
    def status(self) -> str:
        return self.row.status

    @strawberry.field(description="When it was made.")
    def created_at(self) -> datetime:
        return self.row.created_at

    @strawberry.field(description="The subscription that it is for.")
    def subscription(self) -> LazySubscription | None:
        return self.held

    @strawberry.field(description="The sum of its lines.")
    def total(self) -> Money:
        return money(self.row.total_minor, self.row.currency)

    @strawberry.field(description="What is to be paid: after credit.")
    def amount_due(self) -> Money:
        return money(self.row.amount_due_minor, self.row.currency)

    @strawberry.field(description="What has been paid.")
    def amount_paid(self) -> Money:
        return money(self.row.amount_paid_minor, self.row.currency)

    @strawberry.field(description="Its lines.")
    def lines(self) -> list[InvoiceLine]:
        return stored_lines(self.catalog, self.row.lines, self.row.currency)

    @strawberry.field(description="The provider's page of it.")
    def hosted_url(self) -> str | None:
        return self.row.hosted_url


@strawberry.type(description="A page of invoices, newest first.")
class InvoiceConnection:
    nodes: list[Invoice] = strawberry.field(description="The invoices.")
    page_info: PageInfo = strawberry.field(description="Whether and where there is more.")


@strawberry.type(description="An invoice that is still to come.")
class UpcomingInvoice:
    at: datetime = strawberry.field(description="When it is made.")
    total: Money = strawberry.field(description="The sum of its lines, before use is metered.")
    lines: list[InvoiceLine] = strawberry.field(description="Its lines.")


@strawberry.type(description="What a change does to one feature.")
class EntitlementChange:
    feature: Feature = strawberry.field(description="The feature.")
    before: EntitlementValue | None = strawberry.field(description="Null: it is gained.")
    after: EntitlementValue | None = strawberry.field(description="Null: it is lost.")
    better: bool = strawberry.field(description="Whether the customer has more of it afterwards.")


@strawberry.type(description="Use today that is above the limit after a change.")
class UsageViolation:
    feature: Feature = strawberry.field(description="The feature.")
    used: BigInt = strawberry.field(description="What is used of it today.")
    limit_after: BigInt = strawberry.field(description="The limit once the change takes effect.")


@strawberry.type(description="What a change would do and cost, at an instant.")
class Quote:
    quote: strawberry.Private[quotes.Quote]
    catalog: strawberry.Private[Catalog]

    def _money(self, amount_minor: int) -> Money:
        return money(amount_minor, self.quote.plan.currency)

    def _lines(self, every: tuple[invoice_line.Line, ...]) -> list[InvoiceLine]:
        return [line_type(self.catalog, line, self.quote.plan.currency) for line in every]

    @strawberry.field(description="For `commitChange`: signed, good for this customer only.")
    def token(self) -> str:
        return self.quote.token

    @strawberry.field(description="From then on it is refused, with a fresh quote.")
    def expires_at(self) -> datetime:
        return self.quote.expires_at

    @strawberry.field(description="The instant, to the second, that prorations count from.")
    def proration_date(self) -> datetime:
        return self.quote.plan.at

    @strawberry.field(description="When the change takes effect.")
    def effective_at(self) -> datetime:
        return self.quote.plan.effective_at

    @strawberry.field(description="What kind of change it is.")
    def direction(self) -> ChangeDirection:
        return self.quote.plan.direction

    @strawberry.field(description="What is credited and charged: amounts of the provider.")
    def lines(self) -> list[InvoiceLine]:
        return self._lines(self.quote.lines)

    @strawberry.field(description="What the card is charged now: after credit, never below 0.")
    def due_now(self) -> Money:
        return self._money(self.quote.due_now_minor)

    @strawberry.field(description="False where a new billing period starts at the commit.")
    def due_now_exact(self) -> bool:
        return self.quote.due_now_exact

    @strawberry.field(description="Credit that is used up now.")
    def credit_applied(self) -> Money:
        return self._money(self.quote.credit_applied_minor)

    @strawberry.field(
        description="Credit that is left; negative: carried over to the next invoice."
    )
    def credit_balance_after(self) -> Money:
        return self._money(self.quote.credit_balance_after_minor)

    @strawberry.field(description="Whether staff must approve it before it can be bought.")
    def approval_required(self) -> bool:
        return self.quote.plan.approval_required

    @strawberry.field(
        description="The first invoice after the change, as far as it is paid in advance: use that"
        " metered charges bill comes on top."
    )
    def next_invoice(self) -> UpcomingInvoice | None:
        plan = self.quote.plan
        if plan.next_invoice_at is None:
            return None
        total = sum(line.amount_minor for line in plan.next_lines)
        return UpcomingInvoice(
            at=plan.next_invoice_at, total=self._money(total), lines=self._lines(plan.next_lines)
        )

    @strawberry.field(description="Licensed charges per interval, as they are.")
    def recurring_before(self) -> Money:
        return self._money(self.quote.plan.recurring_before_minor)

    @strawberry.field(description="Licensed charges per (the new) interval afterwards.")
    def recurring_after(self) -> Money:
        return self._money(self.quote.plan.recurring_after_minor)

    @strawberry.field(description="What is gained, lost, raised and lowered.")
    def entitlement_changes(self) -> list[EntitlementChange]:
        return [
            EntitlementChange(
                feature=feature_type(change.feature),
                before=entitlement_value_type(change.before) if change.before else None,
                after=entitlement_value_type(change.after) if change.after else None,
                better=change.better,
            )
            for change in self.quote.entitlement_changes
        ]

    @strawberry.field(description="Where more is used today than the change leaves.")
    def usage_violations(self) -> list[UsageViolation]:
        return [
            UsageViolation(
                feature=feature_type(violation.feature),
                used=BigInt(violation.used),
                limit_after=BigInt(violation.limit_after),
            )
            for violation in self.quote.usage_violations
        ]

    @strawberry.field(description="Add-ons that do not fit afterwards and are removed.")
    def removed_add_ons(self) -> list[AddOn]:
        return [add_on_type(self.catalog, add_on) for add_on in self.quote.plan.removed_add_ons]

    @strawberry.field(
        description="Older terms that the change gives up, with what they cost and what the latest "
        "would."
    )
    async def grandfathering_lost(self, info: Info) -> list[Grandfathering]:
        held = self.quote.held
        if held is None or not self.quote.given_up:
            return []
        policies, held_up = await info.context.in_force()
        found = [
            standing_of(self.catalog, held, item, policies, held_up, info.context.now)
            for item in self.quote.given_up
        ]
        return [grandfathering_type(each, held.currency) for each in found if each is not None]

    @strawberry.field(description="What a reader should know, in sentences.")
    def warnings(self) -> list[str]:
        return list(self.quote.warnings)


@strawberry.type(description="The quote is past its time. Nothing was changed.")
class QuoteExpired(UserError):
    quote: Quote | None = strawberry.field(description="A fresh one, where it is still possible.")


@strawberry.type(description="The quote is no longer true. Nothing was changed.")
class QuoteStale(UserError):
    quote: Quote | None = strawberry.field(description="A fresh one, where it is still possible.")


class _QuoteHandler:
    """A refused quote, with the fresh one that its exception carries."""

    def __init__(self, exception_type: type[Exception], error_type: type) -> None:
        self.exception_type = exception_type
        self.error_type = error_type

    async def handle(self, exception: Any, *, field: StrawberryField, info: Any) -> Any:
        fresh = None
        if exception.quote is not None:
            fresh = Quote(quote=exception.quote, catalog=await info.context.catalog())
        return self.error_type(code=exception.code, message=exception.message, quote=fresh)


QUOTE_HANDLERS = [
    _QuoteHandler(errors.QuoteExpired, QuoteExpired),
    _QuoteHandler(errors.QuoteStale, QuoteStale),
]


@strawberry.type(description="Done, or scheduled: what it grants is there from `revision` on.")
class ChangeCommitted:
    change: Change = strawberry.field(description="The change.")
    customer: LazyCustomer = strawberry.field(description="The customer as they are now.")
    revision: BigInt = strawberry.field(description="For `minRevision` of checks.")


@strawberry.type(
    description="The customer has to authenticate the payment; nothing is granted yet."
)
class PaymentActionRequired:
    change: Change = strawberry.field(description="The change, AWAITING_PAYMENT.")
    client_secret: str = strawberry.field(description="For the provider's front-end library.")
    hosted_url: str = strawberry.field(description="The provider's own page.")
    expires_at: datetime = strawberry.field(description="After it the change is given up.")


@strawberry.type(
    description="A payment method has to be saved first, on the provider's page; then it goes on."
)
class CheckoutRequired:
    url: str = strawberry.field(description="The provider's page.")
    expires_at: datetime = strawberry.field(description="Until then it is open.")
    pending_change: Change | None = strawberry.field(
        description="The change, AWAITING_CHECKOUT; null where only a method is saved."
    )


@strawberry.type(description="It is sold by sales: staff has to approve it before it goes on.")
class ApprovalRequired(UserError):
    pending_change: Change | None = strawberry.field(description="The change, AWAITING_APPROVAL.")


@strawberry.type(description="The invoice is paid.")
class InvoicePaid:
    invoice: Invoice = strawberry.field(description="The invoice.")
    customer: LazyCustomer = strawberry.field(description="The customer as they are now.")


@strawberry.type(description="The customer has to authenticate the payment.")
class InvoicePaymentRequired:
    invoice: Invoice = strawberry.field(description="The invoice, still open.")
    payment: PaymentAction = strawberry.field(description="Where the customer goes on.")


SetUpPaymentMethodResult = Annotated[
    CheckoutRequired | PaymentProviderUnavailable | ValidationFailedType | NotFound,
    strawberry.union("SetUpPaymentMethodResult", description="The page, or why not."),
]
PayInvoiceResult = Annotated[
    InvoicePaid
    | InvoicePaymentRequired
    | PaymentDeclined
    | PaymentProviderUnavailable
    | Conflict
    | IdempotencyConflict
    | ValidationFailedType
    | NotFound,
    strawberry.union("PayInvoiceResult", description="How paying went."),
]
PreviewChangeResult = Annotated[
    Quote | Conflict | PaymentProviderUnavailable | ValidationFailedType | NotFound,
    strawberry.union("PreviewChangeResult", description="A quote, or why there is none."),
]
CommitChangeResult = Annotated[
    ChangeCommitted
    | PaymentActionRequired
    | CheckoutRequired
    | PaymentDeclined
    | QuoteExpired
    | QuoteStale
    | ApprovalRequired
    | PaymentProviderUnavailable
    | Conflict
    | IdempotencyConflict
    | ValidationFailedType
    | NotFound,
    strawberry.union("CommitChangeResult", description="How a change went."),
]


@strawberry.input(description="What is wanted, not what is to be added. What is left out stays.")
class ChangeInput:
    customer_id: strawberry.ID | None = strawberry.field(
        default=None, description="May be left out with a customer token."
    )
    product_id: strawberry.ID | None = strawberry.field(
        default=None, description="Only where the plan or the add-ons do not tell."
    )
    plan_id: strawberry.ID | None = strawberry.field(default=None, description="The plan to hold.")
    interval: Interval | None = strawberry.field(default=None, description="How to be billed.")
    quantities: list[QuantityInput] | None = strawberry.field(
        default=None, description="Levels to hold, such as seats."
    )
    add_ons: list[PackageQuantityInput] | None = strawberry.field(
        default=None, description="Add-ons to hold; 0 removes."
    )
    bundles: list[PackageQuantityInput] | None = strawberry.field(
        default=None, description="Bundles to hold; 0 removes."
    )
    timing: ChangeTiming | None = strawberry.field(
        default=None, description="By the product's policy where it is left out."
    )
    proration: ProrationMode | None = strawberry.field(
        default=None, description="By the product's policy where it is left out; staff only."
    )
    reason: str | None = strawberry.field(
        default=None,
        description="Needed where staff goes beyond the policy; up to 2000 characters.",
    )
    to_latest_versions: bool = strawberry.field(
        default=False, description="Give up older versions that are held."
    )
    cancel: bool = strawberry.field(
        default=False,
        description="End everything of `productId`, as `cancelSubscription` does: nothing else can "
        "be wanted with it.",
    )

    def domain(self) -> ChangeRequest:
        return ChangeRequest(
            product_id=self.product_id,
            plan_id=self.plan_id,
            interval=self.interval,
            quantities=once(
                "quantities", [(q.feature_id, q.quantity) for q in self.quantities or ()]
            ),
            add_ons=once("addOns", [(a.id, a.quantity) for a in self.add_ons or ()]),
            bundles=once("bundles", [(b.id, b.quantity) for b in self.bundles or ()]),
            timing=self.timing,
            proration=self.proration,
            reason=self.reason,
            to_latest_versions=self.to_latest_versions,
            cancel=self.cancel,
        )


def once(field: str, pairs: list[tuple[strawberry.ID, int]]) -> dict[str, int]:
    """By id; `ValidationFailed` where one is named twice."""
    named = dict(pairs)
    if len(named) != len(pairs):
        raise ValidationFailed.of((field,), "DUPLICATE", "name each of them once")
    return {str(key): int(quantity) for key, quantity in named.items()}
