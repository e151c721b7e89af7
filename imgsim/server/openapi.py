"""The OpenAPI document, made from the endpoints."""

import json
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from imgsim import __version__
from imgsim.server.endpoints import ENDPOINTS, JSON, Endpoint
from imgsim.server.schema import Problem

_REFERENCE = "#/components/schemas/{model}"


@cache
def document() -> str:
    """Return the OpenAPI 3.1 document as JSON."""
    models = [
        (each, "validation")
        for endpoint in ENDPOINTS
        for each in (endpoint.body, endpoint.answer)
        if isinstance(each, type)
    ]
    _, definitions = models_json_schema(
        [*models, (Problem, "validation")],  # type: ignore[list-item] # literals are inferred as str
        ref_template=_REFERENCE,
    )
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in ENDPOINTS:
        operations = paths.setdefault(f"/api/v1{endpoint.path}", {})
        operations[endpoint.method.lower()] = _operation(endpoint)
    facts = {
        "openapi": "3.1.0",
        "info": {"title": "imgsim", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }
    return json.dumps(facts, indent=1)


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    problem = {"application/problem+json": {"schema": _reference(Problem)}}
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "parameters": [*_path_parameters(endpoint), *_query_parameters(endpoint)],
        "responses": {
            "200": {"description": "the answer", "content": _content(endpoint.answer)},
            "default": {"description": "a problem", "content": problem},
        },
    }
    if endpoint.body is not None:
        operation["requestBody"] = {"required": True, "content": _content(endpoint.body)}
    return operation


def _content(kind: type[BaseModel] | str | tuple[str, ...]) -> dict[str, Any]:
    if isinstance(kind, str | tuple):
        return {each: {} for each in ([kind] if isinstance(kind, str) else kind)}
    return {JSON: {"schema": _reference(kind)}}


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(model=model.__name__)}


def _path_parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    if "{id}" not in endpoint.path:
        return []
    number = {"type": "integer", "minimum": 1, "maximum": (1 << 63) - 1}
    return [{"name": "id", "in": "path", "required": True, "schema": number}]


def _query_parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    if endpoint.query is None:
        return []
    whole = endpoint.query.model_json_schema()
    needed = whole.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in needed, "schema": schema}
        for name, schema in whole["properties"].items()
    ]
