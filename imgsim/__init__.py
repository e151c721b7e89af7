"""Exact image similarity search over your own pictures.

>>> import imgsim
>>> with imgsim.Collection.open("photos.imgsim") as collection:  # doctest: +SKIP
...     collection.train(["photos"])
...     collection.ingest(["photos"])
...     for result in collection.query(["photos/cat.jpg"], k=5):
...         print(result.query, result.matches[0].path)
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from imgsim.collection import Collection
    from imgsim.errors import (
        CollectionDamaged,
        CollectionError,
        CollectionLocked,
        CollectionNewer,
        CollectionNotFound,
        EncoderError,
        EncoderMismatch,
        EncoderMissing,
        ImageError,
        ImageUnavailable,
        ImgsimError,
        LabelError,
        NotAnImage,
        StoreError,
        TrainingDiverged,
    )
    from imgsim.settings import (
        PLAIN,
        RECIPES,
        EncoderSource,
        EvaluationSettings,
        IngestSettings,
        TrainingSettings,
    )
    from imgsim.types import (
        ClassScore,
        CollectionInfo,
        CompactReport,
        Damage,
        EncoderInfo,
        EncoderReport,
        EpochRecord,
        Evaluation,
        ImageNeighbours,
        IngestReport,
        Match,
        QueryResult,
        ReencodeReport,
        Refusal,
        RepairReport,
        Retrieved,
        Score,
        Scores,
        SearchStats,
        TrainingProgress,
        TrainingReport,
        UpkeepReport,
        Within,
    )

__all__ = [
    "PLAIN",
    "RECIPES",
    "ClassScore",
    "Collection",
    "CollectionDamaged",
    "CollectionError",
    "CollectionInfo",
    "CollectionLocked",
    "CollectionNewer",
    "CollectionNotFound",
    "CompactReport",
    "Damage",
    "EncoderError",
    "EncoderInfo",
    "EncoderMismatch",
    "EncoderMissing",
    "EncoderReport",
    "EncoderSource",
    "EpochRecord",
    "Evaluation",
    "EvaluationSettings",
    "ImageError",
    "ImageNeighbours",
    "ImageUnavailable",
    "ImgsimError",
    "IngestReport",
    "IngestSettings",
    "LabelError",
    "Match",
    "NotAnImage",
    "QueryResult",
    "ReencodeReport",
    "Refusal",
    "RepairReport",
    "Retrieved",
    "Score",
    "Scores",
    "SearchStats",
    "StoreError",
    "TrainingDiverged",
    "TrainingProgress",
    "TrainingReport",
    "TrainingSettings",
    "UpkeepReport",
    "Within",
    "__version__",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that ``import imgsim`` costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'imgsim' has no attribute {name!r}")
    for module in ("imgsim.types", "imgsim.settings", "imgsim.errors", "imgsim.collection"):
        namespace = vars(import_module(module))
        if name in namespace:
            return namespace[name]
    raise AttributeError(f"module 'imgsim' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
