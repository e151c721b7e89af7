"""The commands that store images and say what is stored: ingest, info."""

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from imgsim.cli.answers import print_facts, print_json, print_refused
from imgsim.cli.console import interruptible, progress_bar, say
from imgsim.cli.options import DryRun, Json, MaxPixels, Options, listed
from imgsim.errors import ImageError
from imgsim.options import MAX_PIXELS, IngestSettings
from imgsim.results import IngestReport
from imgsim.text import printable


def ingest(
    ctx: typer.Context,
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATHS", help="Image files, and folders of them."),
    ] = None,
    from_file: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Read more paths from a file, one a line; - is stdin."),
    ] = None,
    null: Annotated[
        bool, typer.Option("--null", "-0", help="Paths in --from-file end in NUL characters.")
    ] = False,
    dry_run: DryRun = False,
    rehash: Annotated[
        bool, typer.Option(help="Compare contents even where size and time are unchanged.")
    ] = False,
    retry_refused: Annotated[
        bool, typer.Option(help="Try refused files again that have not changed.")
    ] = False,
    max_pixels: MaxPixels = MAX_PIXELS,
    strict: Annotated[
        bool, typer.Option(help="Exit with 20 if any file was not read, not only if none was.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Store images that are new or changed."""
    options: Options = ctx.obj
    roots = [path for path in paths or () if path]
    if from_file is not None:
        roots += listed(from_file, null=null)
    elif not roots:
        raise typer.BadParameter("name at least one file or folder, or use --from-file")
    try:
        with (
            options.open() as collection,
            progress_bar("ingest", quiet=options.quiet) as on_progress,
            interruptible("storing what is encoded; Ctrl-C again leaves at once"),
        ):
            count_first = sys.stderr.isatty()
            settings = IngestSettings(
                rehash, retry_refused, count_first=count_first, max_pixels=max_pixels
            )
            report = collection.ingest(roots, settings, dry_run=dry_run, on_progress=on_progress)
    except KeyboardInterrupt:
        say("interrupted: what is encoded was stored; run the same command again to go on")
        raise
    _print_ingest(report, options, dry_run=dry_run, as_json=as_json)
    bad = len(report.refused) + len(report.unreachable)
    if bad and (strict or bad == report.seen):
        raise typer.Exit(ImageError.exit_code)


def _print_ingest(report: IngestReport, options: Options, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        print_json({"seen": report.seen, **asdict(report), "dry_run": dry_run})
    elif not options.quiet:
        for refusal in report.refused:
            say(f"refused: {printable(refusal.path)}: {printable(refusal.reason)}")
        for refusal in report.unreachable:
            say(f"unreachable: {printable(refusal.path)}: {printable(refusal.reason)}")
    for warning in report.warnings:
        say(f"imgsim: warning: all images are stored, but {printable(warning)}")
    verb = "to add" if dry_run else "added"
    options.note(
        f"{report.seen:,} files: {report.added:,} {verb}, {report.changed:,} changed, "
        f"{report.moved:,} moved, {report.unchanged:,} unchanged, {len(report.refused):,} refused, "
        f"{len(report.unreachable):,} unreachable, {report.skipped:,} not images"
        + (f", {report.linked:,} stored under another name" if report.linked else "")
    )
    if report.not_found:
        options.note(
            f"stored images that were not found at these paths: {report.not_found:,}; "
            "`imgsim prune` forgets those that are gone"
        )


def info(
    ctx: typer.Context,
    refused: Annotated[bool, typer.Option("--refused", help="List refused files instead.")] = False,
    as_json: Json = False,
) -> None:
    """Print facts about the collection."""
    options: Options = ctx.obj
    with options.open() as collection:
        if refused:
            print_refused(collection.refused(), as_json=as_json)
            return
        facts = asdict(collection.info())
    if as_json:
        print_json(facts)
        return
    print_facts(facts)
