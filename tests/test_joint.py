"""Several collections give what one would that has all of their images."""

import json
import shutil

import pytest
from PIL import Image

from imgsim import (
    Collection,
    EncoderMismatch,
    EncoderMissing,
    EncoderSource,
    JointSearcher,
    SearchFilter,
)
from imgsim.locks import sole_reader
from tests.conftest import make_collection
from tests.models import write_projection


@pytest.fixture
def folders(tmp_path, crops):
    """Three folders of photographs, some of which lie in two or in all of them."""
    parts = crops[:14], crops[10:25] + crops[:2], crops[25:] + crops[1:3]
    for number, part in enumerate(parts):
        folder = tmp_path / f"pictures {number}"
        folder.mkdir()
        for place, path in enumerate(part):
            shutil.copy(path, folder / f"{number}-{place:02d}.jpg")
    return sorted(tmp_path.glob("pictures *"))


@pytest.fixture
def several(tmp_path, folders):
    """A collection of each folder, of one encoder."""
    paths = [make_collection(tmp_path / f"{number}.imgsim") for number in range(len(folders))]
    for path, folder in zip(paths, folders, strict=True):
        with Collection.open(path) as each:
            each.ingest([folder])
    return paths


@pytest.fixture
def one(collection, folders):
    """A collection of all, whose ids are in the order of collections and their ids."""
    for folder in folders:
        collection.ingest([folder])
    return collection


FILTERS = [
    SearchFilter(),
    SearchFilter(distinct=True),
    SearchFilter(no_self=True, distinct=True),
    SearchFilter(radius=2.0, no_self=True),
]


@pytest.mark.parametrize("within", FILTERS, ids=["all", "distinct", "others", "near"])
def test_the_answer_is_that_of_one_collection(one, several, folders, crops, within):
    """Copies lie in several, at equal distances."""
    queries = [*map(str, folders[0].iterdir()), crops[20]]
    with JointSearcher(several, within) as searcher:
        for k in (1, 3, 10, 40, None):
            expected = one.query(queries, k, within=within)
            results = searcher.search(queries, k)
            assert [*map(bare, results)] == [*map(bare, expected)]
            assert results.stats.queries == len(queries)
            assert any(len(each.matches) > 0 for each in results)


def bare(result):
    """What is found, whatever the ids are."""
    return result.query, [(each.rank, each.path, each.distance) for each in result.matches]


def test_a_match_names_its_collection(several, folders):
    with JointSearcher(several) as searcher:
        assert len(searcher) == sum(len(list(folder.iterdir())) for folder in folders)
        (result,) = searcher.search(folders[0] / "0-01.jpg", 3)
    assert [(match.distance, match.collection) for match in result.matches] == [
        (0.0, str(path)) for path in several
    ]
    for match in result.matches:
        with Collection.open(match.collection) as collection, collection.searcher() as searcher:
            assert searcher.images([match.id])[match.id].path == match.path


def test_one_collection_is_searched_as_alone(several, crops):
    with JointSearcher(several[0]) as searcher, Collection.open(several[0]) as collection:
        assert searcher.search(crops[3]).results == collection.query(crops[3]).results


def test_a_file_that_two_have_stored_is_in_both(several, folders, crops):
    with Collection.open(several[0]) as other:
        other.ingest(folders[1])
    stored = str(folders[1] / "1-05.jpg")
    for within, count in ((SearchFilter(), 2), (SearchFilter(distinct=True), 1)):
        with JointSearcher(several, within) as searcher:
            matches = searcher.search(crops[3], None)[0].matches
        assert [match.path for match in matches].count(stored) == count


def test_other_encoders_are_refused_and_nobody_reads(tmp_path, several, crops):
    onnx = write_projection(tmp_path / "other.onnx")
    with Collection.open(tmp_path / "other.imgsim", create=True) as other:
        other.encoders.add(EncoderSource(onnx, scale="0..1"))
        other.ingest(crops[:1])
        with pytest.raises(EncoderMismatch, match=r"other\.imgsim: its .*/0\.imgsim;"):
            JointSearcher([*several, other.path])
    for path in several:
        with sole_reader(path) as alone:
            assert alone


def test_the_same_network_that_is_fed_otherwise_is_another_encoder(several):
    (described,) = several[1].glob("encoders/*/encoder.json")
    facts = json.loads(described.read_text())
    described.write_text(json.dumps(facts | {"mean": [0.5, 0.5, 0.5]}))
    with pytest.raises(EncoderMismatch, match=r"/1\.imgsim: its"):
        JointSearcher(several)


def test_one_without_an_encoder_is_named(tmp_path, several):
    Collection.open(tmp_path / "new.imgsim", create=True).close()
    with pytest.raises(EncoderMissing, match=r"/new\.imgsim: "):
        JointSearcher([several[0], tmp_path / "new.imgsim"])


def test_a_device_that_is_none(several):
    with pytest.raises(ValueError, match="gpu: must be one of"):
        JointSearcher(several, device="gpu")


def test_no_collection_and_one_twice(tmp_path, several):
    (tmp_path / "link").symlink_to(several[0])
    for paths in [], [several[0], several[0]], [*several, tmp_path / "link"]:
        with pytest.raises(ValueError, match="none of them twice"):
            JointSearcher(paths)


def test_a_closed_one_says_so(several, crops):
    searcher = JointSearcher(several)
    searcher.close()
    searcher.close()
    with pytest.raises(ValueError, match="closed"):
        searcher.search(crops[0])


def test_a_bad_image_is_told_once(tmp_path, several, crops):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    failed = []
    with JointSearcher(several) as searcher:
        results = searcher.search([crops[0], tmp_path / "bad.jpg"], 1, failed.append)
        assert len(searcher.search([tmp_path / "bad.jpg"], 1, failed.append)) == 0
    assert ([each.query for each in results], len(failed)) == ([crops[0]], 2)


class TestCommand:
    def test_rows_and_tables_have_the_collection(self, imgsim, several, folders):
        names = [argument for path in several for argument in ("-c", path)]
        query = folders[0] / "0-01.jpg"
        done = imgsim("query", *names, query, "-k", "3", "--json")
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        assert [row["collection"] for row in rows] == [*map(str, several)]
        done = imgsim("query", *names, query, "-k", "3")
        assert [line.split()[-1].decode() for line in done.stdout.splitlines()[2:]] == [
            *map(str, several)
        ]
        alone = imgsim("query", "-c", several[0], query, "-k", "3", "--json")
        assert "collection" not in json.loads(alone.stdout.splitlines()[0])

    def test_those_after_the_name_replace_the_one_before(self, imgsim, several, folders):
        query = folders[0] / "0-01.jpg"
        done = imgsim(
            "-c", several[0], "query", "-c", several[1], query, "-k1", "--format", "paths"
        )
        assert done.stdout.startswith(bytes(folders[1]))

    def test_one_twice_and_one_that_is_not_there(self, imgsim, tmp_path, several, crops):
        done = imgsim("query", crops[0], "-c", several[0], "-c", several[0])
        assert (done.returncode, done.stdout) == (2, b"")
        assert b"none of them twice" in done.stderr
        done = imgsim("query", crops[0], "-c", several[0], "-c", tmp_path / "gone")
        assert (done.returncode, done.stdout) == (11, b"")
        assert b"gone: there is no collection here" in done.stderr

    def test_no_collection_is_entered_for_queries(self, imgsim, tmp_path, several, crops):
        """Thumbnails are in its folder."""
        for path in several[:2]:
            (path / "thumbnails").mkdir()
            shutil.copy(crops[0], path / "thumbnails")
        names = ["-c", several[0], "-c", several[1]]
        for path in several[:2]:
            done = imgsim("query", *names, path)
            assert (done.returncode, done.stdout) == (21, b"")
            assert b"there are no images in this folder" in done.stderr

    def test_a_figure_has_pictures_of_all(self, imgsim, tmp_path, several, folders):
        figure = tmp_path / "figure.png"
        arguments = [argument for path in several for argument in ("-c", path)]
        done = imgsim("query", *arguments, folders[0] / "0-01.jpg", "--figure", figure)
        assert done.returncode == 0, done.stderr
        with Image.open(figure) as image:
            assert image.width > 100
