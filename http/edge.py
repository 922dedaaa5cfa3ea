"""The edge: a stateless HTTP application in front of the log. It composes the parts, guards every request and drains on a signal.

The whole edge is four moves: refuse what is malformed, send a command, wait for its outcome, show what its owner has committed.
"""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from orderflow.http import limits, openapi
from orderflow.http.calls import REQUEST_ID, Parts, request_id_in
from orderflow.http.feed import Feed, Source
from orderflow.http.gateway import KafkaGateway
from orderflow.http.meters import Meters
from orderflow.http.owners import Owners
from orderflow.http.problems import Problem
from orderflow.http.reads import Reads
from orderflow.http.senders import Nobody, Senders
from orderflow.http.settings import EdgeSettings
from orderflow.http.timeline import Timeline, consumer_config
from orderflow.schemas.catalog import Catalog
from orderflow.schemas.registry import RegistryError
from orderflow.streams.records import Records

log = structlog.get_logger(__name__)

SPACES = ("orders", "stock")
"""The key spaces whose owners the edge asks."""
SCHEMA_CACHE = "schemas.json"
SAFE_HEADERS = {"Server": "orderflow", "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
QUIET = ("/health/live", "/health/ready", "/metrics")


class StartRefused(Exception):
    """The edge will not start; `reasons` are all of them, each saying what to do."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


class Service(Protocol):
    """A part with a life of its own."""

    async def start(self) -> None: ...
    async def close(self) -> None: ...


class Edge:
    """The parts, and those of them that start before the first request and close, in reverse order, after the last."""

    def __init__(self, parts: Parts, services: tuple[Service, ...]) -> None:
        self.parts = parts
        self.services = services
        self._started: list[Service] = []

    async def start(self) -> None:
        try:
            for service in self.services:
                await service.start()
                self._started.append(service)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        while self._started:
            await self._started.pop().close()


def build_app(edge: Edge) -> web.Application:
    """The application: every route of the table behind one guard."""
    app = web.Application(client_max_size=edge.parts.settings.body_bytes_max, middlewares=[_guard(edge.parts)])
    for route in openapi.table():
        if route.method == "GET":
            app.router.add_get(route.path, route.bind(edge.parts))  # HEAD too
        else:
            app.router.add_route(route.method, route.path, route.bind(edge.parts))

    async def life(_: web.Application) -> AsyncIterator[None]:
        await edge.start()
        yield
        await edge.stop()

    app.cleanup_ctx.append(life)
    return app


async def connect(settings: EdgeSettings, records: Records, senders: Senders | None = None) -> Edge:
    """An edge on Kafka; `senders` are whose webhooks are taken.

    Raises:
        StartRefused: the broker does not answer, or topics are missing.
    """
    names = [records.of(space).commands for space in SPACES]
    counts = await asyncio.to_thread(_partition_counts, settings, [*names, records.replies_topic, records.workers_topic])
    gateway = KafkaGateway(settings, records, counts[records.replies_topic])
    owners = Owners({space: counts[name] for space, name in zip(SPACES, names, strict=True)})
    reads = Reads(owners, settings)
    strangers = limits.Strangers(settings.webhooks_unverified_max)
    parts = Parts(settings, gateway, reads, Timeline(settings, records), Meters(), asyncio.Event(), strangers, senders or Nobody())
    feed = Feed(consumer_config(settings), _sources(records, gateway, owners), settings.start_timeout_s, gateway.fail)
    return Edge(parts, (reads, gateway, feed))


async def serve(
    settings: EdgeSettings,
    *,
    senders: Senders | None = None,
    stop: asyncio.Event | None = None,
    started: Callable[[str], None] = lambda url: None,
) -> None:
    """Run an edge until `stop` is set, or without one until SIGTERM or SIGINT; open requests then have drain_timeout_s to finish.

    `senders` are whose webhooks are taken. `started` hears the address once requests are taken.

    Raises:
        StartRefused: the settings are refused (deny by default), the broker does not answer, topics or schema ids are missing.
        KafkaException: the producer failed for good; start the process again.
    """
    reasons = settings.refusals()
    if reasons:
        raise StartRefused(reasons)
    stop = stop or _stop_on_signal()
    edge = await connect(settings, await asyncio.to_thread(load_records, settings), senders)
    runner = web.AppRunner(
        build_app(edge),
        access_log=None,
        shutdown_timeout=settings.drain_timeout_s,
        max_line_size=2 * settings.url_bytes_max,
        max_field_size=2 * settings.header_bytes_max,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.host, settings.port).start()
        url = f"http://{settings.host}:{runner.addresses[0][1]}"
        log.info("edge.started", url=url, profile=settings.profile)
        started(url)
        await _until(stop, edge)
    finally:
        edge.parts.draining.set()
        log.info("edge.draining", in_flight=edge.parts.gateway.in_flight)
        await runner.cleanup()


def _guard(parts: Parts) -> Middleware:
    """Limits before, problems after, one log line and two figures for every request. Nothing of a caller's own is logged."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        began = time.perf_counter()
        request_id = request[REQUEST_ID] = request_id_in(request.headers)
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else "unmatched"
        response = await _answer(request, handler, parts.settings, request_id)
        response.headers.update({**SAFE_HEADERS, "X-Request-Id": request_id})
        seconds = time.perf_counter() - began
        method = request.method if resource is not None else "any"
        parts.meters.request(method, route, response.status, seconds)
        if route not in QUIET:
            log.info("request", method=method, route=route, status=response.status, ms=round(seconds * 1000, 1), request_id=request_id)
        return response

    return guard


async def _answer(request: web.Request, handler: Handler, settings: EdgeSettings, request_id: str) -> web.StreamResponse:
    try:
        limits.check_size(request, settings)
        limits.check_origin(request, settings)
        return await handler(request)
    except Problem as problem:
        return problem.response(request_id)
    except web.HTTPException as refusal:
        code = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED"}.get(refusal.status, "HTTP_ERROR")
        allow = {"Allow": refusal.headers["Allow"]} if "Allow" in refusal.headers else {}
        return Problem(code, refusal.reason, status=refusal.status, headers=allow).response(request_id)
    except Exception:
        log.exception("request.failed", request_id=request_id)
        return Problem("INTERNAL", "the edge failed on this request", status=500).response(request_id)


def _sources(records: Records, gateway: KafkaGateway, owners: Owners) -> tuple[Source, ...]:
    edge_key = gateway.edge_id.encode()

    def reply(key: bytes, value: bytes | None) -> None:
        if key == edge_key and value is not None:
            gateway.hear(value)

    def owner(key: bytes, value: bytes | None) -> None:
        owners.hear(key.decode(), None if value is None else records.decode_worker(value))

    def owners_read() -> None:
        owners.read_to_end = True

    return (
        Source(records.replies_topic, gateway.partition, False, reply, lambda: None),
        Source(records.workers_topic, 0, True, owner, owners_read),
    )


def load_records(settings: EdgeSettings) -> Records:
    """The codecs under the registry's ids, or under those kept in the data directory while it does not answer. Raises StartRefused."""
    try:
        return Records.load(Catalog(settings.prefix, settings.partitions), settings.registry, settings.data / SCHEMA_CACHE)
    except RegistryError as error:
        raise StartRefused([f"schema ids: {error}"]) from None


def _partition_counts(settings: EdgeSettings, topics: list[str]) -> dict[str, int]:
    """How many partitions each topic has. Raises StartRefused naming every one that is missing."""
    admin = AdminClient({"bootstrap.servers": settings.bootstrap})
    try:
        known = admin.list_topics(timeout=settings.start_timeout_s).topics
    except KafkaException:
        raise StartRefused([f"ORDERFLOW_BOOTSTRAP={settings.bootstrap}: no broker answers there"]) from None
    missing = [topic for topic in topics if topic not in known]
    if missing:
        raise StartRefused([f"topic {topic} is missing: run `orderflow topics apply`" for topic in missing])
    return {topic: len(known[topic].partitions) for topic in topics}


def _stop_on_signal() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def _until(stop: asyncio.Event, edge: Edge) -> None:
    """Wait for the signal, or for the producer to fail for good (then raise)."""
    asked, failed = asyncio.create_task(stop.wait()), asyncio.create_task(edge.parts.gateway.failed())
    try:
        done, _ = await asyncio.wait({asked, failed}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in (asked, failed):
            task.cancel()
