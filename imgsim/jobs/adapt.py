"""Fit last layers to images, and join them to an encoder."""

import logging
from collections.abc import Sequence
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
class _Example:
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
    rules = DecodeRules(settings.max_pixels)
    drawn = np.random.default_rng(settings.seed).permutation(len(paths))[: settings.most]
    chosen = [paths[number] for number in sorted(drawn.tolist())]
    if settings.int8:
        mixed = [paths[number] for number in drawn.tolist()]
        encoder = quantised(encoder, _calibrating(mixed, encoder, rules), directory)
    work = partial(_example, encoder=encoder, rules=rules)
    examples, refused = gathered(work, chosen, on_progress)
    if len(examples) < 2:
        why = "".join(f"; {each.path}: {each.reason}" for each in refused[:1])
        raise EncoderError(f"at least 2 images are needed, and {len(examples)} can be decoded{why}")
    asked = HeadSettings(settings.dims, settings.colours, seed=settings.seed, mutual=5, power=0.0)
    if asked.colours == "auto":
        judged = weight_of_colours(each.evidence for each in examples)
        asked = replace(asked, colours=_BESIDE[judged])
        _LOG.info("colours count %s, judged from the images", asked.colours)
    rows = np.stack([each.row for each in examples])
    attach(encoder, fitted_head(rows, [each.small for each in examples], asked), directory)
    return Adaptation(len(examples), tuple(refused), asked.colours)


def _calibrating(
    paths: Sequence[str], encoder: Encoder, rules: DecodeRules
) -> list[NDArray[np.uint8]]:
    """Return the first of the images that can be decoded."""
    fed = encoder.preprocessing
    work = partial(decode, height=fed.height, width=fed.width, rules=rules)
    decoded = (each for each in in_threads(work, paths) if not isinstance(each, ImageError))
    found = list(islice(decoded, _CALIBRATED))
    if not found:
        raise EncoderError("at least 2 images are needed, and 0 can be decoded")
    return found


def _example(path: str, encoder: Encoder, rules: DecodeRules) -> _Example:
    fed = encoder.preprocessing
    pixels = decode(path, fed.height, fed.width, rules)
    row = embedding_of(path, pixels, encoder)
    return _Example(row, pooled(pixels), colour_evidence(pixels))
