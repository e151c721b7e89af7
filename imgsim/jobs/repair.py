"""Find and mend what checksums say is damaged."""

from collections.abc import Iterator
from contextlib import suppress
from functools import cache

import numpy as np

from imgsim.catalog import damage
from imgsim.catalog.snapshot import Snapshot
from imgsim.directory import Directory
from imgsim.encoder.embed import EmbeddedImage, embed_again, stamp
from imgsim.encoder.encoder import Encoder, encoder_damages, renew_preprocessing
from imgsim.errors import EncoderError, ImageError, ImageUnavailable
from imgsim.images.roots import Roots, is_gone
from imgsim.jobs.places import forget_misplaced, put_images
from imgsim.parallel import in_threads
from imgsim.records import EncoderRecord, Segment
from imgsim.results import Damage, RepairReport

_AT_ONCE = 4_096  # images


def damages(directory: Directory, *, deep: bool) -> list[Damage]:
    """Return what is damaged of the collection's files, and with ``deep`` of the image files."""
    with directory.reading() as snapshot:
        found = list(damage.damages(snapshot))
        for record in damage.fit_encoders(snapshot):
            path = directory.encoder_path(record.fingerprint)
            found += encoder_damages(path, record.fingerprint, record.dim)
        segments, spare = damage.fit_segments(snapshot)
        found += directory.store.damages(segments, spare, snapshot.segment_ids)
        if deep:
            found += _altered_images(snapshot)
    return found


def _altered_images(snapshot: Snapshot) -> Iterator[Damage]:
    """Yield image files whose size and time are what they were, and whose content is not."""
    for records in damage.sound_images(snapshot):
        results = in_threads(stamp, (record.path for record in records))
        for record, found in zip(records, results, strict=True):
            expected = f"sha256 {record.sha256.hex()}"
            if isinstance(found, ImageUnavailable):
                continue
            if isinstance(found, ImageError):
                yield Damage(record.path, expected, found.reason)
            elif found[:2] == (record.size, record.mtime_ns) and found[2] != record.sha256:
                yield Damage(record.path, expected, f"sha256 {found[2].hex()}")


def repair(directory: Directory) -> RepairReport:
    """Make tables of rows and bounds anew, and encode the images of damaged segments again.

    First the catalog gets what the files show. Damaged embeddings by encoders that are not active
    are forgotten. So is an image that is in no row, or of which the catalog has altered facts, and
    one whose file is gone for good or has other content by now. Where a file cannot be reached,
    everything stays as it is.
    """
    catalog, store = directory.catalog, directory.store
    with catalog.snapshot() as snapshot:
        is_sealed = snapshot.is_sealed()
    if not is_sealed:
        catalog.restore(directory.inventory())
    lost = put_images(directory)
    with catalog.snapshot() as snapshot:
        segments, roots = snapshot.segments(), Roots(snapshot.roots())
        store.renew_tables(segments, snapshot.segment_ids)
        for record in snapshot.encoders():
            with suppress(EncoderError):  # `check` names it
                path = directory.encoder_path(record.fingerprint)
                renew_preprocessing(path, record.fingerprint)
    bounds = store.remove_damaged_bounds(segments)
    dropped = drop_damaged(directory)
    count, forgotten, kept = 0, list(lost.values()), list[str]()
    encoder = cache(directory.load_encoder)
    for segment in segments:
        if store.segment_damage(segment) is not None:
            done = _encode_again(directory, segment, encoder(), roots)
            count += done[0]
            forgotten += done[1]
            kept += done[2]
    return RepairReport(count, tuple(forgotten), tuple(kept), bounds, dropped)


def drop_damaged(directory: Directory, encoder: EncoderRecord | None = None) -> int:
    """Forget damaged embeddings by encoders that are not active, or by one of these.

    Return how many. A reencode makes them anew.
    """
    store = directory.store
    forget_misplaced(directory)
    with directory.catalog.snapshot() as snapshot:
        spare = snapshot.spare_segments(encoder)
        store.renew_tables(spare, snapshot.segment_ids)
    damaged = [segment for segment in spare if store.segment_damage(segment) is not None]
    directory.catalog.forget_spare(damaged)
    return sum(segment.rows for segment in damaged)


def _encode_again(
    directory: Directory, segment: Segment, encoder: Encoder, roots: Roots
) -> tuple[int, list[str], list[str]]:
    """Move the images of a segment to new ones.

    Return how many were moved, and the paths of those forgotten, and of those that are still in the
    old segment, which goes if there are none.
    """
    catalog, store = directory.catalog, directory.store
    with catalog.snapshot() as snapshot:
        ids = snapshot.segment_ids(segment)
        records = sorted(snapshot.records(ids[ids >= 0].tolist()).items())
    count, lost, kept = 0, dict[int, str](), list[str]()
    for start in range(0, len(records), _AT_ONCE):
        found: dict[int, EmbeddedImage] = {}
        some = dict(records[start : start + _AT_ONCE])
        for number, result in zip(some, embed_again(some.values(), encoder), strict=True):
            if isinstance(result, EmbeddedImage):
                found[number] = result
            elif _is_lost(result, roots):
                lost[number] = result.path
            else:
                kept.append(result.path)
        if found:
            embeddings = np.stack([image.embedding for image in found.values()])
            new = store.add(np.array(list(found)), embeddings)
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
