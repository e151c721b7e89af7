"""The searcher that stays warm: what it takes, what it gives, and which instant it shows."""

import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgsim import (
    Collection,
    CollectionDamaged,
    EncoderMissing,
    EncoderSource,
    ImageError,
    ImageNotFound,
    IngestSettings,
    NotAnImage,
    SearchFilter,
)
from imgsim.encoder.encoder import Encoder
from imgsim.index.distance import distances
from tests.models import write_projection


def answers(results):
    return [[(m.rank, m.id, m.path, m.distance) for m in result.matches] for result in results]


@pytest.fixture
def searcher(filled):
    with filled.searcher() as opened:
        yield opened


class TestImages:
    def test_paths_give_what_a_query_gives(self, filled, searcher, crops):
        results = searcher.search(crops[:5], k=4)
        assert [result.query for result in results] == crops[:5]
        assert answers(results) == answers(filled.query(crops[:5], 4))
        assert (len(results), results.stats.queries) == (5, 5)
        assert [result.matches[0].distance for result in results] == [0.0] * 5
        assert answers(results[1:3]) == answers(results)[1:3]

    def test_images_in_memory(self, searcher, crops, tmp_path):
        """A PNG has the same pixels as the image and the array, so also the same distances."""
        path = tmp_path / "a.png"
        with Image.open(crops[7]) as image:
            image.convert("RGB").save(path)
        with Image.open(path) as image:
            rgb = np.asarray(image)
            results = searcher.search(
                [path, path.read_bytes(), image, rgb, rgb[:, ::-1][:, ::-1]], k=3
            )
            assert image.getpixel((0, 0)) == tuple(rgb[0, 0])  # it is open and as it was
        assert [r.query for r in results] == [
            str(path),
            "<bytes 1>",
            *(f"<image {i}>" for i in (2, 3, 4)),
        ]
        assert len({str(answer) for answer in answers(results)}) == 1
        assert results[0].matches[0].path.endswith(Path(crops[7]).name)

    def test_grey_and_transparent_pixels(self, searcher):
        grey = np.arange(0, 200, 2, np.uint8).reshape(10, 10)
        rgb = np.repeat(grey[..., np.newaxis], 3, axis=2)
        opaque = np.concatenate([rgb, np.full((10, 10, 1), 255, np.uint8)], axis=2)
        clear = np.zeros((10, 10, 4), np.uint8)
        results = searcher.search([grey, rgb, opaque, clear, np.full((10, 10, 3), 255, np.uint8)])
        same, white = answers(results)[:3], answers(results)[3:]
        assert same[0] == same[1] == same[2] != white[0] == white[1]

    @pytest.mark.parametrize(
        "pixels",
        [
            np.zeros((4, 4, 3), np.float32),
            np.zeros((4, 4, 2), np.uint8),
            np.zeros(4, np.uint8),
            np.zeros((0, 4, 3), np.uint8),
        ],
    )
    def test_other_arrays(self, searcher, pixels):
        with pytest.raises(ValueError, match="uint8"):
            searcher.search([pixels])

    def test_one_alone(self, filled, searcher, crops):
        with Image.open(crops[3]) as image:
            pixels = np.asarray(image.convert("RGB"))
        for one in (crops[3], Path(crops[3]), Path(crops[3]).read_bytes()):
            assert searcher.search(one, 1)[0].matches[0].distance == 0.0
            assert filled.query(one, 1)[0].matches[0].distance == 0.0
            assert filled.embed(one).shape == (1, searcher.dim)
        assert len(filled.query(pixels)) == len(searcher.search(Image.fromarray(pixels))) == 1
        assert len(searcher.search(np.stack([pixels, pixels]))) == 2

    def test_no_image_at_all(self, searcher, crops, tmp_path):
        with pytest.raises(TypeError, match="not int"):
            searcher.search([7])
        with pytest.raises(NotAnImage, match="<bytes 1>"):
            searcher.search([crops[0], b"text"])
        with pytest.raises(FileNotFoundError):
            searcher.search([tmp_path / "nowhere.jpg"])
        failures = []
        results = searcher.search([b"", crops[0], tmp_path / "nowhere"], 1, failures.append)
        assert [type(error) for error in failures] == [NotAnImage, ImageNotFound]
        assert [result.query for result in results] == [crops[0]]
        assert list(searcher.search([])) == []

    def test_more_pixels_than_are_read_from_files(self, searcher):
        with pytest.raises(ImageError, match="limit"):
            searcher.search([Image.new("1", (20_000, 10_000))])

    def test_limits_of_a_query_are_those_of_its_ingest(self, filled, tmp_path, crops):
        image = Image.new("RGB", (800, 600), "red")
        with pytest.raises(ImageError, match="limit of 479999"):
            filled.query(image, 1, max_pixels=479_999)
        with pytest.raises(ImageError, match="limit of 479999"):
            filled.embed(image, max_pixels=479_999)
        assert filled.embed(image, max_pixels=480_000).shape[0] == 1

    def test_a_damaged_image_is_asked_for_if_that_is_accepted(self, filled, tmp_path, crops):
        content = Path(crops[0]).read_bytes()
        path = tmp_path / "cut.jpg"
        path.write_bytes(content[: len(content) * 2 // 3])
        filled.ingest(path, IngestSettings(damaged="accept"))
        with filled.searcher() as searcher:
            with pytest.raises(ImageError, match="truncated"):
                searcher.search(path, 1)
            (result,) = searcher.search(path, 1, damaged="accept")
        assert (result.matches[0].path, result.matches[0].distance) == (str(path), 0)


class TestEmbeddings:
    def test_they_are_those_that_are_stored(self, filled, searcher, crops):
        embeddings = filled.embed(crops)
        assert (embeddings.shape, embeddings.dtype) == ((36, searcher.dim), np.float32)
        matches = searcher.search_embeddings(embeddings, k=5)
        assert matches.ids.dtype == np.int64
        assert matches.distances.dtype == np.float64
        for query, ids, found in zip(embeddings, *matches, strict=True):
            true = distances(query, embeddings)
            order = np.lexsort((np.arange(36), true))[:5]
            assert (ids - 1).tolist() == order.tolist()
            assert found.tolist() == true[order].tolist()
        assert matches.stats.queries == 36

    def test_fewer_than_k(self, filled, crops):
        with filled.searcher(SearchFilter(radius=0.0)) as searcher:
            ids, found = searcher.search_embeddings(
                np.concatenate([filled.embed(crops[:1]), np.zeros((1, searcher.dim), np.float32)])
            )
        assert ids.tolist() == [[1] + [-1] * 9, [-1] * 10]
        assert found.tolist() == [[0.0] + [np.inf] * 9, [np.inf] * 10]

    def test_none(self, searcher):
        matches = searcher.search_embeddings(np.empty((0, searcher.dim), np.float32))
        assert matches.ids.shape == matches.distances.shape == (0, 10)

    @pytest.mark.parametrize("bad", ["shape", "dim", "type", "nan"])
    def test_unfit(self, searcher, bad):
        fit = np.zeros((2, searcher.dim), np.float32)
        unfit = {"shape": fit[0], "dim": fit[:, 1:], "type": fit.astype(float), "nan": fit * np.nan}
        with pytest.raises(ValueError, match="queries must be"):
            searcher.search_embeddings(unfit[bad])

    def test_stored_images_as_queries(self, filled, searcher):
        lists = {image.id: image for image in filled.neighbours(4)}
        matches = searcher.search_ids([17, 3, 17], k=4)
        for number, ids, found in zip([17, 3, 17], *matches, strict=True):
            assert ids.tolist() == [match.id for match in lists[number].matches]
            assert found.tolist() == [match.distance for match in lists[number].matches]
        assert searcher.search_ids(np.array([1]), k=None).ids.shape == (1, 35)
        assert searcher.search_ids([]).ids.shape == (0, 10)
        with pytest.raises(ValueError, match="id 99"):
            searcher.search_ids([1, 99])
        for nonsense in ([1.9], [True], ["1"], [[1]], [2**70]):
            with pytest.raises(ValueError, match="integers"):
                searcher.search_ids(nonsense)

    def test_a_twin_with_a_lower_id_is_no_reason_to_be_left_out(self, filled, pictures):
        first = sorted(pictures.iterdir())[0]
        for number in range(3):
            shutil.copy(first, pictures / f"copy{number}.jpg")
        filled.ingest([pictures])
        with filled.searcher() as searcher:
            assert searcher.search_ids([39], k=2).ids.tolist() == [[1, 37]]


@pytest.mark.parametrize("k", [0, -1])
class TestNonsense:
    def test_everywhere_alike(self, filled, searcher, crops, tmp_path, k):
        for ask in (
            lambda: searcher.search(crops[:1], k),
            lambda: searcher.search_embeddings(np.zeros((1, searcher.dim), np.float32), k),
            lambda: searcher.search_ids([1], k),
            lambda: filled.query(crops[:1], k),
            lambda: filled.neighbours(k),
            lambda: filled.export_neighbours(tmp_path / "n.csv", k),
        ):
            with pytest.raises(ValueError, match="k must be at least 1"):
                ask()
        assert not (tmp_path / "n.csv").exists()


class TestInstants:
    def test_one_until_it_is_refreshed(self, filled, pictures, empty):
        first, second, *_ = sorted(pictures.iterdir())
        with filled.searcher() as searcher:
            before = answers(searcher.search([first], 36))
            filled.remove([first])
            Image.new("RGB", (9, 9)).save(pictures / "new.png")
            filled.ingest([pictures / "new.png"])
            filled.compact()
            assert answers(searcher.search([first], 36)) == before
            assert (len(searcher), searcher.search_ids([1]).ids.shape) == (36, (1, 10))
            assert len(list((empty / "segments").glob("*.faiss"))) == 3  # somebody reads the old
            searcher.refresh()
            assert len(searcher) == 36
            found = {match[2] for match in answers(searcher.search([second], None))[0]}
            assert str(first) not in found
            assert str(pictures / "new.png") in found
            with pytest.raises(ValueError, match="id 1"):
                searcher.search_ids([1])
        filled.compact()
        assert len(list((empty / "segments").glob("*.faiss"))) == 1

    def test_from_several_threads(self, searcher, crops):
        expected = answers(searcher.search(crops, 5))
        barrier = threading.Barrier(4)

        def search(number):
            barrier.wait()
            return answers(searcher.search(crops[number::4], 5))

        with ThreadPoolExecutor(4) as pool:
            for number, found in enumerate(pool.map(search, range(4))):
                assert found == expected[number::4]

    def test_the_encoder_is_loaded_once(self, filled, crops, monkeypatch):
        loaded = []
        init = Encoder.__init__
        monkeypatch.setattr(
            Encoder, "__init__", lambda self, *given: (loaded.append(given), init(self, *given))[1]
        )
        filled.query(crops[:1])
        with filled.searcher() as searcher:
            searcher.search(crops[:2])
            searcher.search(crops[2:3])
        filled.embed(crops[:1])
        assert len(loaded) == 1

    def test_a_closed_one(self, filled, crops):
        searcher = filled.searcher()
        searcher.close()
        with pytest.raises(ValueError, match="closed"):
            searcher.search(crops[:1])
        with pytest.raises(ValueError, match="closed"):
            searcher.search_embeddings(filled.embed(crops[:1]))
        with pytest.raises(ValueError, match="closed"):
            searcher.search_ids([1])
        searcher.refresh()
        assert len(searcher.search(crops[:1])) == 1
        searcher.close()

    def test_no_encoder_yet(self, tmp_path):
        with (
            Collection.open(tmp_path / "c", create=True) as collection,
            pytest.raises(EncoderMissing),
        ):
            collection.searcher()


def test_a_filter_holds_for_every_search(filled, pictures, tmp_path):
    other = shutil.copytree(pictures, tmp_path / "other")
    filled.ingest([other])
    first = sorted(other.iterdir())[0]
    with filled.searcher(SearchFilter(not_under=(str(other),))) as searcher:
        assert len(searcher) == 36
        for result in searcher.search([first], None):
            assert len(result.matches) == 36
            assert all(match.path.startswith(f"{pictures}/") for match in result.matches)
        assert searcher.search_ids([37], k=1).ids.tolist() == [[1]]  # its twin


def test_a_folder_may_be_named_alone(filled, pictures):
    for under in (str(pictures), pictures, [pictures]):
        with filled.searcher(SearchFilter(under=under)) as searcher:
            assert len(searcher) == 36
        with filled.searcher(SearchFilter(not_under=under)) as searcher:
            assert len(searcher) == 0
            assert searcher.search_ids([1]).ids.tolist() == [[-1] * 10]


def test_a_failure_among_many_leaves_no_thread_behind(filled, crops):
    """The garbage collector may end what failed, in a thread that cannot wait for itself."""
    code = (
        "import gc, sys, imgsim\n"
        "gc.set_threshold(20)\n"
        "with imgsim.Collection.open(sys.argv[1]) as collection:\n"
        "    for _ in range(20):\n"
        "        try:\n"
        "            collection.embed(['nowhere.jpg', *sys.argv[2:]])\n"
        "        except FileNotFoundError:\n"
        "            pass\n"
    )
    command = [sys.executable, "-c", code, filled.path, *crops]
    done = subprocess.run(command, check=True, capture_output=True)
    assert done.stderr == b""


def test_forty_searchers_at_once(filled, crops):
    """Each has a connection to the catalog, and none waits for another."""
    with ExitStack() as opened:
        for _ in range(40):
            opened.enter_context(filled.searcher())
        assert filled.embed(crops[0]).shape[0] == 1


def test_searchers_of_two_encoders(filled, pictures, tmp_path, crops):
    """One from before a switch keeps the encoder of its instant, and both stay loaded."""
    filled.encoders.add(EncoderSource(write_projection(tmp_path / "m.onnx", dim=16), "other"))
    with filled.searcher() as before:
        expected = answers(before.search(crops[:3], 2))
        filled.encoders.reencode("other")
        with filled.searcher() as after:
            for _ in range(3):
                assert answers(after.search(crops[:3], 2)) != expected
                assert answers(before.search(crops[:3], 2)) == expected


def test_altered_ids_are_told_from_those_of_images(filled, empty, crops, tmp_path):
    (path,) = (empty / "segments").glob("*.rows.npy")
    table = np.load(path)
    table["id"] += 1_000
    np.save(path, table)
    with pytest.raises(CollectionDamaged, match="check --repair"):
        filled.query(crops[:1])
    with pytest.raises(CollectionDamaged, match="check --repair"):
        filled.export_embeddings(tmp_path / "e.npz")
    assert [damage.path for damage in filled.check()] == [str(path)]
    filled.repair()
    assert filled.check() == []
    assert filled.query(crops[:1], 1)[0].matches[0].id == 1
