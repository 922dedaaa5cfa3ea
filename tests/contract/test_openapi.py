"""The OpenAPI document: valid, complete, served, and the same as the committed copy."""

import asyncio
import json
import re
from pathlib import Path

from aiohttp.test_utils import TestClient, TestServer
from openapi_spec_validator import OpenAPIV31SpecValidator

from orderflow.http.calls import Parts
from orderflow.http.edge import Edge, build_app
from orderflow.http.gateway import KafkaGateway
from orderflow.http.limits import Strangers
from orderflow.http.meters import Meters
from orderflow.http.openapi import document, table
from orderflow.http.owners import Owners
from orderflow.http.reads import Reads
from orderflow.http.settings import EdgeSettings
from orderflow.http.timeline import Timeline
from orderflow.schemas.catalog import PRECONDITION_FAILED, REASONS, Catalog
from orderflow.streams.records import Records

COMMITTED = Path(__file__).parents[2] / "docs/reference/openapi.json"


def edge() -> Edge:
    """Composed, not started: nothing of Kafka is touched."""
    settings = EdgeSettings(profile="demo")
    records = Records(Catalog(), {subject.name: number for number, subject in enumerate(Catalog().subjects(), 1)})
    gateway = KafkaGateway(settings, records, 16)
    reads = Reads(Owners({"orders": 4, "stock": 4}), settings)
    return Edge(Parts(settings, gateway, reads, Timeline(settings, records), Meters(), asyncio.Event(), Strangers(1000)), ())


def test_the_document_is_valid_openapi_3_1() -> None:
    OpenAPIV31SpecValidator(document()).validate()


def test_every_route_of_the_application_is_in_the_document() -> None:
    served = {
        (route.method.lower(), route.resource.canonical)
        for route in build_app(edge()).router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    described = {(method, path) for path, item in document()["paths"].items() for method in item}
    assert described == served
    assert len(described) == len(table())


def test_the_missions_routes_are_there() -> None:
    described = {f"{method.upper()} {path}" for path, item in document()["paths"].items() for method in item}
    assert described >= {
        "POST /api/v1/orders",
        "GET /api/v1/orders",
        "GET /api/v1/orders/{id}",
        "POST /api/v1/orders/{id}/cancel",
        "GET /api/v1/stock/{sku}",
        "GET /api/v1/inventory/{sku}",
        "POST /api/v1/stock/receipts",
        "POST /api/v1/stock/adjust",
        "GET /api/v1/reservations",
        "POST /api/v1/fulfillment/{id}/status",
        "GET /health/live",
        "GET /health/ready",
        "GET /metrics",
        "GET /openapi.json",
    }


def test_operations_have_their_own_id_a_known_tag_and_an_answer() -> None:
    operations = [operation for item in document()["paths"].values() for operation in item.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    assert {tag for operation in operations for tag in operation["tags"]} == {tag["name"] for tag in document()["tags"]}
    for operation in operations:
        assert any(status.startswith("2") for status in operation["responses"])


def test_parameters_of_a_path_are_those_it_names() -> None:
    for path, item in document()["paths"].items():
        for operation in item.values():
            named = [parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "path"]
            assert named == re.findall(r"{(\w+)}", path)


def test_problems_are_described_with_statuses_that_reasons_have() -> None:
    known = {*REASONS.values(), PRECONDITION_FAILED, 413}
    for route in table():
        assert set(route.problems) <= known, route.template
        for status in route.problems:
            answer = document()["paths"][route.path][route.method.lower()]["responses"][str(status)]
            assert answer["content"].keys() == {"application/problem+json"} or status in route.answers


async def test_the_document_is_served() -> None:
    async with TestClient(TestServer(build_app(edge()))) as client:
        answer = await client.get("/openapi.json")
        assert await answer.json() == json.loads(json.dumps(document()))


def test_the_committed_copy_is_the_present_document() -> None:
    """Write it anew with `python -m orderflow.http.openapi > docs/reference/openapi.json`."""
    assert json.loads(COMMITTED.read_text()) == json.loads(json.dumps(document()))
