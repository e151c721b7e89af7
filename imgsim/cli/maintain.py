"""The commands that keep a collection in order: prune, remove, relocate, compact, check."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from imgsim.cli.answers import print_json
from imgsim.cli.console import agreed, say
from imgsim.cli.options import DryRun, Json, Options
from imgsim.errors import CollectionDamaged, ImageUnavailable
from imgsim.results import Damage, RepairReport, UpkeepReport
from imgsim.text import printable

_MANY = 1_000


def prune(ctx: typer.Context, dry_run: DryRun = False, as_json: Json = False) -> None:
    """Forget images whose files are gone.

    A folder that was ingested and is missing or empty, as a drive that is not plugged in, keeps its
    images; `imgsim remove` forgets them.
    """
    options: Options = ctx.obj
    with options.open() as collection:
        report = collection.prune(dry_run=dry_run)
    if dry_run and not as_json:
        for path in report.paths:
            print(printable(path))
    _print_report("forgotten", report, options, dry_run=dry_run, as_json=as_json)
    for folder in report.missing:
        say(f"kept: the images of {folder}, which is missing or empty")


def remove(
    ctx: typer.Context,
    paths: Annotated[list[str], typer.Argument(metavar="PATHS", help="Files, and folders.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask, however many.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Forget the images at and under PATHS; the files stay as they are.

    More than 1,000 are forgotten only after a yes, on a terminal or as --yes. Exits with 21 if
    nothing is stored at or under one of the paths.
    """
    options: Options = ctx.obj
    if "" in paths:
        raise typer.BadParameter("a path is empty")
    with options.open() as collection:
        images = 0 if dry_run or yes else collection.remove(paths, dry_run=True).images
        if images > _MANY and not agreed(f"forget {images:,} images?"):
            raise typer.BadParameter(f"{images:,} images would be forgotten; say so with --yes")
        report = collection.remove(paths, dry_run=dry_run)
    _print_report("forgotten", report, options, dry_run=dry_run, as_json=as_json)
    for path in report.paths:
        say(f"imgsim: error: {path}: nothing is stored at or under it")
    if report.paths:
        raise typer.Exit(ImageUnavailable.exit_code)


def relocate(
    ctx: typer.Context,
    old: Annotated[str, typer.Argument(help="Where the folder, or file, was.")],
    new: Annotated[str, typer.Argument(help="Where it is now.")],
    force: Annotated[
        bool, typer.Option("--force", help="Even if most of the files are not at NEW.")
    ] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Note that a folder was moved from OLD to NEW; embeddings and ids stay.

    Exits with 21, and changes nothing, if nothing is stored at or under OLD, or if most of the
    files are not at NEW.
    """
    options: Options = ctx.obj
    with options.open() as collection:
        try:
            report = collection.relocate(old, new, dry_run=dry_run, force=force)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
    _print_report("relocated", report, options, dry_run=dry_run, as_json=as_json)
    if report.paths:
        say(f"{len(report.paths):,} of them are not there, first {report.paths[0]}")
    if not report.images + report.refused:
        say(f"imgsim: error: {old}: nothing is stored at or under it")
        raise typer.Exit(ImageUnavailable.exit_code)


def compact(ctx: typer.Context, dry_run: DryRun = False, as_json: Json = False) -> None:
    """Merge small segments, and drop embeddings of removed images and by previous encoders.

    After that `imgsim encoder use` cannot go back. All but that `imgsim ingest` does by itself when
    it pays. Queries go on meanwhile.
    """
    options: Options = ctx.obj
    with options.open() as collection:
        report = collection.compact(dry_run=dry_run)
    if as_json:
        print_json(asdict(report) | {"dry_run": dry_run})
    would = "would be " if dry_run else ""
    options.note(
        f"segments before: {report.before:,}, after: {report.after:,}; "
        f"embeddings {would}dropped: {report.dropped:,}"
    )


def check(
    ctx: typer.Context,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read the image files too: is their content the same?")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Encode again what is damaged, or forget it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Verify every file of the collection.

    Prints what is missing or altered, and exits with 14 if anything is, or is left after --repair.
    Image files that were altered without a trace in size and time are stored anew by `imgsim ingest
    --rehash`.
    """
    options: Options = ctx.obj
    report, mended = None, options.mend() if repair else ""
    if mended:
        say(mended)
    with options.open() as collection:
        damages = collection.check(deep=deep)
        if not as_json:
            _print_damages(damages)
        if repair:
            report = collection.repair()
            _say_repair(report, options)
            damages = collection.check(deep=deep)
            if damages and not as_json:
                say("what is still damaged:")
                _print_damages(damages)
    if as_json:
        found = [asdict(damage) for damage in damages]
        print_json(
            {"damages": found, "catalog": mended, "repair": asdict(report) if report else None}
        )
    if damages:
        raise typer.Exit(CollectionDamaged.exit_code)
    options.note("every file is as the catalog says")


def _say_repair(report: RepairReport, options: Options) -> None:
    for path in report.forgotten:
        say(f"forgotten: {path}")
    if report.kept:
        say(
            f"files that cannot be reached: {len(report.kept):,}, first "
            f"{report.kept[0]}; repair again when they can"
        )
    options.note(
        f"encoded again: {report.encoded:,} images; forgotten: {len(report.forgotten):,}; "
        f"kept damaged: {len(report.kept):,}; bounds made anew: {report.bounds:,}"
    )
    if report.dropped:
        options.note(f"dropped: {report.dropped:,} embeddings by encoders that are not in use")


def _print_damages(damages: Sequence[Damage]) -> None:
    for damage in damages:
        print(printable(f"{damage.path}: expected {damage.expected}, found {damage.found}"))


def _print_report(
    done: str, report: UpkeepReport, options: Options, *, dry_run: bool, as_json: bool
) -> None:
    if as_json:
        print_json(asdict(report) | {"dry_run": dry_run})
    would = "would be " if dry_run else ""
    options.note(f"{would}{done}: {report.images:,} images, {report.refused:,} refused files")
