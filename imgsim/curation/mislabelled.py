"""Labels that the neighbours of an image speak against, and how sure that is.

Two witnesses say how likely each label of an image is; neither has seen the one it has. Its nearest
others vote for their labels, the more the nearer they are. To these votes come some for labels that
images with such neighbours have in general: a dress among skirts is less odd than a hat. The other
witness is linear discriminant analysis, fitted to other images. The score of the given label is the
share of the likeliest other label in the two, by the geometric mean of what both say.

How sure a score is, is measured on the images themselves. Five times each gets a label at random,
other than its own, and a score for that: this is how wrong labels score. Scores of the given labels
are a mixture of those and of right ones (B. Efron, Size, power and false discovery rates, 2007,
calls it the two-groups model). The share of wrong ones is the most for which there is room: the
least ratio, over some thresholds, of given to random labels that score as much. The probability
that a label is wrong is that share times the ratio of densities at its score, which isotonic
regression gives; each image's curve is fitted to the other four fifths. Wrong labels that were not
drawn at random, as those of one who takes all skirts for dresses, look right here.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from imgsim.encoder.embed import embedding_of
from imgsim.encoder.encoder import Encoder
from imgsim.errors import ImageError, LabelError
from imgsim.evaluation.labels import labelled_among
from imgsim.files import absolute
from imgsim.findings import LabelReport, Mislabelled
from imgsim.images.decode import decode
from imgsim.options import DecodeRules, EvaluationSettings, SearchFilter, listed
from imgsim.parallel import gathered
from imgsim.records import ImageFile
from imgsim.results import Progress

_FEWEST = 20  # images that say anything about each other
_SHRINKAGE = 0.1  # of covariances, towards equal variances
_FLOOR = 1e-6  # of a likelihood
_SHARPNESS = 3.0  # how much less the farthest of the neighbours counts: exp(-3)
_GENERAL = 3.0  # votes for what images with such neighbours have in general
_DRAWS = 5  # random labels of each image
_FOLDS = 5
_SHOWN = 10  # neighbours
_AT_ONCE = 4_096  # images whose votes for all labels are in memory


@dataclass(frozen=True, eq=False)
class Suspicion:
    """What the neighbours say of n labels.

    ``probability`` (n,) float64 that each is wrong, its ``score`` (n,), the ``proposed`` (n,) int64
    other label, the ``nearest`` (n, k) int64 rows, and the ``share`` of wrong labels in all.
    """

    probability: NDArray[np.float64]
    score: NDArray[np.float64]
    proposed: NDArray[np.int64]
    nearest: NDArray[np.int64]
    share: float


def mislabelled(
    encoder: Encoder,
    root: str,
    found: Iterable[ImageFile | ImageError],
    settings: EvaluationSettings,
    k: int,
    on_progress: Progress | None = None,
) -> LabelReport:
    """Return the labelled images among the files found at and under ``root``, the surest first.

    Raises :class:`LabelError` if they have fewer than two labels, or are too few.
    """
    given = labelled_among(found, root, settings)
    work = partial(_embedded, encoder=encoder, rules=DecodeRules(settings.max_pixels))
    pairs, failed = gathered(work, sorted(given.labels), on_progress)
    paths = [path for path, _ in pairs]
    names, labels = np.unique([given.labels[path] for path in paths], return_inverse=True)
    if len(names) < 2 or len(paths) < max(_FEWEST, 2 * len(names)):
        raise LabelError(
            f"{len(paths):,} images can be decoded and have {len(names):,} labels; there must be "
            f"at least 2 labels, {_FEWEST} images, and twice as many images as labels"
        )
    said = suspicion(np.stack([row for _, row in pairs]), labels.astype(np.int64), k)
    order = np.lexsort((np.arange(len(paths)), -said.score, -said.probability)).tolist()
    return LabelReport(
        images=len(paths),
        labels=len(names),
        wrong=said.share,
        found=tuple(
            Mislabelled(
                rank,
                paths[row],
                str(names[labels[row]]),
                str(names[said.proposed[row]]),
                float(said.probability[row]),
                tuple(paths[other] for other in said.nearest[row, :_SHOWN].tolist()),
                tuple(str(name) for name in names[labels[said.nearest[row, :_SHOWN]]]),
            )
            for rank, row in enumerate(order, start=1)
        ),
        unlabelled=given.unlabelled,
        refused=(*given.refused, *failed),
    )


def admitted(
    found: Iterable[ImageFile | ImageError], within: SearchFilter
) -> Iterator[ImageFile | ImageError]:
    """Yield what is in the folders of a filter."""
    inside, outside = (
        tuple(f"{absolute(place).rstrip('/')}/" for place in listed(places))
        for places in (within.under, within.not_under)
    )
    for each in found:
        path = f"{each.path}/"  # a folder that is named may be a file
        if path.startswith(inside or "/") and not path.startswith(outside):
            yield each


def suspicion(
    embeddings: NDArray[np.float32], labels: NDArray[np.int64], k: int, seed: int = 0
) -> Suspicion:
    """Say how sure it is that each of ``labels`` (n,), numbers from 0, is wrong.

    ``embeddings`` are (n, d), and the ``k`` nearest vote.
    """
    distances, nearest = _nearest(embeddings, min(k, len(labels) - 1))
    scale = np.maximum(distances[:, -1:], np.finfo(np.float64).tiny)
    weights = np.exp(-_SHARPNESS * np.square(distances / scale))
    copies = (distances == 0) & (labels[nearest] == labels[:, np.newaxis])
    weights[copies] = 0  # they have the label because the image has it
    random, count = np.random.default_rng(seed), int(labels.max()) + 1
    drawn = (labels + random.integers(1, count, size=(_DRAWS, len(labels)))) % count
    alike = np.unique(embeddings, axis=0, return_inverse=True)[1].reshape(-1)
    folds = (random.permutation(int(alike.max()) + 1) % _FOLDS)[alike]  # copies are in the same
    witnesses = _Witnesses(nearest, weights, _linear(embeddings, labels, folds), labels)
    given, wrong, proposed = _scores(witnesses, drawn)
    share = _share_of_wrong(given, wrong)
    odds = _density_ratio(given, wrong, folds)
    return Suspicion(np.minimum(1.0, share * odds), given, proposed, nearest, share)


@dataclass(frozen=True, eq=False)
class _Witnesses:
    """The ``weights`` (n, k) with which the ``nearest`` (n, k) rows vote for their ``labels`` (n,).

    And how likely each label is by a ``linear`` model (n, labels).
    """

    nearest: NDArray[np.int64]
    weights: NDArray[np.float64]
    linear: NDArray[np.float64]
    labels: NDArray[np.int64]

    def votes(self) -> Iterator[tuple[slice, NDArray[np.float64]]]:
        """Yield the votes of some rows for each label, and which rows they are."""
        count = self.linear.shape[1]
        for start in range(0, len(self.labels), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            voted = self.labels[self.nearest[part]]
            votes = np.zeros((len(voted), count))
            np.add.at(votes, (np.arange(len(voted))[:, np.newaxis], voted), self.weights[part])
            yield part, votes


def _scores(
    witnesses: _Witnesses, drawn: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Return the scores of the given labels (n,) and of those drawn (draws, n).

    And the likeliest other label (n,) than the given one.
    """
    labels, count = witnesses.labels, witnesses.linear.shape[1]
    general = np.zeros((count, count))  # of label by neighbours: the given labels
    for part, block in witnesses.votes():
        np.add.at(general.T, labels[part], _shares(block))
    scores, others = np.empty((1 + len(drawn), len(labels))), np.empty(len(labels), np.int64)
    for part, block in witnesses.votes():
        voted = _likelihoods(block, labels[part], general)
        likely = np.sqrt(voted * np.maximum(witnesses.linear[part], _FLOOR))
        for row, chosen in enumerate((labels[part], *drawn[:, part])):
            places = np.arange(len(chosen))
            mine = likely[places, chosen]
            rest = likely.copy()
            rest[places, chosen] = -1.0
            best = rest.max(axis=1)
            scores[row, part] = best / (best + mine)
            if not row:
                others[part] = rest.argmax(axis=1)
    return scores[0], scores[1:], others


def _likelihoods(
    votes: NDArray[np.float64], labels: NDArray[np.int64], general: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return how likely each label is for some rows (m, labels), by votes of theirs and of all.

    ``general`` has, by label of neighbours, how often images have each label. What a row has added
    to it is left out, and one image with all labels is added.
    """
    shares, count = _shares(votes), len(general)
    weight = shares / np.maximum(general.sum(axis=1) - shares + 1, 1e-9)
    expected = weight @ (general + 1 / count)
    expected[np.arange(len(votes)), labels] -= (weight * shares).sum(axis=1)
    total = votes.sum(axis=1, keepdims=True)
    likely: NDArray[np.float64] = (votes + _GENERAL * expected) / (total + _GENERAL)
    return np.maximum(likely, _FLOOR)


def _shares(votes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return votes as shares of those of a row; where there are none, all labels are equal."""
    total = votes.sum(axis=1, keepdims=True)
    return np.where(total > 0, votes / np.where(total > 0, total, 1), 1 / votes.shape[1])


def _share_of_wrong(given: NDArray[np.float64], wrong: NDArray[np.float64]) -> float:
    """Return the greatest share of wrong labels for which there is room in the given ones.

    A standard error is added, because the least of many ratios is too low by chance.
    """
    thresholds = np.quantile(wrong, np.linspace(0, 0.5, 51))
    mine, theirs = np.sort(given), np.sort(wrong.ravel())
    above = 1 - np.searchsorted(mine, thresholds) / len(mine)
    expected = 1 - np.searchsorted(theirs, thresholds) / len(theirs)
    error = np.sqrt(np.maximum(above * (1 - above), 1 / len(mine)) / len(mine))
    return float(min(1.0, ((above + error) / expected).min()))


def _density_ratio(
    given: NDArray[np.float64], wrong: NDArray[np.float64], folds: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return by how much denser the wrong scores (draws, n) are than the given (n,), at these.

    The curve for each fold is fitted to the others, and to one right label with the highest score:
    where there are few, none is certain.
    """
    from sklearn.isotonic import IsotonicRegression  # noqa: PLC0415 - scikit-learn takes seconds

    odds = np.empty(len(given))
    for fold in range(_FOLDS):
        fitted = folds != fold
        scores = np.concatenate([[1.0], given[fitted], wrong[:, fitted].ravel()])
        are_wrong = np.arange(len(scores)) > fitted.sum()
        weights = np.where(are_wrong, 1 / len(wrong), 1.0)
        curve = IsotonicRegression(out_of_bounds="clip").fit(scores, are_wrong, weights)
        shares = curve.predict(given[~fitted])
        odds[~fitted] = shares / np.maximum(1 - shares, 1e-9)
    return odds


def _linear(
    embeddings: NDArray[np.float32], labels: NDArray[np.int64], folds: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return how likely each label is for each row (n, labels), by a fit to the other folds."""
    from sklearn.discriminant_analysis import (  # noqa: PLC0415 - as above
        LinearDiscriminantAnalysis,
    )

    likely = np.zeros((len(labels), int(labels.max()) + 1))
    for fold in range(_FOLDS):
        fitted = folds != fold
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=_SHRINKAGE)
        model.fit(embeddings[fitted], labels[fitted])
        likely[np.ix_(~fitted, model.classes_)] = model.predict_proba(embeddings[~fitted])
    return likely


def _nearest(
    embeddings: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return distances to the ``k`` nearest other rows (n, k) of each row, and which they are."""
    from sklearn.neighbors import NearestNeighbors  # noqa: PLC0415 - as above

    search = NearestNeighbors(n_neighbors=k + 1, algorithm="brute").fit(embeddings)
    distances, rows = search.kneighbors(embeddings)
    own = rows == np.arange(len(rows))[:, np.newaxis]
    own[~own.any(axis=1), -1] = True  # more copies of it than neighbours
    shape = len(rows), k
    return distances[~own].reshape(shape).astype(np.float64), rows[~own].reshape(shape)


def _embedded(path: str, encoder: Encoder, rules: DecodeRules) -> tuple[str, NDArray[np.float32]]:
    return path, embedding_of(path, decode(path, encoder.preprocessing.frame, rules), encoder)
