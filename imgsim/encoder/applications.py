"""Networks of Keras Applications: how they are fed, and where files of their weights are."""

import os
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from imgsim.errors import EncoderError
from imgsim.options import EncoderSource
from imgsim.results import PretrainedNetwork

_SITE = "https://storage.googleapis.com/tensorflow/keras-applications"
_IN_THE_GRAPH = EncoderSource("", scale="0..255", fit="crop")
_TENSORFLOW = replace(_IN_THE_GRAPH, mean=(127.5,) * 3, std=(127.5,) * 3)
_CAFFE = replace(_IN_THE_GRAPH, channels="bgr", mean=(103.939, 116.779, 123.68))
_TORCH = replace(_IN_THE_GRAPH, scale="0..1", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Application:
    """A ``function`` of ``keras.applications``: ``dim`` features of a ``side`` x ``side`` image.

    ``file`` is that of its weights without the layer of classes at Keras's own address, ``whole``
    that of all. ``fed`` is its preprocessing, where that is not in the graph; ``without`` keeps
    Keras from putting it there too.
    """

    function: str
    side: int
    dim: int
    file: str
    whole: str
    fed: EncoderSource = _IN_THE_GRAPH
    without: bool = False


def _mobilenet_v3(size: str, dim: int) -> Application:
    stem = f"mobilenet_v3/weights_mobilenet_v3_{size}_224_1.0_float"
    function = f"MobileNetV3{size.capitalize()}"
    return Application(function, 224, dim, f"{stem}_no_top_v2.h5", f"{stem}.h5")


def _efficientnet_v2(size: str, side: int) -> Application:
    stem, function = f"efficientnet_v2/efficientnetv2-{size}", f"EfficientNetV2{size.upper()}"
    files = f"{stem}_notop.h5", f"{stem}.h5"
    return Application(function, side, 1_280, *files, _TORCH, without=True)


_KERNELS = "weights_tf_dim_ordering_tf_kernels"
_DENSENET = f"densenet/densenet121_{_KERNELS}"
_RESNET = f"resnet/resnet50_{_KERNELS}"
_MOBILENET_V2 = f"mobilenet_v2/mobilenet_v2_{_KERNELS}_1.0_224"

APPLICATIONS = {
    "mobilenet-v2": Application(
        "MobileNetV2", 224, 1_280, f"{_MOBILENET_V2}_no_top.h5", f"{_MOBILENET_V2}.h5", _TENSORFLOW
    ),
    "mobilenet-v3-small": _mobilenet_v3("small", 576),
    "mobilenet-v3-large": _mobilenet_v3("large", 960),
    "efficientnet-v2-b0": _efficientnet_v2("b0", 224),
    "efficientnet-v2-b1": _efficientnet_v2("b1", 240),
    "resnet50": Application("ResNet50", 224, 2_048, f"{_RESNET}_notop.h5", f"{_RESNET}.h5", _CAFFE),
    "densenet121": Application(
        "DenseNet121", 224, 1_024, f"{_DENSENET}_notop.h5", f"{_DENSENET}.h5", _TORCH
    ),
}
"""They are called as here; the order is that of families and sizes."""


def applications() -> list[PretrainedNetwork]:
    """Return what there is, and whether its weights are in a cache of Keras."""
    return [
        PretrainedNetwork(name, each.side, each.dim, bool(_cached(each)))
        for name, each in APPLICATIONS.items()
    ]


def weights_of(network: str, file: str | None) -> Path:
    """Return the file of a network's weights, or raise :class:`EncoderError` if there is none."""
    application = APPLICATIONS[network]
    found = [Path(file)] if file is not None else _cached(application)
    if not found:
        raise EncoderError(
            f"{network} needs its weights, and imgsim downloads nothing: get "
            f"{_SITE}/{application.file} and give that file with --weights, or put it into "
            f"{_caches()[0]}"
        )
    return found[0]


def _cached(application: Application) -> list[Path]:
    """Return the files of weights that Keras, or somebody, has put into one of its caches."""
    names = [Path(file).name for file in (application.file, application.whole)]
    paths = (cache / name for cache, name in product(_caches(), names))
    return [path for path in paths if path.is_file()]


def _caches() -> list[Path]:
    own = os.environ.get("KERAS_HOME")
    homes = [*([Path(own)] if own else []), Path.home() / ".keras"]
    return [home / "models" for home in homes]
