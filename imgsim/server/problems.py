"""Errors as RFC 9457 problems."""

import json
from http import HTTPStatus

from pydantic import ValidationError
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from imgsim.errors import (
    ClusterError,
    CollectionError,
    EncoderError,
    ExtraMissing,
    ImageError,
    ImageUnavailable,
    ImgsimError,
    LabelError,
    ManifestError,
    OutputError,
    RadiusUnknown,
    StoreError,
)
from imgsim.server.refusals import NoSuchImage, NotAllowed, NotReady
from imgsim.text import printable

_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (NoSuchImage, 404),
    (NotAllowed, 403),
    (NotReady, 409),
    (ClientDisconnect, 408),
    (ImageUnavailable, 410),
    (ImageError, 422),
    (EncoderError, 409),
    (RadiusUnknown, 409),
    (ExtraMissing, 501),
    (CollectionError, 503),
    (ClusterError, 503),
    (StoreError, 503),
    (ManifestError, 409),
    (OutputError, 409),
    (LabelError, 409),
    (ValueError, 400),
)


def problem(status: int, detail: str) -> Response:
    """Return the answer to a request that failed; ``detail`` says why in a line."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    headers = {"retry-after": "1"} if status == 503 else None
    return Response(
        json.dumps({**body, "detail": printable(detail)}),
        status,
        headers,
        media_type="application/problem+json",
    )


class Refused(Exception):
    """A request is not answered, with this status and for this reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


FAILURES = (
    Refused,
    ClientDisconnect,
    NoSuchImage,
    NotAllowed,
    NotReady,
    ImgsimError,
    ValueError,
    OSError,
)
"""What answering raises for requests that fail."""


def problem_of(error: Exception) -> Response:
    """Return the answer to a request that failed with one of FAILURES."""
    if isinstance(error, Refused):
        return problem(error.status, error.reason)
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        return problem(400, f"{place}: {first['msg']}" if place else first["msg"])
    if isinstance(error, OSError) and not isinstance(error, ImgsimError):
        return problem(503, error.strerror or "the disk fails")  # that of the collection
    status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
    detail = error.reason if isinstance(error, ImageError | CollectionError) else str(error)
    return problem(status, detail)
