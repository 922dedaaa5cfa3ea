"""The broker is killed, restarted and away for a while: callers hear 503 or wait, nothing accepted is lost, everything resumes by itself.

`--chaos-down-s 300` is the acceptance run; seconds are enough for CI.
"""

import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import nemesis
import pytest

from orderflow.connectors.box.box import Box, Servers

pytestmark = [pytest.mark.box, pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(0)]

Rounds = Callable[[int], int]
RATE = 4.0
SETTLE_S = 180.0
UNTIL_IT_IS_FELT_S = 10.0
"""A post that the log took just before may be answered 202 after its wait of 2 s, later on a machine that stands still for a while."""


def test_a_broker_killed_restarted_and_away_loses_and_tears_nothing_and_everything_resumes_by_itself(
    box: Servers, own_box: Callable[..., Box], tmp_path: Path, rounds: Rounds, seed: int, request: pytest.FixtureRequest
) -> None:
    broker = own_box(registry=False)  # the registry of the test run is not asked any more once a system runs
    seconds = request.config.getoption("--chaos-down-s")
    heard: Counter[int] = Counter()

    async def outage(arena: nemesis.Arena, rng: random.Random) -> str:
        began, ended = time.time() + UNTIL_IT_IS_FELT_S, [0.0]
        await nemesis.broker_down(seconds, lambda: ended.append(time.time()))(arena, rng)
        heard.update(answer.status for posted in arena.load.journal for answer in posted.answers if began < answer.at < ended[-1])
        return f"no broker for {seconds:.0f} s, in which posts were answered {dict(heard)}"

    done = nemesis.run(
        Servers(broker.bootstrap, box.registry_url),
        tmp_path,
        "broker",
        rounds=rounds(1) * 3,
        seed=seed,
        fault=nemesis.in_turn(outage, nemesis.broker_kill, nemesis.broker_restart),
        box=broker,
        rate=min(RATE, 200 / seconds),
        settle_s=SETTLE_S,
        backs_off=True,
    )
    assert done.verdict.problems == []
    assert heard[503] > 0
    assert set(heard) <= {0, 503}, "without a log nothing is accepted: callers hear 503 or wait"
