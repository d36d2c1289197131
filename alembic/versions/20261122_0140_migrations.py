"""Migrations: what a policy does to those who hold older versions.

Revision: 20261122_0140, after 20261122_0130
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "20261122_0140"
down_revision: str | Sequence[str] | None = "20261122_0130"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

COLUMNS = (
    ("subscription", sa.Column("policies_due_at", sa.DateTime(timezone=True), nullable=True)),
    ("subscription_item", sa.Column("migration_id", sa.String(length=64), nullable=True)),
    ("subscription_item", sa.Column("notified_version", sa.Integer(), nullable=True)),
    ("change", sa.Column("migration_id", sa.String(length=64), nullable=True)),
)
INDEXES = (
    ("subscription", ("policies_due_at",)),
    ("subscription_item", ("migration_id",)),
    ("change", ("migration_id", "status")),
)


def upgrade() -> None:
    op.create_table(
        "migration",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("proposal_id", sa.String(length=64), nullable=False),
        sa.Column("package_id", sa.String(length=64), nullable=False),
        sa.Column("from_version", sa.Integer(), nullable=False),
        sa.Column("to_version", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("marked_to", sa.String(length=64), nullable=True),
        sa.ForeignKeyConstraint(
            ["proposal_id"],
            ["catalog_proposal.id"],
            name=op.f("fk_migration_proposal_id_catalog_proposal"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_migration")),
        sa.UniqueConstraint(
            "proposal_id",
            "package_id",
            "from_version",
            name=op.f("uq_migration_proposal_id_package_id_from_version"),
        ),
    )
    for table, column in COLUMNS:
        op.add_column(table, column)
    for table, columns in INDEXES:
        op.create_index(op.f(f"ix_{table}_{'_'.join(columns)}"), table, list(columns))


def downgrade() -> None:
    for table, columns in INDEXES:
        op.drop_index(op.f(f"ix_{table}_{'_'.join(columns)}"), table_name=table)
    for table, column in reversed(COLUMNS):
        op.drop_column(table, str(column.name))
    op.drop_table("migration")
