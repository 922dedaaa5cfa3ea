"""An open-loop load of J1 commands and the answers to it: who asks, when it should have asked, when the answer could be seen.

The load is a process of its own and keeps to a schedule: command n is due at `began + n / rate`, however late the system is, and a wait
is counted from there (no coordinated omission). Answers are what a read_committed consumer sees, on the same clock.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Self

import fleet
import j1
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from msgspec import Struct, structs

from orderflow.schemas.partitioner import partition_of

BEGIN_IN_S = 0.3
FAST = 2000
"""Commands/s from which the load is encoded before it begins and batched for 5 ms instead of 1."""
ANSWERS_TIMEOUT_S = 120.0


class Unanswered(fleet.BenchError):
    """Commands have no answer long after they were due."""


class Load(Struct, frozen=True):
    """Commands of J1's input at a constant rate, from the `first` one on; `count` 0 goes on until it is told to stop."""

    bootstrap: str
    prefix: str
    rate: float
    count: int = 0
    first: int = 0


# -- the load process ---------------------------------------------------------------------------------------------------------------
def send(load: Load) -> None:
    """Send on schedule; says when it begins, and at the end how many were sent and how late."""
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.set())
    config = {
        "bootstrap.servers": load.bootstrap,
        "enable.idempotence": True,
        "acks": "all",
        "partitioner": "murmur2_random",
        "linger.ms": 5 if load.rate > FAST else 1,
        "queue.buffering.max.messages": 1_000_000,
    }
    producer = Producer(config)
    topic = f"{load.prefix}.commands"
    producer.list_topics(topic, timeout=10)
    source = _encoded(load.first + load.count if load.count else 1 << 62)
    for _ in islice(source, load.first):
        pass  # before it begins
    records = iter(list(source)) if load.count and load.rate > FAST else source
    late = array("f")
    began = time.monotonic() + BEGIN_IN_S
    print(json.dumps({"began": began}), flush=True)
    number, pause, starter = 0, 0.001 if load.rate > FAST else 0.0, os.getppid()
    while not stopping.is_set() and os.getppid() == starter and (not load.count or number < load.count):
        now = time.monotonic()
        due = min(int((now - began) * load.rate) + 1, load.count or 1 << 62) if now >= began else 0
        while number < due:
            key, value = next(records)
            try:
                producer.produce(topic, value, key)
            except BufferError:
                producer.poll(0.01)
                producer.produce(topic, value, key)
            late.append(now - began - number / load.rate)
            number += 1
        producer.poll(0)
        time.sleep(max(pause, began + number / load.rate - time.monotonic(), 0.0))
    producer.flush()
    print(json.dumps({"sent": number, "late_ms": spread(late)}), flush=True)


def _encoded(count: int) -> Iterator[tuple[bytes, bytes]]:
    encode = j1.COMMAND.encode
    return ((command.sku.encode(), encode(command)) for command in j1.commands(count))


class Sender:
    """The load process as its starter sees it."""

    def __init__(self, load: Load, log: Path, cores: Sequence[int] = (0,)) -> None:
        self.load, self._log = load, log
        command = (sys.executable, str(Path(__file__).resolve()), json.dumps(structs.asdict(load)))
        with log.open("ab") as errors, fleet.on_cores(cores):
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        self.began: float = self._line()["began"]
        self.late_ms: dict[str, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """End the load; how many commands were sent in all."""
        self._process.terminate()
        return self.wait()

    def wait(self) -> int:
        """Until all are sent; how many."""
        done = self._line()
        self._process.wait()
        self.late_ms = done["late_ms"]
        sent: int = done["sent"]
        return sent

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None, "opened with a pipe"
        line = self._process.stdout.readline()
        if not line:
            raise fleet.BenchError(f"the load ended with {self._process.wait()}\n{self._log.read_text(errors='replace')[-2000:]}")
        said: dict[str, Any] = json.loads(line)
        return said


# -- the answers --------------------------------------------------------------------------------------------------------------------
class Answers:
    """Reads the answers on a thread from the topic's beginning, each with the moment it could be seen. `with Answers(...) as answers`."""

    def __init__(self, bootstrap: str, prefix: str, cores: Sequence[int] = (0,)) -> None:
        self._topic, self._cores = f"{prefix}.out", cores
        self._config = {
            "bootstrap.servers": bootstrap,
            "group.id": f"{prefix}-answers",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "fetch.queue.backoff.ms": 5,
            "fetch.wait.max.ms": 100,
        }
        self.count = 0
        self._seen: list[tuple[float, list[bytes]]] = []
        self._failed: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name="answers", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._stop.set()
        self._thread.join()

    def _read(self) -> None:
        try:
            with fleet.on_cores(self._cores):
                consumer = Consumer(self._config)
                partitions = consumer.list_topics(self._topic, timeout=10).topics[self._topic].partitions
                consumer.assign([TopicPartition(self._topic, number, 0) for number in partitions])
                while not self._stop.is_set():
                    messages = consumer.consume(10_000, 0)
                    if not messages:
                        message = consumer.poll(0.05)
                        messages = [message] if message is not None else []
                    self._take(messages)
                consumer.close()
        except Exception as error:  # a thread's exception is nobody's: `await_count` raises it
            self._failed = error

    def _take(self, messages: Sequence[Any]) -> None:
        values = []
        for message in messages:
            error = message.error()
            if error is None:
                values.append(message.value())
            elif error.code() != KafkaError._PARTITION_EOF and error.fatal():
                raise fleet.BenchError(error.str())
        if values:
            self._seen.append((time.monotonic(), values))
            self.count += len(values)

    def await_count(self, count: int, workers: fleet.Fleet, timeout_s: float = ANSWERS_TIMEOUT_S) -> float:
        """Return when `count` answers were seen, with the moment of the last; raises BenchError when they do not come."""
        deadline = time.monotonic() + timeout_s
        while self.count < count:
            if self._failed is not None:
                raise fleet.BenchError(f"the answers could not be read: {self._failed}")
            if time.monotonic() > deadline:
                raise Unanswered(f"{count} commands, {self.count} answers after {timeout_s:.0f} s\n{workers.tails()}")
            time.sleep(0.05)
        return self._seen[-1][0]

    def all(self) -> Iterator[tuple[float, j1.Decided]]:
        """(moment, answer) in the order they were seen."""
        decode = j1.DECIDED.decode
        for at, values in list(self._seen):
            for value in values:
                yield at, decode(value)


class Exchange(Struct, frozen=True):
    """One command and its one answer; moments of the machine's monotonic clock, the partition is the command's."""

    due: float
    answered: float
    partition: int

    @property
    def wait_s(self) -> float:
        return self.answered - self.due


def match(answers: Iterable[tuple[float, j1.Decided]], sent: int, began: float, rate: float, partitions: int) -> list[Exchange]:
    """Every command with its answer, in the order of the schedule. Raises AssertionError unless each has exactly one."""
    waiting: dict[str, list[int]] = {}
    places: list[int] = []
    of_sku: dict[str, int] = {}
    for number, command in enumerate(j1.commands(sent)):
        waiting.setdefault(command.command_id, []).append(number)
        place = of_sku.get(command.sku)
        if place is None:
            place = of_sku[command.sku] = partition_of(command.sku.encode(), partitions)
        places.append(place)
    found: list[Exchange | None] = [None] * sent
    for at, decided in answers:
        numbers = waiting.get(decided.command_id)
        assert numbers, f"an answer too many for {decided.command_id}"
        number = numbers.pop(0)
        found[number] = Exchange(began + number / rate, at, places[number])
    matched = [each for each in found if each is not None]
    assert len(matched) == sent, f"{sent - len(matched)} of {sent} commands have no answer"
    return matched


def spread(seconds: Iterable[float]) -> dict[str, float]:
    """p50, p95, p99 and the greatest, in milliseconds."""
    ordered = sorted(seconds)
    if not ordered:
        return {}
    at = {name: ordered[min(len(ordered) - 1, int(len(ordered) * share))] for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))}
    return {name: round(value * 1000, 2) for name, value in {**at, "max": ordered[-1]}.items()}


if __name__ == "__main__":
    send(Load(**json.loads(sys.argv[1])))
