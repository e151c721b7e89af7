"""File systems without locks or shared memory, and files that are not there when they are read."""

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from imgsim import Collection, CollectionError, EncoderSource, StoreError
from imgsim.locks import writer_lock
from tests.conftest import GOLDEN
from tests.jobs.test_ingest import facts
from tests.models import write_projection

SOURCE = Path(__file__).with_name("faulty.c")
LOCKLESS = ["ENOLCK", "EOPNOTSUPP", "EINVAL"]
ADVICE = "keep the collection on a local disk; the pictures may stay where they are"


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """A library that lets a system call fail."""
    if not shutil.which("gcc"):
        pytest.skip("a C compiler makes what lets system calls fail")
    built = tmp_path_factory.mktemp("faulty") / "faulty.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", built, SOURCE, "-ldl"], check=True)
    return built


@pytest.fixture
def faulty(library, imgsim):
    """Run the command where a system call fails for files of some names."""

    def run(fault, *arguments):
        call, name, suffix, *begin = fault.split(":")
        environment = {
            "LD_PRELOAD": str(library),
            "FAULT_CALL": call,
            "FAULT_ERRNO": str(getattr(errno, name)),
            "FAULT_PATH": suffix,
            "FAULT_FROM": "".join(begin) or "0",
        }
        return imgsim(*arguments, env=os.environ | environment)

    return run


@pytest.fixture
def stored(filled, empty):
    """The path of a closed collection."""
    filled.close()
    return empty


def told(done):
    """Return the one line of a command that refuses a collection."""
    (line,) = done.stderr.decode().splitlines()
    assert done.returncode == 10
    assert done.stdout == b""
    return line.removeprefix("imgsim: error: ")


def lockless(path, name):
    code = errno.errorcode[getattr(errno, name)]
    cause = f"this file system gives no file locks ({code}), as on some network shares"
    return f"{path}: {cause}; {ADVICE}"


def kept(path):
    with Collection.open(path) as collection:
        assert collection.check() == []
        return facts(collection)


def files(path):
    return {found: found.read_bytes() for found in path.rglob("*") if found.is_file()}


def mounted(monkeypatch, tmp_path, kind):
    """Let a folder be on a file system of some kind, as far as the kernel's table says."""
    table = tmp_path / "mountinfo"
    table.write_text(
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        f"30 22 0:49 / {tmp_path}/share rw shared:2 - autofs systemd-1 rw\n"
        f"31 30 0:50 / {tmp_path}/share rw shared:3 - {kind} nas:/photos rw\n"
    )
    monkeypatch.setattr("imgsim.mounts._TABLE", str(table))
    folder = tmp_path / "share"
    folder.mkdir()
    return folder


class TestNetworkShares:
    @pytest.mark.parametrize("kind", ["nfs4", "nfs", "cifs", "smb3", "fuse.sshfs", "lustre"])
    def test_sqlite_is_not_used(self, stored, tmp_path, monkeypatch, kind):
        share = mounted(monkeypatch, tmp_path, kind)
        moved = Path(shutil.move(stored, share / "c"))
        before = files(moved)
        told = rf": is on a network share \({kind}\), where SQLite .*; {ADVICE}; .* \(--catalog\)"
        for path in (moved, share / "new"):
            with pytest.raises(CollectionError, match=f"^{path}{told}"):
                Collection.open(path, create=True)
        assert files(moved) == before
        assert os.listdir(share) == ["c"]

    def test_a_link_to_one_is_one(self, stored, tmp_path, monkeypatch):
        share = mounted(monkeypatch, tmp_path, "nfs4")
        shutil.move(stored, share / "c")
        stored.symlink_to(share / "c")
        with pytest.raises(CollectionError, match="network share"):
            Collection.open(stored)

    @pytest.mark.parametrize("kind", ["ext4", "fuse.mergerfs", "nfs4"])
    def test_a_local_disk_and_a_read_only_share_are_none(
        self, stored, crops, tmp_path, monkeypatch, kind
    ):
        share = mounted(monkeypatch, tmp_path, kind)
        moved = Path(shutil.move(stored, share / "c"))
        if kind == "nfs4":
            monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)
        with Collection.open(moved) as collection:
            assert collection.query(crops[0], 1)[0].matches[0].distance == 0

    def test_a_catalog_in_postgresql_may_be_there(self, tmp_path, postgres, monkeypatch, crops):
        share, address = mounted(monkeypatch, tmp_path, "nfs4"), postgres.new_address()
        with Collection.open(share / "c", create=True, catalog=address) as collection:
            collection.encoders.add(EncoderSource(write_projection(tmp_path / "model.onnx")))
            assert collection.ingest(crops[:3]).added == 3


class TestLocks:
    @pytest.mark.parametrize("name", LOCKLESS)
    def test_without_locks_nobody_writes_and_everybody_reads(self, stored, crops, faulty, name):
        before = kept(stored)
        without = f"flock:{name}:"
        for arguments in (["ingest", *crops], ["remove", *crops], ["compact"]):
            assert told(faulty(without, "-c", stored, *arguments)) == lockless(stored, name)
        assert kept(stored) == before
        done = faulty(without, "-c", stored, "query", crops[0])
        assert (done.returncode, done.stderr) == (0, b"")

    @pytest.mark.parametrize("name", LOCKLESS)
    def test_without_the_locks_of_sqlite_it_says_so_at_once(self, stored, crops, faulty, name):
        before = kept(stored)
        for arguments in (["query", crops[0]], ["ingest", *crops]):
            done = faulty(f"fcntl:{name}:", "-c", stored, *arguments)
            assert told(done) == lockless(stored, name)
        assert kept(stored) == before

    @pytest.mark.parametrize("call", ["flock", "fcntl"])
    def test_where_no_collection_can_be_none_is_left(self, tmp_path, faulty, call):
        model = write_projection(tmp_path / "model.onnx")
        done = faulty(f"{call}:ENOLCK:", "-c", tmp_path / "c", "encoder", "import", model)
        assert told(done).startswith(f"{tmp_path}/c: this file system gives no file locks")
        assert not (tmp_path / "c").exists()

    def test_a_catalog_in_postgresql_wants_locks_of_readers_too(
        self, tmp_path, postgres, faulty, crops
    ):
        """The writer may be on another machine, which would remove what nobody locks."""
        path = tmp_path / "c"
        with Collection.open(path, create=True, catalog=postgres.new_address()) as collection:
            collection.encoders.add(EncoderSource(write_projection(tmp_path / "model.onnx")))
            collection.ingest(crops)
        assert told(faulty("flock:ENOLCK:", "-c", path, "query", crops[0])) == lockless(
            path, "ENOLCK"
        )

    def test_an_older_collection_is_read_without_locks(self, tmp_path, faulty):
        path = shutil.copytree(GOLDEN / "0001.imgsim", tmp_path / "c")
        done = faulty("flock:ENOLCK:", "-c", path, "info")
        assert (done.returncode, done.stderr) == (0, b"")

    @pytest.mark.parametrize("name", ["EIO", "ESTALE"])
    def test_a_server_that_is_gone(self, stored, crops, faulty, name):
        reason = f"{stored}: cannot be locked: {os.strerror(getattr(errno, name))}"
        for call in ("flock", "fcntl"):
            done = faulty(f"{call}:{name}:/readers", "-c", stored, "query", crops[0])
            assert told(done) == reason
        assert told(faulty(f"flock:{name}:/lock", "-c", stored, "compact")) == reason

    def test_a_writer_whom_smb_hides(self, stored, faulty):
        """There another's lock also forbids to read the file."""
        with writer_lock(stored):
            done = faulty("read:EACCES:/lock", "-c", stored, "compact")
        assert done.returncode == 12
        assert b"another process is writing to it" in done.stderr

    def test_locks_by_nfs(self, filled, empty, pictures, monkeypatch):
        """There a lock for one alone needs a descriptor that may write."""
        flock = fcntl.flock

        def by_nfs(file, how):
            flags = fcntl.fcntl(file, fcntl.F_GETFL)
            if how & fcntl.LOCK_EX and flags & os.O_ACCMODE == os.O_RDONLY:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            flock(file, how)

        monkeypatch.setattr(fcntl, "flock", by_nfs)
        garbage = empty / "segments" / "0123456789abcdef.faiss"
        garbage.touch()
        filled.ingest([pictures])
        assert not garbage.exists()


class TestSQLite:
    @pytest.mark.parametrize("name", ["ENODEV", "EINVAL"])
    def test_without_shared_memory(self, stored, crops, faulty, name):
        before = kept(stored)
        for arguments in (["query", crops[0]], ["ingest", *crops]):
            assert told(faulty(f"mmap:{name}:-shm", "-c", stored, *arguments)) == (
                f"{stored}/catalog.db: SQLite says: disk I/O error; this file system lacks "
                f"the locks or the shared memory that SQLite needs; {ADVICE}"
            )
        assert kept(stored) == before

    def test_a_catalog_that_cannot_be_read(self, stored, crops, faulty):
        done = faulty("read:EIO:/catalog.db", "-c", stored, "query", crops[0])
        assert told(done) == f"{stored}/catalog.db: SQLite says: disk I/O error"


def test_embeddings_that_cannot_be_mapped(stored, crops, faulty):
    done = faulty("mmap:ENODEV:.faiss", "-c", stored, "query", crops[0])
    (segment,) = stored.glob("segments/*.faiss")
    assert told(done) == f"{segment}: cannot be read: No such device"


class TestDirectories:
    @pytest.mark.parametrize("name", ["EINVAL", "ENOTSUP"])
    def test_one_that_is_not_written_on_demand(self, empty, pictures, faulty, name):
        done = faulty(f"fsync:{name}:/segments", "-c", empty, "ingest", pictures)
        assert done.returncode == 0
        assert b"36 added" in done.stderr
        assert len(kept(empty)) == 36

    def test_one_that_cannot_be_written(self, collection, pictures, monkeypatch):
        fsync = os.fsync

        def broken(descriptor):
            if os.path.isdir(f"/proc/self/fd/{descriptor}"):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            fsync(descriptor)

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", broken)
            with pytest.raises(StoreError, match="Input/output error"):
                collection.ingest([pictures])
        assert facts(collection) == {}

    def test_files_are_written_on_demand_everywhere(self, collection, pictures, monkeypatch):
        def lazy(_):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

        monkeypatch.setattr(os, "fsync", lazy)
        monkeypatch.setattr("imgsim.files.sync_directory", lambda _: None)
        with pytest.raises(StoreError, match="Invalid argument"):
            collection.ingest([pictures])


NAMES = [
    *("EIO", "ETIMEDOUT", "ENODATA", "EREMOTEIO", "ESTALE", "EAGAIN", "EDEADLK", "EPERM"),
    *("ENXIO", "ECONNRESET"),
]
READER = """
import errno, os, sys
from imgsim import Collection

path, folder, *names = sys.argv[1:]
with Collection.open(path) as collection:
    for picture in sorted(os.scandir(folder), key=lambda entry: entry.name):
        os.environ["FAULT_PATH"] = picture.path
        for name in names:
            os.environ["FAULT_ERRNO"] = str(getattr(errno, name))
            report = collection.ingest(picture.path)
            told = [refusal.reason for refusal in report.unreachable]
            assert told == [os.strerror(getattr(errno, name))], (picture.name, name, report)
"""


class TestFilesOnDemand:
    """A cloud's folder shows files whose content is elsewhere."""

    @pytest.mark.parametrize("name", ["ETIMEDOUT", "EAGAIN", "EINVAL"])
    def test_a_picture_that_is_not_there_when_it_is_read(self, empty, pictures, faulty, name):
        done = faulty(f"read:{name}:0.jpg", "-c", empty, "ingest", pictures)
        assert done.returncode == 0
        reason = os.strerror(getattr(errno, name))
        *lines, counts = done.stderr.decode().splitlines()
        absent = sorted(pictures.glob("*0.jpg"))
        assert lines == [f"unreachable: {path}: {reason}" for path in absent]
        assert "30 added" in counts
        assert "0 refused, 6 unreachable" in counts
        with Collection.open(empty) as collection:
            assert collection.ingest([pictures]).added == 6

    @pytest.mark.parametrize("begin", [0, 1, 9_000])
    def test_one_of_any_format(self, empty, crops, tmp_path, library, begin):
        folder = tmp_path / "formats"
        folder.mkdir()
        for suffix in ("jpg", "png", "tif", "webp", "gif", "bmp", "avif", "jp2", "ico", "tga"):
            Image.open(crops[0]).resize((900, 900)).save(folder / f"a.{suffix}")
        environment = {"FAULT_CALL": "read", "FAULT_PATH": "/nothing", "FAULT_FROM": str(begin)}
        environment |= {"LD_PRELOAD": str(library), "FAULT_ERRNO": "0"}
        names = NAMES if not begin else [name for name in NAMES if name != "EAGAIN"]
        command = [sys.executable, "-c", READER, empty, folder, *names]
        done = subprocess.run(
            command, env=os.environ | environment, check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    def test_a_query_that_is_not_there(self, stored, crops, faulty):
        done = faulty("read:ETIMEDOUT:0.jpg", "-c", stored, "query", crops[0])
        assert done.returncode == 21
        assert done.stderr.decode() == f"imgsim: error: {crops[0]}: Connection timed out\n"


def test_a_file_that_the_system_does_not_give_is_named(stored, imgsim, tmp_path):
    """Whatever comes from the system unforeseen."""
    (tmp_path / "list").mkdir()
    done = imgsim("-c", stored, "ingest", "--from-file", tmp_path / "list")
    assert str(tmp_path / "list").encode() in done.stderr
    with pytest.raises(CollectionError, match="/proc/self/mem: "):
        Collection.open("/proc/self/mem")
