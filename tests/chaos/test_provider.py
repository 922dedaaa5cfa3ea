"""The payment provider hangs or dies for a while under load: nobody waits for it who need not, and afterwards every order ends with one
charge or none.

`--chaos-down-s 120` is the acceptance run; seconds are enough for CI. A clock of 60 makes the payment window of half an hour 30 s.
"""

import asyncio
import contextlib
import os
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from integration_harness import Rig, eventually, metric, started, until
from msgspec import Struct, field
from nemesis import compare_books

from orderflow.cli import invariants
from orderflow.connectors.box.box import Servers

pytestmark = [pytest.mark.box, pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(0)]

CLOCK_SPEED = 60
WINDOW_S = 1800 / CLOCK_SPEED
PRICE, UNITS = 1000, 100_000
PREPAID_PER_S, OTHERS_PER_S = 5.0, 4.0
BREAKER_OPEN = 2
SETTLED_S = 180.0
"""How long the connector may take to hear that the provider is back, beside its breaker's time and the longest wait between two calls."""


class Heard(Struct):
    """What the callers were told: answers by status, prepaid orders, how many others began, seconds until they were decided."""

    prepaid: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    others: int = 0
    others_s: list[float] = field(default_factory=list)


@contextmanager
def hung(rig: Rig) -> Iterator[None]:
    """It takes connections and answers none."""
    pid = rig.process("provider").pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def dead(rig: Rig) -> Iterator[None]:
    """Killed with -9, and again as soon as its supervisor has started it."""
    over = threading.Event()

    def kill() -> None:
        while not over.wait(0.05):
            with contextlib.suppress(StopIteration, ProcessLookupError):
                os.kill(rig.process("provider").pid, signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    try:
        yield
    finally:
        over.set()
        killer.join()


@pytest.mark.parametrize("away", [hung, dead])
async def test_a_provider_that_is_away_under_load_blocks_nobody_and_afterwards_every_order_ends_with_one_charge_or_none(
    box: Servers, tmp_path: Path, request: pytest.FixtureRequest, away: Callable[[Rig], Any]
) -> None:
    seconds = float(request.config.getoption("--chaos-down-s"))
    wait = str(max(1, min(30, int(seconds / 6))))
    settings = {
        "ORDERFLOW_CLOCK_SPEED": str(CLOCK_SPEED),
        "ORDERFLOW_PROVIDER_TIMEOUT_S": wait,
        "ORDERFLOW_BREAKER_OPEN_S": wait,
        "ORDERFLOW_PROVIDER_REPEAT_MAX_S": wait,
    }
    with started(box, tmp_path, "provider", payments=True, settings=settings) as rig:
        await rig.receive("SKU", UNITS)
        heard = Heard()
        prepaid = asyncio.create_task(_every(PREPAID_PER_S, _prepaid, rig, heard))
        others = asyncio.create_task(_every(OTHERS_PER_S, _other, rig, heard))
        await asyncio.sleep(2)
        with away(rig):
            ends = time.monotonic() + seconds
            await asyncio.to_thread(until, lambda: breaker(rig) == BREAKER_OPEN, "the breaker is open")
            await eventually(lambda: _outcomes(rig, heard), lambda known: "unknown" in known)  # a call without an answer is no answer
            await asyncio.sleep(max(0.0, ends - time.monotonic()))
            await _ended(others)  # while nobody answers for the provider: who began must be decided without it
            assert len(heard.others_s) == heard.others > 10, "orders without money wait for the provider"
        await _ended(prepaid)
        assert set(heard.statuses) <= {201, 202}
        assert heard.statuses[202] > 10, "nobody met the provider's absence: the load is no load"
        took = sorted(heard.others_s)
        assert took[len(took) // 2] < seconds / 4, f"orders without money waited: {took[-10:]}"

        last = WINDOW_S + SETTLED_S + 2 * float(wait)
        ended = await eventually(lambda: _orders(rig, heard.prepaid), lambda found: all(_is_over(each) for each in found), last)
        labels = Counter(order["status"] for order, _ in ended)
        assert labels["processing"] > 0, labels
        if seconds > WINDOW_S:
            assert labels["expired"] > 0, labels
        for order, payment in ended:
            kept = payment["ledger"]["authorized"] - payment["ledger"]["voided"]
            assert kept == (PRICE if order["status"] == "processing" else 0), (order["status"], payment)
        await rig.stock_becomes("SKU", UNITS, UNITS - labels["processing"] - len(took), 0, labels["processing"] + len(took))
        await asyncio.to_thread(books_agree, rig)
        await asyncio.to_thread(sound, rig)
        await asyncio.to_thread(until, lambda: breaker(rig) == 0, "the breaker is closed")
        usual, slow = took[len(took) // 2], took[len(took) * 19 // 20]
        figures = f"{dict(labels)}, {len(took)} others: median {usual:.2f} s, p95 {slow:.2f} s, at most {took[-1]:.2f} s"
        print(f"{away.__name__} for {seconds:.0f} s: {figures}")


# -- load -----------------------------------------------------------------------------------------------------------------------------
async def _every(per_s: float, ask: Callable[[Rig, Heard], Any], rig: Rig, heard: Heard) -> None:
    """Callers who do not wait for each other. Ends by being canceled, and lets everybody finish who began."""
    asked = set()
    try:
        while True:
            asked.add(asyncio.create_task(ask(rig, heard)))
            await asyncio.sleep(1 / per_s)
    finally:
        await asyncio.gather(*asked)


async def _ended(load: "asyncio.Task[None]") -> None:
    """Nobody comes any more, and everybody who came has finished; what went wrong with one of them is raised."""
    load.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await load


async def _prepaid(rig: Rig, heard: Heard) -> None:
    line = {"sku": "SKU", "qty": 1, "unit_price": {"amount_minor": PRICE, "currency": "EUR"}}
    order_id = f"o-{uuid.uuid4().hex[:10]}"
    answer = await rig.post("/api/v1/orders", {"order_id": order_id, "channel": "prepaid", "items": [line]}, key=order_id)
    heard.statuses[answer.status] += 1
    heard.prepaid.append(order_id)


async def _other(rig: Rig, heard: Heard) -> None:
    began = time.monotonic()
    heard.others += 1
    answer = await rig.post("/api/v1/orders", {"items": [{"sku": "SKU", "qty": 1}]}, key=uuid.uuid4().hex)
    await rig.decided(answer.json["order_id"])
    heard.others_s.append(time.monotonic() - began)


# -- what came of it ------------------------------------------------------------------------------------------------------------------
async def _orders(rig: Rig, ids: list[str]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Order and payment of each."""
    found = []
    for order_id in ids:
        order = (await rig.get(f"/api/v1/orders/{order_id}")).json
        found.append((order, (await rig.get(f"/api/v1/payments/{order_id}")).json))
    return found


async def _outcomes(rig: Rig, heard: Heard) -> set[str]:
    """How the attempts of the orders answered so far stand."""
    return {each["outcome"] for _, payment in await _orders(rig, heard.prepaid) for each in payment.get("attempts", ())}


def _is_over(both: tuple[dict[str, Any], dict[str, Any]]) -> bool:
    """Does the order wait for nobody, and its payment neither?"""
    order, payment = both
    if "ledger" not in payment:  # 202: nobody has looked at it yet
        return False
    pending = any(payment["ledger"][name] for name in payment["ledger"] if name.endswith("_pending"))
    kept = payment["ledger"]["authorized"] - payment["ledger"]["voided"]
    return not pending and (order["status"] == "processing" or (order["status"] in ("expired", "canceled") and kept == 0))


def books_agree(rig: Rig) -> None:
    """`orderflow reconcile payments` finds no difference, and nothing open."""
    _, unequal = compare_books(rig.system, {"ORDERFLOW_PREFIX": rig.names.prefix}, SETTLED_S)
    assert unequal == []


def sound(rig: Rig) -> None:
    proved = invariants.run(rig.bootstrap, rig.system.servers.registry_url, rig.names.prefix, rig.names.partitions)
    assert proved.faults == []


def breaker(rig: Rig) -> float:
    """The connector's own metric."""
    return metric(rig.process("payments").url, "orderflow_provider_breaker")
