"""The application: routes, and what answers a request in a thread."""

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_origin
from urllib.parse import parse_qsl

import anyio
from anyio import to_thread
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from imgsim.directory import Directory
from imgsim.server.endpoints import ENDPOINTS, JSON, Call, Endpoint, as_json
from imgsim.server.guard import Guard
from imgsim.server.openapi import document
from imgsim.server.problems import FAILURES, problem, problem_of
from imgsim.server.refusals import NoSuchImage
from imgsim.server.service import Service
from imgsim.server.settings import ServerSettings

API = "/api/v1"
_STATIC = Path(__file__).parent / "static"
_PAGES = {
    "/": "browse.html",
    "/image/{id:int}": "image.html",
    "/search": "search.html",
    "/duplicates": "duplicates.html",
    "/outliers": "outliers.html",
    "/map": "map.html",
    "/evaluation": "evaluation.html",
    "/favicon.ico": "icon.svg",
}
_LARGEST_ID = (1 << 63) - 1

Answer = Callable[[Request], Awaitable[Response]]


def create_app(directory: Directory, settings: ServerSettings) -> Starlette:
    """Return the ASGI application that serves a collection; closing that is up to the caller."""
    service = Service(directory, settings)
    desk = Desk(service, settings)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        service.close()

    routes = [
        Route(API + _numbered(each.path), Counter(desk, each), methods=[each.method])
        for each in ENDPOINTS
    ]
    routes += [
        Route(f"{API}/openapi.json", lambda _: Response(document(), media_type=JSON)),
        Route(f"{API}/metrics", desk.metrics),
        *(Route(path, _page(name)) for path, name in _PAGES.items()),
    ]
    static = Mount("/static", StaticFiles(directory=_STATIC))
    return Starlette(
        routes=[*routes, static],
        middleware=[Middleware(Guard, settings=settings)],
        exception_handlers={HTTPException: _refused},
        lifespan=lifespan,
    )


@dataclass(frozen=True)
class Counter:
    """Where requests for one endpoint are answered: an ASGI application."""

    desk: "Desk"
    endpoint: Endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, which is under way until all of the answer is sent."""
        began = time.perf_counter()
        with self.desk.serving() as is_free:
            response = problem(503, "the server is busy; try again in a second")
            if is_free:
                response = await self.desk.answer(self.endpoint, Request(scope, receive))
            self.desk.note(self.endpoint, response, time.perf_counter() - began)
            await response(scope, receive, send)


class Desk:
    """Answers requests in a thread for each core; some others wait, and more are sent away."""

    def __init__(self, service: Service, settings: ServerSettings) -> None:
        self._service = service
        cores = os.cpu_count() or 1
        self._most = cores + settings.waiting
        self._limiter = anyio.CapacityLimiter(cores)
        self._under_way = 0
        self._answered: dict[tuple[str, int], int] = {}
        self._seconds: dict[str, float] = {}

    @contextmanager
    def serving(self) -> Iterator[bool]:
        """Count a request as under way; say whether it is not one too many."""
        self._under_way += 1
        try:
            yield self._under_way <= self._most
        finally:
            self._under_way -= 1

    def note(self, endpoint: Endpoint, response: Response, seconds: float) -> None:
        """Count an answer, which took so long until its first byte."""
        key = endpoint.path, response.status_code
        self._answered[key] = self._answered.get(key, 0) + 1
        self._seconds[endpoint.path] = self._seconds.get(endpoint.path, 0) + seconds

    async def metrics(self, _: Request) -> Response:
        """Return what was answered so far, in the text format of Prometheus."""
        lines = ["# TYPE imgsim_responses counter"]
        for (path, status), count in sorted(self._answered.items()):
            lines.append(f'imgsim_responses{{path="{path}",status="{status}"}} {count}')
        lines.append("# TYPE imgsim_seconds counter")
        for path, seconds in sorted(self._seconds.items()):
            lines.append(f'imgsim_seconds{{path="{path}"}} {seconds:.6f}')
        for name, now in (
            ("imgsim_under_way", self._under_way),
            ("imgsim_waiting", self._limiter.statistics().tasks_waiting),
            ("imgsim_shards", self._service.shards),
        ):
            lines += [f"# TYPE {name} gauge", f"{name} {now:g}"]
        return PlainTextResponse("\n".join(lines) + "\n")

    async def answer(self, endpoint: Endpoint, request: Request) -> Response:
        """Return the answer to a request for an endpoint."""
        try:
            body = await request.body() if endpoint.body is not None else b""
            answer = await to_thread.run_sync(
                self._answer, endpoint, request, body, limiter=self._limiter
            )
        except FAILURES as error:
            return problem_of(error)
        return as_json(answer) if isinstance(answer, BaseModel) else answer

    def _answer(self, endpoint: Endpoint, request: Request, body: bytes) -> BaseModel | Response:
        """Return an answer, in a thread: what a large body says takes time and memory."""
        return endpoint.handle(self._service, _call(endpoint, request, body))


def _call(endpoint: Endpoint, request: Request, content: bytes) -> Call:
    """Return what a request asks, or raise what is wrong with it."""
    number = request.path_params.get("id", 0)
    if number > _LARGEST_ID:
        raise NoSuchImage("no stored image has this id")
    query: Any = None
    if endpoint.query is not None:
        query = endpoint.query.model_validate(_parameters(endpoint.query, request))
    body: Any = content
    if isinstance(endpoint.body, type):
        body = endpoint.body.model_validate_json(content)
    return Call(number, query, body, request.headers)


def _parameters(model: type[BaseModel], request: Request) -> dict[str, Any]:
    """Return the parameters of a query; those that may be repeated are lists.

    Bytes that are not UTF-8 become lone surrogates, as in the paths of answers.
    """
    found: dict[str, Any] = {}
    for name, value in parse_qsl(request.url.query, True, errors="surrogateescape"):
        field = model.model_fields.get(name)
        if field is not None and get_origin(field.annotation) is list:
            found.setdefault(name, []).append(value)
        else:
            found[name] = value
    return found


def _numbered(path: str) -> str:
    return path.replace("{id}", "{id:int}")


def _page(name: str) -> Answer:
    async def page(_: Request) -> Response:
        return FileResponse(_STATIC / name, headers={"cache-control": "no-cache"})

    return page


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # Starlette's type of a handler is wider
    return problem(error.status_code, error.detail)
