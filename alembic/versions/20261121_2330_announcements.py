"""Every change of a customer or a key is announced to all processes, whoever makes it.

Revision: 20261121_2330, after 20261121_2325

SQLite has nothing of the kind: there any commit is noticed.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "20261121_2330"
down_revision: str | Sequence[str] | None = "20261121_2325"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

ANNOUNCED = {
    "customer": ("revision", "'customer:' || NEW.revision || ':' || NEW.id"),
    "api_key": ("revoked_at", "'key:' || NEW.id"),
}


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    for table, (column, payload) in ANNOUNCED.items():
        op.execute(
            f"CREATE FUNCTION announce_{table}() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN PERFORM pg_notify('entitlements', {payload}); RETURN NULL; END $$"
        )
        op.execute(
            f"CREATE TRIGGER {table}_announced AFTER INSERT OR UPDATE OF {column} ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION announce_{table}()"
        )


def downgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    for table in ANNOUNCED:
        op.execute(f"DROP TRIGGER {table}_announced ON {table}")
        op.execute(f"DROP FUNCTION announce_{table}()")
