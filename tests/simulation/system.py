"""The simulated system around the production code: catalogue, records, broker, group, workers that die and come back.

A worker is a process over a disk: it builds a real Engine over simulated clients and a simulated store and steps it in the same
lockstep as the Faust shell: step, decide the batches, hand them to the next step.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

from confluent_kafka import KafkaException
from msgspec.structs import replace

import orderflow.streams.engine as engine_module
import orderflow.streams.membership as membership_module
from orderflow.schemas.catalog import Catalog
from orderflow.streams.domain.channel import BOX, ChannelRow
from orderflow.streams.domain.contract import Settings
from orderflow.streams.orphans import LOOK_S
from orderflow.streams.partitions import EngineSettings, Log, Work
from orderflow.streams.processor import Processor
from orderflow.streams.records import Records
from orderflow.streams.topology import SPACES, KeySpace
from orderflow.streams.transaction import Fatal
from orderflow.streams.worker import command_log
from orderflow.tables.world import World
from simulation import clients
from simulation.groups import Group
from simulation.log import Broker, PartitionLog
from simulation.scheduler import START_US, Actor, Killed, Scheduler
from simulation.store import Disk, SimStore

GROUP = "orderflow"
SESSION_MS = 10_000
RESTART_US = 700_000
IDLE_US = 5_000_000
LOOK_US = int(LOOK_S * 1e6)


@cache
def records_of(partitions: int) -> Records:
    """All records of a catalogue with ids as a registry would give them: equal schemas share one."""
    names = Catalog(partitions=partitions)
    ids: dict[str, int] = {}
    by_schema: dict[str, int] = {}
    for subject in names.subjects():
        ids[subject.name] = by_schema.setdefault(subject.record, len(by_schema) + 1)
    return Records(names, ids)


class Parts:
    """The production classes a worker is made of. A planted bug puts a broken subclass in the place of one."""

    engine: Any = engine_module.Engine
    processor: Any = Processor
    store: Any = SimStore
    producer: Any = clients.Producer
    spaces: Iterable[KeySpace] = SPACES

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Around a whole run: for bugs that no subclass can hold."""
        yield


class System:
    """One simulated installation."""

    def __init__(self, scheduler: Scheduler, partitions: int, parts: Parts, rules: Settings, attempts: int = 1) -> None:
        self.scheduler, self.parts, self.rules = scheduler, parts, rules
        self.records = records_of(partitions)
        self.partitions = partitions
        topics = {topic.name: topic.partitions for topic in self.records.catalog.topics()}
        self.broker = Broker(topics, self.clock_us, scheduler.later)
        self.group = Group(GROUP, topics, lambda: scheduler.now_us, scheduler.later)
        self.groups = {GROUP: self.group}
        self.lookups = {"channel": {"channel:box": ChannelRow(1, replace(BOX, payment_attempts=attempts))}}
        self.logs: list[Log] = [command_log(space, self.records) for space in parts.spaces]
        self.workers: list[Worker] = []
        self.running: list[Worker] = []
        self.found: list[str] = []
        """What the simulator itself saw go wrong, beside the checkers."""
        self.exits: dict[str, int] = {}

    def clock_us(self) -> int:
        return START_US + self.scheduler.now_us

    def reach(self, point: str) -> None:
        """Stands in for streams/faults.reach: the named points of production code."""
        if self.running:
            self.running[-1].point(point)

    def add_worker(self, *, static: bool, instance: str = "") -> "Worker":
        worker = Worker(self, len(self.workers), static, instance)
        self.workers.append(worker)
        self.scheduler.add(worker.actor)
        return worker

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Production code reaches its fault points here while this block runs."""
        before = engine_module.reach
        engine_module.reach = membership_module.reach = self.reach
        try:
            with self.parts.planted():
                yield
        finally:
            engine_module.reach = membership_module.reach = before


class Worker:
    """One worker: its disk outlives its processes. `armed` are faults that wait for the n-th time a point is reached."""

    def __init__(self, system: System, number: int, static: bool, instance: str = "") -> None:
        self.system, self.number, self.static = system, number, static
        self.sim = system.scheduler
        self.name = f"w{number}"
        self.instance = instance or self.name
        self.disk = Disk()
        self.actor = Actor(self.name, self._step)
        self.engine: Any = None
        self.alive = self.frozen = self.stopping = self.retired = False
        self.clock_skew_us = 0
        self.armed: list[list[Any]] = []
        self.fates: list[tuple[str, str]] = []
        self.starts = self.kills = 0
        self._restorer: Any = None
        self._watch: Any = None
        self._look_at: int | None = None
        self._consumers: list[Any] = []
        self._processors: dict[str, Processor] = {}
        self._done: list[Work] = []
        self._idle: float | None = None
        self._watched: set[PartitionLog] = set()
        self._backlogs: dict[tuple[str, int], int] = {}
        self._commands = {log.topic for log in system.logs}

    # -- life ---------------------------------------------------------------------------------------------------------------------
    def _step(self) -> int | None:
        system = self.system
        system.running.append(self)
        try:
            return self._advance()
        except Killed as killed:
            self._ended(str(killed))
        except (Fatal, KafkaException) as error:
            self._ended(f"exit: {error}")
        except Exception as error:
            system.found.append(f"{self.name} failed with {type(error).__name__}: {error}")
            self._ended(f"{type(error).__name__}: {error}")
        finally:
            system.running.pop()
        return None if self.retired else RESTART_US + self.sim.random.randrange(RESTART_US)

    def _advance(self) -> int | None:
        if not self.alive:
            if self.retired:
                return None
            self._start()
            return 1_000
        if self.stopping:
            self.stopping = False
            self.engine.stop(self._done)
            self._ended("stopped")
            return None if self.retired else RESTART_US
        engine = self.engine
        self._idle = None
        works = engine.step(self._done)
        self._done = []
        records = 0
        for work in works:
            work.result = self._processors[work.partition.source.topic].run(work.batch)
            records += len(work.batch.records)
        self._done = works
        if self._restorer is not None and self._restorer.serve(block=False):
            return 500
        self._look()
        if records or self._idle is None:
            return 200 + 30 * records + self.sim.random.randrange(800)
        return self._until_next(engine)

    def _look(self) -> None:
        """What the thread of the orphan watch does."""
        watch, now = self._watch, self.sim.now_us
        if watch is None:
            return
        if watch.moved.is_set():
            watch.begin()
            self._look_at = now + LOOK_US
        elif self._look_at is not None and now >= self._look_at:
            is_done = watch.step(watch.admin())
            self._look_at = None if is_done else now + LOOK_US

    def _until_next(self, engine: Any) -> int:
        """Sleep until a deadline; data and rebalances wake earlier."""
        if engine.transaction.open or engine.restoring:
            return 2_000
        now, wait = self.now_us(), IDLE_US
        if self._look_at is not None:
            wait = max(1_000, min(wait, self._look_at - self.sim.now_us))
        for partition in engine.partitions.values():
            if partition.caught_up and partition.next_due is not None:
                wait = min(wait, max(partition.next_due - now, 20_000))
        return wait

    def _start(self) -> None:
        system, name = self.system, self.name
        self.alive, self.starts = True, self.starts + 1
        self._done, self._restorer, self._watch, self._look_at = [], None, None, None
        self.sim.say(name, "starts")
        settings = EngineSettings(
            bootstrap="simulated",
            group=GROUP,
            instance=self.instance,
            static=self.static,
            session_timeout_ms=SESSION_MS,
            transaction_timeout_ms=SESSION_MS,
            partitions=system.partitions,
            address=self.name,
        )
        store = system.parts.store(self.disk, self.instance, self.point)
        self._processors = {
            system.records.of(space.name).commands: system.parts.processor(space, system.records, system.rules, system.lookups, "sim")
            for space in system.parts.spaces
        }
        self.engine = system.parts.engine(settings, system.logs, store, self._world())
        self.engine.start()

    def _world(self) -> World:
        system = self.system

        def consumer(config: Mapping[str, Any]) -> clients.Consumer:
            made = clients.Consumer(self, system.broker, system.groups, config)
            self._consumers.append(made)
            return made

        return World(
            consumer=consumer,
            producer=lambda config: system.parts.producer(self, system.broker, system.groups, config),
            admin=lambda config: clients.AdminClient(self, system.broker, system.groups, config),
            monotonic=lambda: self.sim.now_us / 1e6,
            now_us=self.now_us,
            sleep=lambda seconds: self.stand_still(int(seconds * 1e6)),
            thread=self._thread,
            exit=self._exit,
        )

    def _thread(self, name: str, function: Callable[[], None]) -> "Worker":
        """The restore thread and the orphan watch's: the scheduler serves them as steps of their own."""
        if name == "orphans":
            self._watch = function.__self__  # type: ignore[attr-defined]
        else:
            self._restorer = function.__self__  # type: ignore[attr-defined]
        return self

    def join(self, timeout: float = 0) -> None: ...

    def _exit(self, code: int) -> None:
        raise Killed(f"exit {code}")

    def _ended(self, why: str) -> None:
        self.sim.say(self.name, f"ends: {why}")
        self.system.exits[why[:40]] = self.system.exits.get(why[:40], 0) + 1
        self.alive = self.frozen = False
        for consumer in self._consumers:
            for log in self._watched:
                log.watchers.pop(consumer, None)
        self._consumers.clear()
        self._watched.clear()
        self._backlogs.clear()
        self.engine = self._restorer = None
        self._done = []

    def stop(self, *, for_good: bool) -> None:
        """SIGTERM."""
        self.retired = for_good
        self.stopping = self.alive
        self.wake()

    def wake(self) -> None:
        self.sim.wake(self.actor, self.sim.random.randrange(200, 2_000))

    def now_us(self) -> int:
        return START_US + self.sim.now_us + self.clock_skew_us

    # -- what its clients ask ------------------------------------------------------------------------------------------------------
    @property
    def heartbeats(self) -> bool:
        return self.alive and not self.frozen

    def point(self, name: str) -> None:
        """A place where this process may be interrupted."""
        if not self.alive:
            raise Killed("after its end")
        for fault in self.armed:
            if fault[0] == name or not fault[0]:
                fault[1] -= 1
                if fault[1] <= 0:
                    self.armed.remove(fault)
                    fault[2](self, name)
                    break
        self.sim.maybe_others()
        for consumer in self._consumers:
            if consumer.member is not None and self.sim.random.random() < 0.5:
                consumer.heartbeat()

    def kill(self, how: str) -> None:
        """kill -9; `machine` loses the unsynced tail of the disk, `disk` all of it."""
        self.kills += 1
        if how == "machine":
            self.disk.lose_tail(self.sim.random.randrange(1, 30))
        elif how == "disk":
            self.disk.lose()
        raise Killed(f"kill -9 ({how})")

    def freeze(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after a while."""
        self.sim.say(self.name, f"stopped for {seconds:.1f} s")
        self.frozen = True
        self.sim.others(int(seconds * 1e6))
        self.frozen = False
        self.sim.say(self.name, "continues")

    def stand_still(self, for_us: int) -> None:
        """A call that waits, while everybody else goes on."""
        self.sim.others(for_us)

    def fate(self, call: str) -> str:
        """What happens to this request: nothing special, mostly."""
        for entry in self.fates:
            if entry[0] == call:
                self.fates.remove(entry)
                self.sim.say(self.name, f"{call}: {entry[1]}")
                return entry[1]
        return ""

    def late_us(self) -> int:
        """How long a request was on its way: longer than the client waits for the answer."""
        return clients.TIMEOUT_US + self.sim.random.randrange(5_000, 3_000_000)

    def answered(self, call: str) -> None:
        self.point(f"{call}_answered")

    def chance(self, share: float) -> bool:
        return self.sim.random.random() < share

    def part(self, most: int) -> int:
        return self.sim.random.randint(1, most) if most > 1 else most

    def shuffled(self, positions: Mapping[Any, int]) -> list[tuple[Any, int]]:
        """The partitions in the order in which their fetches come back."""
        found = list(positions.items())
        if len(found) > 1:
            start = self.sim.random.randrange(len(found))
            found = found[start:] + found[:start]
        return found

    def idles(self, timeout: float) -> None:
        self._idle = timeout

    def watch(self, log: PartitionLog, consumer: Any) -> None:
        self._watched.add(log)
        log.watchers[consumer] = self.wake

    def assigned(self, key: tuple[str, int]) -> None:
        """The backlog a new owner must consume before it may append timers."""
        if key[0] in self._commands:
            log = self.system.broker.logs[key]
            seen = log.stable
            while seen > log.base and not log.read(seen - 1, 1, True)[0]:
                seen -= 1  # markers and aborted records are nobody's backlog
            self._backlogs[key] = seen

    def produced(self, topic: str, partition: int, key: bytes | None, value: bytes | None) -> None:
        """I16: no timer is appended to a log whose backlog at assignment is not consumed."""
        if topic in self._commands and self._backlogs.get((topic, partition), 0) > 0 and self.engine is not None:
            owned = self.engine.partitions.get((topic, partition))
            backlog = self._backlogs[topic, partition]
            if owned is None or not owned.running or owned.position >= backlog:
                return
            if value is not None and type(self._decoded(topic, value)).__name__ == "TimerDue":
                self.system.found.append(
                    f"I16 {topic}[{partition}]: a timer at position {owned.position}, before the backlog's end {backlog}"
                )

    def _decoded(self, topic: str, value: bytes) -> Any:
        return self.system.records.unpack(value).value
