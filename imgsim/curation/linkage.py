"""Groups of things of which each is near each other, from the pairs that are near."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Links:
    """Pairs of nodes (n,) int64, ``first`` < ``second``, each pair once, and distances (n,).

    They are in ascending (distance, first, second). ``posed`` (n,) says that one of the two was
    mirrored or turned for that.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    distances: NDArray[np.float64]
    posed: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.first)

    def only(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> "Links":
        """Return those that a mask (n,) or places (m,) choose."""
        return Links(
            self.first[chosen], self.second[chosen], self.distances[chosen], self.posed[chosen]
        )


NO_LINKS = Links(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0, bool))


def concatenated(parts: Iterable[Links]) -> Links:
    """Return the links of several parts, one part after another."""
    every = [NO_LINKS, *parts]
    return Links(
        np.concatenate([each.first for each in every]),
        np.concatenate([each.second for each in every]),
        np.concatenate([each.distances for each in every]),
        np.concatenate([each.posed for each in every]),
    )


def once_each(links: Links) -> Links:
    """Return of the links of a pair one that is not posed, if there is one, and the shortest."""
    order = np.lexsort((links.distances, links.posed, links.second, links.first))
    both = np.stack((links.first, links.second), axis=1)[order]
    new = np.ones(len(order), bool)
    new[1:] = (both[1:] != both[:-1]).any(axis=1)
    chosen = links.only(order[new])
    return chosen.only(np.lexsort((chosen.second, chosen.first, chosen.distances)))


def groups(links: Links) -> list[list[int]]:
    """Return groups of two nodes or more in which every pair is linked: complete linkage.

    Two groups become one at the distance of their farthest pair, the nearest first (Sorensen 1948),
    so a, b and c are none where only a-b and b-c are linked. It takes memory and time by the number
    of links. Of equal distances, the lesser nodes count first. Groups and nodes are in order.
    """
    owner: dict[int, int] = {}
    members: dict[int, list[int]] = {}
    between: dict[int, dict[int, int]] = {}
    for one, other in zip(links.first.tolist(), links.second.tolist(), strict=True):
        for node in (one, other):
            if node not in owner:
                owner[node], members[node], between[node] = node, [node], {}
        a, b = owner[one], owner[other]
        if len(between[a]) < len(between[b]):
            a, b = b, a
        count = between[a].get(b, 0) + 1
        if count < len(members[a]) * len(members[b]):
            between[a][b] = between[b][a] = count
            continue
        _merge(a, b, members, between)
        for node in members[a]:
            owner[node] = a
    return sorted(sorted(each) for each in members.values() if len(each) > 1)


def _merge(
    a: int, b: int, members: dict[int, list[int]], between: dict[int, dict[int, int]]
) -> None:
    """Let group ``b`` become part of group ``a``, with the links to others that it has."""
    members[a] += members.pop(b)
    between[a].pop(b, None)
    for other, count in between.pop(b).items():
        if other != a:
            del between[other][b]
            total = between[a].get(other, 0) + count
            between[a][other] = between[other][a] = total
