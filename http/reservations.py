"""Reservations over HTTP: what stock keeps for orders, and which of it is late."""

from typing import Annotated, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from orderflow.http.calls import Call, view_response
from orderflow.http.routing import Route
from orderflow.http.views import ReservationListView, ReservationView, rfc3339


class ReservationQuery(BaseModel):
    """Which reservations to list: those that wait for a due time, or only those whose due time has passed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    overdue: Literal["true", "false"] = "false"
    limit: Annotated[int, Field(ge=1, le=500)] | None = None


async def list_reservations(call: Call) -> web.StreamResponse:
    query = call.query(ReservationQuery)
    settings = call.parts.settings
    limit = min(query.limit or settings.list_default, settings.list_max)
    found = await call.parts.reads.reservations(limit, {"overdue": query.overdue})
    items = [
        ReservationView(
            reservation_id=item.reservation_id,
            sku=item.sku,
            order_id=item.holder.order_id,
            status=item.status.lower(),
            quantity=item.quantity,
            due_at=None if item.due_at is None else rfc3339(item.due_at),
            overdue_s=item.overdue_s,
        )
        for item in found.items
    ]
    view = ReservationListView(
        total=found.total,
        items=items,
        caught_up=found.caught_up,
        complete=not found.partitions_missing,
        partitions_missing=found.partitions_missing,
    )
    return view_response(200, view)


ROUTES = (
    Route(
        "GET",
        "/api/v1/reservations",
        list_reservations,
        "List reservations with a due time; overdue=true only those whose due time has passed.",
        "stock",
        {200: ReservationListView},
        query=ReservationQuery,
        problems=(400, 503),
    ),
)
