"""Two ways to the same laws: a real Kafka and the simulated log, behind what test_laws.py asks of both."""

import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from simulation import clients
from simulation.groups import Group
from simulation.log import Broker
from simulation.scheduler import START_US, Scheduler

PATIENCE_S = 60.0


class RealPort:
    """A broker that is running."""

    def __init__(self, bootstrap: str) -> None:
        self._config = {"bootstrap.servers": bootstrap, "log_level": 0}
        self._admin = AdminClient(self._config)
        self._open: list[Any] = []

    def topic(self, *, partitions: int = 1, **config: str) -> str:
        name = f"law-{uuid4().hex[:10]}"
        settings = {"message.timestamp.type": "LogAppendTime", **{key.replace("_", "."): value for key, value in config.items()}}
        self._admin.create_topics([NewTopic(name, partitions, 1, config=settings)])[name].result()
        return name

    def group(self) -> str:
        return f"law-{uuid4().hex[:10]}"

    def producer(self, **config: Any) -> Any:
        return Producer({**self._config, **{key.replace("_", "."): value for key, value in config.items()}})

    def consumer(self, **config: Any) -> Any:
        settings = {key.replace("_", "."): value for key, value in config.items()}
        made = Consumer({**self._config, "fetch.wait.max.ms": 20, "enable.auto.commit": False, **settings})
        self._open.append(made)
        return made

    def admin(self) -> Any:
        return self._admin

    def compact(self, topic: str) -> None:
        """The cleaner comes when it comes; the law holds before and after."""

    def close(self) -> None:
        for each in self._open:
            each.close()

    @staticmethod
    def wait(until: Callable[[], bool], seconds: float) -> bool:
        """`seconds` are the simulation's, whose time is exact; a real machine may stand still for a while."""
        deadline = time.monotonic() + seconds + PATIENCE_S
        while not until():
            if time.monotonic() > deadline:
                return False
        return True


class SimPort:
    """The simulated log without any fault; virtual time passes while somebody waits. Stands in for a process too."""

    alive = heartbeats = True
    starts = 1

    def __init__(self) -> None:
        self.sim = Scheduler(1)
        self._broker = Broker({}, lambda: START_US + self.sim.now_us, self.sim.later)
        self._groups: dict[str, Group] = {}
        self._count = 0

    def topic(self, *, partitions: int = 1, **config: str) -> str:
        self._count += 1
        name = f"law-{self._count}"
        self._broker.topics[name] = partitions
        fresh = Broker({name: partitions}, self._broker.now_us, self.sim.later)
        self._broker.logs.update(fresh.logs)
        return name

    def group(self) -> str:
        name = f"law-group-{self._count}-{len(self._groups)}"
        self._groups[name] = Group(name, self._broker.topics, lambda: self.sim.now_us, self.sim.later)
        return name

    def producer(self, **config: Any) -> Any:
        return clients.Producer(self, self._broker, self._groups, {key.replace("_", "."): value for key, value in config.items()})

    def consumer(self, **config: Any) -> Any:
        settings = {"client.id": "law", "session.timeout.ms": 6000, **{key.replace("_", "."): value for key, value in config.items()}}
        return clients.Consumer(self, self._broker, self._groups, settings)

    def admin(self) -> Any:
        return clients.AdminClient(self, self._broker, self._groups, {})

    def compact(self, topic: str) -> None:
        assert self._broker.compact(topic) > 0

    def close(self) -> None: ...

    def wait(self, until: Callable[[], bool], seconds: float) -> bool:
        deadline = self.sim.now_us + int(seconds * 1e6)
        while not until():
            if self.sim.now_us > deadline:
                return False
            self.sim.others(10_000)
        return True

    # -- what clients ask of a process: nothing ever goes wrong here ---------------------------------------------------------------
    def point(self, name: str) -> None: ...
    def answered(self, call: str) -> None: ...
    def wake(self) -> None: ...
    def watch(self, log: Any, consumer: Any) -> None: ...
    def assigned(self, key: Any) -> None: ...
    def produced(self, *record: Any) -> None: ...

    def fate(self, call: str) -> str:
        return ""

    def chance(self, share: float) -> bool:
        return False

    def part(self, most: int) -> int:
        return most

    def shuffled(self, positions: Any) -> Any:
        return list(positions.items())

    def stand_still(self, for_us: int) -> None:
        self.sim.others(for_us)

    def idles(self, timeout: float) -> None:
        self.sim.others(int(max(timeout, 0.001) * 1e6))
