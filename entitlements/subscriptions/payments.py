"""The port to money: what subscriptions need of a payment provider. `billing` implements it.

Everything here is plain data in our own terms (packages, charges, minor units). Every effect is
named by an idempotency key of ours, so that it may be repeated after a crash.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Protocol

import msgspec

from entitlements.catalog.model import ProrationMode
from entitlements.kernel.period import Interval, Period
from entitlements.subscriptions.grandfathering import LIST
from entitlements.subscriptions.invoice_line import Line, line_name
from entitlements.subscriptions.lines import Slot
from entitlements.subscriptions.state import SubscriptionStatus


class BillingCustomer(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to bill. `provider_id` is None until the provider has met the customer.

    `key` names the customer in idempotency keys: unlike `id` it is never the same in two databases
    that share an account.
    """

    id: str
    key: str
    name: str | None
    email: str | None
    provider_id: str | None
    sandbox_payment_method: str | None = None


class HeldSlot(msgspec.Struct, frozen=True):
    """A slot that the provider has now, under its own item id: "" where that is not known yet."""

    slot: Slot
    provider_item_id: str


class BillingOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What a subscription at the provider is to become. `at` pins prorations, to the second.

    Without any `after` it ends now, and what is left of the period is credited at once.
    """

    customer: BillingCustomer
    subscription_provider_id: str | None
    currency: str
    interval: Interval
    before: tuple[HeldSlot, ...]
    after: tuple[Slot, ...]
    at: datetime
    proration: ProrationMode
    new_period: bool  # the billing anchor is reset: the provider cannot pin the instant
    total_minor: int  # what our engine expects it to come to
    replaces: Mapping[str, str]  # the slot whose item each new one takes over, by key
    release: bool = False  # something may be planned there, which stands in the way
    trial_ends_at: datetime | None = None  # a new subscription is free until then
    trial_expires: bool = False  # and ends then; else it is paid for, where there is a way to pay
    ends_trial: bool = False  # what was free is paid for from now on, a new period


class Future(msgspec.Struct, frozen=True, kw_only=True):
    """What a subscription is to do by itself at the end of its period: end (`cancel_at`), go on as
    `slots` without proration, or, with neither, just go on. `billing_ends`: it ends at the
    provider, while what is held lives on without any charge."""

    currency: str
    cancel_at: datetime | None = None
    billing_ends: bool = False
    slots: tuple[Slot, ...] | None = None
    interval: Interval = Interval.MONTH
    new_anchor: bool = False  # another interval: its periods count from there
    trial_ends_at: datetime | None = None  # while it is on trial: when that is to end


class ProviderInvoice(msgspec.Struct, frozen=True, kw_only=True):
    """An invoice, or the preview of one (`id` None). `amount_due_minor` is after credit.

    `lines_complete` is False for a long preview, of which the provider shows the first lines only.
    """

    id: str | None
    number: str | None
    status: str
    currency: str
    created_at: datetime
    subscription_provider_id: str | None
    total_minor: int
    amount_due_minor: int
    amount_paid_minor: int
    starting_balance_minor: int  # negative: credit held before the invoice
    ending_balance_minor: int | None
    lines: tuple[Line, ...]
    hosted_url: str | None = None
    lines_complete: bool = True

    @property
    def licensed_lines(self) -> tuple[Line, ...]:
        """Those that our engine plans, too."""
        return tuple(line for line in self.lines if not line.metered)

    @property
    def metered_lines(self) -> tuple[Line, ...]:
        """Those for use, of a charge that has ended or of a period that has."""
        return tuple(line for line in self.lines if line.metered)


class ProviderItem(msgspec.Struct, frozen=True):
    """An item of a subscription; a metered one has no quantity, and its price's own interval."""

    id: str
    package_id: str | None
    version: int | None
    charge_id: str | None
    quantity: int | None
    metered: bool
    interval: Interval
    price_factor: Decimal = LIST

    @property
    def key(self) -> str:
        return f"{self.package_id}/{self.charge_id}"


class ProviderSubscription(msgspec.Struct, frozen=True, kw_only=True):
    """A subscription as the provider has it now. `change_id` is the last change that it took."""

    id: str
    customer_provider_id: str
    status: SubscriptionStatus
    interval: Interval
    period: Period
    anchor: datetime
    items: tuple[ProviderItem, ...]
    change_id: str | None
    pending_change_id: str | None
    cancel_at: datetime | None
    trial_ends_at: datetime | None
    ended_at: datetime | None
    latest_invoice_id: str | None

    def has_done(self, future: Future) -> bool:
        """Whether it has become what was planned for the end of its period."""
        if future.cancel_at is not None or future.billing_ends:
            return self.status is SubscriptionStatus.CANCELED
        if future.slots is None or self.interval is not future.interval:
            return False
        there = {(i.key, i.version, i.price_factor, i.quantity) for i in self.items}
        wanted = {
            (s.key, s.version, s.price_factor, s.billable) for s in future.slots if not s.metered
        }
        return wanted <= there


class ProviderCustomer(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    balance_minor: int  # negative: credit
    payment_method_id: str | None
    name: str | None = None
    email: str | None = None
    brand: str | None = None
    last4: str | None = None
    expires: str | None = None
    deleted: bool = False  # there: nothing can be billed to it any more


class OutcomeKind(StrEnum):
    APPLIED = "applied"
    ACTION_REQUIRED = "action_required"
    DECLINED = "declined"
    REFUSED = "refused"  # the provider will not do it, or the keys are too old to send it again


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How an order ended. Declined and refused orders have left the subscription as it was."""

    kind: OutcomeKind
    subscription: ProviderSubscription | None = None
    invoice: ProviderInvoice | None = None
    client_secret: str | None = None
    hosted_url: str | None = None
    expires_at: datetime | None = None
    message: str = ""
    decline_code: str | None = None
    failure_code: str | None = None  # where it is not the kind's own


class CheckoutStatus(StrEnum):
    OPEN = "open"
    COMPLETE = "complete"
    EXPIRED = "expired"


class Checkout(msgspec.Struct, frozen=True, kw_only=True):
    """A page of the provider where the customer saves a payment method."""

    id: str
    status: CheckoutStatus
    url: str | None
    expires_at: datetime


class PaymentProvider(Protocol):
    """Every method may raise `PaymentProviderUnavailable`; nothing has then been decided."""

    async def ensure_customer(self, customer: BillingCustomer) -> ProviderCustomer:
        """The customer at the provider, made and given a card under our own key if need be.

        Raises `PaymentDeclined` where the card cannot be kept, `ValidationFailed` for an unknown
        test payment method.
        """
        ...

    async def put_customer(
        self, key: str, provider_id: str, *, name: str | None, email: str | None
    ) -> None:
        """Give the customer there our name and e-mail address; None leaves one alone.

        Raises `Conflict` where the provider refuses.
        """
        ...

    async def forget_customer(self, key: str, provider_id: str) -> None:
        """Take the name, the e-mail address and every saved way to pay away there. The customer
        and the invoices stay: the books need them."""
        ...

    async def preview(self, order: BillingOrder) -> ProviderInvoice | None:
        """What an order would be invoiced now; None if no item changes. Changes nothing."""
        ...

    async def execute(self, change_id: str, order: BillingOrder) -> Outcome:
        """Carry an order out, once, however often it is sent: keys derive from `change_id`."""
        ...

    async def progress(
        self, change_id: str, order: BillingOrder, invoice_provider_id: str | None
    ) -> Outcome | None:
        """How far an order has come; None where the provider never took it.

        `invoice_provider_id` is the invoice that it was seen to wait for, if it ever was.
        """
        ...

    async def abandon(self, change_id: str, order: BillingOrder) -> Outcome:
        """Give up an order that waits for payment: its invoice is voided (or it was paid)."""
        ...

    async def cancel(
        self,
        change_id: str,
        subscription_provider_id: str,
        *,
        invoice_now: bool,
        prorate: bool,
        void_open: bool,
    ) -> Outcome:
        """End a subscription now."""
        ...

    async def set_future(
        self, key: str, subscription_provider_id: str, future: Future
    ) -> ProviderSubscription:
        """See to it that a subscription does this at the end of its period, and nothing else.

        `key` makes it once. `Conflict` `PROVIDER_REFUSED` where the provider will not have it.
        """
        ...

    async def start_checkout(
        self, key: str, customer_provider_id: str, currency: str, return_url: str
    ) -> Checkout:
        """A page that collects a payment method, open for 30 minutes; `key` makes it once."""
        ...

    async def finish_checkout(self, checkout_id: str) -> Checkout:
        """How it stands. Of a complete one the saved card has become the customer's default."""
        ...

    async def pay(self, invoice_provider_id: str, key: str) -> Outcome:
        """Pay an open invoice with the customer's card."""
        ...

    async def subscription(self, provider_id: str) -> ProviderSubscription | None: ...

    async def customer(self, provider_id: str) -> ProviderCustomer | None: ...

    async def invoice(self, provider_id: str) -> ProviderInvoice | None: ...

    async def client_secret(self, invoice_provider_id: str) -> str | None:
        """What the provider's front-end library needs to go on paying an open invoice."""
        ...

    async def invoices(
        self, customer_provider_id: str, since: datetime | None
    ) -> tuple[ProviderInvoice, ...]:
        """The invoices of a customer that were made at an instant or later, newest first."""
        ...

    async def advance_clock(self, to: datetime) -> None:
        """Sandbox only: move the provider's test clock, and wait until it has arrived."""
        ...


def as_provided(engine: Sequence[Line], provided: ProviderInvoice) -> tuple[Line, ...]:
    """The provider's amounts under our wording, where both have the same lines; else its own.
    What it adds for use comes last.

    Of a long preview the provider shows the first lines only: then ours stand for all of them.
    """
    if not provided.lines_complete:
        return tuple(engine)
    licensed = provided.licensed_lines
    theirs = {line_name(line): line for line in licensed}
    same = len(theirs) == len(licensed) == len(engine)
    if not same or theirs.keys() != {*map(line_name, engine)}:
        return provided.lines
    ours = tuple(
        msgspec.structs.replace(
            line,
            id=theirs[line_name(line)].id,
            amount_minor=theirs[line_name(line)].amount_minor,
            allocations=theirs[line_name(line)].allocations,
        )
        for line in engine
    )
    return (*ours, *provided.metered_lines)
