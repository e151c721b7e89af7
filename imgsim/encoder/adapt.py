"""Fit last layers to images, and join them to an encoder."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgsim.encoder.embed import embedding_of
from imgsim.encoder.encoder import Encoder
from imgsim.encoder.head import attach
from imgsim.encoder.head_fit import (
    ColourEvidence,
    colour_evidence,
    fitted_head,
    pooled,
    weight_of_colours,
)
from imgsim.encoder.int8 import quantised
from imgsim.errors import EncoderError, ImageError
from imgsim.images.decode import decode
from imgsim.options import AdaptSettings, Colours, DecodeRules, HeadSettings
from imgsim.parallel import gathered, in_threads
from imgsim.results import Progress, Refusal

_LOG = logging.getLogger(__name__)

_CALIBRATED = 100  # images that say which values the layers of a network give

# A network sees colours too: beside it they count less than beside a latent that is to ignore them.
_BESIDE: dict[str, Colours] = {"little": "none", "some": "little", "much": "some"}


@dataclass(frozen=True)
class Adaptation:
    """To how many images an encoder was fitted, which were ``refused``, how much colours count."""

    images: int
    refused: tuple[Refusal, ...]
    colours: Colours


@dataclass(frozen=True, eq=False)
class Example:
    """An image to fit to: its embedding, its pixels where colours are counted, and its colours."""

    row: NDArray[np.float32]
    small: NDArray[np.uint8]
    evidence: ColourEvidence


def adapt(
    encoder: Encoder,
    paths: Sequence[str],
    settings: AdaptSettings,
    directory: Path,
    on_progress: Progress | None,
) -> Adaptation:
    """Write the files of an encoder that is adapted to the images at ``paths`` into ``directory``.

    Raises :class:`EncoderError` if fewer than two of them can be decoded.
    """
    rules, numbers = DecodeRules(settings.max_pixels), drawn(len(paths), settings)
    if settings.int8:
        mixed = (paths[number] for number in numbers)
        calibrating = decoded_for(encoder, mixed, rules, _CALIBRATED)
        refuse_few(len(calibrating), ())
        encoder = quantised(encoder, calibrating, directory)
    work = partial(example_of, encoder=encoder, rules=rules)
    chosen = [paths[number] for number in sorted(numbers)]
    examples, refused = gathered(work, chosen, on_progress)
    refuse_few(len(examples), refused)
    colours = attach_fitted(encoder, examples, settings, directory)
    return Adaptation(len(examples), tuple(refused), colours)


def drawn(count: int, settings: AdaptSettings) -> list[int]:
    """Return which of so many images a head is fitted to, in random order."""
    order: list[int] = np.random.default_rng(settings.seed).permutation(count).tolist()
    return order[: settings.most]


def example_of(path: str, encoder: Encoder, rules: DecodeRules) -> Example:
    """Return the image at ``path`` as an example, or raise :class:`ImageError`."""
    pixels = decode(path, encoder.preprocessing.frame, rules)
    row = embedding_of(path, pixels, encoder)
    return Example(row, pooled(pixels), colour_evidence(pixels))


def refuse_few(count: int, refused: Sequence[Refusal]) -> None:
    """Raise :class:`EncoderError` if there are too few examples, and say what was refused."""
    if count < 2:
        why = "".join(f"; {each.path}: {each.reason}" for each in refused[:1])
        raise EncoderError(f"at least 2 images are needed, and {count} can be decoded{why}")


def attach_fitted(
    encoder: Encoder, examples: Sequence[Example], settings: AdaptSettings, directory: Path
) -> Colours:
    """Write the files of an encoder with a head that is fitted; return how much colours count."""
    asked = HeadSettings(settings.dims, settings.colours, seed=settings.seed, mutual=5, power=0.0)
    if asked.colours == "auto":
        judged = weight_of_colours(each.evidence for each in examples)
        asked = replace(asked, colours=_BESIDE[judged])
        _LOG.info("colours count %s, judged from the images", asked.colours)
    rows = np.stack([each.row for each in examples])
    attach(encoder, fitted_head(rows, [each.small for each in examples], asked), directory)
    return asked.colours


def decoded_for(
    encoder: Encoder, paths: Iterable[str], rules: DecodeRules, most: int
) -> list[NDArray[np.uint8]]:
    """Return up to ``most`` of the images that can be decoded, at the size of an encoder."""
    work = partial(decode, frame=encoder.preprocessing.frame, rules=rules)
    decoded = (each for each in in_threads(work, paths) if not isinstance(each, ImageError))
    return list(islice(decoded, most))
