"""The encoders that a collection holds, one folder each."""

from pathlib import Path

from imgsim.encoder import MODEL_NAME, Encoder
from imgsim.errors import EncoderError, EncoderMismatch
from imgsim.types import Damage, EncoderRecord


def encoder_directory(collection: Path, fingerprint: str) -> Path:
    """Return where the encoder with this fingerprint belongs."""
    return collection / "encoders" / fingerprint


def load_encoder(collection: Path, record: EncoderRecord) -> Encoder:
    """Return the encoder, or raise :class:`EncoderMismatch` if the file is another one."""
    directory = encoder_directory(collection, record.fingerprint)
    encoder = Encoder(directory)
    if not _is_that(encoder, record):
        raise EncoderMismatch(
            f"{directory / MODEL_NAME}: is not the encoder that made the vectors: expected "
            f"sha256 {record.fingerprint}, found {encoder.fingerprint}"
        )
    return encoder


def encoder_damages(collection: Path, record: EncoderRecord) -> list[Damage]:
    """Return what is wrong with the encoder's files."""
    path = encoder_directory(collection, record.fingerprint) / MODEL_NAME
    expected = f"sha256 {record.fingerprint}, {record.dim} values"
    try:
        encoder = Encoder(path.parent)
    except EncoderError as error:
        return [Damage(str(path), expected, str(error))]
    if _is_that(encoder, record):
        return []
    found = f"sha256 {encoder.fingerprint}, {encoder.feed.dim} values"
    return [Damage(str(path), expected, found)]


def _is_that(encoder: Encoder, record: EncoderRecord) -> bool:
    return (encoder.fingerprint, encoder.feed.dim) == (record.fingerprint, record.dim)
