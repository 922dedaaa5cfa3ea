"""What happens to the cost of an event when there are more workers, more partitions, more keys, more open reservations.

One quantity moves, the rest stays. A prepared backlog is drained each time; CPU per event is what must stay flat, since the cores of one
machine are shared: with two cores, two workers and the broker have no room to be faster, only to cost no more.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import contest
import fleet
import j1
import plots
import seed
import targets as wanted

KEYS_RATIO_MAX, PARTITIONS_RATIO_MAX, MB_PER_MILLION_MAX = 1.5, 1.6, 150.0
WARM_SHARE = 0.3
Say = Callable[[str], None]


def measure(
    bootstrap: str,
    directory: Path,
    *,
    rounds: int,
    records: int,
    workers: int,
    partitions: Sequence[int],
    keys: Sequence[int],
    reservations: int,
    say: Say,
) -> list[dict[str, Any]]:
    """Every point of every curve once a round, in turn. `reservations` 0 leaves the memory out."""
    points: dict[str, Callable[[str], dict[str, Any]]] = {}
    for count in partitions:
        for number in sorted({1, workers}):
            name = f"partitions={count} workers={number}"
            points[name] = lambda prefix, count=count, number=number: drained(bootstrap, directory, prefix, records, count, number)
    for count in keys:
        points[f"keys={count}"] = lambda prefix, count=count: with_keys(bootstrap, directory, prefix, records, count)
    for count in (0, reservations) if reservations else ():
        points[f"reservations={count}"] = lambda prefix, count=count: with_reservations(bootstrap, directory, prefix, records, count)
    names = list(points)

    def one(number: int, name: str) -> dict[str, Any]:
        return points[name](f"scale-{number}-{names.index(name)}")

    return contest.take_turns(rounds, names, one, say)


def drained(bootstrap: str, directory: Path, prefix: str, records: int, partitions: int, workers: int) -> dict[str, Any]:
    """A backlog on so many partitions, by so many workers."""
    j1.prepare(bootstrap, prefix, records, partitions)
    with fleet.Fleet(bootstrap, prefix, directory, cores=fleet.cores_of(workers)) as group:
        figures = fleet.drain(group, [f"w{number}" for number in range(workers)], records, int(records * WARM_SHARE))
    judged = _judged(lambda: j1.check(bootstrap, prefix, records, j1.ON_HAND["plenty"]))
    return {"partitions": partitions, "workers": workers, **figures, **judged}


def with_keys(bootstrap: str, directory: Path, prefix: str, records: int, keys: int) -> dict[str, Any]:
    """A backlog over so many SKUs, each of which has its row already. Caches and write buffers are of one size whatever `keys` is."""

    def pick(choose: random.Random) -> int:
        return choose.randrange(keys)

    j1.prepare(bootstrap, prefix, records, pick=pick)
    seed.write(bootstrap, prefix, skus=keys, reservations=0)
    with fleet.Fleet(bootstrap, prefix, directory, on_hand=seed.ON_HAND) as group:
        figures = fleet.drain(group, ["w0"], records, int(records * WARM_SHARE))
    return {"keys": keys, **figures, **_judged(lambda: seed.check_output(bootstrap, prefix, records, pick))}


def with_reservations(bootstrap: str, directory: Path, prefix: str, records: int, reservations: int) -> dict[str, Any]:
    """So many open reservations with their deadlines, and a backlog on top of them: the memory of the worker at its end."""
    j1.prepare(bootstrap, prefix, records)
    seed.write(bootstrap, prefix, skus=j1.SKUS, reservations=reservations)
    with fleet.Fleet(bootstrap, prefix, directory, on_hand=seed.ON_HAND, due=True) as group:
        figures = fleet.drain(group, ["w0"], records, int(records * WARM_SHARE))
        group.stop("w0")
        judged = _judged(lambda: seed.check_state(bootstrap, prefix, group.data("w0")))
    return {"reservations": reservations, **figures, **judged}


def _judged(check: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return {"checked": check(), "fault": ""}
    except AssertionError as error:
        return {"checked": {}, "fault": str(error) or "the output is wrong"}


def cost(results: Sequence[dict[str, Any]], **at: int) -> float | None:
    """Median CPU µs per event at one point of a curve; rounds in which the machine was unfit count only when there are no others."""
    return _median(results, "cpu_us_per_event", at)


def _median(results: Sequence[dict[str, Any]], metric: str, at: dict[str, int]) -> float | None:
    here = [each for each in results if all(each.get(name) == value for name, value in at.items()) and not each["fault"]]
    found = [each for each in here if not each["void"]] or here
    values = [max(each[metric]) if isinstance(each[metric], list) else each[metric] for each in found]
    return contest.spread(values)["median"] if values else None


def targets(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was wanted, beside what was measured: the last point of each curve against its first."""
    found = []
    for name, at, limit in (("partitions", {"workers": 1}, PARTITIONS_RATIO_MAX), ("keys", {}, KEYS_RATIO_MAX)):
        sizes = sorted({each[name] for each in results if name in each})
        if len(sizes) > 1:
            first, last = cost(results, **{name: sizes[0]}, **at), cost(results, **{name: sizes[-1]}, **at)
            ratio = round(last / first, 2) if first and last else None
            found.append(wanted.target(f"CPU per event, {sizes[-1]} {name} against {sizes[0]}", ratio, "times", at_most=limit))
    held = max((each.get("reservations", 0) for each in results), default=0)
    base, full = _median(results, "rss_mb", {"reservations": 0}), _median(results, "rss_mb", {"reservations": held})
    if held and base and full:
        more = round((full - base) / (held / 1e6), 1)
        found.append(wanted.target("memory per million open reservations", more, "MB", at_most=MB_PER_MILLION_MAX))
    return found


HEAD = ("point", "events/s", "CPU µs per event", "memory MB", "rounds that count", "output")


def rows(document: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """One line per point of a curve: medians with their range, over the rounds that count."""
    results = document["rounds"]
    for name in dict.fromkeys(each["contestant"] for each in results):
        mine = [each for each in results if each["contestant"] == name]
        faults = [each["fault"] for each in mine if each["fault"]]
        valid = [each for each in mine if contest.counts(each)]
        shown = valid or mine
        figures = [wanted.range_of([each[metric] for each in shown]) for metric in ("events_per_s", "cpu_us_per_event")]
        memory = max(max(each["rss_mb"]) for each in shown)
        yield name, *figures, memory, f"{len(valid)} of {len(mine)}", faults[0] if faults else "right"


def table(document: dict[str, Any]) -> str:
    return wanted.table(HEAD, list(rows(document)), document)


def charts(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """CPU per event at every point."""
    yield "cpu", plots.bars("CPU per event", "µs, less is better; the line is the range", wanted.bars(document, "cpu_us_per_event"))
