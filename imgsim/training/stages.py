"""What a training tells of its progress, beside its epochs."""

import math
from collections.abc import Callable
from dataclasses import replace

from imgsim.options import TrainingSettings
from imgsim.results import TrainingProgress, TrainingStage


def preparing(settings: TrainingSettings) -> TrainingProgress:
    """Return what a training says before there is anything to say."""
    return TrainingProgress(
        stage="prepare",
        epoch=0,
        epochs=settings.epochs,
        done=0,
        total=0,
        loss=math.nan,
        val_loss=None,
        images_per_second=0.0,
        seconds_left=settings.time_budget,
        ended=False,
    )


class Stages:
    """Tells the progress of a training, and that of what goes before it and follows it."""

    def __init__(
        self, settings: TrainingSettings, on_progress: Callable[[TrainingProgress], None]
    ) -> None:
        self._on_progress = on_progress
        self._last = preparing(settings)

    def training(self, now: TrainingProgress) -> None:
        """Tell of the training."""
        self._last = now
        self._on_progress(now)

    def enter(self, stage: TrainingStage) -> None:
        """Tell that another stage begins."""
        self._on_progress(replace(self._last, stage=stage, done=0, total=0, ended=False))

    def encoding(self, done: int, total: int) -> None:
        """Tell how many images are encoded."""
        self._on_progress(replace(self._last, stage="encode", done=done, total=total))
