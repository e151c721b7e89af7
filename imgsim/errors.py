"""The errors that imgsim raises, each with a stable exit code.

======================  ====  ==================================================================
class                   code  meaning
======================  ====  ==================================================================
ImgsimError                1  base class
ExtraMissing               1  an optional package is not installed; also an ImportError
OutputError                2  a file of that name cannot be written; also a ValueError
ManifestError              2  a manifest cannot be used; also a ValueError
CollectionError           10  the collection cannot be used
CollectionForbidden       10  there is no permission to use it; also a PermissionError
CollectionNotFound        11  there is no collection at that path; also a FileNotFoundError
CollectionLocked          12  another process is writing to the collection
CollectionNewer           13  a newer imgsim wrote the collection
CollectionDamaged         14  a file of the collection is missing or altered
ImageError                20  an image cannot be decoded
ImageUnavailable          21  the operating system does not give the file
ImageNotFound             21  there is no such file; also a FileNotFoundError
ImageForbidden            21  there is no permission to read it; also a PermissionError
NotAnImage                22  the content is in no known image format; also a ValueError
EncoderError              30  the encoder cannot be trained or used
EncoderMissing            31  the collection has no such encoder; also a LookupError
EncoderMismatch           32  the embeddings belong to another encoder
TrainingDiverged          33  the loss is no longer a finite number; also an ArithmeticError
StoreError                40  embeddings or results cannot be written or are unfit
LabelError                50  the labels do not fit the images; also a ValueError
RadiusUnknown             51  nobody can tell yet how near duplicates are; also a LookupError
ClusterError              60  a cluster cannot be joined, or does not answer
======================  ====  ==================================================================

Exit code 2 is a mistake in the command's arguments, 130 an interrupt by the user. An argument that
makes no sense, as a ``k`` of 0, raises a plain ValueError.
"""

from pathlib import Path


class ImgsimError(Exception):
    """Base class of all errors of imgsim."""

    exit_code = 1

    def __reduce__(self) -> tuple[object, ...]:
        """Let it be sent to another process, whatever it was made of."""
        return _remade, (type(self), self.args, vars(self))


def _remade(kind: type[ImgsimError], told: tuple[object, ...], facts: dict[str, object]) -> object:
    error = kind.__new__(kind)
    error.args = told
    vars(error).update(facts)
    return error


class ExtraMissing(ImgsimError, ImportError):
    """A package is not installed that one of imgsim's extras asks for."""


class OutputError(ImgsimError, ValueError):
    """A file cannot be written under the name that was asked for."""

    exit_code = 2


class ManifestError(ImgsimError, ValueError):
    """A file is no manifest of what was moved or linked, or cannot be read or written."""

    exit_code = 2


class CollectionError(ImgsimError):
    """The collection at ``path`` cannot be used."""

    exit_code = 10

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class CollectionForbidden(CollectionError, PermissionError):
    """There is no permission to use the collection."""


class CollectionNotFound(CollectionError, FileNotFoundError):
    """There is no collection at the path."""

    exit_code = 11


class CollectionLocked(CollectionError):
    """Another process is writing to the collection."""

    exit_code = 12


class CollectionNewer(CollectionError):
    """The collection was written by a newer imgsim."""

    exit_code = 13


class CollectionDamaged(CollectionError):
    """A file of the collection is not what the catalog says it is."""

    exit_code = 14

    def __init__(self, path: Path, expected: str, found: str) -> None:
        super().__init__(
            path, f"damaged: expected {expected}, found {found}; run `imgsim check --repair`"
        )
        self.expected = expected
        self.found = found


class ImageError(ImgsimError):
    """The image at ``path`` cannot be decoded."""

    exit_code = 20

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class ImageUnavailable(ImageError):
    """The operating system does not give the bytes of the file."""

    exit_code = 21


class ImageNotFound(ImageUnavailable, FileNotFoundError):
    """There is no file at the path."""


class ImageForbidden(ImageUnavailable, PermissionError):
    """There is no permission to read the file."""


class NotAnImage(ImageError, ValueError):
    """The content of the file is in no known image format."""

    exit_code = 22


class EncoderError(ImgsimError):
    """The encoder cannot be trained or used."""

    exit_code = 30


class EncoderMissing(EncoderError, LookupError):
    """The collection has no such encoder, or none yet."""

    exit_code = 31


class EncoderMismatch(EncoderError):
    """The collection's embeddings were made by another encoder."""

    exit_code = 32


class TrainingDiverged(EncoderError, ArithmeticError):
    """The training loss is no longer a finite number."""

    exit_code = 33


class StoreError(ImgsimError):
    """Embeddings or results cannot be written, or are unfit to be stored."""

    exit_code = 40


class LabelError(ImgsimError, ValueError):
    """The labels of images cannot be read, or allow no evaluation."""

    exit_code = 50


class RadiusUnknown(ImgsimError, LookupError):
    """There are too few images to tell at which distance they are duplicates."""

    exit_code = 51


class ClusterError(ImgsimError):
    """A cluster cannot be joined, or its workers do not answer."""

    exit_code = 60


_UNAVAILABLE: dict[type[OSError], type[ImageUnavailable]] = {
    FileNotFoundError: ImageNotFound,
    NotADirectoryError: ImageNotFound,
    PermissionError: ImageForbidden,
}


def unavailable(path: str, error: OSError) -> ImageUnavailable:
    """Return what to raise for an image file that the operating system does not give."""
    kind = _UNAVAILABLE.get(type(error), ImageUnavailable)
    return kind(path, error.strerror or type(error).__name__)
