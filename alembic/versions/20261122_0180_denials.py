"""How often customers are denied what, by day.

Revision: 20261122_0180, after 20261122_0170
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "20261122_0180"
down_revision: str | Sequence[str] | None = "20261122_0170"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "denial",
        sa.Column("customer_id", sa.String(length=255), nullable=False),
        sa.Column("feature_id", sa.String(length=64), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("reason", sa.String(length=32), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint(
            "customer_id", "feature_id", "day", "reason", name=op.f("pk_denial")
        ),
    )
    op.create_index(op.f("ix_denial_day"), "denial", ["day"])


def downgrade() -> None:
    op.drop_table("denial")
