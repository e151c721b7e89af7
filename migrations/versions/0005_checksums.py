"""Checksums of what the catalog says, and which images are damaged."""

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_AT_ONCE = 10_000


def upgrade() -> None:
    op.add_column(
        "images", sa.Column("damaged", sa.Boolean(), nullable=False, server_default=sa.false())
    )
    op.add_column(
        "images",
        sa.Column("checksum", sa.BigInteger(), nullable=False, server_default=sa.text("0")),
    )
    seals = op.create_table(
        "seals",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("checksum", sa.BigInteger(), nullable=False),
    )
    connection = op.get_bind()
    chosen = "SELECT id, size, mtime_ns, width, height, sha256, path FROM images WHERE id > :after "
    chosen += "ORDER BY id LIMIT :most"
    after = -1
    while rows := connection.execute(sa.text(chosen), {"after": after, "most": _AT_ONCE}).all():
        changed = sa.text("UPDATE images SET checksum = :checksum WHERE id = :id")
        connection.execute(changed, [{"id": row[0], "checksum": _image_sum(row)} for row in rows])
        after = rows[-1][0]
    encoders = "SELECT id, fingerprint, dim, active, name, previous FROM encoders ORDER BY id"
    segments = "SELECT id, name, encoder_id, rows, dim, sha256, removed FROM segments ORDER BY id"
    both = (connection.execute(sa.text(text)).all() for text in (encoders, segments))
    connection.execute(sa.insert(seals).values(id=1, checksum=_seal_of(*both)))


def _image_sum(row: Sequence[Any]) -> int:
    *numbers, sha256, path = row
    return zlib.crc32(struct.pack("<6q", *numbers, 0) + sha256 + path)


def _seal_of(encoders: Iterable[Any], segments: Iterable[Any]) -> int:
    found = 0
    for line in _lines(encoders, segments):
        found = zlib.crc32(line, found)
    return found


def _lines(encoders: Iterable[Any], segments: Iterable[Any]) -> Iterator[bytes]:
    for facts in encoders:
        yield " ".join(map(str, facts)).encode(errors="surrogateescape") + b"\n"
    for *facts, removed in segments:
        yield " ".join(map(str, facts)).encode() + b" " + (removed or b"") + b"\n"
