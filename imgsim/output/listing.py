"""Lists too long for memory: items one by one, or Arrow record batches."""

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Generic, TextIO, TypeVar

from imgsim.findings import ImageMap
from imgsim.results import ImageInfo, ImageNeighbours, QueryResult

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_T = TypeVar("_T")
ROWS_AT_ONCE = 65_536

PATH_BYTES = "_bytes"
"""What the name of a column of exact paths ends in, beside that of the readable ones in tables."""

NEIGHBOUR_COLUMNS = {
    "image_id": "int64",
    "path": "string",
    "rank": "int32",
    "neighbour_id": "int64",
    "neighbour_path": "string",
    "distance": "float64",
}
JOINT_COLUMNS = {**NEIGHBOUR_COLUMNS, "collection": "string"}
IMAGE_COLUMNS = {
    "image_id": "int64",
    "path": "string",
    "width": "int32",
    "height": "int32",
    "bytes": "int64",
    "damaged": "bool",
}

MAP_COLUMNS = {"image_id": "int64", "path": "string", "x": "float32", "y": "float32"}

Row = tuple[Any, ...]

JSON_SCHEMA = 1
"""The number of the form that JSON has here; it grows when a reader has to change."""


class Listing(Generic[_T]):
    """Items in order, computed while they are taken, and anew by each iteration.

    ``to_arrow`` and ``to_pandas`` give them as a table with the columns ``columns``. There a path
    that is not valid UTF-8 has a backslash, an x and two hexadecimal digits for each such byte; a
    second column, as ``path_bytes``, has the exact bytes.
    """

    def __init__(
        self,
        items: Callable[[], Iterator[_T]],
        rows_of: Callable[[_T], Iterable[Row]],
        columns: dict[str, str],
    ) -> None:
        self._items = items
        self._rows_of = rows_of
        self.columns = columns

    def __iter__(self) -> Iterator[_T]:
        return self._items()

    def to_arrow(self) -> "pa.RecordBatchReader":
        """Return a reader of record batches, for more than memory holds."""
        import pyarrow as pa  # noqa: PLC0415 - heavy, and few need it

        rows = chain.from_iterable(map(self._rows_of, self))
        return pa.RecordBatchReader.from_batches(
            schema_of(self.columns), record_batches(rows, self.columns)
        )

    def to_pandas(self) -> "pd.DataFrame":
        """Return a DataFrame; raise ImportError if pandas is not installed."""
        try:
            import pandas as pd  # noqa: F401, PLC0415 - whoever wants it has it
        except ImportError as error:
            raise ImportError("to_pandas needs pandas: pip install pandas") from error
        return self.to_arrow().read_pandas()


def neighbour_rows(image: ImageNeighbours) -> Iterator[Row]:
    """Yield a row of NEIGHBOUR_COLUMNS for each neighbour."""
    for match in image.matches:
        yield image.id, image.path, match.rank, match.id, match.path, match.distance


def query_rows(result: QueryResult) -> Iterator[Row]:
    """Yield a row of JOINT_COLUMNS for each match of a query, which has no id."""
    for each in result.matches:
        yield None, result.query, each.rank, each.id, each.path, each.distance, each.collection


def write_csv(
    file: TextIO, rows: Iterable[Row], columns: Iterable[str] = NEIGHBOUR_COLUMNS
) -> None:
    """Write rows of some columns as CSV, texts in quotes."""
    writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)


def write_jsonl(
    file: TextIO, rows: Iterable[Row], columns: Iterable[str] = NEIGHBOUR_COLUMNS
) -> None:
    """Write rows of some columns as JSON Lines."""
    for row in rows:
        fields = dict(zip(columns, row, strict=True))
        file.write(json.dumps({"schema": JSON_SCHEMA, **fields}) + "\n")


def image_rows(image: ImageInfo) -> Iterator[Row]:
    """Yield the row of IMAGE_COLUMNS."""
    yield image.id, image.path, image.width, image.height, image.bytes, image.damaged


def map_rows(found: ImageMap) -> Iterator[Row]:
    """Yield a row of MAP_COLUMNS for each image."""
    for number, path, (x, y) in zip(found.ids, found.paths, found.positions, strict=True):
        yield int(number), path, float(x), float(y)


def schema_of(columns: dict[str, str]) -> "pa.Schema":
    """Return the Arrow schema of columns by the names of their types, and of the exact paths."""
    import pyarrow as pa  # noqa: PLC0415

    exact = {name + PATH_BYTES: "binary" for name, kind in columns.items() if kind == "string"}
    fields = {**columns, **exact}.items()
    return pa.schema([(name, pa.type_for_alias(kind)) for name, kind in fields])


def record_batches(rows: Iterable[Row], columns: dict[str, str]) -> Iterator["pa.RecordBatch"]:
    """Yield rows as record batches."""
    import pyarrow as pa  # noqa: PLC0415

    schema, remaining = schema_of(columns), iter(rows)
    while chunk := list(islice(remaining, ROWS_AT_ONCE)):
        found = dict(zip(columns, zip(*chunk, strict=True), strict=True))
        arrays = [
            pa.array(_as_paths(found[name.removesuffix(PATH_BYTES)], name, columns), kind)
            for name, kind in zip(schema.names, schema.types, strict=True)
        ]
        yield pa.record_batch(arrays, schema=schema)


def _as_paths(values: Sequence[Any], name: str, columns: dict[str, str]) -> Sequence[Any]:
    """Return the values of a column: paths as text, as exact bytes, or what is no path."""
    if name not in columns:
        return [os.fsencode(path) for path in values]
    return [plain_path(path) for path in values] if columns[name] == "string" else values


def plain_path(path: str) -> str:
    """Return a path as valid Unicode; bytes that are not UTF-8 are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
