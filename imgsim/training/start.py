"""Train a decoder for a network that is there, and fit last layers to it.

The network is the encoder of a convolutional autoencoder, and stays as it is: its features are the
latent.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from imgsim.encoder.adapt import (
    Example,
    attach_fitted,
    decoded_for,
    drawn,
    example_of,
    refuse_few,
)
from imgsim.encoder.embed import encode_on_all_cores
from imgsim.encoder.encoder import Encoder
from imgsim.errors import EncoderError
from imgsim.options import AdaptSettings, DecodeRules, TrainingSettings
from imgsim.parallel import gathered
from imgsim.results import (
    EncoderInfo,
    Refusal,
    TrainingProgress,
    TrainingReport,
)
from imgsim.scores import Recognition
from imgsim.training.checkpoints import TrainingJob, TrainingState
from imgsim.training.dataset import feature_batches
from imgsim.training.fit import Fit, fit
from imgsim.training.images import TrainingImages
from imgsim.training.network import create_decoder, set_seed
from imgsim.training.outputs import write_outputs
from imgsim.training.selfcheck import recognition
from imgsim.training.stages import Stages

_SHOWN = 16
_CHECKED = 500
_STACKED = 1 << 28  # bytes of images at once
_MOST_HELD_OUT = 500


@dataclass(frozen=True, eq=False)
class _Encoded:
    """Images that a network has seen, and those that were ``refused``.

    They are called by the ``numbers`` that they have among all.
    """

    numbers: list[int]
    examples: list[Example]
    refused: list[Refusal]

    def features(self) -> NDArray[np.float32]:
        """Return what the network gives for them (n, d)."""
        return np.stack([each.row for each in self.examples])

    def split(self, settings: TrainingSettings) -> tuple[list[int], list[int]]:
        """Return which of them to train and to validate on, at least one of each."""
        n = len(self.numbers)
        order: list[int] = np.random.default_rng(settings.seed).permutation(n).tolist()
        held_out = min(n - 1, _MOST_HELD_OUT, max(1, round(n * settings.validation_split)))
        return order[held_out:], order[:held_out]


def train_decoder(
    images: TrainingImages,
    network: Encoder,
    begin: TrainingSettings | TrainingState,
    job: TrainingJob,
    publish: Callable[[str | None], EncoderInfo],
    on_progress: Callable[[TrainingProgress], None],
) -> TrainingReport:
    """Fit last layers to ``network``, train a decoder for its features, then ``publish``.

    Some thousand of the images are drawn, those of ``imgsim.encoder.adapt``, and encoded once. The
    files are those of :func:`imgsim.training.train.train`; the Keras model is the decoder. Its time
    counts from when it begins.
    """
    settings = begin.settings if isinstance(begin, TrainingState) else begin
    stages, rules = Stages(settings, on_progress), DecodeRules(settings.max_pixels)
    asked = AdaptSettings(settings.principal, settings.colours, settings.seed)
    chosen = sorted(drawn(len(images.paths), asked))
    state = _state(images, chosen, network, begin, job)
    found = _encoded(images, chosen, network, rules, stages)
    stages.enter("head")  # what does not fit fails before anything is trained
    colours = attach_fitted(network, found.examples, asked, job.directory)
    fitted = _fitted(images, found, state, job, stages)
    stages.enter("check")
    recognised = _recognised(
        [images.paths[number] for number in found.numbers], rules, job, settings
    )
    info = publish(state.name)
    if not fitted.interrupted:
        job.checkpoints.clear()
    refused = {each.path: each for each in (*images.refused(), *found.refused)}
    return TrainingReport(
        encoder=info,
        images=len(found.numbers),
        unseen=0,
        refused=tuple(refused[path] for path in sorted(refused)),
        history=fitted.history,
        best_epoch=fitted.best_epoch,
        interrupted=fitted.interrupted,
        compared=0,
        onnx_difference=0.0,
        colours=colours,
        recognition=recognised,
        start=settings.start,
    )


def _state(
    images: TrainingImages,
    chosen: list[int],
    network: Encoder,
    begin: TrainingSettings | TrainingState,
    job: TrainingJob,
) -> TrainingState:
    """Return where the training is, or raise if it began with other images or another network."""
    both = images.fingerprint(chosen) + network.fingerprint
    checksum = hashlib.sha256(both.encode()).hexdigest()
    if isinstance(begin, TrainingSettings):
        job.checkpoints.clear()
        return TrainingState(begin, checksum, job.name)
    if begin.images != checksum:
        raise EncoderError(
            f"the images, or the encoder {begin.settings.start}, are not those that the training "
            "began with; train anew without --resume"
        )
    return begin


def _encoded(
    images: TrainingImages,
    chosen: list[int],
    network: Encoder,
    rules: DecodeRules,
    stages: Stages,
) -> _Encoded:
    """Encode images, and decode them at the size at which they are reconstructed."""

    def work(number: int) -> tuple[int, Example]:
        example = example_of(images.paths[number], network, rules)
        images.load(number)  # which stay in memory, as far as there is room
        return number, example

    found, refused = gathered(work, chosen, stages.encoding)
    refuse_few(len(found), refused)
    numbers, examples = zip(*found, strict=True)
    return _Encoded(list(numbers), list(examples), refused)


def _fitted(
    images: TrainingImages,
    found: _Encoded,
    state: TrainingState,
    job: TrainingJob,
    stages: Stages,
) -> Fit:
    """Train a decoder, and write it and what it makes."""
    features, split = found.features(), found.split(state.settings)
    set_seed(state.settings.seed)
    decoder = create_decoder(features, state.settings.image_size)

    def load(row: int) -> NDArray[np.uint8]:
        return images.load(found.numbers[row])

    feed = partial(feature_batches, load, features)
    job = replace(job, began=time.monotonic())
    fitted = fit(decoder, feed, split, state, job, stages.training)
    stages.enter("export")
    shown = split[1][:_SHOWN]
    pixels = np.stack([load(row) for row in shown])
    write_outputs(job.directory, decoder, fitted.history, pixels, features[shown])
    return fitted


def _recognised(
    paths: list[str], rules: DecodeRules, job: TrainingJob, settings: TrainingSettings
) -> Recognition:
    """Return how many of some images the encoder recognises."""
    encoder = Encoder(job.directory)
    fed = encoder.preprocessing
    most = min(_CHECKED, _STACKED // (3 * fed.height * fed.width) or 1)
    mixed = np.random.default_rng(settings.seed).permutation(len(paths)).tolist()
    sample = decoded_for(encoder, (paths[place] for place in mixed), rules, most)
    return recognition(partial(encode_on_all_cores, encoder), np.stack(sample), settings.seed)
