"""Real processes are killed, stopped, joined and doubled at random moments under load: the output is exact for a read_committed reader.

`pytest tests/chaos --chaos-rounds 200` is the long run; a failing series is repeated with `--chaos-seed`.
"""

import asyncio
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


def test_workers_stopped_told_to_end_and_doubled_lose_double_and_tear_nothing(
    box: Servers, tmp_path: Path, rounds: Rounds, seed: int
) -> None:
    """A zombie that wakes up writes nothing; SIGTERM ends with 0; of two processes with one id or one directory one is refused."""
    faults = (nemesis.stop, nemesis.term, nemesis.twins, same_directory)
    done = nemesis.run(box, tmp_path, "processes", rounds=rounds(1) * len(faults), seed=seed, fault=nemesis.in_turn(*faults))
    assert done.verdict.problems == []


async def same_directory(arena: nemesis.Arena, rng: random.Random) -> str:
    """A second process on the data directory of the first worker."""
    second = nemesis.start_twin(arena, "worker-1", arena.system.data / "worker-1")
    (first,) = [worker for worker in arena.workers if worker.name == "worker-1"]
    try:
        code = await asyncio.to_thread(second.wait, nemesis.PATIENCE_S)
    finally:
        second.kill()
    assert code == 78, f"a directory in use is refused with advice, not with {code}"
    assert first.alive, "the first one goes on"
    return f"a second process on the directory of worker-1 ended with {code}"


def test_workers_that_come_and_go_lose_double_and_tear_nothing(box: Servers, tmp_path: Path, rounds: Rounds, seed: int) -> None:
    done = nemesis.run(box, tmp_path, "joins", rounds=rounds(2), seed=seed)
    assert done.verdict.problems == []
