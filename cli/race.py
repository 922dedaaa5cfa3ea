"""Many buyers, few units: the mission's first test. `run` does it to a system, `judge_race` says what was wrong with what came of it.

The judge sees only facts and knows nothing of how they were collected, so a test can show it what a broken system would look like.
"""

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from msgspec import Struct, field

from orderflow.cli.client import Answer, Edge, Unreachable
from orderflow.cli.orders import PATH as ORDERS
from orderflow.cli.reservations import PATH as RESERVATIONS
from orderflow.cli.stock import PATH as STOCK

OPEN = frozenset({"pending", "cancel_pending", ""})
"""States in which an order's outcome is not known yet."""
LOST = frozenset({"rejected"})
SHORTAGE = "INSUFFICIENT_STOCK"
POLL_S = 0.2
REPEAT_S = 0.3
KILL_WITHIN_S = 0.02
COLLECT_S = 30.0
"""How long what a race left behind may take to be read, when the outcomes took all of their time."""
CLOCKS_APART_MS = 60_000
"""How far the broker's clock, which stamps the log, may be from ours."""
LIST_MAX = 500

Kill = Callable[[], Awaitable["Killed"]]
"""kill -9 the worker and return at once."""


class Killed(Struct, frozen=True):
    """A process that was ended with -9, and whether its supervisor had started another when everything was over."""

    pid: int
    name: str = "worker"
    started_again: bool = False


class Post(Struct, frozen=True):
    """One HTTP answer to one POST of one buyer. `repeats`: how often it was repeated because nobody could take it."""

    buyer: int
    status: int
    code: str
    order_id: str
    repeats: int = 0


class Kept(Struct, frozen=True):
    """An open reservation of the sku."""

    reservation_id: str
    order_id: str
    quantity: int


class RaceFacts(Struct):
    """All that a race left behind."""

    sku: str
    orders: int
    stock: int
    posts_per_order: int = 1
    posts: list[Post] = field(default_factory=list)
    states: dict[str, str] = field(default_factory=dict)
    """Order id to its last state seen, empty when the order was never seen."""
    reasons: dict[str, str] = field(default_factory=dict)
    listed_total: int = -1
    listed_not_cancelled: int = -1
    list_complete: bool = False
    available: int = -1
    available_lowest: int = 0
    on_hand: int = -1
    reserved: int = -1
    allocated: int = -1
    kept: list[Kept] = field(default_factory=list)
    reservations_complete: bool = False
    kill_asked: bool = False
    killed: Killed | None = None
    log_read: bool = False
    """Were all events of the sku read from the log? Then `available_lowest` is the lowest of all moments, not of the looks taken."""
    sequences: tuple[int, ...] = ()
    open_at_kill: int = 0
    """How many POSTs had no answer at that moment."""
    began_ms: int = 0
    seconds: float = 0.0

    def figures(self) -> dict[str, Any]:
        """The facts in numbers."""
        statuses = Counter(post.status for post in self.posts)
        return {
            "sku": self.sku,
            "orders": self.orders,
            "stock": self.stock,
            "confirmed": len(self.won),
            "rejected": len(self.lost),
            "open": self.orders - len(self.won) - len(self.lost),
            "available": self.available,
            "available_lowest": self.available_lowest,
            "stock_events": len(self.sequences) if self.log_read else None,
            "on_hand": self.on_hand,
            "reserved": self.reserved,
            "allocated": self.allocated,
            "reservations_open": len(self.kept),
            "answers": {str(status): count for status, count in sorted(statuses.items())},
            "repeats": sum(post.repeats for post in self.posts),
            "worker_killed": None if self.killed is None else self.killed.pid,
            "open_at_kill": self.open_at_kill,
            "seconds": round(self.seconds, 2),
        }

    @property
    def won(self) -> list[str]:
        return [order_id for order_id, state in self.states.items() if state not in OPEN | LOST]

    @property
    def lost(self) -> list[str]:
        return [order_id for order_id, state in self.states.items() if state in LOST]


def judge_race(facts: RaceFacts) -> list[str]:
    """Everything that must not be, in words; empty when nothing was sold twice, lost or left behind."""
    return [*_judge_orders(facts), *_judge_answers(facts), *_judge_stock(facts), *_judge_lists(facts), *_judge_kill(facts)]


def _judge_orders(facts: RaceFacts) -> list[str]:
    found = []
    winners = min(facts.orders, facts.stock)
    if len(facts.states) != facts.orders:
        found.append(f"{facts.orders} buyers, but {len(facts.states)} orders")
    undecided = [order_id for order_id, state in facts.states.items() if state in OPEN]
    if undecided:
        found.append(f"{len(undecided)} orders have no outcome: {_some(undecided)}")
    if len(facts.won) != winners:
        found.append(f"{len(facts.won)} orders were confirmed, must be {winners}")
    if len(facts.lost) != facts.orders - winners:
        found.append(f"{len(facts.lost)} orders were rejected, must be {facts.orders - winners}")
    other = [order_id for order_id in facts.lost if facts.reasons.get(order_id) != SHORTAGE]
    if other:
        found.append(f"{len(other)} orders were rejected for another reason than {SHORTAGE}: {_some(other)}")
    return found


def _judge_answers(facts: RaceFacts) -> list[str]:
    """Whoever was told 201 has the goods, whoever was told 409 has not, and nobody was told both."""
    found = []
    if len(facts.posts) != facts.orders * facts.posts_per_order:
        found.append(f"{facts.orders * facts.posts_per_order} POSTs, but {len(facts.posts)} answers")
    for post in facts.posts:
        told = f"buyer {post.buyer} was told {post.status} {post.code}".rstrip()
        state = facts.states.get(post.order_id, "")
        if post.status not in (201, 202, 409):
            found.append(told)
        elif not post.order_id:
            found.append(f"{told} without the order's id")
        elif post.status == 201 and state in LOST | OPEN:
            found.append(f"{told}, but the order is {state or 'unknown'}")
        elif post.status == 409 and (state not in LOST or post.code != SHORTAGE):
            found.append(f"{told}, but the order is {state or 'unknown'}")
    ids: dict[int, set[str]] = {}
    for post in facts.posts:
        ids.setdefault(post.buyer, set()).add(post.order_id)
    doubled = [buyer for buyer, orders in ids.items() if len(orders) > 1]
    if doubled:
        found.append(f"{len(doubled)} buyers have more than one order from one key: {_some(doubled)}")
    return found


def _judge_stock(facts: RaceFacts) -> list[str]:
    found = []
    left = facts.stock - min(facts.orders, facts.stock)
    if facts.available != left:
        found.append(f"{facts.available} units are available, must be {left}")
    if facts.available_lowest < 0:
        found.append(f"available was {facts.available_lowest} at some moment")
    if facts.log_read and (not facts.sequences or facts.sequences != tuple(range(1, len(facts.sequences) + 1))):
        found.append(f"the sequence of the sku's events has a gap: {_some(list(facts.sequences))}")
    if facts.on_hand != facts.stock:
        found.append(f"{facts.on_hand} units are on hand, must be {facts.stock}: nothing was shipped")
    if facts.reserved + facts.allocated != len(facts.won):
        found.append(f"stock keeps {facts.reserved} + {facts.allocated} units for {len(facts.won)} confirmed orders of one unit each")
    orphans = [each.reservation_id for each in facts.kept if facts.states.get(each.order_id, "") in LOST | {""}]
    if orphans:
        found.append(f"{len(orphans)} reservations are left without a live order: {_some(orphans)}")
    return found


def _judge_lists(facts: RaceFacts) -> list[str]:
    found = []
    if not facts.list_complete or not facts.reservations_complete:
        found.append("a list is incomplete: a partition had no owner")
    if facts.listed_total != facts.orders:
        found.append(f"the list counts {facts.listed_total} orders, must be {facts.orders}")
    if facts.listed_not_cancelled != len(facts.won):
        found.append(f"the list counts {facts.listed_not_cancelled} orders that are not canceled, but {len(facts.won)} were confirmed")
    return found


def _judge_kill(facts: RaceFacts) -> list[str]:
    if not facts.kill_asked:
        return []
    if facts.killed is None:
        return ["the worker was not killed, so nothing is proved about a crash"]
    if not facts.killed.started_again:
        return [f"nobody started the worker again after kill -9 of process {facts.killed.pid}"]
    return []


def _some(values: list[Any]) -> str:
    shown = ", ".join(str(value) for value in values[:3])
    return shown + (", ..." if len(values) > 3 else "")


# -- doing it -----------------------------------------------------------------------------------------------------------------------
async def run(edge: Edge, run_id: str, *, orders: int, stock: int, duplicates: bool, kill: Kill | None, wait_s: float) -> RaceFacts:
    """A race on a sku of its own, all buyers at once; then wait until every order has its outcome.

    With `kill` a few buyers come first; once one of them has an answer half of the others come, and while their orders are on the way
    the worker is killed; the last ones come while nobody decides anything.

    Args:
        run_id: makes the sku and the idempotency keys of this run its own.
        duplicates: every POST is made twice at the same moment, as an impatient client would.
        wait_s: how long the outcomes may take.
    """
    began = time.monotonic()
    sku = f"RACE-{run_id}"
    facts = RaceFacts(
        sku, orders, stock, 2 if duplicates else 1, kill_asked=kill is not None, began_ms=time.time_ns() // 1_000_000 - CLOCKS_APART_MS
    )
    deadline = began + wait_s
    received = await insist(
        edge, f"{STOCK}/receipts", {"sku": sku, "qty": stock, "reference": f"race-{run_id}"}, f"{run_id}-stock", deadline
    )
    if received.status >= 400:
        raise Unreachable(f"stock was not received: {received.status} {received.code}")
    await until_received(edge, sku, stock, deadline)

    facts.available_lowest = stock
    watcher = asyncio.create_task(_watch(edge, facts))

    def buy(buyer: int) -> list["asyncio.Task[Post]"]:
        return [asyncio.create_task(_buy(edge, run_id, sku, buyer, deadline)) for _ in range(facts.posts_per_order)]

    first = min(orders // 3, stock // 2) if kill else orders  # so that units are still free when the worker dies
    second = (first + orders) // 2
    tasks = [task for buyer in range(first) for task in buy(buyer)]
    if kill is not None:
        if tasks:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED, timeout=wait_s)
        tasks += [task for buyer in range(first, second) for task in buy(buyer)]
        await asyncio.sleep(random.uniform(0, KILL_WITHIN_S))  # noqa: S311 - another moment of the turn each time
        facts.open_at_kill = sum(not task.done() for task in tasks)
        facts.killed = await kill()
        tasks += [task for buyer in range(second, orders) for task in buy(buyer)]
    facts.posts = list(await asyncio.gather(*tasks))
    await _settle(edge, facts, deadline)
    watcher.cancel()
    await _collect(edge, facts, max(deadline, time.monotonic() + COLLECT_S))
    facts.seconds = time.monotonic() - began
    return facts


async def insist(edge: Edge, path: str, body: dict[str, Any], key: str, deadline: float) -> Answer:
    """POST until somebody takes it: a 503 or a broken connection is repeated under the same key, as the contract asks of callers."""
    return (await insist_counting(edge, path, body, key, deadline))[0]


async def insist_counting(edge: Edge, path: str, body: dict[str, Any], key: str, deadline: float) -> tuple[Answer, int]:
    """The same, with the number of repeats."""
    for repeats in itertools.count():
        try:
            answer = await edge.post(path, body, key)
        except Unreachable:
            if time.monotonic() > deadline:
                raise
        else:
            if answer.status != 503 or time.monotonic() > deadline:
                return answer, repeats
        await asyncio.sleep(REPEAT_S)
    raise AssertionError("unreachable")


async def outcome(edge: Edge, path: str, body: dict[str, Any], key: str, deadline: float) -> Answer:
    """POST until its outcome is known, or the time is over: 202 says only that it is in the log."""
    while (answer := await insist(edge, path, body, key, deadline)).status == 202 and time.monotonic() < deadline:
        await asyncio.sleep(REPEAT_S)
    return answer


async def until_received(edge: Edge, sku: str, stock: int, deadline: float) -> None:
    while True:
        found = await read(edge, f"{STOCK}/{sku}", deadline)
        if found.status == 200 and found.body.get("on_hand") == stock:
            return
        if time.monotonic() > deadline:
            raise Unreachable(f"the {stock} units of {sku} did not arrive: GET answers {found.status} {found.code}")
        await asyncio.sleep(POLL_S)


async def _buy(edge: Edge, run_id: str, sku: str, buyer: int, deadline: float) -> Post:
    body = {"items": [{"sku": sku, "qty": 1}]}
    answer, repeats = await insist_counting(edge, ORDERS, body, f"{run_id}-{buyer}", deadline)
    return Post(buyer, answer.status, answer.code, str(answer.body.get("order_id") or ""), repeats)


async def read(edge: Edge, path: str, deadline: float, **query: str | int) -> Answer:
    """GET until an owner answers: 503 and broken connections are repeated."""
    while True:
        try:
            answer = await edge.get(path, **query)
        except Unreachable:
            if time.monotonic() > deadline:
                raise
        else:
            if answer.status != 503 or time.monotonic() > deadline:
                return answer
        await asyncio.sleep(REPEAT_S)


async def read_whole(edge: Edge, path: str, deadline: float, **query: str | int) -> dict[str, Any]:
    """The body of a list or a timeline once it is complete, or as it is when the time is over."""
    while not (found := (await read(edge, path, deadline, **query)).body).get("complete") and time.monotonic() < deadline:
        await asyncio.sleep(REPEAT_S)
    return found


async def _watch(edge: Edge, facts: RaceFacts) -> None:
    """Look at the stock all the time: what is available may never be below zero, not for a moment."""
    while True:
        try:
            seen = await edge.get(f"{STOCK}/{facts.sku}")
        except Unreachable:
            seen = Answer(503, {})
        if seen.status == 200:
            facts.available_lowest = min(facts.available_lowest, int(seen.body["available"]))
        await asyncio.sleep(POLL_S / 4)


async def _settle(edge: Edge, facts: RaceFacts, deadline: float) -> None:
    """Wait until every order has its outcome and stock has heard of it (nothing reserved any more: committed or given back)."""
    facts.states = {post.order_id: "" for post in facts.posts if post.order_id}
    while True:
        undecided = [order_id for order_id, state in facts.states.items() if state in OPEN]
        for order_id, order in zip(undecided, await asyncio.gather(*(_order(edge, each) for each in undecided)), strict=True):
            facts.states[order_id], facts.reasons[order_id] = str(order.get("state", "")), str(order.get("reason", ""))
        if not any(state in OPEN for state in facts.states.values()):
            stock = await read(edge, f"{STOCK}/{facts.sku}", deadline)
            if stock.body.get("reserved") == 0:
                return
        if time.monotonic() > deadline:
            return
        await asyncio.sleep(POLL_S)


async def _order(edge: Edge, order_id: str) -> dict[str, Any]:
    try:
        answer = await edge.get(f"{ORDERS}/{order_id}")
    except Unreachable:
        return {}
    return answer.body if answer.status == 200 else {}


async def _collect(edge: Edge, facts: RaceFacts, deadline: float) -> None:
    stock = (await read(edge, f"{STOCK}/{facts.sku}", deadline)).body
    facts.available, facts.on_hand = int(stock.get("available", -1)), int(stock.get("on_hand", -1))
    facts.reserved, facts.allocated = int(stock.get("reserved", -1)), int(stock.get("allocated", -1))
    listed = await read_whole(edge, ORDERS, deadline, sku=facts.sku, limit=1)
    kept = await read_whole(edge, ORDERS, deadline, sku=facts.sku, status_not="cancelled", limit=1)
    facts.listed_total, facts.listed_not_cancelled = int(listed.get("total", -1)), int(kept.get("total", -1))
    facts.list_complete = bool(listed.get("complete")) and bool(kept.get("complete"))
    held = await read_whole(edge, RESERVATIONS, deadline, limit=LIST_MAX)
    facts.reservations_complete = bool(held.get("complete"))
    facts.kept = [
        Kept(each["reservation_id"], each["order_id"], int(each["quantity"])) for each in held.get("items", ()) if each["sku"] == facts.sku
    ]
