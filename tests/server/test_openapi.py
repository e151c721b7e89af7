"""The OpenAPI document against the service: requests that follow from it, and what they get."""

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.server.test_server import KEY, client_of

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
]
HEADERS = {"authorization": f"Bearer {KEY}", "host": "127.0.0.1:8765"}


@pytest.fixture
def described(filled):
    with client_of(filled.path) as client:
        yield schemathesis.openapi.from_asgi(
            "/api/v1/openapi.json", client.app, headers=HEADERS
        )


schema = schemathesis.pytest.from_fixture("described")


@schema.parametrize()
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
def test_answers_are_as_the_document_says(case):
    case.call_and_validate(headers=HEADERS, checks=CHECKS)
