"""What must be true at the end of a run: the checkers over the topics, rows and changelogs against the fold, the operator's view."""

from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from orderflow.streams import checkers
from orderflow.streams.checkers import Asked, Ledger, Seen, Violation
from orderflow.streams.replay import Tables
from simulation.bank import Bank
from simulation.edges import Edge
from simulation.faults import POISONED
from simulation.log import Message
from simulation.system import GROUP, System

PROBLEMS_MAX = 20
UNDECIDED = ("PaymentRequested", "PaymentUnknown", "PaymentActionRequired")
"""What is said of an operation before its provider has decided."""


class Judged(Struct):
    problems: list[str]
    events: int
    statuses: dict[str, int]


def judge(system: System, edge: Edge, bank: Bank) -> Judged:
    """Every check over what a read_committed reader sees now."""
    statuses: dict[str, int] = {}
    for each in edge.see_orders().values():
        statuses[each.status] = statuses.get(each.status, 0) + 1
    events = [seen for source in system.logs for seen in read_events(system, source.space)]
    problems = []
    for violation in violations(system, edge, bank, events):
        problems.append(str(violation))
        if len(problems) >= PROBLEMS_MAX:
            break
    return Judged(problems, len(events), statuses)


def violations(system: System, edge: Edge, bank: Bank, events: list[Seen]) -> Iterator[Violation]:
    commands = [asked for source in system.logs for asked in read_commands(system, source.space)]
    yield from checkers.check_events(events)
    yield from checkers.money_at_rest(events)
    yield from _books(bank, events)
    yield from checkers.together(events, commands)
    yield from checkers.timers(events, commands)
    outcomes = [system.records.decode_reply(record.value() or b"") for record in _topic(system, system.records.replies_topic)]
    yield from checkers.answers(outcomes)
    parked = {
        (space, record.partition(), int(dict(record.headers() or ())["offset"])): dict(record.headers() or ())["reason"].decode()
        for space in (source.space for source in system.logs)
        for record in _topic(system, system.records.of(space).dlq)
    }
    yield from checkers.accounted(events, commands, parked, {reply.command_id for reply in outcomes})
    yield from _expected_dead_letters(edge, parked)
    yield from _positions(system)
    yield from _rows(system, events)
    yield from _owners(system)
    for post in edge.posts.values():
        if len({outcome for outcome in post.outcomes if outcome[1] not in ("KEY_REUSED", "DEADLINE_PASSED")}) > 1:
            yield Violation("I9", post.command_id, f"heard {post.outcomes}")


def _books(bank: Bank, events: list[Seen]) -> Iterator[Violation]:
    """The provider's own book: what it did is what the orders' events say, operation by operation."""
    said = {
        f"{event.attempt_id}:{event.operation}:{event.operation_no}": type(event).__name__
        for event in (seen.value for seen in events)
        if type(event).__name__.startswith("Payment") and type(event).__name__ not in UNDECIDED
        if event.method != "cod"
    }
    for key in said.keys() | bank.book.keys():
        did = bank.book.get(key)
        if did is None or (said.get(key) == "PaymentFailed") is did or key not in said:
            yield Violation("I8", key, f"the provider {'did' if did else 'did not do'} it, the order says {said.get(key)}")


def _expected_dead_letters(edge: Edge, parked: dict[tuple[str, int, int], str]) -> Iterator[Violation]:
    """Only what the run poisoned on purpose is parked, and all of it."""
    wanted = POISONED | ({"TOO_LARGE"} if edge.load.oversized else set())
    for where, reason in parked.items():
        if reason not in wanted:
            yield Violation("I17", f"{where[0]}[{where[1]}]@{where[2]}", f"was parked: {reason}")
    bad = sum(reason in POISONED for reason in parked.values())
    if bad != edge.load.poison:
        yield Violation("I17", "dead letters", f"{bad} of {edge.load.poison} poisoned records are there")


def _positions(system: System) -> Iterator[Violation]:
    """I11: a position in a log is committed with what came of it, so at rest nothing that was decided is ahead of the group's offset."""
    for source in system.logs:
        for number in range(system.partitions):
            log = system.broker.logs[source.topic, number]
            at = max(log.base, system.broker.offsets.get((GROUP, source.topic, number), 0))
            if log.read(at, 1, True)[0]:
                yield Violation("I11", f"{source.topic}[{number}]", f"the group's offset is {at}, and all up to {log.end} is decided")


def _owners(system: System) -> Iterator[Violation]:
    """The owners' topic says where to read each partition: at who works on it."""
    said = {record.key(): record.value() for record in _topic(system, system.records.workers_topic)}
    for worker in system.workers:
        for partition in worker.engine.partitions.values() if worker.engine is not None else ():
            name = f"{partition.source.space}:{partition.number}"
            value = said.get(name.encode())
            told = system.records.decode_worker(value).address if value else "nobody"
            if partition.running and told != worker.name:
                yield Violation("I11", name, f"{worker.name} works on it, readers are sent to {told}")


def _rows(system: System, events: list[Seen]) -> Iterator[Violation]:
    """Changelogs and stores of the owners against the fold; the columns of stock rows against the counted ledger."""
    ledger = Ledger()
    for seen in events:
        if seen.space == "stock":
            for _ in ledger.take(seen):
                pass  # told already
    stores: dict[str, Tables] = {}
    for space in system.parts.spaces:
        changelog, owned = read_changelogs(system, space), read_stores(system, space)
        for table, rows in changelog.items():
            there = owned[table]
            for key in rows.keys() | there.keys() if rows != there else ():
                if rows.get(key) != there.get(key):
                    what = f"store {there.get(key)!r}; changelog {rows.get(key)!r}"
                    yield Violation("I12", f"{space.name}.{table} {key}", what)
        stores[space.name] = decoded = _decoded(system, space, owned)
        yield from checkers.rebuilt(space, events, decoded, "store")
    for sku, row in stores["stock"]["stock"].items():
        yield from ledger.differs("main", sku, row.cells)
    yield from checkers.owners(stores["stock"]["reservation"], stores["orders"]["order"])
    yield from ledger.overdue(system.clock_us() - 1_000_000)


def _topic(system: System, topic: str) -> Iterator[Message]:
    """Everything that was ever committed to it, what retention deleted included."""
    for number in range(system.broker.topics[topic]):
        log = system.broker.logs[topic, number]
        yield from log.archive
        yield from log.committed()


def read_events(system: System, space: str) -> Iterator[Seen]:
    records = system.records.of(space)
    for record in _topic(system, records.events):
        meta, key, value = records.decode_event(record.value() or b"")
        yield Seen(space, record.partition(), record.offset(), meta, key, value)


def read_commands(system: System, space: str) -> Iterator[Asked]:
    """Those that can be read; the others are dead letters."""
    records = system.records.of(space)
    for record in _topic(system, records.commands):
        try:
            meta, key, value = records.decode_command(record.value() or b"")
        except ValueError:
            continue
        yield Asked(space, record.partition(), record.offset(), meta, key, value)


Raw = dict[str, dict[bytes, bytes]]
"""Table name -> row key -> row as it is stored."""


def read_changelogs(system: System, space: Any) -> Raw:
    """The rows a restore from nothing would give, head and answer included."""
    tables = Raw()
    for spec in space.tables:
        rows: dict[bytes, bytes | None] = {}
        for record in _topic(system, system.records.of(space.name).changelog(spec.name)):
            rows[record.key() or b""] = record.value()
        tables[spec.name] = {key: value for key, value in rows.items() if value is not None}
    return tables


def read_stores(system: System, space: Any) -> Raw:
    """The rows of the partitions' owners."""
    topic, tables = system.records.of(space.name).commands, Raw()
    for spec in space.tables:
        rows: dict[bytes, bytes] = {}
        for worker in system.workers:
            for (owned, _), partition in worker.engine.partitions.items() if worker.engine is not None else ():
                if owned == topic:
                    table = partition.rows.tables[spec.name]
                    rows.update({raw[1:]: value for raw, value in partition.family.scan(table.prefix)})
        tables[spec.name] = rows
    return tables


def _decoded(system: System, space: Any, raw: Raw) -> Tables:
    tables = Tables()
    for name, rows in raw.items():
        if name not in ("head", "answer"):
            decode = system.records.of(space.name).row(name).decode
            tables[name] = {key.decode(): decode(value) for key, value in rows.items()}
    return tables
