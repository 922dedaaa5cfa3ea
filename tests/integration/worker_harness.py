"""Worker processes as a person starts them, on topics of their own, and what they say in their logs."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from integration_harness import PATIENCE_S, at_rest, until

from orderflow.cli import contracts
from orderflow.connectors.box.box import Servers
from orderflow.connectors.box.ports import free_port
from orderflow.schemas.catalog import Catalog
from orderflow.streams.domain.channel import BOX
from orderflow.streams.domain.contract import CommandMeta
from orderflow.streams.domain.stock_records import ReceiveStock

START_S = 150.0
"""How long a start may take before a test says that it never came, on a machine that does much else."""
GIVEN_UP = ("partitions.revoked", "partitions.lost")


class Worker:
    """A worker as a person starts it, and what it said."""

    def __init__(self, at: "Place", process: "subprocess.Popen[bytes]", log: Path, port: int) -> None:
        self.at, self.process, self._log, self.port = at, process, log, port

    def said(self, event: str) -> list[dict[str, Any]]:
        """The log lines of this event."""
        return [line for line in self.lines() if line["event"] == event]

    def lines(self) -> list[dict[str, Any]]:
        """The whole lines of its log so far; Faust writes codes for a terminal's cursor before some."""
        whole = self._log.read_text().rpartition("\n")[0].splitlines()
        return [json.loads(line[line.index("{") :]) for line in whole if '"event": ' in line]

    @property
    def owned(self) -> set[str]:
        """The partitions that the last process of it was given and did not give back, as its log tells."""
        owned: set[str] = set()
        for line in self.lines():
            if line["event"] == "partitions.assigned" and line["generation"] == 1:
                owned = set()
            change = set(line.get("partitions", ()))
            owned = owned | change if line["event"] == "partitions.assigned" else owned - change if line["event"] in GIVEN_UP else owned
        return owned

    def page(self, path: str) -> str:
        """A page of its endpoint, empty while there is none."""
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                f"http://127.0.0.1:{self.port}{path}", timeout=5
            ) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    def until_ready(self) -> None:
        until(lambda: '"ready":true' in self.page("/health/ready"), f"{self._log} says that it is ready", START_S)

    @property
    def child(self) -> int:
        """The pid of the process that does the work."""
        return until(lambda: _child(self.process.pid), "it has a child")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


def _child(pid: int) -> int:
    """The pid of the one child of a process, 0 while it has none; a child belongs to the thread that started it."""
    found = [each for task in Path(f"/proc/{pid}/task").iterdir() for each in (task / "children").read_text().split()]
    return int(found[0]) if found else 0


class Place:
    """Topics of its own on the shared servers."""

    def __init__(self, servers: Servers, directory: Path) -> None:
        self.servers, self.directory = servers, directory
        self.names = Catalog(f"super-{uuid.uuid4().hex[:8]}")
        contracts.apply_topics(servers.bootstrap, self.names)
        contracts.apply_schemas(servers.registry_url, self.names)
        self.records = contracts.load_records(servers.registry_url, self.names, directory / "schemas.json")
        contracts.send_channels(servers.bootstrap, self.records, {"box": BOX})

    @contextmanager
    def worker(self, name: str, *options: str, program: tuple[str, ...] = ("-m", "orderflow.cli"), **variables: str) -> Iterator[Worker]:
        """A worker in the foreground of a shell; ended for sure at the end."""
        port = free_port()
        own = {
            "BOOTSTRAP": self.servers.bootstrap,
            "REGISTRY": self.servers.registry_url,
            "PREFIX": self.names.prefix,
            "GROUP": self.names.prefix,
            "DATA": str(self.directory / name),
            "WORKER_PORT": str(port),
            "LOG_FORMAT": "json",
            "SESSION_TIMEOUT_S": "15",
            **variables,
        }
        environment = {key: value for key, value in os.environ.items() if not key.startswith("ORDERFLOW_")}
        environment |= {f"ORDERFLOW_{key}": value for key, value in own.items()}
        log = self.directory / f"{name}.log"
        with log.open("ab") as out:
            process = subprocess.Popen([sys.executable, *program, "worker", *options], env=environment, stdout=out, stderr=out)
        try:
            yield Worker(self, process, log, port)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(PATIENCE_S)

    def receive(self, sku: str, quantity: int) -> None:
        """A command for the worker to decide."""
        mine = self.records.of("stock")
        command = ReceiveStock("main", quantity, reference="test")
        value = mine.encode_command(CommandMeta(uuid.uuid4().hex, 1, actor="test", principal="test"), sku, command)
        producer = Producer({"bootstrap.servers": self.servers.bootstrap, "partitioner": "murmur2_random"})
        producer.produce(mine.commands, value, sku.encode())
        assert producer.flush(PATIENCE_S) == 0

    def received(self, sku: str) -> list[int]:
        """The quantities of the sku's movements, as its committed events tell them."""
        mine = self.records.of("stock")
        found = contracts.read_topic(self.servers.bootstrap, mine.events)
        events = [mine.decode_event(each.value())[2] for each in found if each.key() == sku.encode()]
        return [event.quantity for event in events if type(event).__name__ == "MovementRecorded"]

    def ends(self) -> dict[tuple[str, int], int]:
        """The end of every partition of every topic, what is in open transactions and markers included."""
        admin = AdminClient({"bootstrap.servers": self.servers.bootstrap})
        wanted = [TopicPartition(topic.name, number) for topic in self.names.topics() for number in range(topic.partitions)]
        found = admin.list_offsets({partition: OffsetSpec.latest() for partition in wanted})
        return {(partition.topic, partition.partition): future.result().offset for partition, future in found.items()}

    def quiet_ends(self) -> dict[tuple[str, int], int]:
        """The ends once nothing moves any more."""
        return at_rest(self.ends)
