"""What is stored of customers: what they hold, what they changed, what they were invoiced."""

from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    BigInteger,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column

from entitlements.storage.announcing import announce_changes
from entitlements.storage.base import Base, CustomerKey, Exact, Id, Instant, Json, Key


class CustomerRow(Base):
    """A customer of the SaaS company. Its row lock serialises everything about it."""

    __tablename__ = "customer"

    id: Mapped[str] = mapped_column(CustomerKey, primary_key=True)
    sequence: Mapped[str] = mapped_column(Id, unique=True)  # sorts by creation: the cursor
    name: Mapped[str | None] = mapped_column(Text)
    email: Mapped[str | None] = mapped_column(String(320))
    currency: Mapped[str] = mapped_column(String(3))
    created_at: Mapped[datetime] = mapped_column(Instant)
    revision: Mapped[int] = mapped_column(BigInteger, default=1)
    token_generation: Mapped[int] = mapped_column(default=1)  # raised to revoke its tokens
    provider_id: Mapped[str | None] = mapped_column(String(255), unique=True)
    sandbox_payment_method: Mapped[str | None] = mapped_column(String(100))
    payment_method_id: Mapped[str | None] = mapped_column(String(255))
    card_brand: Mapped[str | None] = mapped_column(String(50))
    card_last4: Mapped[str | None] = mapped_column(String(4))
    card_expires: Mapped[str | None] = mapped_column(String(7))
    credit_balance_minor: Mapped[int] = mapped_column(BigInteger, default=0)  # positive: credit
    # Of the digests in the ledger; without it, after an erasure, they say nothing.
    salt: Mapped[str | None] = mapped_column(String(64))
    erased_at: Mapped[datetime | None] = mapped_column(Instant)
    erase_due_at: Mapped[datetime | None] = mapped_column(Instant, index=True)  # wall: next try


CUSTOMER_CHANNEL = "customer"


def announced_revision(key: str) -> tuple[int, str]:
    """Of a key of the channel the revision, and whose it is.

    >>> announced_revision("17:acme:eu")
    (17, 'acme:eu')
    """
    revision, _, customer_id = key.partition(":")
    return int(revision), customer_id


announce_changes(CustomerRow, "revision", CUSTOMER_CHANNEL, lambda row: f"{row.revision}:{row.id}")


class SubscriptionRow(Base):
    __tablename__ = "subscription"
    __table_args__ = (Index(None, "customer_id", "product_id"),)

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    customer_id: Mapped[str] = mapped_column(ForeignKey("customer.id"))
    product_id: Mapped[str] = mapped_column(Key)
    status: Mapped[str] = mapped_column(String(16))
    interval: Mapped[str] = mapped_column(String(8))
    currency: Mapped[str] = mapped_column(String(3))
    period_start: Mapped[datetime] = mapped_column(Instant)
    period_end: Mapped[datetime] = mapped_column(Instant, index=True)
    anchor: Mapped[datetime] = mapped_column(Instant)
    started_at: Mapped[datetime] = mapped_column(Instant)
    trial_ends_at: Mapped[datetime | None] = mapped_column(Instant)
    cancel_at: Mapped[datetime | None] = mapped_column(Instant)
    past_due_since: Mapped[datetime | None] = mapped_column(Instant)
    ended_at: Mapped[datetime | None] = mapped_column(Instant)
    provider_id: Mapped[str | None] = mapped_column(String(255), unique=True)
    quantities: Mapped[Any] = mapped_column(Json, default=dict)
    # Prorations that wait for the next invoice.
    pending_lines: Mapped[Any] = mapped_column(Json, default=list)
    # Raised whenever what is to happen at the period's end changes. Until the provider has been
    # told, `align_due_at` says when to tell it: wall time, the next try or the lease's end.
    future_generation: Mapped[int] = mapped_column(default=0, server_default="0")
    align_due_at: Mapped[datetime | None] = mapped_column(Instant, index=True)
    # How it was billed before, each until another calendar began: renewals of then count, too.
    past_calendars: Mapped[Any] = mapped_column(Json, default=list, server_default="[]")
    # From when on to look whether a policy moves something of it, by the service's clock.
    policies_due_at: Mapped[datetime | None] = mapped_column(Instant, index=True)


class SubscriptionItemRow(Base):
    """A package held. It is deleted when it is given up: the ledger and the changes remember."""

    __tablename__ = "subscription_item"
    __table_args__ = (
        UniqueConstraint("subscription_id", "package_id"),
        ForeignKeyConstraint(
            ["package_id", "version"], ["package_version.package_id", "package_version.version"]
        ),
        Index(None, "package_id", "version"),
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    subscription_id: Mapped[str] = mapped_column(ForeignKey("subscription.id"))
    package_id: Mapped[str] = mapped_column(Key)
    version: Mapped[int]
    entitlements_version: Mapped[int]
    price_factor: Mapped[Decimal | None] = mapped_column(Exact)  # below list; None is 1
    cap_percent: Mapped[Decimal | None] = mapped_column(Exact)  # of each rise until then
    quantity: Mapped[int]
    started_at: Mapped[datetime] = mapped_column(Instant)
    charges: Mapped[Any] = mapped_column(Json)  # HeldCharge by charge id
    migration_id: Mapped[str | None] = mapped_column(Id, index=True)  # what moved it last
    notified_version: Mapped[int | None]  # the highest that a notice was given of


class ChangeRow(Base):
    """A change from its intent, stored before the provider is called, to its end."""

    __tablename__ = "change"
    __table_args__ = (
        UniqueConstraint("customer_id", "mutation", "idempotency_key"),
        Index(None, "status", "created_at"),
        Index(None, "status", "effective_at"),
        Index(None, "customer_id", "id"),
        Index(None, "customer_id", "status", "effective_at"),
        Index(None, "subscription_id", "status"),
        Index(None, "migration_id", "status"),
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    customer_id: Mapped[str] = mapped_column(ForeignKey("customer.id"))
    product_id: Mapped[str] = mapped_column(Key)
    subscription_id: Mapped[str | None] = mapped_column(Id)
    migration_id: Mapped[str | None] = mapped_column(Id)  # whose move it is
    status: Mapped[str] = mapped_column(String(24))
    direction: Mapped[str] = mapped_column(String(16))
    description: Mapped[str] = mapped_column(Text)
    mutation: Mapped[str] = mapped_column(String(40))
    idempotency_key: Mapped[str] = mapped_column(String(255))
    request_digest: Mapped[str] = mapped_column(String(64))
    request: Mapped[Any] = mapped_column(Json)
    plan: Mapped[str] = mapped_column(Text)  # the ChangePlan
    levels: Mapped[Any | None] = mapped_column(Json)  # bought afterwards, by feature id
    currency: Mapped[str] = mapped_column(String(3))
    effective_at: Mapped[datetime] = mapped_column(Instant)
    created_at: Mapped[datetime] = mapped_column(Instant)
    started_at: Mapped[datetime] = mapped_column(Instant)  # wall time: how old the keys are
    leased_until: Mapped[datetime] = mapped_column(Instant)  # wall time: somebody works on it
    created_by: Mapped[str] = mapped_column(String(500))
    authority: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str | None] = mapped_column(Text)
    due_now_minor: Mapped[int] = mapped_column(BigInteger)  # as quoted
    return_url: Mapped[str | None] = mapped_column(Text)
    lines: Mapped[Any] = mapped_column(Json)
    total_minor: Mapped[int] = mapped_column(BigInteger)
    mrr_delta_minor: Mapped[int] = mapped_column(BigInteger)
    invoice_provider_id: Mapped[str | None] = mapped_column(String(255))
    abandoned_by: Mapped[str | None] = mapped_column(String(500))
    failure_code: Mapped[str | None] = mapped_column(String(64))
    decline_code: Mapped[str | None] = mapped_column(String(64))
    failure_message: Mapped[str | None] = mapped_column(Text)
    checkout_id: Mapped[str | None] = mapped_column(String(255))
    hosted_url: Mapped[str | None] = mapped_column(Text)
    payment_expires_at: Mapped[datetime | None] = mapped_column(Instant)
    settled_at: Mapped[datetime | None] = mapped_column(Instant)
    decided_by: Mapped[str | None] = mapped_column(String(500))  # who approved or declined it
    decided_at: Mapped[datetime | None] = mapped_column(Instant)
    decision_note: Mapped[str | None] = mapped_column(Text)


class MigrationRow(Base):
    """What a proposal's policy does to those who held one older version of a package.

    `status` is what was decided of it (active, paused, rolled_back); how far it is follows from
    what is held. `marked_to` is the last subscription that is to be looked at, while that is being
    written down; `opened_at` is when all were.
    """

    __tablename__ = "migration"
    __table_args__ = (UniqueConstraint("proposal_id", "package_id", "from_version"),)

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    proposal_id: Mapped[str] = mapped_column(ForeignKey("catalog_proposal.id"))
    package_id: Mapped[str] = mapped_column(Key)
    from_version: Mapped[int]
    to_version: Mapped[int]
    status: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime] = mapped_column(Instant)
    opened_at: Mapped[datetime | None] = mapped_column(Instant)
    marked_to: Mapped[str | None] = mapped_column(Id)


class TrialRow(Base):
    """A package tried, on the terms of its start. It is never deleted: each is tried once."""

    __tablename__ = "trial"
    __table_args__ = (
        ForeignKeyConstraint(
            ["package_id", "version"], ["package_version.package_id", "package_version.version"]
        ),
        Index(None, "status", "ends_at"),
        Index(None, "customer_id", "id"),
        Index(None, "package_id", "version"),
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    customer_id: Mapped[str] = mapped_column(ForeignKey("customer.id"))
    product_id: Mapped[str] = mapped_column(Key)
    subscription_id: Mapped[str] = mapped_column(ForeignKey("subscription.id"), index=True)
    package_id: Mapped[str] = mapped_column(Key)
    version: Mapped[int]
    status: Mapped[str] = mapped_column(String(16))
    started_at: Mapped[datetime] = mapped_column(Instant)
    ends_at: Mapped[datetime] = mapped_column(Instant)
    at_end: Mapped[str] = mapped_column(String(16))
    with_subscription: Mapped[bool]  # an item of a subscription that is on trial itself
    quantities: Mapped[Any] = mapped_column(Json, default=dict)
    success_criteria: Mapped[Any] = mapped_column(Json, default=list)
    change_id: Mapped[str] = mapped_column(ForeignKey("change.id"))  # what started it
    conversion_change_id: Mapped[str | None] = mapped_column(Id)
    notice_given_at: Mapped[datetime | None] = mapped_column(Instant)  # that it ends soon
    settled_at: Mapped[datetime | None] = mapped_column(Instant)


class InvoiceRow(Base):
    """A mirror of the provider's invoice: never written but from what the provider says."""

    __tablename__ = "invoice"
    __table_args__ = (Index(None, "customer_id", "id"),)

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    provider_id: Mapped[str] = mapped_column(String(255), unique=True)
    customer_id: Mapped[str] = mapped_column(ForeignKey("customer.id"))
    subscription_id: Mapped[str | None] = mapped_column(ForeignKey("subscription.id"))
    number: Mapped[str | None] = mapped_column(String(100))
    status: Mapped[str] = mapped_column(String(16))
    currency: Mapped[str] = mapped_column(String(3))
    created_at: Mapped[datetime] = mapped_column(Instant)
    total_minor: Mapped[int] = mapped_column(BigInteger)
    amount_due_minor: Mapped[int] = mapped_column(BigInteger)
    amount_paid_minor: Mapped[int] = mapped_column(BigInteger)
    hosted_url: Mapped[str | None] = mapped_column(Text)
    lines: Mapped[Any] = mapped_column(Json)


class CustomerRevisionRow(Base):
    """What a customer held from an instant on, until the next revision. Only ever added."""

    __tablename__ = "customer_revision"
    __table_args__ = (Index(None, "customer_id", "at"),)

    customer_id: Mapped[str] = mapped_column(ForeignKey("customer.id"), primary_key=True)
    revision: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at: Mapped[datetime] = mapped_column(Instant)
    state: Mapped[Any] = mapped_column(Json)  # the CustomerState


class MrrMovementRow(Base):
    """By how much the MRR of a package held moved with one revision of its customer. Only ever
    added: its sum is the MRR, at any instant."""

    __tablename__ = "mrr_movement"
    __table_args__ = (Index(None, "currency", "at"), Index(None, "package_id"))

    customer_id: Mapped[str] = mapped_column(ForeignKey("customer.id"), primary_key=True)
    revision: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    subscription_id: Mapped[str] = mapped_column(Id, primary_key=True)
    plan_id: Mapped[str] = mapped_column(Key, primary_key=True)  # of the subscription
    package_id: Mapped[str] = mapped_column(Key, primary_key=True)
    at: Mapped[datetime] = mapped_column(Instant)
    currency: Mapped[str] = mapped_column(String(3))
    kind: Mapped[str] = mapped_column(String(16))  # of the revision as a whole
    cohort: Mapped[str] = mapped_column(String(7))  # the month in which the customer first paid
    delta_minor: Mapped[int] = mapped_column(BigInteger)
