"""A package held may be below list, and its entitlements apart from its price.

Revision: 20261122_0130, after 20261122_0120
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "20261122_0130"
down_revision: str | Sequence[str] | None = "20261122_0120"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("subscription_item", sa.Column("price_factor", sa.String(40), nullable=True))
    op.add_column("subscription_item", sa.Column("cap_percent", sa.String(40), nullable=True))


def downgrade() -> None:
    op.drop_column("subscription_item", "cap_percent")
    op.drop_column("subscription_item", "price_factor")
