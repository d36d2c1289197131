"""The one row about the database itself: what it is for. Its lock serialises the catalog."""

from datetime import datetime

from sqlalchemy import CheckConstraint, String, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from entitlements.storage.base import Base, Instant


class InstallationRow(Base):
    """`mode` is stamped by the first migration: a live service never serves a sandbox's data.

    `sandbox_now` is where a sandbox's clock was last set, `test_clock_id` its twin at the provider.
    """

    __tablename__ = "installation"
    __table_args__ = (CheckConstraint("id = 1", name="only_one"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    mode: Mapped[str] = mapped_column(String(8))
    sandbox_now: Mapped[datetime | None] = mapped_column(Instant)
    test_clock_id: Mapped[str | None] = mapped_column(String(255))


async def installation(session: AsyncSession) -> InstallationRow:
    return (await session.scalars(select(InstallationRow))).one()


async def lock_installation(session: AsyncSession) -> InstallationRow:
    """The row, locked until the transaction ends: one at a time may change the catalog."""
    return (await session.scalars(select(InstallationRow).with_for_update())).one()
