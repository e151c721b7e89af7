"""Make encoders and segments of a damaged catalog those that the collection's files show.

Ids stay. What a row says of a file that is there and sound is corrected; where the file of a row is
missing, an unnamed one that fits takes its place. A row that cannot be right, and for which nothing
is found, gets the form of one whose file is missing, so that its images are encoded again.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select

from imgsim.catalog import changes
from imgsim.catalog.damage import is_encoder, is_segment, is_size
from imgsim.catalog.functions import IsOf
from imgsim.catalog.schema import ENCODERS, IMAGES, SEGMENTS, STAGED
from imgsim.records import Inventory, Segment

Said = Callable[[str, str], Iterable[Sequence[Any]]]
"""Returns of a table, by name, some columns of the rows that can be read."""

ENCODER_COLUMNS = "id, fingerprint, dim, active, name, previous, created_at"
SEGMENT_COLUMNS = "id, name, rows, dim, sha256, encoder_id, removed, created_at"

_MOST_ROWS = 1 << 24  # of a segment whose file is lost
_ALIKE = 32  # digits that a damaged fingerprint has in common with the true one


@dataclass
class _Encoder:
    fingerprint: Any
    dim: Any
    active: Any = 0
    name: Any = None
    previous: Any = 0
    created_at: Any = 0


@dataclass
class _Segment:
    encoder_id: Any
    facts: Segment
    removed: Any
    created_at: Any
    images: int = 0
    staged: int = 0


def restore(connection: Connection, said: Said, found: Inventory) -> None:
    """Make encoders and segments those that are there, whatever tables said, and seal them."""
    encoders = {number: _Encoder(*facts) for number, *facts in said("encoders", ENCODER_COLUMNS)}
    segments = _segments(connection, list(said("segments", SEGMENT_COLUMNS)), found)
    _find_encoders(encoders, segments, found)
    active = _active(encoders, segments)
    if active is not None:
        _give_owners(segments, encoders, active)
        for number, encoder in encoders.items():
            encoder.active = number == active
    _write(connection, encoders, segments)
    changes.renew_last_id(connection, found.last_id)
    changes.renew_removed(connection)
    changes.seal(connection)


def _segments(
    connection: Connection, rows: Sequence[Sequence[Any]], found: Inventory
) -> dict[int, _Segment]:
    """Return the segments by id, each with the facts of its file where that is sound."""
    named = {row[1] for row in rows}
    spare = {each.sha256: each for name, each in found.segments.items() if name not in named}
    images, staged = (
        dict(connection.execute(select(key, func.count()).group_by(key)).all())
        for key in (IMAGES.c.segment_id, STAGED.c.segment_id)
    )
    segments = {}
    for number, *raw, encoder_id, removed, created_at in rows:
        facts = _matched(raw, found, spare)
        if facts is None:
            facts = _as_lost(number, raw, _rows_needed(connection, number))
        counts = images.get(number, 0), staged.get(number, 0)
        segments[number] = _Segment(encoder_id, facts, removed, created_at, *counts)
    return segments


def _matched(raw: Sequence[Any], found: Inventory, spare: dict[str, Segment]) -> Segment | None:
    """Return the file that a row is of; None if there is no sound one."""
    name, _, _, sha256 = raw
    there = found.segments.get(name)
    if there is None:
        return spare.pop(sha256, None)
    return there if there.sha256 == sha256 or name in found.proven else None


def _as_lost(number: int, raw: Sequence[Any], rows: int) -> Segment:
    """Return a row's facts if it can be so, or else such of a file that is missing."""
    if is_segment(*raw) and raw[1] <= _MOST_ROWS:
        return Segment(*raw)
    dim = raw[2] if is_size(raw[2]) else 1
    return Segment(f"{number % (1 << 64):016x}", rows, dim, f"{0:064x}")


def _rows_needed(connection: Connection, number: int) -> int:
    """Return how many rows the images of a segment need."""
    row = IMAGES.c.row
    inside = IsOf(row, "integer"), row.between(0, _MOST_ROWS - 1)
    last = select(func.max(row)).where(IMAGES.c.segment_id == number, *inside)
    return (connection.execute(last).scalar() or 0) + 1


def _find_encoders(
    encoders: dict[int, _Encoder], segments: dict[int, _Segment], found: Inventory
) -> None:
    """Give a folder to each encoder that has none, and an encoder to each folder.

    An encoder without a row is one that segments name. The greatest id chooses first, of folders
    of its dimension: one whose name is alike, or else the one with the newest model.
    """
    dims: dict[Any, Counter[int]] = {}
    for segment in segments.values():
        dims.setdefault(segment.encoder_id, Counter())[segment.facts.dim] += segment.facts.rows
    named = {each.fingerprint for each in encoders.values()}
    spare = [fingerprint for fingerprint in found.encoders if fingerprint not in named]
    ids = {number for number in dims if isinstance(number, int)} | encoders.keys()
    for number in sorted(ids, reverse=True):
        encoder = encoders.get(number, _Encoder(None, None))
        if encoder.fingerprint in found.encoders:
            encoder.dim = found.encoders[encoder.fingerprint]
            continue
        dim = dims[number].most_common(1)[0][0] if number in dims else encoder.dim
        encoder.dim = dim if is_size(dim) else 1
        fitting = [each for each in spare if found.encoders[each] == dim or not is_size(dim)]
        if fitting:
            chosen = max(reversed(fitting), key=partial(_alike, encoder.fingerprint))
            spare.remove(chosen)
            encoder.fingerprint, encoder.dim = chosen, found.encoders[chosen]
        elif number not in encoders and (encoders or number != min(ids)):
            continue  # its segments are another's
        elif not is_encoder(encoder.fingerprint, encoder.dim):
            encoder.fingerprint = f"{number % (1 << 64):064x}"
        encoders[number] = encoder
    for fingerprint in spare:
        encoders[max(encoders, default=0) + 1] = _Encoder(fingerprint, found.encoders[fingerprint])


def _alike(one: object, other: str) -> bool:
    """Say whether a fingerprint may be that of a damaged row."""
    return sum(a == b for a, b in zip(str(one), other, strict=False)) >= _ALIKE


def _active(encoders: dict[int, _Encoder], segments: dict[int, _Segment]) -> int | None:
    """Return the encoder that says it is active, unless two segments with images name another."""
    named = Counter[Any](each.encoder_id for each in segments.values() if each.images > each.staged)

    def weight(number: int) -> tuple[int, int]:
        return 2 * named[number] + 3 * (encoders[number].active == 1), number

    return max(encoders, key=weight, default=None)


def _give_owners(segments: dict[int, _Segment], encoders: dict[int, _Encoder], active: int) -> None:
    """Give each segment an encoder of its dimension: images are in those of the active one.

    A segment without images, whose encoder cannot be told, is no more.
    """
    for number, segment in list(segments.items()):
        dim = segment.facts.dim
        fitting = [number for number, encoder in encoders.items() if encoder.dim == dim]
        others = [number for number in fitting if number != active]
        if segment.images > segment.staged:  # an image of these may be in a row of others
            segment.encoder_id = active
            if active not in fitting:
                lost = f"{number % (1 << 64):016x}"
                segment.facts = replace(segment.facts, name=lost, dim=encoders[active].dim)
        elif segment.encoder_id not in (others if segment.staged else fitting):
            if segment.staged and len(others) == 1:
                segment.encoder_id = others[0]
            else:
                del segments[number]


def _write(
    connection: Connection, encoders: dict[int, _Encoder], segments: dict[int, _Segment]
) -> None:
    changes.defer_foreign_keys(connection)
    connection.execute(delete(STAGED).where(STAGED.c.segment_id.not_in(list(segments))))
    connection.execute(delete(SEGMENTS))
    connection.execute(delete(ENCODERS))
    names = set[str]()
    for number, encoder in encoders.items():
        name = encoder.name
        if not isinstance(name, str) or not name.isprintable() or name in {"", *names}:
            name = encoder.fingerprint[:12]
        names.add(name)
        facts = asdict(encoder) | {"id": number, "name": name, "previous": encoder.previous == 1}
        facts["created_at"] = _time(encoder.created_at)
        connection.execute(insert(ENCODERS).values(**facts))
    for number, segment in segments.items():
        row = asdict(segment.facts) | {"id": number, "encoder_id": segment.encoder_id}
        bits = segment.removed if isinstance(segment.removed, bytes) else None
        row |= {"created_at": _time(segment.created_at), "removed": bits}
        connection.execute(insert(SEGMENTS).values(**row))

    if connection.dialect.name == "postgresql":  # the next rows get ids after these
        for table in ("encoders", "segments"):
            after = f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table}"
            connection.exec_driver_sql(after)


def _time(noted: object) -> int:
    return noted if isinstance(noted, int) else 0
