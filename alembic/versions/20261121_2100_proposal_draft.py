"""A proposal keeps its document resolved: what is compared and signed is what is published.

Revision: 20261121_2100, after 20261121_2000
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "20261121_2100"
down_revision: str | Sequence[str] | None = "20261121_2000"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("catalog_proposal", sa.Column("draft", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("catalog_proposal", "draft")
