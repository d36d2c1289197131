"""What staff granted or took by hand, as stored."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from entitlements.storage.base import Base, CustomerKey, Id, Instant, Json, Key


class OverrideRow(Base):
    """One override. Ending it sets `ends_at`: nothing has to run for it to be over.

    What is over is swept when the customer's next override is set: the ledger remembers it.
    """

    __tablename__ = "override"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    customer_id: Mapped[str] = mapped_column(CustomerKey, ForeignKey("customer.id"), index=True)
    feature_id: Mapped[str] = mapped_column(Key)
    mode: Mapped[str] = mapped_column(String(8))
    value: Mapped[Any] = mapped_column(Json)  # EntitlementValue
    reason: Mapped[str] = mapped_column(Text)
    created_by: Mapped[str] = mapped_column(String(500))
    created_at: Mapped[datetime] = mapped_column(Instant)
    ends_at: Mapped[datetime | None] = mapped_column(Instant)
