"""What the REST service is asked and answers, as it is checked and documented."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from imgsim.catalog.browse import Order
from imgsim.findings import DuplicateGroup, LeftAlone, Outlier
from imgsim.options import SearchFilter
from imgsim.server.work import Pending

MOST = 1_000
"""Matches of a search, and images of a page."""

Size = Literal["small", "large"]
"""256 or 1,600 pixels on the longer side."""

_Id = Annotated[int, Field(ge=1, lt=1 << 63)]
_Number = Annotated[float, Field(allow_inf_nan=False)]
_Folders = Annotated[list[str], Field(max_length=100)]


class Asked(BaseModel):
    """What a request says; what is unknown is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Narrowed(Asked):
    """How many matches are wanted, and which count; as the options of ``imgsim query``."""

    k: int = Field(24, ge=1, le=MOST)
    radius: float | None = Field(None, ge=0, allow_inf_nan=False)
    under: _Folders = []
    not_under: _Folders = []
    distinct: bool = False

    def within(self) -> SearchFilter:
        """Return which images count."""
        radius = float("inf") if self.radius is None else self.radius
        return SearchFilter(
            radius, tuple(self.under), tuple(self.not_under), distinct=self.distinct
        )


class Example(Asked):
    """A stored image, by its id or path, or an embedding."""

    id: _Id | None = None
    path: str | None = Field(None, min_length=1, max_length=4_096)
    embedding: list[_Number] | None = Field(None, min_length=1, max_length=1 << 14)

    @model_validator(mode="after")
    def _one(self) -> "Example":
        if sum(each is not None for each in (self.id, self.path, self.embedding)) != 1:
            raise ValueError("give one of id, path and embedding")
        return self


class Search(Narrowed):
    """What is searched for: images like some examples, and not like others.

    Several have their mean. Those that are not wanted move it away from theirs, by half of the
    difference. Examples that are stored are left out of the answer.
    """

    like: list[Example] = Field(min_length=1, max_length=100)
    unlike: list[Example] = Field([], max_length=100)


class Listed(Asked):
    """A page of stored images."""

    order: Order = "id"
    after: str = Field("", max_length=10_000)
    most: int = Field(100, ge=1, le=MOST)
    under: str = ""  # a limit to its length would refuse bytes that are not UTF-8
    suffix: str = Field("", max_length=16)
    least_side: int = Field(0, ge=0, lt=1 << 31)


class Folder(Asked):
    """The folder that is asked about."""

    under: str


class Lists(Asked):
    """How many neighbours of each image are wanted."""

    k: int = Field(10, ge=1, le=MOST)
    radius: float | None = Field(None, ge=0, allow_inf_nan=False)
    form: Literal["jsonl", "arrow"] = "jsonl"


class PictureSize(Asked):
    """How large a picture is wanted: 256 or 1,600 pixels on its longer side."""

    size: Size = "small"


class StoredImage(BaseModel):
    """A stored image; a path that is not valid UTF-8 has lone surrogates for such bytes."""

    id: int
    path: str
    width: int
    height: int
    bytes: int
    damaged: bool


class Match(BaseModel):
    """A neighbour and its Euclidean distance."""

    rank: int
    distance: float
    image: StoredImage


class Matches(BaseModel):
    """The neighbours that were found, nearest first."""

    matches: list[Match]


class ImagePage(BaseModel):
    """Some stored images; ``after`` leads to the next page, and is empty on the last."""

    images: list[StoredImage]
    after: str


class FolderNames(BaseModel):
    """The folders in a folder that stored images are in or below."""

    folders: list[str]


class Embedding(BaseModel):
    """The embedding of an image."""

    embedding: list[float]


class Health(BaseModel):
    """That the server runs."""

    status: str = "ok"


class Problem(BaseModel):
    """What went wrong, as RFC 9457 has it."""

    type: str
    title: str
    status: int
    detail: str


class Finding(BaseModel):
    """What takes long to find: its ``progress`` until it is there.

    It is ``current`` unless the collection was changed since.
    """

    progress: Pending | None = None
    current: bool = True


class Duplicates(Asked):
    """Which images are duplicates, as the options of ``imgsim duplicates``, and a page of groups.

    ``anew`` looks again, where a result is there already.
    """

    after: int = Field(0, ge=0)
    most: int = Field(50, ge=1, le=MOST)
    radius: float | None = Field(None, ge=0, allow_inf_nan=False)
    keep: Literal["largest", "oldest", "newest", "shortest-path"] = "largest"
    mirror: bool = False
    rotate: bool = False
    anew: bool = False


class DuplicatePage(Finding):
    """Some groups of all ``found`` ones, and where to go on; ``after`` is 0 on the last page.

    Members that are no longer stored, or judged meanwhile, are left out.
    """

    groups: list[DuplicateGroup] = []
    found: int = 0
    images: int = 0
    radius: float = 0.0
    after: int = 0


class AskedOutliers(Asked):
    """How many outliers are wanted, by the distance to the ``k``-th nearest other image."""

    k: int = Field(5, ge=1, le=100)
    most: int = Field(100, ge=1, le=MOST)
    anew: bool = False


class OutlierPage(Finding):
    """The images that are farthest from others, the farthest first."""

    outliers: tuple[Outlier, ...] = ()
    images: int = 0
    median: float = 0.0
    beyond: int = 0


class AskedMap(Asked):
    """How a map is laid out."""

    method: Literal["linear", "fast", "good"] = "fast"
    anew: bool = False


class AskedSheet(Asked):
    """Whether to evaluate once more."""

    anew: bool = False


class Measure(BaseModel):
    """How well some embeddings retrieve, as means over the queries."""

    name: str
    recall: dict[int, float]
    p10: float
    map: float


class Neighbour(BaseModel):
    """An image of an evaluation; ``id`` is 0 for one that is not stored."""

    id: int
    path: str
    label: str


class SheetRow(BaseModel):
    """A query of an evaluation, and its nearest images."""

    query: Neighbour
    nearest: list[Neighbour]


class Sheet(Finding):
    """How well the labelled images are retrieved, and some queries."""

    images: int = 0
    queries: int = 0
    measures: list[Measure] = []
    rows: list[SheetRow] = []


class Judged(Asked):
    """Stored images: the others are no duplicates of the first one."""

    ids: list[_Id] = Field(min_length=2, max_length=MOST)


class Moved(Asked):
    """Stored images that are moved away, as another one is kept."""

    keep: _Id
    move: list[_Id] = Field(min_length=1, max_length=MOST)


class Change(BaseModel):
    """What was done: a ``number`` by which it can be undone, 0 if nothing was; how many, what not.

    ``manifest`` is for ``imgsim restore``; it is empty where nothing was moved.
    """

    number: int
    done: int
    left: tuple[LeftAlone, ...] = ()
    manifest: str = ""


class Undone(Asked):
    """The number of a change."""

    number: int = Field(ge=1)


class Training(BaseModel):
    """The last epoch of a training that runs, and the loss on images that it is not trained on."""

    epoch: int
    loss: float


class Activity(BaseModel):
    """How many images are stored, and what runs beside; ``may`` has what the server may do.

    ``writer`` says who writes to the collection, and is empty if nobody does.
    """

    images: int
    writer: str
    training: Training | None
    may: list[Literal["ignore", "move", "evaluate"]]
