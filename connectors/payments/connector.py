"""From the orders' log to a payment provider and back: requests are read from events, outcomes return as commands.

Calls happen here and never in a turn, so a provider that hangs blocks no order. A request is what `PaymentRequested` says; it is asked
under its own key until the provider answers, and answered with `RecordProviderResult`. What the log itself shows as answered is not asked
again: after an assignment nothing is asked before the backlog seen then is read. So this process has no state of its own to lose.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import stamina
import structlog
from aiohttp import web
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from msgspec import Struct
from msgspec.structs import replace
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from orderflow.connectors.payments.breaker import CLOSED, HALF_OPEN, OPEN, Breaker
from orderflow.connectors.payments.port import ActionRequired, Operation, Outcome, Provider, Unanswered
from orderflow.connectors.payments.settings import PaymentSettings
from orderflow.streams import outcomes
from orderflow.streams.domain.contract import CommandMeta
from orderflow.streams.domain.ids import operation_key
from orderflow.streams.domain.parts import Money
from orderflow.streams.domain.payment import AUTHORIZE, CANCEL
from orderflow.streams.domain.payment_records import (
    PaymentActionRequired,
    PaymentAuthorized,
    PaymentCanceled,
    PaymentCaptured,
    PaymentFailed,
    PaymentRefunded,
    PaymentRequested,
    PaymentVoided,
    RecordProviderResult,
)
from orderflow.streams.records import Records

log = structlog.get_logger(__name__)

ANSWERED = (PaymentAuthorized, PaymentCaptured, PaymentVoided, PaymentRefunded, PaymentCanceled, PaymentFailed)
UNANSWERED, WITHDRAWN, AT_BUYER = "unanswered", "withdrawn", "requires_action"
POLL_S = 0.2
POLL_RECORDS = 500
COMMIT_S = 1.0
DELIVERY_TIMEOUT_S = 30.0
SESSION_TIMEOUT_MS = 10_000
"""After so long without a sign of life another connector takes the partitions over."""
QUIET = 2
"""librdkafka's own log lines are dropped below critical: what matters of them arrives as errors."""


class Request(Struct, frozen=True):
    """A request of the log: where it stands, whose it is (`prefix` is the tenant's part of its keys), what it says."""

    offset: int
    tenant: str
    prefix: str
    order_id: str
    correlation_id: str
    event_id: str
    headers: tuple[tuple[str, bytes], ...]
    event: PaymentRequested


class Meters:
    """Calls by operation and result, their time, what waits, and the breaker: 0 closed, 1 half open, 2 open."""

    def __init__(self, breaker: Breaker, open_requests: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.calls = Counter("orderflow_provider_calls", "Calls to the provider.", ["operation", "result"], registry=self.registry)
        self.seconds = Histogram("orderflow_provider_call_seconds", "Time of a call.", ["operation"], registry=self.registry)
        state = Gauge("orderflow_provider_breaker", "0 closed, 1 half open, 2 open.", registry=self.registry)
        state.set_function(lambda: {CLOSED: 0, HALF_OPEN: 1, OPEN: 2}[breaker.state])
        waiting = Gauge("orderflow_provider_requests_open", "Requests without an answer.", registry=self.registry)
        waiting.set_function(open_requests)


class Share:
    """One partition of the events topic: what is asked there and not answered, and how far it is read."""

    def __init__(self, read_until: int, position: int) -> None:
        self.read_until = read_until
        """The end of the backlog at assignment."""
        self.position = self.committed = position
        self.open: dict[str, Request] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def done(self) -> int:
        """All before this offset is answered."""
        return min((request.offset for request in self.open.values()), default=self.position)

    def close(self, key: str) -> None:
        """Nobody is asked for this any more."""
        self.open.pop(key, None)
        task = self.tasks.pop(key, None)
        if task is not None:
            task.cancel()

    def insist(self) -> None:
        """Raise what a task failed of: a request that is given up without a word would never be answered."""
        for task in self.tasks.values():
            if task.done():
                task.result()


class Connector:
    """One connector for one provider."""

    def __init__(self, settings: PaymentSettings, records: Records, provider: Provider, name: str) -> None:
        self.settings, self.records, self.provider, self.name = settings, records, provider, name
        self.orders = records.of("orders")
        self.breaker = Breaker(open_s=settings.breaker_open_s)
        self.shares: dict[int, Share] = {}
        self.meters = Meters(self.breaker, lambda: sum(len(share.open) for share in list(self.shares.values())))
        self.assigned = False
        self._wanted = {self.orders.ce_type(kind.__name__) for kind in (PaymentRequested, PaymentActionRequired, *ANSWERED)}
        self._calls = asyncio.Semaphore(settings.provider_calls_max)

    @property
    def group(self) -> str:
        """The consumer group: connectors of one provider share its requests, those of another one read every partition too."""
        return f"{self.settings.group}-payments-{self.name}"

    async def run(self, stop: asyncio.Event) -> None:
        """Serve requests until `stop`. Raises KafkaException when the log fails for good: start the process again."""
        self._loop = asyncio.get_running_loop()
        self._producer = Producer(
            {
                "bootstrap.servers": self.settings.bootstrap,
                "log_level": QUIET,
                "enable.idempotence": True,
                "acks": "all",
                "partitioner": "murmur2_random",
                "message.timeout.ms": int(DELIVERY_TIMEOUT_S * 1000),
                "allow.auto.create.topics": False,
            }
        )
        ended = threading.Event()
        poller = threading.Thread(target=self._poll, args=(ended,), name="payments-deliveries", daemon=True)
        poller.start()
        await self.provider.start()
        consumer = Consumer(
            {
                "bootstrap.servers": self.settings.bootstrap,
                "log_level": QUIET,
                "group.id": self.group,
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "session.timeout.ms": SESSION_TIMEOUT_MS,
                "allow.auto.create.topics": False,
            }
        )
        consumer.subscribe([self.orders.events], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked)
        try:
            await self._read(consumer, stop)
        finally:
            await self._drop(list(self.shares))
            await asyncio.to_thread(consumer.close)
            await self.provider.close()
            await asyncio.to_thread(self._producer.flush, DELIVERY_TIMEOUT_S)
            ended.set()
            await asyncio.to_thread(poller.join)

    # -- reading ------------------------------------------------------------------------------------------------------------------
    async def _read(self, consumer: Consumer, stop: asyncio.Event) -> None:
        committed_at = time.monotonic()
        while not stop.is_set():
            for message in await asyncio.to_thread(_fetch, consumer):
                error = message.error()
                if error is None or error.code() == KafkaError._PARTITION_EOF:
                    self._hear(message)
                elif outcomes.outcome("consume", error) == outcomes.EXIT:
                    raise KafkaException(error)
            for share in self.shares.values():
                share.insist()
                if share.position >= share.read_until:
                    self._ask(share)
            if time.monotonic() - committed_at >= COMMIT_S:
                committed_at = time.monotonic()
                self._commit(consumer)
        self._commit(consumer)

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Read on where all was answered; a group without a past reads from the beginning."""
        for place in consumer.committed(partitions, DELIVERY_TIMEOUT_S) if partitions else ():
            begin, end = consumer.get_watermark_offsets(TopicPartition(place.topic, place.partition), DELIVERY_TIMEOUT_S)
            self.shares[place.partition] = Share(end, max(place.offset, begin))
        consumer.assign([TopicPartition(self.orders.events, number, share.position) for number, share in self.shares.items()])
        self.assigned = True

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Somebody else asks from here on, under the same keys."""
        numbers = [place.partition for place in partitions]
        asyncio.run_coroutine_threadsafe(self._drop(numbers), self._loop).result(DELIVERY_TIMEOUT_S)

    async def _drop(self, numbers: list[int]) -> None:
        tasks = [task for number in numbers if number in self.shares for task in self.shares.pop(number).tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _commit(self, consumer: Consumer) -> None:
        places = [
            TopicPartition(self.orders.events, number, share.done) for number, share in self.shares.items() if share.done > share.committed
        ]
        if places:
            with contextlib.suppress(KafkaException):  # a rebalance is under way: whoever comes next reads a little more
                consumer.commit(offsets=places, asynchronous=True)
                for place in places:
                    self.shares[place.partition].committed = place.offset

    def _hear(self, message: Any) -> None:
        """Take a request up, or cross one off that was answered."""
        share = self.shares.get(message.partition())
        if share is None:
            return
        if message.error() is not None:  # the end for now, beyond the marks of transactions, which are no messages
            share.position = max(share.position, message.offset())
            return
        share.position = message.offset() + 1
        headers = tuple(message.headers() or ())
        if dict(headers).get("ce_type") not in self._wanted:
            return
        meta, order_id, event = self.orders.decode_event(message.value())
        prefix = "" if meta.tenant == "main" else f"{meta.tenant}/"
        if isinstance(event, PaymentRequested):
            if event.provider == self.name:
                trace = tuple(header for header in headers if header[0] in ("traceparent", "tracestate"))
                request = Request(message.offset(), meta.tenant, prefix, order_id, meta.correlation_id, meta.event_id, trace, event)
                share.open[prefix + event.idempotency_key] = request
                if event.operation == CANCEL:  # of the authorization before it, which is not asked for any more
                    share.close(prefix + operation_key(event.attempt_id, AUTHORIZE, event.operation_no - 1))
            return
        key = prefix + operation_key(event.attempt_id, event.operation, event.operation_no)
        if not isinstance(event, PaymentActionRequired):
            share.close(key)  # its task is there still where somebody else has answered
        elif (asked := share.open.get(key)) is not None:
            share.open[key] = _named(asked, event.provider_ref)

    # -- asking -------------------------------------------------------------------------------------------------------------------
    def _ask(self, share: Share) -> None:
        """A task for every open request that has none."""
        for key, request in share.open.items():
            if key not in share.tasks:
                share.tasks[key] = asyncio.create_task(self._serve(share, key, request))

    async def _serve(self, share: Share, key: str, request: Request) -> None:
        """Ask until there is an answer, and tell it; between two tries ever longer, with jitter."""
        outcome = await self._until_answered(request)
        await self._tell(request, "succeeded" if outcome.succeeded else "declined", outcome)
        share.open.pop(key, None)
        share.tasks.pop(key, None)

    async def _until_answered(self, request: Request) -> Outcome:
        """While the buyer has to act, look again every few seconds: a webhook that comes first ends this."""
        at_buyer = False
        while True:
            try:
                return await self._until_heard(request, at_buyer)
            except ActionRequired as action:
                if not at_buyer:
                    await self._tell(request, AT_BUYER, action=action)
                at_buyer, request = True, _named(request, action.provider_ref)
                await asyncio.sleep(self.settings.provider_look_s)

    async def _until_heard(self, request: Request, at_buyer: bool) -> Outcome:
        first_s, most_s = self.settings.provider_repeat_s, self.settings.provider_repeat_max_s
        async for attempt in stamina.retry_context(
            on=Unanswered, attempts=None, timeout=None, wait_initial=first_s, wait_max=most_s, wait_jitter=first_s
        ):
            with attempt:
                try:
                    return await self._call(request)
                except Unanswered:
                    if attempt.num == 1 and not at_buyer:
                        await self._tell(request, "unknown")
                    raise
        raise AssertionError("asked for ever")

    async def _call(self, request: Request) -> Outcome:
        """One call, when the breaker and the number of those under way allow it."""
        event = request.event
        operation = Operation(
            request.prefix + event.idempotency_key,
            event.operation,
            event.amount.amount_minor,
            event.amount.currency,
            request.prefix + request.order_id,
            event.provider_ref,
            event.token_ref,
            event.method,
        )
        async with self._calls:
            await self.breaker.admit()
            began = time.monotonic()
            result = WITHDRAWN
            try:
                outcome = await self.provider.perform(operation)
                result = "succeeded" if outcome.succeeded else "declined"
            except ActionRequired:
                result = AT_BUYER
                raise
            except Unanswered:
                result = UNANSWERED
                raise
            finally:
                if result == WITHDRAWN:  # a webhook, or another connector, was faster
                    self.breaker.withdraw()
                else:
                    self.breaker.record(result != UNANSWERED)
                self.meters.calls.labels(event.operation, result).inc()
                self.meters.seconds.labels(event.operation).observe(time.monotonic() - began)
            return outcome

    async def _tell(self, request: Request, word: str, outcome: Outcome | None = None, action: ActionRequired | None = None) -> None:
        """The outcome as a command, in the log before this returns."""
        event = request.event
        command = RecordProviderResult(
            event.attempt_id,
            event.operation,
            event.operation_no,
            word,
            Money(outcome.amount_minor, outcome.currency) if outcome else None,
            event.provider,
            said.provider_ref if (said := outcome or action) else "",
            outcome.valid_until if outcome else None,
            outcome.code if outcome else "",
            action.action_url if action else "",
        )
        command_id = f"{event.idempotency_key}:{word}"
        at = time.time_ns() // 1000
        meta = CommandMeta(
            command_id, at, request.tenant, self.name, f"payments:{self.name}", request.correlation_id, causation_id=request.event_id
        )
        key = request.prefix + request.order_id
        value = self.orders.encode_command(meta, request.order_id, command)
        async for attempt in stamina.retry_context(on=_passes, attempts=None, timeout=None, wait_max=5.0):
            with attempt:
                await self._produce(key, value, request.headers)

    async def _produce(self, key: str, value: bytes, headers: tuple[tuple[str, bytes], ...]) -> None:
        delivered: asyncio.Future[None] = self._loop.create_future()

        def report(error: KafkaError | None, message: object) -> None:
            self._loop.call_soon_threadsafe(_settle, delivered, error)

        self._producer.produce(self.orders.commands, value=value, key=key.encode(), headers=list(headers), on_delivery=report)
        await delivered

    def _poll(self, ended: threading.Event) -> None:
        while not ended.is_set():
            self._producer.poll(POLL_S)


def _named(request: Request, provider_ref: str) -> Request:
    """The request with the provider's own name of its payment, which a repeat then asks for."""
    return replace(request, event=replace(request.event, provider_ref=provider_ref)) if provider_ref else request


def _fetch(consumer: Consumer) -> list[Any]:
    """What is there; only the first of it is waited for: consume(n, t) would wait the whole t for n messages."""
    first = consumer.poll(POLL_S)
    return [] if first is None else [first, *consumer.consume(POLL_RECORDS, 0)]


def _passes(error: Exception) -> bool:
    """May the log take the same record later? Not from a producer that has failed for good: then the process must be started again."""
    return isinstance(error, BufferError) or (isinstance(error, KafkaException) and not error.args[0].fatal())


def _settle(future: "asyncio.Future[None]", error: KafkaError | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(KafkaException(error))


def build_pages(connector: Connector) -> web.Application:
    """Health and metrics of a connector. It is ready once it has its partitions and has read what was there before it."""

    async def ready(request: web.Request) -> web.StreamResponse:
        behind = [number for number, share in connector.shares.items() if share.position < share.read_until]
        is_ready = connector.assigned and not behind
        body = {"ready": is_ready, "partitions": sorted(connector.shares), "behind": behind, "breaker": connector.breaker.state}
        return web.json_response(body, status=200 if is_ready else 503)

    async def metrics(request: web.Request) -> web.StreamResponse:
        return web.Response(body=generate_latest(connector.meters.registry), content_type="text/plain")

    app = web.Application()
    app.router.add_get("/health/ready", ready)
    app.router.add_get("/metrics", metrics)
    return app


async def serve(settings: PaymentSettings, records: Records, provider: Provider, name: str, stop: asyncio.Event) -> None:
    """Run a connector with its endpoint until `stop`."""
    connector = Connector(settings, records, provider, name)
    runner = web.AppRunner(build_pages(connector), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.connector_host, settings.connector_port).start()
        log.info("connector.started", provider=name, events=connector.orders.events)
        await connector.run(stop)
    finally:
        await runner.cleanup()
