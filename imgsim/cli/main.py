"""The command line: its options before the command, its commands, and errors as exit codes."""

import copy
import errno
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from imgsim import __version__
from imgsim.cli import curate, duplicates, encoders, ingest, maintain, restore, search, serve, train
from imgsim.cli import map as curation_map
from imgsim.cli.console import prepare_streams, say, show_warnings
from imgsim.cli.options import Options
from imgsim.errors import ImgsimError
from imgsim.files import cache_folder
from imgsim.options import Device
from imgsim.text import printable

_HELP = """Find similar images in your own pictures, exactly.

Train an encoder on your images, ingest them, and ask for the nearest neighbours of any image. -c,
--device, -q, -v and --debug may also follow the name of a command.

Exit codes: 0 success, 1 other error, 2 wrong arguments, 10 unusable collection, 11 no collection,
12 collection in use by another writer, 13 collection of a newer imgsim, 14 damaged collection,
20 unreadable image, 21 no such image, 22 not an image, 30 unusable encoder, 31 no encoder yet,
32 wrong encoder, 33 training diverged, 40 output or embeddings cannot be written,
50 labels that do not fit, 51 too few pictures to tell how near duplicates are, 60 no such cluster,
or no answer from it, 130 interrupted.
"""


_ANYWHERE = {"collection", "device", "cluster", "quiet", "verbose", "debug"}


class _Boundary(TyperGroup):
    """Turns the errors of the library into one line and an exit code.

    Its options may also follow the name of a command, as people type them.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401 - as its base class
        super().__init__(*arguments, **named)
        for command in _below(self):
            own = {word for each in command.params for word in each.opts}
            command.params += [
                _repeated(each)
                for each in self.params
                if each.name in _ANYWHERE and own.isdisjoint(each.opts)
            ]

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - the signature of its base class
        try:
            return super().invoke(ctx)
        except ImgsimError as error:
            if ctx.obj.debug:
                raise
            say(f"imgsim: error: {error}")
            raise typer.Exit(error.exit_code) from error
        except typer.BadParameter as error:
            error.message = printable(_plainly(error.message))
            raise
        except OSError as error:
            if ctx.obj.debug or error.errno == errno.EPIPE:
                raise
            where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
            say(f"imgsim: error: {where}{error.strerror or error}")
            raise typer.Exit(ImgsimError.exit_code) from error


def _plainly(message: str) -> str:
    """Return what is wrong with an argument in words for a person; typer has it from Pydantic."""
    message = re.sub(r"^Value error, |, unable to parse .*", "", message)
    message = message.replace("Input should be greater than or equal to", "must be at least")
    message = message.replace("Input should be less than or equal to", "must be at most")
    return message.replace("Input should be", "must be").replace("integer", "whole number")


def _below(group: TyperGroup) -> Iterator[Any]:
    """Yield the commands and the groups in a group, and those in these."""
    for command in group.commands.values():
        yield command
        if isinstance(command, TyperGroup):
            yield from _below(command)


def _repeated(option: Any) -> Any:  # noqa: ANN401 - typer does not export the types of its parameters
    """Return an option of the group for a command in it, where it counts if it is given."""
    again = copy.copy(option)
    again.default, again.envvar, again.hidden, again.expose_value = None, None, True, False
    again.callback = _take
    return again


def _take(ctx: Any, option: Any, value: Any) -> None:  # noqa: ANN401 - as above
    if value:
        ctx.obj.take(option.name, value)


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
    home = cache_folder()
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
    device: Annotated[
        Device,
        typer.Option(
            envvar="IMGSIM_DEVICE",
            help="What computes. auto: the CPU makes embeddings, and a GPU trains if there is one. "
            "Embeddings by cuda have other last bits; ingest and query with the same.",
        ),
    ] = "auto",
    catalog: Annotated[
        str,
        typer.Option(
            metavar="postgresql://HOST/DATABASE",
            help="Where a new collection keeps its catalog.",
            show_default="a file in its folder",
        ),
    ] = "",
    storage: Annotated[
        str,
        typer.Option(
            metavar="s3://BUCKET/NAME",
            help="Where a new collection keeps its segments; its folder has copies.",
            show_default="its folder alone",
        ),
    ] = "",
    cluster: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Search and ingest with the machines of a Ray cluster: its head's address, auto "
            "for the one that this machine is in, or local for one of this machine.",
            show_default="this machine alone",
        ),
    ] = "",
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
    prepare_streams()
    show_warnings("imgsim.device")
    ctx.obj = Options(collection, quiet, device, catalog, storage, cluster)
    for name, wanted in (("verbose", verbose), ("debug", debug)):
        if wanted:
            ctx.obj.take(name, value=True)


app.add_typer(search.export_app, name="export", help="Write neighbours, embeddings or an index.")
app.add_typer(encoders.encoder_app, name="encoder", help="Import, list and choose encoders.")
app.add_typer(duplicates.duplicates_app, name="duplicates")
for _command in (
    train.train,
    ingest.ingest,
    search.query,
    duplicates.leaks,
    ingest.info,
    train.evaluate,
    serve.serve,
    train.reencode,
    curate.outliers,
    curate.mislabelled,
    curate.sample,
    curate.clusters,
    maintain.prune,
    maintain.remove,
    maintain.relocate,
    maintain.compact,
    maintain.check,
    restore.restore,
):
    app.command()(_command)
app.command("map")(curation_map.map_images)
