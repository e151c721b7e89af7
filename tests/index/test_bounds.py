"""The basis and the bounds: what they allow for, and their files."""

import json
from dataclasses import replace

import numpy as np
import pytest

from imgsim.index.bounds import LANES, TILE, Bounds, errors, margins, write_bounds
from imgsim.index.projection import (
    Projection,
    fit_projection,
    read_projection,
    write_projection_file,
)
from tests.conftest import file_limit
from tests.index.test_searcher import some_basis

U = 2.0**-24


class TestWidths:
    def test_white_noise_gets_eight_bits(self):
        """All its neighbours are far, so that little tells them from others."""
        rows = np.random.default_rng(0).normal(size=(4_000, 256)).astype(np.float32)
        projection = fit_projection(rows, 100_000)
        assert (projection.fine, projection.near) == (256, 256)

    def test_all_directions_are_found_of_some_hundred_dimensions(self):
        rows = np.random.default_rng(0).normal(size=(2_600, 640)).astype(np.float32)
        projection = fit_projection(rows, 100_000)
        assert projection.near > 512

    def test_compressible_vectors_are_not(self):
        random = np.random.default_rng(0)
        rows = random.normal(size=(4_000, 256)) * 0.8 ** np.arange(256)
        projection = fit_projection(rows.astype(np.float32))
        assert 16 <= projection.near < 80
        assert projection.fine == projection.near
        departure = projection.directions.T @ projection.directions - np.eye(
            projection.directions.shape[1]
        )
        assert np.abs(departure).max() < 1e-13

    def test_twins_do_not_count_as_neighbours(self):
        """As where a folder and its backup were ingested."""
        random = np.random.default_rng(0)
        rows = (random.normal(size=(2_000, 256)) * 0.95 ** np.arange(256)).astype(np.float32)
        alone, doubled = fit_projection(rows), fit_projection(np.repeat(rows, 2, axis=0))
        assert abs(alone.near - doubled.near) <= 16
        assert abs(alone.directions.shape[1] - doubled.directions.shape[1]) <= 32
        assert fit_projection(np.ones((4_000, 256), np.float32)).near == 0


class TestAllowances:
    """The formulas of the docstring, in more digits."""

    @pytest.fixture
    def rows(self):
        random = np.random.default_rng(0)
        rows = random.normal(size=(TILE + 300, 60)) * 0.8 ** np.arange(60) + 7
        rows[:TILE] *= 30  # the longest are not in the last tile
        return rows.astype(np.float32)

    @pytest.fixture(params=[4, 8])
    def projection(self, request):
        basis = some_basis(np.random.default_rng(1), 60, 16, 32, 48)
        return replace(basis, far_bits=request.param)

    @pytest.fixture
    def bounds(self, tmp_path, rows, projection):
        blocks = [rows[:TILE], rows[TILE:]]
        write_bounds(tmp_path / "a.bounds", len(rows), projection, blocks)
        return Bounds(tmp_path / "a.bounds", len(rows), projection)

    def level(self, bounds, width, rows, projection):
        """Return [c, r*] and [p, r] of every row, and its length, in long double."""
        wide = np.longdouble
        levels, n = bounds.levels, len(rows)
        near = np.stack([levels.near >> shift & 15 for shift in (0, 8, 4, 12)], axis=2)
        near = near.reshape(len(near), -1, LANES).transpose(0, 2, 1).reshape(-1, projection.planes)
        near = (near[:n].astype(wide) - 7.5) * levels.near_scale[np.arange(n) // TILE]
        far = levels.far.astype(wide) - 127.5
        if projection.far_bits == 4:
            far = np.hstack([levels.far & 15, levels.far >> 4]).astype(wide) - 7.5
        high, low, coarse = np.hsplit(near, [projection.fine, 2 * projection.fine])
        far *= levels.far_scale[np.arange(n) // TILE]
        stored = np.hstack([high + low, coarse, far])
        rest = (
            levels.near_rest.reshape(-1)[:n] if width == projection.near else levels.far_tail[:, 0]
        )
        centred = rows.astype(wide) - projection.mean
        along = centred @ projection.directions.astype(wide)[:, :width]
        left = centred - along @ projection.directions.astype(wide)[:, :width].T
        true = np.hstack([along, np.sqrt((left**2).sum(axis=1, keepdims=True))])
        return (
            np.hstack([stored[:, :width], rest[:, None]]),
            true,
            np.sqrt((centred**2).sum(axis=1)),
        )

    @pytest.mark.parametrize("level", ["near", "far"])
    def test_errors_are_never_told_too_small(self, bounds, rows, projection, level):
        width = projection.near if level == "near" else projection.directions.shape[1]
        stored, true, lengths = self.level(bounds, width, rows, projection)
        needed = np.sqrt(((stored - true) ** 2).sum(axis=1)) + 1e-5 * lengths
        told = bounds.levels.far_tail[:, 1]
        if level == "near":
            told = np.repeat(bounds.levels.near_error, LANES)[: len(rows)]
        assert (told.astype(np.longdouble) >= needed * (1 - 1e-10)).all()
        assert (told <= 3 * needed.reshape(-1).max()).all()

    def test_no_row_is_longer_than_the_norm(self, bounds, rows, projection):
        longest = max(
            float(np.sqrt((self.level(bounds, width, rows, projection)[0] ** 2).sum(axis=1)).max())
            for width in (projection.near, projection.directions.shape[1])
        )
        assert longest * (1 - 1e-12) <= bounds.norm <= longest * (1 + 1e-6)

    def test_margin_and_error(self, bounds, projection):
        norm, norms = np.array(bounds.norm), np.array([0.0, 3.0, 1e14])
        assert np.allclose(margins(norm, norms), 1e-5 * (bounds.norm + norms), rtol=1e-12)
        products = projection.planes + 2
        error = (products + 6) * (U * (1.5 * bounds.norm * norms + bounds.norm**2) + 2.0**-120)
        assert np.allclose(errors(projection.planes, norm, norms), error, rtol=1e-12)


class TestFiles:
    @pytest.fixture
    def rows(self):
        return np.random.default_rng(0).normal(size=(70, 40)).astype(np.float32)

    @pytest.fixture
    def projection(self):
        return some_basis(np.random.default_rng(1), 40, 16, 16, 32)

    def test_a_basis_is_read_as_it_was_written(self, tmp_path, projection):
        write_projection_file(tmp_path / "basis.npz", projection)
        again = read_projection(tmp_path / "basis.npz", 40)
        assert again.fingerprint == projection.fingerprint

    @pytest.mark.parametrize("damage", ["skewed", "dim", "directions", "nan", "junk", "empty"])
    def test_an_unsound_basis_is_refused(self, tmp_path, projection, damage):
        path = tmp_path / "basis.npz"
        directions = projection.directions * (1 + 1e-9 * (damage == "skewed"))
        if damage == "nan":
            directions[3, -1] = np.nan
        elif damage == "directions":
            directions = some_basis(np.random.default_rng(1), 50, 16, 16, 32).directions
        write_projection_file(path, Projection(projection.mean, directions, 16, 16))
        if damage in ("junk", "empty"):
            path.write_bytes(b"junk" * (damage == "junk"))
        with pytest.raises(ValueError, match="basis"):
            read_projection(path, 41 if damage == "dim" else 40)

    def test_files_of_another_format_are_refused(self, tmp_path, monkeypatch, rows, projection):
        path = tmp_path / "basis.npz"
        former = {"directions": projection.directions, "mean": projection.mean, "near": 16}
        np.savez(path, **former, rows=70)
        with pytest.raises(ValueError, match="not a projection"):
            read_projection(path, 40)
        with monkeypatch.context() as patched:
            patched.setattr("imgsim.index.bounds._FORMAT", 2)
            write_bounds(tmp_path / "a.bounds", 70, projection, [rows])
        with pytest.raises(ValueError, match="not the bounds of 70 rows"):
            Bounds(tmp_path / "a.bounds", 70, projection)

    @pytest.mark.parametrize("damage", ["cut", "longer", "header", "rows", "other basis"])
    def test_bounds_that_do_not_fit_are_refused(self, tmp_path, rows, projection, damage):
        path = tmp_path / "a.bounds"
        write_bounds(path, 70, projection, [rows])
        Bounds(path, 70, projection)
        content = path.read_bytes()
        if damage == "cut":
            path.write_bytes(content[:-1])
        elif damage == "longer":
            path.write_bytes(content + b"\0")
        elif damage == "header":
            path.write_bytes(b"\0" + content[1:])
        elif damage == "other basis":
            projection = some_basis(np.random.default_rng(2), 40, 16, 16, 32)
        with pytest.raises(ValueError):  # noqa: PT011 - json's and ours
            Bounds(path, 71 if damage == "rows" else 70, projection)

    @pytest.mark.parametrize("scale", [0.0, 1e-30, 1e20])
    def test_vectors_that_float32_cannot_square_get_no_bounds(
        self, tmp_path, rows, projection, scale
    ):
        projection = Projection(np.zeros(40), projection.directions, 16, 16)
        write_bounds(tmp_path / "a.bounds", 70, projection, [rows * np.float32(scale)])
        assert list(tmp_path.iterdir()) == []

    def test_a_disk_that_is_full_at_the_last_byte(self, tmp_path, rows, projection):
        path = tmp_path / "a.bounds"
        write_bounds(path, 70, projection, [rows])
        most = path.stat().st_size - 1
        path.unlink()
        with file_limit(most), pytest.raises(OSError, match="File too large"):
            write_bounds(path, 70, projection, [rows])
        assert list(tmp_path.iterdir()) == []

    def test_altered_bytes_are_no_bounds(self, tmp_path, rows, projection):
        path = tmp_path / "a.bounds"
        write_bounds(path, 70, projection, [rows])
        content = bytearray(path.read_bytes())
        for place in range(4_096, len(content), 7):
            content[place] ^= 1
            path.write_bytes(content)
            with pytest.raises(ValueError, match="altered bytes"):
                Bounds(path, 70, projection)
            content[place] ^= 1

    def test_their_size(self, tmp_path):
        rows = np.random.default_rng(0).normal(size=(9_000, 1024)) * 0.99 ** np.arange(1024)
        rows = rows.astype(np.float32)
        projection = fit_projection(rows[::4])
        blocks = (rows[start : start + TILE] for start in range(0, 9_000, TILE))
        write_bounds(tmp_path / "a.bounds", 9_000, projection, blocks)
        assert (tmp_path / "a.bounds").stat().st_size < 0.2 * rows.nbytes

    @pytest.mark.parametrize("bit", range(8))
    def test_no_altered_bit_of_a_basis_is_taken_for_another_basis(self, tmp_path, projection, bit):
        path = tmp_path / "basis.npz"
        write_projection_file(path, projection)
        content = path.read_bytes()
        for place in range(bit % 3, len(content), 3):
            altered = bytearray(content)
            altered[place] ^= 1 << bit
            path.write_bytes(altered)
            try:
                found = read_projection(path, 40)
            except (ValueError, OSError):
                continue
            assert found.fingerprint == projection.fingerprint

    def test_a_basis_beyond_all_numbers_is_refused_without_a_warning(self, tmp_path, projection):
        directions = projection.directions.copy()
        directions[0, 0] = 1e300  # whose square is infinite
        path = tmp_path / "basis.npz"
        write_projection_file(path, replace(projection, directions=directions))
        with pytest.raises(ValueError, match="not orthonormal"):
            read_projection(path, 40)

    @pytest.mark.parametrize("bit", range(8))
    def test_no_altered_bit_of_a_header_is_believed(self, tmp_path, rows, projection, bit):
        path = tmp_path / "a.bounds"
        write_bounds(path, 70, projection, [rows])
        content, norm = path.read_bytes(), Bounds(path, 70, projection).norm
        for place in range(len(json.dumps(json.loads(content[:4_096])))):
            altered = bytearray(content)
            altered[place] ^= 1 << bit
            path.write_bytes(altered)
            try:
                found = Bounds(path, 70, projection)
            except ValueError:
                continue
            assert found.norm == norm
            del found

    @pytest.mark.parametrize("header", [b"null", b"[]", b"{}", b'{"format": 1}', b"5"])
    def test_another_header(self, tmp_path, rows, projection, header):
        path = tmp_path / "a.bounds"
        write_bounds(path, 70, projection, [rows])
        path.write_bytes(header.ljust(4_096) + path.read_bytes()[4_096:])
        with pytest.raises(ValueError, match="not a file of bounds"):
            Bounds(path, 70, projection)
