"""How well embeddings retrieve images of the same label.

A query is an image; its gallery is all the other images, ranked by Euclidean distance. Relevant are
those of the query's label; a query without any is left out.

=========  ====================================================================================
recall@k   share of queries with a relevant image among the k nearest; R@1 is recall@1
P@10       share of relevant images among the 10 nearest (or all, if there are fewer)
mAP        mean over queries of the average precision over all relevant images, as
           :func:`sklearn.metrics.average_precision_score` defines it: images at equal distance
           are taken together
=========  ====================================================================================

Each comes with the 95 % percentile interval of 1,000 bootstrap resamples of the queries.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.metrics import average_precision_score

from imgsim.encoder.encoder import Encoder
from imgsim.errors import ImageError, LabelError
from imgsim.evaluation.baselines import Descriptions, describe
from imgsim.evaluation.labels import labelled_among
from imgsim.options import DecodeRules, EvaluationSettings
from imgsim.parallel import gathered
from imgsim.records import ImageFile
from imgsim.results import Progress
from imgsim.scores import ClassScore, Evaluation, MeanWithInterval, RetrievalExample, Scores

NEAREST = 10
RECALLED = 1, 5, 10

_RESAMPLES = 1_000


@dataclass(frozen=True, eq=False)
class Ranking:
    """What each of q queries found.

    ``nearest`` (q, k) int64 are rows of the gallery, nearest first; ``relevant`` says of each
    whether it is; ``average_precision`` (q,) float64 is over the whole gallery.
    """

    nearest: NDArray[np.int64]
    relevant: NDArray[np.bool_]
    average_precision: NDArray[np.float64]


def chosen_queries(labels: NDArray[np.int64], most: int, seed: int) -> NDArray[np.int64]:
    """Return the rows of up to ``most`` images, drawn at random, that have others of their label.

    ``labels`` (n,) are numbers from 0. Raises :class:`LabelError` if there is nothing to measure.
    """
    counts = np.bincount(labels)
    if len(counts) < 2:
        raise LabelError(f"the images have {len(counts)} label; retrieval needs at least 2")
    drawn = np.random.default_rng(seed).permutation(len(labels))
    queries: NDArray[np.int64] = drawn[counts[labels[drawn]] > 1][:most]
    if not len(queries):
        raise LabelError("no label has more than one image, so nothing can be retrieved")
    return queries


def rank(
    embeddings: NDArray[np.float32],
    labels: NDArray[np.int64],
    queries: NDArray[np.int64],
    gallery: NDArray[np.int64],
    *,
    at_once: int = 1 << 24,
) -> Ranking:
    """Rank the rows ``gallery`` of ``embeddings`` (n, d) by distance from each row ``queries``.

    A query is not in its own gallery. Distances are sums of squared differences in float64; equal
    ones rank in the order of rows. At most ``at_once`` are in memory.
    """
    step = max(1, at_once // len(gallery))
    parts = [
        _ranked(embeddings, labels, queries[start : start + step], gallery)
        for start in range(0, len(queries), step)
    ]
    nearest, precisions = zip(*parts, strict=True)
    rows = np.concatenate(nearest)
    relevant = labels[rows] == labels[queries][:, np.newaxis]
    return Ranking(rows, relevant, np.concatenate(precisions))


def _ranked(
    embeddings: NDArray[np.float32],
    labels: NDArray[np.int64],
    queries: NDArray[np.int64],
    gallery: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the nearest (q, k) rows and the average precisions (q,) of some queries."""
    distances = cdist(embeddings[queries], embeddings[gallery])
    own = gallery == queries[:, np.newaxis]
    distances[own] = np.inf
    k = min(NEAREST, len(gallery) - int(own.any()))
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    precisions = [
        average_precision_score(labels[gallery[~mine]] == labels[query], -row[~mine])
        for query, mine, row in zip(queries, own, distances, strict=True)
    ]
    return gallery[order], np.array(precisions)


def scores_of(ranking: Ranking) -> Scores:
    """Return the means over all queries, with their intervals."""
    hits = ranking.relevant
    recalled = {k: _score(hits[:, :k].max(axis=1)) for k in RECALLED}
    return Scores(
        recall=recalled,
        p10=_score(hits.mean(axis=1)),
        map=_score(ranking.average_precision),
    )


def _score(values: NDArray[Any]) -> MeanWithInterval:
    """Return the mean of per-query values and its bootstrapped 95 % interval."""
    values = values.astype(np.float64)
    random = np.random.default_rng(0)
    draws = (random.integers(len(values), size=len(values)) for _ in range(_RESAMPLES))
    low, high = np.percentile([values[draw].mean() for draw in draws], [2.5, 97.5])
    return MeanWithInterval(float(values.mean()), float(low), float(high))


def evaluate(
    encoders: Mapping[str, Encoder],
    root: str,
    found: Iterable[ImageFile | ImageError],
    settings: EvaluationSettings,
    on_progress: Progress | None = None,
) -> Evaluation:
    """Score the labelled images among the files found at and under ``root``, by each encoder.

    Raises :class:`LabelError` if the labels match no images, or allow no retrieval.
    """
    given = labelled_among(found, root, settings)
    rules, chosen = DecodeRules(settings.max_pixels), list(encoders.values())

    def described(path: str) -> tuple[str, Descriptions]:
        return path, describe(path, chosen, rules)

    images, failed = gathered(described, list(given.labels), on_progress)
    evaluation = _evaluated(dict(images), list(encoders), given.labels, settings)
    refused = *given.refused, *failed
    return replace(evaluation, unlabelled=given.unlabelled, refused=refused)


def _evaluated(
    images: Mapping[str, Descriptions],
    encoders: Sequence[str],
    labels: Mapping[str, str],
    settings: EvaluationSettings,
) -> Evaluation:
    paths = list(images)
    names = [labels[path] for path in paths]
    classes, numbers = np.unique(np.array(names), return_inverse=True)
    queries = chosen_queries(numbers, settings.queries, settings.seed)
    everything = np.arange(len(paths))
    described = ((each.pixels, each.histogram, *each.embeddings) for each in images.values())
    rankings = [
        rank(np.stack(rows), numbers, queries, everything) for rows in zip(*described, strict=True)
    ]
    pixels, histogram, *scores = map(scores_of, rankings)
    found = rankings[2]
    return Evaluation(
        images=len(paths),
        queries=len(queries),
        embeddings=scores[0],
        encoders=dict(zip(encoders, scores, strict=True)),
        pixels=pixels,
        histogram=histogram,
        classes=_class_scores(classes.tolist(), numbers, queries, found),
        retrieved=tuple(
            RetrievalExample(
                paths[query],
                names[query],
                tuple(paths[row] for row in rows),
                tuple(names[row] for row in rows),
            )
            for query, rows in zip(queries.tolist(), found.nearest.tolist(), strict=True)
        ),
    )


def _class_scores(
    classes: Sequence[str],
    labels: NDArray[np.int64],
    queries: NDArray[np.int64],
    ranking: Ranking,
) -> tuple[ClassScore, ...]:
    """Return for each label what the 10 nearest of its queries are."""
    counts = np.bincount(labels, minlength=len(classes))
    found = []
    for number, name in enumerate(classes):
        mine = labels[ranking.nearest[labels[queries] == number]]
        shares = np.bincount(mine.ravel(), minlength=len(classes)) / max(1, mine.size)
        named = {classes[i]: float(shares[i]) for i in np.argsort(-shares, kind="stable")}
        found.append(
            ClassScore(
                label=name,
                images=int(counts[number]),
                queries=len(mine),
                retrieved={label: share for label, share in named.items() if share},
            )
        )
    return tuple(found)
