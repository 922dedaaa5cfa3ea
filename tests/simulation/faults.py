"""What goes wrong in a run, as a list: when, what, to whom. A shorter list is a smaller run, so failures can be shrunk."""

from collections.abc import Iterable
from random import Random

from msgspec import Struct

from orderflow.streams.domain.contract import CommandMeta
from orderflow.streams.domain.order_records import RecordStockAnswer
from orderflow.streams.domain.stock_records import ReceiveStock
from simulation import clients
from simulation.edges import Edge
from simulation.system import System, Worker

POINTS = (
    *("after_produce", "before_commit", "after_commit_before_state", "during_restore", "during_rebalance"),
    *("before_write", "after_write", "send_offsets", "send_offsets_answered", "commit", "commit_answered"),
    *("init_transactions", "init_transactions_answered", "begin_transaction", "consume", "poll", "producer_poll", "list_offsets", ""),
)
"""Where a process may be ended or stopped: the named points of production code, each request and each answer; empty: any call."""
SESSION_S = 10.0
POISONS = 5
POISONED = frozenset({"EMPTY", "UNDECODABLE", "WRONG_KEY", "FAILED"})
"""The reasons under which poisoned records are parked."""


class Fault(Struct, frozen=True):
    """At `at_s`, `kind` happens to worker `who` (modulo the workers there are); `at_point` and `nth` say where in its code."""

    at_s: float
    kind: str
    who: int = 0
    at_point: str = ""
    nth: int = 1
    seconds: float = 0.0
    word: str = ""

    def __str__(self) -> str:
        where = f" at {self.at_point or 'any call'} #{self.nth}" if self.kind in ("kill", "pause") else ""
        more = "".join(f" {value}" for value in (self.word, self.seconds) if value)
        return f"{self.at_s:8.3f} s  {self.kind} w{self.who}{where}{more}"


KINDS = (
    *("kill",) * 6,
    *("pause",) * 4,
    *("net",) * 5,
    *("clock", "append_clock", "stop", "scale", "twin", "storm", "markers", "compact", "retain"),
)


def draw(random: Random, workers: int, load_s: float, profile: str) -> tuple[Fault, ...]:
    """A list of faults spread over the load; one seed in eight has none."""
    if random.random() < 0.12:
        return ()
    count = random.randint(1, 4 if profile == "smoke" else 10)
    return tuple(sorted((_one(random, workers, max(5.0, load_s)) for _ in range(count)), key=lambda fault: fault.at_s))


def failures(random: Random, workers: int, load_s: float) -> tuple[Fault, ...]:
    """Transactions that the client fails by itself, as one of librdkafka did in the join of a loaded worker; in half of the runs."""
    count = random.choice((0, 0, 1, 3))
    return tuple(
        Fault(round(random.uniform(0.2, load_s), 3), "net", random.randrange(workers), "begin_transaction", word="failed")
        for _ in range(count)
    )


def _one(random: Random, workers: int, load_s: float) -> Fault:
    kind = random.choice(KINDS)
    at, who = round(random.uniform(0.2, load_s * 1.3), 3), random.randrange(workers)
    point, nth = random.choice(POINTS), random.choice((1, 1, 2, 3, 7, 20))
    match kind:
        case "kill":
            return Fault(at, kind, who, point, nth, word=random.choice(("process", "process", "process", "machine", "disk")))
        case "pause":
            return Fault(at, kind, who, point, nth, seconds=random.choice((0.2, 2.0, SESSION_S + 3, SESSION_S * 4, 200.0)))
        case "net":
            call = random.choice(("send_offsets", "commit", "commit", "commit", "abort"))
            fate = random.choice(
                ("lost", "ack_lost", "late", "retriable", "abortable") if call == "commit" else ("lost", "ack_lost", "retriable")
            )
            return Fault(at, kind, who, call, word=fate)
        case "clock":
            return Fault(at, kind, who, seconds=random.choice((-3600.0, -30.0, 30.0, 3600.0)))
        case "append_clock":
            return Fault(at, kind, seconds=random.choice((-5.0, -0.5, 0.5)))
        case "stop" | "scale" | "twin":
            return Fault(at, kind, who, seconds=random.choice((1.0, 15.0)))
        case "markers":
            return Fault(at, kind, seconds=random.choice((0.02, 1.0)))
        case _:
            return Fault(at, kind, who)


def arm(system: System, edge: Edge, faults: Iterable[Fault]) -> int:
    """Put them into the queue; when (virtual microseconds) the last of them has begun."""
    end = 0
    for fault in faults:
        at = int(fault.at_s * 1e6)
        end = max(end, at + 1_000_000)
        system.scheduler.later(at, lambda fault=fault: _happen(system, edge, fault))  # type: ignore[misc]
    for number in range(edge.load.poison):
        system.scheduler.later(1_000_000 + number * 700_000, lambda number=number: _poison(system, number))  # type: ignore[misc]
    return end


def _happen(system: System, edge: Edge, fault: Fault) -> None:
    worker = system.workers[fault.who % len(system.workers)]
    system.scheduler.say("fault", str(fault))
    match fault.kind:
        case "kill":
            worker.armed.append([fault.at_point, fault.nth, lambda it, name: it.kill(fault.word)])
            worker.wake()
        case "pause":
            worker.armed.append([fault.at_point, fault.nth, lambda it, name: it.freeze(fault.seconds)])
        case "net":
            worker.fates.append((fault.at_point, fault.word))
        case "clock":
            worker.clock_skew_us += int(fault.seconds * 1e6)
            worker.wake()
        case "append_clock":
            system.broker.append_skew_ms = int(fault.seconds * 1000)
        case "stop":
            worker.stop(for_good=False)
        case "scale":
            _scale(system, worker, fault)
        case "twin":
            _scale(system, worker, fault, worker.instance)
        case "storm":
            system.group.rebalance()
        case "markers":
            most = max(1, int(fault.seconds * 1e6))
            system.broker.marker_delay_us = lambda: system.scheduler.random.randrange(most)
        case "compact":
            for topic in system.records.catalog.topics():
                if topic.config.get("cleanup.policy") == "compact":
                    system.broker.compact(topic.name)
        case "retain":
            _retain(system)
        case _:
            raise AssertionError(f"no fault {fault.kind}")


def _scale(system: System, worker: Worker, fault: Fault, instance: str = "") -> None:
    """One more worker, perhaps with the name of another one that runs; it goes away again after a while."""
    if len(system.workers) >= 6:
        return
    added = system.add_worker(static=worker.static, instance=instance)
    system.scheduler.later(int(fault.seconds * 1e6), lambda: added.stop(for_good=True))


def _retain(system: System) -> None:
    """Retention of command topics: what every owner has consumed and committed may go."""
    for source in system.logs:
        for number in range(system.partitions):
            meta = [record for record in system.broker.logs[source.meta_topic, number].committed() if record.value()]
            if meta:
                system.broker.delete_before(source.topic, number, source.read_meta(meta[-1].value() or b"").source_offset)


def _poison(system: System, number: int) -> None:
    """Records nobody can decide: no schema, no value, too short, the wrong key, a word no rule knows."""
    orders, stock = system.records.of("orders"), system.records.of("stock")
    meta = CommandMeta(f"poison-{number}", system.clock_us())
    strange = orders.encode_command(meta, "o0000", RecordStockAnswer("SKU-0~o0000~1", "SKU-0", "nonsense", 1))
    misplaced = stock.encode_command(meta, "SKU-0", ReceiveStock("main", 5))
    topic, key, value = (
        (stock.commands, b"SKU-0", b"\x00\x00\x00\xff\xffnonsense"),
        (orders.commands, b"o0000", None),
        (stock.commands, b"SKU-1", b"\x01"),
        (stock.commands, b"SKU-1", misplaced),
        (orders.commands, b"o0000", strange),
    )[number % POISONS]
    number_of = clients.partition_of_key(key, system.partitions)
    system.broker.append(system.broker.logs[topic, number_of], key, value, None, None)


def calm(system: System, edge: Edge) -> None:
    """The faults are over: everybody is started and left alone."""
    edge.faulty = False
    system.broker.marker_delay_us = lambda: 0
    system.broker.append_skew_ms = 0
    for worker in system.workers:
        worker.armed.clear()
        worker.fates.clear()
        worker.clock_skew_us = 0
        worker.wake()
