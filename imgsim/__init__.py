"""Exact image similarity search over your own pictures.

>>> import imgsim
>>> with imgsim.Collection.open("photos.imgsim", create=True) as collection:  # doctest: +SKIP
...     collection.train(["photos"])
...     collection.ingest(["photos"])
...     with collection.searcher() as searcher:
...         for result in searcher.search(["photos/cat.jpg"], k=5):
...             print(result.query, result.matches[0].path)

The library logs to the logger ``imgsim`` and is silent unless a program listens to it. It opens no
connection, nor do the libraries that it uses; tests/test_privacy.py holds that.
"""

import logging
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())

if sys.platform == "win32":
    raise ImportError("imgsim runs on Linux and macOS; on Windows it runs in WSL 2")

# Without this, ONNX Runtime reports to its vendor. It looks once, when it is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from imgsim.cluster_options import ClusterSettings, MilvusSettings
    from imgsim.collection import Collection
    from imgsim.curation.curation import Curation
    from imgsim.curation_options import DuplicateSettings, Folders, Keep
    from imgsim.encoders import Encoders
    from imgsim.errors import (
        CollectionDamaged,
        CollectionError,
        CollectionForbidden,
        CollectionLocked,
        CollectionNewer,
        CollectionNotFound,
        EncoderError,
        EncoderMismatch,
        EncoderMissing,
        ExtraMissing,
        ImageError,
        ImageForbidden,
        ImageNotFound,
        ImageUnavailable,
        ImgsimError,
        LabelError,
        ManifestError,
        NotAnImage,
        OutputError,
        RadiusUnknown,
        StoreError,
        TrainingDiverged,
    )
    from imgsim.findings import (
        Apart,
        ChangeReport,
        Cluster,
        ClusterMember,
        ClusterReport,
        DuplicateGroup,
        DuplicateMember,
        DuplicateReport,
        FileChange,
        ImageMap,
        JudgedPair,
        LabelReport,
        Leak,
        LeakReport,
        LearntRadius,
        LeftAlone,
        MapMethod,
        MemberKind,
        Mislabelled,
        Outlier,
        OutlierReport,
        Pick,
        RadiusCurves,
        RestoreReport,
        Sample,
        StageProgress,
    )
    from imgsim.images.source import Images, ImageSource
    from imgsim.joint import JointSearcher
    from imgsim.options import (
        DECODER,
        PLAIN,
        RECIPES,
        AdaptSettings,
        BatchLimits,
        Channels,
        Colours,
        Device,
        EncoderSource,
        EvaluationSettings,
        IngestSettings,
        Layout,
        PathLike,
        Paths,
        Recipe,
        Scale,
        SearchFilter,
        TrainingSettings,
    )
    from imgsim.output.listing import Listing
    from imgsim.results import (
        AdaptReport,
        CollectionInfo,
        CompactReport,
        Damage,
        EmbeddingMatches,
        EncoderInfo,
        EncoderReport,
        EpochRecord,
        ImageInfo,
        ImageNeighbours,
        IngestReport,
        Match,
        PretrainedNetwork,
        Progress,
        QueryResult,
        ReencodeReport,
        Refusal,
        RepairReport,
        SearchResults,
        SearchStats,
        TrainingProgress,
        TrainingReport,
        TrainingStage,
        UpkeepReport,
    )
    from imgsim.scores import (
        Agreement,
        AgreementReport,
        ClassScore,
        Evaluation,
        MeanWithInterval,
        Recognition,
        RetrievalExample,
        Scores,
    )
    from imgsim.searcher import Searcher

__all__ = [
    "DECODER",
    "PLAIN",
    "RECIPES",
    "AdaptReport",
    "AdaptSettings",
    "Agreement",
    "AgreementReport",
    "Apart",
    "BatchLimits",
    "ChangeReport",
    "Channels",
    "ClassScore",
    "Cluster",
    "ClusterError",
    "ClusterMember",
    "ClusterReport",
    "ClusterSettings",
    "Collection",
    "CollectionDamaged",
    "CollectionError",
    "CollectionForbidden",
    "CollectionInfo",
    "CollectionLocked",
    "CollectionNewer",
    "CollectionNotFound",
    "Colours",
    "CompactReport",
    "Curation",
    "Damage",
    "Device",
    "DuplicateGroup",
    "DuplicateMember",
    "DuplicateReport",
    "DuplicateSettings",
    "EmbeddingMatches",
    "EncoderError",
    "EncoderInfo",
    "EncoderMismatch",
    "EncoderMissing",
    "EncoderReport",
    "EncoderSource",
    "Encoders",
    "EpochRecord",
    "Evaluation",
    "EvaluationSettings",
    "ExtraMissing",
    "FileChange",
    "Folders",
    "ImageError",
    "ImageForbidden",
    "ImageInfo",
    "ImageMap",
    "ImageNeighbours",
    "ImageNotFound",
    "ImageSource",
    "ImageUnavailable",
    "Images",
    "ImgsimError",
    "IngestReport",
    "IngestSettings",
    "JointSearcher",
    "JudgedPair",
    "Keep",
    "LabelError",
    "LabelReport",
    "Layout",
    "Leak",
    "LeakReport",
    "LearntRadius",
    "LeftAlone",
    "Listing",
    "ManifestError",
    "MapMethod",
    "Match",
    "MeanWithInterval",
    "MemberKind",
    "MilvusSettings",
    "Mislabelled",
    "NotAnImage",
    "Outlier",
    "OutlierReport",
    "OutputError",
    "PathLike",
    "Paths",
    "Pick",
    "PretrainedNetwork",
    "Progress",
    "QueryResult",
    "RadiusCurves",
    "RadiusUnknown",
    "Recipe",
    "Recognition",
    "ReencodeReport",
    "Refusal",
    "RepairReport",
    "RestoreReport",
    "RetrievalExample",
    "Sample",
    "Scale",
    "Scores",
    "SearchFilter",
    "SearchResults",
    "SearchStats",
    "Searcher",
    "StageProgress",
    "StoreError",
    "TrainingDiverged",
    "TrainingProgress",
    "TrainingReport",
    "TrainingSettings",
    "TrainingStage",
    "UpkeepReport",
    "__version__",
]

_HOMES = (
    "imgsim.results",
    "imgsim.findings",
    "imgsim.scores",
    "imgsim.options",
    "imgsim.curation_options",
    "imgsim.cluster_options",
    "imgsim.errors",
    "imgsim.output.listing",
    "imgsim.images.source",
    "imgsim.curation.curation",
    "imgsim.collection",
    "imgsim.joint",
)


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that ``import imgsim`` costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'imgsim' has no attribute {name!r}")
    for module in _HOMES:
        namespace = vars(import_module(module))
        if name in namespace:
            return namespace[name]
    raise AttributeError(f"module 'imgsim' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
