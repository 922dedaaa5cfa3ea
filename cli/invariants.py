"""`orderflow verify invariants`: the checkers of the simulator over the topics of a running system."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from orderflow.cli import contracts, letters

if TYPE_CHECKING:
    from orderflow.streams.checkers import Asked, Seen, Violation
    from orderflow.streams.records import Records

AGAIN_AFTER_S = 2.0
RETENTION_MARGIN_US = 3600 * 1_000_000


class History(Struct):
    """What a read_committed reader sees of one system, read topic by topic while it may be running."""

    events: "list[Seen]" = field(default_factory=list)
    commands: "list[Asked]" = field(default_factory=list)
    replies: list[Any] = field(default_factory=list)
    parked: dict[tuple[str, int, int], str] = field(default_factory=dict)
    tables: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    unreadable: int = 0
    since: int = 0
    """Microseconds: older commands may have been deleted by retention."""


class InvariantFacts(Struct):
    """How much was looked at, and what was not true, also on a second look."""

    events: int
    commands: int
    rows: int
    faults: list[str]

    def figures(self) -> dict[str, Any]:
        return {"events": self.events, "commands": self.commands, "rows": self.rows, "violations": len(self.faults)}


def run(bootstrap: str, registry: str, prefix: str, partitions: int) -> InvariantFacts:
    """Read every topic and check. A running system moves between two topics, so what is found counts only if it is found twice."""
    from orderflow.schemas.catalog import Catalog

    contracts.connect(bootstrap)
    with tempfile.TemporaryDirectory(prefix="orderflow-verify-") as directory:
        records = contracts.load_records(registry, Catalog(prefix, partitions), Path(directory) / "schemas.json")
        history = read(bootstrap, records)
        found = [str(violation) for violation in check(history)]
        if found:
            time.sleep(AGAIN_AFTER_S)
            history = read(bootstrap, records)
            again = {str(violation) for violation in check(history)}
            found = [each for each in found if each in again]
    rows = sum(len(rows) for tables in history.tables.values() for rows in tables.values())
    return InvariantFacts(len(history.events), len(history.commands), rows, found)


def read(bootstrap: str, records: "Records") -> History:
    """Everything the checks need, from the beginning of each topic to its present end."""
    from orderflow.streams.checkers import Asked, Seen
    from orderflow.streams.topology import SPACES

    history = History()
    for space in SPACES:
        mine = records.of(space.name)
        for message in contracts.read_topic(bootstrap, mine.events):
            meta, key, event = mine.decode_event(message.value() or b"")
            history.events.append(Seen(space.name, message.partition(), message.offset(), meta, key, event))
        started: set[int] = set()
        for message in contracts.read_topic(bootstrap, mine.commands):
            if message.partition() not in started and message.offset() > 0:
                history.since = max(history.since, message.timestamp()[1] * 1000 + RETENTION_MARGIN_US)
            started.add(message.partition())
            try:
                command_meta, key, command = mine.decode_command(message.value() or b"")
            except ValueError:
                history.unreadable += 1
                continue
            history.commands.append(Asked(space.name, message.partition(), message.offset(), command_meta, key, command))
        for letter in letters.letters_of(space.name, mine.dlq, contracts.read_topic(bootstrap, mine.dlq)):
            history.parked[space.name, int(letter.said("partition")), int(letter.said("offset"))] = letter.said("reason")
        history.tables[space.name] = _changelogs(bootstrap, mine, space)
    history.replies = [records.decode_reply(message.value() or b"") for message in contracts.read_topic(bootstrap, records.replies_topic)]
    return history


def _changelogs(bootstrap: str, mine: Any, space: Any) -> dict[str, dict[str, Any]]:
    """The rows a restore from nothing would give, without head and answer, which no event says."""
    tables: dict[str, dict[str, Any]] = {}
    for spec in space.tables:
        if spec.name in ("head", "answer"):
            continue
        rows: dict[bytes, bytes | None] = {}
        for message in contracts.read_topic(bootstrap, mine.changelog(spec.name)):
            rows[message.key() or b""] = message.value()
        decode = mine.row(spec.name).decode
        tables[spec.name] = {key.decode(): decode(value) for key, value in rows.items() if value is not None}
    return tables


def check(history: History) -> "Iterator[Violation]":
    """Every checker over one history."""
    from orderflow.streams import checkers
    from orderflow.streams.topology import SPACES

    events, commands = history.events, history.commands
    yield from checkers.check_events(events)
    yield from checkers.together(events, commands, history.since)
    yield from checkers.timers(events, commands)
    yield from checkers.answers(history.replies)
    yield from checkers.accounted(events, commands, history.parked, {reply.command_id for reply in history.replies})
    ledger = checkers.Ledger()
    for seen in events:
        if seen.space == "stock":
            for _ in ledger.take(seen):
                pass  # told already by check_events
    for space in SPACES:
        yield from checkers.rebuilt(space, events, history.tables[space.name], "changelog")
    for name, row in history.tables["stock"]["stock"].items():
        tenant, _, sku = name.rpartition("/")
        yield from ledger.differs(tenant or "main", sku, row.cells)
    yield from checkers.owners(history.tables["stock"]["reservation"], history.tables["orders"]["order"])
