"""A customer's salt for the digests in the ledger, and how far an erasure has come.

Revision: 20261122_0120, after 20261122_0110
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "20261122_0120"
down_revision: str | Sequence[str] | None = "20261122_0110"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("customer", sa.Column("salt", sa.String(length=64), nullable=True))
    for name in ("erased_at", "erase_due_at"):
        op.add_column("customer", sa.Column(name, sa.DateTime(timezone=True), nullable=True))
    op.create_index(op.f("ix_customer_erase_due_at"), "customer", ["erase_due_at"])


def downgrade() -> None:
    op.drop_index(op.f("ix_customer_erase_due_at"), table_name="customer")
    for name in ("erase_due_at", "erased_at", "salt"):
        op.drop_column("customer", name)
