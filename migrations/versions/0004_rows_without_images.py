"""Which rows of a segment no image uses, and plainer names."""

import numpy as np
import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.rename_table("placements", "staged")
    op.execute("ALTER TABLE encoders RENAME COLUMN former TO previous")
    op.add_column("segments", sa.Column("removed", sa.LargeBinary()))
    connection = op.get_bind()
    used = sa.text(
        "SELECT row FROM images WHERE segment_id = :id "
        "UNION ALL SELECT row FROM staged WHERE segment_id = :id"
    )
    for number, rows in connection.execute(sa.text("SELECT id, rows FROM segments")).all():
        removed = np.ones(rows, bool)
        found = np.array(connection.execute(used, {"id": number}).scalars().all(), np.int64)
        removed[found[found < rows]] = False
        if removed.any():
            bits = np.packbits(removed, bitorder="little").tobytes()
            connection.execute(
                sa.text("UPDATE segments SET removed = :bits WHERE id = :id"),
                {"bits": bits, "id": number},
            )
