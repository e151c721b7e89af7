"""The command that undoes what was done to files."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from imgsim.cli.acting import say_left
from imgsim.cli.answers import print_json
from imgsim.cli.console import progress_bar, say
from imgsim.cli.options import DryRun, Json, Options
from imgsim.errors import ImgsimError
from imgsim.text import printable


def restore(
    ctx: typer.Context,
    manifest: Annotated[
        Path,
        typer.Argument(metavar="MANIFEST", help="What `imgsim duplicates` has written."),
    ],
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Undo what MANIFEST says: files go back to where they were, links become files again.

    Nothing is replaced, and what is back already stays. Files that were moved are ingested again.
    Exits with 1 if a file could not be restored.
    """
    options: Options = ctx.obj
    with (
        options.open() as collection,
        progress_bar("restore", quiet=options.quiet) as on_progress,
    ):
        report = collection.curation.restore(manifest, dry_run=dry_run, on_progress=on_progress)
    if as_json:
        print_json(asdict(report) | {"dry_run": dry_run})
    elif dry_run:
        for path in report.restored:
            print(printable(path))
    say_left(report.left, options)
    for warning in report.warnings:
        say(f"imgsim: warning: the files are back, but {warning}")
    would = "would be " if dry_run else ""
    known = f"; ingested: {report.known:,}" if report.known else ""
    left = f"; left alone: {len(report.left):,}" if report.left else ""
    options.note(f"{would}restored: {len(report.restored):,} files{known}{left}")
    if report.left:
        raise typer.Exit(ImgsimError.exit_code)
