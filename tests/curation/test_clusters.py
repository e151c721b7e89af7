import numpy as np
import pytest
from PIL import Image

from imgsim.curation import clusters as module
from imgsim.index.distance import distances


@pytest.mark.parametrize("whole", [20_000, 20])
def test_every_image_is_in_one_group(filled, monkeypatch, whole):
    monkeypatch.setattr(module, "_WHOLE", whole)
    report = filled.curation.clusters()
    assert (report.images, report.grouping, report.apart) == (36, "k-means", ())
    assert len(report.clusters) == module.usual_count(36) == 4
    sizes = [len(each.members) for each in report.clusters]
    assert sizes == sorted(sizes, reverse=True)
    assert sum(each.share for each in report.clusters) == pytest.approx(1)
    assert len({m.path for each in report.clusters for m in each.members}) == 36


def test_the_representative_has_the_least_squared_distances(filled):
    for group in filled.curation.clusters(3).clusters:
        rows = filled.embed([member.path for member in group.members])
        sums = [np.square(distances(row, rows)).sum() for row in rows]
        assert sums[0] <= min(sums) * (1 + 1e-9)
        mean = rows.astype(np.float64).mean(axis=0)
        assert [m.distance for m in group.members] == pytest.approx(distances(mean, rows))


def test_dense_groups_leave_images_apart(filled, crops, tmp_path):
    """Eight resaves of one photograph are one; the crops of starry sky are much alike, too."""
    for number in range(8):
        with Image.open(crops[0]) as image:
            image.save(tmp_path / f"again-{number}.jpg", quality=70 + number)
    filled.ingest([str(tmp_path / f"again-{number}.jpg") for number in range(8)])
    report = filled.curation.clusters(dense=True)
    assert report.grouping == "hdbscan"
    (again,) = [g for g in report.clusters if any("again" in m.path for m in g.members)]
    assert sum("again" in member.path for member in again.members) == 8
    assert len(report.apart) + sum(len(g.members) for g in report.clusters) == 44
    assert report.apart


@pytest.mark.parametrize("dense", [False, True])
def test_few_images(collection, pictures, dense):
    assert collection.curation.clusters(dense=dense).clusters == ()
    collection.ingest(sorted(map(str, pictures.iterdir()))[:1])
    report = collection.curation.clusters(dense=dense)
    assert (report.images, len(report.clusters), len(report.apart)) == (1, not dense, int(dense))


def test_more_groups_than_different_images(filled, pictures):
    copy = pictures / "copy.jpg"
    copy.write_bytes(sorted(pictures.iterdir())[0].read_bytes())
    filled.ingest([copy])
    report = filled.curation.clusters(1_000)
    members = [[member.id for member in group.members] for group in report.clusters]
    assert sorted(number for group in members for number in group) == [*range(1, 38)]
    assert len(members) == 36
    assert any({1, 37} <= set(group) for group in members)


def test_what_makes_no_sense_is_refused(filled, monkeypatch):
    with pytest.raises(ValueError, match="HDBSCAN"):
        filled.curation.clusters(3, dense=True)
    with pytest.raises(ValueError, match="count must be at least 1"):
        filled.curation.clusters(0)
    monkeypatch.setattr(module, "MOST_DENSE", 30)
    with pytest.raises(ValueError, match="among 30 images at most"):
        filled.curation.clusters(dense=True)
