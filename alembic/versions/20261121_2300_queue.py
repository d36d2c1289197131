"""Changes that wait for the end of the period, and whether the provider knows of them.

Revision: 20261121_2300, after 20261121_2240
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "20261121_2300"
down_revision: str | Sequence[str] | None = "20261121_2240"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

JSON_DATA = sa.JSON(none_as_null=True).with_variant(
    postgresql.JSONB(none_as_null=True), "postgresql"
)


def upgrade() -> None:
    op.add_column("change", sa.Column("levels", JSON_DATA, nullable=True))
    op.create_index(op.f("ix_change_status_effective_at"), "change", ["status", "effective_at"])
    generation = sa.Column("future_generation", sa.Integer(), server_default="0", nullable=False)
    op.add_column("subscription", generation)
    due = sa.Column("align_due_at", sa.DateTime(timezone=True), nullable=True)
    op.add_column("subscription", due)
    op.create_index(op.f("ix_subscription_align_due_at"), "subscription", ["align_due_at"])


def downgrade() -> None:
    op.drop_index(op.f("ix_subscription_align_due_at"), table_name="subscription")
    op.drop_column("subscription", "align_due_at")
    op.drop_column("subscription", "future_generation")
    op.drop_index(op.f("ix_change_status_effective_at"), table_name="change")
    op.drop_column("change", "levels")
