"""One simulated run: what happens in it follows from its Plan alone; what was wrong with it is in its Result."""

import gc
import time
from collections.abc import Callable
from random import Random
from typing import Any

from msgspec import Struct, field

from orderflow.streams.domain.contract import Settings
from simulation import faults as fault_plan
from simulation import judge
from simulation.bank import Bank
from simulation.edges import Edge, Load, Shop
from simulation.faults import Fault
from simulation.log import Broker
from simulation.scheduler import Actor, Scheduler, Stalled, quiet_logs
from simulation.system import Parts, System

SETTLE_US = 7_200_000_000
"""After the faults stop everything must come to its end within this (virtual) time: a clock that was an hour ahead has moved deadlines by
so much."""

COMPLETE_AFTER_S, SHORTAGE_WINDOW_S, CLAIM_WAIT_S, COD_WINDOW_S, PAYMENT_WINDOW_S = 20, 15, 10, 30, 30
BACKORDER_WINDOW_S = 25
"""A simulated week, how long a simulated customer may think, how long what names no order waits for one, and a simulated day."""


class Plan(Struct, frozen=True):
    """Everything a run depends on beside the seed's own random numbers."""

    seed: int
    load: Load = field(default_factory=Load)
    workers: int = 1
    static: bool = True
    partitions: int = 2
    locations: tuple[str, ...] = ("main",)
    interleave: float = 0.0
    faults: tuple[Fault, ...] = ()


class Result(Struct):
    """What came of it. `problems` is empty when every check held."""

    plan: Plan
    problems: list[str]
    broker: Broker
    events: int
    records: int
    steps: int
    simulated_s: float
    wall_s: float
    exits: dict[str, int]
    timeline: list[str]
    statuses: dict[str, int]

    @property
    def digest(self) -> str:
        """Equal for two runs that left the same log."""
        return self.broker.digest()


def run(plan: Plan, parts: Parts | None = None, *, prepare: Callable[[System, Edge], None] | None = None) -> Result:
    """Simulate, judge, and say how fast it went. The garbage collector rests meanwhile: nothing long-lived is in cycles."""
    gc.disable()
    try:
        return _run(plan, parts, prepare)
    finally:
        gc.enable()


def _run(plan: Plan, parts: Parts | None, prepare: Callable[[System, Edge], None] | None) -> Result:
    began = time.perf_counter()
    scheduler = Scheduler(plan.seed)
    scheduler.interleave = plan.interleave
    system = System(scheduler, plan.partitions, parts or Parts(), _rules(plan.locations), plan.load.attempts)
    with quiet_logs(scheduler.say), system.installed():
        for _ in range(plan.workers):
            system.add_worker(static=plan.static)
        edge = Edge(system, plan.load, plan.seed)
        shop = Shop(edge)
        bank = Bank(edge)
        if prepare is not None:
            prepare(system, edge)
        end_us = fault_plan.arm(system, edge, plan.faults)
        try:
            problems = _play(system, edge, shop, bank, max(end_us, shop.window_us + 2_000_000))
        except Stalled as stalled:
            problems = [f"I5 the run does not end: {stalled}"]
        problems = system.found + problems
        judged = judge.judge(system, edge, bank)
    wall = time.perf_counter() - began
    return Result(
        plan,
        problems + judged.problems,
        system.broker,
        judged.events,
        system.broker.appended,
        scheduler.steps,
        scheduler.now_us / 1e6,
        wall,
        dict(system.exits),
        list(scheduler.timeline),
        judged.statuses,
    )


def _rules(locations: tuple[str, ...]) -> Settings:
    return Settings(
        locations=locations,
        complete_after_s=COMPLETE_AFTER_S,
        shortage_window_s=SHORTAGE_WINDOW_S,
        backorder_window_s=BACKORDER_WINDOW_S,
        claim_wait_s=CLAIM_WAIT_S,
        cod_window_s=COD_WINDOW_S,
        payment_window_s=PAYMENT_WINDOW_S,
    )


def _play(system: System, edge: Edge, shop: Shop, bank: Bank, end_us: int) -> list[str]:
    """Load and faults until `end_us`, then no more faults and time to settle."""
    scheduler = system.scheduler
    scheduler.run(lambda: False, end_us)
    fault_plan.calm(system, edge)
    operator = Actor("operator", shop.operator)
    scheduler.add(operator, 1_000_000)
    settled = scheduler.run(lambda: edge.open == 0 and not shop.rest() and bank.is_at_rest and at_rest(system), end_us + SETTLE_US)
    if settled:
        return []
    rest = shop.rest()
    waiting = [post.command_id for post in edge.posts.values() if not post.done]
    found = [f"I5 {len(rest)} orders are not terminal: {rest[:5]}"] if rest else []
    if waiting:
        found.append(f"I5 {len(waiting)} commands have no answer: {waiting[:5]}")
    if bank.undecided:
        found.append(f"I5 {len(bank.undecided)} disputes are not decided: {sorted(bank.undecided)[:5]}")
    if bank.open:
        found.append(f"I5 {len(bank.open)} requests to the provider have no answer: {list(bank.open)[:5]}")
    if not found:
        found.append("I5 the system does not come to rest: " + ", ".join(restless(system)))
    return found


def restless(system: System) -> list[str]:
    """What still moves: an open transaction, a command nobody has decided, an open due time."""
    found = []
    owned: dict[tuple[str, int], Any] = {}
    for worker in system.workers:
        if worker.engine is not None and worker.engine.transaction.open:
            found.append(f"{worker.name}'s transaction is open")
        if worker.engine is not None:
            owned.update({key: part for key, part in worker.engine.partitions.items() if part.running})
    for source in system.logs:
        for number in range(system.partitions):
            partition = owned.get((source.topic, number))
            log = system.broker.logs[source.topic, number]
            if partition is None:
                found.append(f"{source.topic}[{number}] has no owner")
            elif log.open or log.read(partition.position, 1, True)[0]:
                found.append(f"{source.topic}[{number}] has undecided records")
            elif partition.next_due is not None:
                found.append(f"{source.topic}[{number}] waits for a deadline")
    return found


def at_rest(system: System) -> bool:
    return not restless(system)


def plan_of(seed: int, profile: str = "ci", orders: int | None = None) -> Plan:
    """The plan a seed means in a profile: how many workers, how much load, which faults."""
    random = Random(f"plan {profile} {seed}")
    count = orders if orders is not None else {"smoke": 60, "ci": 300, "long": 300}[profile]
    workers = random.choice((1, 1, 2, 2, 3, 3, 5))
    rough = random.random() < 0.7
    load = Load(
        orders=count,
        skus=random.choice((3, 6, 12)),
        per_second=random.choice((20.0, 60.0, 200.0)),
        units_per_sku=random.choice((count // 6 + 3, count // 2 + 3, count * 2)),
        lost=random.uniform(0, 0.05) if rough else 0.0,
        answer_lost=random.uniform(0, 0.05) if rough else 0.0,
        late=random.uniform(0, 0.15) if rough else 0.0,
        twice=random.uniform(0, 0.15) if rough else 0.0,
        oversized=random.choice((0.0, 0.0, 0.005, 0.02)),
        poison=random.choice((0, 0, 2, 5)),
        prepaid=Random(f"money {profile} {seed}").choice((0.0, 0.0, 0.3, 1.0)),
        fewer=Random(f"fewer {profile} {seed}").choice((0.0, 0.0, 0.1, 0.4)),
        holds=Random(f"holds {profile} {seed}").choice((0.0, 0.0, 0.1, 0.4)),
        partial=Random(f"partial {profile} {seed}").choice((0.0, 0.0, 0.2, 0.6)),
        attempts=Random(f"attempts {profile} {seed}").choice((1, 3)),
        disputes=Random(f"disputes {profile} {seed}").choice((0.0, 0.0, 0.1, 0.4)),
        actions=Random(f"actions {profile} {seed}").choice((0.0, 0.0, 0.2, 0.6)),
        cod=Random(f"cod {profile} {seed}").choice((0.0, 0.0, 0.2, 0.5)),
        undelivered=Random(f"undelivered {profile} {seed}").choice((0.0, 0.0, 0.1, 0.4)),
    )
    return Plan(
        seed,
        load,
        workers,
        random.random() < 0.5,
        random.choice((1, 2, 2, 4)),
        random.choice((("main",), ("main",), ("main", "east"))),
        random.choice((0.0, 0.02, 0.1)),
        (
            *fault_plan.draw(random, workers, count / load.per_second, profile),
            *fault_plan.failures(Random(f"failed {profile} {seed}"), workers, count / load.per_second),
        ),
    )


class Brief(Struct):
    """What a run came to, small enough to be sent between processes."""

    plan: Plan
    problems: list[str]
    events: int
    simulated_s: float
    wall_s: float
    ends: int


def brief(plan: Plan) -> Brief:
    """Run the plan."""
    result = run(plan)
    return Brief(plan, result.problems, result.events, result.simulated_s, result.wall_s, sum(result.exits.values()))
