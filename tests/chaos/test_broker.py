"""The broker is killed, restarted and away for a while: callers hear 503 or wait, nothing accepted is lost, everything resumes by itself.

`--chaos-down-s 300` is the acceptance run; seconds are enough for CI.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import nemesis
import pytest

from orderflow.connectors.box.box import Box, Servers

pytestmark = [pytest.mark.box, pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(0)]

Rounds = Callable[[int], int]
RATE = 4.0
SETTLE_S = 180.0
UNTIL_IT_IS_FELT_S = 3.0
"""A post that the log took just before may be answered 202 after its wait of 2 s."""


@pytest.fixture(scope="module")
def mortal(box: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Box, Servers]]:
    """A broker that may be hurt, with the registry of the test run, which is not asked any more once a system runs."""
    with Box(tmp_path_factory.mktemp("mortal"), registry=False) as started:
        yield started, Servers(started.bootstrap, box.registry_url)


def test_a_broker_killed_and_restarted_under_load_loses_and_tears_nothing(
    mortal: tuple[Box, Servers], tmp_path: Path, rounds: Rounds, seed: int
) -> None:
    broker, servers = mortal
    turn = 0

    async def in_turn(arena: nemesis.Arena, rng: random.Random) -> str:
        nonlocal turn
        turn += 1
        return await (nemesis.broker_kill if turn % 2 else nemesis.broker_restart)(arena, rng)

    done = nemesis.run(
        servers, tmp_path, "broker", rounds=rounds(1) * 2, seed=seed, fault=in_turn, box=broker, rate=RATE, settle_s=SETTLE_S
    )
    assert done.verdict.problems == []


def test_an_outage_of_the_broker_loses_nothing_and_everything_resumes_by_itself(
    mortal: tuple[Box, Servers], tmp_path: Path, seed: int, request: pytest.FixtureRequest
) -> None:
    broker, servers = mortal
    seconds = request.config.getoption("--chaos-down-s")
    heard: Counter[int] = Counter()

    async def outage(arena: nemesis.Arena, rng: random.Random) -> str:
        began = time.time() + UNTIL_IT_IS_FELT_S
        await nemesis.broker_down(seconds, lambda: ended.append(time.time()))(arena, rng)
        heard.update(answer.status for posted in arena.load.journal for answer in posted.answers if began < answer.at < ended[0])
        return f"no broker for {seconds:.0f} s, in which posts were answered {dict(heard)}"

    ended: list[float] = []
    done = nemesis.run(
        servers,
        tmp_path,
        "outage",
        rounds=1,
        seed=seed,
        fault=outage,
        box=broker,
        rate=min(RATE, 200 / seconds),
        settle_s=SETTLE_S,
        backs_off=True,
    )
    assert done.verdict.problems == []
    assert heard[503] > 0
    assert set(heard) <= {0, 503}, "without a log nothing is accepted: callers hear 503 or wait"
