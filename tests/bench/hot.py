"""What one SKU that everybody wants does to the speed: keys spread evenly, by Zipf's law, and all on one key, in turn.

A key has one writer, so a single key is one partition's work; the batch that holds it decides its commands one after another in memory.
"""

import random
from bisect import bisect_left
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import contest
import fleet
import j1

EXPONENT = 1.1
ON_HAND = 1_000_000_000
WARM_SHARE = 0.3
Say = Callable[[str], None]


def zipf(skus: int = j1.SKUS, exponent: float = EXPONENT) -> j1.Pick:
    """SKU n is asked for as often as 1 / (n + 1) ** exponent says."""
    upto = list(accumulate(1 / (number + 1) ** exponent for number in range(skus)))
    return lambda choose: min(bisect_left(upto, choose.random() * upto[-1]), skus - 1)


def single(choose: random.Random) -> int:
    """Everybody wants the same."""
    choose.random()
    return 0


PICKS: dict[str, Callable[[], j1.Pick]] = {"uniform": lambda: j1.uniform, "zipf 1.1": zipf, "one key": lambda: single}


def measure(bootstrap: str, directory: Path, *, rounds: int, records: int, say: Say) -> list[dict[str, Any]]:
    """The three in turn."""

    def one(number: int, name: str) -> dict[str, Any]:
        prefix, pick = f"hot-{number}-{list(PICKS).index(name)}", PICKS[name]()
        j1.prepare(bootstrap, prefix, records, pick=pick)
        with fleet.Fleet(bootstrap, prefix, directory, on_hand=ON_HAND) as group:
            figures = fleet.drain(group, ["w0"], records, int(records * WARM_SHARE))
        try:
            checked, fault = j1.check(bootstrap, prefix, records, ON_HAND, pick), ""
        except AssertionError as error:
            checked, fault = {}, str(error) or "the output is wrong"
        return {**figures, "checked": checked, "fault": fault}

    return contest.take_turns(rounds, list(PICKS), one, say)


def targets(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """There is none: the ratios to `uniform` are the result."""
    return []
