"""The commands that find neighbours: query, export."""

import math
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from imgsim.cli.answers import QueryFormat, RowFormat, print_results, print_rows
from imgsim.cli.console import progress_bar, say, say_stats
from imgsim.cli.options import (
    Distinct,
    K,
    MaxPixels,
    NoSelf,
    NotUnder,
    Options,
    Output,
    Radius,
    Under,
    expanded,
    note_figure,
    requested,
    told_left_out,
)
from imgsim.cluster_options import MilvusSettings
from imgsim.errors import ImageError
from imgsim.options import MAX_PIXELS, STORED_RULES, Damaged, SearchFilter
from imgsim.output.listing import neighbour_rows
from imgsim.output.target import FIGURES, PAGES, check_target
from imgsim.results import SearchResults

export_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


def query(
    ctx: typer.Context,
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGES", help="Images, and folders of them; - reads paths."),
    ],
    collections: Annotated[
        list[Path] | None,
        typer.Option(
            "--collection",
            "-c",
            metavar="DIR",
            help="A collection's folder; several with the same encoder are searched as one.",
            show_default="that of imgsim -c",
        ),
    ] = None,
    k: K = None,
    radius: Radius = None,
    under: Under = None,
    not_under: NotUnder = None,
    no_self: NoSelf = False,
    distinct: Distinct = False,
    max_pixels: MaxPixels = MAX_PIXELS,
    damaged: Annotated[
        Damaged, typer.Option(help="What to do with JPEGs and PNGs that decode only in part.")
    ] = "refuse",
    form: Annotated[
        QueryFormat, typer.Option("--format", help="How to print the matches.")
    ] = "table",
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format jsonl.")] = False,
    milvus: Annotated[
        str,
        typer.Option(
            metavar="URI",
            help="Let a Milvus server name what may be near; see `imgsim export milvus`.",
            show_default="none",
        ),
    ] = "",
    milvus_name: Annotated[
        str, typer.Option(metavar="NAME", help="What its collections there begin with.")
    ] = MilvusSettings.name,
    figure: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw the queries and matches: .png, .pdf or .svg."),
    ] = None,
    page: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page with them: .html.")
    ] = None,
    null: Annotated[
        bool, typer.Option("--null", "-0", help="NUL ends a path: on stdin and in --format paths.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say how many rows each step of the search left.")
    ] = False,
) -> None:
    """Print the nearest stored images.

    If some of the images cannot be read, the others are answered, and the exit code is the greatest
    of theirs. An answer without matches is no error; a line on stderr says why.
    """
    options: Options = ctx.obj
    if milvus and options.cluster:
        raise typer.BadParameter("name a --cluster, or --milvus")
    options.milvus = (milvus, milvus_name) if milvus else None
    for target, suffixes in ((figure, FIGURES), (page, PAGES)):
        if target is not None:
            check_target(target, suffixes)
    if as_json and form not in {"table", "jsonl"}:
        raise typer.BadParameter("--json is --format jsonl; give one of them")
    k, within = requested(k, radius, under, not_under, no_self=no_self, distinct=distinct)
    failures: list[ImageError] = []

    def fail(error: ImageError) -> None:
        failures.append(error)
        say(f"imgsim: error: {error}")

    folders = collections or [options.collection]
    paths = list(expanded(images, folders, fail, null=null))
    with options.searcher(folders, within) as searcher:
        results = searcher.search(paths, k, fail, max_pixels=max_pixels, damaged=damaged)
        searched = len(searcher)
    _note_silence(results, searched, within, options)
    if explain:
        say_stats(results.stats)
    print_results(results, "jsonl" if as_json else form, null=null, several=len(folders) > 1)
    if figure is not None:
        _draw(figure, results, options)
    if page is not None:
        _write(page, results, options)
    if failures:
        raise typer.Exit(max(error.exit_code for error in failures))


def _draw(target: Path, results: SearchResults, options: Options) -> None:
    from imgsim.output.plots import draw_matches  # noqa: PLC0415 - matplotlib takes a second

    with progress_bar("figure", quiet=options.quiet) as on_progress:
        drawing = draw_matches(target, results, on_progress, STORED_RULES)
    note_figure(target, drawing, options)


def _write(target: Path, results: SearchResults, options: Options) -> None:
    from imgsim.output.html import write_page  # noqa: PLC0415 - Pillow is not needed otherwise

    with progress_bar("page", quiet=options.quiet) as on_progress:
        left_out = write_page(target, results, on_progress, STORED_RULES)
    options.note(f"page: {target}{told_left_out(left_out)}")


def _note_silence(
    results: SearchResults, searched: int, within: SearchFilter, options: Options
) -> None:
    """Say why there are queries without matches, if there are."""
    silent = sum(not result.matches for result in results)
    if silent and searched:
        reach = "" if math.isinf(within.radius) else f" within {within.radius:g}"
        options.note(f"{silent:,} of {len(results):,} queries have no other stored image{reach}")
    elif silent and (within.under or within.not_under):
        options.note("no stored image is in the folders that --under and --not-under leave")
    elif silent:
        options.note("no image is stored yet; `imgsim ingest` stores them")


@export_app.command("neighbors", hidden=True)
@export_app.command("neighbours")
def export_neighbours(
    ctx: typer.Context,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="A file, a folder, or an address as s3://bucket/name; - is stdout.",
        ),
    ],
    k: K = None,
    radius: Radius = None,
    under: Under = None,
    not_under: NotUnder = None,
    distinct: Distinct = False,
    form: Annotated[RowFormat, typer.Option("--format", help="What -o - writes.")] = "csv",
) -> None:
    """Write for every image its nearest others, as .csv, .jsonl, .parquet or .npz.

    The file appears when it is complete; an interrupted export leaves what was there before. A name
    without a suffix is that of a folder, and an address that of a bucket. They get .parquet files
    of some 16,000 images each; the same command goes on with those that an interrupted one has
    completed. To an address, the workers of a --cluster write themselves.
    """
    options: Options = ctx.obj
    k, within = requested(k, radius, under, not_under, distinct=distinct)
    with options.open() as collection, progress_bar("export", quiet=options.quiet) as on_progress:
        if output == "-":
            lists = collection.neighbours(k, within, on_progress)
            print_rows(chain.from_iterable(map(neighbour_rows, lists)), form)
            return
        rows = collection.export_neighbours(output, k, within, on_progress)
    options.note(f"{rows:,} rows: {output}")


@export_app.command("embeddings")
def export_embeddings(ctx: typer.Context, output: Output) -> None:
    """Write ids, paths and embeddings, as .npz or .parquet, or as .pkl of indices and features."""
    options: Options = ctx.obj
    with options.open() as collection:
        rows = collection.export_embeddings(output)
    options.note(f"{rows:,} rows: {output}")


@export_app.command("milvus")
def export_milvus(
    ctx: typer.Context,
    uri: Annotated[str, typer.Argument(metavar="URI", help="As http://localhost:19530.")],
    name: Annotated[
        str, typer.Option(metavar="NAME", help="What its collections there begin with.")
    ] = MilvusSettings.name,
) -> None:
    """Let a Milvus server have ids, paths and embeddings, for `query --milvus`.

    What it had of the collection before goes when all is there. `pip install 'imgsim[milvus]'`.
    """
    options: Options = ctx.obj
    try:
        server = MilvusSettings(uri, name)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    with options.open() as collection, progress_bar("milvus", quiet=options.quiet) as on_progress:
        rows = collection.export_milvus(server, on_progress)
    options.note(f"{rows:,} images: {uri}")


@export_app.command("index")
def export_index(ctx: typer.Context, output: Output) -> None:
    """Write one FAISS IndexIDMap2 over an IndexFlatL2, with image ids, as .faiss."""
    options: Options = ctx.obj
    with options.open() as collection:
        rows = collection.export_index(output)
    options.note(f"{rows:,} embeddings: {output}")
