"""Commands to Kafka and their answers back: the one place of the edge that writes.

A command is in the log or the caller hears 503; its outcome arrives on this edge's partition of the replies topic or the caller hears
202. librdkafka works on threads of its own; futures are resolved on the event loop, so nothing else here needs a lock.
"""

import asyncio
import threading
from typing import Any, Protocol

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer
from msgspec import Struct, structs

from orderflow.http.idempotency import fresh_id
from orderflow.http.problems import later
from orderflow.http.settings import EdgeSettings
from orderflow.schemas.partitioner import partition_of
from orderflow.streams.domain.contract import CommandMeta, Refused, ReplyTo
from orderflow.streams.records import Records
from orderflow.streams.wire import Reply

log = structlog.get_logger(__name__)

POLL_S = 0.1
QUIET = 2
"""librdkafka's own log lines are dropped below critical: what matters of them arrives as errors."""


class Ask(Struct, frozen=True):
    """A command for the log of `key`; `headers` carry its trace."""

    space: str
    key: str
    command: Struct
    meta: CommandMeta
    headers: tuple[tuple[str, bytes], ...] = ()


class Applied(Struct, frozen=True):
    """It happened. `snapshot` is the owner's main aggregate after it, None where there is nothing to show."""

    snapshot: Struct | None


class Denied(Struct, frozen=True):
    """It was refused for one reason; `refused` is the event that says so, None when there is none."""

    reason: str
    refused: Refused | None = None


Outcome = Applied | Denied


class Gateway(Protocol):
    """What the edge needs of it."""

    async def start(self) -> None: ...
    async def close(self) -> None: ...

    async def ask(self, ask: Ask) -> Outcome | None:
        """Send a command and wait for its outcome; None when it is in the log and has no outcome yet.

        Raises:
            Problem: 503 when the log did not take it, or too many commands are under way.
        """

    async def alive(self) -> bool:
        """Does the log answer?"""

    async def failed(self) -> None:
        """Return never, or raise once nothing can be sent or heard any more."""

    @property
    def in_flight(self) -> int:
        """How many callers wait."""


class KafkaGateway:
    """The producer of commands and the futures that wait for replies. `hear` is fed by the edge's consumer (feed.py)."""

    def __init__(self, settings: EdgeSettings, records: Records, replies_partitions: int) -> None:
        self.settings = settings
        self.records = records
        self.edge_id = fresh_id()
        self.partition = partition_of(self.edge_id.encode(), replies_partitions)
        """This edge's partition of the replies topic."""
        self._waiting: dict[str, asyncio.Future[Outcome]] = {}
        self._stop = threading.Event()

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._fatal: asyncio.Future[None] = self._loop.create_future()
        self._producer = Producer({**producer_config(self.settings, self.edge_id), "error_cb": self._on_error})
        self._poller = threading.Thread(target=self._poll, name="edge-deliveries", daemon=True)
        self._poller.start()

    async def close(self) -> None:
        """Let the log take what was sent, within produce_timeout_s."""
        await asyncio.to_thread(self._producer.flush, self.settings.produce_timeout_s)
        self._stop.set()
        await asyncio.to_thread(self._poller.join, 10 * POLL_S)

    @property
    def in_flight(self) -> int:
        return len(self._waiting)

    async def ask(self, ask: Ask) -> Outcome | None:
        if len(self._waiting) >= self.settings.in_flight_max:
            raise later("OVERLOADED", f"{self.settings.in_flight_max} commands are under way", self.settings.retry_after_s)
        request_id = fresh_id()
        outcome: asyncio.Future[Outcome] = self._loop.create_future()
        self._waiting[request_id] = outcome
        deadline = self._loop.time() + self.settings.answer_wait_s
        try:
            await self._produce(ask, ReplyTo(self.edge_id, self.partition, request_id))
            async with asyncio.timeout_at(deadline):
                return await outcome
        except TimeoutError:
            return None
        finally:
            self._waiting.pop(request_id, None)

    async def _produce(self, ask: Ask, reply_to: ReplyTo) -> None:
        """Return when the log has acknowledged the command."""
        space = self.records.of(ask.space)
        value = space.encode_command(structs.replace(ask.meta, reply_to=reply_to), ask.key, ask.command)
        delivered: asyncio.Future[None] = self._loop.create_future()

        def report(error: KafkaError | None, message: object) -> None:
            self._loop.call_soon_threadsafe(_settle, delivered, error)

        try:
            self._producer.produce(space.commands, value=value, key=ask.key.encode(), headers=list(ask.headers), on_delivery=report)
            await delivered
        except (BufferError, KafkaException) as error:
            log.warning("command.not_taken", topic=space.commands, error=str(error))
            raise later("LOG_UNAVAILABLE", "the log did not acknowledge the command; repeat it", self.settings.retry_after_s) from None

    def hear(self, value: bytes) -> None:
        """One record of the replies partition that is addressed to this edge."""
        reply = self.records.decode_reply(value)
        waiting = self._waiting.get(reply.request_id)
        if waiting is None or waiting.done():
            return
        try:
            waiting.set_result(self._outcome(reply))
        except Exception as error:  # the answer is there but cannot be read: the caller hears 500, nobody else is disturbed
            waiting.set_exception(error)

    def _outcome(self, reply: Reply) -> Outcome:
        value = self.records.unpack(reply.body).value if reply.body else None
        if reply.outcome == "applied":
            return Applied(value)
        return Denied(reply.reason, value if isinstance(value, Refused) else None)

    async def alive(self) -> bool:
        try:
            await asyncio.to_thread(self._producer.list_topics, self.records.replies_topic, 1.0)
        except KafkaException:
            return False
        return True

    async def failed(self) -> None:
        await self._fatal

    def fail(self, error: Exception) -> None:
        """This edge can send or hear no more: end it. On the event loop."""
        if not self._fatal.done():
            self._fatal.set_exception(error)

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._loop.call_soon_threadsafe(self.fail, KafkaException(error))
        elif error.code() == KafkaError._ALL_BROKERS_DOWN:
            log.warning("log.unreachable", bootstrap=self.settings.bootstrap)

    def _poll(self) -> None:
        while not self._stop.is_set():
            self._producer.poll(POLL_S)


def producer_config(settings: EdgeSettings, edge_id: str) -> dict[str, Any]:
    """Every command acknowledged by all replicas, once, on the partition Java and Faust would choose."""
    return {
        "bootstrap.servers": settings.bootstrap,
        "client.id": f"edge-{edge_id}",
        "log_level": QUIET,
        "enable.idempotence": True,
        "acks": "all",
        "partitioner": "murmur2_random",
        "linger.ms": 1,
        "message.timeout.ms": int(settings.produce_timeout_s * 1000),
        "allow.auto.create.topics": False,
    }


def _settle(future: "asyncio.Future[None]", error: KafkaError | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(KafkaException(error))
