"""A bucket of an object store, which has the files of a collection's segments."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imgsim.errors import CollectionDamaged, CollectionError, StoreError
from imgsim.files import replacing, writing

URL_NAME = "segments.url"
"""The file in a collection's folder that says in which bucket its segments are."""

_BLOCK = 4 << 20
_DETAILS = re.compile(r"(\. |; Details| \(Request ID).*")
_CREDENTIALS = re.compile(r"//[^/?]*@|(access|secret)_key=")


class Bucket:
    """The whole files below ``url``, as Arrow reads it: ``s3://bucket/photos``, ``gs://...``.

    Raises :class:`CollectionError` for ``path``, the collection, if the address is none.
    """

    def __init__(self, url: str, path: Path) -> None:
        if "://" not in url:
            raise CollectionError(path, "the address of its segments must be like s3://bucket/name")
        if _CREDENTIALS.search(url):
            raise CollectionError(
                path, "keep credentials out of the address: the environment has them"
            )
        from pyarrow.fs import FileSystem  # noqa: PLC0415 - a tenth of a second that few need

        try:
            self._system, prefix = FileSystem.from_uri(url)
        except (ValueError, OSError, NotImplementedError) as error:
            raise CollectionError(path, f"the address of its segments is none: {error}") from error
        self._prefix, self.url = prefix.rstrip("/"), url
        self._shown = url.partition("?")[0].rstrip("/")

    def prepare(self) -> None:
        """Write and remove a file, so that whoever may not learns it now.

        Raises :class:`StoreError` also if there are files: they would be swept.
        """
        if self.names():
            raise StoreError(f"{self._shown}: is not empty; name another for a new collection")
        with self._asking(""):
            self._system.create_dir(self._prefix)
            with self._system.open_output_stream(f"{self._prefix}/.new") as file:
                file.write(b"")
        self.remove(".new")

    def names(self) -> set[str]:
        """Return the names of all files."""
        from pyarrow.fs import FileSelector, FileType  # noqa: PLC0415 - as above

        with self._asking(""):
            found = self._system.get_file_info(FileSelector(self._prefix, allow_not_found=True))
        return {each.base_name for each in found if each.type == FileType.File}

    def get(self, target: Path, sha256: str = "") -> None:
        """Copy the file that is called as ``target`` to there; do nothing if there is none.

        With its ``sha256``, a file that has another raises :class:`CollectionDamaged`.
        """
        digest, name = hashlib.sha256(), target.name
        try:
            with (
                self._asking(name),
                self._system.open_input_stream(f"{self._prefix}/{name}") as source,
                writing(target),
                replacing(target) as temporary,
                temporary.open("wb") as file,
            ):
                while block := source.read(_BLOCK):
                    digest.update(block)
                    file.write(block)
                file.close()
                if sha256 not in {"", digest.hexdigest()}:
                    expected, found = f"sha256 {sha256}", f"sha256 {digest.hexdigest()}"
                    raise CollectionDamaged(Path(f"{self._shown}/{name}"), expected, found)
        except FileNotFoundError:
            return

    def put(self, path: Path) -> None:
        """Copy a file to here; it is here wholly or not at all."""
        with (
            self._asking(path.name),
            path.open("rb") as file,
            self._system.open_output_stream(f"{self._prefix}/{path.name}") as target,
        ):
            while block := file.read(_BLOCK):
                target.write(block)

    def remove(self, name: str) -> None:
        """Remove a file, if it is here."""
        with self._asking(name):
            try:
                self._system.delete_file(f"{self._prefix}/{name}")
            except FileNotFoundError:
                return

    @contextmanager
    def _asking(self, name: str) -> Iterator[None]:
        """Raise :class:`StoreError` for what the object store refuses, but FileNotFoundError."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            said = _DETAILS.sub("", str(error).splitlines()[0])
            raise StoreError(f"{self._shown}/{name}: {said}") from error
