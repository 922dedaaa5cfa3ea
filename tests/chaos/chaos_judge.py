"""What must be true after a chaos run: the simulator's checkers over the real topics, fold of events = changelog = RocksDB, and nothing
that a caller was told is untrue.

It reads only what a read_committed reader sees, and the stores of stopped workers.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from chaos_load import ORDERS, RECEIPTS, Posted
from msgspec import Struct

from orderflow.cli import invariants
from orderflow.cli.invariants import History
from orderflow.http.idempotency import derived_id
from orderflow.streams import checkers
from orderflow.streams.records import Records
from orderflow.streams.replay import Tables
from orderflow.streams.topology import SPACES, KeySpace
from orderflow.streams.worker import bind_tables
from orderflow.tables.rocks import Family, Store

PROBLEMS_MAX = 30
TAKEN = frozenset({200, 201, 202})
SPACE_OF = {f"POST {RECEIPTS}": "stock"}
REFUSED_BY_EDGE = frozenset({"NOT_FOUND", "SCHEMA_INVALID"})
"""Answers of the edge itself, which leave no command."""


class Verdict(Struct):
    """What was wrong (at most 30), and how much was looked at."""

    problems: list[str]
    events: int
    commands: int
    statuses: dict[str, int]


def judge(bootstrap: str, records: Records, stores: Sequence[Path], journal: Sequence[Posted]) -> Verdict:
    """Every check over what is visible now. `stores`: data directories of the workers, none of which may be running."""
    history = invariants.read(bootstrap, records)
    problems: list[str] = []
    for problem in _problems(history, records, stores, journal):
        problems.append(problem)
        if len(problems) >= PROBLEMS_MAX:
            break
    statuses = Counter(str(order.status) for order in history.tables["orders"]["order"].values())
    return Verdict(problems, len(history.events), len(history.commands), dict(statuses))


def _problems(history: History, records: Records, stores: Sequence[Path], journal: Sequence[Posted]) -> Iterator[str]:
    yield from (str(violation) for violation in invariants.check(history))
    yield from (f"I17 {place}: was parked: {reason}" for place, reason in history.parked.items())
    yield from stores_differ(history, records, stores)
    yield from told_untrue(history, journal)


# -- RocksDB --------------------------------------------------------------------------------------------------------------------------
def stores_differ(history: History, records: Records, stores: Sequence[Path]) -> Iterator[str]:
    """The rows of each partition's last owner (the store that came furthest) against the fold of the events."""
    opened = [Store(path) for path in stores]
    try:
        for space in SPACES:
            rows = _rows(space, records, opened)
            yield from (str(violation) for violation in checkers.rebuilt(space, history.events, rows, "RocksDB"))
    finally:
        for store in opened:
            store.close()


def _rows(space: KeySpace, records: Records, stores: Sequence[Store]) -> Tables:
    tables: Tables = {}
    for table in bind_tables(space, records.of(space.name)):
        if table.name in ("head", "answer"):
            continue
        rows: dict[str, Any] = tables.setdefault(table.name, {})
        for partition in range(records.catalog.partitions):
            family = _furthest(space.name, partition, stores)
            rows.update({raw[1:].decode(): table.decode(value) for raw, value in family.scan(table.prefix)})
    return tables


def _furthest(space: str, partition: int, stores: Sequence[Store]) -> Family:
    return max((store.family(space, partition) for store in stores), key=lambda family: family.position().source_offset)


# -- callers --------------------------------------------------------------------------------------------------------------------------
def told_untrue(history: History, journal: Sequence[Posted]) -> Iterator[str]:
    """Everything accepted is there once; every order that was accepted has an outcome; no outcome contradicts what a caller was told."""
    commands = Counter((asked.space, asked.meta.command_id) for asked in history.commands)
    orders = history.tables["orders"]["order"]
    sent: Counter[tuple[str, str]] = Counter()
    for posted in journal:
        sent[_command(posted)] += len(posted.answers) + 1  # one may have been under way when its caller was stopped
    for posted in journal:
        name, where = _command(posted), f"{posted.template} {posted.key}"
        there = commands[name]
        if there > sent[name]:
            yield f"I10 {where}: {there} commands of {sent[name]} posts"
        for answer in posted.answers:
            decided = answer.status in TAKEN or (400 <= answer.status < 500 and answer.code not in REFUSED_BY_EDGE)
            if decided and not there:
                yield f"I10 {where}: was answered {answer.status} {answer.code}, and its command is not in the log: LOST"
        if posted.template == f"POST {ORDERS}" and any(answer.status in TAKEN for answer in posted.answers):
            yield from _order(where, posted, orders.get(posted.target))
    yield from _received(history, journal)


def _command(posted: Posted) -> tuple[str, str]:
    return SPACE_OF.get(posted.template, "orders"), derived_id("main", "demo", posted.template, posted.key)


def _order(where: str, posted: Posted, row: Any) -> Iterator[str]:
    if row is None:
        yield f"I10 {where}: was accepted, and the order does not exist: LOST"
        return
    status = str(row.status)
    if status in ("PENDING", "CANCEL_PENDING"):
        yield f"I5 {where}: was accepted and is {status}"
    heard = {answer.status for answer in posted.answers} & {201, 402, 409}
    if len(heard) > 1:
        yield f"I9 {where}: was answered {sorted(heard)}"
    if heard and (status == "REJECTED") is (201 in heard):
        yield f"I9 {where}: was answered {heard} and is {status}"


def _received(history: History, journal: Iterable[Posted]) -> Iterator[str]:
    """Units that callers were told are received, against the movements of these commands."""
    wanted: dict[str, tuple[str, int]] = {}
    for posted in journal:
        if posted.template == f"POST {RECEIPTS}" and any(answer.status in TAKEN for answer in posted.answers):
            wanted[_command(posted)[1]] = (posted.key, posted.units)
    found: Counter[str] = Counter()
    for seen in history.events:
        if seen.space == "stock" and type(seen.value).__name__ == "MovementRecorded" and seen.value.kind == "receive":
            found[seen.meta.command_id] += seen.value.quantity
    for command_id, (key, units) in wanted.items():
        if found[command_id] != units:
            yield f"I1 receipt {key}: {units} units were accepted, {found[command_id]} are in the log"
