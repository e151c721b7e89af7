"""What was learnt and judged about duplicates: distances by encoder, and pairs that are none."""

import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from sqlalchemy import Connection, and_, delete, insert, select

from imgsim.catalog.schema import FIT_JUDGED, JUDGED, RADII
from imgsim.findings import LearntRadius

Pair = tuple[bytes, bytes]
"""The hashes of two contents, the lesser first."""

_RADIUS = struct.Struct("<3d3q")


def in_order(one: bytes, other: bytes) -> Pair:
    """Return a pair of contents as the table has it."""
    return (one, other) if one < other else (other, one)


def radii(connection: Connection) -> Iterator[tuple[object, LearntRadius | None]]:
    """Yield fingerprint and radius of each encoder that has one; None for one that is damaged."""
    for fingerprint, *facts, checksum in connection.execute(select(RADII)):
        found = None
        with suppress(TypeError, AttributeError, struct.error):  # values may be of any type
            if _radius_sum(fingerprint, facts) == checksum:
                found = LearntRadius(*facts)
        yield fingerprint, found


def radius_of(connection: Connection, fingerprint: str) -> LearntRadius | None:
    """Return the radius of an encoder; None if none was learnt, or if it is damaged."""
    return dict(radii(connection)).get(fingerprint)


def put_radius(connection: Connection, fingerprint: str, learnt: LearntRadius) -> None:
    """Note the radius of an encoder, in place of any other."""
    facts = vars(learnt)
    checksum = _radius_sum(fingerprint, facts.values())
    connection.execute(delete(RADII).where(RADII.c.fingerprint == fingerprint))
    connection.execute(insert(RADII).values(fingerprint=fingerprint, **facts, checksum=checksum))


def delete_damaged_radii(connection: Connection) -> None:
    """Delete the radii that are not what was stored; they are learnt anew."""
    for fingerprint, found in [*radii(connection)]:
        if found is None:
            connection.execute(delete(RADII).where(RADII.c.fingerprint == fingerprint))


def _radius_sum(fingerprint: str, facts: Iterable[Any]) -> int:
    return zlib.crc32(_RADIUS.pack(*facts) + fingerprint.encode())


def judged(connection: Connection) -> set[Pair]:
    """Return the pairs that are no duplicates."""
    chosen = select(JUDGED.c.first, JUDGED.c.second).where(FIT_JUDGED)
    return {(first, second) for first, second in connection.execute(chosen)}


def put_judged(connection: Connection, pairs: Iterable[Pair]) -> int:
    """Note pairs that are no duplicates; return how many of them are new."""
    new = [*set(pairs) - judged(connection)]
    if new:
        rows = [{"first": first, "second": second} for first, second in new]
        connection.execute(insert(JUDGED), rows)
    return len(new)


def delete_judged(connection: Connection, pairs: Iterable[Pair]) -> int:
    """Forget pairs; return how many of them there were."""
    known = judged(connection).intersection(pairs)
    for first, second in known:
        pair = and_(JUDGED.c.first == first, JUDGED.c.second == second)
        connection.execute(delete(JUDGED).where(pair))
    return len(known)
