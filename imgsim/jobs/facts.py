"""Facts about a collection."""

from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

from imgsim.catalog.migrate import SCHEMA
from imgsim.directory import Directory
from imgsim.encoder.onnx_model import devices
from imgsim.encoder.preprocessing import read_preprocessing
from imgsim.errors import EncoderError
from imgsim.files import disk_bytes
from imgsim.images.extras import readable
from imgsim.results import CollectionInfo

_LIBRARIES = "faiss-cpu", "numba", "numpy", "onnxruntime", "pillow", "sqlalchemy"


def facts(directory: Directory, ours: str) -> CollectionInfo:
    """Return facts about the collection in a directory, by this version of imgsim."""
    with directory.catalog.snapshot() as snapshot:
        encoder, preprocessing, learnt = None, None, None
        with suppress(EncoderError):
            encoder = snapshot.encoder()
            learnt = snapshot.radius()
            preprocessing = read_preprocessing(directory.encoder_path(encoder.fingerprint))
        segments = snapshot.segments()
        return CollectionInfo(
            path=str(directory.path),
            catalog_schema=SCHEMA,
            images=snapshot.count_images(),
            refused=snapshot.count_refused(),
            roots=tuple(snapshot.roots()),
            segments=len(segments),
            embedding_bytes=sum(4 * segment.rows * segment.dim for segment in segments),
            disk_bytes=disk_bytes(directory.path),
            encoder=encoder.name if encoder else None,
            fingerprint=encoder.fingerprint if encoder else None,
            dim=encoder.dim if encoder else None,
            image_size=(preprocessing.height, preprocessing.width) if preprocessing else None,
            duplicates=learnt,
            formats=readable(),
            devices=devices(),
            versions={"imgsim": ours} | {name: _version(name) for name in _LIBRARIES},
        )


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:  # it may come from a distribution of another name
        return "unknown"
