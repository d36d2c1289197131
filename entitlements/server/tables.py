"""API keys: stored as a hash, shown once. The portal's codes that were redeemed."""

from datetime import datetime

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from entitlements.storage.announcing import announce_changes
from entitlements.storage.base import Base, Id, Instant


class ApiKeyRow(Base):
    __tablename__ = "api_key"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    role: Mapped[str] = mapped_column(String(16))
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime] = mapped_column(Instant)
    created_by: Mapped[str] = mapped_column(String(500))
    expires_at: Mapped[datetime | None] = mapped_column(Instant)
    revoked_at: Mapped[datetime | None] = mapped_column(Instant)


KEY_CHANNEL = "key"
announce_changes(ApiKeyRow, "revoked_at", KEY_CHANNEL, lambda row: str(row.id))


class RedeemedCodeRow(Base):
    """A code of the portal that was redeemed, for as long as it might be good: it is not again."""

    __tablename__ = "redeemed_code"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    expires_at: Mapped[datetime] = mapped_column(Instant, index=True)
