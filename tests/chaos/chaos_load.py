"""The load of a chaos run: buyers, with money and on account, receipts, cancels and warehouse posts at a set rate, and a journal of what every
caller was told.

Callers are careful: they repeat with the same Idempotency-Key until there is an answer below 500. Everything follows from the seed but
the moments, which the system decides.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import aiohttp
from msgspec import Struct, field

ORDERS = "/api/v1/orders"
RECEIPTS = "/api/v1/stock/receipts"
STATUS = "/api/v1/fulfillment/{id}/status"
CANCEL = ORDERS + "/{id}/cancel"
STEPS = ("picking", "picked", "packed", "shipped")
OPEN = ("pending", "cancel_pending")
FIRST_UNITS = 60
PREPAID = 0.4
"""So many orders are paid in advance."""
PRICE = 1000
ENDINGS = (0, 0, 0, 0, 2, 7, 7)
"""Of an amount, for the local provider: as asked; declined (2); the first answer to each operation is lost (7)."""
BUYERS_MAX = 200
"""Callers at a time; further ones do not come while so many wait."""
REPEAT_FIRST_S, REPEAT_MAX_S = 0.2, 2.0
SETTLE_S = 180.0


class Answer(Struct, frozen=True):
    """One HTTP answer; status 0: none."""

    status: int
    code: str
    at: float


class Posted(Struct):
    """Everything that one caller heard about one key, over all repeats. `target`: the order or SKU it is about."""

    template: str
    key: str
    target: str
    units: int = 0
    answers: list[Answer] = field(default_factory=list)

    @property
    def last(self) -> Answer | None:
        return self.answers[-1] if self.answers else None


class Load:
    """`await run()` until `stop()`, then `await settle()`.

    Args:
        url: of the edge.
        word: first part of every id and key, so that several loads share a log.
        rate: orders begun per second.
    """

    def __init__(self, url: str, seed: int, *, word: str = "o", rate: float = 6.0, skus: int = 6) -> None:
        self.url, self.seed, self.word, self.rate = url, seed, word, rate
        self.skus = [f"{word}-sku-{number}" for number in range(skus)]
        self.journal: list[Posted] = []
        self.gaps: list[float] = []
        """Seconds from the first bad answer (or none) of a caller to its first good one."""
        self.begun = 0
        self._stopped = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._last_good = time.monotonic()

    async def run(self) -> None:
        """Introduce the SKUs, then buyers at the set rate, and now and then a receipt."""
        timeout = aiohttp.ClientTimeout(total=20)
        self._http = aiohttp.ClientSession(self.url, timeout=timeout, connector=aiohttp.TCPConnector(limit=BUYERS_MAX * 2))
        await asyncio.gather(*(self._receive(number, sku, FIRST_UNITS, 1) for number, sku in enumerate(self.skus)))
        rng = random.Random(f"load {self.seed}")
        began, number = time.monotonic(), 0
        while not self._stopped.is_set():
            if len(self._tasks) < BUYERS_MAX:
                number += 1
                self._spawn(self._buyer(number, random.Random(f"buyer {self.seed} {number}")))
                if number % 12 == 0:
                    self._spawn(self._receive(1000 + number, rng.choice(self.skus), rng.randint(5, 15), rng.choice((1, 2))))
            self.begun = number
            await asyncio.sleep(max(0.0, began + number / self.rate - time.monotonic()) or 0.01)
            if time.monotonic() - began - number / self.rate > 1.0:  # callers that could not come do not come later all at once
                began = time.monotonic() - number / self.rate

    def stop(self) -> None:
        self._stopped.set()

    async def settle(self, patience_s: float = SETTLE_S) -> list[str]:
        """Wait until every caller has its answer and every order its outcome; what is still open then, and should not be."""
        self.stop()
        try:
            async with asyncio.timeout(patience_s):
                while self._tasks:
                    await asyncio.wait(set(self._tasks))
                while True:
                    found = await self._get(f"{ORDERS}?limit=1")
                    if found["complete"] and not any(found["by_label"].get(name) for name in OPEN):
                        return []
                    await asyncio.sleep(0.2)
        except TimeoutError:
            silent = [each.key for each in self.journal if each.last is None or each.last.status not in range(200, 500)]
            return [
                f"I5 {patience_s:.0f} s after the last fault: no answer to {silent[:5]}, {len(self._tasks)} callers wait for an outcome"
            ]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._http.close()

    async def probe(self, patience_s: float) -> float:
        """Seconds until an order that is placed now has an outcome: the system lives. Raises AssertionError."""
        began = time.monotonic()
        name = f"{self.word}-probe-{len(self.journal)}"
        posted = Posted(f"POST {ORDERS}", name, name)
        self.journal.append(posted)
        try:
            async with asyncio.timeout(patience_s):
                await self._post(posted, ORDERS, {"order_id": name, "items": [{"sku": self.skus[0], "qty": 1}]})
                await self._outcome(name)
        except TimeoutError:
            raise AssertionError(f"an order placed after the fault has no outcome after {patience_s:.0f} s") from None
        return time.monotonic() - began

    def figures(self) -> dict[str, Any]:
        statuses = Counter(answer.status for posted in self.journal for answer in posted.answers)
        return {
            "posts": len(self.journal),
            "answers": {str(status): count for status, count in sorted(statuses.items())},
            "longest_wait_s": round(max(self.gaps, default=0.0), 1),
        }

    # -- callers ------------------------------------------------------------------------------------------------------------------
    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _buyer(self, number: int, rng: random.Random) -> None:
        """An order of one to three SKUs, posted once or twice; then perhaps a cancel, or the warehouse's posts in any order."""
        order = f"{self.word}-{number}"
        items = [{"sku": sku, "qty": rng.randint(1, 2)} for sku in rng.sample(self.skus, rng.randint(1, 3))]
        body = {"order_id": order, "items": items}
        times = rng.choice((1, 1, 2))
        if rng.random() < PREPAID:
            body |= {"channel": "prepaid", "items": _priced(items, rng.choice(ENDINGS))}
        await self._ask(f"POST {ORDERS}", ORDERS, body, f"{order}-place", order, times)
        state = await self._outcome(order)
        if state not in ("confirmed", "processing"):
            return
        await asyncio.sleep(rng.uniform(0, 1.5))
        what = rng.random()
        if what < 0.3:
            path = CANCEL.format(id=order)
            await self._ask(f"POST {CANCEL}", path, {"reason": "chaos"}, f"{order}-cancel", order, rng.choice((1, 2)))
        elif what < 0.7:
            steps = list(STEPS[: rng.randint(1, 4)])
            rng.shuffle(steps)
            path, template = STATUS.format(id=order), f"POST {STATUS}"
            await asyncio.gather(*(self._ask(template, path, {"status": step}, f"{order}-{step}", order, 1) for step in steps))

    async def _receive(self, number: int, sku: str, units: int, times: int) -> None:
        await self._ask(f"POST {RECEIPTS}", RECEIPTS, {"sku": sku, "qty": units}, f"{self.word}-r{number}", sku, times, units)

    async def _ask(self, template: str, path: str, body: dict[str, Any], key: str, target: str, times: int, units: int = 0) -> None:
        """The same post `times` at the same moment, each repeated until answered."""
        posted = [Posted(template, key, target, units) for _ in range(times)]
        self.journal.extend(posted)
        await asyncio.gather(*(self._post(each, path, body) for each in posted))

    async def _post(self, posted: Posted, path: str, body: dict[str, Any]) -> None:
        began, pause = time.monotonic(), REPEAT_FIRST_S
        while True:
            status, code = 0, ""
            try:
                async with self._http.post(path, json=body, headers={"Idempotency-Key": posted.key}) as answer:
                    status = answer.status
                    code = str((await answer.json(content_type=None)).get("code", "")) if status >= 400 else ""
            except (aiohttp.ClientError, TimeoutError, ValueError):
                pass
            posted.answers.append(Answer(status, code, time.time()))
            if 200 <= status < 500:
                self.gaps.append(time.monotonic() - began)
                return
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, REPEAT_MAX_S)

    async def _outcome(self, order: str) -> str:
        while True:
            state = str((await self._get(f"{ORDERS}/{order}")).get("state", ""))
            if state and state not in OPEN:
                return state
            await asyncio.sleep(0.1)

    async def _get(self, path: str) -> dict[str, Any]:
        """The JSON of a page, asked again until it is there."""
        pause = REPEAT_FIRST_S
        while True:
            try:
                async with self._http.get(path) as answer:
                    if answer.status == 200:
                        found: dict[str, Any] = await answer.json()
                        return found
            except (aiohttp.ClientError, TimeoutError):
                pass
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, REPEAT_MAX_S)


def _priced(items: list[dict[str, Any]], ending: int) -> list[dict[str, Any]]:
    """The items with prices; what they cost together ends in these two digits."""
    prices = [PRICE + ending, *[PRICE] * (len(items) - 1)]
    priced = [{**item, "unit_price": {"amount_minor": price, "currency": "EUR"}} for item, price in zip(items, prices, strict=True)]
    return [{**priced[0], "qty": 1}, *priced[1:]]
