"""How the edge is: alive (the process), ready (it can send, hear and find owners), and its figures."""

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from orderflow.http.calls import Call, view_response
from orderflow.http.routing import Route
from orderflow.http.views import AliveView, ReadyView


async def live(call: Call) -> web.StreamResponse:
    """Touches nothing: a process that answers is alive."""
    return view_response(200, AliveView())


async def ready(call: Call) -> web.StreamResponse:
    """Partitions without an owner do not make an edge unready (commands are still taken): they are told, and reads of them answer 503."""
    owners = call.parts.reads.owners
    state = ReadyView(
        ready=False,
        log=await call.parts.gateway.alive(),
        owners_read=owners.read_to_end,
        draining=call.parts.draining.is_set(),
        partitions_missing={space: owners.missing(space) for space in sorted(owners.partitions)},
    )
    is_ready = state.log and state.owners_read and not state.draining
    return view_response(200 if is_ready else 503, state.model_copy(update={"ready": is_ready}))


async def metrics(call: Call) -> web.StreamResponse:
    body = generate_latest(call.parts.meters.registry)
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})


ROUTES = (
    Route("GET", "/health/live", live, "Is the process alive?", "operations", {200: AliveView}),
    Route(
        "GET", "/health/ready", ready, "Can it serve? Says which partitions have no owner.", "operations", {200: ReadyView, 503: ReadyView}
    ),
    Route("GET", "/metrics", metrics, "Figures in the Prometheus text format.", "operations", {200: None}),
)
