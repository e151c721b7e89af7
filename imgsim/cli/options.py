"""What commands share: options, what they say, and the paths that files and stdin list."""

import codecs
import math
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imgsim.cli.console import say, show_log, unmute_libraries
from imgsim.cluster_options import ClusterSettings, MilvusSettings
from imgsim.errors import EncoderError, ImageError
from imgsim.findings import LearntRadius
from imgsim.options import Device, SearchFilter
from imgsim.results import EncoderInfo
from imgsim.text import printable

if TYPE_CHECKING:
    from imgsim.collection import Collection
    from imgsim.joint import JointSearcher
    from imgsim.output.plots import Drawing

ImagePaths = Annotated[
    list[str], typer.Argument(metavar="IMAGES", help="Image files, and folders of them.")
]
OptionalImages = Annotated[
    list[str] | None, typer.Argument(metavar="IMAGES", help="Image files, and folders of them.")
]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where to write.")]
K = Annotated[
    int | None,
    typer.Option("-k", min=1, help="How many neighbours.", show_default="10, or all in --radius"),
]
Radius = Annotated[
    float | None, typer.Option(metavar="DISTANCE", help="Only neighbours at most so far away.")
]
Under = Annotated[
    list[str] | None,
    typer.Option(metavar="DIR", help="Only neighbours in this folder; may be repeated."),
]
NotUnder = Annotated[
    list[str] | None,
    typer.Option(metavar="DIR", help="No neighbours in this folder; may be repeated."),
]
ImagesUnder = Annotated[
    list[str] | None,
    typer.Option("--under", metavar="DIR", help="Only images in this folder; may be repeated."),
]
ImagesNotUnder = Annotated[
    list[str] | None,
    typer.Option("--not-under", metavar="DIR", help="No images in this folder; may be repeated."),
]
Page = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Write a page of pictures: .html.")
]
Labelled = Annotated[
    str, typer.Argument(metavar="LABELLED", help="A folder with a folder for each label.")
]
Labels = Annotated[
    str | None,
    typer.Option(
        metavar="FILE.csv",
        help="Take labels from a table: columns path (relative to LABELLED) and label.",
    ),
]
NoSelf = Annotated[bool, typer.Option("--no-self", help="Leave out the query's own file.")]
Distinct = Annotated[
    bool,
    typer.Option("--distinct", help="Leave out exact copies of the query, and of nearer ones."),
]
FromFile = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Read more paths from a file, one a line; - is stdin."),
]
Null = Annotated[
    bool, typer.Option("--null", "-0", help="Paths in --from-file end in NUL characters.")
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        help="Leave out what matches a pattern as in .gitignore, below a folder that is named, or "
        "of the files that are named or listed; !@eaDir takes in what is left out by default; may "
        "be repeated.",
    ),
]
MaxPixels = Annotated[
    int,
    typer.Option(
        metavar="N", min=1, help="Refuse larger images; a JPEG counts at the scale it is decoded."
    ),
]
Column = Annotated[
    str, typer.Option(metavar="NAME", help="The column of --labels that has the labels.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Report, and change nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
Name = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="What to call the encoder.", show_default="its checksum"),
]

_SHOWN = 20  # characters that no font has


@dataclass(slots=True)
class Options:
    """The options that every command takes, before its name and after it."""

    collection: Path
    quiet: bool = False
    device: Device = "auto"
    catalog: str = ""
    storage: str = ""
    cluster: str = ""
    allow_mixed: bool = False
    replicas: int = 1
    milvus: tuple[str, str] | None = None
    verbose: bool = False
    debug: bool = False

    def take(self, name: str, value: Path | bool | Device) -> None:
        """Take note of an option."""
        if getattr(self, name) == value:
            return
        setattr(self, name, value)
        if name == "debug":
            unmute_libraries()
        elif name == "verbose":
            show_log()

    def open(self, *, create: bool = False) -> "Collection":
        """Open the collection that the command is about."""
        from imgsim.collection import Collection  # noqa: PLC0415 - `--help` does not pay for it

        return Collection.open(
            self.collection,
            create=create,
            device=self.device,
            catalog=self.catalog,
            storage=self.storage,
            cluster=self.cluster_settings,
        )

    @property
    def cluster_settings(self) -> ClusterSettings | MilvusSettings | None:
        """Return which machines do the work, if others than this one do."""
        if self.milvus:
            return MilvusSettings(*self.milvus)
        if not self.cluster:
            return None
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^")  # or stdout has it when workers die
        return ClusterSettings(self.cluster, 0, self.replicas, self.allow_mixed)

    def searcher(self, folders: list[Path], within: SearchFilter) -> "JointSearcher":
        """Open these collections as one."""
        from imgsim.joint import JointSearcher  # noqa: PLC0415 - as above

        try:
            return JointSearcher(folders, within, device=self.device, cluster=self.cluster_settings)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error

    def mend(self) -> str:
        """Mend the catalog of the collection, if it is damaged; return what was done."""
        from imgsim.collection import Collection  # noqa: PLC0415 - as above

        return Collection.mend(self.collection)

    @contextmanager
    def making(self) -> "Iterator[Collection]":
        """Open the collection, made if missing; a mistake leaves none behind."""
        from imgsim.directory import discard, is_collection  # noqa: PLC0415 - as above

        is_new = not is_collection(self.collection)
        try:
            with self.open(create=True) as collection:
                yield collection
        except EncoderError:
            if is_new:
                discard(self.collection)
            raise

    def note(self, message: str) -> None:
        """Tell a person something that a script does not need."""
        if not self.quiet:
            say(message)


def roots_of(paths: Iterable[str] | None, from_file: str | None, *, null: bool) -> list[str]:
    """Return the paths that were named and those that a file lists."""
    roots = [path for path in paths or () if path]
    if from_file is not None:
        return roots + listed(from_file, null=null)
    if not roots:
        raise typer.BadParameter("name at least one file or folder, or use --from-file")
    return roots


def excluded_text(excluded: Mapping[str, int]) -> str:
    """Return what to say of folders and files that patterns left out; nothing if there are none."""
    patterns = ", ".join(map(printable, excluded))
    count = sum(excluded.values())
    return f"{count:,} folders and files left out ({patterns})" if count else ""


def offer_reencode(encoder: EncoderInfo, options: Options) -> None:
    """Say how an encoder takes over whose collection holds embeddings by another."""
    if not encoder.active:
        options.note(
            f"the collection goes on with the embeddings by another encoder; `imgsim reencode "
            f"--encoder {shlex.quote(encoder.name)}` gives its {encoder.images:,} images new ones"
        )


def note_figure(target: Path, drawing: "Drawing", options: Options) -> None:
    """Say where a figure is, and what it lacks."""
    options.note(f"figure: {target}{told_left_out(drawing.left_out)}")
    if drawing.missing:
        more = len(drawing.missing) - _SHOWN
        others = f" and {more:,} characters more" if more > 0 else ""
        options.note(
            f"no installed font has {drawing.missing[:_SHOWN]}{others}: the figure has boxes for "
            "them; install a font for them, as there are of the name Noto, and draw it again"
        )


def told_radius(learnt: LearntRadius) -> str:
    """Return what to say of a distance of duplicates that was learnt."""
    when = datetime.fromtimestamp(learnt.learnt_at).astimezone().date().isoformat()
    return (
        f"{learnt.radius:.4g}, learnt on {when} from {learnt.sampled:,} of {learnt.images:,} "
        f"images; {learnt.recall:.0%} of changed pictures are found with it"
    )


def told_left_out(left_out: int) -> str:
    """Return what to say of pictures that are not shown."""
    return f" ({left_out:,} queries and matches more are left out)" if left_out else ""


def requested(
    k: int | None,
    radius: float | None,
    under: list[str] | None,
    not_under: list[str] | None,
    *,
    no_self: bool = False,
    distinct: bool = False,
) -> tuple[int | None, SearchFilter]:
    """Return how many neighbours are wanted (None: all) and which count."""
    try:
        reach = math.inf if radius is None else radius
        inside, outside = ([*map(os.path.expanduser, names or ())] for names in (under, not_under))
        within = SearchFilter(reach, inside, outside, no_self=no_self, distinct=distinct)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return (10 if k is None and radius is None else k), within


def expanded(
    names: Iterable[str], held: Sequence[Path], fail: Callable[[ImageError], None], *, null: bool
) -> Iterator[str]:
    """Yield paths, of folders those of the images in them, and of a dash those listed on stdin.

    The folders of the collections, which are ``held``, have none.
    """
    for name in names:
        if name == "-":
            yield from expanded(listed("-", null=null), held, fail, null=null)
        elif os.path.isdir(name):
            from imgsim.images.source import images_in  # noqa: PLC0415 - Pillow takes a moment

            try:
                yield from images_in(name, [*map(os.fspath, held)])
            except ImageError as error:
                fail(error)
        else:
            yield name


def listed(source: str, *, null: bool) -> list[str]:
    """Return the paths in a file or on stdin (-), one a line or NUL-terminated."""
    try:
        if source != "-":
            content = Path(source).read_bytes()
        elif sys.stdin is None:
            raise typer.BadParameter("-: stdin is closed")
        else:
            content = sys.stdin.buffer.read()
        content = content.removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise typer.BadParameter(f"{source}: {error.strerror}") from error
    parts = [part for part in content.split(b"\0" if null else b"\n") if part]
    if not null and all(part.endswith(b"\r") for part in parts):  # the list was made on Windows
        parts = [part[:-1] for part in parts]
    return [os.fsdecode(part) for part in parts if part]
