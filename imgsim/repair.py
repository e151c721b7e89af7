"""Find and mend what checksums say is damaged."""

from collections.abc import Callable, Iterator

import numpy as np

from imgsim.catalog import Catalog
from imgsim.encoder import Encoder
from imgsim.errors import ImageError, ImageUnavailable
from imgsim.latents import Latent, encoded_again, in_threads, stamp
from imgsim.presence import Roots, is_gone
from imgsim.snapshot import Snapshot
from imgsim.store import VectorStore
from imgsim.types import Damage, EncoderRecord, RepairReport, Segment

_AT_ONCE = 4_096  # images


def altered_images(snapshot: Snapshot) -> Iterator[Damage]:
    """Yield image files whose size and time are what they were, and whose content is not."""
    for segment in snapshot.segments():
        ids = snapshot.segment_ids(segment)
        records = list(snapshot.records(ids[ids >= 0].tolist()).values())
        results = in_threads(stamp, (record.path for record in records))
        for record, found in zip(records, results, strict=True):
            expected = f"sha256 {record.sha256.hex()}"
            if isinstance(found, ImageUnavailable):
                continue
            if isinstance(found, ImageError):
                yield Damage(record.path, expected, found.reason)
            elif found[:2] == (record.size, record.mtime_ns) and found[2] != record.sha256:
                yield Damage(record.path, expected, f"sha256 {found[2].hex()}")


def repair(
    catalog: Catalog, store: VectorStore, load_encoder: Callable[[], Encoder]
) -> RepairReport:
    """Remove damaged bounds, and encode the images of damaged segments again.

    Damaged vectors of encoders that are not active are forgotten. An image that is in no segment is
    forgotten, and one whose file is gone for good or has other content by now. Where a file cannot
    be reached, everything stays as it is.
    """
    with catalog.snapshot() as snapshot:
        segments, dangling = snapshot.segments(), snapshot.dangling()
        roots = Roots(snapshot.roots())
    catalog.forget(list(dangling), (), ())
    bounds = store.remove_damaged_bounds(segments)
    dropped = drop_damaged(catalog, store)
    encoded_again, forgotten, kept = 0, list(dangling.values()), list[str]()
    for segment in segments:
        if store.segment_damage(segment) is not None:
            done = _encode_again(catalog, store, segment, load_encoder(), roots)
            encoded_again += done[0]
            forgotten += done[1]
            kept += done[2]
    return RepairReport(encoded_again, tuple(forgotten), tuple(kept), bounds, dropped)


def drop_damaged(catalog: Catalog, store: VectorStore, encoder: EncoderRecord | None = None) -> int:
    """Forget damaged vectors of encoders that are not active, or of one of these.

    Return how many. A reencode makes them anew.
    """
    with catalog.snapshot() as snapshot:
        spare = snapshot.spare_segments(encoder)
    damaged = [segment for segment in spare if store.segment_damage(segment) is not None]
    catalog.forget_spare(damaged)
    return sum(segment.rows for segment in damaged)


def _encode_again(
    catalog: Catalog, store: VectorStore, segment: Segment, encoder: Encoder, roots: Roots
) -> tuple[int, list[str], list[str]]:
    """Move the images of a segment to new ones.

    Return how many were moved, and the paths of those forgotten, and of those that are still in the
    old segment, which goes if there are none.
    """
    with catalog.snapshot() as snapshot:
        ids = snapshot.segment_ids(segment)
        records = sorted(snapshot.records(ids[ids >= 0].tolist()).items())
    count, lost, kept = 0, dict[int, str](), list[str]()
    for start in range(0, len(records), _AT_ONCE):
        found: dict[int, Latent] = {}
        some = dict(records[start : start + _AT_ONCE])
        for number, result in zip(some, encoded_again(some.values(), encoder), strict=True):
            if isinstance(result, Latent):
                found[number] = result
            elif _is_lost(result, roots):
                lost[number] = result.path
            else:
                kept.append(result.path)
        if found:
            new = store.add(np.stack([latent.vector for latent in found.values()]))
            catalog.commit_merge([], new, list(found))
            count += len(found)
    catalog.forget(list(lost), (), ())
    if not kept:
        catalog.commit_merge([segment.name], None, [])
    return count, list(lost.values()), kept


def _is_lost(error: ImageError, roots: Roots) -> bool:
    """Say whether the image is no more, rather than out of reach for now."""
    if isinstance(error, ImageUnavailable):
        return is_gone(error.path) and not roots.are_away(error.path)
    return True
