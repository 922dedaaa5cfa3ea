"""The OpenAPI 3.1 document, made from the route table and the models, so that it cannot say what the edge does not do.

`python -m orderflow.http.openapi > docs/reference/openapi.json` writes the committed copy; a test compares the two.
"""

import json
import re
from functools import cache
from http import HTTPStatus
from typing import Any

import orjson
from aiohttp import web
from openapi_pydantic import (
    Components,
    DataType,
    Header,
    Info,
    MediaType,
    OpenAPI,
    Operation,
    Parameter,
    ParameterLocation,
    PathItem,
    Reference,
    RequestBody,
    Response,
    Schema,
    Tag,
)
from openapi_pydantic.util import PydanticSchema, construct_open_api_with_schema_class
from pydantic import BaseModel

from orderflow.http import fulfillment, health, orders, reservations, stock
from orderflow.http.calls import Call
from orderflow.http.problems import MEDIA_TYPE
from orderflow.http.routing import Route
from orderflow.http.views import ProblemView

TAGS = {
    "orders": "Place, read, list and cancel orders.",
    "stock": "Receive, adjust and read stock.",
    "fulfillment": "What warehouses and carriers report.",
    "operations": "Health, figures, this document.",
}
DESCRIPTION = (
    "Orders and stock, decided once and in order. A POST answers with the outcome; past its wait it answers 202 with the Location of "
    "the resource: read that, or repeat the request with the same Idempotency-Key. Bodies are read as JSON whatever their content type."
)
COMMAND_HEADERS = {
    "Idempotency-Key": "A repeat with the same key and body meets its first answer; another body is refused.",
    "If-Match": "The version the command expects, as an ETag.",
    "X-Request-Id": "Becomes the correlation id of every record that follows.",
    "traceparent": "W3C trace context, carried on every record that follows.",
}
HEADINGS = {
    413: "The body is too large.",
    503: "The log or a partition's owner does not answer; repeat after Retry-After.",
}


async def serve_document(call: Call) -> web.StreamResponse:
    return web.Response(body=orjson.dumps(document()), content_type="application/json")


ROUTES = (Route("GET", "/openapi.json", serve_document, "This document.", "operations", {200: None}),)


def table() -> tuple[Route, ...]:
    """Every route of the edge."""
    return (*orders.ROUTES, *stock.ROUTES, *reservations.ROUTES, *fulfillment.ROUTES, *health.ROUTES, *ROUTES)


@cache
def document() -> dict[str, Any]:
    """The document as JSON values; the same for every configuration. Do not change it: it is kept."""
    paths: dict[str, PathItem] = {}
    for route in table():
        item = paths.setdefault(route.path, PathItem())
        setattr(item, route.method.lower(), _operation(route))
    described = OpenAPI(
        info=Info(title="orderflow", version="1", description=DESCRIPTION),
        tags=[Tag(name=name, description=text) for name, text in TAGS.items()],
        paths=paths,
        components=Components(),
    )
    complete = construct_open_api_with_schema_class(described, by_alias=True)
    found: dict[str, Any] = json.loads(complete.model_dump_json(by_alias=True, exclude_none=True))
    return found


def _operation(route: Route) -> Operation:
    responses = {str(status): _success(status, view) for status, view in route.answers.items()}
    for status in route.problems:
        content = {MEDIA_TYPE: MediaType(schema=PydanticSchema(schema_class=ProblemView))}
        responses.setdefault(str(status), Response(description=_phrase(status), content=content))
    body = None
    if route.body is not None:
        required = any(field.is_required() for field in route.body.model_fields.values())
        body = RequestBody(required=required, content={"application/json": MediaType(schema=PydanticSchema(schema_class=route.body))})
    return Operation(
        operationId=route.handler.__name__,
        summary=route.summary,
        tags=[route.tag],
        parameters=_parameters(route) or None,
        requestBody=body,
        responses=responses,
    )


def _success(status: int, view: type[BaseModel] | None) -> Response:
    headers: dict[str, Header | Reference] = {}
    if status in (201, 202):
        headers["Location"] = Header(description="The resource itself.", schema=Schema(type=DataType.STRING))
    if view is not None and "version" in view.model_fields:
        headers["ETag"] = Header(description="The entity's version.", schema=Schema(type=DataType.STRING))
    content = None if view is None else {"application/json": MediaType(schema=PydanticSchema(schema_class=view))}
    return Response(description=_phrase(status), headers=headers or None, content=content)


def _phrase(status: int) -> str:
    return HEADINGS.get(status, HTTPStatus(status).phrase)


def _parameters(route: Route) -> list[Parameter | Reference]:
    found: list[Parameter | Reference] = []
    for name in re.findall(r"{(\w+)}", route.path):
        schema = Schema(type=DataType.STRING, pattern=route.id_pattern)
        found.append(Parameter(name=name, param_in=ParameterLocation.PATH, required=True, schema=schema))
    if route.query is not None:
        for name, schema_json in route.query.model_json_schema()["properties"].items():
            schema_json.pop("title", None)
            schema_json.pop("default", None)
            found.append(Parameter(name=name, param_in=ParameterLocation.QUERY, schema=Schema.model_validate(schema_json)))
    if route.body is not None:
        found += [_header(name, text) for name, text in COMMAND_HEADERS.items()]
    return found


def _header(name: str, text: str) -> Parameter:
    return Parameter(name=name, param_in=ParameterLocation.HEADER, description=text, schema=Schema(type=DataType.STRING))


if __name__ == "__main__":
    print(json.dumps(document(), indent=2, sort_keys=True))
