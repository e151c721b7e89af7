"""What a person sees on stderr: messages, progress, the log."""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from imgsim.findings import StageProgress
from imgsim.results import Progress, SearchStats, TrainingProgress
from imgsim.text import printable

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import ProgressColumn


_STAGES = {
    "prepare": "loading TensorFlow",
    "head": "fitting the last layers",
    "export": "writing the encoder",
    "check": "trying it out",
}


def say(message: str) -> None:
    """Print a line to stderr; whatever names in it hold, it stays one line."""
    print(printable(message), file=sys.stderr, flush=True)


def agreed(question: str) -> bool:
    """Ask a person, if there is one; a return is a no."""
    if not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def say_stats(stats: SearchStats) -> None:
    """Say what searches looked at, in rows."""
    say(
        f"{stats.queries:,} queries: {stats.bounded:,} bounds read, {stats.first_level:,} rows "
        f"left by the first level, {stats.second_level:,} by the second; {stats.scanned:,} "
        f"embeddings scanned; {stats.distances:,} distances computed"
    )


def prepare_streams() -> None:
    """Let stdout carry any path byte for byte, and keep C libraries from writing to stderr.

    TensorFlow and libtiff write messages for their developers to descriptor 2.
    """
    if sys.stdout is None:  # it is closed
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr] # typeshed knows TextIO
    if sys.stderr is None:  # it is closed, and then print would take stdout
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    else:
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)


def unmute_libraries() -> None:
    """Let C libraries write to stderr again, and TensorFlow say what it has to say."""
    os.dup2(sys.stderr.fileno(), 2)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0")


def show_log() -> None:
    """Write the library's log to stderr, with the milliseconds since the start."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines("%(relativeCreated)7d ms  %(name)s: %(message)s"))
    log = logging.getLogger("imgsim")
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)


def show_warnings(logger: str) -> None:
    """Write the warnings of a part of the library to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(_Lines("imgsim: warning: %(message)s"))
    logging.getLogger(logger).addHandler(handler)


class _Lines(logging.Formatter):
    """Writes records whose names and messages are safe to show."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as one line."""
        return printable(super().format(record))


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
    """Yield a callback that draws a bar with rate and time left; None if it should be quiet.

    Off a terminal it says a line now and then.
    """
    if quiet:
        yield None
        return
    if not sys.stderr.isatty():
        yield Lines(label)
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
            bar.update(task, completed=done, total=total or None, rate=rate)

        yield update


@contextmanager
def stage_bars(*, quiet: bool) -> Iterator[StageProgress]:
    """Yield a callback that draws a bar for each stage of the work, one after the other."""
    with ExitStack() as shown:
        current, tell = "", None

        def update(stage: str, done: int, total: int) -> None:
            nonlocal current, tell
            if stage != current:
                shown.close()
                current, tell = stage, shown.enter_context(progress_bar(stage, quiet=quiet))
            if tell is not None:
                tell(done, total)

        yield update


class Lines:
    """Says a line about long work every half a minute; a total of 0 is not known."""

    def __init__(self, label: str, every: float = 30.0) -> None:
        self._label, self._every = label, every
        self._began = self._said = time.monotonic()

    def is_due(self) -> bool:
        """Say whether it is time for a line, and then wait anew."""
        now = time.monotonic()
        if now - self._said < self._every:
            return False
        self._said = now
        return True

    def __call__(self, done: int, total: int) -> None:
        """Say how much is done, if it is time."""
        if not self.is_due():
            return
        rate = done / (time.monotonic() - self._began)
        text = f"{self._label}: {done:,}"
        if total and rate:
            left = timedelta(seconds=round((total - done) / rate))
            say(f"{text} of {total:,}, {rate:,.0f}/s, {left} left")
        else:
            say(f"{text}, {rate:,.0f}/s")


@contextmanager
def training_display(*, quiet: bool) -> Iterator[Callable[[TrainingProgress], None]]:
    """Yield a callback that shows a training run: a live bar, or lines off a terminal.

    There is a line for each epoch, and one every half a minute.
    """
    if quiet:
        yield lambda _: None
    elif not sys.stderr.isatty():
        lines, encoding = Lines("train"), None

        def say_now(now: TrainingProgress) -> None:
            nonlocal encoding
            if now.stage == "encode":
                encoding = encoding or Lines("encode")  # its time begins now
                encoding(now.done, now.total)
            elif now.stage in _STAGES:
                say(_STAGES[now.stage])
            elif now.ended or lines.is_due():
                part = "" if now.ended else f", {now.done:,} of {now.total:,} images"
                say(f"epoch {now.epoch}/{now.epochs}{part}  {_facts(now)}")

        yield say_now
    else:
        from rich.progress import BarColumn, TextColumn  # noqa: PLC0415 - only terminals pay

        text = TextColumn("{task.fields[facts]}")
        with _rich_progress(TextColumn("{task.description}"), BarColumn(), text) as bar:
            task = bar.add_task("", total=None, facts="")

            def update(now: TrainingProgress) -> None:
                nonlocal task
                if now.stage in _STAGES:  # of unknown length: a bar that moves to and fro
                    bar.remove_task(task)
                    task = bar.add_task(_STAGES[now.stage], total=None, facts="")
                    return
                label, facts = f"epoch {now.epoch}/{now.epochs}", _facts(now)
                if now.stage == "encode":
                    label, facts = "encode", f"{now.done:,} of {now.total:,} images"
                bar.update(
                    task, description=label, completed=now.done, total=now.total, facts=facts
                )

            yield update


def _rich_progress(*columns: "ProgressColumn") -> "RichProgress":
    from rich.console import Console  # noqa: PLC0415 - as above
    from rich.progress import Progress as Bar  # noqa: PLC0415 - as above

    console = Console(file=sys.stderr)
    return Bar(*columns, console=console, transient=True, redirect_stdout=False)


def _facts(now: TrainingProgress) -> str:
    left = timedelta(seconds=round(now.seconds_left))
    before = "" if now.val_loss is None else f"  val_loss {now.val_loss:.5f}"
    return f"loss {now.loss:.5f}{before}  {now.images_per_second:,.0f} images/s  {left} left"
