"""What one SKU that everybody wants does to the speed: keys spread evenly, by Zipf's law, and all on one key, in turn.

A key has one writer, so a single key is one partition's work; the batch that holds it decides its commands one after another in memory.
"""

import random
from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import contest
import fleet
import j1
import plots
import targets as wanted

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


HEAD = ("keys", "events/s", "CPU µs per event", "events/s to uniform", "rounds that count", "output")


def rows(document: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """One line per way of choosing keys: medians, and the ratio within a round."""
    results = document["rounds"]
    valid = [each for each in results if contest.counts(each)]
    ratios = contest.ratios(valid or [{**each, "void": False} for each in results], "events_per_s", "uniform")
    for name in PICKS:
        mine = [each for each in results if each["contestant"] == name]
        counted = [each for each in mine if contest.counts(each)]
        shown = counted or mine
        faults = [each["fault"] for each in mine if each["fault"]]
        figures = [wanted.range_of([each[metric] for each in shown]) for metric in ("events_per_s", "cpu_us_per_event")]
        ratio = f"{ratios[name]['median']:g}" if name in ratios else ""
        yield name, *figures, ratio, f"{len(counted)} of {len(mine)}", faults[0] if faults else "right"


def table(document: dict[str, Any]) -> str:
    return wanted.table(HEAD, list(rows(document)), document)


def charts(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Events per second, one bar for each way of choosing keys."""
    bars = wanted.bars(document, "events_per_s")
    yield "events", plots.bars("Events per second by the keys' distribution", "more is better; the line is the range", bars)
