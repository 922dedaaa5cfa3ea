"""How long a caller waits for an order: POST -> 201 through the edge of a whole running system, and what every process of it used.

One request is the whole saga: the order's command, a reservation per SKU, their answers, the outcome, the reply. The load is open: request
n is due at `n / rate`, however slow the answers are.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import contest
import fleet
import targets as wanted
import traffic

from orderflow.cli import machine
from orderflow.cli.client import Edge, Unreachable
from orderflow.cli.orders import PATH as ORDERS
from orderflow.cli.stock import PATH as STOCK
from orderflow.cli.system import System
from orderflow.connectors.box.box import Servers

SKUS = 200
UNITS = 1_000_000
SETTLE_TIMEOUT_S = 60.0
POLL_S = 0.5
TIMED_OUT = 0
Say = Callable[[str], None]


def measure(box: Any, directory: Path, *, rate: float, seconds: float, warm_s: float, items: int, workers: int, say: Say) -> dict[str, Any]:
    """Orders of `items` SKUs each at `rate` for `warm_s + seconds`; the waits after the warm-up."""
    say(f"starting a system with {workers} worker{'s' * (workers > 1)}")
    servers = Servers(box.bootstrap, box.registry_url)
    with contest.watched() as conditions, System(directory / "system", servers=servers, workers=workers) as system:
        pids = {name: int((box.data_dir / "run" / f"{name}.pid").read_text().split()[0]) for name in ("kafka", "registry")}
        pids |= {process.name: process.pid for process in system.state.processes}
        say(f"{rate:g} orders/s for {warm_s + seconds:g} s")
        found = asyncio.run(_load(system.url, rate, seconds, warm_s, items, pids))
    return {"workers": workers, "rate": rate, "items": items, **found, **conditions}


async def _load(url: str, rate: float, seconds: float, warm_s: float, items: int, pids: dict[str, int]) -> dict[str, Any]:
    count, skip = int(rate * (warm_s + seconds)), int(rate * warm_s)
    async with Edge(url) as edge:
        for sku in range(SKUS):
            answer = await edge.post(f"{STOCK}/receipts", {"sku": f"BENCH-{sku}", "quantity": UNITS}, f"receipt-{sku}")
            if answer.status >= 300:
                raise fleet.BenchError(f"a receipt was answered with {answer.status}: {answer.body}")
        began = time.monotonic() + 0.2
        posts = [asyncio.create_task(_post(edge, number, began + number / rate, items)) for number in range(count)]
        await asyncio.sleep(max(0.0, began + warm_s - time.monotonic()))
        used, since = {name: machine.used_s(pid) for name, pid in pids.items()}, time.monotonic()
        answers = await asyncio.gather(*posts)
        span = time.monotonic() - since
        cpu = {name: round((machine.used_s(pid) - used[name]) / span, 3) for name, pid in pids.items()}
        measured = answers[skip:]
        statuses = Counter(status for status, _ in measured)
        fault, sold = await _check(edge, count, items)
    return {
        "samples": len(measured),
        "wait_ms": traffic.spread(wait for status, wait in measured if status == 201),
        "statuses": {str(status): number for status, number in sorted(statuses.items())},
        "cpu_share": cpu,
        "cpu_ms_per_order": {name: round(share / rate * 1000, 3) for name, share in cpu.items()},
        "checked": {"orders": count, "units_sold": sold},
        "fault": fault,
    }


async def _post(edge: Edge, number: int, due: float, items: int) -> tuple[int, float]:
    """Status (0: nobody answered in time) and seconds since the request was due."""
    await asyncio.sleep(max(0.0, due - time.monotonic()))
    lines = [{"sku": f"BENCH-{(number * items + line) % SKUS}", "qty": 1} for line in range(items)]
    try:
        answer = await edge.post(ORDERS, {"items": lines}, f"order-{number}")
    except Unreachable:
        return TIMED_OUT, time.monotonic() - due
    return answer.status, time.monotonic() - due


async def _check(edge: Edge, orders: int, items: int) -> tuple[str, int]:
    """Every order took its units once: what is gone from the stock is what was ordered. Waits for those that were answered with 202."""
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    while True:
        stocks = [await edge.get(f"{STOCK}/BENCH-{sku}") for sku in range(SKUS)]
        sold = sum(UNITS - int(stock.body["available"]) for stock in stocks)
        if sold == orders * items or time.monotonic() > deadline:
            break
        await asyncio.sleep(POLL_S)
    return ("" if sold == orders * items else f"{orders} orders of {items} units, but {sold} units are gone"), sold


HEAD = ("workers", "orders/s", "SKUs", "p50 ms", "p95 ms", "p99 ms", "max ms", "answers", "CPU of each process", "output")


def rows(document: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """One line per rate."""
    for each in document["rounds"]:
        waits = [each["wait_ms"].get(name, "") for name in ("p50", "p95", "p99", "max")]
        answers = " ".join(f"{status}: {count}" for status, count in each["statuses"].items())
        cpu = ", ".join(f"{name} {share}" for name, share in each["cpu_share"].items())
        said = (each["fault"] or "right") + ", void" * each["void"]
        yield each["workers"], f"{each['rate']:g}", each["items"], *waits, answers, cpu, said


def targets(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """There is none: the hop has one, and an order is a chain of hops."""
    return []


def table(document: dict[str, Any]) -> str:
    return wanted.table(HEAD, list(rows(document)), document)


def charts(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """None: the table says it."""
    yield from ()
