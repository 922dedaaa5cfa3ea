"""The simulator runs production code, says the same for the same seed, holds every check on sound code and finds what is broken."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orderflow.streams.domain.contract import Get, Range
from orderflow.streams.turn import CommandTurn
from simulation import corpus, shrink
from simulation.edges import Edge, Load
from simulation.faults import Fault
from simulation.planted import PLANTED, PREPARES
from simulation.run import Plan, plan_of, run
from simulation.store import SimStore
from simulation.system import Parts, System

SMOKE_SEEDS = range(1, 13)
FOUND_FAST = (
    "no dedupe",
    "timers appended before the backlog is consumed",
    "random order id on retry",
    "colliding follow-up ids",
    "refusal forgets to release the others",
    "head sequence not restored",
    "offsets not sent",
    "money forgotten at the end",
)
"""Planted bugs that the first few seeds of the smallest profile find; the whole table is `orderflow simulate --planted`."""
PLAIN = Plan(1, Load(orders=30))


def test_a_calm_run_ends_with_every_order_terminal() -> None:
    result = run(PLAIN)
    assert result.problems == []
    assert sum(result.statuses.values()) == 30
    assert result.statuses["COMPLETED"] > 0


def test_two_runs_of_one_seed_are_byte_identical() -> None:
    plan = plan_of(4, "smoke")
    first, second = run(plan), run(plan)
    assert first.digest == second.digest
    assert first.timeline == second.timeline
    assert first.steps == second.steps


def test_another_process_finds_the_same_history() -> None:
    """Strings hash otherwise there: nothing may follow from the order of a set."""
    program = "from simulation.run import plan_of, run; print(run(plan_of(101, 'ci', 40)).digest)"
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[1])},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1


def test_what_a_turn_takes_from_its_last_decision_is_what_its_rows_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = 0

    def rows_now(turn: CommandTurn, refs: tuple[Get | Range, ...]) -> Any:
        nonlocal taken
        given, there = _rows_now(turn, refs), turn.load_rows(refs)
        for ref in refs:
            field = turn.processor.fields[ref.table]
            assert getattr(given, field) == getattr(there, field), f"{turn.name} {turn.key}: {field}"
        taken += given is turn.state
        return given

    _rows_now = CommandTurn.rows_now
    monkeypatch.setattr(CommandTurn, "rows_now", rows_now)
    for seed in SMOKE_SEEDS:
        assert run(plan_of(seed, "smoke")).problems == []
    assert taken > 1000


def test_a_worker_has_joined_only_once_it_has_its_partitions() -> None:
    """Its health says ready when it has joined and nothing of what it has is behind."""
    seen: list[tuple[int, int]] = []

    class Watched(SimStore):
        def family(self, space: str, partition: int) -> Any:
            worker = system.workers[0]
            if worker.engine is not None:
                seen.append((worker.engine.generation, len(worker.engine.partitions)))
            return super().family(space, partition)

    def prepare(made: System, edge: Edge) -> None:
        nonlocal system
        system = made

    parts = Parts()
    parts.store = Watched
    system: Any = None
    assert run(PLAIN, parts, prepare=prepare).problems == []
    assert (0, 0) in seen
    assert not [each for each in seen if each[0] and not each[1]], "it has joined, and has nothing yet"


def test_other_seeds_are_other_histories() -> None:
    assert len({run(plan_of(seed, "smoke", 10)).digest for seed in range(1, 5)}) == 4


@pytest.mark.parametrize("seed", SMOKE_SEEDS)
def test_every_check_holds(seed: int) -> None:
    assert run(plan_of(seed, "smoke")).problems == []


@pytest.mark.parametrize(("why", "plan"), list(corpus.past()))
def test_a_past_failure_stays_fixed(why: str, plan: Plan) -> None:
    assert run(plan).problems == [], why


@pytest.mark.parametrize("point", ["after_produce", "before_commit", "after_commit_before_state", "during_restore", "during_rebalance"])
@pytest.mark.parametrize("how", ["process", "machine", "disk"])
def test_a_crash_at_each_named_point_is_harmless(point: str, how: str) -> None:
    faults = (Fault(0.3, "kill", 0, point, 3 if point.endswith("state") else 1, word=how), Fault(0.9, "kill", 1, point, 1, word=how))
    result = run(Plan(7, Load(orders=40, per_second=40.0), workers=2, static=False, faults=faults))
    assert result.problems == []


@pytest.mark.parametrize("nth", range(1, 31))
def test_a_crash_at_each_call_of_a_step_is_harmless(nth: int) -> None:
    result = run(Plan(nth, Load(orders=20, per_second=60.0), faults=(Fault(0.2, "kill", 0, "", nth, word="process"),)))
    assert result.problems == []
    assert any(name.startswith("kill") for name in result.exits)


@pytest.mark.parametrize("call", ["commit", "send_offsets", "abort"])
@pytest.mark.parametrize("fate", ["lost", "ack_lost", "late"])
def test_a_lost_or_late_request_ends_the_process_and_nothing_else(call: str, fate: str) -> None:
    abort = (Fault(0.25, "net", 0, "commit", word="abortable"),) if call == "abort" else ()
    result = run(Plan(3, Load(orders=30, per_second=60.0), faults=(*abort, Fault(0.2, "net", 0, call, word=fate))))
    assert result.problems == []


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("point", ["before_commit", "send_offsets", "commit", "after_produce", "poll"])
def test_a_zombie_writes_nothing(point: str, static: bool) -> None:
    """Stopped for longer than its session in the middle of a step, its partitions with others; then it continues."""
    faults = (Fault(0.4, "pause", 0, point, 1, seconds=25.0), Fault(0.6, "pause", 1, "commit", 2, seconds=13.0))
    result = run(Plan(11, Load(orders=40, per_second=40.0), workers=3, static=static, interleave=0.05, faults=faults))
    assert result.problems == []


@pytest.mark.parametrize("bug", FOUND_FAST)
def test_a_planted_bug_is_found(bug: str) -> None:
    for seed in range(1, 21):
        if run(plan_of(seed, "smoke"), PLANTED[bug](), prepare=PREPARES.get(bug)).problems:
            return
    raise AssertionError(f"20 seeds do not find: {bug}")


def test_a_failing_run_shrinks_and_still_fails() -> None:
    parts = PLANTED["head sequence not restored"]
    failed = next(result for seed in range(1, 21) if (result := run(plan_of(seed, "smoke"), parts())).problems)
    small, _ = shrink.shrink(failed, lambda plan: run(plan, parts()), 25)
    assert small.problems
    assert small.plan.load.orders < failed.plan.load.orders or len(small.plan.faults) < len(failed.plan.faults)
