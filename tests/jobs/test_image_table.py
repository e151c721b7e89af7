"""What workers know of images: the same as the catalog says."""

import shutil

import pytest

from imgsim import Collection
from imgsim.jobs.image_table import ImageTable
from tests.conftest import make_collection


@pytest.fixture
def stored(tmp_path, crops):
    """Photographs with gaps among their ids, and a path that is no text."""
    shutil.copy(crops[0], tmp_path / "\udcff-é.jpg")
    with Collection.open(make_collection(tmp_path / "c")) as collection:
        collection.ingest([*crops[:9], tmp_path / "\udcff-é.jpg"])
        collection.remove(crops[2:5])
        yield collection


def test_it_says_what_the_catalog_says(stored):
    with stored._directory.reading() as snapshot:
        table = ImageTable.of(snapshot, with_contents=True)
        asked = [11, 9, 3, 1, 9, 10, 0, -1, 2**62]
        assert len(table.ids) == 7
        assert table.paths(asked) == snapshot.paths(asked)
        assert table.contents(asked) == snapshot.contents(asked)
        assert len(table.paths(asked)) == 3
        assert table.path == snapshot.path


def test_of_an_empty_collection(collection):
    with collection._directory.reading() as snapshot:
        table = ImageTable.of(snapshot, with_contents=True)
        assert table.paths([1]) == table.contents([1]) == {}
        assert table.paths([]) == {}
