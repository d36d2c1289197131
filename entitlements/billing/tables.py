"""What is stored of the provider: where our prices are there, and what it told us."""

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

from entitlements.storage.base import Base, CustomerKey, Exact, Id, Instant, Json, Key


class ProviderPriceRow(Base):
    """A charge of a package version in a currency and interval, as a price at the provider."""

    __tablename__ = "provider_price"
    __table_args__ = (
        ForeignKeyConstraint(
            ["package_id", "version"], ["package_version.package_id", "package_version.version"]
        ),
    )

    lookup_key: Mapped[str] = mapped_column(String(200), primary_key=True)
    provider_id: Mapped[str] = mapped_column(String(255), unique=True)
    package_id: Mapped[str] = mapped_column(Key)
    version: Mapped[int]
    charge_id: Mapped[str] = mapped_column(String(130))


class WebhookEventRow(Base):
    """An event in the inbox: stored once by its id, applied any number of times."""

    __tablename__ = "webhook_event"
    __table_args__ = (Index(None, "status", "due_at"),)

    id: Mapped[str] = mapped_column(String(255), primary_key=True)
    type: Mapped[str] = mapped_column(String(100))
    object_id: Mapped[str | None] = mapped_column(String(255))
    customer_provider_id: Mapped[str | None] = mapped_column(String(255), index=True)
    received_at: Mapped[datetime] = mapped_column(Instant)
    # received | leased | done | ignored | drift | failed
    status: Mapped[str] = mapped_column(String(16))
    due_at: Mapped[datetime] = mapped_column(Instant)  # wall time: next try, or lease's end
    attempts: Mapped[int] = mapped_column(default=0)
    error: Mapped[str | None] = mapped_column(Text)


REPORTED_ONCE = ("subscription_id", "window_start", "package_id", "version", "charge_id")


class UsageReportRow(Base):
    """How far the provider has been told of the use that a metered charge bills in one window.

    Units are those to be paid for. `pending` of them are being sent under the number `sequence`, as
    of `pending_at`; `late_pending` likewise are being put on an invoice.
    """

    __tablename__ = "usage_report"
    __table_args__ = (
        UniqueConstraint(*REPORTED_ONCE, name="uq_usage_report_once"),
        Index(None, "customer_id", "status"),
        Index(None, "status", "window_end"),
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    customer_id: Mapped[str] = mapped_column(CustomerKey)
    subscription_id: Mapped[str] = mapped_column(ForeignKey("subscription.id"))
    feature_id: Mapped[str] = mapped_column(Key)
    package_id: Mapped[str] = mapped_column(Key)
    version: Mapped[int]
    charge_id: Mapped[str] = mapped_column(String(130))
    interval: Mapped[str] = mapped_column(String(8))  # the subscription's
    window_start: Mapped[datetime] = mapped_column(Instant)
    window_end: Mapped[datetime] = mapped_column(Instant)
    counters: Mapped[Any] = mapped_column(Json)  # the starts of the counters in the window
    counts_from: Mapped[datetime] = mapped_column(Instant)  # where the provider begins to count
    packages: Mapped[int]  # held with the charge
    price_factor: Mapped[Decimal] = mapped_column(Exact)
    status: Mapped[str] = mapped_column(String(8))  # open | closed | done
    billable: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    reported: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    sequence: Mapped[int] = mapped_column(default=0, server_default="0")
    pending: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    pending_at: Mapped[datetime | None] = mapped_column(Instant)
    asked_at: Mapped[datetime | None] = mapped_column(Instant)  # wall time: how old the name is
    late: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    late_sequence: Mapped[int] = mapped_column(default=0, server_default="0")
    late_pending: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    unbilled: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    due_at: Mapped[datetime | None] = mapped_column(Instant, index=True)  # None: never again
    leased_until: Mapped[datetime] = mapped_column(Instant)  # wall time: somebody reports it
