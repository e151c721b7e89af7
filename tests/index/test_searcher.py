"""The certified search against a sort of all float64 distances, on kind and on hostile vectors."""

import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llvmlite.binding import get_host_cpu_features
from numba import njit
from xxhash import xxh3_64_hexdigest

from imgsim.index import (
    candidates,
    checksum_numba,
    first_level,
    llvm,
    rounding,
    scan_numba,
    scan_numpy,
    search,
    simd,
)
from imgsim.index import searcher as searcher_module
from imgsim.index.bounds import LANES, TILE, Bounds, errors, margins, write_bounds
from imgsim.index.distance import distances
from imgsim.index.mapped_segment import MappedSegment, TableInMemory, table_of
from imgsim.index.projection import Projection, fit_projection
from imgsim.index.search import Source
from imgsim.index.searcher import SegmentSearcher
from imgsim.index.segment_file import MappedEmbeddings, write_segment
from imgsim.index.topk import TopKRequest
from imgsim.records import packed

BOTH = pytest.mark.parametrize("backend", [scan_numpy, scan_numba], ids=["numpy", "compiled"])


def source(folder, name, ids, rows, projection):
    """Write a segment with its bounds and map both."""
    path = folder / f"{name}.faiss"
    blocks = (rows[start : start + TILE] for start in range(0, len(rows), TILE))
    found = None
    if projection.near:
        write_bounds(path.with_suffix(".bounds"), len(rows), projection, blocks)
        if path.with_suffix(".bounds").exists():
            found = Bounds(path.with_suffix(".bounds"), len(rows), projection)
    return source_of(path, ids, rows, found)


def source_of(path, ids, rows, bounds):
    digest = write_segment(path, rows)
    table = TableInMemory(table_of(ids, rows))
    segment = MappedSegment(MappedEmbeddings(path, *rows.shape), table, digest)
    return Source(segment, packed(ids < 0), bounds)


def searcher_of(sources, projection, dim, backend, **options):
    return SegmentSearcher(sources, projection, dim, lambda _: backend, **options)


def assert_exact(searcher, queries, ids, rows, k, limits=np.inf):
    live = ids >= 0
    results, stats = searcher.search(queries, k, limits)
    assert stats.queries == len(queries)
    assert len(results) == len(queries)
    limits = np.broadcast_to(limits, len(queries))
    for query, limit, (found_ids, found) in zip(queries, limits, results, strict=True):
        true = distances(query, rows[live])
        order = np.lexsort((ids[live], true))
        order = order[true[order] <= limit][:k]
        assert found_ids.tolist() == ids[live][order].tolist()
        assert found.tolist() == true[order].tolist()
    return stats


def some_basis(random, dim, fine, near, count):
    """An orthonormal basis that was fitted to nothing."""
    directions = np.linalg.qr(random.normal(size=(dim, count)))[0]
    return Projection(random.normal(size=dim), directions, fine, near)


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
    n = draw(st.sampled_from([1, 5, 33, 300, 700, 1_500]))
    dim = draw(st.sampled_from([1, 2, 17, 64, 200]))
    rows = SHAPES[draw(st.sampled_from(sorted(SHAPES)))](random, n, dim)
    rows = rows * draw(st.sampled_from([1e-42, 1e-20, 1e-7, 1.0, 1e6, 1e14, 1e18, 1e37]))
    rows = (rows + draw(st.sampled_from([0.0, 5.0, 50.0, 1e4]))).astype(np.float32)
    ids = random.permutation(3 * n)[:n].astype(np.int64)
    ids[random.random(n) < draw(st.sampled_from([0.0, 0.3]))] = -1
    widths = sorted(draw(st.lists(st.sampled_from([0, 16, 32, 64, 192]), min_size=3, max_size=3)))
    kind = draw(st.sampled_from(["fitted", "stale", "along the axes"]))
    right, mean = np.eye(dim), np.zeros(dim)
    if kind == "stale":
        right, mean = np.linalg.qr(random.normal(size=(dim, dim)))[0], random.normal(size=dim)
    elif kind == "fitted":
        mean = rows.mean(axis=0, dtype=float)
        right = np.linalg.svd(rows - mean, full_matrices=False)[2]
    fine, near, count = (min(width, len(right) // 16 * 16) for width in widths)
    bits = draw(st.sampled_from([4, 8]))
    projection = Projection(mean, right[:count].T.copy(), fine, near, far_bits=bits)
    cuts = sorted(draw(st.lists(st.integers(1, n), max_size=2, unique=True)))
    new = rows[random.integers(0, n, 2)] * np.float32(draw(st.sampled_from([1.0, 1.001, -1.0])))
    queries = np.concatenate([rows[:2], new])[: draw(st.integers(1, 4))]
    return queries, ids, rows, projection, [c for c in cuts if c < n]


@BOTH
@settings(max_examples=100, deadline=None)
@given(cases(), st.sampled_from([1, 3, 10, 1000, None]), st.data())
def test_the_ranking_is_exact_whatever_the_vectors_and_the_basis(
    tmp_path_factory, backend, case, k, data
):
    queries, ids, rows, projection, cuts = case
    folder = tmp_path_factory.mktemp("sources")
    sources = [
        source(folder, number, part_ids, part, projection)
        for number, (part_ids, part) in enumerate(
            zip(np.split(ids, cuts), np.split(rows, cuts), strict=True)
        )
    ]
    searcher = searcher_of(sources, projection, rows.shape[1], backend)
    limits = []
    for query in queries:
        true = distances(query, rows)
        some = [np.inf, 0.0, *true[:3].tolist(), float(np.median(true))]
        limits.append(data.draw(st.sampled_from(some)))
    assert_exact(searcher, queries, ids, rows, k, np.array(limits))


@cache
def large_gallery(dim, n):
    """Rows of some thirty directions and noise, with copies, and a projection of them."""
    random = np.random.default_rng(dim)
    mix = random.normal(size=(30, dim))
    rows = random.normal(size=(n, 30)) @ mix + 0.3 * random.normal(size=(n, dim)) + 50
    rows = rows.astype(np.float32)
    rows[100:200] = rows[15:16]
    return rows, fit_projection(rows[:: 1 if n < 9_000 else 5])


@pytest.mark.parametrize(
    ("dim", "n"), [(1, 20_000), (24, 20_000), (256, 20_000), (1024, 6_000), (4096, 2_500)]
)
@BOTH
def test_large_galleries(tmp_path, backend, dim, n):
    rows, projection = large_gallery(dim, n)
    ids = np.arange(n)
    searcher = searcher_of([source(tmp_path, "a", ids, rows, projection)], projection, dim, backend)
    queries = np.concatenate([rows[:20], rows[150:151], rows[-5:] + np.float32(0.01)])
    assert_exact(searcher, queries[:1], ids, rows, 10)
    stats = assert_exact(searcher, queries, ids, rows, 10)
    assert_exact(searcher, queries, ids, rows, None, float(distances(rows[0], rows[n - 1 :])[0]))
    if projection.near:
        assert stats.bounded == len(queries) * n
        assert stats.first_level < stats.bounded
        assert stats.distances <= stats.second_level


@BOTH
def test_more_candidates_than_there_is_room_for(tmp_path, backend):
    """All rows tie, so that none can be left out before its distance is known."""
    random = np.random.default_rng(0)
    rows = np.ones((20_000, 32), np.float32)
    ids = random.permutation(20_000)
    projection = some_basis(random, 32, 0, 16, 32)
    searcher = searcher_of([source(tmp_path, "a", ids, rows, projection)], projection, 32, backend)
    for k in (1, 10, 30_000, None):
        assert_exact(searcher, rows[:2], ids, rows, k)
        assert_exact(searcher, np.zeros((1, 32), np.float32), ids, rows, k)


@BOTH
def test_many_queries_in_groups(tmp_path, backend):
    random = np.random.default_rng(0)
    rows = (random.normal(size=(1_300, 48)) * 0.8 ** np.arange(48)).astype(np.float32)
    ids = random.permutation(1_300)
    projection = fit_projection(rows)
    parts = np.array_split(np.arange(1_300), 3)
    sources = [
        source(tmp_path, i, ids[part], rows[part], projection) for i, part in enumerate(parts)
    ]
    sources[1] = replace(sources[1], bounds=None)
    assert_exact(searcher_of(sources, projection, 48, backend), rows[:1_100], ids, rows, 5)


@BOTH
@pytest.mark.parametrize("waiting", [1, 70_000])
def test_more_rows_wait_than_there_is_room_for(tmp_path, monkeypatch, backend, waiting):
    """They are looked at before the scan goes on, in whatever source they are."""
    monkeypatch.setattr(search, "_WAITING", waiting)
    random = np.random.default_rng(4)
    rows = random.normal(size=(7_500, 24)).astype(np.float32)
    rows[5_000:5_020] = rows[:20] + np.float32(0.01)  # the nearest come late
    ids = random.permutation(7_500)
    ids[::9] = -1
    projection = some_basis(random, 24, 0, 16, 16)
    cuts = [2_000, 4_500]
    sources = [
        source(tmp_path, number, *part, projection)
        for number, part in enumerate(zip(np.split(ids, cuts), np.split(rows, cuts), strict=True))
    ]
    sources[1] = replace(sources[1], bounds=None)
    searcher = searcher_of(sources, projection, 24, backend)
    stats = assert_exact(searcher, rows[:20], ids, rows, 10)
    assert_exact(searcher, rows[:3], ids, rows, None, 5.0)
    assert stats.bounded == 20 * 5_000


@BOTH
def test_nothing_to_search(backend):
    searcher = searcher_of([], None, 8, backend)
    ((ids, found),) = searcher.search(np.ones((1, 8), np.float32), 3).nearest
    assert (len(ids), len(found)) == (0, 0)
    assert searcher.search(np.ones((0, 8), np.float32), 3).nearest == []


def test_the_compiled_scans_are_loaded_when_that_pays(tmp_path):
    code = """
import sys
from pathlib import Path
import numpy as np
from imgsim.index.mapped_segment import MappedSegment, TableInMemory, table_of
from imgsim.index.search import Source
from imgsim.index.searcher import BackendChoice, SegmentSearcher
from imgsim.index.segment_file import MappedEmbeddings, write_segment
rows = np.random.default_rng(0).normal(size=(4_000, 1024)).astype(np.float32)
path, none = Path(sys.argv[1]), np.empty(0, np.uint8)
digest = write_segment(path, rows)
table = TableInMemory(table_of(np.arange(4_000), rows))
mapped = MappedSegment(MappedEmbeddings(path, 4_000, 1024), table, digest)
sources = [Source(mapped, none, None)]
searcher = SegmentSearcher(sources, None, 1024, BackendChoice())
for count in (1, 60):
    found = searcher.search(rows[:count], 1).nearest
    assert [ids.tolist() for ids, _ in found] == [[i] for i in range(count)]
    print("numba" in sys.modules)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "a.faiss")]
    assert subprocess.run(command, check=True, capture_output=True).stdout == b"False\nTrue\n"


MUTANTS = [
    ("codes - np.float32(WIDE_MIDDLE)", "codes - np.float32(WIDE_MIDDLE + 2)"),
    ("near = true <= state.limits[a] * RAISED", "near = true < state.limits[a] * RAISED"),
    ("low[some] <= state.limits[a] * RAISED", "low[some] < state.limits[a] * RAISED"),
    (" + levels.near_error[groups, None]", " + 0 * levels.near_error[groups, None]"),
    ("inputs.margins[queries] + error\n        with", "inputs.margins[queries]\n        with"),
    ("squares - 2 * inputs.errors[queries] <= reach**2", "squares <= reach**2"),
    ("queries[~is_best], row[~is_best], squares[~is_best]", "queries, row, squares"),
    (" / 2 - inputs.errors\n", " / 2 + 0 * inputs.errors\n"),
    ("* (1 - rho) - off", "* (1 - rho)"),
    (
        "doubt = inputs.margins[queries] + error, 2 *",
        "doubt = inputs.margins[queries] + error, 0 *",
    ),
    ("(rest - group.far_rest[queries])", "(rest + group.far_rest[queries])"),
    ("state.limits[a], state.highs[a, 0]", "state.limits[a], state.highs[a, -1]"),
    ("here[here] = _count(inputs.excluded, row[here])", "pass"),
    ("shift in (0, 8, 4, 12)", "shift in (0, 4, 8, 12)"),
]


SCAN, LOOK = "scan_bounds", "look_closer"

KERNEL_MUTANTS = [  # where they matter, because each function takes its time to compile
    (SCAN, scan_numba, " + inputs.levels.near_error[row // LANES]\n", "\n"),
    (LOOK, scan_numba, " + levels.near_error[row // LANES]\n", "\n"),
    (LOOK, scan_numba, "[place] - 2 * inputs.errors[a] > reach**2", "[place] > reach**2"),
    (SCAN, scan_numba, "** 2 - 2 * doubts[a]", "** 2"),
    (LOOK, scan_numba, "low * (1 - rho) - off", "low * (1 - rho)"),
    (LOOK, scan_numba, "** 2 - 2 * inputs.errors[a]))", "** 2))"),
    (LOOK, candidates, "state.limits[a], state.highs[a, 0]", "state.limits[a], state.highs[a, -1]"),
    (SCAN, rounding, "self._single(_MOST)", "self._single(1e9)"),
    (SCAN, first_level, "_RAISED = 1.00001", "_RAISED = 0.1"),
    (SCAN, first_level, "near_scale[tile + place]", "near_scale[tile]"),
    (SCAN, scan_numba, "if place == 0:", "if number == 0:"),
    (SCAN, first_level, "sums[blocks if twice else 0, 2, lane]", "twice * sums[blocks, 2, lane]"),
    (SCAN, first_level, "sums[blocks if twice else 0, 2, lane]", "sums[0, 2, lane] * (not twice)"),
    (SCAN, first_level, "weights.rest_factors[0, lane] = sums[blocks, 0, lane]", "pass"),
]


def battery(folder, backend):
    """Searches in which every allowance of the bounds is needed."""
    random = np.random.default_rng(0)
    near_far = random.normal(size=(600, 72)) * ([3.0] * 24 + [2.0] * 24 + [1.0] * 24)
    grid = random.integers(-127, 128, size=(600, 72)).astype(np.float64)
    grid[:, 24:] = 0
    close = 0.7371 * grid[np.arange(600) % 150]
    close[:, 64:] = 1e-3 * random.normal(size=(600, 8))
    decoys = np.zeros((600, 72))  # their codes are those of the query, and x is nearer
    decoys[:400, 0], decoys[400, 0] = 0.49, 127
    decoys[500:, 1], decoys[402, 1] = 12.7, 0.3
    lines = np.zeros((600, 72))
    lines[:, 71] = random.normal(size=600)
    for name, values in {
        "all": near_far,
        "wide": near_far,
        "grid": grid,
        "close": close,
        "lines": lines,
        "decoys": decoys,
    }.items():
        bits = 8 if name == "wide" else 4
        projection = Projection(np.zeros(72), np.eye(72)[:, :64], 16, 32, far_bits=bits)
        rows = np.repeat(values.astype(np.float32), 2, axis=0)
        ids = random.permutation(len(rows))
        ids[::7] = -1
        searcher = searcher_of(
            [source(folder, name, ids, rows, projection)], projection, 72, backend
        )
        some = rows[:64], rows[256:288], rows[:16] + np.float32(1e-3), -rows[:16], 0 * rows[:1]
        for queries in some:
            for k in (1, 5):
                assert_exact(searcher, queries, ids, rows, k)
        assert_exact(searcher, rows[:40], ids, rows, None, 0.0)
    wide = random.integers(-127, 128, size=(300, 400)).astype(np.float64)  # many products to round
    wide[:, 96:], wide[0, :96] = 0, 127
    rows = np.repeat(0.7371 * wide, 2, axis=0).astype(np.float32)
    projection = Projection(np.zeros(400), np.eye(400)[:, :96], 96, 96)
    searcher = searcher_of(
        [source(folder, "broad", np.arange(600), rows, projection)], projection, 400, backend
    )
    assert_exact(searcher, rows, np.arange(600), rows, None, 0.0)
    scales = 2.0 ** random.integers(-3, 4, (20, 1, 16))  # of tiles
    rows = (random.normal(size=(20, TILE, 16)) * scales).astype(np.float32).reshape(-1, 16)
    ids, projection = np.arange(len(rows)), Projection(np.zeros(16), np.eye(16), 0, 16)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(searcher_module, "_TILES", 32)  # so that they are scanned in one go
        searcher = searcher_of(
            [source(folder, "tiles", ids, rows, projection)], projection, 16, backend
        )
    for some in [[5], [3 * TILE], [16 * TILE + 7], [len(rows) - 1], range(9, len(rows), 3_000)]:
        assert_exact(searcher, rows[list(some)], ids, rows, 3)
        assert_exact(searcher, rows[list(some)], ids, rows, None, 0.0)
    for blocks in (1, 2):
        rows = misfits(blocks)
        projection = Projection(np.zeros(64 * blocks), np.eye(64 * blocks), 0, 64 * blocks)
        searcher = searcher_of(
            [source(folder, f"misfits-{blocks}", np.arange(600), rows, projection)],
            projection,
            64 * blocks,
            backend,
        )
        assert_exact(searcher, rows[:1], np.arange(600), rows, None, 0.0)


def misfits(blocks):
    """Rows of which the first rounds as badly as it can, asked for itself.

    Its codes are the greatest, and its weights those of a factor f, times 127 or a half more than a
    whole number; or for one block so that what is left of them is that, times another factor.
    """
    weights = np.full(64, 10.49 if blocks == 2 else 10 + 0.49 * 30.49 / 127)
    weights[:2] = 127, 10.49
    rows = np.random.default_rng(0).uniform(-0.5, 0.5, size=(600, 64 * blocks))
    rows[0] = 1
    return (rows * np.sqrt(np.tile(weights, blocks))).astype(np.float32)


@BOTH
def test_queries_far_beyond_the_rows(tmp_path, backend):
    """Their squares are more than float32 holds, those of the rows are not."""
    random = np.random.default_rng(0)
    rows = (random.normal(size=(600, 24)) * 1e13).astype(np.float32)
    projection = Projection(np.zeros(24), np.eye(24)[:, :16], 16, 16)
    searcher = searcher_of(
        [source(tmp_path, "a", np.arange(600), rows, projection)], projection, 24, backend
    )
    for scale in (1e16, 1e28, 1e37):
        queries = (random.normal(size=(4, 24)) * scale).astype(np.float32)
        assert_exact(searcher, queries, np.arange(600), rows, 3)


@BOTH
def test_at_the_edge(tmp_path, backend):
    battery(tmp_path, backend)


@pytest.mark.parametrize(("right", "wrong"), MUTANTS)
def test_a_mutated_scan_is_noticed(tmp_path, right, wrong):
    text = Path(scan_numpy.__file__).read_text()
    assert text.count(right) == 1
    with pytest.raises(AssertionError):
        battery(tmp_path, executed(text.replace(right, wrong)))


@pytest.mark.parametrize(("function", "module", "right", "wrong"), KERNEL_MUTANTS)
def test_a_mutated_kernel_is_noticed(tmp_path, function, module, right, wrong):
    without = lacking("avx512vnni", "avxvnni")  # which would not need all that is mutated
    mutant = rebuilt(without | {module: ((right, wrong),)})[scan_numba]
    backend = SimpleNamespace(**vars(scan_numba))
    setattr(backend, function, getattr(mutant, function))
    with pytest.raises(AssertionError):
        battery(tmp_path, backend)


def rebuilt(changes):
    """Return the modules of the scans, with some texts replaced by others."""
    built, before = {}, ()
    with pytest.MonkeyPatch.context() as patched:  # what numba keeps would name them later
        for module in (simd, rounding, first_level, candidates, scan_numba):
            before = *before, (module, changes.get(module, ()))
            built[module] = changed(before)
            patched.setitem(sys.modules, module.__name__, built[module])
    return built


@cache
def changed(modules):
    """Return the last of some modules, which imports those before: it is compiled once."""
    module, changes = modules[-1]
    text = Path(module.__file__).read_text()
    for right, wrong in changes:
        assert text.count(right) == 1
        text = text.replace(right, wrong)
    return executed(text)


def lacking(*features):
    return {simd: tuple((f'"+{name}"', '"none"') for name in features)}


def executed(text):
    module = ModuleType("mutant")
    exec(text, module.__dict__)
    return module


@pytest.mark.parametrize(
    "features",
    [
        ["avx512vnni"],
        ["avx512bw"],
        ["avx512bw", "avxvnni"],
        ["avx512bw", "avx2"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("together", [1, 4])
def test_any_processor_will_do(features, together):
    """Without AVX-512, VNNI or AVX2, other instructions do the same."""
    if not get_host_cpu_features().get(features[-1]):
        pytest.skip("this processor lacks it anyway")
    built = rebuilt(lacking(*features))
    round_lanes = built[rounding].round_lanes
    add = getattr(built[simd], "add_to_one" if together == 1 else "add_to_four")

    @njit
    def rounded(exact, inverse, reach, pairs, sums):
        round_lanes(exact, inverse, reach, pairs, sums, (len(exact), 0, 0, 0))

    check_rounding(rounded)

    @njit
    def run(codes, blocks, weights, pairs, sums, factors, scores):
        ones = np.ones(weights.shape, np.float32)
        for block in range(len(blocks) - 1):
            start, stop = blocks[block], blocks[block + 1]
            exact, which = weights[start:stop].copy(), (stop - start, start // 4, block, 0)
            round_lanes(exact, ones, ones[0], pairs, sums, which)
            factors[block] = sums[block, 0]
        for number in range(len(codes)):
            for a in range(0, scores.shape[1], together):
                add(codes, blocks, pairs, factors, scores, (number, len(blocks) - 1, a, number, a))

    random, blocks = np.random.default_rng(0), np.array([0, 16, 80, 100])
    fours = random.integers(0, 16, (3, 25, LANES, 4), np.uint16)  # 3 x 128 rows, 100 codes each
    codes = (fours << np.array([0, 8, 4, 12], np.uint16)).sum(axis=-1, dtype=np.uint16)
    whole = random.integers(-33, 34, (100, 16)).astype(np.float32)  # 16 lanes
    whole[blocks[:-1]] = 127  # so that there is nothing to round
    factors = 2.0 ** random.integers(-2, 3, (3, 16)).astype(np.float32)
    weights = whole * np.repeat(factors, np.diff(blocks), axis=0)
    scores = random.integers(0, 9, (3, 2 * together, LANES)).astype(np.float32)
    each = weights.reshape(25, 4, 16)[..., : 2 * together].astype(np.float64)
    expected = scores + np.einsum("nilj,ija->nal", fours.astype(np.float64), each)
    pairs, sums = np.zeros((25, 16, 2), np.uint32), np.zeros((3, 4, 16), np.float32)
    run(codes, blocks, weights, pairs, sums, np.zeros((3, 16), np.float32), scores)
    assert np.array_equal(scores, expected)
    total, sizes = (np.add.reduceat(each, blocks[:-1]) for each in (whole, np.abs(whole)))
    assert np.array_equal(sums[:, 0], factors)
    assert np.array_equal(sums[:, 1], -7.5 * factors * total)
    assert not sums[:, 2].any()
    assert np.array_equal(sums[:, 3], 15 * factors * sizes)


def check_rounding(rounded):
    random = np.random.default_rng(1)
    weights = (random.normal(size=(64, 16)) * 10.0 ** random.integers(-9, 9, 16)).astype(np.float32)
    inverse = random.uniform(0.1, 10, (64, 16)).astype(np.float32)
    reach = (10.0 ** random.integers(-2, 3, 16)).astype(np.float32)
    weights[:, 0], reach[1] = 0, np.inf
    rests, pairs = weights.copy(), np.empty((16, 16, 2), np.uint32)
    sums = np.empty((1, 4, 16), np.float32)
    rounded(rests, inverse, reach, pairs, sums)
    factor, offset, change, magnitude = sums[0].astype(np.float64)
    two = (pairs & 0xFFFF).astype(np.uint16).view(np.int8).reshape(16, 16, 4)
    whole = two.transpose(0, 2, 1).reshape(64, 16).astype(np.float64)
    true = weights.astype(np.float64)
    off = np.abs(rests + factor * whole - true)
    assert (off <= 2.0**-23 * (np.abs(true) + np.abs(factor * whole))).all()
    assert (np.abs(rests) <= 0.51 * factor).all()
    lost = 7.5 * np.abs(rests.astype(np.float64)).sum(axis=0)
    length = np.sqrt(((rests.astype(np.float64) * inverse) ** 2).sum(axis=0) + 1e-36) * reach
    expected = np.minimum(lost, length)
    assert (change * first_level._RAISED >= expected).all()
    assert np.allclose(change, expected, rtol=1e-5)
    assert (lost < length).any()
    assert (lost > length).any()
    assert np.allclose(offset, -7.5 * factor * whole.sum(axis=0), rtol=1e-6)
    assert np.allclose(magnitude, 15 * factor * np.abs(whole).sum(axis=0), rtol=1e-6)


def test_allowances_are_those_of_the_derivation(tmp_path):
    """What the battery cannot need, as no row rounds as badly: doubts, and errors of thresholds."""
    rows = np.random.default_rng(0).normal(size=(3 * TILE, 80)).astype(np.float32)
    projection = Projection(np.zeros(80), np.eye(80), 16, 80)
    found = [source(tmp_path, "a", np.arange(len(rows)), rows, projection)]
    searched = searcher_of(found, projection, 80, scan_numba)._searched
    asked = search.Search(searched, scan_numba, TopKRequest(rows[:4], 1, np.full(4, np.inf)))
    weights = first_level.room_for_weights(asked.group)
    first_level.round_weights(asked.bounds[0], asked.group, (0, 3), weights)
    sums = weights.sums[..., :12].astype(np.float64)  # of four queries and three tiles
    twice = np.repeat(weights.twice[:3], 4)
    used = np.vstack([sums[:-1, 3], sums[-1:, 3] * twice])
    changes = np.vstack([np.where(twice, sums[-1, 2], sums[0, 2]), sums[1:-1, 2]])
    expected = (projection.planes + 10) * 1.5 * 2.0**-24 * used.sum(axis=0)
    expected += 1.00001 * changes.sum(axis=0)
    assert np.allclose(weights.doubts[:12], expected, rtol=1e-12)
    bounds, norm = asked.bounds[0], asked.group.norms[0]
    least = scan_numba._threshold(bounds, asked.group, np.ones(4), 0, 5, 0.25)
    reach = scan_numpy.RAISED + bounds.margins[0] + bounds.levels.near_error[0]
    expected = (norm**2 - reach**2) / 2 - bounds.errors[0] - 0.25
    assert -4 * 2.0**-24 * abs(expected) <= np.float64(least) - expected <= 0


def test_each_source_has_margins_of_its_own(tmp_path):
    rows = np.random.default_rng(0).normal(size=(600, 16)).astype(np.float32)
    projection = Projection(np.zeros(16), np.eye(16), 16, 16)
    sources = [
        source(tmp_path, str(scale), np.arange(600), rows * np.float32(scale), projection)
        for scale in (1, 1e6)
    ]
    searched = searcher_of(sources, projection, 16, scan_numpy)._searched
    found = search.Search(searched, scan_numpy, TopKRequest(rows[:4], 1, np.full(4, np.inf))).bounds
    norms = np.linalg.norm(rows[:4].astype(np.float64), axis=1)
    for each, bounds in zip(sources, found, strict=True):
        norm = np.array(each.bounds.norm)
        assert np.allclose(bounds.margins, margins(norm, norms), rtol=1e-9)
        assert np.allclose(bounds.errors, errors(projection.planes, norm, norms), rtol=1e-9)


def test_numba_notices_what_changes():
    """It looks at the file of a function only, not at what it calls."""
    modules = candidates, checksum_numba, first_level, llvm, rounding, simd
    texts = [Path(module.__file__).read_bytes() for module in modules]
    assert xxh3_64_hexdigest(b"".join(texts)) == scan_numba.COMPILED_IN


@BOTH
@pytest.mark.parametrize(("k", "radius"), [(7_000, np.inf), (None, 1e200), (None, 5.4)])
def test_very_many_are_asked_for(tmp_path, backend, k, radius):
    """Groups get smaller, and candidates are settled many times."""
    random = np.random.default_rng(3)
    rows = random.normal(size=(9_000, 16)).astype(np.float32)
    ids = random.permutation(9_000)
    projection = some_basis(random, 16, 0, 16, 16)
    sources = [source(tmp_path, "a", ids, rows, projection)]
    searcher = searcher_of(sources, projection, 16, backend, most_highs=40_000)
    assert_exact(searcher, rows[:12], ids, rows, k, radius)


@BOTH
def test_many_candidates_are_looked_at_in_float32(tmp_path, backend):
    """Queries of a dense cluster; rows at exactly the limit stay."""
    random = np.random.default_rng(5)
    rows = random.normal(size=(40, 64))[random.integers(0, 40, 6_000)]
    rows = (rows + 1e-3 * random.integers(-2, 3, size=(6_000, 64))).astype(np.float32)
    ids = random.permutation(6_000)
    projection = some_basis(random, 64, 16, 16, 32)
    searcher = searcher_of([source(tmp_path, "a", ids, rows, projection)], projection, 64, backend)
    stats = assert_exact(searcher, rows[:100], ids, rows, 7)
    radius = float(np.sort(distances(rows[0], rows))[30])
    assert_exact(searcher, rows[:1], ids, rows, None, radius)
    if backend is scan_numba:
        assert stats.distances < 0.9 * stats.second_level


def test_the_scans_compile_where_nothing_can_be_cached():
    """numba looks for a cache in archives only, and finds none."""
    code = (
        "import numpy, imgsim.index.scan_numba as k;"
        "k._project(*map(numpy.ones, [(1, 4), 4, (4, 4)]), (0, 4))"
    )
    environment = os.environ | {"NUMBA_CACHE_LOCATOR_CLASSES": "ZipCacheLocator"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
