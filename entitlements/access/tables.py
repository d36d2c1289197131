"""What is stored of use: counters by window, sums by day, and what makes each count once.

None of it refers to the customer's row: a reference would have every count wait for whoever
changes the customer. Each table is read by its primary key and emptied by one index, so that what
is kept is bounded by time, and a count costs the same however much there is.
"""

from datetime import date, datetime

from sqlalchemy import BigInteger, Date, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from entitlements.storage.base import Base, CustomerKey, Instant, Key


class UsageCounterRow(Base):
    """What was used in one window; of a LEVEL feature, the level. Its window tells when it ends."""

    __tablename__ = "usage_counter"

    customer_id: Mapped[str] = mapped_column(CustomerKey, primary_key=True)
    window_start: Mapped[datetime] = mapped_column(Instant, primary_key=True)
    feature_id: Mapped[str] = mapped_column(Key, primary_key=True)
    used: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[datetime | None] = mapped_column(Instant, index=True)  # None: never


class UsageDayRow(Base):
    """What was used on one UTC day; of a LEVEL feature, the level that it ended with."""

    __tablename__ = "usage_day"

    customer_id: Mapped[str] = mapped_column(CustomerKey, primary_key=True)
    feature_id: Mapped[str] = mapped_column(Key, primary_key=True)
    day: Mapped[date] = mapped_column(Date, primary_key=True, index=True)
    quantity: Mapped[int] = mapped_column(BigInteger)


class UsageKeyRow(Base):
    """A caller's idempotency key, with the answer that it was given the first time."""

    __tablename__ = "usage_key"

    customer_id: Mapped[str] = mapped_column(CustomerKey, primary_key=True)
    mutation: Mapped[str] = mapped_column(String(16), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    request_digest: Mapped[str] = mapped_column(String(64))
    answer: Mapped[str] = mapped_column(Text)  # the StoredAnswer
    created_at: Mapped[datetime] = mapped_column(Instant, index=True)


class UsageEventRow(Base):
    """An event that was taken, kept for as long as it would be taken again."""

    __tablename__ = "usage_event"

    customer_id: Mapped[str] = mapped_column(CustomerKey, primary_key=True)
    id: Mapped[str] = mapped_column(String(255), primary_key=True)
    feature_id: Mapped[str] = mapped_column(Key)
    quantity: Mapped[int] = mapped_column(BigInteger)
    at: Mapped[datetime] = mapped_column(Instant, index=True)


class DenialRow(Base):
    """How often a customer was denied a feature on a UTC day, and why."""

    __tablename__ = "denial"

    customer_id: Mapped[str] = mapped_column(CustomerKey, primary_key=True)
    feature_id: Mapped[str] = mapped_column(Key, primary_key=True)
    day: Mapped[date] = mapped_column(Date, primary_key=True, index=True)
    reason: Mapped[str] = mapped_column(String(32), primary_key=True)
    count: Mapped[int] = mapped_column(BigInteger)
    last_at: Mapped[datetime] = mapped_column(Instant)
