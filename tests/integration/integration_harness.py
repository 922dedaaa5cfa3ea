"""A running system on topics of its own, and its logs as a test sees them.

Beside HTTP the tests need three things: commands sent past the edge, every record of a topic with its place and time, and a worker that
is ended for real and stays down until it is let go.
"""

import asyncio
import json
import os
import re
import signal
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import aiohttp
from confluent_kafka import IsolationLevel, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from orderflow.cli import contracts, runstate
from orderflow.cli.system import PROGRAM, System
from orderflow.connectors.box.box import Servers
from orderflow.schemas.catalog import INPUT_BYTES_MAX, Catalog
from orderflow.streams.domain.contract import CommandMeta, EventMeta, ReplyTo
from orderflow.streams.records import Records

T = TypeVar("T")
PATIENCE_S = 180.0
"""How long anything may take before a test says that it never came: a bound for a broken system, not a measure of a sound one."""
POLL_S = 0.05
PATIENT = {"ORDERFLOW_READ_TIMEOUT_S": "12", "ORDERFLOW_PRODUCE_TIMEOUT_S": "12"}
"""An edge that says 503 because nobody is there, and not because the machine stood still for a few seconds."""
ANSWERS = {"ORDERFLOW_ANSWER_WAIT_S": "12"}
"""The same for 202, where what a POST was answered is what the test is about. Less than the command line waits for an answer."""
GATE = 'while [ -e "$0" ]; do sleep 0.05; done; exec "$@"'
"""A worker's program for /bin/sh: wait while the gate is there, then be the worker, under the same pid."""


class Raw(NamedTuple):
    """A record to produce, right or wrong."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    partition: int = -1


class Place(NamedTuple):
    """Where a record is."""

    topic: str
    partition: int
    offset: int


class Event(NamedTuple):
    """A record of an events topic. `at_ms`: when the broker appended it."""

    place: Place
    at_ms: int
    meta: EventMeta
    key: str
    value: Any

    @property
    def name(self) -> str:
        return type(self.value).__name__


class Command(NamedTuple):
    """A record of a command topic. `at_ms`: when the broker appended it."""

    place: Place
    at_ms: int
    meta: CommandMeta
    key: str
    value: Any

    @property
    def name(self) -> str:
        return type(self.value).__name__


class Answer(NamedTuple):
    """An HTTP answer with the bytes of its body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        found = json.loads(self.body)
        assert isinstance(found, dict)
        return found


class Rig:
    """A started system and the means to look behind its edge."""

    def __init__(self, system: System, names: Catalog, records: Records, gate: Path) -> None:
        self.system, self.names, self.records = system, names, records
        self.bootstrap = system.servers.bootstrap
        self._gate = gate
        self._admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        self._producer = Producer(
            {
                "bootstrap.servers": self.bootstrap,
                "partitioner": "murmur2_random",
                "enable.idempotence": True,
                "message.max.bytes": INPUT_BYTES_MAX,
                "linger.ms": 20,
                "log_level": 0,
            }
        )

    # -- HTTP ---------------------------------------------------------------------------------------------------------------------
    async def call(self, method: str, path: str, body: object = None, *, key: str = "") -> Answer:
        """One request; bytes and text are sent as they are, anything else as JSON."""
        data = body if isinstance(body, bytes | str | None) else json.dumps(body)
        headers = {"Idempotency-Key": key} if key else {}
        async with aiohttp.ClientSession(self.system.url) as http, http.request(method, path, data=data, headers=headers) as answer:
            return Answer(answer.status, answer.headers, await answer.read())

    async def get(self, path: str) -> Answer:
        return await self.call("GET", path)

    async def post(self, path: str, body: object, *, key: str = "") -> Answer:
        return await self.call("POST", path, body, key=key)

    async def receive(self, sku: str, quantity: int) -> None:
        """Put units of a sku on the shelf."""
        body, key = {"sku": sku, "qty": quantity}, uuid.uuid4().hex
        answer = await eventually(lambda: self.post("/api/v1/stock/receipts", body, key=key), lambda found: found.status != 202)
        assert answer.status == 201, answer

    async def stock(self, sku: str) -> tuple[int, int, int, int]:
        """(on_hand, available, reserved, allocated) of a sku."""
        found = (await self.get(f"/api/v1/stock/{sku}")).json
        return found["on_hand"], found["available"], found["reserved"], found["allocated"]

    async def stock_becomes(self, sku: str, on_hand: int, available: int, reserved: int, allocated: int) -> None:
        """Wait for these figures: an order is confirmed one step before its units are committed, rejected one before others come back."""
        await eventually(lambda: self.stock(sku), lambda found: found == (on_hand, available, reserved, allocated))

    async def decided(self, order_id: str) -> dict[str, Any]:
        """The order once nothing about its stock is open any more."""

        def is_over(answer: Answer) -> bool:
            return answer.status == 200 and answer.json["state"] not in ("pending", "cancel_pending")

        answer: Answer = await eventually(lambda: self.get(f"/api/v1/orders/{order_id}"), is_over)
        return answer.json

    # -- logs ---------------------------------------------------------------------------------------------------------------------
    def command(self, space: str, key: str, command: Any, *, command_id: str = "", reply_to: ReplyTo | None = None) -> Raw:
        """A command as it would stand in the log of its key."""
        meta = CommandMeta(command_id or uuid.uuid4().hex, now(), actor="test", principal="test", reply_to=reply_to)
        mine = self.records.of(space)
        return Raw(mine.commands, key.encode(), mine.encode_command(meta, key, command))

    def produce(self, raws: Iterable[Raw]) -> list[Place]:
        """Append records, all at once where they fit one batch; where each of them is now."""
        places: dict[int, Place] = {}

        def reporter(number: int) -> Callable[[Any, Any], None]:
            def report(error: Any, message: Any) -> None:
                assert error is None, error
                places[number] = Place(message.topic(), message.partition(), message.offset())

            return report

        for number, raw in enumerate(raws):
            self._producer.produce(
                raw.topic, raw.value, raw.key, raw.partition, headers=list(raw.headers) or None, on_delivery=reporter(number)
            )
        assert self._producer.flush(PATIENCE_S) == 0, "the log did not take everything"
        return [places[number] for number in sorted(places)]

    def read(self, topic: str, key: str = "") -> list[Message]:
        """Every committed record of a topic, of one key or all, each partition in its order. What was written when this was called counts:
        the marks that end a transaction come a little after its rows can be read.
        """
        written = self._ends_of(topic, IsolationLevel.READ_UNCOMMITTED)

        def is_decided() -> bool:
            ended = self._ends_of(topic, IsolationLevel.READ_COMMITTED)
            return all(ended[number] >= end for number, end in written.items())

        until(is_decided, f"the transactions on {topic} have ended")
        return [each for each in contracts.read_topic(self.bootstrap, topic) if key in ("", (each.key() or b"").decode(errors="replace"))]

    def events(self, space: str, key: str = "") -> list[Event]:
        """The events of a key space, of one key or all."""
        mine = self.records.of(space)
        return [Event(_place(each), each.timestamp()[1], *mine.decode_event(each.value())) for each in self.read(mine.events, key)]

    def commands(self, space: str, key: str = "") -> list[Command]:
        """The commands of a key space, of one key or all."""
        mine = self.records.of(space)
        return [Command(_place(each), each.timestamp()[1], *mine.decode_command(each.value())) for each in self.read(mine.commands, key)]

    def _ends_of(self, topic: str, isolation: IsolationLevel) -> dict[int, int]:
        """Where each partition ends for a reader of this kind."""
        partitions = [TopicPartition(topic, number) for number in range(self.names.topic(topic).partitions)]
        found = self._admin.list_offsets(dict.fromkeys(partitions, OffsetSpec.latest()), isolation_level=isolation)
        return {partition.partition: future.result().offset for partition, future in found.items()}

    def ends(self) -> dict[tuple[str, int], int]:
        """The end of every partition of every topic of this system, markers of transactions included."""
        wanted = [TopicPartition(topic.name, number) for topic in self.names.topics() for number in range(topic.partitions)]
        found = self._admin.list_offsets({partition: OffsetSpec.latest() for partition in wanted})
        return {(partition.topic, partition.partition): future.result().offset for partition, future in found.items()}

    def quiet_ends(self) -> dict[tuple[str, int], int]:
        """The ends once nothing moves any more."""
        return at_rest(self.ends)

    # -- processes ----------------------------------------------------------------------------------------------------------------
    def process(self, name: str) -> runstate.Process:
        """The process of this name as it runs now: worker-1, edge, provider, payments."""
        return next(each for each in self.system.state.processes if each.name == name)

    @contextmanager
    def worker_down(self, number: signal.Signals = signal.SIGKILL) -> Iterator[None]:
        """The one worker ends by this signal, and none runs until the block is left; then until it is ready again."""
        self._gate.touch()
        (worker,) = self.system.state.workers
        os.kill(worker.pid, number)
        until(lambda: not worker.alive, "the worker has ended")
        try:
            yield
        finally:
            self._gate.unlink()
        until(self.is_ready, "the worker is ready")

    def is_ready(self) -> bool:
        """Has the worker consumed the backlog of all its partitions, and does the edge know it?"""
        pages = [_page(f"{url}/health/ready") for url in (self.system.url, *(worker.url for worker in self.system.state.workers))]
        return len(pages) > 1 and all(page is not None and not any(page.get("partitions_missing", {}).values()) for page in pages)


@contextmanager
def started(
    servers: Servers, directory: Path, word: str, *, workers: int = 1, payments: bool = False, settings: Mapping[str, str] | None = None
) -> Iterator[Rig]:
    """A system on topics whose names begin with `word`; `settings` are further ORDERFLOW_ variables."""
    prefix = f"{word}-{uuid.uuid4().hex[:8]}"
    gate = directory / "gate"
    environment = {"ORDERFLOW_PREFIX": prefix, "ORDERFLOW_GROUP": prefix, **PATIENT, **(settings or {})}
    program = ("/bin/sh", "-c", GATE, str(gate), *PROGRAM, "worker")
    place, counts = directory / "system", {"workers": workers, "payments": payments}
    with System(place, servers=servers, environment=environment, worker_program=program, **counts) as system:  # type: ignore[arg-type]
        names = Catalog(prefix)
        records = contracts.load_records(servers.registry_url, names, directory / "schemas.json")
        rig = Rig(system, names, records, gate)
        until(rig.is_ready, "the system is ready")
        yield rig


def metric(url: str, name: str) -> float:
    """The sum of a metric's samples on a process's page."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{url}/metrics", timeout=PATIENCE_S) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(rf"{name}(\{{|\s)", line))


def now() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1000


def at_rest(look: Callable[[], T]) -> T:
    """What it shows once it shows the same twice: the marks that end a transaction come a little after its commit."""
    before = look()
    while True:
        time.sleep(1.0)
        after = look()
        if after == before:
            return after
        before = after


def until(check: Callable[[], T], what: str, patience_s: float = PATIENCE_S) -> T:
    """The first value that is true."""
    deadline = time.monotonic() + patience_s
    while not (found := check()):
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(POLL_S)
    return found


async def eventually(look: Callable[[], Any], is_right: Callable[[Any], bool], patience_s: float = PATIENCE_S) -> Any:
    """The first answer that is right."""
    deadline = time.monotonic() + patience_s
    while not is_right(found := await look()):
        assert time.monotonic() < deadline, f"never came: the last answer was {found}"
        await asyncio.sleep(POLL_S)
    return found


def _page(url: str) -> dict[str, Any] | None:
    """The JSON of a page that answers 200."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except (OSError, ValueError):
        return None


def _place(message: Message) -> Place:
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None and partition is not None and offset is not None
    return Place(topic, partition, offset)
