"""Checkpoints of a training, from which an interrupted one goes on."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from imgsim.errors import EncoderError
from imgsim.files import replacing, writing
from imgsim.options import TrainingSettings
from imgsim.results import EpochRecord

_STATE = "state.json"


@dataclass(frozen=True, slots=True)
class TrainingState:
    """Where a training is: ``images`` is a checksum of what it trains on.

    ``name`` is what the encoder will be called; ``seconds`` is how long it has been going on.
    """

    settings: TrainingSettings
    images: str
    name: str | None = None
    history: tuple[EpochRecord, ...] = ()
    best_epoch: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """Where a training writes: an encoder's files into ``directory``, and ``checkpoints``.

    ``name`` is what the encoder will be called; ``began`` is the time of :func:`time.monotonic`
    from which its time counts.
    """

    directory: Path
    checkpoints: "Checkpoints"
    began: float
    name: str | None = None


class Checkpoints:
    """Files in ``directory``: ``state.json``, and the models of the last and of the best epoch."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def model(self, epoch: int) -> Path:
        """Return where the model of an epoch is."""
        return self.directory / f"epoch-{epoch:04d}.keras"

    def clear(self) -> None:
        """Remove what there is of another training, first the state that names the models."""
        (self.directory / _STATE).unlink(missing_ok=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def load(self) -> TrainingState:
        """Return where the training is that was interrupted, or raise :class:`EncoderError`."""
        path = self.directory / _STATE
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            fields["settings"] = TrainingSettings(**fields["settings"])
            fields["history"] = tuple(EpochRecord(**epoch) for epoch in fields["history"])
            return TrainingState(**fields)
        except FileNotFoundError as error:
            raise EncoderError(f"{self.directory}: there is no training to resume") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EncoderError(f"{path}: cannot be read: {error}") from error

    def save(self, state: TrainingState, save_model: Callable[[Path], None]) -> None:
        """Durably write the model after an epoch, and then the state that names it."""
        epoch = len(state.history)
        ending = self.directory / "unfinished.keras"  # Keras insists on the suffix
        with writing(self.directory, "; `--resume` goes on from the last epoch"):
            self.directory.mkdir(exist_ok=True)
            try:
                with replacing(self.model(epoch)) as temporary:
                    save_model(ending)
                    ending.rename(temporary)
            finally:
                ending.unlink(missing_ok=True)
            with replacing(self.directory / _STATE) as temporary:
                temporary.write_text(json.dumps(asdict(state)), encoding="utf-8")
        kept = {self.model(epoch), self.model(state.best_epoch), self.directory / _STATE}
        for path in self.directory.glob("epoch-*.keras"):
            if path not in kept:
                path.unlink()
