"""Prune, remove and relocate: what they forget, and what they never do."""

import os
import shutil

import pytest

from imgsim import ImageNotFound, SearchFilter, StoreError
from imgsim.images.roots import is_gone
from tests.jobs.test_ingest import counts, facts


class TestPrune:
    def test_files_that_are_gone_are_forgotten(self, filled, pictures):
        first, *others = sorted(map(str, pictures.iterdir()))
        os.unlink(first)
        before = facts(filled)
        report = filled.prune(dry_run=True)
        assert (report.images, report.paths, report.missing) == (1, (first,), ())
        assert facts(filled) == before
        assert filled.prune() == report
        assert facts(filled) == {path: before[path] for path in others}
        assert filled.prune().images == 0

    def test_refusals_of_files_that_are_gone_are_forgotten(self, collection, pictures):
        bad = pictures / "bad.jpg"
        bad.write_text("x")
        collection.ingest([pictures])
        bad.unlink()
        report = collection.prune()
        assert (report.images, report.refused, report.paths) == (0, 1, (str(bad),))
        assert collection.refused() == []

    @pytest.mark.parametrize("mounted", [False, True])
    def test_a_drive_that_is_not_plugged_in_keeps_its_images(
        self, filled, pictures, tmp_path, crops, mounted
    ):
        """Its folder is missing, or an empty place to mount it; other folders are pruned."""
        here = tmp_path / "here"
        here.mkdir()
        shutil.copy(crops[0], here / "a.png")
        with (here / "a.png").open("ab") as file:
            file.write(b"other content")
        (here / "stays").touch()
        filled.ingest([here])
        (here / "a.png").unlink()
        before = facts(filled)
        away = pictures.rename(tmp_path / "away")
        if mounted:
            pictures.mkdir()
        report = filled.prune()
        assert (report.images, report.missing) == (1, (str(pictures),))
        assert len(facts(filled)) == 36
        if mounted:
            pictures.rmdir()
        away.rename(pictures)
        assert counts(filled.ingest([pictures])) == (0, 0, 36, 0, 0)
        assert facts(filled).items() <= before.items()

    def test_a_missing_folder_inside_one_that_was_ingested_is_a_deletion(self, filled, pictures):
        inside = pictures / "inside"
        inside.mkdir()
        for number, path in enumerate(sorted(pictures.glob("*.jpg"))[:3]):
            path.rename(inside / f"{number}.jpg")
        filled.ingest([pictures])
        shutil.rmtree(inside)
        assert filled.prune().images == 3

    def test_files_that_were_named_one_by_one(self, collection, tmp_path, crops):
        """Their folder counts as their root."""
        folder = tmp_path / "folder"
        folder.mkdir()
        named = [shutil.copy(path, folder) for path in crops[:3]]
        collection.ingest(named)
        os.unlink(named[0])
        assert collection.prune().images == 1
        shutil.rmtree(folder)
        report = collection.prune()
        assert (report.images, report.missing) == (0, (str(folder),))

    def test_an_error_is_no_proof_that_a_file_is_gone(self, tmp_path):
        assert not is_gone(f"{tmp_path}/{'x' * 300}")  # ENAMETOOLONG
        assert is_gone(f"{tmp_path}/x/y")
        (tmp_path / "file").touch()
        assert is_gone(f"{tmp_path}/file/y")
        (tmp_path / "link").symlink_to("nowhere")
        assert not is_gone(f"{tmp_path}/link")

    def test_hidden_entries_do_not_make_a_drive(self, filled, pictures, tmp_path):
        pictures.rename(tmp_path / "away")
        (pictures / ".Trash-1000").mkdir(parents=True)
        (pictures / "lost+found").mkdir()
        assert filled.prune().missing == (str(pictures),)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
    def test_a_folder_that_cannot_be_looked_into_keeps_its_images(self, filled, pictures):
        sorted(pictures.iterdir())[0].unlink()
        folders = [pictures, *pictures.parents]
        modes = [folder.stat().st_mode for folder in folders]
        for folder in folders[:-1]:
            folder.chmod(0o711)
        try:
            os.seteuid(65534)
            report = filled.prune(dry_run=True)
        finally:
            os.seteuid(0)
            for folder, mode in zip(folders, modes, strict=True):
                folder.chmod(mode)
        assert (report.images, report.missing) == (0, (str(pictures),))

    def test_a_drive_that_a_link_leads_to_keeps_its_images(self, collection, pictures, tmp_path):
        some = sorted(pictures.iterdir())
        (tmp_path / "photos").mkdir()
        shutil.copy(some[0], tmp_path / "photos")
        drive = pictures.rename(tmp_path / "drive")
        (tmp_path / "photos" / "usb").symlink_to(drive)
        assert collection.ingest([tmp_path / "photos"]).added == 37
        drive.rename(tmp_path / "away")
        collection.ingest([tmp_path / "photos"])
        report = collection.prune()
        assert (report.images, report.missing) == (0, (f"{tmp_path}/photos/usb",))
        drive.mkdir()
        assert collection.prune().images == 0

    def test_what_was_a_mount_point_keeps_its_images(self, collection, pictures, tmp_path):
        """A folder of another device than the one it is in; here the devices are made up."""
        real = os.stat

        def stat(path, *arguments, **options):
            facts = real(path, *arguments, **options)
            if str(path) == f"{pictures}/nas":
                return os.stat_result([*facts[:2], facts.st_dev + 1, *facts[3:]])
            return facts

        nas = pictures / "nas"
        nas.mkdir()
        for number, picture in enumerate(sorted(pictures.glob("*.jpg"))[:3]):
            shutil.copy(picture, nas / f"{number}.jpg")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "stat", stat)
            collection.ingest([pictures])
        for picture in nas.iterdir():
            picture.unlink()
        report = collection.prune()
        assert (report.images, report.missing) == (0, (str(nas),))
        assert collection.remove([nas]).images == 3


class TestRemove:
    def test_an_empty_path_is_not_the_working_directory(self, filled, pictures, monkeypatch):
        monkeypatch.chdir(pictures)
        for forget in (
            lambda: filled.remove([""]),
            lambda: filled.relocate("", "/x"),
            lambda: filled.relocate("/x", ""),
            lambda: SearchFilter(under=("",)),
        ):
            with pytest.raises(ValueError, match="empty"):
                forget()
        assert filled.info().images == 36

    def test_a_folder_and_a_file(self, filled, pictures, tmp_path, crops):
        other = tmp_path / "pictures-2"  # not below the folder of that name
        other.mkdir()
        for path in crops[:2]:
            shutil.copy(path, other)
        (pictures / "bad.jpg").write_text("x")
        filled.ingest([pictures, other])
        report = filled.remove([pictures, other / os.path.basename(crops[0]), tmp_path / "none"])
        assert (report.images, report.refused, report.paths) == (37, 1, (str(tmp_path / "none"),))
        assert list(facts(filled)) == [str(other / os.path.basename(crops[1]))]
        assert filled.info().refused == 0
        assert counts(filled.ingest([pictures])) == (36, 0, 0, 1, 0)

    def test_dry_run(self, filled, pictures):
        assert filled.remove([pictures], dry_run=True).images == 36
        assert filled.info().images == 36


class TestRelocate:
    def test_nothing_is_read_again(self, filled, pictures, tmp_path):
        odd = os.fsdecode(b"\xff\n'.jpg")
        sorted(pictures.iterdir())[0].rename(pictures / odd)
        (pictures / "bad.jpg").write_text("x")
        filled.ingest([pictures])
        before = facts(filled)
        new = pictures.rename(tmp_path / "new")
        report = filled.relocate(pictures, new)
        assert (report.images, report.refused, report.paths) == (36, 1, ())
        swapped = {path.replace(str(pictures), str(new)): fact for path, fact in before.items()}
        assert facts(filled) == swapped
        assert counts(filled.ingest([new])) == (0, 0, 36, 1, 0)
        assert filled.prune().images == 0

    def test_into_a_folder_below(self, filled, pictures):
        """Paths get in each other's way if they are rewritten one by one."""
        before = facts(filled)
        first = sorted(pictures.iterdir())[0]
        below = pictures / "below"
        below.mkdir()
        shutil.copy(first, below)
        filled.ingest([below])
        assert filled.relocate(pictures, below, force=True).images == 37
        assert len(facts(filled)) == 37
        assert facts(filled)[str(below / first.name)] == before[str(first)]

    def test_what_is_stored_at_both_places_is_not_mixed_up(self, filled, pictures, tmp_path):
        new = tmp_path / "new"
        shutil.copytree(pictures, new)
        filled.ingest([new])
        before = facts(filled)
        with pytest.raises(StoreError, match=r"is stored already, as 36 of the images"):
            filled.relocate(pictures, new)
        assert facts(filled) == before

    def test_what_was_ingested_or_refused_at_both_places(self, filled, pictures, tmp_path):
        new = tmp_path / "new"
        new.mkdir()
        for folder in (pictures, new):
            (folder / "bad.jpg").write_text("x")
        filled.ingest([f"/{pictures}", new])
        for path in pictures.iterdir():
            path.rename(new / path.name)
        assert filled.relocate(f"/{pictures}/", new).images == 36
        assert counts(filled.ingest([new])) == (0, 0, 36, 1, 0)
        with filled._directory.catalog.snapshot() as snapshot:
            assert snapshot.roots() == [str(new)]
        assert filled.remove([new]).images == 36

    def test_everything_is_no_folder(self, filled, pictures):
        for old, new in (("/", "/mnt"), (pictures, "/")):
            with pytest.raises(ValueError, match="below /"):
                filled.relocate(old, new)

    def test_dry_run_says_what_is_not_there(self, filled, pictures, tmp_path):
        report = filled.relocate(pictures, tmp_path / "new", dry_run=True, force=True)
        assert (report.images, len(report.paths)) == (36, 36)
        assert set(facts(filled)) == set(map(str, pictures.iterdir()))

    def test_a_place_without_the_files_is_a_mistake(self, filled, pictures, tmp_path):
        before = facts(filled)
        with pytest.raises(ImageNotFound, match=r"36 of 36 images are not there, first .*new"):
            filled.relocate(pictures, tmp_path / "new")
        assert facts(filled) == before
        new = pictures.rename(tmp_path / "new")
        for path in sorted(new.iterdir())[:18]:
            path.unlink()
        assert len(filled.relocate(pictures, new).paths) == 18

    def test_unless_one_insists(self, filled, pictures, tmp_path):
        assert len(filled.relocate(pictures, tmp_path / "new", force=True).paths) == 36
        assert all(path.startswith(f"{tmp_path}/new/") for path in facts(filled))
