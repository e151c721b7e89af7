"""Merge segments: which, and when it pays.

Segments are merged with their neighbours only, so that ids stay in order. A segment's tier is the
logarithm of its images to the base 8, rounded down. Once 8 segments at the end are of one tier, and
none there of a higher one, they are merged. So an embedding is written at most once for each
tier that it rises, and a large collection has few segments.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from imgsim.directory import Directory
from imgsim.records import SegmentRows
from imgsim.results import CompactReport

_LOG = logging.getLogger(__name__)

Choice = Callable[[Sequence[int], Sequence[int]], list[slice]]
"""Chooses runs of segments to merge from the rows and the images that each has."""

LARGEST = 131_072
"""The most images of a segment that is merged from several."""

_BASE = 8
_TOP = 5  # the tier from which on segments are left alone


def tidy(directory: Directory, choose: Choice) -> CompactReport:
    """Merge what ``choose`` names, sweep, and write what is missing of what is derived."""
    report = compact(directory, choose)
    directory.sweep()
    directory.build_derived()
    return report


def compact(directory: Directory, choose: Choice, *, dry_run: bool = False) -> CompactReport:
    """Merge the runs of segments that ``choose`` names, one commit each."""
    with directory.catalog.snapshot() as snapshot:
        parts = snapshot.segment_rows()
    rows = [part.segment.rows for part in parts]
    live = [part.count for part in parts]
    merged = dropped = 0
    for run in choose(rows, live):
        if not dry_run:
            _merge(directory, parts[run])
        merged += len(parts[run]) - any(live[run])
        dropped += sum(rows[run]) - sum(live[run])
    return CompactReport(len(parts), len(parts) - merged, dropped)


def _merge(directory: Directory, parts: Sequence[SegmentRows]) -> None:
    began, names = time.perf_counter(), [part.segment.name for part in parts]
    with directory.catalog.snapshot() as snapshot:
        with_ids = [(part.segment, snapshot.segment_ids(part.segment)) for part in parts]
    new = directory.store.merge(with_ids)
    ids = np.concatenate([ids for _, ids in with_ids])
    directory.catalog.commit_merge(names, new, ids[ids >= 0].tolist())
    took, images = time.perf_counter() - began, sum(part.count for part in parts)
    _LOG.debug("merged %d segments of %d images in %.2f s", len(parts), images, took)


def everything(rows: Sequence[int], live: Sequence[int]) -> list[slice]:
    """Return the runs of segments to merge so that they are few, and every row is an image.

    ``rows`` are those of each segment, ``live`` how many of them are images.
    """
    return [
        run
        for run in _runs(live, 0)
        if run.stop - run.start > 1 or live[run.start] < rows[run.start]
    ]


def what_pays(rows: Sequence[int], live: Sequence[int]) -> list[slice]:
    """Return the runs of segments whose merging is worth writing them again.

    That includes a segment alone if half of its rows are no images any more.
    """
    merged = [run for run in _runs(live, _start_of_small(live)) if run.stop - run.start > 1]
    inside = {number for run in merged for number in range(run.start, run.stop)}
    wasteful = (n for n in range(len(rows)) if n not in inside and 2 * live[n] <= rows[n])
    return [*merged, *(slice(n, n + 1) for n in wasteful)]


def _start_of_small(live: Sequence[int]) -> int:
    """Return where the longest end begins that is to be merged."""
    start, top, counts = len(live), 0, Counter[int]()
    for number in reversed(range(len(live))):
        tier = _tier(live[number])
        if tier >= _TOP:
            break
        top = max(top, tier)
        counts[tier] += 1
        if counts[top] >= _BASE:
            start = number
    return start


def _tier(rows: int) -> int:
    tier = 0
    while rows >= _BASE:
        rows //= _BASE
        tier += 1
    return tier


def _runs(live: Sequence[int], start: int) -> Iterator[slice]:
    """Yield runs of segments from ``start`` on, each of at most LARGEST images if of several."""
    total = 0
    for number in range(start, len(live)):
        if number > start and total + live[number] > LARGEST:
            yield slice(start, number)
            start, total = number, 0
        total += live[number]
    if start < len(live):
        yield slice(start, len(live))


def compact_all(directory: Directory, *, dry_run: bool) -> CompactReport:
    """Merge all that can be, and drop what is by previous encoders; or only say what would be."""
    with directory.catalog.snapshot() as snapshot:
        previous = snapshot.count_previous()
    if dry_run:
        report = compact(directory, everything, dry_run=True)
    else:
        directory.catalog.forget_previous()
        report = tidy(directory, everything)
    return replace(report, dropped=report.dropped + previous)
