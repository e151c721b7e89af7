"""Measure what it costs that everything that is read is verified.

The same searcher answers the same queries with the checksums compared and without, in turns. For
the side without, the compiled scan comes from the same source less its comparison, and segments
give their rows unseen. Opening is measured in the same way, for the hash of the bounds.
The target: below 5 % of a query. Collections are made up as in api.py.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
from api import milliseconds, repeated
from measure import median, print_table, write_json
from numpy.typing import NDArray

from imgsim import Collection, Searcher
from imgsim.index import bounds, candidates, scan_numba
from imgsim.index.mapped_segment import MappedSegment

COMPARING = "from imgsim.index.checksum_numba import is_whole\n"
UNSEEN = """
from numba import njit

@njit(forceinline=True)
def is_whole(stored, row):
    return True
"""
K = 10


def main() -> None:
    """Fill collections and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--embeddings", required=True, type=Path, help="what embeddings.py wrote")
    parser.add_argument("--counts", type=int, nargs="+", default=[150_000, 1_000_000])
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    unseen = without_comparison()
    figures: dict[str, dict[str, list[float]]] = {}
    for count in options.counts:
        path = options.embeddings / f"{count}.imgsim"
        if not path.exists():
            repeated(path, options.embeddings, count)
        queries = np.load(options.embeddings / "queries.npy")
        for name, work, turns in works(path, queries, options.turns):
            figures[f"{count:,} images, {name}"] = in_turns(work, turns, unseen)
    print_table([("what", "verified, ms", "not, ms", "ratio"), *map(row, figures.items())])
    write_json(options.json, dict(figures))


def row(item: tuple[str, dict[str, list[float]]]) -> tuple[str, float, float, float]:
    """Return the medians of a kind of work, and their ratio."""
    name, times = item
    verified, blindly = (median(each) for each in times.values())
    return name, verified, blindly, verified / blindly


def works(
    path: Path, queries: NDArray[np.float32], turns: int
) -> Iterator[tuple[str, Callable[[int], object], int]]:
    """Yield kinds of work, which get the number of the turn, and how many turns to take."""

    def opens(_: int) -> None:
        with Collection.open(path) as collection, collection.searcher():
            pass

    yield "opening", opens, max(3, turns // 6)
    with Collection.open(path) as collection, collection.searcher() as searcher:
        for at_once in (1, 10, 100):
            asks = asking(searcher, queries, at_once)
            yield f"{at_once} at once", asks, turns if at_once == 1 else turns // 3


def asking(
    searcher: Searcher, queries: NDArray[np.float32], at_once: int
) -> Callable[[int], object]:
    """Return what asks for so many of the queries, others in each turn."""

    def ask(turn: int) -> object:
        start = turn * at_once % (len(queries) - at_once + 1)
        return searcher.search_embeddings(queries[start : start + at_once], K)

    return ask


def in_turns(
    work: Callable[[int], object], turns: int, unseen: ModuleType
) -> dict[str, list[float]]:
    """Return the milliseconds of some work with and without verifying."""
    times: dict[str, list[float]] = {"verified": [], "not": []}
    for turn in range(-1, turns):  # the first is not counted
        for name, values in times.items():
            with blind(unseen) if name == "not" else nullcontext():
                took = milliseconds(partial(work, turn))
            if turn >= 0:
                values.append(took)
    return times


def without_comparison() -> ModuleType:
    """Return the compiled scans less the comparison of checksums."""
    text = Path(str(candidates.__file__)).read_text(encoding="utf-8")
    if text.count(COMPARING) != 1:
        raise SystemExit("candidates.py compares in another way: change this program")
    careless = executed(text.replace(COMPARING, UNSEEN))
    with patch.dict(sys.modules, {candidates.__name__: careless}):
        return executed(Path(str(scan_numba.__file__)).read_text(encoding="utf-8"))


def executed(text: str) -> ModuleType:
    """Return a module of this text."""
    module = ModuleType("unseen")
    exec(text, module.__dict__)
    return module


@contextmanager
def blind(unseen: ModuleType) -> Iterator[None]:
    """Verify nothing meanwhile."""

    def as_they_are(_: MappedSegment, rows: Any, table: Any, embeddings: Any) -> Any:  # noqa: ANN401 - as the method
        return table["id"][:, 0], embeddings

    with (
        patch.object(scan_numba, "scan_bounds", unseen.scan_bounds),
        patch.object(scan_numba, "look_closer", unseen.look_closer),
        patch.object(MappedSegment, "_verified", as_they_are),
        patch.object(bounds, "_is_whole", lambda *_: True),
    ):
        yield


if __name__ == "__main__":
    main()
