"""Who approved or declined a change, when, and with which note.

Revision: 20261121_2315, after 20261121_2310
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "20261121_2315"
down_revision: str | Sequence[str] | None = "20261121_2310"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("change", sa.Column("decided_by", sa.String(500), nullable=True))
    op.add_column("change", sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("change", sa.Column("decision_note", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("change", "decision_note")
    op.drop_column("change", "decided_at")
    op.drop_column("change", "decided_by")
