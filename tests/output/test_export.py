import csv
import json
import os
import pickle
import shutil

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest

from imgsim import OutputError, SearchFilter
from imgsim.output.listing import NEIGHBOUR_COLUMNS


@pytest.fixture
def odd(collection, pictures):
    """Thirty-nine images: one name is not UTF-8, one has a newline, two are twins."""
    first, second = sorted(pictures.iterdir())[:2]
    folder = os.fsencode(pictures)
    shutil.copy(first, os.path.join(folder, b"bad\xff.jpg"))
    shutil.copy(first, os.path.join(folder, b'new\nline, \r"quoted".jpg'))
    shutil.copy(second, os.path.join(folder, "Grüße 猫.jpg".encode()))
    collection.ingest([pictures])
    return collection


@pytest.fixture
def expected(odd):
    return [
        (item.id, item.path, m.rank, m.id, m.path, m.distance)
        for item in odd.neighbours(4)
        for m in item.matches
    ]


def image_ids(path):
    """Return the first column of a neighbour file."""
    if path.suffix == ".csv":
        with path.open(newline="", errors="replace") as file:
            return [int(row["image_id"]) for row in csv.DictReader(file)]
    if path.suffix == ".jsonl":
        return [json.loads(row)["image_id"] for row in path.read_text().splitlines()]
    if path.suffix == ".parquet":
        return pq.read_table(path)["image_id"].to_pylist()
    return np.load(path)["image_id"].tolist()


class TestNeighbours:
    def test_csv(self, odd, expected, tmp_path):
        assert odd.export_neighbours(tmp_path / "n.csv", 4) == 39 * 4
        with open(tmp_path / "n.csv", newline="", errors="surrogateescape") as file:
            header, *rows = csv.reader(file)
        assert header == list(NEIGHBOUR_COLUMNS)
        kinds = (int, str, int, int, str, float)
        assert [tuple(k(v) for k, v in zip(kinds, row, strict=True)) for row in rows] == expected

    def test_jsonl(self, odd, expected, tmp_path):
        odd.export_neighbours(tmp_path / "n.jsonl", 4)
        rows = [json.loads(line) for line in (tmp_path / "n.jsonl").read_text().splitlines()]
        assert [tuple(row[name] for name in NEIGHBOUR_COLUMNS) for row in rows] == expected

    def test_parquet(self, odd, expected, tmp_path):
        odd.export_neighbours(tmp_path / "n.parquet", 4)
        table = pq.read_table(tmp_path / "n.parquet")
        exact = ["path_bytes", "neighbour_path_bytes"]
        assert table.column_names == [*NEIGHBOUR_COLUMNS, *exact]
        for column, name in ((1, exact[0]), (4, exact[1])):
            assert table[name].to_pylist() == [os.fsencode(row[column]) for row in expected]
        rows = [tuple(row.values()) for row in table.drop_columns(exact).to_pylist()]
        shown = [
            tuple(v.replace("\udcff", "\\xff") if isinstance(v, str) else v for v in row)
            for row in expected
        ]
        assert rows == shown

    def test_npz(self, odd, expected, tmp_path):
        odd.export_neighbours(tmp_path / "n.npz", 4)
        with np.load(tmp_path / "n.npz") as arrays:
            columns = [arrays[name].tolist() for name in NEIGHBOUR_COLUMNS]
        rows = [
            (a, os.fsdecode(b), c, d, os.fsdecode(e), f)
            for a, b, c, d, e, f in zip(*columns, strict=True)
        ]
        assert rows == expected

    @pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".npz"])
    def test_an_empty_collection(self, collection, tmp_path, suffix):
        assert collection.export_neighbours(tmp_path / f"n{suffix}") == 0
        assert (tmp_path / f"n{suffix}").exists()

    @pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".npz"])
    def test_a_radius_gives_each_image_as_many_as_there_are(self, odd, tmp_path, suffix):
        lists = list(odd.neighbours(None))
        assert all(len(item.matches) == 38 for item in lists)
        radius = sorted(m.distance for item in lists for m in item.matches)[60]
        near = [sum(m.distance <= radius for m in item.matches) for item in lists]
        assert 0 in near
        path = tmp_path / f"n{suffix}"
        assert odd.export_neighbours(path, None, SearchFilter(radius)) == sum(near) >= 61
        ids = image_ids(path)
        assert ids == [item.id for item, n in zip(lists, near, strict=True) for _ in range(n)]

    def test_a_folder_gives_neighbours_to_all(self, odd, crops, tmp_path):
        (tmp_path / "new").mkdir()
        shutil.copy(crops[0], tmp_path / "new")
        odd.ingest([tmp_path / "new"])
        only = odd.neighbours(3, SearchFilter(under=(str(tmp_path / "new"),)))
        found = {item.id: [m.id for m in item.matches] for item in only}
        assert found == {i: [40] for i in range(1, 40)} | {40: []}

    def test_k_larger_than_the_collection(self, collection, crops, tmp_path):
        collection.ingest(crops[:3])
        assert collection.export_neighbours(tmp_path / "n.npz", 10) == 6
        with np.load(tmp_path / "n.npz") as arrays:
            assert arrays["rank"].tolist() == [1, 2] * 3

    def test_progress_counts_images(self, odd, tmp_path):
        seen = []
        odd.export_neighbours(tmp_path / "n.csv", 1, on_progress=lambda *now: seen.append(now))
        assert seen == [(i, 39) for i in range(1, 40)]


class TestAtomicity:
    def test_a_failed_export_leaves_the_old_file_and_nothing_else(self, odd, tmp_path):
        out = tmp_path / "out"
        out.mkdir()
        for suffix in (".csv", ".jsonl", ".parquet", ".npz"):
            path = out / f"n{suffix}"
            path.write_text("old")

            def stop(done, total):
                if done == 20:
                    raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                odd.export_neighbours(path, 3, on_progress=stop)
            assert path.read_text() == "old"
        assert len(list(out.iterdir())) == 4

    @pytest.mark.parametrize("name", ["n.xyz", "n.npy"])
    def test_an_unknown_format_is_refused_before_any_work(self, odd, tmp_path, name):
        for export in (odd.export_neighbours, odd.export_embeddings, odd.export_index):
            with pytest.raises(OutputError, match="must end in"):
                export(tmp_path / name)
        for export in (odd.export_embeddings, odd.export_index):
            with pytest.raises(OutputError, match="must end in"):
                export(tmp_path / "n")

    def test_a_folder_that_does_not_exist(self, odd, tmp_path):
        for export, name in [
            (odd.export_neighbours, "n.csv"),
            (odd.export_neighbours, "n.npz"),
            (odd.export_embeddings, "f.npz"),
            (odd.export_embeddings, "f.pkl"),
            (odd.export_index, "i.faiss"),
        ]:
            with pytest.raises(OutputError, match="there is no folder"):
                export(tmp_path / "gone" / name)


class TestFeatures:
    @pytest.fixture
    def stored(self, odd):
        directory = odd._directory
        with directory.reading() as snapshot, directory.gallery(snapshot) as gallery:
            ids, rows = zip(*gallery.blocks(), strict=True)
            ids = np.concatenate(ids)
            paths = snapshot.paths(ids.tolist())
        return ids, [paths[i] for i in ids.tolist()], np.concatenate(rows)

    def test_npz(self, odd, stored, tmp_path):
        assert odd.export_embeddings(tmp_path / "f.npz") == 39
        with np.load(tmp_path / "f.npz") as arrays:
            assert arrays["image_id"].tolist() == stored[0].tolist()
            assert [os.fsdecode(name) for name in arrays["path"].tolist()] == stored[1]
            assert arrays["embedding"].tobytes() == stored[2].tobytes()

    def test_parquet(self, odd, stored, tmp_path):
        odd.export_embeddings(tmp_path / "f.parquet")
        table = pq.read_table(tmp_path / "f.parquet")
        assert table["image_id"].to_pylist() == stored[0].tolist()
        assert table["path_bytes"].to_pylist() == [os.fsencode(path) for path in stored[1]]
        assert np.array(table["embedding"].to_pylist(), np.float32).tobytes() == stored[2].tobytes()

    def test_pickle_is_the_notebooks(self, odd, stored, tmp_path):
        odd.export_embeddings(tmp_path / "f.pkl")
        data = pickle.loads((tmp_path / "f.pkl").read_bytes())
        assert set(data) == {"indices", "features"}
        assert type(data["features"]) is np.ndarray
        assert data["indices"].tolist() == stored[0].tolist()
        assert data["features"].tobytes() == stored[2].tobytes()

    def test_index_is_one_that_faiss_searches(self, odd, stored, tmp_path):
        assert odd.export_index(tmp_path / "i.faiss") == 39
        index = faiss.read_index(str(tmp_path / "i.faiss"))
        assert type(index) is faiss.IndexIDMap2
        assert type(faiss.downcast_index(index.index)) is faiss.IndexFlatL2
        assert faiss.vector_to_array(index.id_map).tolist() == stored[0].tolist()
        faiss.write_index(index, str(tmp_path / "theirs.faiss"))
        assert (tmp_path / "theirs.faiss").read_bytes() == (tmp_path / "i.faiss").read_bytes()
        for image_id, embedding in zip(stored[0].tolist(), stored[2], strict=True):
            assert index.reconstruct(image_id).tobytes() == embedding.tobytes()

    def test_rows_of_replaced_images_are_left_out(self, odd, pictures, tmp_path):
        first, second = sorted(pictures.iterdir())[:2]
        shutil.copyfile(second, first)
        odd.ingest([pictures])
        odd.export_embeddings(tmp_path / "f.npz")
        with np.load(tmp_path / "f.npz") as arrays:
            assert arrays["image_id"].tolist() == [*range(2, 41)][: len(arrays["image_id"])]
            assert len(arrays["image_id"]) == 39

    @pytest.mark.parametrize("name", ["f.npz", "f.parquet", "f.pkl", "i.faiss"])
    def test_an_empty_collection(self, collection, tmp_path, name):
        export = collection.export_index if name == "i.faiss" else collection.export_embeddings
        assert export(tmp_path / name) == 0
        assert (tmp_path / name).exists()
