"""The commands about the encoders of a collection: import, list, show, use, remove."""

from dataclasses import asdict
from typing import Annotated

import typer

from imgsim.cli.answers import print_json
from imgsim.cli.console import say
from imgsim.cli.options import Json, Name, Options, offer_reencode
from imgsim.options import Channels, EncoderSource, Layout, Scale
from imgsim.text import printable

EncoderName = Annotated[str, typer.Argument(metavar="NAME", help="An encoder's name.")]

encoder_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@encoder_app.command("import")
def import_encoder(
    ctx: typer.Context,
    file: Annotated[
        str | None, typer.Argument(metavar="FILE.onnx", help="An ONNX model of images.")
    ] = None,
    keras: Annotated[
        str | None, typer.Option(metavar="FILE", help="A Keras model instead; needs --layer.")
    ] = None,
    layer: Annotated[
        str | None, typer.Option(metavar="NAME", help="The layer of --keras that is the embedding.")
    ] = None,
    name: Name = None,
    image_size: Annotated[
        int | None,
        typer.Option(min=1, help="Height and width of images.", show_default="the model's"),
    ] = None,
    layout: Annotated[
        Layout | None, typer.Option(help="Order of axes.", show_default="the model's")
    ] = None,
    scale: Annotated[
        Scale | None,
        typer.Option(
            help="Range of pixels.", show_default="0..1; 0..255 for uint8 inputs and Keras"
        ),
    ] = None,
    channels: Annotated[Channels, typer.Option(help="Order of channels.")] = "rgb",
    mean: Annotated[
        str,
        typer.Option(metavar="A,B,C", help="Subtracted after scaling, in the order of channels."),
    ] = "0,0,0",
    std: Annotated[str, typer.Option(metavar="A,B,C", help="Divides after that.")] = "1,1,1",
    output: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which output.", show_default="the only one")
    ] = None,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Bring embeddings to unit length.")
    ] = False,
    rename: Annotated[
        bool, typer.Option("--rename", help="Call the same encoder by --name from now on.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Add an encoder made elsewhere: an ONNX model, or a layer of a Keras model.

    The values of its output for an image, whatever their shape, are the embedding. The encoder.onnx
    of another collection needs no options.
    """
    options: Options = ctx.obj
    chosen = file or keras
    if chosen is None or (file and keras) or bool(keras) != bool(layer):
        raise typer.BadParameter("name an ONNX file, or --keras FILE with --layer NAME")
    source = EncoderSource(
        file=chosen,
        name=name,
        layer=layer,
        image_size=image_size,
        layout=layout,
        scale=scale,
        channels=channels,
        mean=_triple(mean),
        std=_triple(std),
        output=output,
        normalize=normalize,
    )
    with options.making() as collection:
        report = collection.encoders.add(source, rename=rename)
    if as_json:
        print_json(asdict(report))
    for warning in report.warnings:
        say(f"imgsim: warning: {warning}")
    encoder = report.encoder
    options.note(
        f"encoder {encoder.name}: {encoder.dim:,} values an embedding: {encoder.directory}"
    )
    offer_reencode(encoder, options)


def _triple(text: str) -> tuple[float, float, float]:
    try:
        first, second, third = map(float, text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{text}: must be three numbers with commas between") from error
    return first, second, third


@encoder_app.command("list")
def list_encoders(ctx: typer.Context, as_json: Json = False) -> None:
    """Print the encoders; a star marks the one that queries use."""
    options: Options = ctx.obj
    with options.open() as collection:
        encoders = collection.encoders.list()
    if as_json:
        print_json({"encoders": [asdict(encoder) for encoder in encoders]})
        return
    width = max([4, *(len(printable(encoder.name)) for encoder in encoders)])
    print(f"  {'name':<{width}}  {'values':>7}  {'image':>9}  {'embeddings':>10}  checksum")
    for each in encoders:
        size = f"{each.preprocessing.get('height', '?')}x{each.preprocessing.get('width', '?')}"
        print(
            f"{'*' if each.active else ' '} {printable(each.name):<{width}}  {each.dim:>7,}  "
            f"{size:>9}  {each.embeddings:>10,}  {each.fingerprint[:12]}"
        )


@encoder_app.command("show")
def show_encoder(ctx: typer.Context, name: EncoderName) -> None:
    """Print facts about an encoder as JSON."""
    options: Options = ctx.obj
    with options.open() as collection:
        print_json(asdict(collection.encoders.get(name)))


@encoder_app.command("use")
def use_encoder(ctx: typer.Context, name: EncoderName) -> None:
    """Let an encoder take over that has an embedding of every image; see `imgsim reencode`."""
    options: Options = ctx.obj
    with options.open() as collection:
        report = collection.encoders.use(name)
    for warning in report.warnings:
        say(f"imgsim: warning: {warning}")
    options.note(f"the encoder is {name} now")


@encoder_app.command("remove")
def remove_encoder(ctx: typer.Context, name: EncoderName) -> None:
    """Forget an encoder that is not in use, and its embeddings; the files go with it."""
    options: Options = ctx.obj
    with options.open() as collection:
        collection.encoders.remove(name)
    options.note(f"removed: {name}")
