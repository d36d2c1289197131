"""What a customer holds, frozen: the one input of everything that decides money or access."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum

import msgspec

from entitlements.catalog.model import AnyPackage, Catalog, Plan, Policy, TrialEnd
from entitlements.grants.overrides import Override
from entitlements.kernel.period import Interval, Period
from entitlements.pricing.selection import parts_of
from entitlements.subscriptions.grandfathering import LIST, Calendar
from entitlements.subscriptions.invoice_line import Line
from entitlements.subscriptions.request import Queued


class SubscriptionStatus(StrEnum):
    INCOMPLETE = "incomplete"
    TRIALING = "trialing"
    ACTIVE = "active"
    PAST_DUE = "past_due"
    UNPAID = "unpaid"
    PAUSED = "paused"
    CANCELED = "canceled"


IN_ARREARS = frozenset(
    {SubscriptionStatus.PAST_DUE, SubscriptionStatus.UNPAID, SubscriptionStatus.INCOMPLETE}
)
"""Only paying, changing the card and cancelling are open in these."""


class HeldCharge(msgspec.Struct, frozen=True):
    """What one charge of a held package is at the provider, and what it was charged at.

    `charged_at` is the exact amount of minor units per whole period (a fraction, as text) that was
    charged for the present period, where it is not the price: after a change without proration.
    A credit is never more than that.
    """

    provider_item_id: str
    charged_at: str | None = None


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One package held. `entitlements_version` is whose entitlements hold: the price's, or later.

    Every amount of the version counts times `price_factor`, 1 being list; while it is below, each
    renewal raises it by `cap_percent` at most. `charges` is keyed by charge id and holds the
    licensed and metered charges alike. `migration_id` is the migration that moved it last.
    """

    id: str
    package_id: str
    version: int
    entitlements_version: int
    quantity: int
    started_at: datetime
    charges: Mapping[str, HeldCharge] = {}
    price_factor: Decimal = LIST
    cap_percent: Decimal | None = None
    migration_id: str | None = None


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """One product held. `quantities` are the levels bought (seats), by feature id.

    `queue` has the changes that wait for the end of the period, in the order in which they were
    asked for. `unaligned`: the provider may not have been told yet what that comes to.
    """

    id: str
    product_id: str
    status: SubscriptionStatus
    interval: Interval
    currency: str
    period: Period
    anchor: datetime
    started_at: datetime
    items: tuple[Item, ...]
    quantities: Mapping[str, int] = {}
    pending_lines: tuple[Line, ...] = ()  # prorations that wait for the next invoice
    queue: tuple[Queued, ...] = ()
    unaligned: bool = False
    provider_id: str | None = None
    trial_ends_at: datetime | None = None
    cancel_at: datetime | None = None
    past_calendars: tuple[Calendar, ...] = ()  # by which it was billed before
    past_due_since: datetime | None = None
    ended_at: datetime | None = None

    @property
    def live(self) -> bool:
        return self.status is not SubscriptionStatus.CANCELED

    @property
    def on_trial(self) -> bool:
        """Whether all of it is free for now: its trial is the provider's, and so is its end."""
        return self.status is SubscriptionStatus.TRIALING and self.trial_ends_at is not None

    def period_at(self, at: datetime) -> Period:
        """The billing period that runs at an instant.

        The provider says which; one that it does not know of rolls on by its own anchor.
        """
        if self.provider_id is not None or at < self.period.end or not self.live:
            return self.period
        return Period.containing(self.anchor, self.interval, at)

    def grace_ends_at(self, policy: Policy) -> datetime | None:
        """Until when a subscription that is past due keeps its access."""
        if self.status is not SubscriptionStatus.PAST_DUE or self.past_due_since is None:
            return None
        return self.past_due_since + timedelta(days=policy.past_due_grace_days)

    def has_access(self, policy: Policy, at: datetime) -> bool:
        """Whether it grants anything at an instant (DESIGN 7, status → access)."""
        if self.status in (SubscriptionStatus.TRIALING, SubscriptionStatus.ACTIVE):
            return True
        grace_ends_at = self.grace_ends_at(policy)
        return grace_ends_at is not None and at < grace_ends_at


class TrialStatus(StrEnum):
    ACTIVE = "active"
    CONVERTED = "converted"
    EXPIRED = "expired"
    CANCELED = "canceled"


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """A package tried, on terms fixed at its start: its version, and the levels it converts at.

    `with_subscription`: it is held as an item of a subscription that is on trial itself (a plan's
    trial, and what joined it): it ends as that does. Otherwise it is ours alone, granted beside
    what is held, and no provider knows of it until it is bought.
    """

    id: str
    product_id: str
    subscription_id: str
    package_id: str
    version: int
    status: TrialStatus
    started_at: datetime
    ends_at: datetime
    at_end: TrialEnd
    with_subscription: bool
    quantities: Mapping[str, int] = {}
    success_criteria: tuple[str, ...] = ()

    @property
    def active(self) -> bool:
        return self.status is TrialStatus.ACTIVE


class CustomerState(msgspec.Struct, frozen=True, kw_only=True):
    """A customer at one revision: live subscriptions, and the ended ones that explain denials.

    `trials` are all that there ever were, oldest first: each package is tried once.
    """

    id: str
    currency: str
    revision: int
    subscriptions: tuple[Subscription, ...] = ()
    provider_id: str | None = None
    has_payment_method: bool = False
    credit_balance_minor: int = 0
    overrides: tuple[Override, ...] = ()  # some may be over
    trials: tuple[Trial, ...] = ()

    def live(self, product_id: str) -> Subscription | None:
        return next((s for s in self.subscriptions if s.live and s.product_id == product_id), None)


def held_package(catalog: Catalog, item: Item) -> AnyPackage:
    """The package whose price an item is on."""
    return catalog.version(item.package_id, item.version)


def billed_outside(catalog: Catalog, subscription: Subscription) -> bool:
    """Whether nothing that is held has a charge: the payment provider need not know of it."""
    return not any(held_package(catalog, item).charges for item in subscription.items)


def held_plan(catalog: Catalog, subscription: Subscription) -> tuple[Item, Plan] | None:
    """The plan of a subscription, at the version held: by itself, or in a bundle."""
    for item in subscription.items:
        for part in parts_of(catalog, held_package(catalog, item)):
            if isinstance(part.package, Plan):
                return item, part.package
    return None
