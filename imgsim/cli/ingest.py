"""The commands that store images and say what is stored: ingest, info."""

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from imgsim.cli.answers import print_facts, print_images, print_json, print_refused
from imgsim.cli.console import interruptible, progress_bar, say, show_warnings
from imgsim.cli.options import (
    DryRun,
    Exclude,
    FromFile,
    Json,
    MaxPixels,
    Null,
    Options,
    excluded_text,
    roots_of,
    told_radius,
)
from imgsim.errors import ImageError
from imgsim.options import MAX_PIXELS, Damaged, IngestSettings
from imgsim.results import IngestReport

_INTERRUPTED = "interrupted: what is encoded was stored; run the same command again to go on"


def ingest(
    ctx: typer.Context,
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATHS", help="Image files, and folders of them."),
    ] = None,
    from_file: FromFile = None,
    null: Null = False,
    exclude: Exclude = None,
    dry_run: DryRun = False,
    rehash: Annotated[
        bool, typer.Option(help="Compare contents even where size and time are unchanged.")
    ] = False,
    retry_refused: Annotated[
        bool, typer.Option(help="Try refused files again that have not changed.")
    ] = False,
    max_pixels: MaxPixels = MAX_PIXELS,
    damaged: Annotated[
        Damaged, typer.Option(help="What to do with JPEGs and PNGs that decode only in part.")
    ] = "refuse",
    strict: Annotated[
        bool, typer.Option(help="Exit with 20 if any file was not read, not only if none was.")
    ] = False,
    allow_mixed: Annotated[
        bool,
        typer.Option(
            "--allow-mixed",
            help="Take embeddings from machines of a --cluster that give other last bits.",
        ),
    ] = False,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Go on with what is new or changed, as it comes, until Ctrl-C; `pip install "
            "'imgsim[watch]'`. Images whose files are deleted stay until `imgsim prune`.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Store images that are new or changed."""
    options: Options = ctx.obj
    if watch and (from_file is not None or dry_run or strict):
        raise typer.BadParameter("--watch goes with none of --from-file, --dry-run and --strict")
    options.allow_mixed = allow_mixed
    roots = roots_of(paths, from_file, null=null)
    try:
        settings = IngestSettings(
            rehash,
            retry_refused,
            count_first=sys.stderr.isatty(),
            exclude=exclude or (),
            max_pixels=max_pixels,
            damaged=damaged,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if watch:
        _watch(roots, settings, options, as_json=as_json)
        return
    try:
        with (
            options.open() as collection,
            progress_bar("ingest", quiet=options.quiet) as on_progress,
            interruptible("storing what is encoded; Ctrl-C again leaves at once"),
        ):
            report = collection.ingest(roots, settings, dry_run=dry_run, on_progress=on_progress)
    except KeyboardInterrupt:
        say(_INTERRUPTED)
        raise
    _print_ingest(report, options, dry_run=dry_run, as_json=as_json)
    bad = len(report.refused) + len(report.unreachable)
    if bad and (strict or bad == report.seen):
        raise typer.Exit(ImageError.exit_code)


def _watch(roots: list[str], settings: IngestSettings, options: Options, *, as_json: bool) -> None:
    show_warnings("imgsim.images.notices")
    show_warnings("imgsim.jobs.watch")
    try:
        with options.open() as collection, interruptible("ending; Ctrl-C again leaves at once"):
            with progress_bar("ingest", quiet=options.quiet) as on_progress:
                reports = collection.watch(roots, settings, on_progress)
                report = next(reports)
            _print_ingest(report, options, dry_run=False, as_json=as_json)
            options.note("watching; Ctrl-C ends it")
            for report in reports:
                _print_ingest(report, options, dry_run=False, as_json=as_json)
    except KeyboardInterrupt:
        say(_INTERRUPTED)
        raise


def _print_ingest(report: IngestReport, options: Options, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        print_json({"seen": report.seen, **asdict(report), "dry_run": dry_run})
    elif not options.quiet:
        for refusal in report.refused:
            say(f"refused: {refusal.path}: {refusal.reason}")
        for refusal in report.unreachable:
            say(f"unreachable: {refusal.path}: {refusal.reason}")
    for warning in report.warnings:
        say(f"imgsim: warning: all images are stored, but {warning}")
    verb = "to add" if dry_run else "added"
    left_out = excluded_text(report.excluded)
    options.note(
        f"{report.seen:,} files: {report.added:,} {verb}, {report.changed:,} changed, "
        f"{report.moved:,} moved, {report.unchanged:,} unchanged, {len(report.refused):,} refused, "
        f"{len(report.unreachable):,} unreachable, {report.skipped:,} not images"
        + (f", {report.linked:,} stored under another name" if report.linked else "")
        + (f", {left_out}" if left_out else "")
    )
    if report.damaged:
        options.note(f"stored although damaged: {report.damaged:,}; `imgsim info --damaged`")
    if report.hard_linked:
        options.note(
            f"stored images that are one file with another, by hard links: {report.hard_linked:,}"
        )
    if report.not_found:
        options.note(
            f"stored images that were not found at these paths: {report.not_found:,}; "
            "`imgsim prune` forgets those that are gone"
            + (", `imgsim remove` those that are left out" if report.excluded else "")
        )


def info(
    ctx: typer.Context,
    refused: Annotated[bool, typer.Option("--refused", help="List refused files instead.")] = False,
    damaged: Annotated[
        bool, typer.Option("--damaged", help="List images instead that are stored though damaged.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print facts about the collection."""
    options: Options = ctx.obj
    if refused and damaged:
        raise typer.BadParameter("give one of --refused and --damaged")
    with options.open() as collection:
        if damaged:
            print_images((each for each in collection.images() if each.damaged), as_json=as_json)
            return
        if refused:
            print_refused(collection.refused(), as_json=as_json)
            return
        found = collection.info()
    facts = asdict(found)
    if as_json:
        print_json(facts)
        return
    learnt = found.duplicates
    print_facts(facts | {"duplicates": told_radius(learnt) if learnt else None})
