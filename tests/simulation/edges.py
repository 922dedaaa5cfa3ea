"""The outside world of a simulated run: an edge that posts commands and repeats them until they are answered, and what it wants.

What order number i wants depends on the seed and i alone, so that a run with fewer orders keeps the others as they were.
"""

from collections import defaultdict
from collections.abc import Callable
from random import Random
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from orderflow.streams.domain.contract import CommandMeta, ReplyTo
from orderflow.streams.domain.order_records import (
    AnswerShortage,
    CancelOrder,
    EditOrder,
    LineQuantity,
    PlacedLine,
    PlaceHold,
    PlaceOrder,
    PostFulfillmentStatus,
    RecordDelivery,
    RecordUndelivered,
    ReleaseHold,
)
from orderflow.streams.domain.parts import Money
from orderflow.streams.domain.payment_records import ConfirmCod, ConfirmCodCollection, RefundPayment, RetryPayment
from orderflow.streams.domain.reasons import Reason
from orderflow.streams.domain.stock_records import AdjustStock, ReceiveStock
from simulation.clients import partition_of_key
from simulation.scheduler import Actor
from simulation.system import System

EDGE = "edge-0"
REPEAT_US = 2_000_000
WAY = ("picking", "picked", "packed", "shipped")
ROUNDS_MAX = 8
"""How often an operator tries to finish an order before it is canceled."""
TERMINAL = frozenset({"DELIVERED", "REJECTED", "CANCELED", "EXPIRED", "COMPLETED"})
Then = Callable[[Any], None]


class Load(Struct, frozen=True):
    """How much is asked and how badly the way to the log behaves."""

    orders: int = 100
    skus: int = 6
    per_second: float = 20.0
    units_per_sku: int = 60
    lost: float = 0.0
    answer_lost: float = 0.0
    late: float = 0.0
    twice: float = 0.0
    oversized: float = 0.0
    poison: int = 0
    prepaid: float = 0.0
    holds: float = 0.0
    """How many orders somebody holds; then authorizations end too."""
    fewer: float = 0.0
    """Of how many orders somebody wants fewer units, or others."""
    partial: float = 0.0
    """How many orders take less than they wanted, some only when their customer says so."""
    attempts: int = 1
    """How often somebody may try to pay; then some do."""
    disputes: float = 0.0
    """Of how many captures a buyer's bank takes the money back, for a while or for good."""
    actions: float = 0.0
    """For how many authorizations the buyer has to act first."""
    cod: float = 0.0
    """How many orders are paid on delivery; of some nobody asks the buyer."""
    undelivered: float = 0.0
    """How many orders never reach their receiver, or in part."""


class Post(Struct):
    """One request: the same command id however often it is sent."""

    space: str
    key: str
    command: Any
    command_id: str
    then: Then | None = None
    sent: int = 0
    outcomes: list[tuple[str, str]] = []
    done: bool = False


class Edge:
    """Sends commands, hears replies, repeats what is not answered."""

    def __init__(self, system: System, load: Load, seed: int) -> None:
        self.system, self.load, self.seed = system, load, seed
        self.sim = system.scheduler
        self.records = system.records
        self.random = Random(f"edge {seed}")
        self.posts: dict[str, Post] = {}
        self.open = 0
        self.faulty = True
        self.snapshots: dict[str, Any] = {}
        self._replies = system.broker.logs[self.records.replies_topic, 0]
        self._position = 0
        self._status = [system.broker.logs[self.records.of("orders").status["order"][0], n] for n in range(system.partitions)]
        self._status_at = [0] * system.partitions
        self.actor = Actor("edge", self._hear)
        self._replies.watchers[self] = lambda: self.sim.wake(self.actor, 300)
        self.order_id = lambda number, sent: f"o{number:04d}"
        """A planted bug makes another id for each attempt."""

    # -- asking -------------------------------------------------------------------------------------------------------------------
    def post(self, space: str, key: str, command: Any, command_id: str, then: Then | None = None, after_us: int = 0) -> Post:
        post = self.posts[command_id] = Post(space, key, command, command_id, then, outcomes=[])
        self.open += 1
        self.sim.later(after_us, lambda: self._send(post))
        return post

    def _send(self, post: Post) -> None:
        """Send it, and look again later whether there is an answer."""
        if post.done:
            return
        post.sent += 1
        way = self.random.random() if self.faulty else 1.0
        load = self.load
        if way >= load.lost:
            late = int(self.random.expovariate(1 / 1_500_000)) if self.faulty and self.random.random() < load.late else 0
            self.sim.later(late, lambda: self._append(post))
            if self.faulty and self.random.random() < load.twice:
                self.sim.later(int(self.random.expovariate(1 / 800_000)), lambda: self._append(post))
        self.sim.later(REPEAT_US + self.random.randrange(REPEAT_US * min(post.sent, 4)), lambda: self._send(post))

    def _append(self, post: Post) -> None:
        space = self.records.of(post.space)
        key = post.key
        if isinstance(post.command, PlaceOrder):
            key = self.order_id(int(post.key[1:]), post.sent)
        meta = CommandMeta(
            post.command_id,
            self.system.clock_us(),
            actor="sim",
            principal="sim",
            body_hash=post.command_id,
            reply_to=ReplyTo(EDGE, 0, post.command_id),
        )
        value = space.encode_command(meta, key, post.command)
        log = self.system.broker.logs[space.commands, partition_of_key(key.encode(), self.system.partitions)]
        self.system.broker.append(log, key.encode(), value, None, None)

    def _hear(self) -> int | None:
        records, self._position = self._replies.read(self._position, 100_000, True)
        for record in records:
            reply = self.records.decode_reply(record.value() or b"")
            post = self.posts.get(reply.command_id)
            if post is None:
                continue
            post.outcomes.append((reply.outcome, reply.reason))
            lost = self.faulty and self.random.random() < self.load.answer_lost
            if not post.done and not lost:
                post.done = True
                self.open -= 1
                if post.then is not None:
                    post.then(reply)
        return None

    def see_orders(self) -> dict[str, Any]:
        """The latest committed snapshot of every order."""
        unpack = self.records.unpack
        for number, log in enumerate(self._status):
            found, self._status_at[number] = log.read(max(self._status_at[number], log.base), 1_000_000, True)
            for record in found:
                if record.value() is not None:
                    self.snapshots[(record.key() or b"").decode()] = unpack(record.value() or b"").value
        return self.snapshots


class Shop:
    """What customers and warehouses want, and an operator who finishes what is left when the faults are over."""

    def __init__(self, edge: Edge) -> None:
        self.edge, self.sim = edge, edge.sim
        load, seed = edge.load, edge.seed
        self.skus = [f"SKU-{number}" for number in range(load.skus)]
        self.locations = edge.system.rules.locations
        self.window_us = int(load.orders / load.per_second * 1e6)
        self._prices: dict[str, dict[str, int]] = {}
        """Of the orders that are paid on delivery: line -> price of a unit."""
        self._stock(Random(f"stock {seed}"), load)
        for number in range(load.orders):
            self._order(number, Random(f"order {seed} {number}"))
        self._rounds: dict[str, int] = defaultdict(int)
        self._tries: dict[str, int] = defaultdict(int)

    def _stock(self, random: Random, load: Load) -> None:
        """Receipts at the start and on the way, a few counts that find less or more."""
        for number, sku in enumerate(self.skus):
            for part in range(3):
                command = ReceiveStock(random.choice(self.locations), max(1, load.units_per_sku // 3))
                after = random.randrange(200_000) if part < 2 else random.randrange(max(1, self.window_us))
                self.edge.post("stock", sku, command, f"r-{number}-{part}", after_us=after)
            if random.random() < 0.5:
                command = AdjustStock(random.choice(self.locations), delta=random.choice((-3, -2, -1, 1, 2)), reason="count")
                self.edge.post("stock", sku, command, f"c-{number}", after_us=random.randrange(max(1, self.window_us)))

    def _order(self, number: int, random: Random) -> None:
        order = f"o{number:04d}"
        wanted = random.sample(self.skus, min(len(self.skus), random.choice((1, 1, 2, 2, 2, 3))))
        lines = tuple(PlacedLine(f"L{n}", sku, random.choice((1, 1, 1, 2, 3))) for n, sku in enumerate(wanted, 1))
        attributes = {"note": "x" * 1_000_100} if random.random() < self.edge.load.oversized else {}
        command = PlaceOrder(channel="box", lines=lines, attributes=attributes)
        money = Random(f"money {self.edge.seed} {number}")
        if money.random() < self.edge.load.prepaid:
            lines = tuple(replace(line, unit_price=Money(money.randrange(1, 2000), "EUR")) for line in lines)
            command = replace(command, payment_terms="prepaid", lines=lines)
        at = random.randrange(max(1, self.window_us))
        command = self._partial(order, number, self._on_delivery(order, number, command, at), at)
        self.edge.post("orders", order, command, f"p-{number}", lambda reply: self._placed(order, number, lines, random, reply), at)
        if random.random() < 0.12:
            by = random.choice(("customer", "staff"))
            self.edge.post(
                "orders", order, CancelOrder(by=by, reason="changed mind"), f"x-{number}", None, at + random.randrange(4_000_000)
            )
        self._hold(order, number, at)
        fewer = Random(f"fewer {self.edge.seed} {number}")
        if fewer.random() < self.edge.load.fewer:
            some = tuple(
                LineQuantity(line.line_id, fewer.randint(1, line.quantity)) for line in fewer.sample(lines, fewer.randint(1, len(lines)))
            )
            command = CancelOrder(by="staff", reason="fewer", lines=some)
            self.edge.post("orders", order, command, f"l-{number}", None, at + fewer.randrange(2_000_000))
            for times in range(fewer.choice((0, 1, 2))):
                others = tuple(
                    LineQuantity(line.line_id, fewer.randint(1, 4)) for line in fewer.sample(lines, fewer.randint(1, len(lines)))
                )
                self.edge.post("orders", order, EditOrder(others), f"e-{number}-{times}", None, at + fewer.randrange(2_000_000))

    def _on_delivery(self, order: str, number: int, command: PlaceOrder, at: int) -> PlaceOrder:
        """It is paid on delivery. Most buyers are asked, some while nobody can have reserved anything yet, some twice."""
        random = Random(f"cod {self.edge.seed} {number}")
        if command.payment_terms or random.random() >= self.edge.load.cod:
            return command
        for times in range(random.choice((0, 1, 1, 1, 2))):
            self.edge.post("orders", order, ConfirmCod(), f"y-{number}-{times}", None, at + random.randrange(6_000_000))
        lines = tuple(replace(line, unit_price=Money(random.randrange(1, 2000), "EUR")) for line in command.lines)
        self._prices[order] = {line.line_id: line.unit_price.amount_minor for line in lines if line.unit_price}
        return replace(command, payment_terms="cod", lines=lines)

    def _partial(self, order: str, number: int, command: PlaceOrder, at: int) -> PlaceOrder:
        """Less will do. Some customers are asked, and of those some answer, maybe before they are."""
        random = Random(f"partial {self.edge.seed} {number}")
        if random.random() >= self.edge.load.partial:
            return command
        policy = random.choice(("ship_available", "ask", "backorder"))
        if policy == "ask" and random.random() < 0.7:
            choice = random.choice(("ship_available", "ship_available", "cancel"))
            self.edge.post("orders", order, AnswerShortage(choice), f"a-{number}", None, at + random.randrange(6_000_000))
        lines = tuple(replace(line, quantity=line.quantity * random.choice((1, 2, 4))) for line in command.lines)
        return replace(command, partial_policy=policy, must_accept=random.random() < 0.1, lines=lines)

    def _hold(self, order: str, number: int, at: int) -> None:
        """Somebody has doubts for a moment, or for longer than anybody looks."""
        random = Random(f"hold {self.edge.seed} {number}")
        if random.random() >= self.edge.load.holds:
            return
        begins = at + random.randrange(4_000_000)
        self.edge.post("orders", order, PlaceHold("MANUAL", "doubts"), f"h-{number}", None, begins)
        if random.random() < 0.7:
            self.edge.post("orders", order, ReleaseHold("MANUAL"), f"r-{number}-hold", None, begins + random.randrange(4_000_000))

    def _placed(self, order: str, number: int, lines: tuple[PlacedLine, ...], random: Random, reply: Any) -> None:
        """The order is confirmed: the warehouse works on it, in whatever order its posts arrive. Or its payment was declined."""
        if reply.reason == Reason.PAYMENT_DECLINED:
            self._paid_again(order, number, lines, random)
        if reply.outcome != "applied" or not reply.body or random.random() < 0.08:
            return
        snapshot = self.edge.records.unpack(reply.body).value
        steps = list(WAY)
        if random.random() < 0.25:
            random.shuffle(steps)
        short = random.random() < 0.1
        for each in snapshot.fulfillments:
            at = random.randrange(500_000)
            for step in steps:
                at += random.randrange(700_000)
                quantities = (LineQuantity(lines[0].line_id, 1),) if short and step == "picked" else ()
                command = PostFulfillmentStatus(each.fulfillment_id, step, lines=quantities)
                self.edge.post("orders", order, command, f"f-{each.fulfillment_id}-{step}", None, at)

    def _paid_again(self, order: str, number: int, lines: tuple[PlacedLine, ...], random: Random) -> None:
        tries = self._tries[order] = self._tries[order] + 1
        if self.edge.load.attempts > 1 and Random(f"retry {self.edge.seed} {number} {tries}").random() < 0.7:
            then = lambda reply: self._placed(order, number, lines, random, reply)  # noqa: E731
            self.edge.post("orders", order, RetryPayment(), f"t-{number}-{tries}", then, 200_000)

    # -- the end ------------------------------------------------------------------------------------------------------------------
    def operator(self) -> int | None:
        """Finish orders that are not terminal: release them, post what is missing, deliver what has left, cancel what nobody can send."""
        edge = self.edge
        for order, seen in edge.see_orders().items():
            if seen.status in TERMINAL or seen.status in ("PENDING", "CANCEL_PENDING"):
                continue
            self._rounds[order] += 1
            turn = self._rounds[order]
            for hold in seen.holds:
                edge.post("orders", order, ReleaseHold(hold), f"z-{order}-{hold}-{turn}")
            if turn == ROUNDS_MAX:
                edge.post("orders", order, CancelOrder(by="staff", reason="nobody can send it"), f"z-{order}-cancel")
            for each in seen.fulfillments:
                for step in WAY if each.status != "shipped" else ():
                    edge.post("orders", order, PostFulfillmentStatus(each.fulfillment_id, step), f"z-{each.fulfillment_id}-{step}-{turn}")
            if seen.status == "SHIPPED":
                self._arrived(order, seen, turn)
        return 5_000_000

    def _arrived(self, order: str, seen: Any, turn: int) -> None:
        """Carriers say what became of each fulfillment, couriers bring what they collected, and people give back what was for nothing."""
        random, edge, now = Random(f"end {self.edge.seed} {order} {turn}"), self.edge, self.edge.system.clock_us()
        prices = self._prices.get(order, {})
        if prices and seen.financial_status in ("authorized", "partially_captured"):
            due = sum(prices[line.line_id] * line.shipped for line in seen.lines)
            brought = random.choice((due, due, due // 2, due + 1))
            if brought:
                edge.post("orders", order, ConfirmCodCollection(Money(brought, "EUR")), f"m-{order}-{turn}")
        for each in seen.fulfillments:
            if each.status == "shipped":
                failed = random.random() < edge.load.undelivered
                command = (
                    RecordUndelivered("lost", "", each.fulfillment_id, now) if failed else RecordDelivery("S", each.fulfillment_id, now)
                )
                edge.post("orders", order, command, f"d-{each.fulfillment_id}-{turn}")
        if prices and seen.fulfillment_status == "undelivered":
            edge.post("orders", order, RefundPayment(), f"b-{order}-{turn}")

    def rest(self) -> list[str]:
        """Accepted orders that are not terminal."""
        seen = self.edge.see_orders()
        return [order for order, each in seen.items() if each.status not in TERMINAL]
