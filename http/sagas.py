"""Sagas over HTTP: what orders wait for, and where people are needed. Read only: they are mended through orders and payments."""

from typing import Annotated, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from orderflow.http.calls import Call, view_response
from orderflow.http.problems import Problem
from orderflow.http.reads import SagaItem
from orderflow.http.routing import Route
from orderflow.http.views import OrderSagasView, SagaListView, SagaView, rfc3339

PATH = "/api/v1/sagas"


class SagaQuery(BaseModel):
    """Which sagas to list: all that are under way, or only the stuck ones, or those of one type."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stuck: Literal["true", "false"] = "false"
    type: Literal["place", "edit", "cancel", "handover", "payment"] | None = None
    limit: Annotated[int, Field(ge=1, le=500)] | None = None


async def list_sagas(call: Call) -> web.StreamResponse:
    query = call.query(SagaQuery)
    settings = call.parts.settings
    limit = min(query.limit or settings.list_default, settings.list_max)
    found = await call.parts.reads.sagas(limit, query.model_dump(exclude={"limit"}, exclude_none=True))
    view = SagaListView(
        total=found.total,
        by_type=found.by_label,
        items=[saga_view(item) for item in found.items],
        caught_up=found.caught_up,
        complete=not found.partitions_missing,
        partitions_missing=found.partitions_missing,
    )
    return view_response(200, view)


async def get_sagas(call: Call) -> web.StreamResponse:
    order_id = call.id("id")
    found = await call.parts.reads.sagas_of(order_id)
    if found is None:
        raise Problem("NOT_FOUND", f"there is no order {order_id}", members={"order_id": order_id})
    view = OrderSagasView(
        order_id=found.order_id,
        state=found.status.lower(),
        reason=found.reason,
        caught_up=found.caught_up,
        items=[saga_view(item) for item in found.items],
    )
    return view_response(200, view)


def saga_view(saga: SagaItem) -> SagaView:
    return SagaView(
        saga_id=saga.saga_id,
        type=saga.saga_type,
        order_id=saga.order_id,
        step=saga.step,
        since=rfc3339(saga.since),
        waited_s=saga.waited_s,
        due_at=None if saga.due_at is None else rfc3339(saga.due_at),
        waits_for=list(saga.waits_for),
        compensating=saga.compensating,
        stuck=saga.stuck,
    )


ROUTES = (
    Route(
        "GET",
        PATH,
        list_sagas,
        "List what is under way, at most 500, the longest wait first; stuck=true only what needs people.",
        "sagas",
        {200: SagaListView},
        query=SagaQuery,
        problems=(400, 503),
    ),
    Route("GET", PATH + "/{id}", get_sagas, "What is under way for an order.", "sagas", {200: OrderSagasView}, problems=(400, 404, 503)),
)
