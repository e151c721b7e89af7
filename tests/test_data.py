"""The main job on thousands of real images and on hostile files, where the data is at hand.

``IMGSIM_TEST_DATA`` names the folder; without it, ``../shared/data`` beside the checkout is used.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from imgsim import Collection
from imgsim.encoder.head_fit import colour_evidence, weight_of_colours
from imgsim.images.decode import decode
from imgsim.images.frame import Frame
from imgsim.index import scan_numba, scan_numpy
from imgsim.index.bounds import Bounds, write_bounds
from imgsim.index.projection import fit_projection
from tests.conftest import DATA
from tests.index.test_searcher import searcher_of, source_of

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no data in {DATA}")


def unpacked(name, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    with tarfile.open(DATA / name) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def clothing(tmp_path_factory):
    """3,781 photos, and five exact duplicates of one of them in other folders."""
    folder = unpacked("clothing.tar", tmp_path_factory)
    photos = sorted(folder.rglob("*.jpg"))
    assert len(photos) == 3781
    for number in range(5):
        shutil.copy(photos[2000], photos[700 * number].with_name(f"twin-{number}.jpg"))
    return folder


@pytest.mark.parametrize("images", [500, 3_000])
@pytest.mark.parametrize(("name", "weight"), [("clothing", "little"), ("grocery", "much")])
def test_how_much_colours_count(name, weight, images, tmp_path_factory):
    """Few images are enough to say it."""
    photos = sorted(unpacked(f"{name}.tar", tmp_path_factory).rglob("*.jpg"))
    drawn = np.random.default_rng(0).choice(photos, images, replace=False)
    assert (
        weight_of_colours(colour_evidence(decode(str(p), Frame(64, 64))) for p in drawn) == weight
    )


def test_the_main_job_on_clothing(clothing, tmp_path, imgsim):
    def run(*arguments):
        done = imgsim("-c", tmp_path / "c", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("train", *sorted(clothing.rglob("*.jpg"))[::10], "--image-size", "32", "--epochs", "2")
    report = json.loads(run("ingest", clothing, "--json"))
    assert (report["added"], report["skipped"], report["refused"]) == (3786, 1, [])
    assert json.loads(run("ingest", clothing, "--json"))["unchanged"] == 3786
    photo = str(sorted(clothing.rglob("*.jpg"))[1234])
    answer = json.loads(run("query", photo, "-k", "1", "--format", "jsonl"))
    assert (answer["neighbour_path"], answer["distance"]) == (photo, 0.0)

    run("export", "neighbours", "-k", "10", "-o", tmp_path / "n.parquet")
    run("export", "embeddings", "-o", tmp_path / "f.npz")
    with np.load(tmp_path / "f.npz") as arrays:
        ids, paths = arrays["image_id"], [os.fsdecode(p) for p in arrays["path"].tolist()]
        embeddings = arrays["embedding"].astype(np.float64)
    table = pq.read_table(tmp_path / "n.parquet").to_pydict()
    assert table["image_id"] == np.repeat(ids, 10).tolist()
    assert table["rank"] == list(range(1, 11)) * 3786
    names = dict(zip(ids.tolist(), paths, strict=True))
    assert table["neighbour_path"] == [names[i] for i in table["neighbour_id"]]
    found_ids = np.array(table["neighbour_id"]).reshape(-1, 10)
    found = np.array(table["distance"]).reshape(-1, 10)
    for i in range(0, len(ids), 7):
        brute = np.sqrt(((embeddings - embeddings[i]) ** 2).sum(axis=1))
        brute[i] = np.inf
        order = np.lexsort((ids, brute))[:10]
        assert found_ids[i].tolist() == ids[order].tolist()
        assert found[i].tolist() == brute[order].tolist()
    assert sum(len(set(row)) < 10 for row in found) >= 6


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """1,051 odd and broken files; beside their folder, what Pillow did with each."""
    folder = unpacked("hostile.tar.gz", tmp_path_factory) / "hostile"
    (folder / "manifest.csv").rename(folder.with_name("manifest.csv"))
    return folder


def test_every_hostile_file_is_accounted_for(hostile, empty):
    with Collection.open(empty) as collection:
        report = collection.ingest([hostile])
        assert report.seen == 1051
        assert report.added == collection.info().images
        assert all(refusal.reason for refusal in report.refused)
        assert collection.check() == []
        again = collection.ingest([hostile])
        assert (again.added, again.unchanged) == (0, report.added)
        assert (again.seen, again.skipped) == (1051, report.skipped)
        assert sorted(again.refused, key=str) == sorted(report.refused, key=str)
        with collection._directory.catalog.snapshot() as snapshot:
            stored = set(snapshot.paths(range(1, report.added + 1)).values())
    with open(hostile.with_name("manifest.csv"), newline="", errors="surrogateescape") as file:
        loads = {
            str(hostile / row["path"])
            for row in csv.DictReader(file)
            if row["pillow13_outcome"] == "ok"
        }
    refused = loads - stored
    cut = {path for path in refused if path.endswith(".jpg")}  # libjpeg fills up what they lack
    assert (len(refused), len(cut)) == (11, 4)
    for path in refused - cut:  # whoever listed them asked for EXIF data before the pixels
        with pytest.raises(OSError, match="data stream"), Image.open(path) as image:
            image.load()


DECODE_EACH = """
import os, resource, sys, time
from imgsim.errors import ImageError
from imgsim.images.decode import opened
from imgsim.images.frame import Frame
from imgsim.images.scan import find
for file in find([sys.argv[1]]):
    if not os.fork():
        began = time.perf_counter()
        try:
            with opened(file.path) as image:
                image.decode(Frame(256, 256))
        except ImageError:
            pass
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        print(memory, time.perf_counter() - began, file.path, flush=True)
        os._exit(0)
    assert os.wait()[1] == 0, file.path
"""


def test_no_hostile_file_takes_ten_seconds_or_a_gigabyte(hostile):
    command = [sys.executable, "-c", DECODE_EACH, hostile]
    run = subprocess.run(command, check=True, capture_output=True)
    rows = [line.split(maxsplit=2) for line in run.stdout.splitlines()]
    assert len(rows) == 1051
    assert [row for row in rows if int(row[0]) >= 1_000 or float(row[1]) >= 10] == []


@pytest.mark.parametrize("backend", [scan_numpy, scan_numba], ids=["numpy", "compiled"])
def test_exact_neighbours_of_sift(tmp_path, backend):
    """Integers of 128 dimensions with published exact neighbours, ties broken by row."""
    with np.load(DATA / "sift5k.npz") as arrays:
        base, queries = (arrays[name].astype(np.float32) for name in ("base", "query"))
        expected, squared = arrays["neighbors"], arrays["sqdist"]
    projection = fit_projection(base)
    sources = []
    for number, ids in enumerate(np.array_split(np.arange(len(base)), 5)):
        path = tmp_path / f"{number}.faiss"
        bounds = None
        if number and projection.near:
            write_bounds(path.with_suffix(".bounds"), len(ids), projection, [base[ids]])
            bounds = Bounds(path.with_suffix(".bounds"), len(ids), projection)
        sources.append(source_of(path, ids, base[ids], bounds))
    searcher = searcher_of(sources, projection, 128, backend)
    for number, (found_ids, found) in enumerate(searcher.search(queries, 100).nearest):
        assert found_ids.tolist() == expected[number].tolist()
        assert found.tolist() == np.sqrt(squared[number]).tolist()
