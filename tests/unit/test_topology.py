"""Nothing is asked that nobody answers, nothing is listened for that nobody says (ORD-P0-01, D98, bugs 17 and 27 of domain.md 5).

The origin had orders that stayed confirmed because a consumer was missing, and refunds that never ran because they listened to topics
nobody wrote. Here both sides are read off the code: who constructs a record, and who has a case for it.
"""

import ast
import inspect
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from orderflow.cli import dataflow
from orderflow.schemas import catalog
from orderflow.streams import domain
from orderflow.streams.domain.reasons import Reason
from orderflow.streams.topology import SPACES, KeySpace

ROOT = Path(__file__).resolve().parents[2]
DOMAIN = Path(domain.__file__).parent
OUTSIDE = {"http": "the edge", "cli": "an operator", "connectors": "a connector"}
"""Folders whose programs send commands from outside."""

NOT_ASKED_YET = {
    ("stock", "ExtendReservation"): "checkout sessions will, when they exist",
    ("catalog", "TimerDue"): "every command log has it; no catalog row has a deadline yet",
}
"""Commands with a rule and nobody who sends them. One that is sent leaves this list."""


def short(full_name: str) -> str:
    return full_name.rpartition(".")[2]


COMMANDS = {(space.name, short(command)) for space in catalog.SPACES for command in space.commands}
EVENTS = {(space.name, short(event)) for space in catalog.SPACES for event in space.events}


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def constructed(files: Iterator[Path]) -> set[str]:
    """Names of everything that is called like a class in these files."""
    calls = (node.func for file in files for node in ast.walk(tree(file)) if isinstance(node, ast.Call))
    return {found.id for found in calls if isinstance(found, ast.Name) and found.id[0].isupper()}


def rules_of(space: KeySpace) -> Iterator[Path]:
    """The files of a key space's rules: its module and all it imports of the domain, without the modules of the other key spaces."""
    others = {each.rules.__name__ for each in SPACES} - {space.rules.__name__}
    todo, seen = [space.rules.__name__], set[str]()
    while todo:
        name = todo.pop()
        file = DOMAIN / f"{short(name)}.py"
        if name in seen or name in others or not file.exists():
            continue
        seen.add(name)
        yield file
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(domain.__name__):
                todo += [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]


@cache
def sent() -> dict[tuple[str, str], set[str]]:
    """(key space, command) -> who sends it."""
    home = {command: space for space, command in COMMANDS if command != "TimerDue"}
    senders: dict[tuple[str, str], set[str]] = {}
    for folder, who in OUTSIDE.items():
        for command in constructed((ROOT / folder).rglob("*.py")) & home.keys():
            senders.setdefault((home[command], command), set()).add(who)
    for space in SPACES:
        for command in constructed(rules_of(space)) & home.keys():
            senders.setdefault((home[command], command), set()).add(space.name)
        for table in space.tables:
            if table.due is not None:
                senders.setdefault((space.name, "TimerDue"), set()).add(f"the deadlines of {table.name}")
    return senders


# -- commands -----------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("space", "command"), sorted(COMMANDS))
def test_every_command_that_has_a_rule_is_sent_by_somebody(space: str, command: str) -> None:
    senders = sent().get((space, command), set())
    if (space, command) in NOT_ASKED_YET:
        assert not senders, f"{command} is sent by {senders} now: take it off the list"
    else:
        assert senders, f"nobody sends {command}: its rule never runs"


def test_every_command_that_is_sent_has_a_rule() -> None:
    assert set(sent()) <= COMMANDS
    asked = {(short(each.rpartition(" -> ")[2]), each.partition(" -> ")[0]) for view in dataflow.view() for each in view.sends}
    assert asked <= COMMANDS


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_the_rules_decide_exactly_the_commands_of_the_log(space: KeySpace) -> None:
    assert {(space.name, command.__name__) for command in space.rules.COMMANDS} == {each for each in COMMANDS if each[0] == space.name}
    without = {command.__name__ for command in space.rules.COMMANDS} - set(cases(Path(inspect.getfile(space.rules))))
    assert len(without) <= 1, f"no case for {without}"  # of two commands one needs a case


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_follow_ups_go_to_a_log_that_is_read(space: KeySpace) -> None:
    names = {each.name for each in SPACES}
    for file in rules_of(space):
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Send":
                to = node.args[0]
                assert isinstance(to, ast.Constant) and to.value in names, f"{file.name}:{node.lineno}"


# -- events, status, lookups --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_every_event_of_the_log_is_said_by_a_rule_and_folded(space: KeySpace) -> None:
    listed = {name for owner, name in EVENTS if owner == space.name}
    assert {event.__name__ for event in space.rules.EVENTS} == listed
    files = list(rules_of(space))
    assert listed <= constructed(iter(files)), "an event that no rule says"
    folded = {name for file in files for name in cases(file)}
    others = listed - folded
    assert len(others) <= 1, f"no case for {others}"  # a fold of two events needs a case for one of them


def cases(file: Path) -> Iterator[str]:
    """Classes that a file tells apart, by `case X()` or `isinstance(..., X)`."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.MatchClass) and isinstance(node.cls, ast.Name):
            yield node.cls.id
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            yield from (each.id for each in ast.walk(node.args[1]) if isinstance(each, ast.Name))


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_every_status_topic_is_written_by_the_rules_of_its_key_space(space: KeySpace) -> None:
    shown = {
        node.args[0].value
        for file in rules_of(space)
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "Snapshot"
        and isinstance(node.args[0], ast.Constant)
    }
    assert shown == {aggregate.name for aggregate in catalog.space_named(space.name).aggregates}
    assert space.main in shown


def test_every_lookup_is_the_status_of_another_key_space() -> None:
    shown = {aggregate.name: space.name for space in catalog.SPACES for aggregate in space.aggregates}
    for space in SPACES:
        for name in space.lookups:
            assert shown[name] != space.name, "one's own rows are read as rows"


def test_every_log_of_the_catalogue_has_its_worker() -> None:
    assert [space.name for space in SPACES] == [space.name for space in catalog.SPACES]
    for space in SPACES:
        contract = catalog.space_named(space.name)
        assert {table.name: table.row.__name__ for table in space.tables} == {table.name: short(table.row) for table in contract.tables}
        assert len({table.number for table in space.tables}) == len(space.tables), "a table's number is its place on disk"


# -- what `orderflow topology` shows ------------------------------------------------------------------------------------------------
def test_the_view_names_a_function_that_exists_for_every_command() -> None:
    for view in dataflow.view():
        for decision in view.decisions:
            file, _, function = decision.rule.partition(":")
            defined = {node.name for node in ast.walk(tree(ROOT / file)) if isinstance(node, ast.FunctionDef)}
            assert function in defined, decision
            assert decision.meaning, f"{decision.rule} does not say what it does"


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_is_given_somewhere_and_can_be_found(reason: Reason) -> None:
    assert dataflow.reason_places(reason), f"nobody refuses for {reason}"


def test_the_rule_that_refuses_an_order_is_one_guess_away() -> None:
    """For want of units, and at the door: the function that the topology names for the command is where the reason is given."""
    for command, reason in (("ReserveStock", Reason.INSUFFICIENT_STOCK), ("PlaceOrder", Reason.ALREADY_PLACED)):
        (rule,) = (decision.rule for view in dataflow.view() for decision in view.decisions if decision.command == command)
        file, _, name = rule.partition(":")
        (function,) = (node for node in tree(ROOT / file).body if isinstance(node, ast.FunctionDef) and node.name == name)
        lines = [int(place.split(":")[1].split()[0]) for place in dataflow.reason_places(reason) if place.startswith(f"{file}:")]
        assert any(function.lineno <= line <= (function.end_lineno or 0) for line in lines), (rule, lines)


def test_decide_is_what_the_view_was_read_from() -> None:
    """The view reads `case X(): return f(...)`; a `decide` of another form would show its own name for every command."""
    for space in SPACES:
        (view,) = (each for each in dataflow.view() if each.name == space.name)
        if len(space.rules.COMMANDS) > 2:
            assert inspect.getsource(space.rules.decide).count("case ") >= len(space.rules.COMMANDS)
            assert len({decision.rule for decision in view.decisions}) == len(view.decisions)
