"""The command line: its options before the command, its commands, and errors as exit codes."""

import errno
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from imgsim import __version__
from imgsim.cli import encoders, ingest, maintain, search, train
from imgsim.cli.console import prepare_streams, say
from imgsim.cli.options import Options
from imgsim.errors import ImgsimError
from imgsim.text import printable

_HELP = """Find similar images in your own pictures, exactly.

Train an encoder on your images, ingest them, and ask for the nearest neighbours of any image.

Exit codes: 0 success, 1 other error, 2 wrong arguments, 10 unusable collection, 11 no collection,
12 collection in use by another writer, 13 collection of a newer imgsim, 14 damaged collection,
20 unreadable image, 21 no such image, 22 not an image, 30 unusable encoder, 31 no encoder yet,
32 wrong encoder, 33 training diverged, 40 output or embeddings cannot be written,
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


def main() -> None:
    """Run the command line."""
    warnings.filterwarnings("ignore", module="PIL")  # they name no file and need no action
    _keep_caches_together()
    app(prog_name="imgsim")


def _keep_caches_together() -> None:
    """Let libraries write what they keep into imgsim's own cache, not all over the home folder."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "imgsim"
    for variable, folder in (("KERAS_HOME", "keras"), ("MPLCONFIGDIR", "matplotlib")):
        os.environ.setdefault(variable, str(home / folder))


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
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say what is decided, and how long it takes.")
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
    if verbose:
        _show_log()


def _show_log() -> None:
    """Write the library's log to stderr, with the milliseconds since the start."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(relativeCreated)7d ms  %(name)s: %(message)s"))
    log = logging.getLogger("imgsim")
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)


app.add_typer(search.export_app, name="export", help="Write neighbours, embeddings or an index.")
app.add_typer(encoders.encoder_app, name="encoder", help="Import, list and choose encoders.")
for _command in (
    train.train,
    ingest.ingest,
    search.query,
    ingest.info,
    train.evaluate,
    train.reencode,
    maintain.prune,
    maintain.remove,
    maintain.relocate,
    maintain.compact,
    maintain.check,
):
    app.command()(_command)
