"""From an image to its embedding."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from imgsim.encoder.encoder import Encoder
from imgsim.errors import ImageError
from imgsim.images.decode import OpenImage, opened
from imgsim.images.source import Images, ImageSource, decode_source, listed_images, name_of
from imgsim.options import DECODE_RULES, STORED_RULES, DecodeRules
from imgsim.parallel import in_threads
from imgsim.records import ImageRecord

_PARTS = 64  # of images that all cores share


@dataclass(frozen=True, eq=False)
class EmbeddedImage:
    """An image file and its embedding (dim,) float32."""

    record: ImageRecord
    embedding: NDArray[np.float32]


def embed_file(path: str, encoder: Encoder, rules: DecodeRules) -> EmbeddedImage:
    """Decode and encode the image at ``path``, or raise :class:`ImageError`."""
    with opened(path, rules) as image:
        return embed(image, encoder)


@dataclass(frozen=True)
class Query:
    """An image to search for: its path, or what to call it; the hash of its content if asked for.

    Pixels in memory have none.
    """

    name: str
    content: bytes | None


def embed_images(
    images: Images,
    encoder: Encoder,
    on_error: Callable[[ImageError], None] | None = None,
    rules: DecodeRules = DECODE_RULES,
    *,
    hashed: bool = False,
) -> tuple[list[Query], NDArray[np.float32]]:
    """Return images and their embeddings (n, dim).

    Those that cannot be decoded go to ``on_error``, and are left out, or raise without one.
    """
    queries: list[Query] = []
    embeddings: list[NDArray[np.float32]] = []
    sources = [
        (name_of(source, number), source) for number, source in enumerate(listed_images(images))
    ]
    work = partial(_embed_source, encoder=encoder, rules=rules, hashed=hashed)
    for result in in_threads(work, sources):
        if not isinstance(result, ImageError):
            queries.append(result[0])
            embeddings.append(result[1])
        elif on_error is None:
            raise result
        else:
            on_error(result)
    rows = np.stack(embeddings) if embeddings else np.empty((0, encoder.preprocessing.dim))
    return queries, rows.astype(np.float32, copy=False)


def _embed_source(
    source: tuple[str, ImageSource], encoder: Encoder, rules: DecodeRules, *, hashed: bool
) -> tuple[Query, NDArray[np.float32]]:
    name, image = source
    if hashed and isinstance(image, str | os.PathLike):
        with opened(os.fspath(image), rules) as file:
            return Query(name, file.sha256), embed(file, encoder).embedding
    content = hashlib.sha256(image).digest() if hashed and isinstance(image, bytes) else None
    pixels = decode_source(image, name, encoder.preprocessing.frame, rules)
    return Query(name, content), embedding_of(name, pixels, encoder)


def stamp(path: str) -> tuple[int, int, bytes]:
    """Return size, time and hash of the image file at ``path``."""
    with opened(path, STORED_RULES) as image:
        return image.size, image.mtime_ns, image.sha256


def embed_again(
    records: Iterable[ImageRecord], encoder: Encoder
) -> Iterator[EmbeddedImage | ImageError]:
    """Yield the embeddings of images whose files still have their content."""

    def again(record: ImageRecord) -> EmbeddedImage:
        with opened(record.path, STORED_RULES) as image:
            if image.sha256 != record.sha256:
                raise ImageError(record.path, "has other content by now")
            return embed(image, encoder)

    return in_threads(again, records)


def embed(image: OpenImage, encoder: Encoder) -> EmbeddedImage:
    """Decode and encode an open image, once."""
    pixels = image.decode(encoder.preprocessing.frame)
    embedding = embedding_of(image.path, pixels.values, encoder)
    return EmbeddedImage(record_of(image, pixels.size, damaged=pixels.damaged), embedding)


def embedding_of(path: str, pixels: NDArray[np.uint8], encoder: Encoder) -> NDArray[np.float32]:
    """Return the embedding (dim,) of an image, or raise :class:`ImageError` if it is not finite."""
    embedding: NDArray[np.float32] = encoder.encode(pixels[np.newaxis])[0]
    if not np.isfinite(embedding).all():
        raise ImageError(path, "the encoder gives values for it that are not finite")
    return embedding


def encode_on_all_cores(encoder: Encoder, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return what ``encoder.encode`` does of ``images`` (n, height, width, 3), sooner."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = pool.map(encoder.encode, np.array_split(images, _PARTS))
        return np.concatenate(list(parts))


def record_of(image: OpenImage, size: tuple[int, int], *, damaged: bool) -> ImageRecord:
    """Return what the catalog keeps of an open image of a ``size`` (width, height)."""
    return ImageRecord(image.path, image.size, image.mtime_ns, image.sha256, *size, damaged)
