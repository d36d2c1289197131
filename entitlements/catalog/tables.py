"""What is stored of the catalog: what each revision sells, and each package version once."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from entitlements.storage.base import Base, Id, Instant, Json, Key


class CatalogRevisionRow(Base):
    """A published (or approved and not yet effective) document. Revisions and instants rise."""

    __tablename__ = "catalog_revision"

    revision: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    effective_at: Mapped[datetime] = mapped_column(Instant)
    published_at: Mapped[datetime] = mapped_column(Instant)
    document: Mapped[Any] = mapped_column(Json)
    resolved: Mapped[str] = mapped_column(Text)  # what it sells, as `versions.encode_revision`


class PackageVersionRow(Base):
    """One version of a package, for ever. Its terms never change; its wording is the last that was
    published while it was sold."""

    __tablename__ = "package_version"
    __table_args__ = (Index(None, "revision"),)

    package_id: Mapped[str] = mapped_column(Key, primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    revision: Mapped[int] = mapped_column(ForeignKey("catalog_revision.revision"))
    content: Mapped[str] = mapped_column(Text)  # the frozen package, resolved


class CatalogProposalRow(Base):
    """A change of the catalog on its way: proposed, then approved or rejected by somebody."""

    __tablename__ = "catalog_proposal"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    status: Mapped[str] = mapped_column(String(16), index=True)
    reason: Mapped[str] = mapped_column(Text)
    proposed_by: Mapped[str] = mapped_column(String(500))
    created_at: Mapped[datetime] = mapped_column(Instant)
    effective_at: Mapped[datetime | None] = mapped_column(Instant)  # None: at approval
    base_revision: Mapped[int]
    published_revision: Mapped[int | None] = mapped_column(ForeignKey("catalog_revision.revision"))
    decided_by: Mapped[str | None] = mapped_column(String(500))
    decided_at: Mapped[datetime | None] = mapped_column(Instant)
    decision_note: Mapped[str | None] = mapped_column(Text)
    document: Mapped[Any] = mapped_column(Json)
    draft: Mapped[str | None] = mapped_column(Text)
    """The document resolved, which is what is compared, signed and published: the document itself
    is not read again. None where it was proposed before this was kept."""
    policies: Mapped[Any] = mapped_column(Json)
    impact: Mapped[Any | None] = mapped_column(Json)  # in money, as it was when it was decided
