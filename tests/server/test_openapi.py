"""The OpenAPI document against the service: requests that follow from it, and what they get."""

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from imgsim.server.endpoints import ENDPOINTS
from tests.server.test_server import KEY, client_of

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
]
HEADERS = {"authorization": f"Bearer {KEY}", "host": "127.0.0.1:8765"}


def test_answers_are_as_the_document_says(filled):
    with client_of(filled.path) as client:
        place = "/api/v1/openapi.json"
        described = schemathesis.openapi.from_asgi(place, client.app, headers=HEADERS)
        for endpoint in ENDPOINTS:
            operation = described[f"/api/v1{endpoint.path}"][endpoint.method]

            @settings(
                max_examples=10,
                deadline=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy())
            def ask(case):
                case.call_and_validate(headers=HEADERS, checks=CHECKS)

            ask()
