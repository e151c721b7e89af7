"""Work on many image files at once."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from typing import TypeVar

from imgsim.errors import ImageError
from imgsim.results import Progress, Refusal

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_threads(
    work: Callable[[_Item], _Result], items: Iterable[_Item]
) -> Iterator[_Result | ImageError]:
    """Call ``work`` on image files, on all cores; yield its results in order, or its ImageErrors.

    A worker takes one file from its bytes to its embedding, so decoding and encoding share the
    cores and neither waits for the other. A bounded number of files is under way at any time. A
    single file needs no threads.
    """

    def attempt(item: _Item) -> _Result | ImageError:
        try:
            return work(item)
        except ImageError as error:
            return error

    remaining = iter(items)
    first = list(islice(remaining, 2))
    if len(first) < 2:
        yield from map(attempt, first)
        return
    workers = os.cpu_count() or 1
    pending: deque[Future[_Result | ImageError]] = deque()
    remaining = chain(first, remaining)
    pool = ThreadPoolExecutor(workers)
    try:
        while True:
            for item in islice(remaining, 8 * workers - len(pending)):
                pending.append(pool.submit(attempt, item))
            if not pending:
                return
            yield pending.popleft().result()
    finally:  # perhaps by the garbage collector, in one of these threads: it cannot wait for itself
        pool.shutdown(wait=False, cancel_futures=True)


def gathered(
    work: Callable[[_Item], _Result], items: Sequence[_Item], on_progress: Progress | None
) -> tuple[list[_Result], list[Refusal]]:
    """Do what :func:`in_threads` does, and tell of each; return the results and what failed."""
    results: list[_Result] = []
    refused: list[Refusal] = []
    for done, result in enumerate(in_threads(work, items), start=1):
        if isinstance(result, ImageError):
            refused.append(Refusal(result.path, result.reason))
        else:
            results.append(result)
        if on_progress is not None:
            on_progress(done, len(items))
    return results, refused
