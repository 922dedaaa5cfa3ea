"""A fair contest: one broker, contestants in turn, pinned and watched; medians with their range, ratios within a round.

A result is a flat dictionary: what was measured, plus `round`, `contestant`, `calibration_s`, `drift`, `foreign_cores`, `void` and `fault`
(empty = the output was checked and is right). Only results that are neither void nor faulty count; all of them are kept.
"""

import contextlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from orderflow.cli import machine
from orderflow.connectors.box.artifacts import OnProgress, read_lock
from orderflow.connectors.box.box import Box

BROKER_CORE, CONTESTANT_CORE = 0, 1
PACKAGES = ("orderflow", "confluent-kafka", "faust-streaming", "rocksdict", "msgspec", "fastavro")

Result = dict[str, Any]
Figures = Mapping[str, Any]


# -- the ground -----------------------------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def started_box(directory: Path, on_step: OnProgress, *, registry: bool = False) -> Iterator[Box]:
    """A box in `directory/box` whose servers stay on core 0 for life; ended afterwards. Raises as `Box.start`."""
    box = Box(directory / "box", registry=registry)
    with machine.on_core(BROKER_CORE):
        box.start(on_step)
    try:
        yield box
    finally:
        box.stop()


@contextlib.contextmanager
def watched() -> Iterator[Result]:
    """Measure within; afterwards the dictionary says how the machine behaved: its speed, drift, foreign load, void.

    The speed is gauged on the contestant's core meanwhile: `calibration_s` are the means of the first and of the second half of the time,
    the drift is how far they are apart. Whatever this process and its descendants use is ours; all else, in cores, is foreign.
    """
    conditions: Result = {}
    gauge = machine.Gauge(CONTESTANT_CORE)
    busy, ours, began = machine.busy_s(), machine.family_s(os.getpid()), time.monotonic()
    gauge.start()
    try:
        yield conditions
    finally:
        first, second = gauge.stop()
        seconds = time.monotonic() - began
        foreign = max(0.0, (machine.busy_s() - busy - (machine.family_s(os.getpid()) - ours)) / seconds)
        drift = abs(second - first) / first
        conditions.update(
            calibration_s=[round(first, 4), round(second, 4)],
            drift=round(drift, 3),
            foreign_cores=round(foreign, 3),
            void=drift > machine.DRIFT_MAX or foreign > machine.FOREIGN_MAX,
        )


# -- rounds ---------------------------------------------------------------------------------------------------------------------------
def take_turns(
    rounds: int,
    contestants: Sequence[str],
    measure: Callable[[int, str], Figures],
    say: Callable[[str], None] = lambda text: None,
    check: Callable[[int, str], Figures] = lambda number, name: {},
    before: Callable[[int, str], None] = lambda number, name: None,
    keep: Callable[[list[Result]], None] = lambda results: None,
) -> list[Result]:
    """A B C A B C: every contestant once a round. `measure` is watched; `before` prepares it and `check` judges it, unwatched. `keep` gets
    all results after each round, so that a contest that is broken off is not lost.

    `measure` and `check` return figures, with a `fault` when something is wrong; what failed is not checked. Who met a machine of another
    speed than the others of its round is void too. A round with something void in it is made again, at most as often as there are rounds.
    """
    results: list[Result] = []
    number = sound = 0
    while sound < rounds and number < 2 * rounds:
        number += 1
        here = []
        for name in contestants:
            say(f"round {number}, {sound} of {rounds} count: {name}")
            before(number, name)
            with watched() as conditions:
                figures = measure(number, name)
            result = {"round": number, "contestant": name, "fault": "", **figures, **conditions}
            here.append(result if result["fault"] else result | check(number, name))
        compare(here)
        sound += not any(each["void"] for each in here)
        results += here
        keep(results)
    return results


def compare(results: Sequence[Result]) -> None:
    """Void those of a round that met another speed of the machine than its middle one."""
    speeds = [sum(each["calibration_s"]) for each in results]
    for each, speed in zip(results, speeds, strict=True):
        apart = abs(speed / median(speeds) - 1)
        each["drift"] = max(each["drift"], round(apart, 3))
        each["void"] = each["void"] or apart > machine.DRIFT_MAX


def counts(result: Result) -> bool:
    """Is this result right, and was the machine fit to measure it?"""
    return not result["void"] and not result["fault"]


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median and range."""
    found = sorted(values)
    return {"median": round(median(found), 3), "from": found[0], "to": found[-1]}


def medians(results: Sequence[Result], metrics: Sequence[str]) -> dict[str, Any]:
    """Per contestant the number of rounds that count and, over them, median and range of each metric."""
    found = {}
    for name in dict.fromkeys(result["contestant"] for result in results):
        valid = [result for result in results if result["contestant"] == name and counts(result)]
        found[name] = {"rounds": len(valid)}
        if valid:
            found[name] |= {metric: spread(result[metric] for result in valid) for metric in metrics if metric in valid[0]}
    return found


def ratios(results: Sequence[Result], metric: str, against: str) -> dict[str, Any]:
    """Per contestant, median and range of its metric divided by that of `against` in the same round; rounds where one is missing are left out."""
    base = {result["round"]: result[metric] for result in results if result["contestant"] == against and counts(result)}
    found = {}
    for name in dict.fromkeys(result["contestant"] for result in results):
        mine = [
            round(result[metric] / base[result["round"]], 3)
            for result in results
            if result["contestant"] == name and counts(result) and base.get(result["round"])
        ]
        if mine:
            found[name] = spread(mine) | {"rounds": len(mine)}
    return found


# -- raw results ----------------------------------------------------------------------------------------------------------------------
def facts() -> dict[str, Any]:
    """The machine and the versions: no figure without them."""
    kafka = next(jar.version for jar in read_lock("kafka") if jar.name == "kafka-server")
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "kafka": kafka,
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "pinned": machine.can_pin(),
    }


def _cpu() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def save(document: Mapping[str, Any], file: Path) -> None:
    """Keep the raw results, the machine's facts with them, as JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document, indent=2) + "\n")
