"""The command that serves a collection to a browser: serve."""

from pathlib import Path
from typing import Annotated

import typer

from imgsim.cli.console import say
from imgsim.cli.options import MaxPixels, Options
from imgsim.options import MAX_PIXELS


def serve(
    ctx: typer.Context,
    host: Annotated[
        str, typer.Option(help="Where to listen; other machines reach what is not loopback.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="At which port; 0 for any.")] = 8765,
    token: Annotated[
        str,
        typer.Option(envvar="IMGSIM_TOKEN", show_default="drawn", help="What requests must know."),
    ] = "",
    unix_socket: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Listen at a socket of yours instead.")
    ] = None,
    allow_changes: Annotated[
        bool, typer.Option("--allow-changes", help="Let the pages judge and move duplicates.")
    ] = False,
    move_to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where duplicates may be moved to.")
    ] = None,
    labelled: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Images to evaluate, in folders by label.")
    ] = None,
    replicas: Annotated[
        int, typer.Option(min=1, help="Workers of a --cluster that have the same embeddings.")
    ] = 1,
    max_pixels: MaxPixels = MAX_PIXELS,
) -> None:
    """Look at the collection and search it in a browser, and over REST.

    The address that is printed has a token, without which nobody is answered. Nothing changes the
    collection or your files, but for thumbnails and the distance of duplicates, which are kept in
    the collection, and what --allow-changes allows.
    """
    options: Options = ctx.obj
    if replicas > 1 and not options.cluster:
        raise typer.BadParameter("--replicas are workers of a --cluster")
    options.replicas = replicas
    try:
        from imgsim.server.run import serve as run  # noqa: PLC0415 - few need it
        from imgsim.server.settings import ServerSettings  # noqa: PLC0415 - as above
    except ModuleNotFoundError as error:
        raise typer.BadParameter(f"this needs {error.name}: pip install 'imgsim[serve]'") from error
    try:
        settings = ServerSettings(
            host,
            port,
            token,
            max_pixels=max_pixels,
            changes=allow_changes,
            move_to=str(move_to or ""),
            labelled=str(labelled or ""),
            unix_socket=str(unix_socket or ""),
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    run(
        options.collection,
        settings,
        lambda address: say(f"Ctrl-C ends it; open {address}"),
        options.device,
        options.cluster_settings,
    )
