import hashlib
import os

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from imgsim.errors import CollectionDamaged, StoreError
from imgsim.index.segment_file import MappedEmbeddings, write_segment


def stored(path):
    """Return what FAISS finds in the file."""
    index = faiss.read_index(str(path))
    assert type(index) is faiss.IndexFlatL2
    return index.reconstruct_n(0, index.ntotal) if index.ntotal else np.empty((0, index.d), "f4")


@settings(max_examples=100, deadline=None)
@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=40),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    )
)
def test_faiss_and_the_map_give_back_every_bit(tmp_path_factory, embeddings):
    path = tmp_path_factory.mktemp("segment") / "a.faiss"
    digest = write_segment(path, embeddings)
    assert stored(path).tobytes() == embeddings.tobytes()
    mapped = MappedEmbeddings(path, *embeddings.shape)
    assert mapped.span(0, len(mapped)).tobytes() == embeddings.tobytes()
    assert np.concatenate([rows for _, rows in mapped.blocks()]).tobytes() == embeddings.tobytes()
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_file_is_what_faiss_itself_writes(tmp_path):
    embeddings = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    index = faiss.IndexFlatL2(8)
    index.add(embeddings)
    faiss.write_index(index, str(tmp_path / "theirs"))
    write_segment(tmp_path / "ours", embeddings)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_blocks_are_small_and_complete(tmp_path):
    embeddings = np.arange(3000 * 1024, dtype=np.float32).reshape(3000, 1024)
    write_segment(tmp_path / "a", embeddings)
    blocks = list(MappedEmbeddings(tmp_path / "a", 3000, 1024).blocks())
    assert len(blocks) > 1
    for start, rows in blocks:
        assert rows.nbytes <= 4 << 20
        assert rows.flags.aligned
        assert (rows == embeddings[start : start + len(rows)]).all()


def test_rows_in_any_order(tmp_path):
    embeddings = np.arange(40, dtype=np.float32).reshape(10, 4)
    write_segment(tmp_path / "a", embeddings)
    rows = np.array([7, 0, 7])
    assert (MappedEmbeddings(tmp_path / "a", 10, 4).take(rows) == embeddings[rows]).all()


@pytest.mark.parametrize("change", ["truncate", "extend", "header", "remove", "rows"])
def test_damage_is_found_when_the_file_is_opened(tmp_path, change):
    path = tmp_path / "a.faiss"
    write_segment(path, np.ones((10, 4), np.float32))
    if change == "truncate":
        os.truncate(path, path.stat().st_size - 1)
    elif change == "extend":
        path.write_bytes(path.read_bytes() + b"x")
    elif change == "header":
        path.write_bytes(b"JUNK" + path.read_bytes()[4:])
    elif change == "remove":
        path.unlink()
    with pytest.raises(CollectionDamaged) as caught:
        MappedEmbeddings(path, 11 if change == "rows" else 10, 4)
    assert caught.value.path == path


@pytest.mark.parametrize(
    "embeddings",
    [
        np.ones((2, 2)),
        np.ones(2, np.float32),
        np.array([[1, np.nan]], np.float32),
        np.array([[1, np.inf]], np.float32),
    ],
)
def test_unfit_vectors_are_refused_and_leave_nothing(tmp_path, embeddings):
    with pytest.raises(StoreError):
        write_segment(tmp_path / "a.faiss", embeddings)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_gone(tmp_path):
    with pytest.raises(StoreError, match="No such file"):
        write_segment(tmp_path / "gone" / "a.faiss", np.ones((1, 1), np.float32))
