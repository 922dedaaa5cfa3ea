"""Faults F10 to F16 between a worker and the broker: transactional requests lost, late, or answered into nothing, by the proxy.

Each waits for the next request of its kind that a worker under load sends, so its moment is random; the seed chooses which one is hit.
"""

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import proxy
from chaos_load import SETTLE_S
from nemesis import GATED, PATIENCE_S, POLL_S, SESSION_S, Arena, Fault, Series, in_turn, run, told
from proxy import Proxy, Trouble

from orderflow.connectors.box.box import Servers

WORKER = Path(__file__).with_name("chaos_worker.py")
LONG_TRANSACTIONS = {"ORDERFLOW_COMMIT_IDLE_S": "0.3", "ORDERFLOW_COMMIT_INTERVAL_S": "0.3"}
"""Several batches in a transaction: then it can be cut in the middle."""


def meet(between: Proxy, make: "Mapping[str, object]", *, die: bool = False) -> Fault:
    """The fault that arms one trouble, waits until it has happened, and says so. `die`: kill -9 the worker while its request is held."""

    async def fault(arena: Arena, rng: random.Random) -> str:
        await asyncio.sleep(rng.uniform(0, 0.5))
        longest = float(make.get("longest", 0.0))  # type: ignore[arg-type]
        seconds = rng.uniform(0.05, longest) if longest else 0.0
        number = int(make.get("until", 0))  # type: ignore[call-overload]
        until = (proxy.PRODUCE, rng.randint(1, number)) if number else (-1, 0)
        trouble = Trouble(make["api"], make["kind"], seconds, rng.randint(0, 5), until)  # type: ignore[arg-type]
        began = time.monotonic()
        between.arm(trouble)
        while not between.happened(began):
            assert time.monotonic() < began + PATIENCE_S, f"no request met {trouble}"
            await asyncio.sleep(0.005)
        done = f"{proxy.NAMES[trouble.api]}: {trouble.kind}"
        if seconds:
            done += f" (at most {seconds:.2f} s{f', until {until[1]} more Produce' if number else ''})"
        if die:
            for worker in arena.workers:
                os.kill(worker.pid, signal.SIGKILL)
            done += ", and kill -9 meanwhile"
        while between.late:
            await asyncio.sleep(POLL_S)
        return done

    return fault


RATE = 4.0

KINDS: Mapping[str, Mapping[str, object]] = {
    "F10 answer of the commit lost": {"api": proxy.END_TXN, "kind": "lose the answer"},
    "F10 connection lost after the commit": {"api": proxy.END_TXN, "kind": "forward and cut"},
    "F11 commit lost": {"api": proxy.END_TXN, "kind": "lose and cut"},
    "F11 late commit": {"api": proxy.END_TXN, "kind": "hold and cut", "longest": 4.0},
    "F11 late commit in the middle of the next": {"api": proxy.END_TXN, "kind": "hold and cut", "longest": 10.0, "until": 4},
    "F12 answer of a produce lost": {"api": proxy.PRODUCE, "kind": "forward and cut"},
    "F12 late produce": {"api": proxy.PRODUCE, "kind": "hold and cut", "longest": 2.0},
    "F13 offsets lost": {"api": proxy.TXN_OFFSET_COMMIT, "kind": "lose and cut"},
    "F13 late offsets": {"api": proxy.TXN_OFFSET_COMMIT, "kind": "hold and cut", "longest": 4.0},
    "F13 group not added": {"api": proxy.ADD_OFFSETS_TO_TXN, "kind": "lose and cut"},
    "F13 late partitions": {"api": proxy.ADD_PARTITIONS_TO_TXN, "kind": "hold and cut", "longest": 4.0},
    "F14 transaction times out at the broker": {"api": proxy.END_TXN, "kind": "hold", "longest": 2 * SESSION_S},
    "F16 killed with its transaction open": {"api": proxy.END_TXN, "kind": "lose the request", "die": True},
    "F16 commit arrives after the worker's end": {"api": proxy.END_TXN, "kind": "hold and cut", "longest": 6.0, "die": True},
}
"""Name -> what happens to which request. F15, two processes with one id, is `nemesis.twins`."""


def all_in_turn(between: Proxy, names: list[str]) -> Fault:
    """These faults one after another, each under its name."""

    def named(name: str) -> Fault:
        fault = meet(between, KINDS[name], die=bool(KINDS[name].get("die")))

        async def say(arena: Arena, rng: random.Random) -> str:
            return f"{name}: {await fault(arena, rng)}"

        return say

    return in_turn(*(named(name) for name in names))


def program(between: Proxy, build: str) -> tuple[str, ...]:
    """A worker of this build that knows only the proxy."""
    return ("/bin/sh", "-c", GATED, sys.executable, str(WORKER), build, "worker", "--bootstrap", between.address)


def behind_proxy(
    servers: Servers,
    directory: Path,
    *,
    names: list[str],
    rounds: int,
    seed: int,
    build: str = "hurried",
    patience_s: float = PATIENCE_S,
    settle_s: float = SETTLE_S,
    say: Callable[[str], None] = told,
) -> Series:
    """A series on a system whose worker reaches the broker through the proxy only; callers and the judge do not."""
    host, _, port = servers.bootstrap.rpartition(":")
    with Proxy(host, int(port)) as between:
        return run(
            servers,
            directory,
            "network",
            rounds=rounds,
            seed=seed,
            fault=all_in_turn(between, names),
            rate=RATE,
            patience_s=patience_s,
            settle_s=settle_s,
            environment=LONG_TRANSACTIONS,
            program=program(between, build),
            say=say,
        )
