"""Small pictures of stored images, made once and kept by content."""

import os
import re
import secrets
from contextlib import suppress
from pathlib import Path
from threading import Lock

from PIL import Image

from imgsim.errors import ImageError
from imgsim.images.decode import content_hash, thumbnail
from imgsim.images.variants import as_jpeg
from imgsim.options import STORED_RULES
from imgsim.records import ImageRecord

SIDES = {"small": 256, "large": 1_600}
"""Pixels of the longer side, unless the image has fewer."""

_QUALITY = 82
_NAME = re.compile(r"[0-9a-f]{64}-(small|large)\.jpg")
_KEPT = 0.8  # of the limit, after some were removed


class Thumbnails:
    """JPEGs in ``folder`` of up to ``most`` bytes; those that were not asked for longest go first.

    Safe to use from several threads and processes. What is left by a kill has another name, and is
    removed. Where nothing can be written, none is kept.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self._folder, self._most = folder, most
        self._lock = Lock()
        with suppress(OSError):
            folder.mkdir(exist_ok=True)
        self._bytes = self._tidy()

    def get(self, record: ImageRecord, size: str) -> bytes:
        """Return the picture of a stored image as a JPEG file.

        Raises :class:`ImageError` if its file is gone, or has other content by now.
        """
        path = self._folder / f"{record.sha256.hex()}-{size}.jpg"
        with suppress(FileNotFoundError):
            found = path.read_bytes()
            os.utime(path)
            return found
        if content_hash(record.path) != record.sha256:
            raise ImageError(record.path, "has other content by now; ingest it again")
        side = min(SIDES[size], max(record.width, record.height))
        pixels = thumbnail(record.path, side, STORED_RULES)
        found = as_jpeg(Image.fromarray(pixels.values), _QUALITY)
        with suppress(OSError):
            self._keep(path, found)
        return found

    def _keep(self, path: Path, content: bytes) -> None:
        temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        self._note(len(content))

    def _note(self, added: int) -> None:
        with self._lock:
            self._bytes += added
            if self._bytes > self._most:
                self._bytes = self._tidy()

    def _tidy(self) -> int:
        """Remove what was left unfinished, and the oldest beyond the limit; return what is left."""
        known = []
        for entry in os.scandir(self._folder) if self._folder.is_dir() else ():
            facts = entry.stat(follow_symlinks=False)
            if _NAME.fullmatch(entry.name):
                known.append((facts.st_mtime_ns, facts.st_size, entry.path))
            elif entry.name.endswith(".tmp") and entry.name.startswith("."):
                Path(entry.path).unlink(missing_ok=True)
        total = sum(size for _, size, _ in known)
        if total > self._most:
            for _, size, path in sorted(known):
                if total <= _KEPT * self._most:
                    break
                Path(path).unlink(missing_ok=True)
                total -= size
        return total
