import os
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from imgsim import (
    Collection,
    CollectionLocked,
    EncoderMismatch,
    IngestSettings,
)
from imgsim.images import decode as images
from imgsim.jobs.batch import Batch
from imgsim.locks import writer_lock
from imgsim.options import BatchLimits
from tests.conftest import make_collection
from tests.models import make_logarithm


def counts(report):
    bad = len(report.refused) + len(report.unreachable)
    return (report.added, report.changed, report.unchanged, bad, report.skipped)


def embeddings(collection):
    """Return {path: latent bytes} of all images."""
    return {path: embedding for path, (_, embedding) in facts(collection).items()}


def facts(collection):
    """Return {path: (id, latent bytes)} of all images."""
    directory = collection._directory
    with directory.reading() as snapshot, directory.gallery(snapshot) as gallery:
        return {
            snapshot.paths([i])[i]: (i, row.tobytes())
            for ids, rows in gallery.blocks()
            for i, row in zip(ids.tolist(), rows, strict=True)
        }


def test_running_twice_adds_nothing(collection, pictures):
    assert counts(collection.ingest([pictures])) == (36, 0, 0, 0, 0)
    before = embeddings(collection)
    assert counts(collection.ingest([pictures])) == (0, 0, 36, 0, 0)
    assert embeddings(collection) == before
    assert collection.info().segments == 1


def test_the_first_batches_are_committed_soon(monkeypatch, usual_seconds):
    now = 0.0
    monkeypatch.setattr("imgsim.jobs.batch._FIRST_SECONDS", usual_seconds)
    monkeypatch.setattr("time.monotonic", lambda: now)
    batch, waited = Batch(BatchLimits()), []
    for _ in range(6):
        began = now
        while not batch.is_due(1):
            now += 0.5
        waited.append(now - began)
        batch = Batch(BatchLimits(), batch)
    assert waited == [2.5, 4.5, 8.5, 16.5, 30.5, 30.5]
    assert Batch(BatchLimits(images=2)).is_due(2)


def test_one_file_under_two_names_is_one_image(collection, pictures, tmp_path):
    collection.ingest([pictures])
    first = sorted(pictures.iterdir())[0]
    (tmp_path / "album").symlink_to(pictures)
    (pictures / "z-link.jpg").symlink_to(first.name)
    (tmp_path / "one.jpg").symlink_to(first)
    for paths, linked in (([tmp_path / "album"], 36), ([tmp_path / "one.jpg"], 1), ([pictures], 0)):
        for _ in range(2):
            report = collection.ingest(paths)
            assert (report.added, report.linked) == (0, linked)
            assert report.seen == report.stored + linked
    assert collection.info().images == 36


def test_a_link_that_was_stored_first_is_the_image(collection, pictures, tmp_path):
    (tmp_path / "album").symlink_to(pictures)
    assert collection.ingest([tmp_path / "album"]).added == 36
    for _ in range(2):
        report = collection.ingest([pictures])
        assert (report.added, report.linked, report.moved) == (0, 36, 0)


def test_a_hard_link_is_an_image_of_its_own(collection, pictures):
    first = sorted(pictures.iterdir())[0]
    os.link(first, pictures / "y.jpg")
    os.link(first, pictures / "z.jpg")
    os.link(pictures / "y.jpg", pictures / "notes.txt")
    (pictures / "0.txt").write_text("no image")
    os.link(pictures / "0.txt", pictures / "1.txt")
    report = collection.ingest([pictures])
    assert (report.added, report.hard_linked) == (39, 3)
    again = collection.ingest([pictures])
    assert (again.unchanged, again.hard_linked, again.linked) == (39, 3, 0)
    assert collection.ingest([first]).hard_linked == 0  # no other name was found
    os.unlink(first)
    assert collection.prune().images == 1


def test_what_is_excluded_is_counted_and_what_is_stored_stays(collection, pictures):
    thumbnails = pictures / "@eaDir" / "astronaut-0.jpg"
    thumbnails.mkdir(parents=True)
    shutil.copy(pictures / "astronaut-0.jpg", thumbnails / "thumb.jpg")
    everything = IngestSettings(exclude="!@eaDir")
    assert collection.ingest([pictures], dry_run=True).excluded == {"@eaDir/": 1}
    assert collection.ingest([pictures], everything).added == 37
    settings = IngestSettings(exclude=["rocket-?.jpg", "/moon*"])
    told = []
    report = collection.ingest(
        [pictures], settings, on_progress=lambda done, total: told.append((done, total))
    )
    assert report.excluded == {"@eaDir/": 1, "rocket-?.jpg": 6}
    assert (report.unchanged, report.not_found, report.seen) == (30, 7, 30)
    assert told[-1] == (30, 30)
    assert collection.prune().images == 0
    assert collection.remove(thumbnails).images == 1
    assert collection.ingest([pictures]).not_found == 0
    assert collection.ingest([thumbnails]).added == 1


def test_only_new_files_are_added(collection, pictures):
    names = sorted(pictures.iterdir())
    collection.ingest(names[:30])
    assert counts(collection.ingest([pictures])) == (6, 0, 30, 0, 0)
    assert set(embeddings(collection)) == set(map(str, names))


def test_vectors_do_not_depend_on_how_the_images_came_in(tmp_path, collection, pictures):
    collection.ingest([pictures])
    with Collection.open(make_collection(tmp_path / "other")) as other:
        for path in sorted(pictures.iterdir(), reverse=True):
            other.ingest([path])
        assert embeddings(other) == embeddings(collection)


def test_a_changed_file_is_encoded_again_under_a_new_id(filled, pictures):
    first, second = sorted(pictures.iterdir())[:2]
    before = embeddings(filled)
    shutil.copyfile(second, first)
    assert counts(filled.ingest([pictures])) == (0, 1, 35, 0, 0)
    after = embeddings(filled)
    assert after[str(first)] == before[str(second)]
    assert len(after) == 36
    (result,) = filled.query([first], k=36)
    assert [match.id for match in result.matches[:2]] == [2, 37]
    assert sorted(match.id for match in result.matches) == [*range(2, 38)]


class TestContent:
    """What counts where size and time do not tell: the content."""

    def test_a_touched_file_is_unchanged(self, filled, pictures):
        path = sorted(pictures.iterdir())[0]
        before = facts(filled)
        os.utime(path, ns=(0, 0))
        assert counts(filled.ingest([path])) == (0, 0, 1, 0, 0)
        assert facts(filled) == before
        with filled._directory.catalog.snapshot() as snapshot:  # so that it is not read again
            assert snapshot.stamps([str(path)]) == {str(path): (path.stat().st_size, 0)}

    def test_a_moved_file_keeps_its_id_and_vector(self, filled, pictures):
        before = facts(filled)
        path = sorted(pictures.iterdir())[5]
        moved = path.rename(pictures / "renamed.jpg")
        report = filled.ingest([pictures])
        assert (report.moved, counts(report)) == (1, (0, 0, 35, 0, 0))
        assert facts(filled) == before | {str(moved): before.pop(str(path))}
        assert filled.info().segments == 1

    def test_a_moved_folder(self, filled, pictures, tmp_path):
        before = sorted(facts(filled).values())
        moved = pictures.rename(tmp_path / "elsewhere")
        assert filled.ingest([moved]).moved == 36
        assert sorted(facts(filled).values()) == before

    def test_a_copy_is_not_decoded_again(self, filled, pictures, monkeypatch):
        path = sorted(pictures.iterdir())[5]
        copy = shutil.copy(path, pictures / "copy.jpg")
        monkeypatch.setattr(images, "_decode", None)
        assert counts(filled.ingest([pictures])) == (1, 0, 36, 0, 0)
        stored = facts(filled)
        assert stored[str(copy)][1] == stored[str(path)][1]
        assert stored[str(copy)][0] == 37

    def test_copies_in_one_run_are_decoded_once(self, collection, pictures, monkeypatch):
        decoded = []
        decode = images._decode

        def count(path, *arguments, **options):
            decoded.append(path)
            return decode(path, *arguments, **options)

        monkeypatch.setattr(images, "_decode", count)
        for path in sorted(pictures.iterdir()):
            shutil.copy(path, path.with_suffix(".copy.jpg"))
        assert counts(collection.ingest([pictures])) == (72, 0, 0, 0, 0)
        assert len(decoded) == 36
        assert len(set(embeddings(collection).values())) == 36

    def test_broken_copies_are_each_refused_under_their_name(self, collection, pictures):
        for name in ("a.jpg", "b.jpg", "c.jpg"):
            cut = sorted(pictures.glob("*-*"))[0].read_bytes()[:800]
            (pictures / name).write_bytes(cut)
        report = collection.ingest([pictures])
        assert [os.path.basename(r.path) for r in report.refused] == ["a.jpg", "b.jpg", "c.jpg"]

    def test_names_that_were_swapped(self, filled, pictures):
        first, second = sorted(pictures.iterdir())[:2]
        before = embeddings(filled)
        first.rename(pictures / "tmp")
        second.rename(first)
        (pictures / "tmp").rename(second)
        assert filled.ingest([pictures]).seen == 36
        after = embeddings(filled)
        assert after[str(first)] == before[str(second)]
        assert after[str(second)] == before[str(first)]
        assert filled.info().images == len(after) == 36

    def test_a_file_moved_over_another(self, filled, pictures):
        first, second = sorted(pictures.iterdir())[:2]
        before = facts(filled)
        first.rename(second)
        assert filled.ingest([pictures]).moved == 1
        after = facts(filled)
        assert after[str(second)] == before[str(first)]
        assert str(first) not in after
        assert filled.check() == []

    def test_one_of_two_copies_is_moved(self, filled, pictures):
        path = sorted(pictures.iterdir())[0]
        shutil.copy(path, pictures / "copy.jpg")
        filled.ingest([pictures])
        (pictures / "copy.jpg").rename(pictures / "moved.jpg")
        assert filled.ingest([pictures]).moved == 1
        assert facts(filled)[str(pictures / "moved.jpg")][0] == 37
        assert facts(filled)[str(path)][0] == 1

    def test_two_new_names_for_one_that_is_gone(self, filled, pictures):
        path = sorted(pictures.iterdir())[0]
        shutil.copy(path, pictures / "x.jpg")
        path.rename(pictures / "y.jpg")
        report = filled.ingest([pictures])
        assert (report.moved, report.added) == (1, 1)
        assert filled.info().images == 37

    def test_a_time_stamp_that_lies(self, filled, pictures):
        """Same size and time, other content: only --rehash looks."""
        path = sorted(pictures.iterdir())[0]
        facts_before = path.stat()
        content = bytearray(path.read_bytes())
        content[-3] ^= 1  # the last bytes of the compressed pixels
        path.write_bytes(content)
        os.utime(path, ns=(facts_before.st_atime_ns, facts_before.st_mtime_ns))
        assert counts(filled.ingest([pictures])) == (0, 0, 36, 0, 0)
        rehash = IngestSettings(rehash=True)
        assert counts(filled.ingest([pictures], rehash, dry_run=True)) == (0, 1, 35, 0, 0)
        assert counts(filled.ingest([pictures], rehash)) == (0, 1, 35, 0, 0)
        assert counts(filled.ingest([pictures], rehash)) == (0, 0, 36, 0, 0)

    def test_refused_files_are_tried_again_when_asked(self, collection, pictures):
        """A file whose size and time do not tell that it is another one by now."""
        bad, good = pictures / "bad.jpg", sorted(pictures.iterdir())[0]
        stamp, content = good.stat(), good.read_bytes()
        good.write_bytes(bytes(len(content)))
        os.utime(good, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        assert len(collection.ingest([pictures]).refused) == 1
        good.write_bytes(content)
        os.utime(good, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        assert len(collection.ingest([pictures]).refused) == 1
        bad.write_text("x")
        again = collection.ingest([pictures], IngestSettings(retry_refused=True))
        assert counts(again) == (1, 0, 35, 1, 0)
        assert [refusal.path for refusal in collection.refused()] == [str(bad)]
        assert collection.info().refused == 1

    def test_a_refusal_ends_when_the_old_content_returns(self, filled, pictures):
        path = sorted(pictures.iterdir())[0]
        good, stamp = path.read_bytes(), path.stat()
        path.write_text("x")
        assert len(filled.ingest([pictures]).refused) == 1
        path.write_bytes(good)
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        assert counts(filled.ingest([pictures])) == (1, 0, 35, 0, 0)
        assert filled.refused() == []


def test_refused_files_have_a_reason_and_are_not_tried_again(collection, pictures):
    (pictures / "text.jpg").write_text("no picture")
    cut = sorted(pictures.iterdir())[0]
    (pictures / "cut.jpg").write_bytes(cut.read_bytes()[:800])
    (pictures / "notes.txt").write_text("a bystander")
    report = collection.ingest([pictures])
    assert counts(report) == (36, 0, 0, 2, 1)
    assert report.seen == 39
    reasons = {os.path.basename(refusal.path): refusal.reason for refusal in report.refused}
    assert reasons["text.jpg"] == "not an image in a known format"
    assert "truncated" in reasons["cut.jpg"]
    assert collection.info().refused == 2

    stamp = os.stat(pictures / "cut.jpg")
    Image.new("RGB", (4, 4)).save(pictures / "cut.jpg", "PNG")  # now it could be read
    os.truncate(pictures / "cut.jpg", stamp.st_size)
    os.utime(pictures / "cut.jpg", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    again = collection.ingest([pictures])
    assert counts(again) == (0, 0, 36, 2, 1)
    assert set(again.refused) == set(report.refused)


def test_a_refused_file_that_is_mended_is_added(collection, pictures):
    good = sorted(pictures.iterdir())[0]
    bad = pictures / "bad.jpg"
    bad.write_text("no picture")
    collection.ingest([pictures])
    shutil.copy(good, bad)
    assert counts(collection.ingest([pictures])) == (1, 0, 36, 0, 0)
    assert collection.info().refused == 0


def test_a_stored_image_whose_file_breaks_is_an_image_no_more(filled, pictures):
    path = sorted(pictures.iterdir())[0]
    before = embeddings(filled)
    path.write_text("broken")
    assert counts(filled.ingest([pictures])) == (0, 0, 35, 1, 0)
    assert before.pop(str(path))
    assert embeddings(filled) == before
    assert (filled.info().images, filled.info().refused) == (35, 1)


def test_a_file_that_cannot_be_reached_is_tried_again(collection, tmp_path, crops):
    link = tmp_path / "link.jpg"
    link.symlink_to(tmp_path / "later.jpg")
    assert counts(collection.ingest([link])) == (0, 0, 0, 1, 0)
    shutil.copy(crops[0], tmp_path / "later.jpg")
    assert counts(collection.ingest([link])) == (1, 0, 0, 0, 0)


def test_dry_run_counts_and_stores_nothing(collection, pictures):
    names = sorted(pictures.iterdir())
    collection.ingest(names[:30])
    shutil.copy(names[0], names[1])
    names[2].rename(pictures / "renamed.jpg")
    report = collection.ingest([pictures], dry_run=True)
    assert (report.moved, counts(report)) == (1, (6, 1, 28, 0, 0))
    assert collection.info().images == 30


def test_dry_run_tells_images_from_others(collection, pictures):
    (pictures / "bad.jpg").write_text("x")
    (pictures / "notes.txt").write_text("x")
    dry = collection.ingest(pictures, dry_run=True)
    assert counts(dry) == counts(collection.ingest(pictures)) == (36, 0, 0, 1, 1)


def test_the_same_file_named_twice_is_stored_once(collection, crops):
    assert counts(collection.ingest([crops[0], crops[0]])) == (1, 0, 0, 0, 0)


def test_the_collection_is_not_ingested_into_itself(collection, empty):
    assert counts(collection.ingest([empty.parent])) == (0, 0, 0, 0, 0)


def test_many_batches(collection, pictures):
    seen = []
    settings = IngestSettings(batch=BatchLimits(images=6, compared=7))
    report = collection.ingest(
        [pictures], settings, on_progress=lambda done, total: seen.append((done, total))
    )
    assert counts(report) == (36, 0, 0, 0, 0)
    assert collection.info().segments == 6
    assert seen[-1] == (36, 36)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_an_interrupt_keeps_what_is_encoded(collection, pictures):
    def stop(done, total):
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collection.ingest([pictures], on_progress=stop)
    assert collection.info().images == 10
    assert collection.check() == []
    assert counts(collection.ingest([pictures])) == (26, 0, 10, 0, 0)


def test_an_image_of_another_encoder_is_never_stored(collection, empty, crops):
    """The fingerprint in the catalog must be that of the file that encodes."""
    (directory,) = (empty / "encoders").iterdir()
    model = directory / "encoder.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    with pytest.raises(EncoderMismatch):
        collection.ingest(crops)
    assert collection.info().images == 0


def test_a_second_writer_is_told_who_the_first_is(collection, empty, crops):
    code = (
        "import sys, pathlib; from imgsim.locks import writer_lock\n"
        "with writer_lock(pathlib.Path(sys.argv[1])): print('locked', flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(empty)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(CollectionLocked, match=f"process {holder.pid} on "):
            collection.ingest(crops)
        holder.kill()
    assert counts(collection.ingest(crops)) == (36, 0, 0, 0, 0)
    with writer_lock(empty):
        for content in (b"5", b"{}", b"\xff\xfe", b""):  # whatever is in the file
            (empty / "lock").write_bytes(content)
            with pytest.raises(CollectionLocked, match="another process"):
                collection.ingest(crops)


def test_latents_that_are_not_finite_are_never_stored(tmp_path, pictures):
    path = make_logarithm(tmp_path / "photos.imgsim")
    Image.new("RGB", (8, 8)).save(pictures / "black.png")
    with Collection.open(path) as collection:
        report = collection.ingest([pictures])
        assert counts(report) == (36, 0, 0, 1, 0)
        assert report.refused[0].path == str(pictures / "black.png")
        assert "not finite" in report.refused[0].reason
