"""The certified search against a sort of all float64 distances, on kind and on hostile vectors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim import bounds as bounds_module
from imgsim.bounds import Basis, Bounds, fit_basis, read_basis, write_basis, write_bounds
from imgsim.exact import distances
from imgsim.search import Searcher, Source
from imgsim.vectors import MappedVectors, write_segment


def source(folder, name, ids, rows, basis):
    """Write a segment with its bounds and map both."""
    path = folder / f"{name}.faiss"
    write_segment(path, rows)
    vectors = MappedVectors(path, *rows.shape)
    write_bounds(path.with_suffix(".bounds"), len(rows), basis, (b for _, b in vectors.blocks()))
    try:
        found = Bounds(path.with_suffix(".bounds"), len(rows), basis)
    except FileNotFoundError:
        found = None
    return Source(ids, vectors, found)


def assert_exact(searcher, queries, ids, rows, k):
    live = ids >= 0
    for query, (found_ids, found) in zip(queries, searcher.nearest(queries, k), strict=True):
        true = distances(query, rows[live])
        order = np.lexsort((ids[live], true))[:k]
        assert found_ids.tolist() == ids[live][order].tolist()
        assert found.tolist() == true[order].tolist()


def some_basis(random, dim, near, count):
    """An orthonormal basis that was fitted to nothing."""
    directions = np.linalg.qr(random.normal(size=(dim, count)))[0]
    return Basis(random.normal(size=dim), directions, near)


SHAPES = {
    "decaying": lambda r, n, d: r.normal(size=(n, d)) * (1.0 / (1 + np.arange(d))),
    "white": lambda r, n, d: r.normal(size=(n, d)),
    "relu": lambda r, n, d: np.maximum(0, r.normal(size=(n, d)) * r.uniform(0, 2, d)),
    "clusters": lambda r, n, d: (
        r.normal(size=(5, d))[r.integers(0, 5, n)] + 1e-6 * r.normal(size=(n, d))
    ),
    "duplicates": lambda r, n, d: r.normal(size=(max(1, n // 9), d))[
        r.integers(0, max(1, n // 9), n)
    ],
    "constant": lambda r, n, d: np.where(np.arange(d) % 2, r.normal(size=(n, d)), 3.0),
    "integers": lambda r, n, d: r.integers(0, 3, size=(n, d)).astype(float),
    "one point": lambda r, n, d: np.ones((n, d)),
}


@st.composite
def cases(draw):
    """Vectors of some shape, moved and scaled, cut into sources, with dead rows and any basis."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    n = draw(st.sampled_from([1, 5, 33, 300, 700]))
    dim = draw(st.sampled_from([1, 2, 9, 64, 200]))
    rows = SHAPES[draw(st.sampled_from(sorted(SHAPES)))](random, n, dim)
    rows = rows * draw(st.sampled_from([1e-42, 1e-20, 1e-7, 1.0, 1e6, 1e14, 1e18, 1e37]))
    rows = (rows + draw(st.sampled_from([0.0, 5.0, 50.0, 1e4]))).astype(np.float32)
    ids = random.permutation(3 * n)[:n].astype(np.int64)
    ids[random.random(n) < draw(st.sampled_from([0.0, 0.3]))] = -1
    count = draw(st.integers(1, min(dim, 40)))
    near = draw(st.integers(1, count))
    kind = draw(st.sampled_from(["fitted", "stale", "along the axes"]))
    basis = some_basis(random, dim, near, count)
    if kind == "fitted" and dim > 1:
        _, _, right = np.linalg.svd(rows - rows.mean(axis=0, dtype=float), full_matrices=False)
        basis = Basis(rows.mean(axis=0, dtype=float), right[:count].T.copy(), min(near, len(right)))
    elif kind == "along the axes":
        basis = Basis(np.zeros(dim), np.eye(dim)[:, :count], near)
    cuts = sorted(draw(st.lists(st.integers(1, n), max_size=2, unique=True)))
    new = rows[random.integers(0, n, 2)] * np.float32(draw(st.sampled_from([1.0, 1.001, -1.0])))
    return np.concatenate([rows[:2], new]), ids, rows, basis, [c for c in cuts if c < n]


@settings(max_examples=300, deadline=None)
@given(cases(), st.sampled_from([1, 3, 10, 1000]))
def test_the_ranking_is_exact_whatever_the_vectors_and_the_basis(tmp_path_factory, case, k):
    queries, ids, rows, basis, cuts = case
    folder = tmp_path_factory.mktemp("sources")
    sources = [
        source(folder, number, part_ids, part, basis)
        for number, (part_ids, part) in enumerate(
            zip(np.split(ids, cuts), np.split(rows, cuts), strict=True)
        )
    ]
    assert_exact(Searcher(sources, basis), queries, ids, rows, k)


@pytest.mark.parametrize("dim", [512, 1024, 4096])
def test_large_galleries_in_several_tiles(tmp_path, dim):
    random = np.random.default_rng(dim)
    n = 20_000 if dim < 4096 else 9_000
    mix = random.normal(size=(60, dim))
    rows = (random.normal(size=(n, 60)) @ mix + 0.3 * random.normal(size=(n, dim)) + 50).astype(
        "f4"
    )
    rows[100:200] = rows[15:16]
    ids = np.arange(n)
    basis = fit_basis(rows[::7])
    assert 0 < basis.near < basis.directions.shape[1]
    searcher = Searcher([source(tmp_path, "a", ids, rows, basis)], basis)
    queries = np.concatenate([rows[:20], rows[150:151], rows[-5:] + np.float32(0.01)])
    assert_exact(searcher, queries, ids, rows, 10)
    assert searcher.stats.bounded == len(queries) * n
    assert searcher.stats.first_level < 0.2 * searcher.stats.bounded
    assert searcher.stats.second_level <= searcher.stats.first_level


def test_the_bound_is_never_above_the_distance(tmp_path):
    """At the edge: rows whose bound equals the distance must survive a limit of that distance."""
    random = np.random.default_rng(1)
    dim, n = 24, 400
    basis = Basis(np.full(dim, 1e3), np.eye(dim)[:, :8], 4)
    rows = np.full((n, dim), 1e3, np.float32)
    rows[:, :4] += random.normal(size=(n, 4)).astype(np.float32)  # all of it in the first level
    rows[n // 2 :] = rows[: n // 2]
    ids = random.permutation(n)
    searcher = Searcher([source(tmp_path, "a", ids, rows, basis)], basis)
    for k in (1, 2, 3, 50):
        assert_exact(searcher, rows[:50], ids, rows, k)


def test_white_noise_is_scanned():
    rows = np.random.default_rng(0).normal(size=(4_000, 256)).astype(np.float32)
    assert fit_basis(rows).near == 0


def test_compressible_vectors_are_not():
    random = np.random.default_rng(0)
    rows = random.normal(size=(4_000, 256)) * 0.8 ** np.arange(256)
    basis = fit_basis(rows.astype(np.float32))
    assert 4 < basis.near < 80
    departure = basis.directions.T @ basis.directions - np.eye(basis.directions.shape[1])
    assert np.abs(departure).max() < 1e-13


@pytest.mark.parametrize("dim", [1, 2, 5, 20, 40])
def test_few_dimensions_are_scanned_or_bounded_alike(tmp_path, dim):
    rows = np.random.default_rng(dim).normal(size=(3_000, dim)).astype(np.float32)
    basis = fit_basis(rows)
    ids = np.arange(3_000)
    sources = [source(tmp_path, "a", ids, rows, basis)] if basis.near else []
    if not sources:
        write_segment(tmp_path / "a.faiss", rows)
        sources = [Source(ids, MappedVectors(tmp_path / "a.faiss", 3_000, dim), None)]
    assert_exact(Searcher(sources, basis), rows[:5], ids, rows, 10)


class TestFiles:
    @pytest.fixture
    def rows(self):
        return np.random.default_rng(0).normal(size=(70, 12)).astype(np.float32)

    @pytest.fixture
    def basis(self):
        return some_basis(np.random.default_rng(1), 12, 3, 6)

    def test_a_basis_is_read_as_it_was_written(self, tmp_path, basis):
        write_basis(tmp_path / "basis.npz", basis)
        again = read_basis(tmp_path / "basis.npz", 12)
        assert again.fingerprint == basis.fingerprint

    @pytest.mark.parametrize("damage", ["skewed", "dim", "junk", "empty"])
    def test_an_unsound_basis_is_refused(self, tmp_path, basis, damage):
        path = tmp_path / "basis.npz"
        directions = basis.directions * (1 + 1e-9 * (damage == "skewed"))
        write_basis(path, Basis(basis.mean, directions, 3))
        if damage in ("junk", "empty"):
            path.write_bytes(b"junk" * (damage == "junk"))
        with pytest.raises(ValueError, match="basis"):
            read_basis(path, 13 if damage == "dim" else 12)

    @pytest.mark.parametrize("damage", ["cut", "longer", "header", "rows", "other basis"])
    def test_bounds_that_do_not_fit_are_refused(self, tmp_path, rows, basis, damage):
        path = tmp_path / "a.bounds"
        write_bounds(path, 70, basis, [rows])
        Bounds(path, 70, basis)
        content = path.read_bytes()
        if damage == "cut":
            path.write_bytes(content[:-1])
        elif damage == "longer":
            path.write_bytes(content + b"\0")
        elif damage == "header":
            path.write_bytes(b"\0" + content[1:])
        elif damage == "other basis":
            basis = some_basis(np.random.default_rng(2), 12, 3, 6)
        with pytest.raises(ValueError):  # noqa: PT011 - json's and ours
            Bounds(path, 71 if damage == "rows" else 70, basis)

    @pytest.mark.parametrize("scale", [0.0, 1e-30, 1e20])
    def test_vectors_that_float32_cannot_square_get_no_bounds(self, tmp_path, rows, basis, scale):
        basis = Basis(np.zeros(12), basis.directions, 3)
        write_bounds(tmp_path / "a.bounds", 70, basis, [rows * np.float32(scale)])
        assert list(tmp_path.iterdir()) == []

    def test_their_size(self, tmp_path):
        rows = np.random.default_rng(0).normal(size=(9_000, 1024)) * 0.99 ** np.arange(1024)
        basis = fit_basis(rows.astype(np.float32)[::4])
        write_bounds(tmp_path / "a.bounds", 9_000, basis, [rows.astype(np.float32)])
        whole_tiles = 2 * bounds_module.TILE
        share = (tmp_path / "a.bounds").stat().st_size / (4 * 1024 * whole_tiles)
        assert share < 0.2
