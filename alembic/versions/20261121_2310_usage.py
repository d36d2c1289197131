"""Use: counters by window, sums by day, idempotency keys, events.

Revision: 20261121_2310, after 20261121_2300
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "20261121_2310"
down_revision: str | Sequence[str] | None = "20261121_2300"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "usage_counter",
        sa.Column("customer_id", sa.String(length=255), nullable=False),
        sa.Column("window_start", sa.DateTime(timezone=True), nullable=False),
        sa.Column("feature_id", sa.String(length=64), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint(
            "customer_id", "window_start", "feature_id", name=op.f("pk_usage_counter")
        ),
    )
    op.create_index(op.f("ix_usage_counter_expires_at"), "usage_counter", ["expires_at"])
    op.create_table(
        "usage_day",
        sa.Column("customer_id", sa.String(length=255), nullable=False),
        sa.Column("feature_id", sa.String(length=64), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("customer_id", "feature_id", "day", name=op.f("pk_usage_day")),
    )
    op.create_index(op.f("ix_usage_day_day"), "usage_day", ["day"])
    op.create_table(
        "usage_event",
        sa.Column("customer_id", sa.String(length=255), nullable=False),
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("feature_id", sa.String(length=64), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("customer_id", "id", name=op.f("pk_usage_event")),
    )
    op.create_index(op.f("ix_usage_event_at"), "usage_event", ["at"])
    op.create_table(
        "usage_key",
        sa.Column("customer_id", sa.String(length=255), nullable=False),
        sa.Column("mutation", sa.String(length=16), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("request_digest", sa.String(length=64), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("customer_id", "mutation", "key", name=op.f("pk_usage_key")),
    )
    op.create_index(op.f("ix_usage_key_created_at"), "usage_key", ["created_at"])


def downgrade() -> None:
    for table in ("usage_key", "usage_event", "usage_day", "usage_counter"):
        op.drop_table(table)
