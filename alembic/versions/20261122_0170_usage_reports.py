"""How far the payment provider has been told of the use that metered charges bill.

Revision: 20261122_0170, after 20261122_0160
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "20261122_0170"
down_revision: str | Sequence[str] | None = "20261122_0160"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

JSON_DATA = sa.JSON(none_as_null=True).with_variant(
    postgresql.JSONB(none_as_null=True), "postgresql"
)
INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "usage_report",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("customer_id", sa.String(length=255), nullable=False),
        sa.Column("subscription_id", sa.String(length=64), nullable=False),
        sa.Column("feature_id", sa.String(length=64), nullable=False),
        sa.Column("package_id", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("charge_id", sa.String(length=130), nullable=False),
        sa.Column("interval", sa.String(length=8), nullable=False),
        sa.Column("window_start", INSTANT, nullable=False),
        sa.Column("window_end", INSTANT, nullable=False),
        sa.Column("counters", JSON_DATA, nullable=False),
        sa.Column("counts_from", INSTANT, nullable=False),
        sa.Column("packages", sa.Integer(), nullable=False),
        sa.Column("price_factor", sa.String(length=40), nullable=False),
        sa.Column("status", sa.String(length=8), nullable=False),
        sa.Column("billable", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("reported", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("sequence", sa.Integer(), server_default="0", nullable=False),
        sa.Column("pending", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("pending_at", INSTANT, nullable=True),
        sa.Column("asked_at", INSTANT, nullable=True),
        sa.Column("late", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("late_sequence", sa.Integer(), server_default="0", nullable=False),
        sa.Column("late_pending", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("unbilled", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("due_at", INSTANT, nullable=True),
        sa.Column("leased_until", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(
            ["subscription_id"],
            ["subscription.id"],
            name=op.f("fk_usage_report_subscription_id_subscription"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_usage_report")),
        sa.UniqueConstraint(
            "subscription_id",
            "window_start",
            "package_id",
            "version",
            "charge_id",
            name="uq_usage_report_once",
        ),
    )
    op.create_index(
        op.f("ix_usage_report_customer_id_status"), "usage_report", ["customer_id", "status"]
    )
    op.create_index(op.f("ix_usage_report_due_at"), "usage_report", ["due_at"])
    op.create_index(
        op.f("ix_usage_report_status_window_end"), "usage_report", ["status", "window_end"]
    )


def downgrade() -> None:
    op.drop_table("usage_report")
