"""Encoders made elsewhere: find out what an ONNX model takes, and whether it is one."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError
from numpy.typing import NDArray
from onnx.external_data_helper import uses_external_data
from PIL import Image

from imgsim.encoder.encoder import MODEL_NAME
from imgsim.encoder.onnx_model import Model, first_line
from imgsim.encoder.preprocessing import (
    PREPROCESSING_NAME,
    Preprocessing,
    inscribe,
    read_preprocessing,
    write_preprocessing,
)
from imgsim.errors import EncoderError
from imgsim.files import writing
from imgsim.options import EncoderSource, Fit, Layout, Preset, Scale, Triple

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_NEAR = 0.02
_NEUTRAL = {1.0, None, "0..255"}
_AXES: dict[Layout, tuple[int, ...]] = {"nchw": (2, 3, 1), "nhwc": (1, 2, 3)}  # height, width, RGB


@dataclass(frozen=True)
class _Fed:
    """How networks of a family are fed, where they do not say it themselves."""

    scale: Scale | None = None
    mean: Triple | None = None
    std: Triple | None = None
    side: int | None = None
    normalize: bool = False
    fit: Fit = "stretch"


_PRESETS: dict[Preset, _Fed] = {
    "imagenet": _Fed("0..1", _IMAGENET_MEAN, _IMAGENET_STD, 224, True, "crop"),
    "clip": _Fed("0..1", _CLIP_MEAN, _CLIP_STD, 224, True, "crop"),
    "dinov2": _Fed("0..1", _IMAGENET_MEAN, _IMAGENET_STD, 224, True, "crop"),
    "mobilenet": _Fed("0..255", (127.5,) * 3, (127.5,) * 3, 224, True, "crop"),
    "efficientnet": _Fed("0..255", (127.0,) * 3, (128.0,) * 3, 224, True, "crop"),
}


def adopt(source: EncoderSource, directory: Path) -> list[str]:
    """Write the encoder's files into ``directory``; return warnings about what looks wrong.

    What is no ONNX model, but a layer of a Keras model say, is there already as one.

    Raises :class:`EncoderError` for a file that is no such model, or whose rows are not the same
    for the same image, or not finite.
    """
    target = directory / MODEL_NAME
    if not target.exists():
        _copy(Path(source.file), target)
    model = Model(target.read_bytes(), source.file)
    ours = _is_ours(source)
    try:
        preprocessing = (
            read_preprocessing(Path(source.file).parent)
            if ours
            else _preprocessing_of(model, source)
        )
    except ValueError as error:
        raise EncoderError(f"{source.file}: {error}") from error
    images = _probes(preprocessing)
    rows = [model.run(image, preprocessing) for image in images]
    again = [model.run(image, preprocessing) for image in reversed(images)][::-1]
    if len({len(row) for row in rows}) != 1 or not len(rows[0]):
        raise EncoderError(f"{source.file}: gives embeddings of different lengths, or empty ones")
    if not np.isfinite(rows).all():
        raise EncoderError(f"{source.file}: gives values that are not finite")
    if not np.array_equal(rows, again):
        raise EncoderError(f"{source.file}: gives different embeddings for the same image")
    preprocessing = replace(preprocessing, dim=len(rows[0]))
    if not ours:
        inscribe(target, preprocessing)
    write_preprocessing(directory, preprocessing)
    return list(_warnings(preprocessing, np.stack(rows)))


def _is_ours(source: EncoderSource) -> bool:
    """Say whether the file is the encoder of a collection, to be fed as it is there."""
    file = Path(source.file)
    undecided = source == EncoderSource(source.file, source.name)
    return undecided and file.name == MODEL_NAME and file.with_name(PREPROCESSING_NAME).is_file()


def _copy(file: Path, target: Path) -> None:
    """Copy an ONNX model; one that keeps its weights in other files becomes one file."""
    try:
        model = onnx.load(file, "protobuf", load_external_data=False)
        whole = not any(uses_external_data(tensor) for tensor in model.graph.initializer)
        content = file.read_bytes() if whole else onnx.load(file, "protobuf").SerializeToString()
    except OSError as error:
        raise EncoderError(f"{file}: cannot be read: {error.strerror or error}") from error
    except EncodeError as error:
        raise EncoderError(f"{file}: is over 2 GB with its weights; not supported") from error
    except (DecodeError, ValueError, onnx.checker.ValidationError) as error:
        raise EncoderError(f"{file}: is not an ONNX model: {first_line(error)}") from error
    if not model.graph.node:
        raise EncoderError(f"{file}: is not an ONNX model")
    with writing(target):
        target.write_bytes(content)


def _preprocessing_of(model: Model, source: EncoderSource) -> Preprocessing:
    """Return what the model takes, all but the dimension; ValueError says what is missing."""
    fed = _PRESETS[source.preset] if source.preset else _Fed()
    scale = source.scale or fed.scale
    mean, std = source.mean or fed.mean or (0.0, 0.0, 0.0), source.std or fed.std or (1.0, 1.0, 1.0)
    layout = source.layout or _layout(model.shape)
    height, width, channels = (model.shape[axis] for axis in _AXES[layout])
    if isinstance(channels, int) and channels != 3:
        raise ValueError(f"its input {model.shape} is not {layout} with 3 channels; see --layout")
    if source.output is None and len(model.outputs) > 1:
        outputs = ", ".join(f"{name} {shape}" for name, shape in model.outputs.items())
        raise ValueError(f"has several outputs, choose one with --output: {outputs}")
    if source.output is not None and source.output not in model.outputs:
        raise ValueError(f"has no output {source.output}; it has {', '.join(model.outputs)}")
    if model.dtype == np.uint8 and (any(mean) or {*std, scale} - _NEUTRAL):
        raise ValueError("takes pixels as bytes; leave out --preset, --scale, --mean and --std")
    scaled = source.layer is None and model.dtype != np.uint8
    return Preprocessing(
        height=_side(height, source.image_size, fed.side),
        width=_side(width, source.image_size, fed.side),
        dim=1,
        layout=layout,
        scale=scale or ("0..1" if scaled else "0..255"),
        channels=source.channels,
        mean=mean,
        std=std,
        output=source.output or next(iter(model.outputs)),
        normalize=source.normalize or fed.normalize,
        fit=source.fit or fed.fit,
    )


def _layout(shape: list[Any]) -> Layout:
    fitting = [layout for layout, axes in _AXES.items() if shape[axes[2]] == 3]
    if len(fitting) != 1:
        raise ValueError(f"its input {shape} does not say where the channels are; give --layout")
    return fitting[0]


def _side(size: Any, asked: int | None, usual: int | None) -> int:  # noqa: ANN401 - a number, a name or None
    if not isinstance(size, int):
        side = asked or usual
        if side is None:
            raise ValueError("takes images of any size; give --image-size")
        return side
    if asked not in {None, size}:
        raise ValueError(f"takes images of {size} pixels, not {asked}")
    return size


def _probes(preprocessing: Preprocessing) -> list[NDArray[np.uint8]]:
    """Return black, white, a ramp, coloured noise and smooth blobs, (height, width, 3) uint8."""
    shape = preprocessing.height, preprocessing.width, 3
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, shape, np.uint8)
    ramp = np.broadcast_to(np.linspace(0, 255, preprocessing.width)[:, np.newaxis], shape)
    coarse = Image.fromarray(random.integers(0, 256, (4, 4, 3), np.uint8))
    blobs = np.asarray(
        coarse.resize((preprocessing.width, preprocessing.height), Image.Resampling.BICUBIC)
    )
    return [np.zeros_like(noise), np.full_like(noise, 255), ramp.astype(np.uint8), noise, blobs]


def _warnings(preprocessing: Preprocessing, rows: NDArray[np.float32]) -> Iterator[str]:
    """Say what looks wrong in how the model is fed, and in what it gives."""
    see = "see --scale"
    mean, rgb = np.array(preprocessing.mean), np.array(_IMAGENET_MEAN)
    if preprocessing.scale == "0..255":
        mean = mean / 255
    theirs = rgb if preprocessing.channels == "bgr" else rgb[::-1]
    if np.abs(mean - theirs).max() < _NEAR:
        other = "rgb" if preprocessing.channels == "bgr" else "bgr"
        yield (
            f"the mean is ImageNet's in the other order of channels; should it be reversed, or "
            f"--channels {other}?"
        )
    if mean.max() > 1 or (preprocessing.scale == "0..255" and 0 < np.max(preprocessing.mean) <= 1):
        yield f"the mean {preprocessing.mean} is not that of pixels of {preprocessing.scale}; {see}"
    if (
        min(preprocessing.std) < 1
        if preprocessing.scale == "0..255"
        else max(preprocessing.std) > 1
    ):
        std = preprocessing.std
        yield f"the deviation {std} is not that of pixels of {preprocessing.scale}; {see}"
    if not np.ptp(rows, axis=0).any():
        yield "different images get the same embedding"
