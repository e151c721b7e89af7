"""TensorFlow: loaded without a word, or found missing."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from imgsim.errors import EncoderError

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_ONEDNN = "TF_ENABLE_ONEDNN_OPTS"  # off by itself where a processor has no products of integers


@contextmanager
def tensorflow() -> Iterator[None]:
    """Import in this block what needs TensorFlow; raise :class:`EncoderError` if it is missing.

    TensorFlow tells its developers about the machine while it loads, whatever its settings are. So
    nothing is written to stderr meanwhile, and no warnings of its own later, as of a fifth training
    in one process; unless the environment sets how much it says. Convolutions are those of oneDNN,
    unless the environment says otherwise.
    """
    os.environ.setdefault(_ONEDNN, "1")
    try:
        if _LEVEL in os.environ:
            yield
        else:
            os.environ[_LEVEL] = "3"
            with _silence():
                yield
            logging.getLogger("tensorflow").setLevel(logging.ERROR)
    except ModuleNotFoundError as error:
        raise EncoderError(
            f"this needs TensorFlow, and {error.name} is not installed: "
            "pip install tensorflow keras tf2onnx"
        ) from error


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
