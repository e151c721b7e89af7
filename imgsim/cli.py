"""The command line: parse, call, print. Data goes to stdout, everything else to stderr."""

import errno
import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from imgsim import __version__, encoder_app, maintenance, modelling
from imgsim.arguments import (
    DryRun,
    Json,
    K,
    NotUnder,
    Options,
    Output,
    Radius,
    Under,
    expanded,
    listed,
    wanted,
)
from imgsim.errors import ImageError, ImgsimError
from imgsim.files import printable
from imgsim.settings import IngestSettings
from imgsim.terminal import (
    QueryFormat,
    interruptible,
    prepare_streams,
    print_refused,
    print_results,
    progress_bar,
    say,
    say_stats,
)
from imgsim.types import IngestReport

_DRAWN = 20  # rows of a figure; a page has room for all

_HELP = """Find similar images in your own pictures, exactly.

Train an encoder on your images, ingest them, and ask for the nearest neighbours of any image.

Exit codes: 0 success, 1 other error, 2 wrong arguments, 10 unusable collection, 11 no collection,
12 collection in use by another writer, 13 collection of a newer imgsim, 14 damaged collection,
20 unreadable image, 21 no such image, 22 not an image, 30 unusable encoder, 31 no encoder yet,
32 wrong encoder, 33 training diverged, 40 output or vectors cannot be written,
50 labels that do not fit, 130 interrupted.
"""


class _Boundary(TyperGroup):
    """Turns the errors of the library into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - the signature of its base class
        try:
            return super().invoke(ctx)
        except ImgsimError as error:
            if ctx.params["debug"]:
                raise
            say(f"imgsim: error: {printable(str(error))}")
            raise typer.Exit(error.exit_code) from error
        except OSError as error:
            if ctx.params["debug"] or error.errno == errno.EPIPE:
                raise
            say(f"imgsim: error: {error.strerror or error}")
            raise typer.Exit(ImgsimError.exit_code) from error


app = typer.Typer(
    name="imgsim",
    cls=_Boundary,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
export_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(export_app, name="export", help="Write neighbours, vectors or an index.")
app.add_typer(encoder_app.encoder_app, name="encoder", help="Import, list and choose encoders.")


def main() -> None:
    """Run the command line."""
    warnings.filterwarnings("ignore", module="PIL")  # they name no file and need no action
    app(prog_name="imgsim")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"imgsim {__version__}")
        raise typer.Exit


@app.callback(help=_HELP)
def _options(
    ctx: typer.Context,
    collection: Annotated[
        Path,
        typer.Option(
            "--collection",
            "-c",
            envvar="IMGSIM_COLLECTION",
            metavar="DIR",
            help="The collection's folder.",
        ),
    ] = Path(".imgsim"),
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Errors only: no progress, no summaries.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks and what libraries print.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    ctx.obj = Options(collection, quiet)
    prepare_streams(mute_libraries=not debug)


app.command()(modelling.train)


@app.command()
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
            settings = IngestSettings(rehash, retry_refused)
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
        print(json.dumps({"seen": report.seen, **asdict(report), "dry_run": dry_run}))
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
    )
    if report.unmet:
        options.note(
            f"stored there, and not met: {report.unmet:,}; `imgsim prune` forgets what is gone"
        )


@app.command()
def query(
    ctx: typer.Context,
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGES", help="Image files; - reads paths on stdin.")
    ],
    k: K = None,
    radius: Radius = None,
    under: Under = None,
    not_under: NotUnder = None,
    form: Annotated[
        QueryFormat, typer.Option("--format", help="How to print the matches.")
    ] = "table",
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw matches of 20 queries as a grid.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option("--html", metavar="FILE.html", help="Write a page with them.")
    ] = None,
    null: Annotated[
        bool, typer.Option("--null", "-0", help="NUL ends a path: on stdin and in --format paths.")
    ] = False,
    explain: Annotated[
        bool, typer.Option(help="Say on stderr how many rows each step of the search left.")
    ] = False,
) -> None:
    """Print the nearest stored images."""
    options: Options = ctx.obj
    k, within = wanted(k, radius, under, not_under)
    failures: list[ImageError] = []

    def fail(error: ImageError) -> None:
        failures.append(error)
        say(f"imgsim: error: {printable(str(error))}")

    with options.open() as collection:
        paths = [path for name in images for path in expanded(name, null=null)]
        results = collection.query(
            paths, k, fail, within=within, on_stats=say_stats if explain else lambda _: None
        )
    print_results(results, form, null=null)
    if figure is not None:
        from imgsim.figures import draw_matches  # noqa: PLC0415 - matplotlib takes a second

        draw_matches(figure, results[:_DRAWN])
        part = f" (the first {_DRAWN} of {len(results)})" if len(results) > _DRAWN else ""
        options.note(f"figure{part}: {figure}")
    if page is not None:
        from imgsim.report import write_page  # noqa: PLC0415 - Pillow is not needed otherwise

        write_page(page, results)
        options.note(f"page: {page}")
    if failures:
        raise typer.Exit(failures[-1].exit_code)


@export_app.command("neighbours")
def export_neighbours(
    ctx: typer.Context,
    output: Output,
    k: K = None,
    radius: Radius = None,
    under: Under = None,
    not_under: NotUnder = None,
) -> None:
    """Write for every image its nearest others, as .csv, .jsonl, .parquet or .npz.

    The file appears when it is complete; an interrupted export leaves what was there before.
    """
    options: Options = ctx.obj
    k, within = wanted(k, radius, under, not_under)
    with options.open() as collection, progress_bar("export", quiet=options.quiet) as on_progress:
        rows = collection.export_neighbours(output, k, within, on_progress)
    options.note(f"{rows:,} rows: {output}")


@export_app.command("features")
def export_features(ctx: typer.Context, output: Output) -> None:
    """Write ids, paths and latents, as .npz or .parquet, or indices and features as .pkl."""
    options: Options = ctx.obj
    with options.open() as collection:
        rows = collection.export_features(output)
    options.note(f"{rows:,} rows: {output}")


@export_app.command("index")
def export_index(ctx: typer.Context, output: Output) -> None:
    """Write one FAISS IndexIDMap2 over an IndexFlatL2, with image ids, as .faiss."""
    options: Options = ctx.obj
    with options.open() as collection:
        rows = collection.export_index(output)
    options.note(f"{rows:,} vectors: {output}")


@app.command()
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
        print(json.dumps(facts))
        return
    for name, value in facts.items():
        text = "none" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
        print(f"{name.replace('_', ' '):<13} {printable(text)}")


for command in (
    modelling.evaluate,
    modelling.reencode,
    maintenance.prune,
    maintenance.remove,
    maintenance.relocate,
    maintenance.compact,
    maintenance.check,
):
    app.command()(command)
