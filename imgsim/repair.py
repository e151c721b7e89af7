"""Find and mend what checksums say is damaged."""

from collections.abc import Iterator

import numpy as np

from imgsim.catalog import Catalog
from imgsim.encoder import Encoder
from imgsim.errors import ImageError, ImageUnavailable
from imgsim.images import opened
from imgsim.latents import Latent, encoded, in_threads
from imgsim.snapshot import Snapshot
from imgsim.store import VectorStore
from imgsim.types import Damage, ImageRecord, RepairReport, Segment

_AT_ONCE = 4_096  # images


def altered_images(snapshot: Snapshot) -> Iterator[Damage]:
    """Yield image files whose size and time are what they were, and whose content is not."""
    for segment in snapshot.segments():
        ids = snapshot.segment_ids(segment)
        records = list(snapshot.records(ids[ids >= 0].tolist()).values())
        results = in_threads(_facts, (record.path for record in records))
        for record, found in zip(records, results, strict=True):
            expected = f"sha256 {record.sha256.hex()}"
            if isinstance(found, ImageUnavailable):
                continue
            if isinstance(found, ImageError):
                yield Damage(record.path, expected, found.reason)
            elif found[:2] == (record.size, record.mtime_ns) and found[2] != record.sha256:
                yield Damage(record.path, expected, f"sha256 {found[2].hex()}")


def repair(catalog: Catalog, store: VectorStore, encoder: Encoder) -> RepairReport:
    """Encode the images of damaged segments again, and remove damaged bounds."""
    with catalog.snapshot() as snapshot:
        segments, dangling = snapshot.segments(), snapshot.dangling()
    kept, bounds = 0, 0
    lost = dict(dangling)
    catalog.forget(list(dangling), (), ())
    for segment in segments:
        if store.segment_damage(segment) is not None:
            again = _encode_again(catalog, store, segment, encoder)
            kept += len(again[0])
            lost |= again[1]
        elif store.bounds_damage(segment) is not None:
            store.remove_bounds(segment)
            bounds += 1
    return RepairReport(kept, tuple(lost.values()), bounds)


def _encode_again(
    catalog: Catalog, store: VectorStore, segment: Segment, encoder: Encoder
) -> tuple[list[int], dict[int, str]]:
    """Replace a segment by new ones; return the images kept, and the paths of those forgotten."""
    with catalog.snapshot() as snapshot:
        ids = snapshot.segment_ids(segment)
        records = snapshot.records(ids[ids >= 0].tolist())
    kept: list[int] = []
    for start in range(0, len(records), _AT_ONCE):
        some = dict(sorted(records.items())[start : start + _AT_ONCE])
        latents = _latents(some, encoder)
        if latents:
            new = store.add(np.stack([latent.vector for latent in latents.values()]))
            catalog.commit_merge([], new, list(latents))
            kept += latents
    lost = {number: records[number].path for number in records.keys() - set(kept)}
    catalog.forget(list(lost), (), ())
    catalog.commit_merge([segment.name], None, [])
    return kept, lost


def _latents(records: dict[int, ImageRecord], encoder: Encoder) -> dict[int, Latent]:
    """Return the latents of the images whose files still have their content."""
    by_path = {record.path: record for record in records.values()}

    def again(path: str) -> Latent:
        if _facts(path)[2] != by_path[path].sha256:
            raise ImageError(path, "has other content by now")
        return encoded(path, encoder)

    results = in_threads(again, by_path)
    return {
        number: latent
        for number, latent in zip(records, results, strict=True)
        if not isinstance(latent, ImageError)
    }


def _facts(path: str) -> tuple[int, int, bytes]:
    """Return size, time and hash of the image file at ``path``."""
    with opened(path) as image:
        return image.size, image.mtime_ns, image.sha256
