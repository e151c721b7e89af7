"""The distance of duplicates by encoder, and pairs of contents that are none."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "radii",
        sa.Column("fingerprint", sa.String(), primary_key=True),
        sa.Column("radius", sa.Float(), nullable=False),
        sa.Column("false_alarms", sa.Float(), nullable=False),
        sa.Column("recall", sa.Float(), nullable=False),
        sa.Column("sampled", sa.Integer(), nullable=False),
        sa.Column("images", sa.Integer(), nullable=False),
        sa.Column("learnt_at", sa.BigInteger(), nullable=False),
        sa.Column("checksum", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "judged",
        sa.Column("first", sa.LargeBinary(), primary_key=True),
        sa.Column("second", sa.LargeBinary(), primary_key=True),
    )
