"""TensorFlow: loaded without a word, or found missing."""

import gc
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from imgsim.device import fall_back
from imgsim.errors import EncoderError
from imgsim.options import Device

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_ONEDNN = "TF_ENABLE_ONEDNN_OPTS"  # off by itself where a processor has no products of integers


@contextmanager
def tensorflow(device: Device = "auto") -> Iterator[None]:
    """Import in this block what needs TensorFlow; raise :class:`EncoderError` if it is missing.

    From then on it computes on ``device``.

    TensorFlow tells its developers about the machine while it loads, whatever its settings are. So
    nothing is written to stderr meanwhile, and no warnings of its own later, as of a fifth training
    in one process; unless the environment sets how much it says. Convolutions are those of oneDNN,
    unless the environment says otherwise. Python looks for no garbage meanwhile.
    """
    os.environ.setdefault(_ONEDNN, "1")
    try:
        with _no_collection():
            if _LEVEL in os.environ:
                yield
            else:
                os.environ[_LEVEL] = "3"
                with _silence():
                    yield
                    _gpus()  # the first look for them writes too
                logging.getLogger("tensorflow").setLevel(logging.ERROR)
        _compute_on(device)
    except ModuleNotFoundError as error:
        raise EncoderError(
            f"this needs TensorFlow, and {error.name} is not installed: "
            "pip install tensorflow keras tf2onnx"
        ) from error


def _compute_on(device: Device) -> None:
    """Hide GPUs from TensorFlow, or say that there are none, as asked."""
    import tensorflow as tf  # noqa: PLC0415 - it is loaded by now

    gpus = _gpus()
    if device == "cuda" and not gpus:
        fall_back("training")
    if device != "cpu" or not gpus:
        return
    try:
        tf.config.set_visible_devices([], "GPU")
    except RuntimeError as error:  # it has begun to compute
        raise EncoderError("this process uses the GPU already; train in another one") from error


def _gpus() -> list[Any]:
    """Return the GPUs that TensorFlow finds."""
    import tensorflow as tf  # noqa: PLC0415 - it is loaded by now

    found: list[Any] = tf.config.list_physical_devices("GPU")
    return found


@contextmanager
def _no_collection() -> Iterator[None]:
    """Pause the search for unused cycles, a quarter of the time that TensorFlow takes to load."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@contextmanager
def _silence() -> Iterator[None]:
    """Let descriptor 2 lead nowhere for a while."""
    try:
        before = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    with suppress(OSError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
