"""Pictures drawn with matplotlib: training curves, reconstructions, and matches."""

import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from imgsim.errors import ImageError
from imgsim.files import replacing, writing
from imgsim.findings import RadiusCurves
from imgsim.images.decode import thumbnail
from imgsim.options import DECODE_RULES, DecodeRules
from imgsim.output.fonts import choose_fonts
from imgsim.output.selection import select
from imgsim.output.target import FIGURES, check_target
from imgsim.results import EpochRecord, Progress, QueryResult
from imgsim.scores import RetrievalExample
from imgsim.text import printable, short_name

_THUMBNAIL = 224
_MOST = 240  # pictures of matches; they take some seconds
_IN_A_ROW = 10  # matches beside a query
_PICTURE, _TITLE_HEIGHT, _CELL_HEIGHT = 0.94, 0.22, 1.24  # in units of a cell's width
_CELL_INCHES = 1.7


@dataclass(frozen=True)
class Drawing:
    """What a figure lacks: pictures ``left_out``, and ``missing`` characters, boxes in names."""

    left_out: int
    missing: str


def draw_history(path: Path, history: Sequence[EpochRecord]) -> None:
    """Draw the training and validation loss of each epoch."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    epochs = [record.epoch for record in history]
    axes.plot(epochs, [record.loss for record in history], marker="o", label="training")
    axes.plot(epochs, [record.val_loss for record in history], marker="o", label="validation")
    axes.set(xlabel="epoch", ylabel="loss", yscale="log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    _save(figure, path)


def draw_reconstructions(
    path: Path, originals: NDArray[np.uint8], reconstructions: NDArray[np.uint8]
) -> None:
    """Draw up to eight images (n, height, width, 3) above what the autoencoder made of them."""
    shown = min(8, len(originals))
    figure = Figure(figsize=(1.5 * shown + 1, 3.4), layout="constrained")
    grid = figure.subplots(2, shown, squeeze=False)
    for column in range(shown):
        for row, images in enumerate((originals, reconstructions)):
            grid[row, column].imshow(images[column])
            _bare(grid[row, column])
    grid[0, 0].set_ylabel("input")
    grid[1, 0].set_ylabel("output")
    _save(figure, path)


def draw_matches(
    path: Path,
    results: Sequence[QueryResult],
    on_progress: Progress | None = None,
    rules: DecodeRules = DECODE_RULES,
) -> Drawing:
    """Draw each query with its matches beside it, nearest first, ten in a row.

    At most 240 pictures are drawn; see :func:`select`.
    """
    selection = select(results, _MOST)
    longest = max((len(result.matches) for result in selection.results), default=0)
    grid = _Grid(1 + min(longest, _IN_A_ROW), selection.pictures, on_progress, rules)
    for result in selection.results:
        grid.begin_row()
        grid.draw(result.query, "query")
        for match in result.matches:
            grid.draw(match.path, f"{match.rank}: {match.distance:.4g}")
    return Drawing(selection.left_out, grid.save(path))


def draw_retrieved(
    path: Path, retrieved: Sequence[RetrievalExample], rules: DecodeRules = DECODE_RULES
) -> Drawing:
    """Draw a row for each query: the image, then its nearest, right ones green and wrong ones red.

    Wrong ones are dashed as well, for those who cannot tell the colours.
    """
    columns = 1 + max(len(query.nearest) for query in retrieved)
    grid = _Grid(columns, sum(1 + len(query.nearest) for query in retrieved), None, rules)
    for query in retrieved:
        grid.begin_row()
        grid.draw(query.query, query.label)
        for near, label in zip(query.nearest, query.labels, strict=False):
            grid.draw(near, label, right=label == query.label)
    return Drawing(0, grid.save(path))


def draw_radius(path: Path, curves: RadiusCurves) -> None:
    """Draw which share of images is within a distance: of themselves changed, and of others."""
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for kind, same in curves.same.items():
        axes.ecdf(same, label=f"itself, {kind}")
    if curves.unrelated:
        axes.ecdf(curves.unrelated, color="black", linestyle="dashed", label="the nearest other")
    learnt = curves.learnt
    axes.axvline(learnt.radius, color="tab:red", label=f"radius {learnt.radius:.4g}")
    axes.set(xlabel="distance", ylabel="share of images", xlim=(0, None), ylim=(0, 1))
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    _save(figure, path)


class _Grid:
    """Pictures in ``columns``, drawn from the left; the first column is that of the queries."""

    def __init__(
        self, columns: int, pictures: int, on_progress: Progress | None, rules: DecodeRules
    ) -> None:
        self._columns, self._pictures, self._rules = columns, pictures, rules
        self._on_progress = on_progress
        self._row, self._column, self._drawn = -1, 0, 0
        self._figure = Figure()
        self._axes = self._figure.add_axes((0, 0, 1, 1))

    def begin_row(self) -> None:
        """Go on in the first column of the next row."""
        self._row, self._column = self._row + 1, 0

    def draw(self, path: str, title: str, *, right: bool | None = None) -> None:
        """Draw a picture with a title, and an outline that says whether it is right, and go on."""
        if self._column == self._columns:
            self._row, self._column = self._row + 1, 1
        x, y = self._column + 0.5, self._row * _CELL_HEIGHT + _TITLE_HEIGHT + 0.5
        text = f"{printable(title)}\n{short_name(path)}"
        self._axes.text(x, y - 0.49, text, fontsize=7, ha="center", va="bottom", parse_math=False)
        width = height = _PICTURE
        try:
            pixels = thumbnail(path, _THUMBNAIL, self._rules).values
            height, width = (_PICTURE * side / max(pixels.shape) for side in pixels.shape[:2])
            edges = x - width / 2, x + width / 2, y + height / 2, y - height / 2
            self._axes.imshow(pixels, extent=edges)
        except ImageError as error:
            reason = textwrap.fill(printable(error.reason), 24)
            self._axes.text(x, y, reason, fontsize=6, ha="center", va="center", parse_math=False)
        if right is not None:
            self._axes.add_patch(_outline((x - width / 2, y - height / 2), width, height, right))
        self._column += 1
        self._drawn += 1
        if self._on_progress is not None:
            self._on_progress(self._drawn, self._pictures)

    def save(self, path: Path) -> str:
        """Write the figure; return the characters that no installed font has."""
        rows = max(1, self._row + 1) * _CELL_HEIGHT
        self._figure.set_size_inches(_CELL_INCHES * self._columns, _CELL_INCHES * rows)
        self._axes.set(xlim=(0, self._columns), ylim=(rows, 0), aspect="auto")
        self._axes.set_axis_off()
        missing = choose_fonts(self._axes.texts)
        _save(self._figure, path)
        return missing


def _outline(corner: tuple[float, float], width: float, height: float, right: bool) -> Rectangle:
    colour, style = ("tab:green", "solid") if right else ("tab:red", "dashed")
    return Rectangle(corner, width, height, fill=False, color=colour, linewidth=3, linestyle=style)


def _bare(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _save(figure: Figure, path: Path) -> None:
    check_target(path, FIGURES)
    with writing(path), replacing(path.resolve()) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a character that no font has
        figure.savefig(temporary, dpi=110, format=path.suffix[1:].lower())
