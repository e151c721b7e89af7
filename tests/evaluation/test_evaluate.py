import csv
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from imgsim import Collection, EncoderSource, EvaluationSettings, LabelError
from imgsim.evaluation.evaluate import chosen_queries, rank, scores_of
from imgsim.images.descriptors import histogram_of, pixels_of
from tests.models import make_logarithm, write_projection

LABELS = np.array([0, 0, 0, 1, 1, 2])
LINE = np.array([[0], [1], [5], [2], [3], [9]], np.float32)


@pytest.fixture
def labelled(tmp_path, crops):
    """Folders ``left`` and ``right`` with twelve photographs each, and one outside of both."""
    root = tmp_path / "labelled"
    for number, path in enumerate(crops[:25]):
        folder = root / ("left", "right", "")[number // 12]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, folder)
    return root


def write_table(path, rows, columns=("path", "label")):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return str(path)


class TestMeasures:
    def test_by_hand(self):
        """Of row 0 the others come as 1, 3, 4, 2, 5, of which 1 and 2 are relevant."""
        ranking = rank(LINE, LABELS, np.array([0]), np.arange(6))
        assert ranking.nearest.tolist() == [[1, 3, 4, 2, 5]]
        assert ranking.average_precision.tolist() == [(1 / 1 + 2 / 4) / 2]
        scores = scores_of(ranking)
        assert (scores.p10.value, scores.recall[1].value) == (2 / 5, 1.0)

    def test_against_a_plain_loop(self):
        random = np.random.default_rng(1)
        embeddings = random.normal(size=(60, 4)).astype(np.float32)
        labels = random.integers(0, 5, 60)
        queries = chosen_queries(labels, 20, seed=3)
        ranking = rank(embeddings, labels, queries, np.arange(60))
        for query, nearest, precision in zip(
            queries, ranking.nearest, ranking.average_precision, strict=True
        ):
            distances = np.linalg.norm(embeddings.astype(float) - embeddings[query], axis=1)
            order = [row for row in np.argsort(distances) if row != query]
            hits = [labels[row] == labels[query] for row in order]
            found = [sum(hits[: i + 1]) / (i + 1) for i in range(59) if hits[i]]
            assert nearest.tolist() == order[:10]
            assert precision == pytest.approx(np.mean(found))

    def test_equal_distances_are_taken_together(self):
        embeddings = np.zeros((4, 1), np.float32)
        ranking = rank(embeddings, np.array([0, 1, 0, 1]), np.array([0, 1]), np.arange(4))
        assert ranking.average_precision.tolist() == [1 / 3, 1 / 3]

    def test_a_gallery_without_the_queries(self):
        ranking = rank(LINE, LABELS, np.array([0, 3]), np.array([1, 4]))
        assert ranking.nearest.tolist() == [[1, 4], [1, 4]]
        assert ranking.relevant.tolist() == [[True, False], [False, True]]

    def test_the_work_is_done_in_pieces(self):
        whole = rank(LINE, LABELS, np.arange(5), np.arange(6))
        pieces = rank(LINE, LABELS, np.arange(5), np.arange(6), at_once=1)
        assert np.array_equal(whole.nearest, pieces.nearest)
        assert np.array_equal(whole.average_precision, pieces.average_precision)

    def test_intervals_hold_the_mean_and_narrow_with_more_queries(self):
        random = np.random.default_rng(0)
        embeddings, labels = random.normal(size=(400, 2)), random.integers(0, 2, 400)
        few, many = (
            scores_of(rank(embeddings.astype(np.float32), labels, np.arange(n), np.arange(400))).p10
            for n in (25, 400)
        )
        assert few.low < few.value < few.high
        assert many.high - many.low < (few.high - few.low) / 2

    def test_queries_have_somebody_to_find(self):
        assert sorted(chosen_queries(LABELS, 100, seed=0)) == [0, 1, 2, 3, 4]
        assert len(chosen_queries(np.arange(1_000) // 2, 100, seed=0)) == 100
        alone = np.concatenate([[0, 0], np.arange(1, 1_000)])
        assert sorted(chosen_queries(alone, 1_000, seed=0)) == [0, 1]
        assert len(chosen_queries(alone, 1, seed=0)) == 1

    @pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2]])
    def test_nothing_to_measure(self, labels):
        with pytest.raises(LabelError):
            chosen_queries(np.array(labels), 10, seed=0)


class TestBaselines:
    def test_pixels(self):
        image = np.full((64, 48, 3), (255, 0, 51), np.uint8)
        pixels = pixels_of(image).reshape(32, 32, 3)
        assert np.allclose(pixels, [1, 0, 0.2])

    def test_the_histogram_has_colours_and_no_places(self):
        image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
        histogram = histogram_of(image)
        assert np.linalg.norm(histogram) == pytest.approx(1)
        assert np.array_equal(histogram, histogram_of(image[::-1, ::-1]))
        assert not np.array_equal(histogram, histogram_of(255 - image))


class TestEvaluate:
    def test_folders(self, collection, labelled):
        (labelled / "left" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not more")
        (labelled / "left" / "notes.txt").write_text("no image")
        told = []
        found = collection.evaluate(labelled, on_progress=lambda *now: told.append(now))
        assert (found.images, found.unlabelled) == (24, 1)
        assert [(c.label, c.images, c.queries) for c in found.classes] == [
            ("left", 12, 12),
            ("right", 12, 12),
        ]
        assert [refusal.path for refusal in found.refused] == [str(labelled / "left/broken.jpg")]
        assert told[-1] == (24, 24)
        for name in ("left", "right"):
            (mine,) = (c for c in found.classes if c.label == name)
            assert sum(mine.retrieved.values()) == pytest.approx(1)
        assert all(query.query not in query.nearest for query in found.retrieved)
        assert collection.evaluate(labelled).embeddings == found.embeddings

    def test_the_vectors_are_those_that_an_ingest_stores(self, collection, labelled):
        found = collection.evaluate(labelled)
        collection.ingest([labelled / "left", labelled / "right"])
        nearest = {item.path: item.matches for item in collection.neighbours(10)}
        for query in found.retrieved:
            assert query.nearest == tuple(match.path for match in nearest[query.query])

    def test_a_table(self, collection, labelled, tmp_path):
        paths = sorted(path.relative_to(labelled) for path in labelled.rglob("*.*"))
        rows = [(path, "odd" if number % 2 else "even") for number, path in enumerate(paths[:20])]
        table = write_table(tmp_path / "t.csv", [*rows, ("gone.jpg", "odd"), (paths[20], "")])
        found = collection.evaluate(labelled, EvaluationSettings(table))
        assert [(c.label, c.images) for c in found.classes] == [("even", 10), ("odd", 10)]
        assert found.unlabelled == 5

    def test_some_of_the_images(self, collection, labelled, tmp_path):
        """Paths in a table are relative to the folder all the same."""
        some = sorted(labelled.rglob("*-[0-2].jpg"))
        found = collection.evaluate(labelled, images=some)
        assert [(c.label, c.images) for c in found.classes] == [("left", 6), ("right", 6)]
        rows = [(path.relative_to(labelled), path.name[0]) for path in labelled.rglob("*.*")]
        settings = EvaluationSettings(write_table(tmp_path / "t.csv", rows))
        by_table = collection.evaluate(labelled, settings, images=some)
        assert (by_table.images, by_table.unlabelled) == (len(some), 0)
        with pytest.raises(LabelError, match="labels none of 0 images"):
            collection.evaluate(labelled, images=[])

    def test_what_is_excluded(self, collection, labelled):
        (labelled / "left" / "@eaDir").mkdir()
        found = collection.evaluate(labelled, EvaluationSettings(exclude="/left/*-0.jpg"))
        assert [(c.label, c.images) for c in found.classes] == [("left", 10), ("right", 12)]
        assert found.excluded == {"@eaDir/": 1, "/left/*-0.jpg": 2}

    @pytest.mark.parametrize(
        ("columns", "rows", "message"),
        [
            (("path", "label"), [("nowhere.jpg", "a")], "labels none of 25 images"),
            (("file", "label"), [], "no column 'path'"),
            (("path", "kind"), [], "no column 'label'"),
        ],
    )
    def test_labels_that_do_not_fit(self, collection, labelled, tmp_path, columns, rows, message):
        table = write_table(tmp_path / "t.csv", rows, columns)
        with pytest.raises(LabelError, match=message):
            collection.evaluate(labelled, EvaluationSettings(table))

    @pytest.mark.parametrize("content", [b"", b"\x00\xff\x00", None])
    def test_what_is_no_table(self, collection, labelled, tmp_path, content):
        if content is not None:
            (tmp_path / "t.csv").write_bytes(content)
        with pytest.raises(LabelError, match=r"t\.csv"):
            collection.evaluate(labelled, EvaluationSettings(str(tmp_path / "t.csv")))

    def test_one_label(self, collection, labelled):
        shutil.rmtree(labelled / "right")
        with pytest.raises(LabelError, match="at least 2"):
            collection.evaluate(labelled)

    @pytest.mark.parametrize(
        ("folder", "message"),
        [("left", "labels none of 12 images"), ("gone", "none of 0 images found; .*gone: No such")],
    )
    def test_no_label(self, collection, labelled, folder, message):
        with pytest.raises(LabelError, match=message):
            collection.evaluate(labelled / folder)

    def test_vectors_that_are_not_finite(self, tmp_path, labelled):
        """The logarithm of a black picture."""
        black = labelled / "left" / "black.png"
        Image.new("RGB", (8, 8)).save(black)
        with Collection.open(make_logarithm(tmp_path / "c")) as collection:
            found = collection.evaluate(labelled)
        assert [refusal.path for refusal in found.refused] == [str(black)]
        assert found.images == 24

    def test_baselines_are_the_same_for_any_encoder(self, collection, tmp_path, labelled):
        before = collection.evaluate(labelled)
        source = EncoderSource(write_projection(tmp_path / "m.onnx"))
        with Collection.open(tmp_path / "other", create=True) as other:
            other.encoders.add(source)
            after = other.evaluate(labelled)
        assert (after.pixels, after.histogram) == (before.pixels, before.histogram)


class TestCommand:
    def test_table_json_and_figure(self, imgsim, empty, labelled, tmp_path):
        sheet = tmp_path / "sheet.png"
        shown = imgsim("-c", empty, "evaluate", labelled, "--figure", sheet)
        assert shown.returncode == 0, shown.stderr
        lines = shown.stdout.decode().splitlines()
        assert [line[:14].rstrip() for line in lines[1:4]] == [
            "encoder",
            "pixels 32x32",
            "HSV histogram",
        ]
        with Image.open(sheet) as image:
            image.load()
        printed = json.loads(imgsim("-c", empty, "evaluate", labelled, "--json").stdout)
        assert printed["queries"] == 24
        assert f"{printed['embeddings']['map']['value']:.3f}" in lines[1]
        assert printed["embeddings"]["recall"].keys() == {"1", "5", "10"}

    def test_a_label_that_is_not_utf8(self, imgsim, empty, labelled, tmp_path):
        os.rename(labelled / "left", os.fsencode(labelled) + b"/l\xffft")
        sheet = tmp_path / "sheet.png"
        shown = imgsim("-c", empty, "evaluate", labelled, "--figure", sheet)
        assert shown.returncode == 0, shown.stderr
        assert sheet.exists()

    def test_an_empty_path(self, imgsim, empty):
        assert imgsim("-c", empty, "evaluate", "").returncode == 2

    def test_labels_that_match_nothing(self, imgsim, empty, labelled, tmp_path):
        table = write_table(tmp_path / "t.csv", [("nowhere.jpg", "a")])
        shown = imgsim("-c", empty, "evaluate", labelled, "--labels", table)
        assert shown.returncode == 50
        assert shown.stderr.decode().count("\n") == 1
