"""How an image becomes the input of an encoder's model, and the file that says so."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from imgsim.errors import EncoderError
from imgsim.files import replacing, writing
from imgsim.images.frame import Frame
from imgsim.options import Channels, Fit, Layout, Scale

PREPROCESSING_NAME = "encoder.json"


_FORMAT = 1
_PROPERTY = "imgsim"

_SCALES: dict[Scale, float] = {"0..255": 1.0, "0..1": 1 / 255}


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What becomes of an image before the model gets it; ``docs/format.md`` gives the JSON form.

    It is brought to its height and width as ``fit`` says. Pixels are scaled, then ``mean`` is
    subtracted and the rest divided by ``std``, both by channel in the order of ``channels``. The
    output named ``output`` (empty: the only one) is flattened to ``dim`` float32 values, and
    brought to unit length if ``normalize`` says so.
    """

    height: int
    width: int
    dim: int
    layout: Layout = "nhwc"
    scale: Scale = "0..255"
    channels: Channels = "rgb"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    output: str = ""
    normalize: bool = False
    fit: Fit = "stretch"

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        chosen = (self.layout, Layout), (self.scale, Scale), (self.channels, Channels)
        for value, known in (*chosen, (self.fit, Fit)):
            if value not in get_args(known):
                raise ValueError(f"{value}: must be one of {', '.join(get_args(known))}")
        if min(self.height, self.width, self.dim) < 1:
            raise ValueError("the height, the width and the dimension must be at least 1")
        if len(self.mean) != 3 or len(self.std) != 3:
            raise ValueError("mean and std must have a value for each of 3 channels")
        if not np.isfinite([*self.mean, *self.std]).all() or 0 in self.std:
            raise ValueError("mean and std must be finite, and std not 0")

    @property
    def frame(self) -> Frame:
        """What of an image the model gets."""
        return Frame(self.height, self.width, self.fit)

    def shape(self, batch: int) -> tuple[int, ...]:
        """Return the shape of the model's input for so many images."""
        if self.layout == "nchw":
            return batch, 3, self.height, self.width
        return batch, self.height, self.width, 3

    def affine(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return by which a pixel (3,) in 0..255 is multiplied, and what is added then."""
        std = np.array(self.std)
        return _SCALES[self.scale] / std, -np.array(self.mean) / std

    def tensor(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return an image (height, width, 3) as the model wants it, without the batch axis."""
        gain, offset = (each.astype(np.float32) for each in self.affine())
        ordered = image[..., ::-1] if self.channels == "bgr" else image
        values = np.empty((3, *image.shape[:2]), np.float32)
        for channel in range(3):  # all at once are loops of three, which takes four times as long
            np.multiply(ordered[..., channel], gain[channel], values[channel], dtype=np.float32)
            values[channel] += offset[channel]
        return values if self.layout == "nchw" else values.transpose(1, 2, 0)


def inscribe(model: Path, preprocessing: Preprocessing) -> None:
    """Note in an ONNX file how it is fed, which its checksum covers then."""
    import onnx  # noqa: PLC0415 - only who makes an encoder needs it

    content = onnx.load(model)
    properties = {each.key: each.value for each in content.metadata_props}
    noted = {_PROPERTY: json.dumps(asdict(preprocessing))}
    onnx.helper.set_model_props(content, properties | noted)
    with writing(model):
        onnx.save(content, model)


def inscribed(properties: Mapping[str, str]) -> Preprocessing | None:
    """Return how a model is fed by its properties, None if they do not say."""
    if _PROPERTY not in properties:
        return None
    return _preprocessing(json.loads(properties[_PROPERTY]))


def write_preprocessing(directory: Path, preprocessing: Preprocessing) -> None:
    """Write ``encoder.json`` into ``directory``."""
    text = json.dumps({"format": _FORMAT, **asdict(preprocessing)}, indent=2)
    path = directory / PREPROCESSING_NAME
    with writing(path), replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_preprocessing(directory: Path) -> Preprocessing:
    """Return what ``encoder.json`` in ``directory`` says."""
    path = directory / PREPROCESSING_NAME
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if fields.pop("format") != _FORMAT:
            raise EncoderError(f"{path}: written by a newer imgsim; upgrade imgsim")
        return _preprocessing(fields)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EncoderError(f"{path}: cannot be read: {error}") from error


def _preprocessing(fields: dict[str, Any]) -> Preprocessing:
    triples: dict[str, Any] = {
        name: tuple(fields[name]) for name in ("mean", "std") if name in fields
    }
    return Preprocessing(**fields | triples)
