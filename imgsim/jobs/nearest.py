"""The nearest images of queries, without the query itself or copies of what is nearer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgsim.index.distance import Nearest
from imgsim.index.gallery import Finder
from imgsim.index.search import Answer
from imgsim.results import SearchStats

Contents = Callable[[Sequence[int]], dict[int, bytes]]
"""Returns the hash of the content of each of some images, by id."""


@dataclass(frozen=True, slots=True)
class Own:
    """What is not wanted among the nearest of a query: some images, and every copy of a content."""

    images: frozenset[int] = frozenset()
    content: bytes | None = None


def nearest_but(
    gallery: Finder,
    embeddings: NDArray[np.float32],
    k: int | None,
    own: Sequence[Own],
    contents: Contents | None = None,
) -> Answer:
    """Return the ``k`` nearest (None: all) of each of ``embeddings`` (q, dim) but its own.

    With ``contents``, of images with the same content only the first one counts. It searches for
    more where too few are left; the answer is exact.
    """
    nearest: dict[int, Nearest] = {}
    stats, pending, wanted = SearchStats(), list(range(len(own))), None if k is None else k + 1
    while pending:
        answer = gallery.search(embeddings[pending], wanted)
        stats += answer.stats
        for query, found in zip(pending, answer.nearest, strict=True):
            ids, distances = found
            kept = _kept(ids, own[query], contents)
            if k is None or wanted is None or len(kept) >= k or len(ids) < wanted:
                nearest[query] = ids[kept[:k]], distances[kept[:k]]
        pending = [query for query in pending if query not in nearest]
        wanted = wanted and 4 * wanted
    return Answer([nearest[query] for query in range(len(own))], stats)


def _kept(ids: NDArray[np.int64], own: Own, contents: Contents | None) -> NDArray[np.int64]:
    """Return the places of the images that count."""
    known = contents(ids.tolist()) if contents else {}
    met, kept = {own.content}, []
    for place, number in enumerate(ids.tolist()):
        content = known.get(number)
        if number not in own.images and (content is None or content not in met):
            kept.append(place)
            met.add(content)
    return np.array(kept, np.int64)
