"""The commands that make, measure and apply encoders: train, evaluate, reencode."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from imgsim.cli.answers import print_agreement, print_evaluation, print_json
from imgsim.cli.console import interruptible, progress_bar, say, training_display
from imgsim.cli.options import (
    Column,
    Exclude,
    FromFile,
    Json,
    Labelled,
    Labels,
    MaxPixels,
    Name,
    Null,
    OptionalImages,
    Options,
    excluded_text,
    listed,
    note_figure,
    offer_reencode,
    roots_of,
)
from imgsim.errors import ImageError
from imgsim.options import (
    DECODER,
    MAX_PIXELS,
    RECIPES,
    Colours,
    DecodeRules,
    EvaluationSettings,
    Recipe,
)
from imgsim.output.target import FIGURES, check_target
from imgsim.results import TrainingReport
from imgsim.scores import AgreementReport, Recognition

_DRAWN = 20  # queries of a sheet


def train(
    ctx: typer.Context,
    images: OptionalImages = None,
    from_file: FromFile = None,
    null: Null = False,
    exclude: Exclude = None,
    recipe: Annotated[
        Recipe, typer.Option(help="Recognise augmented images, or only reconstruct.")
    ] = "contrastive",
    start: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Start from this encoder of the collection, which stays as it is: fit last layers "
            "to it, as `imgsim encoder adapt` does, and train a decoder for it.",
        ),
    ] = None,
    colours: Annotated[
        Colours | None,
        typer.Option(
            "--colours",
            "--colors",
            help="How much the colours of an image count; auto lets the images say.",
            show_default="auto; none if plain",
        ),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            min=16,
            help="Resize images to this side, a multiple of 16 pixels.",
            show_default="64; 256 if plain",
        ),
    ] = None,
    latent_channels: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Channels of the latent, of which the last layers make 256 values (plain: none).",
            show_default="as make about 1,024 values",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Most passes over the images, or over 20,000 of them.",
            show_default="500; 10 if plain; 200 with --start",
        ),
    ] = None,
    time_budget: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="End after so long, as 90s, 20m or 1.5h; with --start, the decoder alone.",
            show_default="20m; none if plain; 1m with --start",
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="End when so many epochs have not lowered the validation loss.",
            show_default="never; 10 with --start",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Images in a training step.",
            show_default="128; 32 if plain or with --start",
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Learning rate of Adam.", show_default="0.002; 0.001 if plain or with --start"
        ),
    ] = None,
    validation_split: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Share of the images held out, of 2,000 at most.",
            show_default="0.05; 0.1 if plain",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Seeds the split and the weights.")
    ] = 0,
    max_pixels: MaxPixels = MAX_PIXELS,
    name: Name = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted training, as it was begun.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train an encoder on images, without labels.

    Ctrl-C ends the training early and keeps the best weights so far. Every epoch leaves a
    checkpoint, from which --resume goes on after Ctrl-C, a crash or a power failure.
    """
    options: Options = ctx.obj
    roots = roots_of(images, from_file, null=null)
    chosen: dict[str, Any] = {
        "exclude": exclude,
        "colours": colours,
        "image_size": image_size,
        "latent_channels": latent_channels,
        "epochs": epochs,
        "time_budget": None if time_budget is None else _seconds(time_budget),
        "patience": patience,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "validation_split": validation_split,
        "max_pixels": None if max_pixels == MAX_PIXELS else max_pixels,
    }
    changes = {name: value for name, value in chosen.items() if value is not None}
    if resume and (changes or seed or name or start or recipe != "contrastive"):
        raise typer.BadParameter("--resume goes on as it was begun; give no other options")
    if start and recipe != "contrastive":
        raise typer.BadParameter("--start goes with no --recipe")
    try:
        begin = RECIPES[recipe] if start is None else replace(DECODER, start=start)
        settings = replace(begin, seed=seed, **changes)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    with options.making() as collection, training_display(quiet=options.quiet) as show:
        report = collection.train(roots, settings, show, name=name, resume=resume)
    if as_json:
        print_json(asdict(report))
    _say_trained(report, options)
    offer_reencode(report.encoder, options)


def _say_trained(report: TrainingReport, options: Options) -> None:
    for refusal in report.refused:
        say(f"left out: {refusal.path}: {refusal.reason}")
    if report.excluded:
        options.note(excluded_text(report.excluded))
    best, recognition = report.history[report.best_epoch - 1], report.recognition
    what = "trained" if report.start is None else "trained a decoder"
    ended = " (interrupted; --resume goes on)" if report.interrupted else ""
    for line in (
        f"{what} on {report.images:,} images for {len(report.history)} epochs{ended}: best "
        f"validation loss {best.val_loss:.5f} in epoch {report.best_epoch}, "
        f"{report.encoder.dim:,} values an embedding",
        f"how much colours count: {report.colours}; --colours decides it",
        f"recognised of {recognition.images:,} images, cropped and lit otherwise: "
        f"{recognition.encoder:.0%}; by raw pixels: {recognition.pixels:.0%}",
        *_said_of_network(report),
    ):
        options.note(line)
    if report.unseen:
        say(
            f"imgsim: warning: {report.unseen:,} more images were not reached before the end; give "
            "it longer with --time-budget"
        )
    if recognition.is_poor:
        remedy = "train for longer, on more images, or" if report.start is None else "for others"
        say(
            "imgsim: warning: it recognises its own images hardly better than raw pixels do; "
            f"{remedy} see `imgsim encoder pretrained`"
        )


def _said_of_network(report: TrainingReport) -> tuple[str, ...]:
    """Return what to say of an encoder that was trained, or to which a decoder was."""
    where = report.encoder.directory
    if report.start is not None:
        return (
            f"the encoder is {report.start}, with last layers that are fitted to the images",
            f"encoder, decoder, history and reconstructions: {where}",
        )
    return (
        f"ONNX against Keras on {report.compared} images: greatest difference "
        f"{report.onnx_difference:.2g}",
        f"encoder, history and reconstructions: {where}",
        _said_of_start(report.recognition),
    )


def _said_of_start(recognition: Recognition) -> str:
    if recognition.is_sparse:
        return (
            f"few pictures lie near others (the tenth nearest at {recognition.isolation:.0%} of "
            "the usual distance), so a pretrained network will find more: see `imgsim encoder "
            "pretrained`, `imgsim train --start`"
        )
    return "of pictures of many kinds, a pretrained network finds more: `imgsim encoder pretrained`"


def _seconds(text: str) -> float:
    """Return a time as 90, 90s, 20m or 1.5h in seconds."""
    units = {"s": 1, "m": 60, "h": 3_600}
    try:
        return float(text.rstrip("smh")) * units[text[-1:] if text[-1:] in units else "s"]
    except ValueError as error:
        raise typer.BadParameter(f"{text}: must be a time as 90s, 20m or 1.5h") from error


def evaluate(
    ctx: typer.Context,
    labelled: Labelled,
    labels: Labels = None,
    column: Column = "label",
    encoder: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Measure this encoder; may be repeated.",
            show_default="the one in use",
        ),
    ] = None,
    queries: Annotated[int, typer.Option(min=1, help="How many images ask, at most.")] = 1_000,
    seed: Annotated[int, typer.Option(min=0, help="Seeds which images ask.")] = 0,
    from_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Only the images that a file lists, one a line; - is stdin."
        ),
    ] = None,
    null: Null = False,
    exclude: Exclude = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    unlabelled: Annotated[
        bool,
        typer.Option(
            "--unlabelled",
            help="Without labels: which share of the 10 nearest stays when pictures are cropped "
            "or saved again. It is no measure of kinds.",
        ),
    ] = False,
    figure: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw queries with right and wrong neighbours."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say how well the encoder finds images of the same label.

    Each query is one of the images, and the others are ranked by distance. R@k is the share of
    queries with one of its label among the k nearest, P@10 the share of its label among the 10
    nearest, mAP the mean average precision over all of its label; intervals hold 95 % of
    bootstrapped means. Beside the encoder, or several, stand two baselines: the pixels at 32x32,
    and a histogram of the colours. Labels and --figure are about the first encoder. The images need
    not be stored.
    """
    options: Options = ctx.obj
    if not labelled:
        raise typer.BadParameter("the path is empty")
    if figure is not None:
        check_target(figure, FIGURES)
    try:
        settings = EvaluationSettings(labels, column, queries, seed, exclude or (), max_pixels)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    images = None if from_file is None else listed(from_file, null=null)
    if unlabelled:
        if labels is not None or figure is not None:
            raise typer.BadParameter("--unlabelled goes with neither --labels nor --figure")
        with options.open() as collection, progress_bar("compare", quiet=options.quiet) as show:
            wanted = labelled if images is None else images
            report = collection.agreement(wanted, settings, show, encoders=encoder or ())
        _print_agreement(report, as_json=as_json)
        return
    with options.open() as collection, progress_bar("evaluate", quiet=options.quiet) as show:
        evaluation = collection.evaluate(
            labelled, settings, show, images=images, encoders=encoder or ()
        )
    if evaluation.excluded:
        options.note(excluded_text(evaluation.excluded))
    for refusal in evaluation.refused:
        say(f"left out: {refusal.path}: {refusal.reason}")
    if as_json:
        facts = asdict(evaluation)
        del facts["retrieved"]
        print_json(facts)
    else:
        print_evaluation(evaluation)
    if figure is not None:
        from imgsim.output.plots import draw_retrieved  # noqa: PLC0415 - matplotlib takes a second

        drawing = draw_retrieved(figure, evaluation.retrieved[:_DRAWN], DecodeRules(max_pixels))
        note_figure(figure, drawing, options)


def _print_agreement(report: AgreementReport, *, as_json: bool) -> None:
    for refusal in report.refused:
        say(f"left out: {refusal.path}: {refusal.reason}")
    if as_json:
        print_json(asdict(report))
    else:
        print_agreement(report)


def reencode(
    ctx: typer.Context,
    encoder: Annotated[str, typer.Option(metavar="NAME", help="The encoder that takes over.")],
    as_json: Json = False,
) -> None:
    """Give every image an embedding by another encoder, which then takes over.

    Until then queries are answered with the present embeddings. An interrupted run goes on where it
    stopped. `imgsim compact` drops the previous embeddings; before it, `imgsim encoder use` goes
    back. Exits with 20, and nothing taken over, if any image cannot be read.
    """
    options: Options = ctx.obj
    try:
        with (
            options.open() as collection,
            progress_bar("reencode", quiet=options.quiet) as show,
            interruptible("storing what is encoded; Ctrl-C again leaves at once"),
        ):
            report = collection.encoders.reencode(encoder, show)
    except KeyboardInterrupt:
        say("interrupted: what is encoded was stored; run the same command again to go on")
        raise
    if as_json:
        print_json(asdict(report))
    for refusal in () if as_json else report.refused:
        say(f"not encoded: {refusal.path}: {refusal.reason}")
    options.note(f"{report.encoded:,} of {report.images:,} images encoded")
    for warning in report.warnings:
        say(f"imgsim: warning: {warning}")
    if report.switched:
        options.note(f"the encoder is {encoder} now")
        return
    say(
        f"imgsim: error: {len(report.refused):,} images have no embedding by {encoder}, so it has "
        "not taken over; `imgsim ingest` stores changed files, `imgsim prune` forgets those that "
        "are gone, `imgsim remove` any; then run this again"
    )
    raise typer.Exit(ImageError.exit_code)
