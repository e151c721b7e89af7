"""Measure how well wrong labels are found: flip some at random, and see which are named.

For each set of labelled images, EfficientNet-Lite0 is adapted to the images without their labels.
A share of the labels is replaced by others, drawn at random. Beside imgsim stand the vote of the
ten nearest, and cleanlab where it is installed (``pip install cleanlab``), with two estimates of
the probability of each label: the votes of the 30 nearest, and cross-fitted logistic regression.
Labels that were wrong before count as right.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from adapt import LEFT_OUT, NETWORK, sets
from measure import print_table, write_json
from numpy.typing import NDArray
from retrieval import DATA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from imgsim import AdaptSettings, Collection, EvaluationSettings
from imgsim.curation.mislabelled import suspicion
from imgsim.evaluation.labels import labelled_among
from imgsim.images.scan import find

K = 30
BINS = 10  # of the calibration error

Floats = NDArray[np.float64]


def embedded(
    folder: Path, table: Path, column: str, network: str
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return embeddings and labels of a set, by the path of the images."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        Collection.open(Path(scratch) / "c", create=True) as collection,
    ):
        collection.encoders.add_pretrained(network, name="bare")
        settings = AdaptSettings(exclude=LEFT_OUT)
        collection.encoders.adapt("bare", folder, settings, new_name="adapted")
        collection.encoders.use("adapted")
        found = find([str(folder)], (LEFT_OUT,))
        labels = labelled_among(found, str(folder), EvaluationSettings(str(table), column)).labels
        paths = sorted(labels)
        names = np.unique([labels[path] for path in paths], return_inverse=True)[1]
        return collection.embed(paths), names.astype(np.int64)


def flipped(labels: NDArray[np.int64], share: float, seed: int) -> NDArray[np.int64]:
    """Return labels of which a share is replaced by others."""
    random, wrong = np.random.default_rng(seed), labels.copy()
    count = int(labels.max()) + 1
    some = random.choice(len(labels), round(share * len(labels)), replace=False)
    wrong[some] = (labels[some] + random.integers(1, count, len(some))) % count
    return wrong


def methods(
    rows: NDArray[np.float32], labels: NDArray[np.int64], seed: int
) -> Iterator[tuple[str, Floats, Floats, dict[str, float]]]:
    """Yield for each method a score, how sure it is, and further figures."""
    said = suspicion(rows, labels, K, seed)
    yield "imgsim", said.score, said.probability, {"said to be wrong": said.share}
    nearest = NearestNeighbors(n_neighbors=10, algorithm="brute").fit(rows)
    others = nearest.kneighbors(return_distance=False)
    against = (labels[others] != labels[:, np.newaxis]).mean(axis=1)
    yield "vote of the 10 nearest", against, against, {}
    if find_spec("cleanlab") is None:
        return
    from cleanlab.filter import find_label_issues  # noqa: PLC0415 - it may not be installed
    from cleanlab.rank import get_label_quality_scores  # noqa: PLC0415

    kinds = {
        "votes": KNeighborsClassifier(K, algorithm="brute"),
        "regression": LogisticRegression(max_iter=100, tol=1e-3),
    }
    for name, model in kinds.items():
        likely = cross_val_predict(model, rows, labels, cv=5, method="predict_proba")
        issues = float(find_label_issues(labels, likely, n_jobs=1).mean())
        for method in ("self_confidence", "normalized_margin"):
            score = 1 - get_label_quality_scores(labels, likely, method=method)
            yield f"cleanlab, {name}, {method}", score, score, {"said to be wrong": issues}


def figures(score: Floats, sure: Floats, wrong: NDArray[np.bool_]) -> dict[str, float]:
    """Return how well the wrong labels are found, and how well-calibrated the probabilities are."""
    order, count = np.lexsort((-score, -sure)), int(wrong.sum())
    rank = np.empty(len(order))
    rank[order] = np.arange(len(order))
    found = {
        "precision at the flips": float(wrong[order[:count]].mean()),
        **{
            f"recall at {share:.0%}": float(wrong[order[: round(share * len(order))]].sum() / count)
            for share in (0.05, 0.1)
        },
        "average precision": float(average_precision_score(wrong, -rank)),
    }
    bins = np.minimum((sure * BINS).astype(int), BINS - 1)
    errors = [
        abs(float((sure[bins == each] - wrong[bins == each]).mean())) * float((bins == each).mean())
        for each in np.unique(bins)
    ]
    return found | {"calibration error": sum(errors)}


def main() -> None:
    """Run the benchmark on the labelled images in a folder, or on both sets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, help="a folder of images in place of the two sets")
    parser.add_argument("--labels", type=Path, help="a table; its column path is in the folder")
    parser.add_argument("--column", default="label")
    parser.add_argument("--data", type=Path, default=DATA, help="where the sets' archives are")
    parser.add_argument("--network", default=NETWORK)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.01, 0.05, 0.2])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    with sets(options) as chosen:
        for name, place in chosen.items():
            rows, labels = embedded(*place, options.network)
            for share in options.shares:
                results[f"{name}, {share:.0%} flipped"] = measured(
                    rows, labels, share, options.seeds
                )
    names = list(
        dict.fromkeys(key for kinds in results.values() for each in kinds.values() for key in each)
    )
    table = [
        (which, kind, *(means.get(name, "") for name in names))
        for which, kinds in results.items()
        for kind, means in kinds.items()
    ]
    print(f"{options.network}, {len(os.sched_getaffinity(0))} cores\n")
    print_table([("set", "method", *names), *table])
    write_json(options.json, results)


def measured(
    rows: NDArray[np.float32], labels: NDArray[np.int64], share: float, seeds: int
) -> dict[str, dict[str, float]]:
    """Return the mean figures of each method over some seeds."""
    found: dict[str, list[dict[str, float]]] = {}
    for seed in range(seeds):
        given = flipped(labels, share, seed)
        for method, score, sure, more in methods(rows, given, seed):
            found.setdefault(method, []).append(figures(score, sure, given != labels) | more)
    return {
        method: {name: float(np.mean([each[name] for each in all_])) for name in all_[0]}
        for method, all_ in found.items()
    }


if __name__ == "__main__":
    main()
