import shutil

import numpy as np
import pytest
from PIL import Image

from imgsim import SearchFilter
from imgsim.index.distance import distances


def test_distances_are_those_to_the_kth_nearest(filled):
    paths = [image.path for image in filled.images()]
    rows = filled.embed(paths)
    kth = [np.sort(distances(row, rows))[3] for row in rows]  # its own is the first
    report = filled.curation.outliers(k=3, most=36)
    assert (report.images, report.k) == (36, 3)
    order = sorted(range(36), key=lambda row: (-kth[row], paths[row]))
    assert [each.path for each in report.outliers] == [paths[row] for row in order]
    assert [each.distance for each in report.outliers] == [kth[row] for row in order]
    assert report.median == np.median(kth)
    assert report.deviation == 1.4826 * np.median(np.abs(kth - np.median(kth)))
    first = report.outliers[0]
    assert first.deviations == (first.distance - report.median) / report.deviation
    assert [match.rank for match in first.matches] == [1, 2, 3]
    assert first.matches[2].distance == first.distance
    assert report.beyond == sum(each.deviations > 3.5 for each in report.outliers)


def test_blank_and_flat_pictures_are_named(filled, pictures):
    Image.new("RGB", (80, 60), "white").save(pictures / "blank.png")
    grey = np.random.default_rng(0).normal(120, 5, (60, 80)).clip(0, 255)
    stripes = np.where(np.arange(80) // 20 % 2, 112, 120) + 0 * grey
    Image.fromarray(stripes.astype(np.uint8)).save(pictures / "flat.png")
    filled.ingest([pictures])
    looks = {each.path: each.look for each in filled.curation.outliers(most=100).outliers}
    assert looks.pop(str(pictures / "blank.png")) == "blank"
    assert looks.pop(str(pictures / "flat.png")) == "flat"
    skies = {path for path, look in looks.items() if look != "usual"}
    assert all("rocket" in path or "hubble" in path for path in skies)
    assert len(skies) < 6
    (pictures / "blank.png").unlink()
    again = {each.path: each.look for each in filled.curation.outliers(most=100).outliers}
    assert again[str(pictures / "blank.png")] == "unknown"


def test_copies_do_not_hide_an_outlier(filled, pictures):
    Image.new("RGB", (64, 64), "magenta").save(pictures / "odd.png")
    for number in range(6):
        shutil.copy(pictures / "odd.png", pictures / f"odd-{number}.png")
    filled.ingest([pictures])
    report = filled.curation.outliers(k=1, most=43)
    odd = [each for each in report.outliers if "odd" in each.path]
    assert len(odd) == 7
    assert {(each.distance, each.deviations) for each in odd} == {
        (odd[0].distance, odd[0].deviations)
    }
    assert odd[0].distance > report.median
    assert [each.path for each in odd] == sorted(each.path for each in odd)
    assert all(match.distance > 0 for each in report.outliers for match in each.matches)


def test_only_what_is_in_the_folders_counts(filled, pictures, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(pictures, elsewhere)
    filled.ingest([elsewhere])
    within = SearchFilter(under=elsewhere)
    report = filled.curation.outliers(2, 50, within)
    assert report.images == len(report.outliers) == 36
    neighbours = [match.path for each in report.outliers for match in each.matches]
    assert all(path.startswith(str(elsewhere)) for path in neighbours)


def test_few_images(collection, pictures):
    assert collection.curation.outliers().outliers == ()
    paths = sorted(map(str, pictures.iterdir()))
    collection.ingest(paths[:1])
    report = collection.curation.outliers()
    assert (report.images, report.k, report.outliers) == (1, 0, ())
    collection.ingest(paths[:2])
    report = collection.curation.outliers()
    assert (report.images, report.k, len(report.outliers)) == (2, 1, 2)
    assert [each.deviations for each in report.outliers] == [0.0, 0.0]
    for wrong in ({"k": 0}, {"most": 0}):
        with pytest.raises(ValueError, match="must be at least 1"):
            collection.curation.outliers(**wrong)
