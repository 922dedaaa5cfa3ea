"""Stock over HTTP: read a SKU, receive units, correct a count."""

from datetime import date

from aiohttp import web
from msgspec import Struct

from orderflow.http import bodies
from orderflow.http.bodies import AdjustBody, ReceiptBody
from orderflow.http.calls import Call, Name, view_response
from orderflow.http.gateway import Denied
from orderflow.http.orders import money
from orderflow.http.problems import Problem
from orderflow.http.routing import Route
from orderflow.http.views import AcceptedView, StockView, micros, stock_view
from orderflow.streams.domain.stock_records import AdjustStock, ReceiveStock, StockSnapshot

PATH = "/api/v1/stock"
EPOCH = date(1970, 1, 1).toordinal()


async def get_stock(call: Call) -> web.StreamResponse:
    sku = call.id("sku")
    stock = await call.parts.reads.row("stock", "stock", sku, StockSnapshot)
    if stock is None:
        raise Problem("NOT_FOUND", f"there is no stock of {sku}", members={"sku": sku})
    return call.show(stock_view(stock), stock.version)


async def get_inventory(call: Call) -> web.StreamResponse:
    """The origin's name of the same."""
    return await get_stock(call)


async def receive_stock(call: Call) -> web.StreamResponse:
    """Goods at the dock: the first receipt of a SKU introduces it."""
    body = await call.body(ReceiptBody)
    command = ReceiveStock(
        location_id=_location(call, body.location_id),
        quantity=body.quantity,
        lot=body.lot or "",
        expires_on=None if body.expires_on is None else body.expires_on.toordinal() - EPOCH,
        received_at=None if body.received_at is None else micros(body.received_at),
        disposition=body.disposition,
        expected_ref=body.expected_ref or "",
        reference=body.reference or "",
        unit_cost=money(body.unit_cost),
    )
    return await _change(call, body.sku, command, call.name(body), 201)


async def adjust_stock(call: Call) -> web.StreamResponse:
    body = await call.body(AdjustBody)
    command = AdjustStock(
        location_id=_location(call, body.location_id),
        lot=body.lot or "",
        delta=body.delta,
        expected=body.expected,
        reason=body.reason,
        reference=body.reference or "",
        counted_at=None if body.counted_at is None else micros(body.counted_at),
    )
    return await _change(call, body.sku, command, call.name(body), 200)


async def _change(call: Call, sku: str, command: Struct, name: Name, status: int) -> web.StreamResponse:
    outcome = await call.ask("stock", sku, command, name)
    location = f"{PATH}/{sku}"
    if isinstance(outcome, Denied):
        raise call.refusal(outcome, sku=sku)
    if outcome is None or not isinstance(outcome.snapshot, StockSnapshot):
        return call.accepted(name, location, sku=sku)
    return view_response(status, stock_view(outcome.snapshot), version=outcome.snapshot.version, location=location)


def _location(call: Call, given: str | None) -> str:
    """Where. A missing location passes in the demo profile only; stock is never put into "some" place."""
    if given is None and not call.parts.settings.demo:
        raise bodies.refused([{"pointer": "/location_id", "code": "SCHEMA_INVALID", "detail": "is required"}])
    return given or call.parts.settings.default_location


REFUSED = (400, 409, 412, 413, 422, 503)
ROUTES = (
    Route("GET", PATH + "/{sku}", get_stock, "Read the stock of a SKU.", "stock", {200: StockView, 304: None}, problems=(400, 404, 503)),
    Route(
        "GET",
        "/api/v1/inventory/{sku}",
        get_inventory,
        "The same as /api/v1/stock/{sku}.",
        "stock",
        {200: StockView, 304: None},
        problems=(400, 404, 503),
    ),
    Route(
        "POST",
        PATH + "/receipts",
        receive_stock,
        "Receive units of a SKU.",
        "stock",
        {201: StockView, 202: AcceptedView},
        body=ReceiptBody,
        problems=REFUSED,
    ),
    Route(
        "POST",
        PATH + "/adjust",
        adjust_stock,
        "Correct what is on hand.",
        "stock",
        {200: StockView, 202: AcceptedView},
        body=AdjustBody,
        problems=REFUSED,
    ),
)
