"""What goes to stdout: tables for a person, rows and JSON for a script."""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, Literal

from imgsim.output.listing import (
    JOINT_COLUMNS,
    JSON_SCHEMA,
    NEIGHBOUR_COLUMNS,
    Row,
    query_rows,
    write_csv,
    write_jsonl,
)
from imgsim.results import ImageInfo, QueryResult, Refusal
from imgsim.scores import AgreementReport, Evaluation
from imgsim.text import printable

RowFormat = Literal["csv", "jsonl"]
"""How rows are printed for a program."""

TableFormat = Literal["table", "jsonl", "csv"]
"""How an answer is printed: for a person, or for a program."""

QueryFormat = Literal["table", "jsonl", "csv", "paths"]
"""How `imgsim query` prints its answer."""


def print_json(facts: dict[str, Any]) -> None:
    """Print facts in a line of JSON, with the number of its schema."""
    print(json.dumps({"schema": JSON_SCHEMA, **facts}), flush=True)


def print_facts(facts: dict[str, Any]) -> None:
    """Print facts for a person, a line for each."""
    for name, value in facts.items():
        print(f"{name.replace('_', ' '):<15}  {printable(_text(value))}".rstrip())


def _text(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {each}" for key, each in value.items())
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)


def print_refused(refused: Sequence[Refusal], *, as_json: bool) -> None:
    """Print a line for each file, with the reason after a tab, or JSON Lines."""
    for refusal in refused:
        if as_json:
            print_json(asdict(refusal))
        else:
            print(f"{printable(refusal.path)}\t{printable(refusal.reason)}")


def print_images(images: Iterable[ImageInfo], *, as_json: bool) -> None:
    """Print the path of each image in a line, or what is known of it as JSON Lines."""
    for image in images:
        if as_json:
            print_json(asdict(image))
        else:
            print(printable(image.path))


def print_results(
    results: Sequence[QueryResult], form: QueryFormat, *, null: bool, several: bool
) -> None:
    """Print the answer of a query to stdout, and whose it is if it is of several collections."""
    if form == "table":
        _print_table(results, several=several)
    elif form == "paths":
        _print_paths(results, "\0" if null else "\n")
    else:
        columns = JOINT_COLUMNS if several else NEIGHBOUR_COLUMNS
        rows = (row[: len(columns)] for result in results for row in query_rows(result))
        print_rows(rows, form, columns)


def print_rows(
    rows: Iterable[Row], form: RowFormat, columns: Iterable[str] = NEIGHBOUR_COLUMNS
) -> None:
    """Print rows of some columns to stdout."""
    _ROW_WRITERS[form](sys.stdout, rows, columns)


def _print_table(results: Sequence[QueryResult], *, several: bool) -> None:
    for number, result in enumerate(results):
        if number:
            print()
        print(printable(result.query))
        width = max([2, *(len(str(match.id)) for match in result.matches)])
        print(f"{'rank':>6}  {'distance':>12}  {'id':>{width}}  path{'  in' if several else ''}")
        for match in result.matches:
            print(
                f"{match.rank:>6}  {match.distance:>12.6g}  {match.id:>{width}}  "
                f"{printable(match.path)}{f'  {printable(match.collection)}' if several else ''}"
            )


def _print_paths(results: Sequence[QueryResult], end: str) -> None:
    for result in results:
        for match in result.matches:
            print(match.path, end=end)


_ROW_WRITERS = {"csv": write_csv, "jsonl": write_jsonl}


def print_evaluation(evaluation: Evaluation) -> None:
    """Print a table of the scores, and one of the labels with what is retrieved for them."""
    names = [printable(name) for name in evaluation.encoders]
    scores = evaluation.encoders.values()
    rows = dict(zip(names if len(names) > 1 else ["encoder"], scores, strict=True))
    rows |= {"pixels 32x32": evaluation.pixels, "HSV histogram": evaluation.histogram}
    recalled = [f"R@{k}" for k in evaluation.embeddings.recall]
    width = 1 + max(map(len, rows))
    print(" " * width + "".join(f"{name:<17}" for name in (*recalled, "P@10", "mAP")).rstrip())
    for name, each in rows.items():
        cells = (*each.recall.values(), each.p10, each.map)
        texts = (f"{cell.value:.3f} ({cell.low:.2f}-{cell.high:.2f})" for cell in cells)
        print(f"{name:<{width}}" + " ".join(texts))
    print(
        f"{evaluation.queries:,} of {evaluation.images:,} images as queries, "
        f"{evaluation.unlabelled:,} without a label left out; in brackets 95 % intervals\n"
    )
    width = max(5, *(len(printable(score.label)) for score in evaluation.classes))
    print(f"{'label':<{width}}  {'images':>7}  {'P@10':>5}  mostly retrieved besides")
    for score in evaluation.classes:
        others = [
            (share, label) for label, share in score.retrieved.items() if label != score.label
        ]
        besides = ", ".join(f"{printable(label)} {share:.2f}" for share, label in others[:3])
        right = f"{score.retrieved.get(score.label, 0.0):.3f}" if score.queries else "-"
        label = printable(score.label)
        print(f"{label:<{width}}  {score.images:>7,}  {right:>5}  {besides}".rstrip())


def print_agreement(report: AgreementReport) -> None:
    """Print a table of encoders and the shares of neighbours that stay."""
    width = max([7, *(len(printable(name)) for name in report.encoders)])
    print(f"{'encoder':<{width}}  cropped  saved again")
    for name, each in report.encoders.items():
        print(f"{printable(name):<{width}}  {each.cropped:>7.3f}  {each.resaved:>11.3f}")
    print(
        f"shares of the 10 nearest of {report.images:,} images that stay; no measure of kinds, for "
        "which labels are needed"
    )
