"""The portal's codes that were redeemed, so that each is good once.

Revision: 20261129_0190, after 20261122_0180
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "20261129_0190"
down_revision: str | Sequence[str] | None = "20261122_0180"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "redeemed_code",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_redeemed_code")),
    )
    op.create_index(op.f("ix_redeemed_code_expires_at"), "redeemed_code", ["expires_at"])


def downgrade() -> None:
    op.drop_table("redeemed_code")
