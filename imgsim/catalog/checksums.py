"""Checksums of what the catalog says: SQLite has none of its own.

An image's is the CRC-32 of ``id, size, mtime_ns, width, height, damaged`` as int64, little-endian,
then ``sha256`` and ``path``. The seal is the CRC-32 of a line for each encoder and each segment,
and one for the greatest id that was given out.
"""

import os
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy import select

from imgsim.catalog.schema import IMAGES
from imgsim.records import ImageRecord

IMAGE_FACTS = (
    select(IMAGES.c.id, IMAGES.c.path, IMAGES.c.size, IMAGES.c.mtime_ns, IMAGES.c.sha256)
    .add_columns(IMAGES.c.width, IMAGES.c.height, IMAGES.c.damaged, IMAGES.c.checksum)
    .execution_options(stream_results=True)  # or PostgreSQL gives all rows at once
)
"""Selects what :func:`record_of` takes."""

_IMAGE = struct.Struct("<6q")


def image_sum(number: int, image: ImageRecord) -> int:
    """Return the checksum of an image with the id ``number``."""
    facts = number, image.size, image.mtime_ns, image.width, image.height, image.damaged
    return zlib.crc32(_IMAGE.pack(*facts) + image.sha256 + os.fsencode(image.path))


def record_of(number: int, path: bytes, facts: Sequence[Any], checksum: int) -> ImageRecord | None:
    """Return an image from its row; None if the checksum is not that of the row."""
    with suppress(TypeError, struct.error):  # a damaged table may have values of any type
        image = ImageRecord(os.fsdecode(path), *facts)
        if isinstance(path, bytes) and image_sum(number, image) == checksum:
            return image
    return None


def seal_of(said: Callable[[str, str], Iterable[Sequence[Any]]]) -> int:
    """Return the checksum of all encoders and segments, in the order of ids, and the greatest id.

    ``said`` returns some columns of a table. Values of a wrong type have another checksum.
    """
    found = 0
    for facts in said("encoders", "id, fingerprint, dim, active, name, previous"):
        found = zlib.crc32(_line(facts) + b"\n", found)
    for *facts, removed in said("segments", "id, name, encoder_id, rows, dim, sha256, removed"):
        bits = removed or b""
        bits = bits if isinstance(bits, bytes) else repr(bits).encode()
        found = zlib.crc32(_line(facts) + b" " + bits + b"\n", found)
    return zlib.crc32(_line([last_id(said)]) + b"\n", found)


def last_id(said: Callable[[str, str], Iterable[Sequence[Any]]]) -> Any:  # noqa: ANN401 - damaged
    """Return the greatest id that an image was given; of a damaged catalog anything."""
    return next((seq for name, seq in said("sqlite_sequence", "name, seq") if name == "images"), 0)


def _line(facts: Sequence[Any]) -> bytes:
    return " ".join(map(str, facts)).encode(errors="surrogateescape")
