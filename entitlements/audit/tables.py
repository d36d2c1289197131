"""Entries and seals. Rows are only ever added: triggers of the migrations refuse the rest."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from entitlements.storage.base import Base, Id, Instant, Json


class AuditEntryRow(Base):
    __tablename__ = "audit_entry"
    __table_args__ = (
        UniqueConstraint("stream", "sequence"),
        Index(None, "object_type", "object_id"),
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    stream: Mapped[str] = mapped_column(String(300))
    sequence: Mapped[int] = mapped_column(BigInteger)
    at: Mapped[datetime] = mapped_column(Instant, index=True)
    actor: Mapped[str] = mapped_column(String(500))
    action: Mapped[str] = mapped_column(String(100))
    object_type: Mapped[str] = mapped_column(String(50))
    object_id: Mapped[str] = mapped_column(String(300))
    before: Mapped[Any | None] = mapped_column(Json)
    after: Mapped[Any | None] = mapped_column(Json)
    reason: Mapped[str | None] = mapped_column(Text)
    request_id: Mapped[str | None] = mapped_column(String(100))
    mrr_delta_minor: Mapped[int | None] = mapped_column(BigInteger)
    currency: Mapped[str | None] = mapped_column(String(3))
    previous_hash: Mapped[str | None] = mapped_column(String(64))
    hash: Mapped[str] = mapped_column(String(64))


class AuditSealRow(Base):
    """The heads of the streams that moved since the seal before, under a key that is not here."""

    __tablename__ = "audit_seal"

    sequence: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at: Mapped[datetime] = mapped_column(Instant)  # wall time
    heads: Mapped[Any] = mapped_column(Json)  # {stream: [sequence, hash]}
    previous_mac: Mapped[str | None] = mapped_column(String(64))
    kid: Mapped[str] = mapped_column(String(12))
    mac: Mapped[str] = mapped_column(String(64))
