"""`orderflow worker` brings a worker back that crashed or hangs, leaves one alone that a person has to mend, and stops with it."""

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

import pytest
from integration_harness import PATIENCE_S, until

from orderflow.cli import contracts, supervise
from orderflow.connectors.box.box import Servers
from orderflow.connectors.box.ports import free_port
from orderflow.connectors.box.process import started_at
from orderflow.schemas.catalog import Catalog
from orderflow.streams.domain.channel import BOX
from orderflow.streams.domain.contract import CommandMeta
from orderflow.streams.domain.stock_records import ReceiveStock

pytestmark = pytest.mark.box

STOPPED, HUNG, LOST, MISCONFIGURED = 0, 11, 13, 78
HANGING = '''"""A worker whose rule blocks for ever, until the file named first is there."""
import sys, threading
from pathlib import Path
from orderflow.cli.main import main
from orderflow.streams.processor import Processor

mended, sound = Path(sys.argv.pop(1)), Processor.run

def run(self, batch):
    if not mended.exists():
        mended.touch()
        threading.Event().wait()
    return sound(self, batch)

Processor.run = run
main()
'''


class Worker:
    """A worker as a person starts it, and what it said."""

    def __init__(self, at: "Place", process: "subprocess.Popen[bytes]", log: Path, port: int) -> None:
        self.at, self.process, self._log, self.port = at, process, log, port

    def said(self, event: str) -> list[dict[str, Any]]:
        """The log lines of this event."""
        lines = [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("event") == event]

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
        until(lambda: '"ready":true' in self.page("/health/ready"), f"the worker is ready: {self._log.read_text()[-3000:]}")

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
            "SESSION_TIMEOUT_S": "6",
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
        from confluent_kafka import Producer

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


@pytest.fixture(scope="module")
def place(box: Servers, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(box, tmp_path_factory.mktemp("super"))


def test_a_killed_worker_is_started_again_and_the_count_is_told(place: Place) -> None:
    with place.worker("killed") as worker:
        worker.until_ready()
        for restarts in (1, 2):
            pid = worker.child
            os.kill(pid, signal.SIGKILL)
            until(lambda pid=pid: started_at(pid) is None, "it is dead")  # type: ignore[misc]
            until(lambda n=restarts: f"orderflow_restarts_total {n}.0" in worker.page("/metrics"), "the next one counts")  # type: ignore[misc]
            worker.until_ready()
        assert [(each["code"], each["restarts"]) for each in worker.said("worker.ended")] == [(-9, 1), (-9, 2)]
        place.receive("AFTER", 3)
        until(lambda: place.received("AFTER") == [3], "it works")
        assert worker.stop() == STOPPED


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_passed_on_and_nobody_comes_back(place: Place, number: signal.Signals) -> None:
    with place.worker(f"stopped-{number.name}") as worker:
        worker.until_ready()
        pid = worker.child
        assert worker.stop(number) == STOPPED
        assert started_at(pid) is None
        assert worker.said("worker.ended") == []


def test_the_worker_ends_with_a_supervisor_that_is_killed(place: Place) -> None:
    with place.worker("orphan") as worker:
        worker.until_ready()
        pid = worker.child
        worker.process.kill()
        until(lambda: started_at(pid) is None, "its worker is gone too")


def test_a_worker_that_is_set_up_wrongly_is_not_started_again(place: Place) -> None:
    with place.worker("wrong", LOCATIONS=",") as worker:
        assert worker.process.wait(PATIENCE_S) == MISCONFIGURED
        assert worker.said("worker.ended") == []


def test_once_leaves_the_restart_to_others(place: Place) -> None:
    with place.worker("once", "--once") as worker:
        worker.until_ready()
        os.kill(worker.process.pid, signal.SIGKILL)
        assert worker.process.wait(PATIENCE_S) == -signal.SIGKILL
        assert worker.page("/health/live") == ""


def test_a_worker_whose_rule_hangs_says_where_and_is_started_again(place: Place, tmp_path: Path) -> None:
    (tmp_path / "hanging.py").write_text(HANGING)
    program = (str(tmp_path / "hanging.py"), str(tmp_path / "mended"))
    with place.worker("hanging", program=program, WATCHDOG_S="4") as worker:
        worker.until_ready()
        place.receive("HANGS", 5)
        until(lambda: worker.said("worker.ended"), "it is found")
        assert [each["code"] for each in worker.said("worker.ended")] == [HUNG]
        stacks = {each["thread"]: each["stack"] for each in worker.said("worker.hung")}
        assert "hanging.py" in stacks["MainThread"], "the thread that runs the rule"
        assert any(name.startswith("kafka") for name in stacks)
        until(lambda: place.received("HANGS") == [5], "the next one decides it, once")


def test_a_worker_that_was_stopped_for_longer_than_the_watchdogs_bound_is_not_hung(place: Place) -> None:
    """Within its session, so that only the watchdog could end it."""
    with place.worker("paused", WATCHDOG_S="2", SESSION_TIMEOUT_S="30") as worker:
        worker.until_ready()
        pid = worker.child
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(subprocess.TimeoutExpired):
            worker.process.wait(5)
        os.kill(pid, signal.SIGCONT)
        place.receive("PAUSED", 1)
        until(lambda: place.received("PAUSED") == [1], "it goes on")
        assert worker.said("worker.ended") == []


def test_what_a_start_can_mend() -> None:
    assert all(supervise.is_mended_by_a_start(code) for code in (1, 10, 11, 12, 13, 69, -9, -11))
    assert not any(supervise.is_mended_by_a_start(code) for code in (0, 2, 78))
