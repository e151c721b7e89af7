"""Measure outliers, groups, samples and clusters of a large collection, beside FAISS.

A made-up collection holds embeddings that ``embeddings.py`` wrote. Each job runs in a process of
its own, imgsim's and FAISS's taking turns. Seconds are those of the job, once the collection is
opened and what is imported is there; memory is the most that the process had besides mapped files.

=========  ========================================  ==========================================
job        imgsim                                    FAISS
=========  ========================================  ==========================================
outliers   ``curation.outliers``                     ``IndexFlatL2.search`` for the k nearest
groups     ``neighbours`` within a radius            ``IndexFlatL2.range_search``
sample     ``curation.sample``                       the same method on ``pairwise_distances``
clusters   ``curation.clusters``                     ``Kmeans`` with as many iterations as there
=========  ========================================  ==========================================
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
from made_up import BATCH, fill
from measure import median, print_table, write_json
from numpy.typing import NDArray

from imgsim import Collection, SearchFilter

K, PICKS = 5, 500
WANTED = 10  # neighbours of an image within the radius of the groups, in the median

Rows = NDArray[np.float32]


def stored(folder: Path, count: int) -> Path:
    """Return a collection of so many of the embeddings in a folder."""
    path = folder / f"curation-{count}.imgsim"
    if not path.exists():
        embeddings = np.load(folder / "embeddings.npy", mmap_mode="r")[:count]
        scratch = path.with_suffix(".unfinished")
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.copytree(folder / "encoder.imgsim", scratch)
        fill(scratch, (embeddings[at : at + BATCH] for at in range(0, len(embeddings), BATCH)))
        scratch.rename(path)
    return path


def usual_radius(path: Path) -> float:
    """Return the median distance to the tenth nearest other, of some images."""
    with Collection.open(path) as collection, collection.searcher() as searcher:
        ids = [image.id for image in collection.images()][:: max(1, len(searcher) // 300)]
        return float(np.median(searcher.search_ids(ids, WANTED).distances[:, -1]))


def imgsim_jobs(collection: Collection, radius: float) -> dict[str, Callable[[], object]]:
    """Return what imgsim does."""
    within = SearchFilter(radius=radius)
    return {
        "outliers": lambda: collection.curation.outliers(K).median,
        "groups": lambda: sum(len(each.matches) for each in collection.neighbours(None, within)),
        "sample": lambda: collection.curation.sample(PICKS).radius,
        "clusters": lambda: len(collection.curation.clusters().clusters),
    }


def faiss_jobs(rows: Rows, radius: float) -> dict[str, Callable[[], object]]:
    """Return what FAISS does for the same."""
    index = faiss.IndexFlatL2(rows.shape[1])
    index.add(rows)

    def outliers() -> float:
        squares, _ = index.search(rows, K + 1)
        return float(np.sqrt(np.median(np.maximum(squares[:, -1], 0))))

    def groups() -> int:
        return int(index.range_search(rows, radius**2)[0][-1]) - len(rows)

    def sample() -> float:
        nearest, pick = np.full(len(rows), np.inf, np.float32), 0
        mean = rows.mean(axis=0, keepdims=True)
        pick = int(faiss.pairwise_distances(mean, rows).argmin())
        for _ in range(PICKS):
            distances = faiss.pairwise_distances(rows[pick : pick + 1], rows)[0]
            np.minimum(nearest, distances, out=nearest)
            pick = int(nearest.argmax())
        return float(np.sqrt(nearest.max()))

    def clusters() -> int:
        count = round((len(rows) / 2) ** 0.5)
        model = faiss.Kmeans(rows.shape[1], count, niter=10, seed=0)
        model.train(rows)
        return len(np.unique(model.assign(rows)[1]))

    return {"outliers": outliers, "groups": groups, "sample": sample, "clusters": clusters}


def run(side: str, job: str, path: Path, source: Path, radius: float, count: int) -> None:
    """Do one job and print its seconds, the answer, and what memory it took."""
    with Collection.open(path) as collection:
        if side == "imgsim":
            collection.curation.sample(1)  # loads what is imported
            jobs = imgsim_jobs(collection, radius)
        else:
            jobs = faiss_jobs(np.load(source / "embeddings.npy")[:count], radius)
        began = time.perf_counter()
        answer = jobs[job]()
        print(json.dumps({"seconds": time.perf_counter() - began, "answer": answer}))


def measured(command: list[str]) -> dict[str, float]:
    """Return what a process prints, and the most MB that it had besides mapped files."""
    most = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            lines = status.read_text().splitlines()
            most = max([most, *(int(line.split()[1]) for line in lines if "RssAnon" in line)])
            time.sleep(0.02)
        assert process.stdout is not None
        printed = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{command} exits with {process.returncode}")
    found: dict[str, float] = json.loads(printed.splitlines()[-1])
    return found | {"megabytes": most / 1e3}


def main() -> None:
    """Run all jobs in turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--embeddings", required=True, type=Path, help="what embeddings.py wrote")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--run", nargs=3, help="for the processes: a side, a job, the radius")
    options = parser.parse_args()
    path = stored(options.embeddings, options.count)
    if options.run:
        side, job, radius = options.run
        run(side, job, path, options.embeddings, float(radius), options.count)
        return
    radius = usual_radius(path)
    figures: dict[str, dict[str, list[dict[str, float]]]] = {}
    for _ in range(options.repeats):
        for job in ("outliers", "groups", "sample", "clusters"):
            for side in ("imgsim", "faiss"):
                command = [sys.executable, __file__, "--embeddings", str(options.embeddings)]
                command += ["--count", str(options.count), "--run", side, job, str(radius)]
                figures.setdefault(job, {}).setdefault(side, []).append(measured(command))
    rows: list[tuple[object, ...]] = [
        (f"{options.count:,} embeddings", "imgsim, s", "faiss, s", "MB", "MB", "answer", "answer")
    ]
    for job, sides in figures.items():
        cells = [
            [median([each[name] for each in runs]) for runs in sides.values()]
            for name in ("seconds", "megabytes", "answer")
        ]
        rows.append((job, *cells[0], *cells[1], *cells[2]))
    print(f"within {radius:.4g} there are {WANTED} others of an image\n")
    print_table(rows)
    write_json(options.json, {"radius": radius, **figures})


if __name__ == "__main__":
    main()
