"""What goes wrong in the middle of an ingest: files that change, damage, interrupts, odd drives."""

import os
import shutil
import sqlite3
from contextlib import closing

import pytest
from PIL import Image

from imgsim import BatchLimits, CollectionDamaged, CollectionError, IngestSettings, StoreError
from imgsim.catalog.catalog import Catalog
from imgsim.images import decode as images
from imgsim.index.vector_store import VectorStore
from tests.jobs.test_ingest import embeddings, facts


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def only_segment(path):
    (segment,) = (path / "segments").glob("*.faiss")
    return segment


class TestReport:
    def test_it_adds_up_and_agrees_with_info(self, collection, pictures):
        """Every kind of file at once, and what became of it the next time."""
        first, second, third, *_ = sorted(pictures.iterdir())
        (pictures / "bad.jpg").write_text("x")
        (pictures / "notes.txt").write_text("x")
        (pictures / "dangling.jpg").symlink_to("nowhere")
        shutil.copy(third, pictures / "no-suffix")
        report = collection.ingest([pictures])
        assert (report.added, report.skipped, report.not_found) == (37, 1, 0)
        assert [len(report.refused), len(report.unreachable), report.seen] == [1, 1, 40]
        first.write_text("broken")
        second.unlink()
        third.rename(pictures / "third.jpg")
        (pictures / "no-suffix").write_text("text")
        shutil.copy(sorted(pictures.glob("*-*"))[-1], pictures / "bad.jpg")
        report = collection.ingest([pictures])
        info = collection.info()
        assert (report.added, report.moved, report.unchanged) == (1, 1, 33)
        assert (report.stored + report.not_found, len(report.refused)) == (
            info.images,
            info.refused,
        )
        assert (report.not_found, len(report.refused), report.seen) == (1, 2, 39)

    def test_unmet_counts_below_the_named_paths_only(self, filled, pictures, tmp_path):
        other = tmp_path / "pictures-2"
        shutil.copytree(pictures, other)
        first = sorted(other.iterdir())[0]
        filled.ingest([other])
        first.unlink()
        assert filled.ingest([pictures]).not_found == 0
        assert filled.ingest([other, other / "x", f"{other}/"]).not_found == 1
        assert filled.ingest([first]).not_found == 1
        assert filled.ingest([tmp_path]).not_found == 1


class TestDamage:
    def test_a_damaged_vector_is_never_copied(self, filled, empty, pictures):
        before = embeddings(filled)
        flip_a_bit(only_segment(empty))
        last = sorted(pictures.iterdir())[-1]
        shutil.copy(last, pictures / "copy.jpg")
        assert filled.ingest([pictures]).added == 1
        filled.repair()
        assert filled.check() == []
        assert embeddings(filled) == before | {str(pictures / "copy.jpg"): before[str(last)]}

    def test_an_image_in_the_row_of_another(self, filled, empty, pictures):
        """Its embedding is neither a query nor that of a copy."""
        filled.remove([sorted(pictures.iterdir())[3]])
        with closing(sqlite3.connect(empty / "catalog.db")) as connection, connection:
            connection.execute("UPDATE images SET row = 3 WHERE id = 6")
        with filled.searcher() as searcher:
            with pytest.raises(CollectionDamaged, match="image 6 in row 3, found image 4"):
                searcher.search_ids([6])
            searcher.search_ids([5])
        copy = shutil.copy2(sorted(pictures.iterdir())[5], pictures / "copy.png")
        assert filled.ingest([copy]).added == 1
        with filled.searcher() as searcher:
            (found,) = searcher.search(str(copy), k=2)
        assert [match.distance for match in found.matches] == [0.0, 0.0]  # itself, and its source

    def test_a_lost_segment_stops_nothing(self, filled, empty, pictures, crops):
        first, second, *_ = sorted(pictures.iterdir())
        only_segment(empty).unlink()
        os.utime(first, ns=(0, 0))
        shutil.copy(second, pictures / "copy.jpg")
        Image.open(first).rotate(90).save(pictures / "new.png")
        report = filled.ingest([pictures])
        assert (report.added, report.unchanged) == (2, 36)
        assert filled.repair().encoded == 36
        assert filled.check() == []

    def test_a_merge_that_fails_is_a_warning(self, filled, empty, pictures):
        whole = only_segment(empty)
        for number in range(8):  # eight small segments are merged
            Image.new("RGB", (8, 8), (number, 0, 0)).save(pictures / f"{number}.png")
            report = filled.ingest([pictures])
            if not number:
                flip_a_bit(next(p for p in empty.glob("segments/*.faiss") if p != whole))
        assert report.added == 1
        assert "damaged: expected sha256" in report.warnings[0]
        assert filled.info().images == 44

    def test_a_catalog_that_was_replaced_meanwhile(self, filled, empty, pictures):
        shutil.copy2(empty / "catalog.db", empty / "new.db")
        (empty / "new.db").replace(empty / "catalog.db")
        with pytest.raises(CollectionError, match="replaced"):
            filled.remove([pictures])
        (empty / "catalog.db").unlink()
        with pytest.raises(CollectionError, match="replaced"):
            filled.remove([pictures])


class TestFiles:
    def test_one_that_changes_while_it_is_read_is_left_for_the_next_time(
        self, collection, pictures, monkeypatch
    ):
        first, second, *_ = sorted(pictures.iterdir())
        decode = images._decode

        def written_meanwhile(path, *arguments, **options):
            pixels = decode(path, *arguments, **options)
            if path == str(first):
                first.write_bytes(second.read_bytes())
            return pixels

        with monkeypatch.context() as patched:
            patched.setattr(images, "_decode", written_meanwhile)
            report = collection.ingest([pictures])
        assert [refusal.path for refusal in report.unreachable] == [str(first)]
        assert report.unreachable[0].reason == "was changed while it was read"
        assert collection.ingest([pictures]).added == 1
        stored = embeddings(collection)
        assert stored[str(first)] == stored[str(second)]

    @pytest.mark.parametrize("time", [2**63 + 10**9, -(10**18)])
    def test_a_time_far_from_ours(self, filled, pictures, time):
        first = sorted(pictures.iterdir())[0]
        os.utime(first, ns=(0, time))
        assert filled.ingest([pictures]).unchanged == 36
        assert filled.ingest([pictures]).unchanged == 36

    def test_what_is_copied_while_a_drive_is_away_has_not_moved(self, filled, pictures, tmp_path):
        before = facts(filled)
        local = shutil.copytree(pictures, tmp_path / "local")
        pictures.rename(tmp_path / "drive")
        pictures.mkdir()  # where it is mounted
        assert filled.ingest([local]).added == 36
        assert facts(filled).items() >= before.items()


class TestCommit:
    def test_a_batch_is_all_or_nothing(self, filled, pictures, monkeypatch):
        """Names move on by one; the last picture of the chain needs a new vector."""
        before = facts(filled)
        first, second, third, *_ = sorted(pictures.iterdir())
        third.rename(pictures / "z.jpg")
        second.rename(third)
        first.rename(second)
        Image.new("RGB", (8, 8)).save(pictures / "new.png")

        def full(*_):
            raise StoreError("No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(VectorStore, "add", full)
            with pytest.raises(StoreError):
                filled.ingest([pictures])
        assert facts(filled) == before
        assert filled.ingest([pictures]).seen == 37
        after = embeddings(filled)
        assert after[str(second)] == before[str(first)][1]
        assert after[str(third)] == before[str(second)][1]
        assert after[str(pictures / "z.jpg")] == before[str(third)][1]

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_an_interrupt_in_the_commit(self, collection, pictures, monkeypatch, when):
        commit, calls = Catalog.commit_batch, []

        def interrupted(*arguments):
            calls.append(when)
            if len(calls) > 1 or when == "after":
                commit(*arguments)
            if len(calls) == 1:
                raise KeyboardInterrupt

        monkeypatch.setattr(Catalog, "commit_batch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            collection.ingest([pictures])
        assert sorted(number for number, _ in facts(collection).values()) == [*range(1, 37)]
        assert collection.info().segments == 1
        assert collection.check() == []

    def test_what_is_done_is_committed_while_unchanged_files_pass(self, filled, pictures):
        settings = IngestSettings(batch=BatchLimits(seconds=0.0, compared=1))
        Image.new("RGB", (8, 8)).save(pictures / "a.png")
        at = []

        def told(done, _):
            at.append((done, filled.info().images))

        filled.ingest([pictures], settings, on_progress=told)
        assert next(done for done, stored in at if stored == 37) < 30
