"""Tables for a person."""

from collections.abc import Iterable, Sequence

from imgsim.text import printable


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows of cells under a header, to the right but for the last column."""
    body = [[_text(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
    for row in (header, *body):
        cells = [cell.rjust(width) for cell, width in zip(row[:-1], widths[:-1], strict=True)]
        print("  ".join([*cells, row[-1]]))


def _text(cell: object) -> str:
    if isinstance(cell, float):
        return f"{cell:.4g}"
    return f"{cell:,}" if isinstance(cell, int) else printable(str(cell))
