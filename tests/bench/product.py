"""How long a caller waits for an order: POST -> 201 through the edge of a whole running system, how long each step of its saga takes, and
what every process used.

One request is the whole saga: the order's command, a reservation per SKU, their answers, with `prepaid` the provider's authorization, the
outcome, the reply. The load is open: request n is due at `n / rate`, however slow the answers are.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import contest
import fleet
import plots
import targets as wanted
import traffic

from orderflow.cli import contracts, machine
from orderflow.cli.client import Edge, Unreachable
from orderflow.cli.orders import PATH as ORDERS
from orderflow.cli.stock import PATH as STOCK
from orderflow.cli.system import System
from orderflow.connectors.box.box import Servers
from orderflow.schemas.catalog import Catalog
from orderflow.streams.domain.order_records import StockAnswerRecorded, StockAsked
from orderflow.streams.domain.payment import AUTHORIZE
from orderflow.streams.domain.payment_records import PaymentAuthorized, PaymentRequested

SKUS = 200
UNITS = 1_000_000
SETTLE_TIMEOUT_S = 60.0
POLL_S = 0.5
TIMED_OUT, CREATED = 0, 201
CONNECTIONS = 4000
"""More than callers ever wait at the same time: nobody stands in a queue of the load's own."""
PRICE = {"amount_minor": 1000, "currency": "EUR"}
CREATED_P95_MS_MAX, STEP_P50_MS_MAX = 2000.0, 250.0
"""OR-P1-10; a step of the saga."""
Say = Callable[[str], None]


def measure(
    box: Any, directory: Path, *, rate: float, seconds: float, warm_s: float, items: int, workers: int, prepaid: bool, say: Say
) -> dict[str, Any]:
    """Orders of `items` SKUs each at `rate` for `warm_s + seconds`; the waits after the warm-up."""
    say(f"starting a system with {workers} worker{'s' * (workers > 1)}")
    servers = Servers(box.bootstrap, box.registry_url)
    with contest.watched() as conditions, System(directory / "system", servers=servers, workers=workers, payments=prepaid) as system:
        pids = pids_of(box, system)
        say(f"{rate:g} orders/s for {warm_s + seconds:g} s")
        began_ms = time.time_ns() // 1_000_000
        found = asyncio.run(_load(system.url, rate, seconds, warm_s, items, prepaid, pids))
    steps = steps_ms(servers, directory / "schemas.json", began_ms + int(warm_s * 1000))
    return {"workers": workers, "rate": rate, "items": items, "prepaid": prepaid, **found, "steps_ms": steps, **conditions}


def pids_of(box: Any, system: System) -> dict[str, int]:
    """Every process of the system, by name, the servers first."""
    servers = {name: int((box.data_dir / "run" / f"{name}.pid").read_text().split()[0]) for name in ("kafka", "registry")}
    return servers | {process.name: process.pid for process in system.state.processes}


Fact = tuple[int, str, Any]
"""When the broker appended it (milliseconds), whose it is, and the event."""


def steps_ms(servers: Servers, cache: Path, since_ms: int) -> dict[str, dict[str, float]]:
    """How long each step of the orders that asked since then took."""
    records = contracts.load_records(servers.registry_url, Catalog(), cache).of("orders")

    def facts() -> Iterator[Fact]:
        for record in contracts.read_topic(servers.bootstrap, records.events, since_ms):
            _, key, event = records.decode_event(record.value())
            yield record.timestamp()[1], key, event

    took: dict[str, list[float]] = {}
    for step, seconds in steps(facts()):
        took.setdefault(step, []).append(seconds)
    return {step: {**traffic.spread(found), "samples": len(found)} for step, found in took.items()}


def steps(facts: Iterable[Fact]) -> Iterator[tuple[str, float]]:
    """(step, seconds): from what an order asked, in its log, to each answer, in its log."""
    asked: dict[tuple[str, str], int] = {}
    latest: dict[str, str] = {}
    for at, key, event in facts:
        if isinstance(event, StockAsked):
            latest[key] = event.ask
            asked[key, event.ask] = at
        elif isinstance(event, PaymentRequested):
            asked[key, event.operation] = at
        else:
            step = latest.get(key, "") if isinstance(event, StockAnswerRecorded) else ANSWERS.get(type(event), "")
            if (key, step) in asked:
                yield step, (at - asked[key, step]) / 1000


ANSWERS = {PaymentAuthorized: AUTHORIZE}
"""The event that answers an operation of the provider; placing an order asks for no other."""


async def _load(url: str, rate: float, seconds: float, warm_s: float, items: int, prepaid: bool, pids: dict[str, int]) -> dict[str, Any]:
    count, skip = int(rate * (warm_s + seconds)), int(rate * warm_s)
    async with Edge(url, connections=CONNECTIONS) as edge:
        await fill(edge)
        began = time.monotonic() + 0.2
        posts = [asyncio.create_task(post(edge, number, began + number / rate, items, prepaid)) for number in range(count)]
        await asyncio.sleep(max(0.0, began + warm_s - time.monotonic()))
        used, since = {name: machine.used_s(pid) for name, pid in pids.items()}, time.monotonic()
        answers = await asyncio.gather(*posts)
        span = time.monotonic() - since
        cpu = {name: round((machine.used_s(pid) - used[name]) / span, 3) for name, pid in pids.items()}
        measured = answers[skip:]
        statuses = Counter(status for status, _ in measured)
        fault, sold = await check_sold(edge, count, items)
    return {
        "samples": len(measured),
        "wait_ms": traffic.spread(wait for status, wait in measured if status == CREATED),
        "statuses": {str(status): number for status, number in sorted(statuses.items())},
        "cpu_share": cpu,
        "cpu_ms_per_order": {name: round(share / rate * 1000, 3) for name, share in cpu.items()},
        "checked": {"orders": count, "units_sold": sold},
        "fault": fault,
    }


async def fill(edge: Edge) -> None:
    """Units of every SKU that is ordered."""
    for sku in range(SKUS):
        answer = await edge.post(f"{STOCK}/receipts", {"sku": f"BENCH-{sku}", "quantity": UNITS}, f"receipt-{sku}")
        if answer.status >= 300:
            raise fleet.BenchError(f"a receipt was answered with {answer.status}: {answer.body}")


async def post(edge: Edge, number: int, due: float, items: int, prepaid: bool) -> tuple[int, float]:
    """Place order `number` when it is due. Status (0: nobody answered in time) and seconds since the request was due."""
    await asyncio.sleep(max(0.0, due - time.monotonic()))
    lines: list[dict[str, Any]] = [{"sku": f"BENCH-{(number * items + line) % SKUS}", "qty": 1} for line in range(items)]
    body: dict[str, Any] = {"items": lines}
    if prepaid:
        body = {"channel": "prepaid", "items": [{**line, "unit_price": PRICE} for line in lines]}
    try:
        answer = await edge.post(ORDERS, body, f"order-{number}")
    except Unreachable:
        return TIMED_OUT, time.monotonic() - due
    return answer.status, time.monotonic() - due


async def check_sold(edge: Edge, orders: int, items: int) -> tuple[str, int]:
    """Every order took its units once: what is gone from the stock is what was ordered. Waits for those that were answered with 202."""
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    while True:
        stocks = [await edge.get(f"{STOCK}/BENCH-{sku}") for sku in range(SKUS)]
        sold = sum(UNITS - int(stock.body["available"]) for stock in stocks)
        if sold == orders * items or time.monotonic() > deadline:
            break
        await asyncio.sleep(POLL_S)
    return ("" if sold == orders * items else f"{orders} orders of {items} units, but {sold} units are gone"), sold


HEAD = ("workers", "orders/s", "SKUs", "paid", "p50 ms", "p95 ms", "p99 ms", "max ms", "answers", "CPU of each process", "output")


def rows(document: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """One line per rate."""
    for each in document["rounds"]:
        waits = [each["wait_ms"].get(name, "") for name in ("p50", "p95", "p99", "max")]
        answers = " ".join(f"{status}: {count}" for status, count in each["statuses"].items())
        cpu = ", ".join(f"{name} {share}" for name, share in each["cpu_share"].items())
        said = (each["fault"] or "right") + ", void" * each["void"]
        paid = "in advance" if each["prepaid"] else "on account"
        yield each["workers"], f"{each['rate']:g}", each["items"], paid, *waits, answers, cpu, said


STEPS_HEAD = ("step", "p50 ms", "p95 ms", "p99 ms", "max ms", "samples")


def targets(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What an order and each step of it may take."""
    (found,) = results
    at = f"at {found['rate']:g} orders/s"
    created = wanted.target(f"p95 of POST to 201 {at}", found["wait_ms"].get("p95"), "ms", at_most=CREATED_P95_MS_MAX)
    steps = [
        wanted.target(f"p50 of the step `{step}` {at}", took["p50"], "ms", at_most=STEP_P50_MS_MAX)
        for step, took in found["steps_ms"].items()
    ]
    return [created, *steps]


def table(document: dict[str, Any]) -> str:
    """The orders, then the steps of their sagas."""
    (found,) = document["rounds"]
    steps = [[step, *(str(took[name]) for name in ("p50", "p95", "p99", "max", "samples"))] for step, took in found["steps_ms"].items()]
    return wanted.table(HEAD, list(rows(document)), document) + ("\n\n" + plots.markdown(STEPS_HEAD, steps) if steps else "")


def charts(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """None: the table says it."""
    yield from ()
