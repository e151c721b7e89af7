"""Stored images a page at a time, and the folders that they are in."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from sqlalchemy import BigInteger, ColumnElement, and_, cast, func, literal, or_, select

from imgsim.catalog.functions import Contains, EndsWith
from imgsim.catalog.paths import is_under
from imgsim.catalog.schema import IMAGES
from imgsim.catalog.snapshot import Snapshot
from imgsim.records import ImageRecord

Order = Literal["id", "path", "newest", "largest", "pixels"]
"""By id or path, ascending; or by time of modification, bytes or pixels, the greatest first."""

_KEYS: dict[str, ColumnElement[int] | ColumnElement[bytes]] = {
    "id": IMAGES.c.id,
    "path": IMAGES.c.path,
    "newest": -IMAGES.c.mtime_ns,
    "largest": -IMAGES.c.size,
    "pixels": -cast(IMAGES.c.width, BigInteger) * IMAGES.c.height,
}


@dataclass(frozen=True)
class Browse:
    """Which images to list: up to ``most``, after ``after``, in an order.

    ``under`` is a folder, or empty for all; ``suffix`` is what names end in, whatever the case.
    Both sides have ``least_side`` pixels at least. ``after`` is what the page before gave, or
    empty. What makes no sense raises ValueError.
    """

    order: Order = "id"
    after: str = ""
    most: int = 100
    under: str = ""
    suffix: str = ""
    least_side: int = 0

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if self.order not in get_args(Order):
            raise ValueError(f"order must be one of {', '.join(get_args(Order))}")
        if self.most < 1:
            raise ValueError("at least 1 image must be asked for")
        _parsed(self)


@dataclass(frozen=True)
class Page:
    """Some images by id, and where to go on; ``after`` is empty at the end."""

    images: dict[int, ImageRecord]
    after: str


def browse(snapshot: Snapshot, asked: Browse) -> Page:
    """Return the images that are asked for, in time that does not grow with those before them."""
    key, number = _KEYS[asked.order], IMAGES.c.id
    chosen = select(key, number).order_by(key, number).limit(asked.most + 1)
    rows = snapshot.connection.execute(chosen.where(*_conditions(asked))).all()
    records = snapshot.records([number for _, number in rows[: asked.most]])
    images = {number: records[number] for _, number in rows[: asked.most]}
    if len(rows) <= asked.most:
        return Page(images, "")
    last, last_id = rows[asked.most - 1]
    return Page(images, f"{last.hex() if isinstance(last, bytes) else last}:{last_id}")


def folders(snapshot: Snapshot, place: str) -> list[str]:
    """Return the names of the folders in the folder ``place`` that images are in or below."""
    path, prefix = IMAGES.c.path, os.fsencode(place.rstrip("/")) + b"/"
    rest = func.substr(path, len(prefix) + 1)
    first = select(path).where(Contains(rest, b"/")).order_by(path).limit(1)
    names, start, end = [], prefix, prefix[:-1] + b"0"  # the character after a slash
    while found := snapshot.connection.execute(
        first.where(path > start, path < end)
    ).scalar_one_or_none():
        name = found[len(prefix) :].partition(b"/")[0]
        names.append(os.fsdecode(name))
        start = prefix + name + b"0"
    return sorted(names)


def _conditions(asked: Browse) -> Iterator[ColumnElement[bool]]:
    key, path = _KEYS[asked.order], IMAGES.c.path
    if asked.after:
        value, number = _parsed(asked)
        beyond = literal(value, key.type)
        yield or_(key > beyond, and_(key == beyond, IMAGES.c.id > number))
    if asked.under:
        yield is_under(path, asked.under)
    if asked.suffix:
        yield EndsWith(path, os.fsencode(asked.suffix.lower()))
    if asked.least_side:
        yield and_(IMAGES.c.width >= asked.least_side, IMAGES.c.height >= asked.least_side)


def _parsed(asked: Browse) -> tuple[int | bytes, int]:
    """Return the key and the id of the last image before; raise ValueError if they are none."""
    value, _, number = (asked.after or "0:0").rpartition(":")
    try:
        key = bytes.fromhex(value) if asked.order == "path" and asked.after else int(value)
        return key, int(number)
    except ValueError as error:
        raise ValueError(f"{asked.after}: is no place that a page gave") from error
