import inspect
import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from itertools import chain
from types import ModuleType
from typing import get_args, get_origin, get_type_hints

import numpy as np
import pytest
from numpy.typing import NDArray

import imgsim
from imgsim import (
    Collection,
    CollectionDamaged,
    CollectionError,
    CollectionNotFound,
    EncoderError,
    EncoderMissing,
    ImageError,
    ImageUnavailable,
    SearchFilter,
)
from imgsim.index.distance import distances
from imgsim.jobs.neighbours import NeighbourLists
from tests.conftest import GOLDEN


def embeddings(collection):
    directory = collection._directory
    with directory.reading() as snapshot, directory.gallery(snapshot) as gallery:
        ids, rows = zip(*gallery.blocks(), strict=True)
    return np.concatenate(ids), np.concatenate(rows)


def test_a_library_of_another_distribution(collection, monkeypatch):
    def version(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("imgsim.jobs.facts.version", version)
    assert collection.info().versions["onnxruntime"] == "unknown"


def test_a_closed_collection_says_so(tmp_path):
    collection = Collection.open(tmp_path / "c", create=True)
    collection.close()
    with pytest.raises(ValueError, match="closed"):
        collection.info()


class TestOpen:
    def test_none_there(self, tmp_path):
        with pytest.raises(CollectionNotFound, match="imgsim train"):
            Collection.open(tmp_path / "none")
        assert not (tmp_path / "none").exists()

    def test_a_folder_of_something_else_is_left_alone(self, pictures):
        before = sorted(pictures.iterdir())
        with pytest.raises(CollectionError, match="not a collection"):
            Collection.open(pictures, create=True)
        assert sorted(pictures.iterdir()) == before

    def test_a_creation_that_was_cut_short_is_completed(self, tmp_path):
        (tmp_path / "c" / "segments").mkdir(parents=True)
        with Collection.open(tmp_path / "c", create=True) as collection:
            assert collection.info().images == 0

    def test_a_collection_can_be_moved_and_copied(self, filled, empty, tmp_path, crops):
        before = filled.query([crops[3]], 5)
        filled.close()
        shutil.copytree(empty, tmp_path / "copy")
        shutil.move(empty, tmp_path / "moved")
        for path in (tmp_path / "copy", tmp_path / "moved"):
            with Collection.open(path) as collection:
                assert collection.query([crops[3]], 5) == before
                assert collection.check() == []


class TestGolden:
    """A collection written by the first schema revision."""

    @pytest.fixture
    def golden(self, tmp_path):
        path = shutil.copytree(GOLDEN / "0001.imgsim", tmp_path / "0001.imgsim")
        with Collection.open(path) as collection:
            yield collection

    def test_it_is_read_as_it_was_written(self, golden, tmp_path):
        facts = golden.info()
        assert (facts.images, facts.segments, facts.dim, facts.image_size) == (12, 2, 16, (32, 32))
        assert golden.check() == []
        golden.export_neighbours(tmp_path / "now.jsonl", 3)
        now, then = (
            [json.loads(line) for line in file.read_text().splitlines()]
            for file in (tmp_path / "now.jsonl", GOLDEN / "0001.jsonl")
        )
        assert now == [{"schema": 1, **row} for row in then]

    def test_it_takes_new_images(self, golden, crops):
        assert golden.ingest(crops[:5]).seen == 5
        (result,) = golden.query([crops[2]], 1)
        assert (result.matches[0].path, result.matches[0].distance) == (crops[2], 0.0)


class TestQuery:
    def test_an_ingested_file_comes_first_at_distance_zero(self, filled, pictures):
        paths = sorted(map(str, pictures.iterdir()))
        for path, result in zip(paths, filled.query(paths, 3), strict=True):
            assert result.query == path
            first = result.matches[0]
            assert (first.rank, first.path, first.distance) == (1, path, 0.0)

    def test_the_ranking_is_that_of_a_float64_scan(self, filled, crops):
        ids, rows = embeddings(filled)
        for i, result in enumerate(filled.query(crops, 40)):
            found = distances(rows[i], rows)
            order = np.lexsort((ids, found))
            assert [m.id for m in result.matches] == ids[order].tolist()
            assert [m.distance for m in result.matches] == found[order].tolist()
            assert [m.rank for m in result.matches] == list(range(1, 37))

    def test_duplicates_are_ranked_by_id(self, collection, pictures):
        path = sorted(pictures.iterdir())[7]
        for name in ("z.jpg", "a.jpg", "m.jpg"):
            shutil.copy(path, pictures / name)
            collection.ingest([pictures / name])
        collection.ingest([pictures])
        (result,) = collection.query([path], 5)
        assert [m.id for m in result.matches[:3]] == [1, 2, 3]
        assert [m.distance for m in result.matches[:4]] == [0.0] * 4
        assert result.matches[3].path == str(path)
        assert result.matches[4].distance > 0

    def test_an_empty_collection_gives_no_matches(self, collection, crops):
        (result,) = collection.query([crops[0]])
        assert result.matches == ()
        assert list(collection.neighbours()) == []

    def test_a_collection_of_one(self, collection, crops):
        collection.ingest([crops[0]])
        (result,) = collection.query([crops[1]], 10)
        assert len(result.matches) == 1
        (only,) = collection.neighbours()
        assert only.matches == ()

    def test_no_encoder_yet(self, tmp_path, crops):
        with Collection.open(tmp_path / "new", create=True) as collection:
            for act in (
                lambda: collection.query(crops),
                lambda: collection.ingest(crops),
                lambda: list(collection.neighbours()),
            ):
                with pytest.raises(EncoderMissing, match="imgsim train"):
                    act()
            assert collection.info().encoder is None
            assert collection.check() == []

    def test_one_path_may_be_given_alone(self, filled, crops):
        assert filled.query(crops[0], 2) == filled.query([crops[0]], 2)
        assert filled.ingest(crops[0]).added == 1

    def test_a_bad_image_raises_or_is_handed_over(self, filled, crops, tmp_path):
        bad = tmp_path / "bad.jpg"
        bad.write_text("x")
        with pytest.raises(ImageError):
            filled.query([crops[0], bad])
        errors = []
        results = filled.query([bad, crops[0], tmp_path / "gone.jpg"], 1, errors.append)
        assert [result.query for result in results] == [crops[0]]
        assert [error.path for error in errors] == [str(bad), str(tmp_path / "gone.jpg")]
        assert isinstance(errors[1], ImageUnavailable)
        assert list(filled.query([bad], 1, errors.append)) == []

    def test_a_stored_image_whose_file_is_gone_is_still_found(self, filled, pictures, crops):
        for path in pictures.iterdir():
            path.unlink()
        (result,) = filled.query([crops[0]], 1)
        assert result.matches[0].distance == 0.0


class TestNeighbours:
    def test_each_image_gets_its_nearest_others(self, filled, pictures):
        paths = sorted(map(str, pictures.iterdir()))
        shutil.copy(paths[4], pictures / "twin.jpg")
        shutil.copy(paths[4], pictures / "triplet.jpg")
        filled.ingest([pictures])
        lists = list(filled.neighbours(5))
        assert [item.id for item in lists] == list(range(1, 39))
        queried = filled.query([item.path for item in lists], 38)
        for item, result in zip(lists, queried, strict=True):
            others = [(m.id, m.distance) for m in result.matches if m.id != item.id][:5]
            assert [(m.id, m.distance) for m in item.matches] == others
            assert [m.rank for m in item.matches] == [1, 2, 3, 4, 5]

    def test_how_many_are_searched_at_once_changes_nothing(self, filled):
        within = SearchFilter(radius=1e9)
        all_of_them = list(filled.neighbours(None, within))
        assert [len(image.matches) for image in all_of_them] == [35] * 36
        few = NeighbourLists(filled._directory, None, within, searched=5, matched=80)
        assert list(few()) == all_of_them

    def test_more_duplicates_than_k(self, collection, pictures, crops):
        """The image itself is not among the k + 1 nearest, whose ids are lower."""
        copies = []
        for number in range(8):
            copies.append(pictures / f"copy{number}.jpg")
            shutil.copy(crops[0], copies[-1])
        collection.ingest(copies)
        lists = {item.id: [m.id for m in item.matches] for item in collection.neighbours(2)}
        assert lists[1] == [2, 3]
        assert lists[2] == [1, 3]
        assert lists[8] == [1, 2]


class TestCheck:
    def test_nothing_is_wrong(self, filled):
        assert filled.check() == []

    @pytest.mark.parametrize("what", ["flip", "truncate", "remove"])
    def test_a_damaged_segment_is_named(self, filled, empty, crops, what):
        (segment,) = (empty / "segments").glob("*.faiss")
        content = segment.read_bytes()
        if what == "flip":
            segment.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
        elif what == "truncate":
            segment.write_bytes(content[:-3])
        else:
            segment.unlink()
        (damage,) = filled.check()
        assert damage.path == str(segment)
        if what != "flip":  # a query maps the files and does not read all of them
            with pytest.raises(CollectionDamaged, match=segment.name):
                filled.query(crops[:1])

    @pytest.mark.parametrize("name", ["encoder.onnx", "encoder.json"])
    def test_a_damaged_encoder_is_named(self, filled, empty, name):
        (directory,) = (empty / "encoders").iterdir()
        (directory / name).write_bytes(b"{}")
        (damage,) = filled.check()
        assert str(directory) in damage.path

    def test_an_encoder_that_is_described_wrongly_is_named(self, filled, empty, crops):
        (directory,) = (empty / "encoders").iterdir()
        path = directory / "encoder.json"
        path.write_text(path.read_text().replace('"dim": 16', '"dim": 17'))
        (damage,) = filled.check()
        assert str(directory) in damage.path
        with pytest.raises(EncoderError):
            filled.query(crops[:1])

    def test_an_empty_catalog_beside_vectors_is_damage(self, filled, empty):
        filled.close()
        for name in ("catalog.db-wal", "catalog.db-shm"):
            (empty / name).unlink(missing_ok=True)
        (empty / "catalog.db").write_bytes(b"")
        with pytest.raises(CollectionDamaged, match="empty file"):
            Collection.open(empty)


class TestUpkeep:
    def test_what_no_row_names_is_swept_by_the_next_writer(self, filled, empty, pictures):
        keep = sorted(path.name for path in (empty / "segments").iterdir())
        for name in ("0123456789abcdef.faiss", ".x.faiss.0123abcd.tmp", "0123456789abcdef.bounds"):
            (empty / "segments" / name).write_bytes(b"left behind")
        (empty / "encoders" / ".0123456789abcdef.tmp").mkdir()
        filled.ingest([pictures])
        assert sorted(path.name for path in (empty / "segments").iterdir()) == keep
        assert len(list((empty / "encoders").iterdir())) == 1

    def test_many_segments_need_few_descriptors(self, collection, empty, pictures, crops):
        for path in sorted(pictures.iterdir()):
            collection.ingest(path)
        code = (
            "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (30, 30))\n"
            "from imgsim import Collection\n"
            "with Collection.open(sys.argv[1]) as c: print(len(list(c.neighbours(3))))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(empty)], capture_output=True, check=True, text=True
        )
        assert done.stdout == "36\n"

    def test_several_processes_may_open_a_new_collection_at_once(self, tmp_path):
        code = (
            "import sys; from imgsim import Collection\n"
            "from imgsim.catalog.catalog import Catalog\n"
            "from pathlib import Path\n"
            "Catalog(Path(sys.argv[1])).close()"
        )
        command = [sys.executable, "-c", code, str(tmp_path / "catalog.db")]
        openers = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(4)]
        for opener in openers:
            _, told = opener.communicate()
            assert opener.returncode == 0, told


def named(hint) -> set[type]:
    """The classes of imgsim in a type hint."""
    if isinstance(hint, type) and not get_args(hint):
        return {hint} if hint.__module__.startswith("imgsim") else set()
    parts = (get_origin(hint), *get_args(hint))
    flat = chain.from_iterable(part if isinstance(part, list) else [part] for part in parts)
    return set().union(*(named(part) for part in flat if part is not None and part != hint))


def test_every_type_that_a_public_signature_names_is_public():
    assert len(imgsim.__all__) > 50
    public = {name: getattr(imgsim, name) for name in imgsim.__all__}
    found = set()
    for item in filter(inspect.isclass, public.values()):
        members = [m for name, m in inspect.getmembers(item) if not name.startswith("_")]
        for member in [item, *(getattr(each, "fget", each) for each in members)]:
            module = getattr(member, "__module__", None) or ""
            if module.startswith("imgsim") and (inspect.isclass(member) or callable(member)):
                names = public | vars(sys.modules[module]) | {"np": np, "NDArray": NDArray}
                names |= {"pa": ModuleType("pa"), "pd": ModuleType("pd")}
                names["pa"].RecordBatchReader = names["pd"].DataFrame = object
                for hint in get_type_hints(member, names).values():
                    found |= named(hint)
    assert {"Encoders", "Searcher", "SearchResults"} <= {each.__name__ for each in found}
    assert {each.__name__ for each in found} <= set(public)
    with pytest.raises(AttributeError):
        _ = imgsim.nonsense


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (imgsim.CollectionNotFound, FileNotFoundError),
        (imgsim.CollectionForbidden, PermissionError),
        (imgsim.ImageNotFound, FileNotFoundError),
        (imgsim.ImageForbidden, PermissionError),
        (imgsim.NotAnImage, ValueError),
        (imgsim.OutputError, ValueError),
        (imgsim.LabelError, ValueError),
        (imgsim.EncoderMissing, LookupError),
        (imgsim.TrainingDiverged, ArithmeticError),
    ],
)
def test_errors_are_the_builtin_kind_too(error, builtin):
    assert issubclass(error, builtin)
    assert issubclass(error, imgsim.ImgsimError)


def test_a_typo_makes_no_collection(tmp_path):
    with pytest.raises(FileNotFoundError, match="create=True"):
        Collection.open(tmp_path / "tpyo.imgsim")
    assert os.listdir(tmp_path) == []


def test_an_old_collection_gets_files_of_ids_when_it_is_opened(tmp_path):
    path = shutil.copytree(GOLDEN / "0001.imgsim", tmp_path / "old")
    with Collection.open(path) as collection:
        assert len(list((path / "segments").glob("*.rows.npy"))) == collection.info().segments == 2
        assert collection.check() == []


class TestListings:
    def test_images(self, filled, pictures, tmp_path):
        other = shutil.copytree(pictures, tmp_path / "other")
        filled.ingest([other])
        listed = list(filled.images())
        assert [image.id for image in listed] == list(range(1, 73))
        first = listed[0]
        assert first == imgsim.ImageInfo(
            1, str(sorted(pictures.iterdir())[0]), 96, 96, os.path.getsize(first.path)
        )
        assert [image.id for image in filled.images(under=other)] == list(range(37, 73))
        both = [other, other / "x", sorted(pictures.iterdir())[3]]
        assert [image.id for image in filled.images(under=both)] == [4, *range(37, 73)]
        table = filled.images().to_arrow().read_all()
        assert table.to_pylist()[0] == {
            "image_id": 1,
            "path": first.path,
            "width": 96,
            "height": 96,
            "bytes": first.bytes,
            "damaged": False,
            "path_bytes": os.fsencode(first.path),
        }
        many = [f"/nowhere/{number}" for number in range(300)]
        assert [image.id for image in filled.images(under=[*many, *both])] == [4, *range(37, 73)]
        with pytest.raises(ValueError, match="empty"):
            filled.images(under="")
        assert filled.images(under="/nowhere").to_arrow().read_all().num_rows == 0

    def test_neighbours(self, filled):
        lists = filled.neighbours(3)
        rows = [(i.id, i.path, m.rank, m.id, m.path, m.distance) for i in lists for m in i.matches]
        assert len(rows) == 36 * 3
        rows = [(*row, os.fsencode(row[1]), os.fsencode(row[4])) for row in rows]
        reader = lists.to_arrow()
        assert [tuple(row.values()) for row in reader.read_all().to_pylist()] == rows
        assert [tuple(row) for row in lists.to_pandas().itertuples(index=False)] == rows

    def test_without_pandas(self, filled, monkeypatch):
        monkeypatch.setitem(sys.modules, "pandas", None)
        with pytest.raises(ImportError, match="pip install pandas"):
            filled.images().to_pandas()


def test_importing_imgsim_imports_nothing_else():
    code = "import sys, imgsim; print([m for m in sys.modules if m.startswith('imgsim.')])"
    loaded = subprocess.run(
        [sys.executable, "-c", f"{code}; print('numpy' in sys.modules)"],
        capture_output=True,
        check=True,
        text=True,
    )
    assert loaded.stdout == "[]\nFalse\n"
