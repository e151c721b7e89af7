"""Queries whose candidates a real Milvus server names."""

import os
import shutil

import numpy as np
import pytest

from imgsim import (
    BatchLimits,
    Collection,
    IngestSettings,
    MilvusSettings,
    SearchFilter,
    StoreError,
)
from imgsim import milvus as candidates
from tests.conftest import make_collection
from tests.milvus_server import shared_server

pytest.importorskip("milvus")
from pymilvus import MilvusClient


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The address of a server that all workers of xdist share."""
    base, user = tmp_path_factory.getbasetemp(), os.getpid()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base, user = base.parent, os.getppid()
    address = shared_server(base / "milvus", user)
    if address is None:
        pytest.skip("no Milvus server starts here")
    return address


@pytest.fixture(scope="module")
def stored(tmp_path_factory, crops, server):
    """Photographs, some of them many times; some are gone again. The server has the rest."""
    folder = tmp_path_factory.mktemp("stored")
    for number in range(90):
        shutil.copy(crops[number % 2], folder / f"copy-{number}.jpg")
    with Collection.open(make_collection(folder / "c")) as collection:
        collection.ingest(crops, IngestSettings(batch=BatchLimits(images=20)))
        collection.ingest(folder)
        collection.remove(crops[20:23])
        assert collection.export_milvus(MilvusSettings(server)) == 123
        yield collection


def same(collection, server, within, queries, k, name="imgsim"):
    with (
        Collection.open(collection.path, cluster=MilvusSettings(server, name)) as there,
        there.searcher(within) as searcher,
        collection.searcher(within) as alone,
    ):
        assert len(searcher) == len(alone)
        found, expected = (each.search_embeddings(queries, k) for each in (searcher, alone))
        assert np.array_equal(found.ids, expected.ids)
        assert np.array_equal(found.distances, expected.distances)


@pytest.mark.parametrize("kind", ["all", "distinct", "under", "radius", "none"])
def test_the_answers_are_those_of_imgsim(stored, crops, server, kind):
    """To the last bit: where more are equally near than the server is asked for at first, too."""
    within = {
        "all": SearchFilter(),
        "distinct": SearchFilter(distinct=True, no_self=True),
        "under": SearchFilter(not_under=stored.path.parent),
        "radius": SearchFilter(radius=4.0),
        "none": SearchFilter(under="/nowhere"),
    }[kind]
    far = np.full((4, 16), 1e4, np.float32)
    far[1] = 0
    far[2], far[3] = 2e18, 2e19  # their squares are hardly numbers in float32, and none
    for k in (1, 9, 60, None):
        same(stored, server, within, np.vstack([stored.embed(crops[:8]), far]), k)


def test_what_it_lacks_is_noticed(stored, crops, server, imgsim, tmp_path):
    """An image more or less, and it says so; the next export takes the place of the last."""
    path = make_collection(tmp_path / "c")
    settings = MilvusSettings(server, "other")
    query = "query", "--milvus", server, "--milvus-name", "other", "--json", crops[3]
    export = "export", "milvus", server, "--name", "other"
    with Collection.open(path) as collection:
        collection.ingest(crops[:9])
        done = imgsim("-c", path, *query)
        assert done.returncode == StoreError.exit_code
        assert b"run `imgsim export milvus`" in done.stderr
        for change in (lambda: collection.ingest(crops), lambda: collection.remove(crops[0])):
            done = imgsim("-c", path, *export)
            assert (done.returncode, done.stdout) == (0, b"")
            assert (
                imgsim("-c", path, *query).stdout
                == imgsim("-c", path, "query", "--json", crops[3]).stdout
            )
            change()
            with (
                Collection.open(path, cluster=settings) as there,
                pytest.raises(StoreError, match="as it is now"),
            ):
                there.query(crops[0])
    same(stored, server, SearchFilter(), stored.embed(crops[:2]), 5)  # another name is another's


def test_what_is_not_imgsims_stays(crops, server, tmp_path):
    """Nor does another collection's go, whose name begins alike."""
    client = MilvusClient(server)
    for name in ("shared_archive", "shared_0123456789abcdef"):
        client.create_collection(name, dimension=8)
    settings = MilvusSettings(server, "shared")
    for folder in ("a", "b"):
        with Collection.open(make_collection(tmp_path / folder)) as collection:
            for some in (crops[:3], crops[:6]):
                collection.ingest(some)
                collection.export_milvus(settings)
    held = [name for name in client.list_collections() if name.startswith("shared_")]
    assert {"shared_archive", "shared_0123456789abcdef"} <= {*held}
    assert len(held) == 4
    for folder in ("a", "b"):
        with Collection.open(tmp_path / folder, cluster=settings) as there:
            assert there.query(crops[1], k=1)[0].matches[0].path == crops[1]


def test_a_server_whose_rows_are_others_decides_nothing(crops, server, tmp_path):
    """Where it lacks some, it is not asked."""
    path = make_collection(tmp_path / "c")
    settings = MilvusSettings(server, "lacking")
    client = MilvusClient(server)
    with Collection.open(path) as collection:
        collection.ingest(crops)
        collection.export_milvus(settings)
        (name,) = (each for each in client.list_collections() if each.startswith("lacking_"))
        row = [float(value) for value in collection.embed(crops[:1])[0]]
        client.upsert(name, [{"id": 9, "path": "other", "embedding": row}])
        same(collection, server, SearchFilter(), collection.embed(crops[:8]), 9, "lacking")
        client.delete(name, ids=[1])
        with (
            Collection.open(path, cluster=settings) as there,
            pytest.raises(StoreError, match="as it is now"),
        ):
            there.query(crops[0])


def test_an_export_that_ends_early_is_none(crops, server, tmp_path):
    path = make_collection(tmp_path / "c")
    settings = MilvusSettings(server, "early")

    def end(*_):
        raise KeyboardInterrupt

    with Collection.open(path) as collection:
        collection.ingest(crops)
        with pytest.raises(KeyboardInterrupt):
            collection.export_milvus(settings, end)
        with (
            Collection.open(path, cluster=settings) as there,
            pytest.raises(StoreError, match="run `imgsim export milvus`"),
        ):
            there.query(crops[0])
        collection.export_milvus(settings)
    with Collection.open(path, cluster=settings) as there:
        assert there.query(crops[0], k=1)[0].matches[0].path == crops[0]


def test_mistakes(stored, crops, imgsim, monkeypatch):
    monkeypatch.setattr(candidates, "_PATIENCE", 1.0)
    with (
        Collection.open(stored.path, cluster=MilvusSettings("http://127.0.0.1:1")) as there,
        pytest.raises(StoreError, match=r"^http://127.0.0.1:1: "),
    ):
        there.query(crops[0])
    with pytest.raises(ValueError, match="letters"):
        MilvusSettings("http://127.0.0.1:1", "no name")
    with pytest.raises(ValueError, match="credentials"):
        MilvusSettings("http://me:secret@127.0.0.1:1")
    both = "query", "--cluster", "local", "--milvus", "http://127.0.0.1:1", crops[0]
    assert imgsim("-c", stored.path, *both).returncode == 2
    done = imgsim("-c", stored.path, "export", "milvus", "nowhere", "--name", "1")
    assert done.returncode == 2
