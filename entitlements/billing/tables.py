"""What is stored of the provider: where our prices are there, and what it told us."""

from datetime import datetime

from sqlalchemy import ForeignKeyConstraint, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from entitlements.storage.base import Base, Instant, Key


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
