"""What commands say about files that are moved, linked, or back."""

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from imgsim.cli.console import progress_bar, say
from imgsim.cli.options import Options
from imgsim.findings import ChangeReport, LeftAlone
from imgsim.options import Stored

if TYPE_CHECKING:
    from imgsim.curation.curation import Curation


def act(
    curation: "Curation",
    pairs: Iterable[tuple[Stored, Stored]],
    move_to: Path | None,
    options: Options,
    *,
    yes: bool,
) -> ChangeReport:
    """Move the first of each pair into a folder, or without one link it to the second.

    Unless it was agreed, only look what would be done. Say it, and return it.
    """
    verb = "link" if move_to is None else "move"
    try:
        with progress_bar(verb, quiet=options.quiet) as on_progress:
            if move_to is None:
                report = curation.hardlink(pairs, dry_run=not yes, on_progress=on_progress)
            else:
                report = curation.move(pairs, move_to, dry_run=not yes, on_progress=on_progress)
    except KeyboardInterrupt:
        say("interrupted: what was done is in the manifest, and `imgsim restore` undoes it")
        raise
    say_left(report.left, options)
    done = "replaced by hard links" if move_to is None else f"moved to {move_to}"
    size = sum(change.bytes for change in report.changed) / 1e6
    would = "" if yes else "would be "
    ending = f"; left alone: {len(report.left):,}" if report.left else ""
    options.note(f"{would}{done}: {len(report.changed):,} files, {size:,.1f} MB{ending}")
    if report.manifest:
        options.note(f"`imgsim restore {shlex.quote(report.manifest)}` undoes it")
    elif report.changed:
        options.note("nothing was done; --yes does it")
    return report


def say_left(left: Sequence[LeftAlone], options: Options) -> None:
    """Say which files are left alone, and why."""
    for each in left:
        options.note(f"left alone: {each.path}: {each.reason}")
