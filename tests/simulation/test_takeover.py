"""Who takes a partition over fences the former owner first, if that one is gone: it must not end a transaction behind what was restored."""

from collections.abc import Callable
from typing import Any

import pytest

from simulation import clients
from simulation.edges import Edge, Load
from simulation.faults import Fault
from simulation.groups import Group, Member
from simulation.run import Plan, run
from simulation.system import Parts, System

SESSION_S = 10.0


class Unflushed(Parts):
    """As librdkafka does it: records that wait in the producer's queue are sent at the commit, not with the offsets."""

    class producer(clients.Producer):  # noqa: N801
        def send_offsets_to_transaction(self, positions: Any, group: Any, timeout: float = 0) -> None:
            waiting, self._queue = self._queue, []
            super().send_offsets_to_transaction(positions, group, timeout)
            self._queue = waiting


def slow_sweep(system: System, edge: Edge) -> None:
    """The broker's default: it looks for transactions that timed out every ten seconds, not every second."""
    system.broker.sweep_us = 10_000_000


def test_a_member_that_was_removed_comes_back_with_nothing_until_the_group_agrees_anew() -> None:
    """What it was given before belongs to somebody else: with a stale share the model let two workers decide one partition (seed 40264)."""
    soon: list[Callable[[], None]] = []
    group = Group("g", {"t": 2}, lambda: 0, lambda _, act: soon.append(act))
    member = Member("", "w1", "w1", ["t"], 10, lambda: None)
    group.join(member)
    while soon and not member.given:
        soon.pop(0)()
    assert member.given == {("t", 0), ("t", 1)}
    del group.members[member.member_id]
    group.join(member)
    assert member.given == set()


@pytest.mark.parametrize("seed", range(1, 6))
def test_a_worker_stopped_inside_its_commit_cannot_commit_what_its_heir_has_processed_again(seed: int) -> None:
    frozen = Fault(0.4, "pause", 0, "commit", 1, seconds=SESSION_S + 4)
    plan = Plan(seed, Load(orders=40, per_second=40.0), workers=2, static=bool(seed % 2), interleave=0.05, faults=(frozen,))
    result = run(plan, Unflushed(), prepare=slow_sweep)
    assert any("stopped for" in line for line in map(str, result.timeline)), "the worker was stopped"
    assert result.problems == []
