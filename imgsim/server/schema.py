"""What the REST service is asked and answers, as it is checked and documented."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from imgsim.catalog.browse import Order
from imgsim.options import SearchFilter

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
