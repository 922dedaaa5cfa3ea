"""Real processes are killed, stopped, joined and doubled at random moments under load: the output is exact for a read_committed reader.

`pytest tests/chaos --chaos-rounds 200` is the long run; a failing series is repeated with `--chaos-seed`.
"""

import asyncio
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import nemesis
import pytest

from orderflow.connectors.box.box import Servers

pytestmark = [pytest.mark.box, pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(0)]

Rounds = Callable[[int], int]


def test_workers_killed_at_random_moments_lose_double_and_tear_nothing(box: Servers, tmp_path: Path, rounds: Rounds, seed: int) -> None:
    number = rounds(20)
    done = nemesis.run(box, tmp_path, "kill", rounds=number, seed=seed)
    assert done.verdict.problems == []
    assert sum(code == -signal.SIGKILL for _, code in done.exits) >= number, "every round must have killed a worker"


def test_a_stopped_worker_that_wakes_up_as_a_zombie_writes_nothing(box: Servers, tmp_path: Path, rounds: Rounds, seed: int) -> None:
    done = nemesis.run(box, tmp_path, "stop", rounds=rounds(2), seed=seed)
    assert done.verdict.problems == []


def test_a_worker_told_to_stop_commits_and_comes_back(box: Servers, tmp_path: Path, rounds: Rounds, seed: int) -> None:
    done = nemesis.run(box, tmp_path, "term", rounds=rounds(2), seed=seed)
    assert done.verdict.problems == []
    assert {code for _, code in done.exits} == {0}, "SIGTERM is no failure"


def test_workers_that_come_and_go_lose_double_and_tear_nothing(box: Servers, tmp_path: Path, rounds: Rounds, seed: int) -> None:
    done = nemesis.run(box, tmp_path, "joins", rounds=rounds(2), seed=seed)
    assert done.verdict.problems == []


def test_of_two_processes_with_one_instance_id_one_is_fenced(box: Servers, tmp_path: Path, rounds: Rounds, seed: int) -> None:
    done = nemesis.run(box, tmp_path, "twins", rounds=rounds(1), seed=seed)
    assert done.verdict.problems == []


def test_a_second_process_on_the_same_data_directory_is_refused(box: Servers, tmp_path: Path, seed: int) -> None:
    async def same_directory(arena: nemesis.Arena, rng: random.Random) -> str:
        second = nemesis.start_twin(arena, "worker-1", arena.system.data / "worker-1")
        try:
            code = await asyncio.to_thread(second.wait, nemesis.PATIENCE_S)
        finally:
            second.kill()
        assert code == 78, "refused, with advice"
        assert len(arena.workers) == 1, "the first one goes on"
        return f"a second process {os.path.basename(arena.system.data)}/worker-1 ended with {code}"

    done = nemesis.run(box, tmp_path, "same-directory", rounds=1, seed=seed, fault=same_directory)
    assert done.verdict.problems == []
    assert done.exits == []
