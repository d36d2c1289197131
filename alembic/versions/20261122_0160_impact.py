"""A proposal's impact in money, as it was when it was decided.

Revision: 20261122_0160, after 20261122_0150
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "20261122_0160"
down_revision: str | Sequence[str] | None = "20261122_0150"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

JSON_DATA = sa.JSON(none_as_null=True).with_variant(
    postgresql.JSONB(none_as_null=True), "postgresql"
)


def upgrade() -> None:
    op.add_column("catalog_proposal", sa.Column("impact", JSON_DATA, nullable=True))


def downgrade() -> None:
    op.drop_column("catalog_proposal", "impact")
