"""Real faults on a real system under load, at moments that follow from a seed: inject, heal, ask whether it lives, and judge at the end.

    done = run(servers, directory, "kill", rounds=20, seed=1)

One system serves all rounds of a series; its load goes on while faults come. Every round prints what it did.
"""

import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from chaos_judge import Verdict, judge
from chaos_load import SETTLE_S, Load
from msgspec import Struct

from orderflow.cli import contracts, runstate
from orderflow.cli.system import PROGRAM, System
from orderflow.connectors.box import process
from orderflow.connectors.box.box import Box, Servers
from orderflow.schemas.catalog import Catalog

SESSION_S = 5.0
"""Session and transaction timeout of the workers: half of the default, so that a round is short."""
PATIENCE_S = 180.0
BROKER_START_S = 600.0
POLL_S = 0.05
GATED = 'while [ -e "$ORDERFLOW_DATA.gate" ]; do sleep 0.05; done; exec "$0" "$@"'
"""A worker's program for /bin/sh: wait while its gate is there, then be the worker, under the same pid."""


class Series(Struct):
    """What came of all rounds: what each did, how long until an order was decided again, the load's figures, the verdict, what ended with
    which code, and the operations in the payment provider's book.
    """

    fault: str
    seed: int
    rounds: list[str]
    back_s: list[float]
    load: dict[str, Any]
    verdict: Verdict
    exits: list[tuple[str, int]]
    operations: int

    def figures(self) -> dict[str, Any]:
        ordered = sorted(self.back_s) or [0.0]
        return {
            "fault": self.fault,
            "seed": self.seed,
            "rounds": len(self.rounds),
            "back_s_median": round(ordered[len(ordered) // 2], 2),
            "back_s_max": round(ordered[-1], 2),
            "exits": len(self.exits),
            **self.load,
            "events": self.verdict.events,
            "commands": self.verdict.commands,
            "orders": self.verdict.statuses,
            "operations": self.operations,
        }


class Arena:
    """A running system and the means to hurt it. `box` is there when the broker may be hurt too."""

    def __init__(self, system: System, load: Load, environment: Mapping[str, str], number: int, box: Box | None = None) -> None:
        self.system, self.load, self.environment, self.number, self.box = system, load, environment, number, box
        self.extra_stores: list[Path] = []
        self.exits: list[tuple[str, int]] = []
        """(process, exit code) in the order of their ends."""

    @property
    def workers(self) -> list[runstate.Process]:
        return [worker for worker in self.system.state.workers if worker.alive]

    def gate(self, worker: runstate.Process) -> Path:
        """While this file exists the worker is not started again."""
        return self.system.data / f"{worker.name}.gate"

    async def back(self) -> None:
        """Wait until all workers run and answer, and every partition has an owner. Raises AssertionError."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            workers = self.workers
            if len(workers) == self.number:
                urls = [f"{url}/health/ready" for url in (self.system.url, *(worker.url for worker in workers))]
                pages = [await asyncio.to_thread(_page, url) for url in urls]
                if all(page is not None for page in pages) and not any((pages[0] or {}).get("partitions_missing", {}).values()):
                    return
            assert time.monotonic() < deadline, f"the system is not ready {PATIENCE_S:.0f} s after the fault was healed"
            await asyncio.sleep(0.1)


Fault = Callable[[Arena, random.Random], Awaitable[str]]
"""Do it, heal it, and say what was done."""


# -- processes ------------------------------------------------------------------------------------------------------------------------
async def kill(arena: Arena, rng: random.Random) -> str:
    """kill -9 of one worker at a random moment, be it at work, in a restore or in a rebalance; now and then of its successor, too."""
    await asyncio.sleep(rng.uniform(0, 3.0))
    while not arena.workers:
        await asyncio.sleep(POLL_S)
    victim = rng.choice(arena.workers)
    os.kill(victim.pid, signal.SIGKILL)
    done = f"kill -9 {victim.name}"
    if rng.random() < 0.3:
        wait = process.RESTART_DELAY_S + rng.uniform(0, 2.0)
        await asyncio.sleep(wait)
        again = [worker for worker in arena.workers if worker.name == victim.name]
        if again:
            os.kill(again[0].pid, signal.SIGKILL)
            done += f", and the next one {wait:.2f} s later"
    return done


async def stop(arena: Arena, rng: random.Random) -> str:
    """SIGSTOP for longer than the session: others take over, then the zombie wakes up and may write nothing."""
    await asyncio.sleep(rng.uniform(0, 0.5))
    victim, seconds = rng.choice(arena.workers), SESSION_S + rng.uniform(0.5, 3.0)
    os.kill(victim.pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim.pid, signal.SIGCONT)
    for _ in range(int(2 * SESSION_S / POLL_S)):  # until it has noticed: told to end before that, it could not end well
        if not victim.alive:
            break
        await asyncio.sleep(POLL_S)
    return f"SIGSTOP {victim.name} for {seconds:.1f} s"


async def term(arena: Arena, rng: random.Random) -> str:
    """SIGTERM: the worker commits, leaves and is started again. It must end with 0."""
    await asyncio.sleep(rng.uniform(0, 1.0))
    victim, before = rng.choice(arena.workers), len(arena.exits)
    began = time.monotonic()
    os.kill(victim.pid, signal.SIGTERM)
    while not (codes := [code for name, code in arena.exits[before:] if name == victim.name]):
        assert time.monotonic() - began < PATIENCE_S, f"{victim.name} does not end"
        await asyncio.sleep(POLL_S)
    assert codes[0] == 0, f"{victim.name} was told to end and ended with {codes[0]}"
    return f"SIGTERM {victim.name}, ended after {time.monotonic() - began:.2f} s"


async def joins(arena: Arena, rng: random.Random) -> str:
    """All workers but the first come and go, not waiting for the group to settle."""
    others, moves = arena.system.state.workers[1:], []
    for _ in range(rng.randint(3, 6)):
        worker = rng.choice(others)
        gate, name = arena.gate(worker), worker.name
        running = [each for each in arena.workers if each.name == name]
        if gate.exists():
            gate.unlink()
            moves.append(f"+{name}")
        elif running:
            gate.touch()
            how = rng.choice((signal.SIGTERM, signal.SIGTERM, signal.SIGKILL))
            os.kill(running[0].pid, how)
            moves.append(f"-{name} ({how.name})")
        await asyncio.sleep(rng.uniform(0.2, 3.0))
    for worker in others:
        arena.gate(worker).unlink(missing_ok=True)
    return " ".join(moves)


async def twins(arena: Arena, rng: random.Random) -> str:
    """A second process with the instance id of a worker and a data directory of its own: one of the two is fenced and exits."""
    await asyncio.sleep(rng.uniform(0, 1.0))
    original = rng.choice(arena.workers)
    twin = start_twin(arena, original.name, arena.system.data / f"twin-{uuid.uuid4().hex[:6]}")
    began = time.monotonic()
    try:
        while twin.poll() is None and original.alive:
            assert time.monotonic() - began < PATIENCE_S, "two workers with one instance id run side by side"
            await asyncio.sleep(POLL_S)
        done = f"a twin of {original.name}: " + ("the older one was fenced" if twin.poll() is None else "the twin was fenced")
        while twin.poll() is None:  # the supervised one comes back and fences the twin
            assert time.monotonic() - began < 2 * PATIENCE_S, "the supervised worker does not get its place back"
            await asyncio.sleep(POLL_S)
    finally:
        if twin.poll() is None:
            twin.kill()
            twin.wait()
    assert twin.returncode != 0, "a fenced worker must not end as if all were well"
    return f"{done}; the twin ended with {twin.returncode}"


def start_twin(arena: Arena, name: str, data: Path) -> "subprocess.Popen[bytes]":
    """Another process with the instance id of worker `name`, on `data`."""
    instance = json.loads((arena.system.data / name / "orderflow.json").read_text())["instance"]
    from orderflow.connectors.box.ports import free_port

    state, port = arena.system.state, str(free_port())
    own = {"BOOTSTRAP": state.bootstrap, "REGISTRY": state.registry, "DATA": str(data), "INSTANCE": instance, "WORKER_PORT": port}
    environment = {**os.environ, **arena.environment, **{f"ORDERFLOW_{key}": value for key, value in own.items()}}
    if data not in arena.extra_stores and data.name.startswith("twin"):
        arena.extra_stores.append(data)
    with (arena.system.data / "logs" / f"{data.name}.log").open("ab") as log:
        return subprocess.Popen(
            [*PROGRAM, "worker", "--once"], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )


# -- the broker -----------------------------------------------------------------------------------------------------------------------
async def broker_kill(arena: Arena, rng: random.Random) -> str:
    """kill -9 of the broker; it recovers its logs and goes on."""
    box = _box(arena)
    await asyncio.sleep(rng.uniform(0, 1.0))
    await asyncio.to_thread(box.kill_broker)
    down = rng.uniform(0, 4.0)
    await asyncio.sleep(down)
    began = time.monotonic()
    await asyncio.to_thread(box.start_broker, timeout_s=BROKER_START_S)
    return f"kill -9 of the broker, down for {down:.1f} s, started in {time.monotonic() - began:.1f} s"


async def broker_restart(arena: Arena, rng: random.Random) -> str:
    """SIGTERM of the broker: a planned restart."""
    box = _box(arena)
    await asyncio.sleep(rng.uniform(0, 1.0))
    await asyncio.to_thread(box.stop_broker)
    began = time.monotonic()
    await asyncio.to_thread(box.start_broker, timeout_s=BROKER_START_S)
    return f"SIGTERM of the broker, started in {time.monotonic() - began:.1f} s"


def broker_down(seconds: float, over: Callable[[], None] = lambda: None) -> Fault:
    """The broker is gone for so long; nobody does anything but start it again. `over` is called right before."""

    async def fault(arena: Arena, rng: random.Random) -> str:
        box = _box(arena)
        await asyncio.to_thread(box.kill_broker)
        await asyncio.sleep(seconds)
        over()
        await asyncio.to_thread(box.start_broker, timeout_s=BROKER_START_S)
        return f"no broker for {seconds:.0f} s"

    return fault


def _box(arena: Arena) -> Box:
    assert arena.box is not None, "this fault needs a broker of its own"
    return arena.box


FAULTS: Mapping[str, Fault] = {
    "kill": kill,
    "stop": stop,
    "term": term,
    "joins": joins,
    "twins": twins,
    "broker-kill": broker_kill,
    "broker-restart": broker_restart,
}
WORKERS = {"kill": 2, "stop": 2, "term": 2, "joins": 3, "processes": 2}
"""How many workers share the partitions while this fault comes; 1 without."""
NEAR = frozenset({"kill"})
"""Faults whose next round begins as soon as an order was decided, with restores and rebalances still going on."""


def in_turn(*faults: Fault) -> Fault:
    """Round 1 gets the first of these, round 2 the second, and so on."""
    turns = itertools.cycle(faults)

    async def fault(arena: Arena, rng: random.Random) -> str:
        return await next(turns)(arena, rng)

    return fault


def told(line: str) -> None:
    """What a round did, for whoever watches and for the log of a failing test."""
    print(line, flush=True)


# -- a series -------------------------------------------------------------------------------------------------------------------------
def run(
    servers: Servers,
    directory: Path,
    name: str,
    *,
    rounds: int,
    seed: int,
    fault: Fault | None = None,
    box: Box | None = None,
    rate: float = 6.0,
    patience_s: float = PATIENCE_S,
    settle_s: float = SETTLE_S,
    workers: int = 0,
    backs_off: bool = False,
    environment: Mapping[str, str] | None = None,
    program: Sequence[str] = ("/bin/sh", "-c", GATED, *PROGRAM, "worker"),
    say: Callable[[str], None] = told,
) -> Series:
    """A series of one fault on a system of its own topics.

    Args:
        name: of the fault, and of the series where `fault` is given.
        box: the broker of `servers`, where it may be hurt.
        rate: orders begun per second.
        backs_off: whether the supervisor waits longer and longer, as in production; not when rounds should be near to each other.
        patience_s: how long an order may take that is placed after a fault.
        settle_s: how long callers may still wait for answers and outcomes after the last fault.
    """
    word = f"{name}-{uuid.uuid4().hex[:8]}"
    own = {
        "ORDERFLOW_PREFIX": word,
        "ORDERFLOW_GROUP": word,
        "ORDERFLOW_SESSION_TIMEOUT_S": f"{SESSION_S:g}",
        "ORDERFLOW_MEMBERSHIP": "dynamic" if name == "joins" else "static",
        **(environment or {}),
    }
    exits: list[tuple[str, int]] = []
    number = workers or WORKERS.get(name, 1)
    supervised = {
        "workers": number,
        "payments": True,
        "environment": own,
        "worker_program": program,
        "on_exit": lambda who, code, s: exits.append((who, code)),
    }
    delay_s = process.RESTART_DELAY_MAX_S if backs_off else process.RESTART_DELAY_S
    with mock.patch.object(process, "RESTART_DELAY_MAX_S", delay_s):
        with System(directory / "system", servers=servers, **supervised) as system:  # type: ignore[arg-type]
            load = Load(system.url, seed, rate=rate)
            arena = Arena(system, load, own, number, box)
            arena.exits = exits
            done, back, open_after = asyncio.run(_rounds(arena, fault or FAULTS[name], name, rounds, seed, patience_s, settle_s, say))
            operations, unequal = compare_books(system, own, settle_s)
        stores = [*(directory / "system" / f"worker-{n}" for n in range(1, number + 1)), *arena.extra_stores]
        records = contracts.load_records(servers.registry_url, Catalog(word), directory / "schemas.json")
        began = time.monotonic()
        verdict = judge(servers.bootstrap, records, [store for store in stores if store.exists()], load.journal)
        verdict.problems[:0] = [*open_after, *unequal]
    series = Series(name, seed, done, back, load.figures(), verdict, exits, operations)
    say(f"{name}: {series.figures()}; judged in {time.monotonic() - began:.1f} s")
    for problem in verdict.problems:
        say(f"  {problem}")
    return series


async def _rounds(
    arena: Arena, fault: Fault, name: str, rounds: int, seed: int, patience_s: float, settle_s: float, say: Callable[[str], None]
) -> tuple[list[str], list[float], list[str]]:
    """What each round did, how long until an order was decided, and what did not come in time: the rest is judged all the same."""
    load, done, back, missing = arena.load, [], [], []
    running = asyncio.create_task(load.run())
    try:
        await load_begun(load)
        try:
            for number in range(1, rounds + 1):
                what = await fault(arena, random.Random(f"{name} {seed} {number}"))
                began = time.monotonic()
                done.append(what)
                back.append(await load.probe(patience_s))
                if name not in NEAR:
                    await arena.back()
                after = f"an order was decided {back[-1]:.2f} s later, next after {time.monotonic() - began:.1f} s"
                say(f"{name} {number}/{rounds} (seed {seed}): {what}; {after}")
            await arena.back()
        except AssertionError as never:
            missing.append(f"I5 round {len(done)}: {never}")
            say(missing[-1])
        load.stop()
        await running
        return done, back, missing + await load.settle(settle_s)
    finally:
        running.cancel()
        await load.close()


def compare_books(system: System, environment: Mapping[str, str], patience_s: float) -> tuple[int, list[str]]:
    """How many operations the payment provider did, and where its book is not ours, once it has answered everything that it was asked."""
    state = system.state
    provider = next(each for each in state.processes if each.name == "provider")
    own = {**environment, "ORDERFLOW_BOOTSTRAP": state.bootstrap, "ORDERFLOW_REGISTRY": state.registry}
    command = [*PROGRAM, "reconcile", "payments", "--provider-url", provider.url, "--json"]
    deadline = time.monotonic() + patience_s
    while True:
        done = subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True)
        found = json.loads(done.stdout or "{}") if done.returncode in (0, 1) else {}
        if found and not found["open"]:
            break
        if time.monotonic() > deadline:
            return 0, [f"I5 {patience_s:.0f} s after the last fault: {found.get('open', done.stderr.strip())} operations have no answer"]
        time.sleep(1.0)
    if not found["operations"]:
        return 0, ["the load had no money in it"]
    return found["operations"], [f"{each['key']}: ours {each['ours']}, the provider's {each['theirs']}" for each in found["differences"]]


async def load_begun(load: Load) -> None:
    """Return once every SKU is there and orders come."""
    while load.begun < 3:
        await asyncio.sleep(POLL_S)


def _page(url: str) -> dict[str, Any] | None:
    """The JSON of a page that answers 200."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=3) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except (OSError, ValueError):
        return None
