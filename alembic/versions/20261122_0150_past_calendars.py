"""A subscription remembers how it was billed before: the renewals of then count for policies.

Revision: 20261122_0150, after 20261122_0140
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "20261122_0150"
down_revision: str | Sequence[str] | None = "20261122_0140"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

JSON_DATA = sa.JSON(none_as_null=True).with_variant(
    postgresql.JSONB(none_as_null=True), "postgresql"
)


def upgrade() -> None:
    op.add_column(
        "subscription",
        sa.Column("past_calendars", JSON_DATA, server_default="[]", nullable=False),
    )


def downgrade() -> None:
    op.drop_column("subscription", "past_calendars")
