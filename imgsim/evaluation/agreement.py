"""Whether an encoder names the same neighbours for a picture that was cropped, or saved again.

It needs no labels, and is no measure of kinds: an encoder that sees nothing but layout agrees with
itself too. Of encoders that find as much by labels, the one that agrees more is the steadier.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from imgsim.encoder.embed import embedding_of
from imgsim.encoder.encoder import Encoder
from imgsim.errors import ImageError, LabelError
from imgsim.images.decode import decode, sorted_out
from imgsim.images.variants import cropped, resaved
from imgsim.options import DecodeRules, EvaluationSettings
from imgsim.parallel import gathered
from imgsim.records import ImageFile
from imgsim.results import Progress
from imgsim.scores import Agreement, AgreementReport

_NEAREST = 10
_Rows = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]


def agreement(
    encoders: Mapping[str, Encoder],
    files: Iterable[ImageFile | ImageError],
    settings: EvaluationSettings,
    on_progress: Progress | None = None,
) -> AgreementReport:
    """Compare the nearest others of images with those of their variants, by each encoder.

    Up to ``settings.queries`` images are drawn; they are the gallery too. Raises
    :class:`LabelError` if fewer than 12 of them can be decoded.
    """
    paths, refused = sorted_out(files)
    order = np.random.default_rng(settings.seed).permutation(len(paths))[: settings.queries]
    drawn = [(paths[number], number) for number in sorted(order.tolist())]
    work = partial(_embedded, encoders=[*encoders.values()], settings=settings)
    found, failed = gathered(work, drawn, on_progress)
    if len(found) < _NEAREST + 2:
        raise LabelError(f"{len(found)} images can be decoded; at least {_NEAREST + 2} are needed")
    scores = {
        name: _agreement(*map(np.stack, zip(*rows, strict=True)))
        for name, rows in zip(encoders, zip(*found, strict=True), strict=True)
    }
    return AgreementReport(len(found), scores, (*refused, *failed))


def _embedded(
    image: tuple[str, int], encoders: Sequence[Encoder], settings: EvaluationSettings
) -> list[_Rows]:
    """Return by each encoder the embeddings of an image, of a crop, and of it saved again."""
    (path, number), rows = image, []
    for encoder in encoders:
        frame = encoder.preprocessing.frame
        pixels = decode(path, frame, DecodeRules(settings.max_pixels))
        random = np.random.default_rng([settings.seed, number])  # the same crop for all of them
        forms = pixels, cropped(pixels, random), resaved(pixels)
        image_, crop, saved = (embedding_of(path, form, encoder) for form in forms)
        rows.append((image_, crop, saved))
    return rows


def _agreement(
    rows: NDArray[np.float32], crops: NDArray[np.float32], saved: NDArray[np.float32]
) -> Agreement:
    nearest = _nearest(rows, rows)
    crop, save = (float((nearest & _nearest(each, rows)).sum(1).mean()) for each in (crops, saved))
    return Agreement(crop / _NEAREST, save / _NEAREST)


def _nearest(queries: NDArray[np.float32], rows: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which rows (n, n) are among the nearest of each query, its own row left out."""
    distances = cdist(queries, rows)
    np.fill_diagonal(distances, np.inf)
    order = np.argsort(distances, axis=1, kind="stable")[:, :_NEAREST]
    among = np.zeros(distances.shape, bool)
    np.put_along_axis(among, order, values=True, axis=1)
    return among
