"""The REST service: each endpoint once, from which routes and the OpenAPI document are made."""

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.responses import Response, StreamingResponse

from imgsim.output.listing import Listing, neighbour_rows, write_jsonl
from imgsim.output.map_page import page_policy
from imgsim.results import ImageNeighbours
from imgsim.server import schema
from imgsim.server.service import Service

JSON, JPEG, LINES = "application/json", "image/jpeg", "application/x-ndjson"
ARROW = "application/vnd.apache.arrow.stream"
HTML, IMAGE = "text/html", "image/*"


@dataclass(frozen=True)
class Call:
    """A request, checked: what is in its path, its query and its body."""

    number: int
    query: Any
    body: Any
    headers: Headers


@dataclass(frozen=True)
class Endpoint:
    """What is answered at a path; ``query``, ``body`` and ``answer`` say in which form.

    A ``body`` or ``answer`` that is a text is a type of media.
    """

    method: str
    path: str
    summary: str
    handle: Callable[[Service, Call], BaseModel | Response]
    query: type[BaseModel] | None = None
    body: type[BaseModel] | str | None = None
    answer: type[BaseModel] | str | tuple[str, ...] = JSON


def as_json(answer: BaseModel) -> Response:
    """Return an answer; lone surrogates, which stand for bytes that are not UTF-8, are escaped."""
    return Response(json.dumps(answer.model_dump()), media_type=JSON)


def _picture(service: Service, call: Call) -> Response:
    record = service.record(call.number)
    headers = {
        "etag": f'"{record.sha256.hex()[:32]}-{call.query.size}"',
        "cache-control": "private, no-cache",
    }
    if call.headers.get("if-none-match") == headers["etag"]:
        return Response(status_code=304, headers=headers)
    return Response(service.picture(record, call.query.size), headers=headers, media_type=JPEG)


def _lists(service: Service, call: Call) -> Response:
    lists = service.lists(call.query)
    if call.query.form == "arrow":
        return StreamingResponse(_arrow(lists), media_type=ARROW)
    return StreamingResponse(_lines(lists), media_type=LINES)


def _lines(lists: Listing[ImageNeighbours]) -> Iterator[str]:
    for image in lists:
        with io.StringIO() as text:
            write_jsonl(text, neighbour_rows(image))
            yield text.getvalue()


def _arrow(lists: Listing[ImageNeighbours]) -> Iterator[bytes]:
    """Yield record batches as a stream of Arrow's."""
    import pyarrow as pa  # noqa: PLC0415 - heavy, and few need it

    with lists.to_arrow() as reader, io.BytesIO() as part:
        with pa.ipc.new_stream(part, reader.schema) as writer:
            for batch in reader:
                writer.write_batch(batch)
                yield part.getvalue()
                part.seek(0)
                part.truncate()
        yield part.getvalue()


def _map_page(service: Service, call: Call) -> Response:
    policy = f"{page_policy(served=True)}; frame-ancestors 'none'"
    headers = {"content-security-policy": policy}
    return Response(service.review.map_page(call.query), headers=headers, media_type=HTML)


ENDPOINTS = (
    Endpoint(
        "GET",
        "/health",
        "Say that the server runs; no token is needed.",
        lambda _, __: schema.Health(),
        answer=schema.Health,
    ),
    Endpoint(
        "POST",
        "/search",
        "Find the stored images that are nearest to examples.",
        lambda service, call: service.search(call.body),
        body=schema.Search,
        answer=schema.Matches,
    ),
    Endpoint(
        "POST",
        "/search/image",
        "Find the stored images that are nearest to an image file, which is the body.",
        lambda service, call: service.search_image(call.body, call.query),
        query=schema.Narrowed,
        body=IMAGE,
        answer=schema.Matches,
    ),
    Endpoint(
        "POST",
        "/embed",
        "Return the embedding of an image file, which is the body.",
        lambda service, call: service.embed(call.body),
        body=IMAGE,
        answer=schema.Embedding,
    ),
    Endpoint(
        "GET",
        "/images",
        "List stored images, a page at a time.",
        lambda service, call: service.listed(call.query),
        query=schema.Listed,
        answer=schema.ImagePage,
    ),
    Endpoint(
        "GET",
        "/images/{id}",
        "Return what is known of a stored image.",
        lambda service, call: service.image(call.number),
        answer=schema.StoredImage,
    ),
    Endpoint(
        "GET",
        "/images/{id}/neighbours",
        "Find the nearest other images of a stored one.",
        lambda service, call: service.neighbours(call.number, call.query),
        query=schema.Narrowed,
        answer=schema.Matches,
    ),
    Endpoint(
        "GET",
        "/images/{id}/picture",
        "Return a picture of a stored image.",
        _picture,
        query=schema.PictureSize,
        answer=JPEG,
    ),
    Endpoint(
        "GET",
        "/folders",
        "List the folders in a folder that stored images are in or below.",
        lambda service, call: service.folders(call.query),
        query=schema.Folder,
        answer=schema.FolderNames,
    ),
    Endpoint(
        "GET",
        "/neighbours",
        "Stream the nearest others of every stored image, as JSON Lines or as an Arrow stream.",
        _lists,
        query=schema.Lists,
        answer=(LINES, ARROW),
    ),
    Endpoint(
        "GET",
        "/activity",
        "Say how many images are stored, and what runs beside.",
        lambda service, _: service.review.activity(),
        answer=schema.Activity,
    ),
    Endpoint(
        "GET",
        "/duplicates",
        "List groups of near-duplicates, a page at a time; ask again until there is no progress.",
        lambda service, call: service.review.duplicates(call.query),
        query=schema.Duplicates,
        answer=schema.DuplicatePage,
    ),
    Endpoint(
        "POST",
        "/duplicates/ignore",
        "Remember that images are no duplicates of the first one.",
        lambda service, call: service.review.ignore(call.body),
        body=schema.Judged,
        answer=schema.Change,
    ),
    Endpoint(
        "POST",
        "/duplicates/unignore",
        "Forget that images are no duplicates of the first one.",
        lambda service, call: service.review.unignore(call.body),
        body=schema.Judged,
        answer=schema.Change,
    ),
    Endpoint(
        "POST",
        "/duplicates/move",
        "Move images away, as another one is kept.",
        lambda service, call: service.review.move(call.body),
        body=schema.Moved,
        answer=schema.Change,
    ),
    Endpoint(
        "POST",
        "/duplicates/undo",
        "Bring back what was moved away.",
        lambda service, call: service.review.undo(call.body),
        body=schema.Undone,
        answer=schema.Change,
    ),
    Endpoint(
        "GET",
        "/outliers",
        "List the images that are farthest from all others; ask again until there is no progress.",
        lambda service, call: service.review.outliers(call.query),
        query=schema.AskedOutliers,
        answer=schema.OutlierPage,
    ),
    Endpoint(
        "GET",
        "/evaluation",
        "Say how well labelled images are retrieved; ask again until there is no progress.",
        lambda service, call: service.review.sheet(call.query),
        query=schema.AskedSheet,
        answer=schema.Sheet,
    ),
    Endpoint(
        "GET",
        "/map",
        "Lay out a map of all images; ask again until there is no progress.",
        lambda service, call: service.review.map(call.query),
        query=schema.AskedMap,
        answer=schema.Finding,
    ),
    Endpoint(
        "GET",
        "/map/page",
        "Return the page of a map that was laid out.",
        _map_page,
        query=schema.AskedMap,
        answer=HTML,
    ),
)
