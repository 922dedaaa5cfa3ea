"""Holds over HTTP: stop an order for a reason, and let it go on."""

from collections.abc import Callable
from typing import Annotated

from aiohttp import web
from msgspec import Struct
from pydantic import BaseModel, Field

from orderflow.http.bodies import Body
from orderflow.http.calls import Call
from orderflow.http.orders import PATH, REFUSED, change_order
from orderflow.http.routing import Route
from orderflow.http.views import AcceptedView, OrderView
from orderflow.streams.domain.order_records import PlaceHold, ReleaseHold


class HoldBody(Body):
    """Why, in words; no personal data."""

    reason: Annotated[str, Field(max_length=200)] = ""


async def place_hold(call: Call) -> web.StreamResponse:
    """A repeat finds the order held and answers the same."""
    return await _changed(call, lambda *asked: PlaceHold(*asked))


async def release_hold(call: Call) -> web.StreamResponse:
    """A repeat finds the hold gone and answers the same."""
    return await _changed(call, lambda *asked: ReleaseHold(*asked))


async def _changed(call: Call, asking: Callable[[str, str], Struct]) -> web.StreamResponse:
    order_id, hold = call.id("id"), call.id("hold").upper()
    body = await call.body(HoldBody)
    return await change_order(call, order_id, asking(hold, body.reason), call.name(body, f"{order_id}/{hold}"))


def _route(method: str, summary: str) -> Route:
    handler = place_hold if method == "POST" else release_hold
    answers: dict[int, type[BaseModel] | None] = {200: OrderView, 202: AcceptedView}
    return Route(method, PATH + "/{id}/holds/{hold}", handler, summary, "orders", answers, body=HoldBody, problems=REFUSED)


ROUTES = (
    _route("POST", "Hold an order: nothing is handed over and nothing captured until it is released."),
    _route("DELETE", "Release a hold; without the last one the order goes on."),
)
