"""What waits of a subscription, and of a customer, is found without reading all that waits.

Revision: 20261129_0200, after 20261129_0190
"""

from collections.abc import Sequence

from alembic import op

revision: str = "20261129_0200"
down_revision: str | Sequence[str] | None = "20261129_0190"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    for columns in (["subscription_id", "status"], ["customer_id", "status", "effective_at"]):
        op.create_index(op.f(f"ix_change_{'_'.join(columns)}"), "change", columns)


def downgrade() -> None:
    for name in ("customer_id_status_effective_at", "subscription_id_status"):
        op.drop_index(op.f(f"ix_change_{name}"), "change")
