"""What warehouses and carriers report: how far a fulfillment is, and that goods have arrived."""

import time
from datetime import datetime

from aiohttp import web

from orderflow.http.bodies import CHILD_PATTERN, DeliveryBody, StatusBody, UndeliveredBody
from orderflow.http.calls import Call
from orderflow.http.orders import PATH as ORDERS
from orderflow.http.orders import REFUSED, change_order
from orderflow.http.routing import Route
from orderflow.http.views import AcceptedView, OrderView, micros
from orderflow.streams.domain.order_records import LineQuantity, PostFulfillmentStatus, RecordDelivery, RecordUndelivered


async def post_fulfillment_status(call: Call) -> web.StreamResponse:
    """The id is a fulfillment's, or its order's when it has one. A post ahead of its predecessor waits: 202, final when that arrives."""
    target_id = call.id("id")
    body = await call.body(StatusBody)
    command = PostFulfillmentStatus(
        target_id=target_id,
        status="canceled" if body.status == "cancelled" else body.status,
        caller_seq=body.seq,
        lines=tuple(LineQuantity(line.line_id, line.quantity) for line in body.lines),
    )
    return await change_order(call, target_id.partition("~")[0], command, call.name(body, target_id))


async def record_delivery(call: Call) -> web.StreamResponse:
    """What a carrier would post: of one fulfillment, or of all that are shipped."""
    target_id = call.id("id")
    order_id, child, _ = target_id.partition("~")
    body = await call.body(DeliveryBody)
    command = RecordDelivery(
        shipment_id=body.shipment_id or "",
        fulfillment_id=target_id if child else "",
        delivered_at=_at(body.delivered_at),
        proof_ref=body.proof_ref or "",
    )
    return await change_order(call, order_id, command, call.name(body, target_id))


async def record_undelivered(call: Call) -> web.StreamResponse:
    """Of one fulfillment, or of all that are shipped. The order ends canceled when nothing of it was delivered."""
    target_id = call.id("id")
    order_id, child, _ = target_id.partition("~")
    body = await call.body(UndeliveredBody)
    command = RecordUndelivered(body.reason, body.shipment_id or "", target_id if child else "", _at(body.failed_at))
    return await change_order(call, order_id, command, call.name(body, target_id))


def _at(said: datetime | None) -> int:
    """What the body says, or now, in microseconds."""
    return time.time_ns() // 1000 if said is None else micros(said)


ROUTES = (
    Route(
        "POST",
        "/api/v1/fulfillment/{id}/status",
        post_fulfillment_status,
        "Report how far a fulfillment is; a lower status than the present one is recorded and changes nothing.",
        "fulfillment",
        {200: OrderView, 202: AcceptedView},
        body=StatusBody,
        problems=REFUSED,
        id_pattern=CHILD_PATTERN,
    ),
    Route(
        "POST",
        ORDERS + "/{id}/delivery",
        record_delivery,
        "Report that goods have reached their receiver.",
        "fulfillment",
        {200: OrderView, 202: AcceptedView},
        body=DeliveryBody,
        problems=REFUSED,
        id_pattern=CHILD_PATTERN,
    ),
    Route(
        "POST",
        ORDERS + "/{id}/undelivered",
        record_undelivered,
        "Report that goods will never reach their receiver: returned to the sender, lost, or refused.",
        "fulfillment",
        {200: OrderView, 202: AcceptedView},
        body=UndeliveredBody,
        problems=REFUSED,
        id_pattern=CHILD_PATTERN,
    ),
)
