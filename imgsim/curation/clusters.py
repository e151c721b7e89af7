"""Groups of images of a kind, each with an image that stands for it.

k-means gives every image a group. HDBSCAN finds dense groups, however many there are, and leaves
the images between them apart. In hundreds of directions distances are too much alike for it to see
density, so it works on the 20 principal ones.
"""

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from imgsim.curation.rows import Rows
from imgsim.curation.sample import covered
from imgsim.findings import Apart, Cluster, ClusterMember, ClusterReport, Grouping, Sample
from imgsim.index.distance import distances
from imgsim.jobs.neighbours import paths_of

MOST_DENSE = 50_000
"""Images among which dense groups are sought: the time grows with the square."""

_FEWEST = 5  # images of a dense group
_DIRECTIONS = 20
_WHOLE = 20_000  # images that each step of k-means looks at; of more, steps take a batch
_BATCH = 4_096


def usual_count(images: int) -> int:
    """Return how many groups there are unless somebody says: the root of half the images.

    A rule of thumb of K. V. Mardia and others, Multivariate Analysis, 1979, 13.
    """
    return max(1, round(math.sqrt(images / 2)))


def clusters(rows: Rows, count: int | None, *, dense: bool = False) -> ClusterReport:
    """Return ``count`` groups, or the usual number of them, or with ``dense`` what is dense.

    The same images give the same groups. Of groups as large, the one whose representative has the
    first path comes first. Raises ValueError for too many images.
    """
    grouping: Grouping = "hdbscan" if dense else "k-means"
    if dense and len(rows) > MOST_DENSE:
        raise ValueError(f"dense groups are sought among {MOST_DENSE:,} images at most")
    labels = _dense(rows) if dense else _means(rows, count or usual_count(len(rows)))
    groups = _groups(rows, labels)
    paths = paths_of(rows.snapshot, rows.ids.tolist())
    found = [
        tuple(
            ClusterMember(number, paths[number], distance)
            for number, distance in zip(rows.ids[places].tolist(), away.tolist(), strict=True)
        )
        for places, away in groups
    ]
    return ClusterReport(
        images=len(rows),
        grouping=grouping,
        clusters=tuple(
            Cluster(number, len(members) / len(rows), members)
            for number, members in enumerate(found, start=1)
        ),
        apart=tuple(Apart(number, paths[number]) for number in rows.ids[labels < 0].tolist()),
    )


def typical(rows: Rows, count: int) -> Sample:
    """Return the image nearest to the mean of each of up to ``count`` groups of k-means.

    The group with the most images comes first. So many are picked from where many images are.
    """
    groups = _groups(rows, _means(rows, count))
    return covered(rows, [int(places[0]) for places, _ in groups])


def _groups(
    rows: Rows, labels: NDArray[np.int64]
) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Return rows and distances to their mean of each group, the nearest first.

    The largest group is the first. Of the mean squared distance to all of a group, that to the mean
    is the part that depends on the image: the nearest to the mean is the medoid by squares.
    """
    most = int(labels.max(initial=-1)) + 1
    totals, counts = (
        np.zeros((most, rows.embeddings.shape[1])),
        np.bincount(labels[labels >= 0], minlength=most),
    )
    for part, block in rows.blocks():
        inside = labels[part] >= 0
        np.add.at(totals, labels[part][inside], block[inside].astype(np.float64))
    away = np.zeros(len(rows))
    means = totals / np.maximum(counts, 1)[:, np.newaxis]
    for part, block in rows.blocks():
        inside = labels[part] >= 0
        away[part][inside] = distances(means[labels[part][inside]], block[inside])
    order = np.lexsort((np.arange(len(rows)), away, labels))
    cuts = np.searchsorted(labels[order], np.arange(most + 1))
    groups = [order[start:stop] for start, stop in pairwise(cuts.tolist()) if stop > start]
    groups.sort(key=lambda places: (-len(places), int(places[0])))
    return [(places, away[places]) for places in groups]


def _means(rows: Rows, count: int) -> NDArray[np.int64]:
    """Return the group (n,) of each row, by k-means; equal rows are in the same.

    On one thread: with several, the order of sums is left to chance, and so are groups.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans  # noqa: PLC0415 - it takes seconds
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    if not len(rows):
        return np.empty(0, np.int64)
    different, which, copies = np.unique(
        rows.embeddings, axis=0, return_inverse=True, return_counts=True
    )
    count = min(count, len(different))
    if len(different) <= _WHOLE:
        model = KMeans(count, n_init=1, random_state=0)
    else:
        model = MiniBatchKMeans(count, batch_size=_BATCH, n_init=3, random_state=0)
    with threadpool_limits(1):
        model.fit(different, sample_weight=copies)
    labels: NDArray[np.int64] = model.labels_[which.reshape(-1)].astype(np.int64)
    return labels


def _dense(rows: Rows) -> NDArray[np.int64]:
    """Return the group (n,) of each row, or -1, by HDBSCAN."""
    from sklearn.cluster import HDBSCAN  # noqa: PLC0415 - scikit-learn takes seconds
    from sklearn.decomposition import PCA  # noqa: PLC0415

    if len(rows) <= _FEWEST:
        return np.full(len(rows), -1, np.int64)
    embeddings = np.asarray(rows.embeddings)
    directions = min(_DIRECTIONS, *embeddings.shape)
    projected = PCA(directions, random_state=0).fit_transform(embeddings)
    found = HDBSCAN(min_cluster_size=_FEWEST, copy=True).fit(projected)
    labels: NDArray[np.int64] = found.labels_.astype(np.int64)
    return labels
