"""The command that draws a map of the images."""

from pathlib import Path
from typing import Annotated

import typer

from imgsim.cli.answers import TableFormat, print_rows
from imgsim.cli.console import stage_bars
from imgsim.cli.options import ImagesNotUnder, ImagesUnder, Options, requested
from imgsim.findings import MapMethod
from imgsim.output.listing import MAP_COLUMNS, map_rows
from imgsim.output.target import MAPS, check_target


def map_images(
    ctx: typer.Context,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where to write the map: .html, .png or .parquet; may be repeated.",
        ),
    ] = None,
    method: Annotated[
        MapMethod,
        typer.Option(
            help="How to lay it out: by two directions (linear, at once), or by t-SNE in few steps "
            "or in many; `pip install 'imgsim[map]'` for these."
        ),
    ] = "fast",
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV", help="Colour by a table with a column path, relative to its folder."
        ),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A column of --labels to colour by; may be repeated.",
            show_default="label",
        ),
    ] = None,
    under: ImagesUnder = None,
    not_under: ImagesNotUnder = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides what is drawn at random.")] = 0,
    form: Annotated[
        TableFormat, typer.Option("--format", help="Print facts, or the positions.")
    ] = "table",
) -> None:
    """Draw all images in a plane, where those that are alike are near each other.

    The page shows points, and pictures as one zooms in; it colours them by folder or label, finds
    paths, and shows the nearest of an image. It loads nothing but the image files.
    """
    options: Options = ctx.obj
    for target in output or ():
        check_target(target, MAPS)
    if not output and form == "table":
        raise typer.BadParameter("give -o map.html, or --format jsonl or csv")
    _, within = requested(None, None, under, not_under)
    with options.open() as collection, stage_bars(quiet=options.quiet) as on_progress:
        curation = collection.curation
        wanted = (column or ["label"]) if labels else []
        colours = {name: curation.labels(labels, name) for name in wanted if labels}
        found = curation.map(within, method, seed=seed, on_progress=on_progress)
        missing = {
            target: curation.export_map(target, found, colours, on_progress)
            for target in output or ()
        }
    if form != "table":
        print_rows(map_rows(found), form, MAP_COLUMNS)
    kept = f"; {found.kept:.0%} of their 10 nearest are near them on the map"
    options.note(f"{len(found):,} images{kept if len(found) > 1 else ''}")
    for target, count in missing.items():
        lacking = f"; {count:,} pictures are missing, whose files cannot be read" if count else ""
        options.note(f"map: {target}{lacking}")
