"""The commands that say what is in a collection: outliers, mislabelled, sample, clusters."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imgsim.cli.answers import TableFormat, print_rows
from imgsim.cli.console import progress_bar, say
from imgsim.cli.options import (
    Column,
    Exclude,
    ImagesNotUnder,
    ImagesUnder,
    Labelled,
    Labels,
    MaxPixels,
    Options,
    Page,
    excluded_text,
    requested,
)
from imgsim.cli.pages import check_page, write_pages
from imgsim.cli.tables import print_table
from imgsim.errors import ImageUnavailable
from imgsim.findings import Sample
from imgsim.options import MAX_PIXELS, DecodeRules, EvaluationSettings
from imgsim.output import curated
from imgsim.output.target import check_target

if TYPE_CHECKING:
    from imgsim.collection import Collection
    from imgsim.output.chosen import Gathering

_MANY = 1_000  # images that a probability is measured on well

Form = Annotated[TableFormat, typer.Option("--format", help="How to print.")]


def outliers(
    ctx: typer.Context,
    k: Annotated[int, typer.Option("-k", min=1, help="How many neighbours a group may have.")] = 5,
    most: Annotated[int, typer.Option("-n", "--most", min=1, help="How many to print.")] = 20,
    under: ImagesUnder = None,
    not_under: ImagesNotUnder = None,
    form: Form = "table",
    page: Page = None,
) -> None:
    """Print the images that are farthest from all others.

    The distance is that to the k-th nearest other, so that groups of fewer are found too; exact
    copies do not count. A deviation is how many robust standard deviations that is above the median
    of all images; it is no probability. Pictures of one colour are called blank, those of hardly
    more flat.
    """
    options: Options = ctx.obj
    check_page(page)
    _, within = requested(None, None, under, not_under)
    with options.open() as collection, progress_bar("search", quiet=options.quiet) as show:
        report = collection.curation.outliers(k, most, within, show)
    if form == "table":
        header = "rank", "distance", "deviations", "look", "path"
        rows = curated.outlier_rows(report.outliers)
        print_table(header, [(row[0], *row[3:], row[2]) for row in rows])
    else:
        print_rows(curated.outlier_rows(report.outliers), form, curated.OUTLIER_COLUMNS)
    write_pages(page, "Outliers", curated.outlier_sections(report.outliers), options)
    options.note(
        f"half of {report.images:,} images have {report.k} others within {report.median:.4g}; "
        f"{report.beyond:,} are more than 3.5 deviations beyond, which usually are called outliers"
    )


def mislabelled(
    ctx: typer.Context,
    labelled: Labelled,
    labels: Labels = None,
    column: Column = "label",
    encoder: Annotated[
        str | None, typer.Option(metavar="NAME", show_default="the one in use", help="Which one.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many neighbours vote.")] = 30,
    most: Annotated[int, typer.Option("-n", "--most", min=1, help="How many to print.")] = 50,
    under: ImagesUnder = None,
    not_under: ImagesNotUnder = None,
    exclude: Exclude = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    form: Form = "table",
    page: Page = None,
) -> None:
    """Print the images whose labels are wrong, as their neighbours say, the surest first.

    How sure that is, is a probability, measured on these images: how labels score that are drawn at
    random, beside the given ones. Labels that are confused in a way, as all skirts taken for
    dresses, look right. The images need not be stored.
    """
    options: Options = ctx.obj
    if not labelled:
        raise typer.BadParameter("the path is empty")
    check_page(page)
    _, within = requested(None, None, under, not_under)
    try:
        settings = EvaluationSettings(labels, column, exclude=exclude or (), max_pixels=max_pixels)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    with options.open() as collection, progress_bar("look", quiet=options.quiet) as show:
        report = collection.curation.mislabelled(
            labelled, settings, k, show, encoder=encoder, within=within
        )
    if report.excluded:
        options.note(excluded_text(report.excluded))
    for refusal in report.refused:
        say(f"left out: {refusal.path}: {refusal.reason}")
    found = report.found[:most]
    if form == "table":
        rows = curated.label_rows(found)
        shown = [(rank, f"{sure:.3f}", *names, path) for rank, path, *names, sure in rows]
        print_table(("rank", "sure", "label", "proposed", "path"), shown)
    else:
        print_rows(curated.label_rows(found), form, curated.LABEL_COLUMNS)
    rules = DecodeRules(max_pixels)
    write_pages(page, "Labels in doubt", curated.label_sections(found), options, rules)
    options.note(
        f"{report.images:,} images with {report.labels:,} labels, {report.unlabelled:,} without a "
        f"label left out; about {report.wrong:.1%} of the labels are wrong, or fewer, if those are "
        "as good as drawn at random"
    )
    if report.images < _MANY:
        options.note(f"of fewer than {_MANY:,} images, how sure it is can only be told roughly")


def sample(
    ctx: typer.Context,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many.")] = 100,
    typical: Annotated[
        bool,
        typer.Option("--typical", help="Such as many are like, in place of all that there is."),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write their paths; - is stdout."),
    ] = None,
    null: Annotated[
        bool, typer.Option("--null", "-0", help="NUL ends a path in --output.")
    ] = False,
    copy_to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Copy their files into a new folder.")
    ] = None,
    link_to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Link to their files in a new folder.")
    ] = None,
    under: ImagesUnder = None,
    not_under: ImagesNotUnder = None,
    form: Form = "table",
    page: Page = None,
) -> None:
    """Choose a few images that cover the collection.

    Each next one is the image that is farthest from those before it, so odd ones are among them,
    and any number of the first ones is a sample too; the radius says how far any image is from the
    nearest of them. With --typical they are the middles of the groups that k-means finds, the
    largest group first. Files in --copy-to and --link-to get a number before their names.
    """
    options: Options = ctx.obj
    check_page(page)
    _check_places(output, copy_to, link_to)
    _, within = requested(None, None, under, not_under)
    with options.open() as collection:
        with progress_bar("choose", quiet=options.quiet) as show:
            found = collection.curation.sample(count, within, show, typical=typical)
        failed = _gathered(collection, found, copy_to, link_to, options)
    paths = [pick.path for pick in found.picks]
    if output == Path("-"):
        for path in paths:
            print(path, end="\0" if null else "\n")
    elif output is not None:
        from imgsim.output.chosen import write_paths  # noqa: PLC0415 - NumPy is not needed before

        write_paths(output, paths, "\0" if null else "\n")
    if form != "table":
        print_rows(curated.sample_rows(found.picks), form, curated.SAMPLE_COLUMNS)
    elif output is None and copy_to is None and link_to is None:
        shown = ((pick.rank, pick.radius, pick.path) for pick in found.picks)
        print_table(("rank", "radius", "path"), shown)
    write_pages(page, "Sample", curated.sample_sections(found.picks), options)
    options.note(
        f"{len(paths):,} of {found.images:,} images; none is farther than {found.radius:.4g} from "
        "the nearest of them"
    )
    if failed:
        raise typer.Exit(ImageUnavailable.exit_code)


def _check_places(output: Path | None, copy_to: Path | None, link_to: Path | None) -> None:
    """Refuse places that nothing can be written to, before anything is computed."""
    from imgsim.output.chosen import check_folder  # noqa: PLC0415 - as above

    if output is not None and output != Path("-"):
        check_target(output, (output.suffix.lower(),))
    if copy_to is not None and copy_to == link_to:
        raise typer.BadParameter("--copy-to and --link-to need two folders")
    for folder in (copy_to, link_to):
        if folder is not None:
            check_folder(folder)


def _gathered(
    collection: "Collection",
    found: Sample,
    copy_to: Path | None,
    link_to: Path | None,
    options: Options,
) -> bool:
    """Put the files into folders; say what cannot be, and return whether there is such."""
    failed, paths = False, [pick.path for pick in found.picks]
    places: dict[Gathering, Path | None] = {"copy": copy_to, "link": link_to}
    for how, folder in places.items():
        if folder is None:
            continue
        with progress_bar(how, quiet=options.quiet) as show:
            refused = collection.curation.gather(paths, folder, how, show)
        for refusal in refused:
            say(f"left out: {refusal.path}: {refusal.reason}")
        options.note(f"{len(paths) - len(refused):,} files: {folder}")
        failed |= bool(refused)
    return failed


def clusters(
    ctx: typer.Context,
    count: Annotated[
        int | None,
        typer.Option(
            "-n", "--count", min=1, help="How many.", show_default="root of half the images"
        ),
    ] = None,
    dense: Annotated[
        bool,
        typer.Option("--dense", help="Only what is alike, by HDBSCAN; the others are apart."),
    ] = False,
    under: ImagesUnder = None,
    not_under: ImagesNotUnder = None,
    form: Form = "table",
    page: Page = None,
) -> None:
    """Group the images by what they look like, and name one that stands for each group.

    k-means puts every image into a group; the same images give the same groups. --format csv and
    jsonl have a line for each image, those of a group from the middle to the edge.
    """
    options: Options = ctx.obj
    check_page(page)
    _, within = requested(None, None, under, not_under)
    with options.open() as collection:
        try:
            report = collection.curation.clusters(count, within, dense=dense)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
    if form == "table":
        print_table(
            ("cluster", "images", "share", "representative"),
            (
                (each.number, len(each.members), f"{each.share:.1%}", each.representative.path)
                for each in report.clusters
            ),
        )
    else:
        print_rows(curated.cluster_rows(report), form, curated.CLUSTER_COLUMNS)
    write_pages(page, "Clusters", curated.cluster_sections(report), options)
    grouped = report.images - len(report.apart)
    options.note(f"{grouped:,} of {report.images:,} images in {len(report.clusters):,} groups")
