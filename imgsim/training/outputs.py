"""What a training leaves beside its encoder: the model, how it was trained, what it makes."""

import csv
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from imgsim.files import writing
from imgsim.output import plots
from imgsim.results import EpochRecord
from imgsim.training.network import RECONSTRUCTION

BESIDES = "; `--resume` goes on from the last epoch"
"""What to say of a model that cannot be written."""


def write_outputs(
    directory: Path,
    model: keras.Model,
    history: Sequence[EpochRecord],
    images: NDArray[np.uint8],
    inputs: NDArray[np.float32],
) -> None:
    """Write model.keras, history.csv and two pictures into ``directory``.

    One shows what the model makes of ``inputs`` beside the ``images`` that it should make.
    """
    with writing(directory, BESIDES):
        model.save(directory / "model.keras")
        _write_history(directory / "history.csv", history)
    plots.draw_history(directory / "history.png", history)
    made = np.rint(255 * model.predict_on_batch(inputs)[RECONSTRUCTION]).astype(np.uint8)
    plots.draw_reconstructions(directory / "reconstructions.png", images, made)


def _write_history(path: Path, history: Sequence[EpochRecord]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(EpochRecord)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(record) for record in history)
