"""The OpenAPI 3.1 document, made from the route table and the models, so that it cannot say what the edge does not do.

`python -m orderflow.http.openapi > docs/reference/openapi.json` writes the committed copy; a test compares the two.
"""

import json
import re
from functools import cache
from http import HTTPStatus
from typing import Any, Literal

import orjson
from aiohttp import web
from openapi_pydantic import OpenAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from orderflow.http import cod, fulfillment, health, holds, orders, payments, reservations, sagas, stock, webhooks
from orderflow.http.calls import Call
from orderflow.http.problems import MEDIA_TYPE
from orderflow.http.routing import Route
from orderflow.http.views import ProblemView

Json = dict[str, Any]

DESCRIPTION = (
    "Orders and stock, decided once and in order. A POST answers with the outcome; past its wait it answers 202 with the Location of "
    "the resource: read that, or repeat the request with the same Idempotency-Key. Bodies are read as JSON whatever their content type."
)
TAGS = {
    "orders": "Place, read, list, edit, hold and cancel orders.",
    "payments": "Read and move the money of orders.",
    "stock": "Receive, adjust and read stock.",
    "fulfillment": "What warehouses and carriers report.",
    "sagas": "What is under way between owners and providers, and what of it is stuck.",
    "operations": "Health, figures, this document.",
}
COMMAND_HEADERS = {
    "Idempotency-Key": "A repeat with the same key and body meets its first answer; another body is refused.",
    "If-Match": "The version the command expects, as an ETag.",
    "X-Request-Id": "Becomes the correlation id of every record that follows.",
    "traceparent": "W3C trace context, carried on every record that follows.",
}
REF = "#/components/schemas/{model}"


async def serve_document(call: Call) -> web.StreamResponse:
    return web.Response(body=orjson.dumps(document()), content_type="application/json")


ROUTES = (Route("GET", "/openapi.json", serve_document, "This document.", "operations", {200: None}),)


def table() -> tuple[Route, ...]:
    """Every route of the edge."""
    nouns = (orders, holds, payments, cod, webhooks, stock, reservations, fulfillment, sagas, health)
    return (*(route for noun in nouns for route in noun.ROUTES), *ROUTES)


@cache
def document() -> Json:
    """The document as JSON values, the same for every configuration. It is kept: do not change it."""
    paths: dict[str, Json] = {}
    for route in table():
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    described: Json = {
        "openapi": "3.1.1",
        "info": {"title": "orderflow", "version": "1", "description": DESCRIPTION},
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": paths,
        "components": {"schemas": _schemas()},
    }
    OpenAPI.model_validate(described)
    return described


def _schemas() -> Json:
    models: set[type[BaseModel]] = {ProblemView}
    for route in table():
        models |= {model for model in (route.body, *route.answers.values()) if model is not None}
    mode: Literal["validation"] = "validation"
    ordered = sorted(models, key=lambda model: model.__name__)
    _, found = models_json_schema([(model, mode) for model in ordered], ref_template=REF)
    schemas: Json = found["$defs"]
    return schemas


def _operation(route: Route) -> Json:
    responses = {str(status): _success(status, view) for status, view in route.answers.items()}
    for status in route.problems:
        responses.setdefault(str(status), {"description": HTTPStatus(status).phrase, "content": _content(ProblemView, MEDIA_TYPE)})
    responses["default"] = {"description": "Any other refusal.", "content": _content(ProblemView, MEDIA_TYPE)}
    operation: Json = {
        "operationId": route.handler.__name__,
        "summary": route.summary,
        "tags": [route.tag],
        "parameters": _parameters(route),
        "responses": responses,
    }
    if route.body is not None:
        required = any(field.is_required() for field in route.body.model_fields.values())
        operation["requestBody"] = {"required": required, "content": _content(route.body, "application/json")}
    return operation


def _content(model: type[BaseModel], media_type: str) -> Json:
    return {media_type: {"schema": {"$ref": REF.format(model=model.__name__)}}}


def _success(status: int, view: type[BaseModel] | None) -> Json:
    response: Json = {"description": HTTPStatus(status).phrase}
    headers = {}
    if status in (201, 202):
        headers["Location"] = {"description": "The resource itself.", "schema": {"type": "string"}}
    if view is not None and "version" in view.model_fields:
        headers["ETag"] = {"description": "The entity's version.", "schema": {"type": "string"}}
    if headers:
        response["headers"] = headers
    if view is not None:
        response["content"] = _content(view, "application/json")
    return response


def _parameters(route: Route) -> list[Json]:
    found: list[Json] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "pattern": route.id_pattern}}
        for name in re.findall(r"{(\w+)}", route.path)
    ]
    if route.query is not None:
        for name, schema in route.query.model_json_schema()["properties"].items():
            found.append({"name": name, "in": "query", "schema": {key: value for key, value in schema.items() if key != "title"}})
    if route.body is not None:
        for name, text in COMMAND_HEADERS.items():
            found.append({"name": name, "in": "header", "description": text, "schema": {"type": "string"}})
    return found


if __name__ == "__main__":
    print(json.dumps(document(), indent=2, sort_keys=True))
