"""The edge on a real Kafka: commands go out whole and to the right partition, answers come back, what is not known is not claimed.

The peer of these tests is a worker reduced to its wire: it reads the command log and answers in transactions, as a worker does.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientConnectionError, ClientResponse, ClientSession
from aiohttp.test_utils import TestClient, TestServer
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from orderflow.connectors.box.box import Box, Servers
from orderflow.http.edge import Edge, StartRefused, build_app, connect, serve
from orderflow.http.idempotency import fresh_id
from orderflow.http.settings import EdgeSettings
from orderflow.schemas import admin, registry
from orderflow.schemas.catalog import Catalog
from orderflow.schemas.partitioner import partition_of
from orderflow.streams.domain.contract import CommandMeta, EventMeta, Refused, Shortage
from orderflow.streams.domain.order_records import OrderSnapshot, OrderStatus, OrderStatusChanged, PlaceOrder
from orderflow.streams.records import Records
from orderflow.streams.wire import Reply, Worker

pytestmark = pytest.mark.box
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
Answer = Callable[[CommandMeta, str, Any], list[Reply]]


class System:
    """Topics of its own on the shared broker, and a peer that answers what arrives on orders.commands."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.catalog = Catalog(f"edge-{fresh_id()}")
        admin.apply(AdminClient({"bootstrap.servers": bootstrap}), self.catalog)
        self.records = Records(self.catalog, {subject.name: number for number, subject in enumerate(self.catalog.subjects(), 1)})
        self.heard: list[Message] = []
        self.answer: Answer | None = None
        self._producer = Producer(
            {"bootstrap.servers": bootstrap, "transactional.id": self.catalog.prefix, "partitioner": "murmur2_random", "linger.ms": 0}
        )
        self._producer.init_transactions(30)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def write(self, *records: tuple[str, str, bytes | None, int]) -> None:
        """One transaction of (topic, key, value, partition)."""
        self._producer.begin_transaction()
        for topic, key, value, partition in records:
            self._producer.produce(topic, value=value, key=key, partition=partition)
        self._producer.commit_transaction(30)

    def ends(self) -> dict[tuple[str, int], int]:
        """The end offset of every partition of every topic. A topic just made has its leaders a moment later."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": self.catalog.prefix})
        deadline = time.monotonic() + 30
        found: dict[tuple[str, int], int] = {}
        for topic in self.catalog.topics():
            for number in range(topic.partitions):
                while (topic.name, number) not in found:
                    try:
                        found[topic.name, number] = consumer.get_watermark_offsets(TopicPartition(topic.name, number), timeout=10)[1]
                    except KafkaException:
                        if time.monotonic() > deadline:
                            raise
                        time.sleep(0.05)
        consumer.close()
        return found

    def settings(self, **changed: Any) -> EdgeSettings:
        return EdgeSettings.model_validate(
            {
                "profile": "demo",
                "bootstrap": self.bootstrap,
                "prefix": self.catalog.prefix,
                "answer_wait_s": 30.0,
                "produce_timeout_s": 30.0,
                **changed,
            }
        )

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        space = self.records.of("orders")
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": self.catalog.prefix, "isolation.level": "read_committed"})
        consumer.assign([TopicPartition(space.commands, number, OFFSET_BEGINNING) for number in range(self.catalog.partitions)])
        while not self._stop.is_set():
            message = consumer.poll(0.05)
            if message is None or message.error():
                continue
            self.heard.append(message)
            if self.answer is None:
                continue
            meta, key, command = space.decode_command(message.value() or b"")
            assert meta.reply_to is not None
            topic, to = self.records.replies_topic, meta.reply_to
            replies = self.answer(meta, key, command)
            self.write(*((topic, to.edge_id, self.records.encode_reply(reply), to.partition) for reply in replies))
        consumer.close()


@pytest.fixture
def system(box: Servers) -> Iterator[System]:
    found = System(box.bootstrap)
    yield found
    found.close()


@asynccontextmanager
async def running(system: System, **changed: Any) -> AsyncIterator[tuple[TestClient, Edge]]:
    edge = await connect(system.settings(**changed), system.records)
    async with TestClient(TestServer(build_app(edge))) as client:
        yield client, edge


def confirms(system: System) -> Answer:
    _, encode = system.records.of("orders").status["order"]

    def answer(meta: CommandMeta, key: str, command: Any) -> list[Reply]:
        assert meta.reply_to is not None
        order = OrderSnapshot(key, version=1, sequence=2, status=OrderStatus.CONFIRMED, label="confirmed", placed_at=meta.requested_at)
        good = Reply(meta.reply_to.request_id, meta.command_id, key, 2, "applied", "", encode(order))
        return [Reply("somebody else's", "x", key, 1, "refused", "NOT_FOUND"), good, good]

    return answer


def refuses(system: System) -> Answer:
    def answer(meta: CommandMeta, key: str, command: Any) -> list[Reply]:
        assert meta.reply_to is not None
        event_meta = EventMeta(f"orders:{key}:1", 1, 0, meta.command_id, refused=True)
        refused = Refused("PlaceOrder", "INSUFFICIENT_STOCK", {}, (Shortage("A", 1, 0),))
        body = system.records.of("orders").encode_event(event_meta, key, refused)
        return [Reply(meta.reply_to.request_id, meta.command_id, key, 1, "refused", "INSUFFICIENT_STOCK", body)]

    return answer


async def test_a_command_goes_out_whole_and_its_outcome_comes_back(system: System) -> None:
    system.answer = confirms(system)
    async with running(system) as (client, edge):
        headers = {"Idempotency-Key": "k-1", "traceparent": TRACE}
        answer = await client.post("/api/v1/orders", data='{"items":[{"sku":"A","qty":1}]}', headers=headers)
        view = await answer.json()
    (record,) = system.heard
    meta, key, command = system.records.of("orders").decode_command(record.value() or b"")
    assert (answer.status, view["status"], view["order_id"]) == (201, "confirmed", key)
    assert isinstance(command, PlaceOrder)
    assert record.key() == key.encode()
    assert record.partition() == partition_of(key.encode(), system.catalog.partitions)
    assert record.headers() == [("traceparent", TRACE.encode())]
    assert meta.correlation_id == TRACE.split("-")[1]
    assert edge.parts.gateway.in_flight == 0


async def test_fifty_at_once_each_get_their_own_answer(system: System) -> None:
    system.answer = confirms(system)

    async def place(client: TestClient, number: int) -> tuple[str, str]:
        answer = await client.post("/api/v1/orders", json={"order_id": f"o-{number}", "items": [{"sku": "A", "qty": 1}]})
        return f"o-{number}", (await answer.json())["order_id"]

    async with running(system) as (client, _):
        answers = await asyncio.gather(*(place(client, number) for number in range(50)))
    assert len(answers) == 50
    assert all(asked == answered for asked, answered in answers)


async def test_a_refusal_comes_back_with_its_shortage(system: System) -> None:
    system.answer = refuses(system)
    async with running(system) as (client, _):
        answer = await client.post("/api/v1/orders", data='{"items":[{"sku":"A","qty":1}]}')
        problem = await answer.json(content_type=None)
    assert (answer.status, problem["code"], problem["shortages"]) == (
        409,
        "INSUFFICIENT_STOCK",
        [{"sku": "A", "requested": 1, "available": 0}],
    )


async def test_no_answer_is_202_and_a_repeat_meets_the_answer(system: System) -> None:
    async with running(system, answer_wait_s=0.3) as (client, edge):
        first = await client.post("/api/v1/orders", data='{"items":[{"sku":"A","qty":1}]}', headers={"Idempotency-Key": "k"})
        assert edge.parts.gateway.in_flight == 0
    system.answer = confirms(system)
    async with running(system) as (client, _):
        again = await client.post("/api/v1/orders", data='{"items":[{"sku":"A","qty":1}]}', headers={"Idempotency-Key": "k"})
    assert (first.status, again.status) == (202, 201)
    assert first.headers["Location"] == again.headers["Location"]
    one, two = (system.records.of("orders").decode_command(record.value() or b"")[0] for record in system.heard)
    assert (one.command_id, one.body_hash) == (two.command_id, two.body_hash)
    assert one.reply_to != two.reply_to


async def test_malformed_requests_leave_no_record(system: System) -> None:
    async with running(system) as (client, _):
        for body in ("", "{", "[]", '{"items":[]}', '{"items":[{"sku":"A","qty":0}]}', '{"items":[{"sku":"A","qty":1}],"x":1}'):
            assert (await client.post("/api/v1/orders", data=body)).status in (400, 422)
    assert sum(system.ends().values()) == 0


async def test_owners_are_heard_from_the_beginning_and_as_they_change(system: System) -> None:
    def said(space: str, partition: int, address: str) -> tuple[str, str, bytes | None, int]:
        value = system.records.encode_worker(Worker(address, 1, "test")) if address else None
        return system.records.workers_topic, f"{space}:{partition}", value, 0

    system.write(said("orders", 0, "http://a"), said("orders", 1, "http://a"))
    async with running(system) as (client, edge):
        owners = edge.parts.reads.owners
        await until(lambda: owners.read_to_end)
        assert owners.by_address("orders") == {"http://a": {0, 1}}
        ready = await client.get("/health/ready")
        assert (ready.status, (await ready.json())["partitions_missing"]["orders"]) == (200, [2, 3])
        system.write(said("orders", 0, ""), said("orders", 1, "http://b"))
        await until(lambda: owners.by_address("orders") == {"http://b": {1}})


async def test_a_timeline_is_one_keys_events_in_order(system: System) -> None:
    space = system.records.of("orders")
    partition = partition_of(b"o-1", system.catalog.partitions)
    now = time.time_ns() // 1000

    def event(key: str, sequence: int) -> tuple[str, str, bytes, int]:
        meta = EventMeta(f"orders:{key}:{sequence}", sequence, now, "c", command_id="c")
        changed = OrderStatusChanged("N", OrderStatus.PENDING, OrderStatus.CONFIRMED, "confirmed")
        return space.events, key, space.encode_event(meta, key, changed), partition

    system.write(event("o-1", 1), event("o-2", 1), event("o-1", 2))
    async with running(system) as (_, edge):
        timeline = edge.parts.timeline
        whole = await timeline.of("orders", "o-1", partition, None)
        recent = await timeline.of("orders", "o-1", partition, now // 1000)
        later = await timeline.of("orders", "o-1", partition, now // 1000 + 3_600_000)
    async with running(system, timeline_records_max=2) as (_, edge):
        cut = await edge.parts.timeline.of("orders", "o-1", partition, None)
    assert [entry.meta.sequence for entry in whole.entries] == [1, 2]
    assert whole == recent
    assert (whole.entries[0].event, whole.entries[0].data["label"]) == ("OrderStatusChanged", "confirmed")
    assert (later.entries, later.complete) == ([], True)
    assert ([entry.meta.sequence for entry in cut.entries], cut.complete) == ([1], False)


async def test_missing_topics_stop_the_start_all_named(system: System) -> None:
    with pytest.raises(StartRefused) as caught:
        await connect(system.settings(), Records(Catalog("nowhere"), {s.name: n for n, s in enumerate(Catalog("nowhere").subjects(), 1)}))
    assert [reason.split()[1] for reason in caught.value.reasons] == [
        "nowhere.orders.commands.v1",
        "nowhere.stock.commands.v1",
        "nowhere.replies.v1",
        "nowhere.workers.v1",
    ]


async def test_a_stop_lets_open_requests_finish(system: System, box: Servers, tmp_path: Path) -> None:
    registry.apply(box.registry_url, system.catalog)
    settings = system.settings(registry=box.registry_url, data=tmp_path, port=0, answer_wait_s=1.0)
    stop = asyncio.Event()
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    edge = asyncio.create_task(serve(settings, stop=stop, started=address.set_result))
    async with ClientSession(await address) as session:
        open_request = asyncio.create_task(session.post("/api/v1/orders", data='{"items":[{"sku":"A","qty":1}]}'))
        await until(lambda: len(system.heard) == 1)
        stop.set()
        answer = await open_request
    await edge
    assert answer.status == 202
    async with ClientSession(await address) as session:
        with pytest.raises(ClientConnectionError):
            await session.get("/health/live")


@pytest.mark.slow
async def test_a_broker_that_is_gone_is_503_and_comes_back(own_box: Callable[..., Box]) -> None:
    box = own_box(registry=False)
    system = System(box.bootstrap)
    system.answer = confirms(system)
    async with running(system, produce_timeout_s=2.0) as (client, _):
        first = await taken(client)
        box.kill_broker()
        gone, ready, live = [
            await client.post("/api/v1/orders", data='{"items":[{"sku":"A","qty":1}]}'),
            await client.get("/health/ready"),
            await client.get("/health/live"),
        ]
        box.start_broker()
        back = await taken(client)
    system.close()
    assert (first.status, gone.status, ready.status, live.status) == (201, 503, 503, 200)
    assert gone.headers["Retry-After"] == "1"
    assert back.status in (201, 202)


async def taken(client: TestClient) -> ClientResponse:
    """The answer to an order once the log takes it: whoever hears 503 repeats it, and a client looks for a broker ever more rarely."""
    async with asyncio.timeout(120):
        while True:
            answer = await client.post("/api/v1/orders", data='{"items":[{"sku":"A","qty":1}]}')
            if answer.status != 503:
                return answer
            await asyncio.sleep(0.1)


async def until(true: Callable[[], bool], timeout_s: float = 60.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not true():
            await asyncio.sleep(0.01)
