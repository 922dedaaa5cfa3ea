"""Cash on delivery over HTTP: people confirm the order, and say what the courier has collected."""

from typing import Annotated

from aiohttp import web
from pydantic import Field

from orderflow.http import bodies
from orderflow.http.bodies import Body
from orderflow.http.calls import Call
from orderflow.http.orders import PATH as ORDERS
from orderflow.http.orders import change_order
from orderflow.http.payments import PATH, PROBLEMS, moved
from orderflow.http.routing import Route
from orderflow.http.views import AcceptedView, OrderView, PaymentView
from orderflow.streams.domain.parts import Money
from orderflow.streams.domain.payment_records import ConfirmCod, ConfirmCodCollection


class ConfirmCodBody(Body):
    """What people noted; no personal data."""

    note: Annotated[str, Field(max_length=200)] = ""


class CollectionBody(Body):
    """What was collected, also where another amount was due."""

    amount: bodies.Money
    reference: str = Field("", pattern=r"^[A-Za-z0-9._-]{0,64}$", description="What the courier calls it.")


async def confirm_cod(call: Call) -> web.StreamResponse:
    """A repeat finds the order confirmed and answers the same."""
    order_id = call.id("id")
    body = await call.body(ConfirmCodBody)
    return await change_order(call, order_id, ConfirmCod(body.note), call.name(body, order_id))


async def record_collection(call: Call) -> web.StreamResponse:
    """Counted as captured."""
    return await moved(
        call, CollectionBody, lambda body: ConfirmCodCollection(Money(body.amount.amount_minor, body.amount.currency), body.reference), 200
    )


ROUTES = (
    Route(
        "POST",
        ORDERS + "/{id}/confirm-cod",
        confirm_cod,
        "Confirm an order that is paid on delivery, within a day.",
        "payments",
        {200: OrderView, 202: AcceptedView},
        body=ConfirmCodBody,
        problems=(400, 404, 409, 410, 412, 413, 422, 503),
    ),
    Route(
        "POST",
        PATH + "/{id}/cod-collection",
        record_collection,
        "Record what a courier has collected for goods that have left.",
        "payments",
        {200: PaymentView, 202: AcceptedView},
        body=CollectionBody,
        problems=PROBLEMS,
    ),
)
