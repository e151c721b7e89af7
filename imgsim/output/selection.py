"""Which of the results are shown in pictures, where there may be very many."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from imgsim.results import QueryResult

_FEWEST = 10  # matches of a query that are shown at least


@dataclass(frozen=True)
class Selection:
    """The results to show: so many ``pictures``, queries and matches; others are ``left_out``."""

    results: tuple[QueryResult, ...]
    pictures: int
    left_out: int


def select(results: Sequence[QueryResult], most: int) -> Selection:
    """Return results with up to ``most`` pictures, which the queries share evenly.

    Each has at least its ten nearest; where these do not fit, the last queries are left out.
    """
    matches = max(_FEWEST, most // max(1, len(results)) - 1)
    chosen, pictures = [], 0
    for result in results:
        part = replace(result, matches=result.matches[:matches])
        if pictures + 1 + len(part.matches) > most:
            break
        chosen.append(part)
        pictures += 1 + len(part.matches)
    total = sum(1 + len(result.matches) for result in results)
    return Selection(tuple(chosen), pictures, total - pictures)
