"""Paths as the tables hold them: bytes, of which those below a folder are a range."""

import os
from collections.abc import Iterable, Sequence

from sqlalchemy import Column, ColumnElement, and_, or_

from imgsim.files import absolute


def encoded(paths: Sequence[str]) -> list[bytes]:
    """Return paths as the tables hold them."""
    return [os.fsencode(path) for path in paths]


def apart(places: Iterable[str]) -> list[str]:
    """Return some paths without those that are below another of them."""
    found: list[str] = []
    for place in sorted(f"{absolute(place)}/" for place in places):
        if not (found and place.startswith(found[-1])):
            found.append(place)
    return found


def is_under(column: Column[bytes], place: str) -> ColumnElement[bool]:
    """Return the condition that a path is that of ``place``, or below it."""
    path = os.fsencode(absolute(place)).rstrip(b"/")
    inside = and_(column > path + b"/", column < path + b"0")  # 0 comes after /
    return or_(column == path, inside)
