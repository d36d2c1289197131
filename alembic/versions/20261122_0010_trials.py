"""Trials: what is tried, on the terms of its start.

Revision: 20261122_0010, after 20261121_2330
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "20261122_0010"
down_revision: str | Sequence[str] | None = "20261121_2330"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

INDEXES = (
    ("status", "ends_at"),
    ("customer_id", "id"),
    ("package_id", "version"),
    ("subscription_id",),
)

JSON_DATA = sa.JSON(none_as_null=True).with_variant(
    postgresql.JSONB(none_as_null=True), "postgresql"
)


def upgrade() -> None:
    op.create_table(
        "trial",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("customer_id", sa.String(length=255), nullable=False),
        sa.Column("product_id", sa.String(length=64), nullable=False),
        sa.Column("subscription_id", sa.String(length=64), nullable=False),
        sa.Column("package_id", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("at_end", sa.String(length=16), nullable=False),
        sa.Column("with_subscription", sa.Boolean(), nullable=False),
        sa.Column("quantities", JSON_DATA, nullable=False),
        sa.Column("success_criteria", JSON_DATA, nullable=False),
        sa.Column("change_id", sa.String(length=64), nullable=False),
        sa.Column("conversion_change_id", sa.String(length=64), nullable=True),
        sa.Column("notice_given_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["change_id"], ["change.id"], name=op.f("fk_trial_change_id_change")
        ),
        sa.ForeignKeyConstraint(
            ["customer_id"], ["customer.id"], name=op.f("fk_trial_customer_id_customer")
        ),
        sa.ForeignKeyConstraint(
            ["package_id", "version"],
            ["package_version.package_id", "package_version.version"],
            name=op.f("fk_trial_package_id_package_version"),
        ),
        sa.ForeignKeyConstraint(
            ["subscription_id"],
            ["subscription.id"],
            name=op.f("fk_trial_subscription_id_subscription"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trial")),
    )
    for columns in INDEXES:
        op.create_index(op.f(f"ix_trial_{'_'.join(columns)}"), "trial", list(columns))


def downgrade() -> None:
    op.drop_table("trial")
