"""kill -9 at five named points, under load, on a real Kafka: nothing lost, doubled or torn for a read_committed reader.

Torn means: per key `fold(evolve, events)`, the changelogs and RocksDB must say the same.
"""

import asyncio
import os
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from chaos_judge import judge

from orderflow.cli import contracts
from orderflow.cli.system import System
from orderflow.connectors.box.box import Servers
from orderflow.schemas.catalog import Catalog

pytestmark = [pytest.mark.box, pytest.mark.chaos, pytest.mark.slow]

ORDERS = 40
SKUS = ("KILL-A", "KILL-B", "KILL-C")
UNITS = 12
WAVE = 5
MORE = 100
"""Posts until the worker has died: a machine that stood still has done much in few commits."""
POLLS = 720
POLL_S = 0.25
STARTS = ("during_restore", "during_rebalance")
"""Points that a worker passes when it starts: reached by killing it once under load."""


@pytest.mark.parametrize(
    "point", ["before_commit:12", "after_commit_before_state:12", "after_produce:25", *(f"{name}:1" for name in STARTS)]
)
def test_a_worker_killed_at_a_named_point_loses_doubles_and_tears_nothing(box: Servers, tmp_path: Path, point: str) -> None:
    name = point.partition(":")[0].replace("_", "-")
    marker = tmp_path / "died"
    prefix = f"kill-{name}-{os.getpid()}"
    if name.replace("-", "_") in STARTS:
        marker.touch()  # armed below, when there is load
    environment = {"ORDERFLOW_PREFIX": prefix, "ORDERFLOW_GROUP": prefix, "ORDERFLOW_FAULT": f"{point}:{marker}"}
    with System(tmp_path / "system", servers=box, environment=environment) as system:
        outcomes = asyncio.run(_load(system, marker, arm=marker.exists()))
    assert marker.exists(), f"the worker never reached {point}"
    names = Catalog(prefix)
    records = contracts.load_records(box.registry_url, names, tmp_path / "schemas.json")
    verdict = judge(box.bootstrap, records, [tmp_path / "system" / "worker-1"], [])
    assert verdict.problems == []
    assert verdict.events > ORDERS
    _check_outcomes(outcomes)


async def _load(system: System, marker: Path, *, arm: bool) -> dict[str, Any]:
    """Receipts, orders over two skus with repeated posts, fulfillment posts; then wait until every order has its outcome.

    `marker` is there once a worker has died; where it is there already, its removal arms the point under load.
    """
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(system.url, timeout=timeout) as http:
        for sku in SKUS:
            await _post(http, "/api/v1/stock/receipts", {"sku": sku, "quantity": UNITS}, f"r-{sku}")
        waves = [asyncio.create_task(_orders(http, range(start, start + WAVE), start / 40)) for start in range(0, ORDERS, WAVE)]
        if arm:
            await asyncio.sleep(0.3)
            marker.unlink()
            system.kill_worker()
        await asyncio.gather(*waves)
        orders = await _settled(http)
        won = [order["order_id"] for order in orders if order["state"] not in ("rejected",)]
        await asyncio.gather(*(_post(http, f"/api/v1/fulfillment/{order}/status", {"status": "picking"}, f"p-{order}") for order in won))
        await asyncio.gather(*(_post(http, f"/api/v1/orders/{order}/cancel", {}, f"x-{order}") for order in won[:2]))
        for number in range(MORE):
            if marker.exists():
                break
            await _post(http, "/api/v1/stock/receipts", {"sku": "KILL-MORE", "quantity": 1}, f"m-{number}")
        await _settled(http)
        stock = {sku: await _at_rest(http, sku) for sku in SKUS}
        return {"orders": await _settled(http), "stock": stock}


async def _orders(http: aiohttp.ClientSession, numbers: range, after_s: float) -> None:
    """Orders of two skus each, every one posted twice at the same moment."""
    await asyncio.sleep(after_s)
    items = {n: [{"sku": SKUS[n % 3], "qty": 1}, {"sku": SKUS[(n + 1) % 3], "qty": 1}] for n in numbers}
    await asyncio.gather(*(_post(http, "/api/v1/orders", {"items": items[n]}, f"o-{n}") for n in numbers for _ in range(2)))


async def _post(http: aiohttp.ClientSession, path: str, body: dict[str, Any], key: str) -> int:
    """Repeat with the same key until there is an answer: what a careful caller does."""
    for _ in range(POLLS):
        try:
            async with http.post(path, json=body, headers={"Idempotency-Key": key}) as answer:
                if answer.status < 500:
                    return answer.status
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(POLL_S)
    raise AssertionError(f"no answer to {path} with {key}")


async def _get(http: aiohttp.ClientSession, path: str) -> Any:
    for _ in range(POLLS):
        async with http.get(path) as answer:
            if answer.status == 200:
                return await answer.json()
        await asyncio.sleep(POLL_S)
    raise AssertionError(f"no answer to {path}")


async def _at_rest(http: aiohttp.ClientSession, sku: str) -> Any:
    """The stock once nothing of it is reserved: units are committed, or given back, one step after their order has its outcome."""
    for _ in range(POLLS):
        stock = await _get(http, f"/api/v1/stock/{sku}")
        if stock["reserved"] == 0:
            return stock
        await asyncio.sleep(POLL_S)
    raise AssertionError(f"units stay reserved: {stock}")


async def _settled(http: aiohttp.ClientSession) -> list[dict[str, Any]]:
    for _ in range(POLLS):
        listed = await _get(http, "/api/v1/orders?limit=500")
        items: list[dict[str, Any]] = listed["items"]
        if listed["complete"] and len(items) == ORDERS and not any(o["state"] in ("pending", "cancel_pending") for o in items):
            return items
        await asyncio.sleep(POLL_S)
    raise AssertionError(f"orders without outcome: {[o for o in items if o['state'] in ('pending', 'cancel_pending')]} of {len(items)}")


def _check_outcomes(outcomes: dict[str, Any]) -> None:
    """Every sku's units are with a living order or free, none twice."""
    sold = dict.fromkeys(SKUS, 0)
    for order in outcomes["orders"]:
        if order["state"] in ("confirmed", "processing"):
            for line in order["lines"]:
                sold[line["sku"]] += line["quantity"]
    for sku, stock in outcomes["stock"].items():
        assert stock["available"] == UNITS - sold[sku], (sku, stock, sold)
        assert stock["available"] >= 0
        assert stock["on_hand"] == UNITS
    assert sum(sold.values()) > 0
