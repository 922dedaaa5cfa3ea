"""Does a system grow that runs for long? Orders at a steady rate through the edge of a whole one; memory, open files and threads of every
process meanwhile, and how long callers waited.

The workers' budget for rows in memory is small, so that caches are full before the first third is over. What is compared is the last third
of the time with the one before: by then only what leaks still grows.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import contest
import plots
import product
import targets as wanted
import traffic

from orderflow.cli import machine
from orderflow.cli.client import Edge
from orderflow.cli.system import System
from orderflow.connectors.box.box import Servers

GROWTH_MAX, WAIT_MAX = 1.05, 1.25
SAMPLES = 180
SERVERS = ("kafka", "registry")
"""Not ours: shown, but nothing is wanted of them."""
BOUNDED = {"memory_mb": "memory", "files": "open files", "threads": "threads"}
"""What may not grow. RocksDB's tables come and go with the rows, so they are counted apart."""


def measure(box: Any, directory: Path, *, rate: float, minutes: float, state_memory_mb: int, say: product.Say) -> dict[str, Any]:
    """Orders at `rate` for so long, every second one prepaid; what each process held at SAMPLES moments."""
    say("starting a system")
    servers = Servers(box.bootstrap, box.registry_url)
    environment = {"ORDERFLOW_STATE_MEMORY_MB": str(state_memory_mb)}
    with (
        contest.watched() as conditions,
        System(directory / "system", servers=servers, payments=True, environment=environment) as system,
    ):
        pids = product.pids_of(box, system)
        say(f"{rate:g} orders/s for {minutes:g} min")
        found = asyncio.run(_load(system.url, rate, minutes * 60, pids))
        now = product.pids_of(box, system)
    ended = [name for name, pid in pids.items() if now.get(name) != pid]
    fault = found.pop("fault") or (f"ended meanwhile: {', '.join(ended)}" if ended else "")
    return {"rate": rate, "minutes": minutes, "state_memory_mb": state_memory_mb, **found, "fault": fault, **conditions}


async def _load(url: str, rate: float, seconds: float, pids: Mapping[str, int]) -> dict[str, Any]:
    count = int(rate * seconds)
    waits: list[tuple[float, float]] = []
    statuses: Counter[int] = Counter()
    async with Edge(url, connections=product.CONNECTIONS) as edge:
        await product.fill(edge)
        began = time.monotonic() + 0.2
        watch = asyncio.create_task(_watch(pids, began, seconds))

        async def one(number: int) -> None:
            due = began + number / rate
            status, waited = await product.post(edge, number, due, 1, number % 2 == 1)
            statuses[status] += 1
            if status == product.CREATED:
                waits.append((due - began, waited))

        running: set[asyncio.Task[None]] = set()
        for number in range(count):
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            task = asyncio.create_task(one(number))
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.gather(*running)
        processes = await watch
        fault, sold = await product.check_sold(edge, count, 1)
    thirds = {name: [waited for at, waited in waits if low <= at / seconds < high] for name, low, high in THIRDS}
    return {
        "processes": processes,
        "wait_ms": {name: traffic.spread(third) for name, third in thirds.items()},
        "statuses": {str(status): number for status, number in sorted(statuses.items())},
        "checked": {"orders": count, "units_sold": sold},
        "fault": fault,
    }


THIRDS = (("first", 0.0, 1 / 3), ("middle", 1 / 3, 2 / 3), ("last", 2 / 3, 1.0))


async def _watch(pids: Mapping[str, int], began: float, seconds: float) -> dict[str, dict[str, list[int]]]:
    """What each process held at SAMPLES moments, the last one at the end."""
    found: dict[str, dict[str, list[int]]] = {name: {figure: [] for figure in machine.Held._fields} for name in pids}
    for number in range(1, SAMPLES + 1):
        await asyncio.sleep(max(0.0, began + seconds * number / SAMPLES - time.monotonic()))
        for name, pid in pids.items():
            for figure, value in machine.held(pid)._asdict().items():
                found[name][figure].append(value)
    return found


def growth(values: Sequence[int]) -> float:
    """The median of the last third against that of the one before."""
    third = len(values) // 3
    before, last = median(values[third : 2 * third]), median(values[-third:])
    return round(last / before, 3) if before else 1.0


def targets(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Nothing of ours grows, nobody waits longer."""
    (found,) = results
    ours = {name: held for name, held in found["processes"].items() if name not in SERVERS}
    before, last = (found["wait_ms"][third].get("p50") for third in ("middle", "last"))
    slower = round(last / before, 3) if before and last else None
    return [
        *(
            wanted.target(
                f"{words}, last third against the one before, worst of ours",
                max(growth(held[figure]) for held in ours.values()),
                "times",
                at_most=GROWTH_MAX,
            )
            for figure, words in BOUNDED.items()
        ),
        wanted.target("p50 of POST to 201, the same", slower, "times", at_most=WAIT_MAX),
    ]


HEAD = ("process", "memory MB, thirds", "most", "growth", "open files", "growth", "threads", "growth", "tables")


def rows(document: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """One line per process; the medians of the thirds, then the growth from the second to the last."""
    for result in document["rounds"]:
        for name, held in result["processes"].items():
            memory, third = held["memory_mb"], len(held["memory_mb"]) // 3
            shown = " ".join(f"{median(part):g}" for part in (memory[:third], memory[third : 2 * third], memory[-third:]))
            yield (
                *(name, shown, max(memory), growth(memory)),
                *(cell for figure in ("files", "threads") for cell in (max(held[figure]), growth(held[figure]))),
                _span(held["tables"]),
            )


def _span(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low} to {high}" if high > low else str(high)


def table(document: dict[str, Any]) -> str:
    """The processes, then the callers, then the targets."""
    (found,) = document["rounds"]
    waits = [[third, *(str(spread.get(name, "")) for name in ("p50", "p95", "p99", "max"))] for third, spread in found["wait_ms"].items()]
    answers = ", ".join(f"{status}: {count}" for status, count in found["statuses"].items())
    said = f"{found['minutes']:g} minutes at {found['rate']:g} orders/s; {answers}; output: {found['fault'] or 'right'}."
    return "\n\n".join(
        [said, wanted.table(HEAD, list(rows(document)), document), plots.markdown(("third", "p50 ms", "p95 ms", "p99 ms", "max ms"), waits)]
    )


def charts(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Memory over the time."""
    (found,) = document["rounds"]
    every = found["minutes"] / SAMPLES
    series = {
        name: [((number + 1) * every, float(value)) for number, value in enumerate(held["memory_mb"])]
        for name, held in found["processes"].items()
    }
    yield "memory", plots.lines("Memory of every process", "minutes", "MB", series)
