"""Bugs 31 and 32 of the origin (design: domain 5) on the simulated log: nothing is sent twice, nothing of a rolled-back step is seen."""

from typing import Any

import pytest

from orderflow.streams.domain.sagas import End
from orderflow.streams.engine import Engine
from simulation.edges import Load
from simulation.faults import Fault
from simulation.run import Plan, run
from simulation.system import Parts


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_bug_31_two_workers_in_a_storm_of_rebalances_do_each_command_once(seed: int, static: bool) -> None:
    """The origin's two outbox pollers published twice. The judge compares every event, row and answer with one fold in order."""
    storm = tuple(Fault(0.2 + number * 0.15, "storm") for number in range(20))
    comings = (Fault(0.5, "scale", 1, seconds=1.0), Fault(1.5, "scale", 0, seconds=1.0), Fault(2.2, "stop", 1, seconds=1.0))
    result = run(Plan(seed, Load(orders=60, per_second=30.0), workers=2, static=static, interleave=0.05, faults=storm + comings))
    assert result.problems == []
    assert sum(result.statuses.values()) == 60


@pytest.mark.parametrize("nth", [1, 2, 3, 5, 8])
def test_bug_32_nothing_of_an_aborted_step_is_seen_downstream_and_it_is_done_again(nth: int) -> None:
    """The origin's fallback published for a transaction that was rolled back."""
    aborts = tuple(Fault(0.2 * number, "net", 0, "commit", word="abortable") for number in range(1, nth + 1))
    result = run(Plan(nth, Load(orders=30, per_second=30.0), faults=aborts))
    assert result.problems == []
    assert sum("rolled_back" in line for line in result.timeline) == nth, "the steps were aborted"
    assert sum(result.statuses.values()) == 30
    assert not result.exits, "and the same process went on"


def test_a_saga_that_ended_in_an_aborted_step_is_counted_once() -> None:
    """Every order's place ends exactly once, however often the step that ended it was rolled back."""
    counted: list[End] = []

    class Counting(Engine):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.on_ended = counted.extend

    parts = Parts()
    parts.engine = Counting
    aborts = tuple(Fault(0.03 * number, "net", 0, "commit", word="abortable") for number in range(1, 31))
    result = run(Plan(1, Load(orders=60, per_second=60.0), faults=aborts), parts)
    assert result.problems == [] and not result.exits
    assert sum("rolled_back" in line for line in result.timeline) > 20
    assert sum(end.saga_type == "place" for end in counted) == 60
