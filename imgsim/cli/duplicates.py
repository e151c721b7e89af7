"""The commands about images that are the same picture: duplicates, leaks."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from imgsim.cli.acting import act
from imgsim.cli.answers import TableFormat, print_json, print_rows
from imgsim.cli.console import progress_bar, say
from imgsim.cli.options import Json, NotUnder, Options, Page, Under, requested, told_radius
from imgsim.cli.pages import check_page, write_pages
from imgsim.curation_options import FALSE_ALARMS, DuplicateSettings, Keep
from imgsim.errors import ImageError
from imgsim.findings import DuplicateReport, LeakReport, RadiusCurves
from imgsim.options import Stored
from imgsim.output import curated
from imgsim.output.target import FIGURES, check_target
from imgsim.text import printable

if TYPE_CHECKING:
    from imgsim.collection import Collection
    from imgsim.curation.curation import Curation

DuplicateFormat = Literal["table", "jsonl", "csv", "paths"]
"""How `imgsim duplicates` prints its answer."""

duplicates_app = typer.Typer(rich_markup_mode=None)

_Radius = Annotated[
    float | None,
    typer.Option(metavar="DISTANCE", help="How near duplicates are.", show_default="learnt"),
]
_FalseAlarms = Annotated[
    float,
    typer.Option(
        metavar="SHARE", help="Learn for at most so many images with an unrelated one that passes."
    ),
]
_Learn = Annotated[bool, typer.Option("--learn", help="Learn the distance anew.")]
_Figure = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Learn anew, and draw the curves: .png, .pdf or .svg."),
]
_Mirror = Annotated[bool, typer.Option("--mirror", help="Also find those that are mirrored.")]
_Rotate = Annotated[
    bool, typer.Option("--rotate", help="Also find those that are turned by quarters.")
]
_ByDistance = Annotated[
    bool, typer.Option("--by-distance", help="Go by distance alone, whatever the pixels say.")
]
_AsJson = Annotated[bool, typer.Option("--json", help="The same as --format jsonl.")]


@duplicates_app.callback(invoke_without_command=True)
def duplicates(
    ctx: typer.Context,
    radius: _Radius = None,
    false_alarms: _FalseAlarms = FALSE_ALARMS,
    learn: _Learn = False,
    figure: _Figure = None,
    keep: Annotated[Keep, typer.Option(help="Which image of a group to keep.")] = "largest",
    first_under: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIR", help="Keep the first image in this folder; may be repeated, by rank."
        ),
    ] = None,
    across: Annotated[
        bool, typer.Option("--across-folders", help="Leave out pairs in one folder.")
    ] = False,
    inside: Annotated[
        bool, typer.Option("--within-folder", help="Leave out pairs of different folders.")
    ] = False,
    mirror: _Mirror = False,
    rotate: _Rotate = False,
    by_distance: _ByDistance = False,
    under: Under = None,
    not_under: NotUnder = None,
    form: Annotated[
        DuplicateFormat, typer.Option("--format", help="How to print; paths are those not kept.")
    ] = "table",
    as_json: _AsJson = False,
    null: Annotated[
        bool, typer.Option("--print0", help="Print the paths that are not kept, each with a NUL.")
    ] = False,
    page: Page = None,
    move_to: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Move those that are not kept into this folder."),
    ] = None,
    hardlink: Annotated[
        bool, typer.Option("--hardlink", help="Replace exact copies by hard links.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do it; else only say what would be done.")
    ] = False,
) -> None:
    """Print groups of stored images that are the same picture.

    Images are compared by their pixels that are within a distance. It is learnt from your own
    pictures, and remembered. The first one of each group is kept. Nothing happens to the others
    but by --move-to and --hardlink, with --yes; `imgsim restore` undoes that.
    """
    if ctx.invoked_subcommand is not None:
        return
    options: Options = ctx.obj
    _check_targets(figure, page)
    if (as_json and form not in {"table", "jsonl"}) or (null and (as_json or form != "table")):
        raise typer.BadParameter("--json is --format jsonl, --print0 is for paths; give one")
    if move_to is not None and hardlink:
        raise typer.BadParameter("give one of --move-to and --hardlink")
    if across and inside:
        raise typer.BadParameter("give one of --across-folders and --within-folder")
    _, within = requested(None, None, under, not_under)
    with options.open() as collection:
        try:
            settings = DuplicateSettings(
                radius=radius,
                false_alarms=false_alarms,
                keep="first-under" if first_under else keep,
                first_under=[*map(_home, first_under or ())],
                folders="across" if across else "within" if inside else "any",
                mirror=mirror,
                rotate=rotate,
                by_distance=by_distance,
                within=within,
            )
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        settings = _with_radius(collection, settings, options, learn=learn, figure=figure)
        with progress_bar("duplicates", quiet=options.quiet) as on_progress:
            report = collection.curation.duplicates(settings, on_progress)
        chosen: DuplicateFormat = "paths" if null else "jsonl" if as_json else form
        _print_duplicates(report, chosen, "\0" if null else "\n")
        _note_duplicates(report, options)
        write_pages(page, "Duplicates", curated.duplicate_sections(report.groups), options)
        if move_to is not None or hardlink:
            act(collection.curation, _pairs(report, hardlink), move_to, options, yes=yes)


def _check_targets(figure: Path | None, page: Path | None) -> None:
    check_page(page)
    if figure is not None:
        check_target(figure, FIGURES)


def _pairs(report: DuplicateReport, exact: bool) -> list[tuple[Stored, Stored]]:
    """Return the images that are not kept, or only exact copies, each with that which is."""
    return [
        (each.id, group.kept.id)
        for group in report.groups
        for each in group.spare
        if each.kind == "exact" or not exact
    ]


def _home(path: str) -> str:
    return str(Path(path).expanduser()) if path else path


def _with_radius(
    collection: "Collection",
    settings: DuplicateSettings,
    options: Options,
    *,
    learn: bool,
    figure: Path | None,
) -> DuplicateSettings:
    """Return settings with a radius, which is learnt if it has to be, and say what it is."""
    if settings.radius is not None and not (learn or figure):
        return settings
    curation, share = collection.curation, settings.false_alarms
    known = None if learn or figure else curation.radius(share)
    if known is not None:
        options.note(f"distance of duplicates: {told_radius(known)}")
        return replace(settings, radius=known.radius)
    with progress_bar("learning", quiet=options.quiet) as on_progress:
        curves = curation.learn_radius(share, on_progress)
    _note_curves(curves, options)
    if figure is not None:
        from imgsim.output.plots import draw_radius  # noqa: PLC0415 - matplotlib takes a second

        draw_radius(figure, curves)
        options.note(f"figure: {figure}")
    radius = curves.learnt.radius if settings.radius is None else settings.radius
    return replace(settings, radius=radius)


def _note_curves(curves: RadiusCurves, options: Options) -> None:
    shares = ", ".join(f"{kind} {share:.0%}" for kind, share in curves.passed.items())
    options.note(f"distance of duplicates: {told_radius(curves.learnt)} ({shares}); {curves.limit}")
    if not curves.remembered:
        say("imgsim: warning: the distance is not remembered: another process writes there")


def _print_duplicates(report: DuplicateReport, form: DuplicateFormat, end: str) -> None:
    if form == "paths":
        for group in report.groups:
            for member in group.spare:
                print(member.path, end=end)
        sys.stdout.flush()
        return
    if form != "table":
        print_rows(curated.duplicate_rows(report.groups), form, curated.DUPLICATE_COLUMNS)
        return
    for number, group in enumerate(report.groups, start=1):
        print(f"{chr(10) if number > 1 else ''}group {number}")
        for each in group.members:
            when = datetime.fromtimestamp(each.modified).strftime("%Y-%m-%d %H:%M")
            size = f"{each.width}x{each.height}"
            print(
                f"{each.kind:<9}  {each.distance:>8.4g}  {size:>11}  {each.bytes:>12,}  "
                f"{each.format:<5}  {when}  {printable(each.path)}"
            )


def _note_duplicates(report: DuplicateReport, options: Options) -> None:
    spare = [member for group in report.groups for member in group.spare]
    options.note(
        f"{len(report.groups):,} groups among {report.images:,} images; {len(spare):,} images that "
        f"are not kept, of {sum(member.bytes for member in spare):,} bytes"
    )
    if report.left_alone:
        options.note(
            f"left alone: {len(report.left_alone):,} images whose files are gone or changed, first "
            f"{report.left_alone[0]}; `imgsim ingest` and `imgsim prune` take note of that"
        )


_Pair = Annotated[str, typer.Argument(metavar="IMAGE", help="A stored image.")]


@duplicates_app.command()
def ignore(ctx: typer.Context, one: _Pair, other: _Pair) -> None:
    """Remember that two images are no duplicates; it goes by their content."""
    with _judging(ctx.obj) as curation:
        is_new = curation.ignore(one, other)
    ctx.obj.note("remembered" if is_new else "that was known already")


@duplicates_app.command()
def unignore(ctx: typer.Context, one: _Pair, other: _Pair) -> None:
    """Forget that two images are no duplicates."""
    with _judging(ctx.obj) as curation:
        was_known = curation.unignore(one, other)
    ctx.obj.note("forgotten" if was_known else "nothing was known of the two")


@contextmanager
def _judging(options: Options) -> "Iterator[Curation]":
    with options.open() as collection:
        try:
            yield collection.curation
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error


@duplicates_app.command()
def ignored(ctx: typer.Context, as_json: Json = False) -> None:
    """List the pairs that are no duplicates; a content that is not stored is a sha256."""
    options: Options = ctx.obj
    with options.open() as collection:
        pairs = collection.curation.ignored()
    for pair in pairs:
        if as_json:
            print_json(asdict(pair))
            continue
        first, second = (
            paths[0] if paths else digits
            for paths, digits in (
                (pair.first_paths, pair.first),
                (pair.second_paths, pair.second),
            )
        )
        print(f"{printable(first)}\t{printable(second)}")


def leaks(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(metavar="A", help="A folder of stored images.")],
    target: Annotated[str, typer.Argument(metavar="B", help="A folder of images, stored or not.")],
    radius: _Radius = None,
    false_alarms: _FalseAlarms = FALSE_ALARMS,
    learn: _Learn = False,
    figure: _Figure = None,
    mirror: _Mirror = False,
    rotate: _Rotate = False,
    by_distance: _ByDistance = False,
    form: Annotated[TableFormat, typer.Option("--format", help="How to print them.")] = "table",
    as_json: _AsJson = False,
    page: Page = None,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 1 if there are some.")
    ] = False,
) -> None:
    """Print which images of B are the same picture as one of A.

    With pictures to test in B and pictures to train with in A, these have leaked. The distance is
    that of `imgsim duplicates`.
    """
    options: Options = ctx.obj
    _check_targets(figure, page)
    if as_json and form == "csv":
        raise typer.BadParameter("--json is --format jsonl; give one of them")
    with options.open() as collection:
        try:
            settings = DuplicateSettings(
                radius=radius,
                false_alarms=false_alarms,
                mirror=mirror,
                rotate=rotate,
                by_distance=by_distance,
            )
            settings = _with_radius(collection, settings, options, learn=learn, figure=figure)
            with progress_bar("leaks", quiet=options.quiet) as on_progress:
                report = collection.curation.leaks(source, target, settings, on_progress)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
    _print_leaks(report, "jsonl" if as_json else form)
    options.note(f"{len(report.leaks):,} of {report.images:,} images of {target} are in {source}")
    for image in report.refused:
        say(f"imgsim: error: {image}: cannot be read")
    write_pages(page, "Leaks", curated.leak_sections(report.leaks), options)
    if report.refused:
        raise typer.Exit(ImageError.exit_code)
    if exit_code and report.leaks:
        raise typer.Exit(1)


def _print_leaks(report: LeakReport, form: TableFormat) -> None:
    if form == "table":
        for leak in report.leaks:
            both = f"{printable(leak.path)}  {printable(leak.source)}"
            print(f"{leak.kind:<5}  {leak.distance:>8.4g}  {both}")
        return
    print_rows(curated.leak_rows(report.leaks), form, curated.LEAK_COLUMNS)
