"""What lies in a collection's folder, whatever its catalog says."""

from contextlib import suppress
from pathlib import Path

from imgsim.encoder.encoder import MODEL_NAME, Encoder
from imgsim.errors import EncoderError
from imgsim.index.vector_store import UNCERTAIN, VectorStore
from imgsim.records import FINGERPRINT, Inventory


def take_inventory(encoders: Path, store: VectorStore) -> Inventory:
    """Read all encoders in a folder, and all segments of a store."""
    models = (path for path in encoders.glob(f"*/{MODEL_NAME}") if path.is_file())
    dims = dict[str, int]()
    for path in sorted(models, key=lambda path: (path.stat().st_mtime_ns, path)):
        name = path.parent.name
        if FINGERPRINT.fullmatch(name):
            with suppress(EncoderError):
                dims[name] = Encoder(path.parent, name).preprocessing.dim
    segments, proven, last = {}, set[str](), 0
    for segment, ids in store.found():
        segments[segment.name] = segment
        last = max(last, int(ids.max()))
        if ids.min() > UNCERTAIN:
            proven.add(segment.name)
    return Inventory(dims, segments, frozenset(proven), last)
