"""Images by their content, and the folders that were ingested."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_index("ix_images_sha256", "images", ["sha256"])
    op.create_table("roots", sa.Column("path", sa.LargeBinary(), primary_key=True))
