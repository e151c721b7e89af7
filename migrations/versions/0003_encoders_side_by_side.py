"""Names of encoders, and vectors of images under encoders other than the active one."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    # SQLite adds columns that may not be null only with a default.
    op.add_column("encoders", sa.Column("name", sa.String(), nullable=False, server_default=""))
    op.execute("UPDATE encoders SET name = substr(fingerprint, 1, 12)")
    op.create_index("ix_encoders_name", "encoders", ["name"], unique=True)
    op.add_column(
        "encoders", sa.Column("former", sa.Boolean(), nullable=False, server_default=sa.false())
    )
    op.create_table(
        "placements",
        sa.Column(
            "image_id",
            sa.Integer().with_variant(sa.BigInteger(), "postgresql"),
            sa.ForeignKey("images.id", ondelete="CASCADE", deferrable=True),
            primary_key=True,
        ),
        sa.Column(
            "segment_id",
            sa.Integer(),
            sa.ForeignKey("segments.id", deferrable=True),
            primary_key=True,
        ),
        sa.Column("row", sa.Integer().with_variant(sa.BigInteger(), "postgresql"), nullable=False),
        sa.UniqueConstraint("segment_id", "row"),
    )
