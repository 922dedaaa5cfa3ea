"""Orders over HTTP: place one or many, read, list, edit, answer a shortage, cancel, look back."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import Annotated, Any

from aiohttp import web
from msgspec import Struct
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from orderflow.http import bodies
from orderflow.http.bodies import CancelBody, EditBody, Id, Line, PlaceOrderBody, PlaceOrdersBody, ShortageBody
from orderflow.http.calls import Call, Name, view_response
from orderflow.http.gateway import Denied
from orderflow.http.limits import Limits
from orderflow.http.problems import Fault, Problem
from orderflow.http.routing import Route
from orderflow.http.views import (
    AcceptedView,
    OrderListView,
    OrderView,
    PlacedListView,
    PlacedView,
    ProblemView,
    TimelineView,
    order_view,
    timeline_view,
)
from orderflow.schemas import catalog
from orderflow.streams.domain.order_records import (
    AnswerShortage,
    CancelOrder,
    EditOrder,
    LineQuantity,
    OrderSnapshot,
    PlacedLine,
    PlaceOrder,
    ShipTo,
)
from orderflow.streams.domain.parts import Money

PATH = "/api/v1/orders"
DEMO_CHANNEL = "box"


def _label(value: object) -> object:
    return "canceled" if value == "cancelled" else value


Label = Annotated[str, Field(pattern=r"^[a-z_]{1,32}$"), BeforeValidator(_label)]


class OrderQuery(BaseModel):
    """Which orders to list; labels in lower case, `cancelled` reads as `canceled`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    status: Label | None = None
    status_not: Label | None = None
    sku: Id | None = None
    customer: Id | None = None
    channel: Id | None = None
    limit: Annotated[int, Field(ge=1, le=500)] | None = None


async def place_order(call: Call) -> web.StreamResponse:
    """201 with the order, or the problem of the rule that refused it. An order that waits for its buyer has an `action_url`, and is pending."""
    body = await call.body(PlaceOrderBody)
    name = call.name(body)
    order_id, order = await _place(call, body, name)
    location = f"{PATH}/{order_id}"
    if order is None:
        return call.accepted(name, location, order_id=order_id)
    return view_response(201, order_view(order), version=order.version, location=location)


async def place_orders(call: Call) -> web.StreamResponse:
    """207: each order is placed, refused or wrong by itself. A repeat with the same key meets the first answer of each."""
    body = await call.body(PlaceOrdersBody)
    items = await asyncio.gather(*(_placed(call, index, given) for index, given in enumerate(body.orders)))
    became = Counter(BECAME.get(item.status, "refused") for item in items)
    view = PlacedListView(**{name: became[name] for name in ("placed", "pending", "refused", "not_taken")}, items=items)
    text = view.model_dump_json(exclude_none=True).encode()
    return web.Response(status=207, body=text, content_type="application/json")


BECAME = {201: "placed", 202: "pending", 503: "not_taken"}
"""Every other status is a refusal."""


async def _placed(call: Call, index: int, given: Any) -> PlacedView:
    """One order of several, and what became of it."""
    try:
        body = bodies.read(PlaceOrderBody, given, Limits.of(call.parts.settings))
        name = call.name(body, part=f"#{index}")
        order_id, order = await _place(call, body, name)
    except Problem as problem:
        for fault in problem.faults:
            if "pointer" in fault:
                fault["pointer"] = f"/orders/{index}{fault['pointer']}"
        document = ProblemView(**problem.document())
        return PlacedView(index=index, status=problem.status, order_id=document.order_id, problem=document)
    location = f"{PATH}/{order_id}"
    if order is None:
        return PlacedView(index=index, status=202, order_id=order_id, location=location, command_id=name.command_id)
    return PlacedView(index=index, status=201, order_id=order_id, location=location, order=order_view(order))


async def _place(call: Call, body: PlaceOrderBody, name: Name) -> tuple[str, OrderSnapshot | None]:
    """The order's id and the order, None without an outcome yet. Raises Problem when it is refused."""
    channel = _channel(call, body)
    order_id = body.order_id or f"ord_{name.command_id}"
    outcome = await call.ask("orders", order_id, _command(body, channel), name)
    if isinstance(outcome, Denied):
        raise call.refusal(outcome, order_id=order_id)
    order = None if outcome is None else outcome.snapshot
    return order_id, order if isinstance(order, OrderSnapshot) else None


async def get_order(call: Call) -> web.StreamResponse:
    order = await read_order(call, call.id("id"))
    return call.show(order_view(order), order.version)


async def list_orders(call: Call) -> web.StreamResponse:
    query = call.query(OrderQuery)
    settings = call.parts.settings
    limit = min(query.limit or settings.list_default, settings.list_max)
    found = await call.parts.reads.orders(limit, query.model_dump(exclude={"limit"}, exclude_none=True))
    view = OrderListView(
        total=found.total,
        by_label=found.by_label,
        items=[order_view(order) for order in found.items],
        complete=not found.partitions_missing,
        partitions_missing=found.partitions_missing,
    )
    return view_response(200, view)


async def edit_order(call: Call) -> web.StreamResponse:
    """200 with the order as it is then; 202 while more units, or their money, are asked for."""
    order_id = call.id("id")
    body = await call.body(EditBody)
    command = EditOrder(tuple(LineQuantity(line.line_id, line.quantity) for line in body.lines), body.reason)
    return await change_order(call, order_id, command, call.name(body, order_id))


async def answer_shortage(call: Call) -> web.StreamResponse:
    """200 with the order that goes on with less, or is canceled; 202 while its units are given back."""
    order_id = call.id("id")
    body = await call.body(ShortageBody)
    return await change_order(call, order_id, AnswerShortage(body.choice), call.name(body, order_id))


async def cancel_order(call: Call) -> web.StreamResponse:
    """A repeat finds the order canceled and answers the same."""
    order_id = call.id("id")
    body = await call.body(CancelBody)
    lines = tuple(LineQuantity(line.line_id, line.quantity) for line in body.lines)
    command = CancelOrder(by=call.caller.role, reason=body.reason, lines=lines)
    return await change_order(call, order_id, command, call.name(body, order_id))


async def get_timeline(call: Call) -> web.StreamResponse:
    """From the events themselves, refusals included."""
    order_id = call.id("id")
    order = await read_order(call, order_id)
    partition = call.parts.reads.owners.partition("orders", order_id)
    since_ms = None if order.placed_at is None else order.placed_at // 1000
    scan = await call.parts.timeline.of("orders", order_id, partition, since_ms)
    return view_response(200, timeline_view(order_id, scan))


async def read_order(call: Call, order_id: str) -> OrderSnapshot:
    """The order as its owner has committed it. Raises Problem when there is none."""
    order = await call.parts.reads.row("orders", "order", order_id, OrderSnapshot)
    if order is None:
        raise Problem("NOT_FOUND", f"there is no order {order_id}", members={"order_id": order_id})
    return order


async def change_order(call: Call, order_id: str, command: Struct, name: Name) -> web.StreamResponse:
    """Ask the order's owner: 200 with the order after it, 202 without an outcome yet, or the problem of the rule that refused."""
    outcome = await call.ask("orders", order_id, command, name)
    if isinstance(outcome, Denied):
        if catalog.http_code(outcome.reason) != 200:
            raise call.refusal(outcome, order_id=order_id)
        order: Struct | None = await read_order(call, order_id)  # recorded and ignored: the present state is the answer
    else:
        order = None if outcome is None else outcome.snapshot
    if not isinstance(order, OrderSnapshot):
        return call.accepted(name, f"{PATH}/{order_id}", order_id=order_id)
    return view_response(200, order_view(order), version=order.version)


def _channel(call: Call, body: PlaceOrderBody) -> str:
    """The channel. An id chosen by the caller and a missing channel pass in the demo profile only."""
    demo = call.parts.settings.demo
    faults: list[Fault] = []
    if body.order_id is not None and not demo:
        faults.append({"pointer": "/order_id", "code": "SCHEMA_INVALID", "detail": "is not chosen by the caller"})
    if body.channel is None and not demo:
        faults.append({"pointer": "/channel", "code": "SCHEMA_INVALID", "detail": "is required"})
    if faults:
        raise bodies.refused(faults)
    return body.channel or DEMO_CHANNEL


def _command(body: PlaceOrderBody, channel: str) -> PlaceOrder:
    return PlaceOrder(
        channel=channel,
        customer_ref=body.customer_ref or "",
        currency=body.currency or "",
        time_zone=body.time_zone or "",
        partial_policy=body.partial_policy or "",
        external_ref=body.external_ref or "",
        must_accept=body.must_accept,
        ship_to=None if body.ship_to is None else ShipTo(**body.ship_to.model_dump()),
        lines=tuple(_placed_lines(body.lines)),
        attributes=body.attributes,
        token_ref=body.token_ref or "",
        payment_method=body.payment_method or "",
    )


def _placed_lines(lines: list[Line]) -> Iterator[PlacedLine]:
    """Lines without an id of their own get the first free number."""
    named = {line.line_id for line in lines}
    free = (str(number) for number in count(1) if str(number) not in named)
    for line in lines:
        yield PlacedLine(
            line_id=line.line_id or next(free),
            sku=line.sku,
            quantity=line.quantity,
            unit_price=money(line.unit_price),
            discount=money(line.discount),
            tax=money(line.tax),
            location_id=line.location_id or "",
        )


def money(given: bodies.Money | None) -> Money | None:
    return None if given is None else Money(given.amount_minor, given.currency)


REFUSED = (400, 404, 409, 412, 413, 422, 503)
ROUTES = (
    Route(
        "POST",
        PATH,
        place_order,
        "Place an order: all of its lines are reserved, or as its partial policy says, and paid for where the channel says so; or none.",
        "orders",
        {201: OrderView, 202: AcceptedView},
        body=PlaceOrderBody,
        problems=(400, 402, 409, 410, 413, 422, 503, 504),
    ),
    Route(
        "POST",
        PATH + "/bulk",
        place_orders,
        "Place up to 500 orders, each by itself: what becomes of one is nothing to the others.",
        "orders",
        {207: PlacedListView},
        body=PlaceOrdersBody,
        problems=(400, 413),
    ),
    Route(
        "GET",
        PATH,
        list_orders,
        "List orders, at most 500, with how many match by label.",
        "orders",
        {200: OrderListView},
        query=OrderQuery,
        problems=(400, 503),
    ),
    Route("GET", PATH + "/{id}", get_order, "Read an order.", "orders", {200: OrderView, 304: None}, problems=(400, 404, 503)),
    Route(
        "PUT",
        PATH + "/{id}",
        edit_order,
        "Give lines of an order other quantities, before anything of it is picked: all of them or none.",
        "orders",
        {200: OrderView, 202: AcceptedView},
        body=EditBody,
        problems=(400, 402, *REFUSED[1:], 504),
    ),
    Route(
        "POST",
        PATH + "/{id}/shortage",
        answer_shortage,
        "Say for the customer what an order that waits for it is to do about a shortage.",
        "orders",
        {200: OrderView, 202: AcceptedView},
        body=ShortageBody,
        problems=REFUSED,
    ),
    Route(
        "POST",
        PATH + "/{id}/cancel",
        cancel_order,
        "Cancel an order before it is shipped, or some of its units before they are picked.",
        "orders",
        {200: OrderView, 202: AcceptedView},
        body=CancelBody,
        problems=REFUSED,
    ),
    Route(
        "GET",
        PATH + "/{id}/timeline",
        get_timeline,
        "What happened to an order, event by event.",
        "orders",
        {200: TimelineView},
        problems=(400, 404, 503),
    ),
)
