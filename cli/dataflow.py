"""The dataflow read off the rules themselves: per command the function that decides it, per key space what goes in and out.

Nothing here is written down twice: `decide` is a match over the commands, so its syntax tree says which function answers which; a
command that a key space's modules construct is one it sends.
"""

import ast
import inspect
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from msgspec import Struct

from orderflow.schemas import catalog
from orderflow.streams import domain
from orderflow.streams.topology import SPACES, KeySpace, TableSpec

DOMAIN = Path(domain.__file__).parent
ROOT = DOMAIN.parent.parent


class Decision(Struct, frozen=True):
    """A command, where its rule is, what the rule says of itself."""

    command: str
    rule: str
    meaning: str


class TableView(Struct, frozen=True):
    name: str
    row: str
    key: str
    timer: str
    indexes: tuple[str, ...]


class SpaceView(Struct, frozen=True):
    """A key space with its whole surroundings."""

    name: str
    key: str
    commands_topic: str
    events_topic: str
    decisions: tuple[Decision, ...]
    events: tuple[str, ...]
    sends: tuple[str, ...]
    """`command -> key space` of every follow-up."""
    tables: tuple[TableView, ...]
    status_topics: tuple[str, ...]
    lookups: tuple[str, ...]


def view(prefix: str = "orderflow") -> list[SpaceView]:
    """All key spaces under one topic prefix."""
    names = catalog.Catalog(prefix)
    return [_space_view(space, names) for space in SPACES]


def reason_places(reason: str) -> list[str]:
    """Where the rules, or the turn around them, name a reason: `streams/domain/stock.py:171`."""
    found = []
    for file in (*sorted(DOMAIN.glob("*.py")), DOMAIN.parent / "turn.py"):
        if file.name == "reasons.py":
            continue
        for number, line in enumerate(file.read_text().splitlines(), 1):
            if f"Reason.{reason}" in line or f'"{reason}"' in line:
                found.append(f"{file.relative_to(ROOT)}:{number}  {line.strip()}")
    return found


def reasons() -> list[str]:
    """Every reason a rule may refuse for."""
    from orderflow.streams.domain.reasons import Reason

    return [reason.value for reason in Reason]


def _space_view(space: KeySpace, names: catalog.Catalog) -> SpaceView:
    contract = catalog.space_named(space.name)
    keys = {table.name: table.key for table in contract.tables}
    return SpaceView(
        name=space.name,
        key=contract.key,
        commands_topic=names.commands_topic(space.name),
        events_topic=names.events_topic(space.name),
        decisions=tuple(_decision(space.rules, _short(command)) for command in contract.commands),
        events=tuple(_short(event) for event in contract.events),
        sends=tuple(_sends(space)),
        tables=tuple(_table_view(table, keys.get(table.name, "")) for table in space.tables),
        status_topics=tuple(names.status_topic(aggregate.name) for aggregate in contract.aggregates),
        lookups=tuple(names.status_topic(aggregate) for aggregate in space.lookups),
    )


def _table_view(table: TableSpec, key: str) -> TableView:
    timer = _place(table.due) if table.due is not None else ""
    return TableView(table.name, table.row.__name__, key, timer, tuple(table.indexes))


def _decision(rules: ModuleType, command: str) -> Decision:
    function = _handlers(rules).get(command, rules.decide)
    document = inspect.getdoc(function) or inspect.getdoc(_class_named(command)) or ""
    return Decision(command, _place(function), document.split("\n\n")[0].replace("\n", " "))


def _handlers(rules: ModuleType) -> dict[str, Any]:
    """Command to function, from the cases of `decide`: `case ReserveStock(): return _reserve(...)`."""
    found: dict[str, Any] = {}
    for node in ast.walk(_tree(inspect.getsourcefile(rules.decide) or "")):
        if not (isinstance(node, ast.FunctionDef) and node.name == "decide"):
            continue
        home = inspect.getmodule(rules.decide)
        for case in (case for match in ast.walk(node) if isinstance(match, ast.Match) for case in match.cases):
            function = _called(home, case.body)
            if function is not None:
                found |= {name: function for name in _classes(case.pattern)}
    return found


def _classes(pattern: ast.pattern) -> Iterator[str]:
    for node in ast.walk(pattern):
        if isinstance(node, ast.MatchClass) and isinstance(node.cls, ast.Name):
            yield node.cls.id


def _called(home: ModuleType | None, body: list[ast.stmt]) -> Any:
    """The function that a case returns the result of."""
    last = body[-1]
    if not (isinstance(last, ast.Return) and isinstance(last.value, ast.Call)):
        return None
    called = last.value.func
    if isinstance(called, ast.Name):
        return getattr(home, called.id, None)
    if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
        return getattr(getattr(home, called.value.id, None), called.attr, None)
    return None


def _sends(space: KeySpace) -> Iterator[str]:
    """The commands that the key space's own modules construct."""
    owner = {_short(command): each.name for each in catalog.SPACES for command in each.commands if _short(command) != "TimerDue"}
    made: set[str] = set()
    for file in _modules(space):
        for node in ast.walk(_tree(str(file))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in owner:
                made.add(node.func.id)
    for command in sorted(made, key=lambda name: (owner[name], name)):
        yield f"{command} -> {owner[command]}"


def _modules(space: KeySpace) -> list[Path]:
    """The files of a key space's rules: its module and those it imports that are no other key space's module."""
    others = {Path(inspect.getsourcefile(each.rules) or "").stem for each in SPACES} - {space.rules.__name__.rpartition(".")[2]}
    todo, seen = [DOMAIN / f"{space.rules.__name__.rpartition('.')[2]}.py"], set[Path]()
    while todo:
        file = todo.pop()
        if file in seen:
            continue
        seen.add(file)
        for node in ast.walk(_tree(str(file))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(domain.__name__):
                stems = {(node.module or "").rpartition(".")[2], *(alias.name for alias in node.names)}
                todo += [path for stem in stems - others if (path := DOMAIN / f"{stem}.py").exists()]
    return sorted(seen)


def _place(function: Any) -> str:
    """`streams/domain/stock.py:_reserve`."""
    file = Path(inspect.getsourcefile(function) or "")
    return f"{file.relative_to(ROOT)}:{function.__name__}" if file.is_relative_to(ROOT) else function.__name__


def _class_named(name: str) -> Any:
    from orderflow.streams.records import makers

    return next(found for full_name, found in makers().items() if _short(full_name) == name)


@cache
def _tree(file: str) -> ast.Module:
    return ast.parse(Path(file).read_text())


def _short(full_name: str) -> str:
    return full_name.rpartition(".")[2]
