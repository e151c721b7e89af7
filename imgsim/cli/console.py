"""What a person or a script sees: messages, progress bars, and the formats of a query's answer."""

import csv
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from imgsim.results import Evaluation, Progress, QueryResult, Refusal, SearchStats, TrainingProgress
from imgsim.text import printable

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import ProgressColumn

QueryFormat = Literal["table", "jsonl", "csv", "paths"]
"""How ``imgsim query`` prints its answer."""


def say(message: str) -> None:
    """Print a line to stderr."""
    print(message, file=sys.stderr, flush=True)


def say_stats(stats: SearchStats) -> None:
    """Say what searches looked at, in rows."""
    say(
        f"{stats.queries:,} queries: {stats.bounded:,} bounds read, {stats.first_level:,} rows "
        f"left by the first level, {stats.second_level:,} by the second; {stats.scanned:,} "
        f"embeddings scanned; {stats.distances:,} distances computed"
    )


def prepare_streams(*, mute_libraries: bool) -> None:
    """Let stdout carry any path byte for byte, and keep C libraries from writing to stderr.

    TensorFlow and libtiff write messages for their developers to descriptor 2.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    if sys.stderr is None:  # it is closed, and then print would take stdout
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    elif mute_libraries:
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)


def print_refused(refused: Sequence[Refusal], *, as_json: bool) -> None:
    """Print a line for each file, with the reason after a tab, or JSON Lines."""
    for refusal in refused:
        if as_json:
            print(json.dumps(asdict(refusal)))
        else:
            print(f"{printable(refusal.path)}\t{printable(refusal.reason)}")


def print_results(results: Sequence[QueryResult], form: QueryFormat, *, null: bool) -> None:
    """Print the answer of a query to stdout."""
    _PRINTERS[form](results, "\0" if null else "\n")


def _print_table(results: Sequence[QueryResult], _: str) -> None:
    for number, result in enumerate(results):
        if number:
            print()
        print(printable(result.query))
        width = max([2, *(len(str(match.id)) for match in result.matches)])
        print(f"{'rank':>6}  {'distance':>12}  {'id':>{width}}  path")
        for match in result.matches:
            print(
                f"{match.rank:>6}  {match.distance:>12.6g}  {match.id:>{width}}  "
                f"{printable(match.path)}"
            )


def _print_jsonl(results: Sequence[QueryResult], _: str) -> None:
    for result in results:
        print(json.dumps(asdict(result)))


def _print_csv(results: Sequence[QueryResult], _: str) -> None:
    writer = csv.writer(sys.stdout, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerow(("query", "rank", "id", "path", "distance"))
    for result in results:
        for match in result.matches:
            writer.writerow((result.query, match.rank, match.id, match.path, match.distance))


def _print_paths(results: Sequence[QueryResult], end: str) -> None:
    for result in results:
        for match in result.matches:
            print(match.path, end=end)


_PRINTERS: dict[QueryFormat, Callable[[Sequence[QueryResult], str], None]] = {
    "table": _print_table,
    "jsonl": _print_jsonl,
    "csv": _print_csv,
    "paths": _print_paths,
}


def print_evaluation(evaluation: Evaluation) -> None:
    """Print a table of the scores, and one of the labels with what is retrieved for them."""
    rows = {
        "encoder": evaluation.embeddings,
        "pixels 32x32": evaluation.pixels,
        "HSV histogram": evaluation.histogram,
    }
    recalled = [f"R@{k}" for k in evaluation.embeddings.recall]
    print(f"{'':<14}" + "".join(f"{name:<17}" for name in (*recalled, "P@10", "mAP")).rstrip())
    for name, scores in rows.items():
        cells = (*scores.recall.values(), scores.p10, scores.map)
        texts = (f"{cell.value:.3f} ({cell.low:.2f}-{cell.high:.2f})" for cell in cells)
        print(f"{name:<14}" + " ".join(texts))
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


@contextmanager
def interruptible(told: str) -> Iterator[None]:
    """Let Ctrl-C say something and raise KeyboardInterrupt, and a second Ctrl-C end the process.

    It does not wait for threads. A process that ignores SIGINT, as in the background, goes on to.
    """
    terminal = sys.stderr.isatty()

    def write(text: str) -> None:
        with suppress(OSError):  # nobody may listen any more
            os.write(sys.stderr.fileno(), text.encode())  # a print may be under way

    def leave(*_: object) -> None:
        write("\x1b[?25h\n" if terminal else "")  # the cursor that a bar has hidden
        os._exit(130)

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGINT, leave)
        write(f"\n{told}\n" if terminal else f"{told}\n")
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def progress_bar(label: str, *, quiet: bool) -> Iterator[Progress | None]:
    """Yield a callback that draws a bar with rate and time left, or None where nobody looks."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.progress import (  # noqa: PLC0415 - only terminals pay for it
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True),
    )
    with _rich_progress(*columns) as bar:
        task = bar.add_task(label, total=None, rate="")

        def update(done: int, total: int) -> None:
            speed = bar.tasks[task].speed
            rate = f"{speed:,.0f}/s" if speed else ""
            bar.update(task, completed=done, total=total, rate=rate)

        yield update


@contextmanager
def training_display(*, quiet: bool) -> Iterator[Callable[[TrainingProgress], None]]:
    """Yield a callback that shows a training run: a live bar, or a line for each epoch."""
    if quiet:
        yield lambda _: None
    elif not sys.stderr.isatty():
        yield _say_epoch
    else:
        from rich.progress import BarColumn, TextColumn  # noqa: PLC0415 - only terminals pay

        text = TextColumn("{task.fields[facts]}")
        with _rich_progress(TextColumn("{task.description}"), BarColumn(), text) as bar:
            task = bar.add_task("epoch", total=None, facts="")

            def update(now: TrainingProgress) -> None:
                label = f"epoch {now.epoch}/{now.epochs}"
                bar.update(
                    task, description=label, completed=now.done, total=now.total, facts=_facts(now)
                )

            yield update


def _rich_progress(*columns: "ProgressColumn") -> "RichProgress":
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress as Bar  # noqa: PLC0415

    return Bar(*columns, console=Console(file=sys.stderr), transient=True)


def _say_epoch(now: TrainingProgress) -> None:
    if now.ended:
        say(f"epoch {now.epoch}/{now.epochs}  {_facts(now)}")


def _facts(now: TrainingProgress) -> str:
    left = timedelta(seconds=round(now.seconds_left))
    before = "" if now.val_loss is None else f"  val_loss {now.val_loss:.5f}"
    return f"loss {now.loss:.5f}{before}  {now.images_per_second:,.0f} images/s  {left} left"
