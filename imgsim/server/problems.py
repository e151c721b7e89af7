"""Errors as RFC 9457 problems."""

import json
from http import HTTPStatus

from starlette.responses import Response

from imgsim.errors import (
    CollectionError,
    EncoderError,
    ImageError,
    ImageUnavailable,
    ImgsimError,
)
from imgsim.text import printable

_STATUS: tuple[tuple[type[ImgsimError], int], ...] = (
    (ImageUnavailable, 410),
    (ImageError, 422),
    (EncoderError, 409),
    (CollectionError, 503),
)
RETRY_AFTER = {"retry-after": "1"}


def problem(status: int, detail: str) -> Response:
    """Return the answer to a request that failed; ``detail`` says why in a line."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    headers = RETRY_AFTER if status == 503 else None
    return Response(
        json.dumps({**body, "detail": printable(detail)}),
        status,
        headers,
        media_type="application/problem+json",
    )


def problem_of(error: ImgsimError) -> Response:
    """Return the answer to a request that the library refused."""
    status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
    detail = error.reason if isinstance(error, ImageError | CollectionError) else str(error)
    return problem(status, detail)
