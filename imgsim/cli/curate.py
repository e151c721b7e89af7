"""The commands that say what is in a collection: outliers, mislabelled, sample, clusters."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imgsim.cli.answers import TableFormat, print_rows
from imgsim.cli.console import progress_bar, say
from imgsim.cli.options import Column, Exclude, MaxPixels, Options, excluded_text, requested
from imgsim.cli.tables import print_table
from imgsim.errors import ImageUnavailable
from imgsim.findings import ClusterReport, LabelReport, OutlierReport, Sample
from imgsim.options import MAX_PIXELS, STORED_RULES, DecodeRules, EvaluationSettings
from imgsim.output.listing import Row
from imgsim.output.target import PAGES, check_target

if TYPE_CHECKING:
    from imgsim.collection import Collection
    from imgsim.output.chosen import Gathering
    from imgsim.output.html import Section

_SHOWN = 12  # pictures of a cluster

Under = Annotated[
    list[str] | None,
    typer.Option(metavar="DIR", help="Only images in this folder; may be repeated."),
]
NotUnder = Annotated[
    list[str] | None,
    typer.Option(metavar="DIR", help="No images in this folder; may be repeated."),
]
Form = Annotated[TableFormat, typer.Option("--format", help="How to print.")]
Page = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Write a page of pictures: .html.")
]


def outliers(
    ctx: typer.Context,
    k: Annotated[int, typer.Option("-k", min=1, help="How many neighbours a group may have.")] = 5,
    most: Annotated[int, typer.Option("-n", "--most", min=1, help="How many to print.")] = 20,
    under: Under = None,
    not_under: NotUnder = None,
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
    _check_page(page)
    _, within = requested(None, None, under, not_under)
    with options.open() as collection, progress_bar("search", quiet=options.quiet) as show:
        report = collection.curation.outliers(k, most, within, show)
    rows = [
        (each.rank, each.id, each.path, each.distance, each.deviations, each.look)
        for each in report.outliers
    ]
    if form == "table":
        header = "rank", "distance", "deviations", "look", "path"
        print_table(header, [(row[0], *row[3:], row[2]) for row in rows])
    else:
        columns = "rank", "image_id", "path", "distance", "deviations", "look"
        print_rows(rows, form, columns)
    if page is not None:
        _write(page, "Outliers", _outlier_sections(report), STORED_RULES, options)
    options.note(
        f"half of {report.images:,} images have {report.k} others within {report.median:.4g}; "
        f"{report.beyond:,} are more than 3.5 deviations beyond, which usually are called outliers"
    )


def _outlier_sections(report: OutlierReport) -> Iterator["Section"]:
    from imgsim.output.html import Card, Section  # noqa: PLC0415 - Pillow is not needed otherwise

    for each in report.outliers:
        look = "" if each.look == "usual" else f" · {each.look}"
        label = f"{each.distance:.4g} · {each.deviations:.1f} deviations{look}"
        others = (Card(match.path, f"{match.distance:.4g}") for match in each.matches)
        yield Section((Card(each.path, label, "query"), *others))


def mislabelled(
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
    column: Column = "label",
    encoder: Annotated[
        str | None, typer.Option(metavar="NAME", show_default="the one in use", help="Which one.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many neighbours vote.")] = 30,
    most: Annotated[int, typer.Option("-n", "--most", min=1, help="How many to print.")] = 50,
    under: Under = None,
    not_under: NotUnder = None,
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
    _check_page(page)
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
    rows = [
        (each.rank, each.path, each.label, each.proposed, each.probability)
        for each in report.found[:most]
    ]
    if form == "table":
        shown = [(rank, f"{sure:.3f}", *names, path) for rank, path, *names, sure in rows]
        print_table(("rank", "sure", "label", "proposed", "path"), shown)
    else:
        print_rows(rows, form, ("rank", "path", "label", "proposed", "probability"))
    if page is not None:
        sections = _label_sections(report, most)
        _write(page, "Labels in doubt", sections, DecodeRules(max_pixels), options)
    options.note(
        f"{report.images:,} images with {report.labels:,} labels, {report.unlabelled:,} without a "
        f"label left out; about {report.wrong:.1%} of the labels are wrong, as far as wrong ones "
        "are as good as random"
    )


def _label_sections(report: LabelReport, most: int) -> Iterator["Section"]:
    from imgsim.output.html import Card, Section  # noqa: PLC0415 - as above

    for each in report.found[:most]:
        label = f"{each.label}, rather {each.proposed}: {each.probability:.3f}"
        others = map(Card, each.nearest, each.labels)
        yield Section((Card(each.path, label, "query"), *others))


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
    under: Under = None,
    not_under: NotUnder = None,
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
    _check_page(page)
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
    rows = [(pick.rank, pick.id, pick.path, pick.radius) for pick in found.picks]
    if form != "table":
        print_rows(rows, form, ("rank", "image_id", "path", "radius"))
    elif output is None and copy_to is None and link_to is None:
        print_table(("rank", "radius", "path"), [(row[0], row[3], row[2]) for row in rows])
    if page is not None:
        _write(page, "Sample", _sample_sections(found), STORED_RULES, options)
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


def _sample_sections(found: Sample) -> Iterator["Section"]:
    from imgsim.output.html import Card, Section  # noqa: PLC0415 - as above

    yield Section(tuple(Card(pick.path, f"{pick.rank:,}") for pick in found.picks))


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
    under: Under = None,
    not_under: NotUnder = None,
    form: Form = "table",
    page: Page = None,
) -> None:
    """Group the images by what they look like, and name one that stands for each group.

    k-means puts every image into a group; the same images give the same groups. --format csv and
    jsonl have a line for each image, those of a group from the middle to the edge.
    """
    options: Options = ctx.obj
    _check_page(page)
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
        columns = "cluster", "images", "place", "image_id", "path", "distance"
        print_rows(_cluster_rows(report), form, columns)
    if page is not None:
        _write(page, "Clusters", _cluster_sections(report), STORED_RULES, options)
    grouped = report.images - len(report.apart)
    options.note(f"{grouped:,} of {report.images:,} images in {len(report.clusters):,} groups")


def _cluster_rows(report: ClusterReport) -> Iterator[Row]:
    for each in report.clusters:
        for place, member in enumerate(each.members, start=1):
            where = each.number, len(each.members), place
            yield *where, member.id, member.path, member.distance
    for image in report.apart:
        yield None, None, None, image.id, image.path, None


def _cluster_sections(report: ClusterReport) -> Iterator["Section"]:
    from imgsim.output.html import Card, Section  # noqa: PLC0415 - as above

    for each in report.clusters:
        step = -(-len(each.members) // _SHOWN)
        cards = [Card(member.path, f"{member.distance:.4g}") for member in each.members[::step]]
        cards[0] = Card(cards[0].path, cards[0].label, "query")
        heading = f"{each.number} · {len(each.members):,} images · {each.share:.1%}"
        yield Section(tuple(cards), heading)


def _check_page(page: Path | None) -> None:
    if page is not None:
        check_target(page, PAGES)


def _write(
    page: Path, title: str, sections: Iterable["Section"], rules: DecodeRules, options: Options
) -> None:
    from imgsim.output.html import write_sections  # noqa: PLC0415 - as above

    with progress_bar("page", quiet=options.quiet) as show:
        write_sections(page, title, list(sections), show, rules)
    options.note(f"page: {page}")
