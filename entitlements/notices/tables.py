"""Endpoints, what they are told, and how far each telling has come.

All instants here are the wall's: an endpoint lives in real time, also where the service's clock is
moved by hand. When something happened by the service's clock stands in the message's body.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from entitlements.storage.base import Base, Id, Instant, Json


class WebhookEndpointRow(Base):
    """`disabled_at`: it said that it is gone (410). `failing_since`: a delivery was given up, and
    nothing was delivered since. A deleted one stays for its deliveries.
    """

    __tablename__ = "webhook_endpoint"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    url: Mapped[str] = mapped_column(Text)
    events: Mapped[Any] = mapped_column(Json)
    created_at: Mapped[datetime] = mapped_column(Instant)
    failing_since: Mapped[datetime | None] = mapped_column(Instant)
    disabled_at: Mapped[datetime | None] = mapped_column(Instant)
    deleted_at: Mapped[datetime | None] = mapped_column(Instant)


class WebhookMessageRow(Base):
    """A notice, as it is sent to every endpoint that asks for it. Its id is the `webhook-id`."""

    __tablename__ = "webhook_message"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    body: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(Instant, index=True)


class WebhookDeliveryRow(Base):
    """A message on its way to one endpoint. `next_attempt_at` is when it is due: the next try, or
    the end of the lease of the one who tries now; null where nothing more is tried.
    """

    __tablename__ = "webhook_delivery"
    __table_args__ = (Index(None, "endpoint_id", "next_attempt_at"), Index(None, "message_id"))

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    endpoint_id: Mapped[str] = mapped_column(ForeignKey("webhook_endpoint.id"))
    message_id: Mapped[str] = mapped_column(ForeignKey("webhook_message.id", ondelete="CASCADE"))
    event: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(Instant)
    attempts: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[datetime | None] = mapped_column(Instant)
    delivered_at: Mapped[datetime | None] = mapped_column(Instant)
    last_status: Mapped[int | None]  # of HTTP; null where there was no answer
    last_error: Mapped[str | None] = mapped_column(String(100))
