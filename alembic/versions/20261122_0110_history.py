"""What customers held at any instant, and what moved the MRR: only ever added, as the ledger.

Revision: 20261122_0110, after 20261122_0010
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "20261122_0110"
down_revision: str | Sequence[str] | None = "20261122_0010"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

JSON_DATA = sa.JSON(none_as_null=True).with_variant(
    postgresql.JSONB(none_as_null=True), "postgresql"
)
TABLES = ("customer_revision", "mrr_movement")


def upgrade() -> None:
    op.create_table(
        "customer_revision",
        sa.Column("customer_id", sa.String(length=255), nullable=False),
        sa.Column("revision", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("state", JSON_DATA, nullable=False),
        sa.ForeignKeyConstraint(
            ["customer_id"], ["customer.id"], name=op.f("fk_customer_revision_customer_id_customer")
        ),
        sa.PrimaryKeyConstraint("customer_id", "revision", name=op.f("pk_customer_revision")),
    )
    op.create_index(
        op.f("ix_customer_revision_customer_id_at"), "customer_revision", ["customer_id", "at"]
    )
    op.create_table(
        "mrr_movement",
        sa.Column("customer_id", sa.String(length=255), nullable=False),
        sa.Column("revision", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("subscription_id", sa.String(length=64), nullable=False),
        sa.Column("plan_id", sa.String(length=64), nullable=False),
        sa.Column("package_id", sa.String(length=64), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("cohort", sa.String(length=7), nullable=False),
        sa.Column("delta_minor", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["customer_id"], ["customer.id"], name=op.f("fk_mrr_movement_customer_id_customer")
        ),
        sa.PrimaryKeyConstraint(
            "customer_id",
            "revision",
            "subscription_id",
            "plan_id",
            "package_id",
            name=op.f("pk_mrr_movement"),
        ),
    )
    op.create_index(op.f("ix_mrr_movement_currency_at"), "mrr_movement", ["currency", "at"])
    op.create_index(op.f("ix_mrr_movement_package_id"), "mrr_movement", ["package_id"])
    _back_fill()
    _refuse_changes()


def _back_fill() -> None:
    """What the ledger says moved the MRR until now. It does not say of which package: that is
    known from each customer's next change on, with the same sum."""
    connection = op.get_bind()
    entry = sa.table(
        "audit_entry",
        sa.column("id", sa.String),
        sa.column("stream", sa.String),
        sa.column("sequence", sa.BigInteger),
        sa.column("at", sa.DateTime(timezone=True)),
        sa.column("mrr_delta_minor", sa.BigInteger),
        sa.column("currency", sa.String),
    )
    movement = sa.table(
        "mrr_movement",
        *(sa.column(name) for name in ("customer_id", "revision", "subscription_id", "plan_id")),
        *(sa.column(name) for name in ("package_id", "currency", "kind", "cohort", "delta_minor")),
        sa.column("at", sa.DateTime(timezone=True)),
    )
    moved = (
        sa.select(entry)
        .where(entry.c.mrr_delta_minor != 0, entry.c.stream.startswith("customer:"))
        .order_by(entry.c.stream, entry.c.sequence)
    )
    stream, total, cohort = "", 0, ""
    batch: list[dict[str, object]] = []
    for row in connection.execute(moved).all():
        if row.stream != stream:
            stream, total, cohort = row.stream, 0, ""
        before, total = total, total + row.mrr_delta_minor
        kind = "change"
        if before == 0 and total > 0:
            kind = "reactivation" if cohort else "new"
        elif before > 0 and total == 0:
            kind = "churn"
        cohort = cohort or f"{row.at:%Y-%m}"
        batch.append(
            {
                "customer_id": stream.removeprefix("customer:"),
                "revision": -row.sequence,
                "subscription_id": "",
                "plan_id": "",
                "package_id": "",
                "at": row.at,
                "currency": row.currency,
                "kind": kind,
                "cohort": cohort,
                "delta_minor": row.mrr_delta_minor,
            }
        )
    if batch:
        connection.execute(sa.insert(movement), batch)


def _refuse_changes() -> None:
    for table in TABLES:
        if op.get_bind().dialect.name == "postgresql":
            op.execute(
                f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} "
                "FOR EACH ROW EXECUTE FUNCTION refuse_ledger_change()"
            )
            op.execute(
                f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
                "FOR EACH STATEMENT EXECUTE FUNCTION refuse_ledger_change()"
            )
            continue
        for operation in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{operation.lower()} BEFORE {operation} ON {table} "
                "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
            )


def downgrade() -> None:
    for table in reversed(TABLES):
        op.drop_table(table)
