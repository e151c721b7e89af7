"""Pictures drawn with matplotlib: training curves, reconstructions, and matches."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from imgsim.errors import ImageError
from imgsim.files import replacing, writing
from imgsim.images.decode import thumbnail
from imgsim.output.target import FIGURES, check_target
from imgsim.results import EpochRecord, QueryResult, RetrievalExample
from imgsim.text import printable, short_name

_THUMBNAIL = 224


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


def draw_matches(path: Path, results: Sequence[QueryResult]) -> None:
    """Draw a grid: a row for each query, the query first, then its matches, nearest first."""
    columns = 1 + max((len(result.matches) for result in results), default=0)
    rows = max(1, len(results))
    figure = Figure(figsize=(1.7 * columns, 2.1 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    for row, result in zip(grid, results, strict=False):
        _draw_image(row[0], result.query, "query")
        for axes, match in zip(row[1:], result.matches, strict=False):
            _draw_image(axes, match.path, f"{match.rank}: {match.distance:.4g}")
    _save(figure, path)


def draw_retrieved(path: Path, retrieved: Sequence[RetrievalExample]) -> None:
    """Draw a row for each query: the image, then its nearest, right ones green and wrong ones red.

    Wrong ones are dashed as well, for those who cannot tell the colours.
    """
    columns = 1 + max(len(query.nearest) for query in retrieved)
    figure = Figure(figsize=(1.5 * columns, 1.9 * len(retrieved)), layout="constrained")
    grid = figure.subplots(len(retrieved), columns, squeeze=False)
    for row, query in zip(grid, retrieved, strict=True):
        for axes in row:
            axes.set_axis_off()
        _draw_image(row[0], query.query, query.label)
        for axes, near, label in zip(row[1:], query.nearest, query.labels, strict=False):
            _draw_image(axes, near, label)
            axes.set_axis_on()
            _outline(axes, right=label == query.label)
    _save(figure, path)


def _outline(axes: Axes, *, right: bool) -> None:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(
        color="tab:green" if right else "tab:red",
        linewidth=3,
        linestyle="solid" if right else "dashed",
    )


def _draw_image(axes: Axes, path: str, title: str) -> None:
    axes.set_title(f"{printable(title)}\n{short_name(path)}", fontsize=7, parse_math=False)
    try:
        axes.imshow(np.asarray(thumbnail(path, _THUMBNAIL)))
    except ImageError as error:
        axes.text(0.5, 0.5, error.reason, fontsize=6, ha="center", va="center", wrap=True)


def _bare(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _save(figure: Figure, path: Path) -> None:
    check_target(path, FIGURES)
    with writing(path), replacing(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a name in a script that the font lacks
        figure.savefig(temporary, dpi=110, format=path.suffix[1:].lower())
