"""The commands about encoders: train, evaluate."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from imgsim.arguments import ImagePaths, Json, Options
from imgsim.files import printable
from imgsim.settings import EvaluationSettings, TrainingSettings
from imgsim.terminal import print_evaluation, progress_bar, say, training_display

_DEFAULTS = TrainingSettings()
_DRAWN = 20  # queries of a sheet


def train(
    ctx: typer.Context,
    images: ImagePaths,
    image_size: Annotated[
        int, typer.Option(min=16, help="Resize images to this side, a multiple of 16 pixels.")
    ] = _DEFAULTS.image_size,
    latent_channels: Annotated[
        int | None,
        typer.Option(min=1, help="Channels of the latent.", show_default="about 1,024 values"),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the images.")] = _DEFAULTS.epochs,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Images in a training step.")
    ] = _DEFAULTS.batch_size,
    learning_rate: Annotated[
        float, typer.Option(help="Learning rate of Adam.")
    ] = _DEFAULTS.learning_rate,
    validation_split: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the images held out.")
    ] = _DEFAULTS.validation_split,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Seeds the split and the weights.")
    ] = 0,
) -> None:
    """Train the encoder on images, without labels.

    Ctrl-C ends the training early and keeps the best weights so far.
    """
    options: Options = ctx.obj
    try:
        settings = TrainingSettings(
            image_size, latent_channels, epochs, batch_size, learning_rate, validation_split, seed
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    with options.open(create=True) as collection, training_display(quiet=options.quiet) as show:
        report = collection.train(images, settings, show)
    for refusal in report.refused:
        say(f"left out: {printable(refusal.path)}: {printable(refusal.reason)}")
    best = report.history[report.best_epoch - 1]
    ended = " (interrupted)" if report.interrupted else ""
    options.note(
        f"trained on {report.images:,} images for {len(report.history)} epochs{ended}: best "
        f"validation loss {best.val_loss:.5f} in epoch {report.best_epoch}, {report.dim:,} values "
        f"a latent\nONNX against Keras on {report.compared} images: greatest difference "
        f"{report.onnx_difference:.2g}\nencoder, history and reconstructions: {report.directory}"
    )


def evaluate(
    ctx: typer.Context,
    labelled: Annotated[
        str, typer.Argument(metavar="LABELLED", help="A folder with a folder for each label.")
    ],
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.csv",
            help="Take labels from a table: columns path (relative to LABELLED) and label.",
        ),
    ] = None,
    column: Annotated[
        str, typer.Option(metavar="NAME", help="The column of --labels that has the labels.")
    ] = "label",
    queries: Annotated[int, typer.Option(min=1, help="How many images ask, at most.")] = 1_000,
    seed: Annotated[int, typer.Option(min=0, help="Seeds which images ask.")] = 0,
    figure: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw queries with right and wrong neighbours."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say how well the encoder finds images of the same label.

    Beside it stand two yardsticks from the same images: their pixels at 32x32, and a histogram of
    their colours. The images need not be stored.
    """
    options: Options = ctx.obj
    settings = EvaluationSettings(labels, column, queries, seed)
    with options.open() as collection, progress_bar("evaluate", quiet=options.quiet) as show:
        evaluation = collection.evaluate(labelled, settings, show)
    for refusal in evaluation.refused:
        say(f"left out: {printable(refusal.path)}: {printable(refusal.reason)}")
    if as_json:
        facts = asdict(evaluation)
        del facts["retrieved"]
        print(json.dumps(facts))
    else:
        print_evaluation(evaluation)
    if figure is not None:
        from imgsim.figures import draw_retrieved  # noqa: PLC0415 - matplotlib takes a second

        draw_retrieved(figure, evaluation.retrieved[:_DRAWN])
        options.note(f"figure: {figure}")
