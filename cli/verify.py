"""`orderflow verify`: the mission's own tests against a running system, judged by what callers can see."""

import asyncio
import contextlib
import json
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from orderflow.cli import nemesis, ordering, race, runstate, stuck
from orderflow.cli.client import DEFAULT_URL, Edge, Unreachable
from orderflow.cli.terminal import NO, UNAVAILABLE, Failure, fields, group, progress
from orderflow.cli.topics import Partitions, Prefix
from orderflow.cli.worker import Bootstrap, Registry

T = TypeVar("T")
RESTART_WAIT_S = 60.0
RESTART_POLL_S = 0.2

app = group("Prove what the system promises, or exit with 1.")

GivenUrl = Annotated[
    str,
    typer.Option("--url", envvar="ORDERFLOW_URL", help=f"The system to test; {DEFAULT_URL}, or one of its own when nobody answers there."),
]
OwnBox = Annotated[bool, typer.Option("--box", help="Start a system of its own, in a temporary directory.")]
Data = Annotated[Path | None, typer.Option("--data", help="The data directory of the running `orderflow up`, to find its worker.")]
Wait = Annotated[float, typer.Option("--wait", min=1, help="Seconds until everything must have its outcome.")]
Quiet = Annotated[bool, typer.Option("--json", help="Print nothing but the figures as JSON.")]


@app.command("race")
def verify_race(
    orders: Annotated[int, typer.Option("--orders", min=1, max=400, help="How many buyers, one unit each.")] = 50,
    stock: Annotated[int, typer.Option("--stock", min=1, help="How many units there are.")] = 10,
    kill_worker: Annotated[bool, typer.Option("--kill-worker", help="kill -9 the worker in the middle.")] = False,
    duplicate_posts: Annotated[bool, typer.Option("--duplicate-posts", help="Every buyer posts twice at the same moment.")] = False,
    url: GivenUrl = "",
    box: OwnBox = False,
    data: Data = None,
    wait: Wait = 120.0,
    as_json: Quiet = False,
) -> None:
    """Many buyers of few units: every unit is sold once, everybody else is told so, nothing is left behind.

    \b
    Example:
      orderflow verify race --orders 50 --stock 10 --kill-worker --duplicate-posts
    \b
    Exit codes:
      0   proved: the figures are printed as JSON
      1   not so: the figures and every fault are printed as JSON
      69  no system answers
    """
    with target(url, box, data) as (base, directory):

        async def work(edge: Edge) -> race.RaceFacts:
            end = (lambda: kill(directory)) if kill_worker else None
            facts = await race.run(edge, new_run_id(), orders=orders, stock=stock, duplicates=duplicate_posts, kill=end, wait_s=wait)
            if facts.killed is not None:
                facts.killed = await started_again(directory, facts.killed)
            return facts

        facts = within(base, work)
        read_log(facts, base, directory)
    report("race", facts.figures(), race.judge_race(facts), as_json)


@app.command("ordering")
def verify_ordering(url: GivenUrl = "", box: OwnBox = False, data: Data = None, wait: Wait = 120.0, as_json: Quiet = False) -> None:
    """Picking, picked, packed, shipped in all 24 orders of arrival, one after another and at once: every order ends shipped.

    \b
    Example:
      orderflow verify ordering
    \b
    Exit codes:
      0   proved: the figures are printed as JSON
      1   not so: the figures and every fault are printed as JSON
      69  no system answers
    """
    with target(url, box, data) as (base, _):
        facts = within(base, lambda edge: ordering.run(edge, new_run_id(), wait_s=wait))
    report("ordering", facts.figures(), ordering.judge_ordering(facts), as_json)


@app.command("stuck")
def verify_stuck(url: GivenUrl = "", box: OwnBox = False, data: Data = None, wait: Wait = 30.0, as_json: Quiet = False) -> None:
    """No reservation is overdue by more than a second on partitions that have caught up.

    \b
    Example:
      orderflow verify stuck
    \b
    Exit codes:
      0   proved: the figures are printed as JSON
      1   not so: the figures and every fault are printed as JSON
      69  no system answers
    """
    with target(url, box, data) as (base, _):
        facts = within(base, lambda edge: stuck.run(edge, wait_s=wait))
    report("stuck", facts.figures(), stuck.judge_stuck(facts), as_json)


@app.command("invariants")
def verify_invariants(
    bootstrap: Bootstrap = None, registry: Registry = None, prefix: Prefix = None, partitions: Partitions = None, as_json: Quiet = False
) -> None:
    """Count everything again from the topics: stock, orders, timers, one effect per command, rows equal to the fold of their events.

    It reads every event there is. On a running system what is found counts only if a second look finds it too.

    \b
    Example:
      orderflow verify invariants
    \b
    Exit codes:
      0   proved: the figures are printed as JSON
      1   not so: the figures and every fault are printed as JSON
      69  the broker or the registry does not answer
      78  the topics or schemas do not exist
    """
    from orderflow.cli import environment, invariants
    from orderflow.streams.settings import WorkerSettings

    settings = environment.load(WorkerSettings, bootstrap=bootstrap, registry=registry, prefix=prefix, partitions=partitions)
    facts = invariants.run(settings.bootstrap, settings.registry, settings.prefix, settings.partitions)
    report("invariants", facts.figures(), facts.faults, as_json)


@app.command("nemesis")
def verify_nemesis(
    fault: Annotated[str, typer.Option("--fault", help=f"One or several, with commas: {', '.join(nemesis.FAULTS)}.")] = ",".join(
        nemesis.USUAL
    ),
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds per fault.")] = 20,
    seed: Annotated[int, typer.Option("--seed", help="The faults, their order and the load follow from it; the moments do not quite.")] = 1,
    as_json: Quiet = False,
) -> None:
    """Hurt a real system of its own under load, again and again, and judge everything it leaves: topics, rows, what callers were told.

    kill -9, stop for longer than the session, SIGTERM, workers that come and go, two workers with one id, the broker killed or
    restarted; network: transactional requests lost, cut and late, F10 to F16 in turn. Needs a checkout.

    \b
    Example:
      orderflow verify nemesis --fault kill,stop --rounds 20 --seed 7
    \b
    Exit codes:
      0   proved: the figures are printed as JSON
      1   not so: the figures and every fault are printed as JSON; or this is no checkout
      2   there is no such fault
      69  the box does not start
    """
    names = [name.strip() for name in fault.split(",") if name.strip()]
    unknown = [name for name in names if name not in nemesis.FAULTS]
    if unknown or not names:
        raise typer.BadParameter(f"{', '.join(unknown) or 'none'}: there are {', '.join(nemesis.FAULTS)}", param_hint="--fault")
    figures, wrong = nemesis.run(
        names, rounds, seed, (lambda line: None) if as_json else (lambda line: print(line, file=sys.stderr, flush=True))
    )
    report("nemesis", figures, wrong, as_json)


# -- what to test -------------------------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def target(url: str, box: bool, data: Path | None) -> Iterator[tuple[str, Path]]:
    """Base URL and data directory of the system to test: the one that was named, the usual one if it answers, else one of its own."""
    from orderflow.cli import environment

    if not box and (url or answers(DEFAULT_URL)):
        yield url or DEFAULT_URL, data or environment.data_dir()
        return
    from orderflow.cli.system import System

    if not box:
        print(f"nobody answers at {DEFAULT_URL}: starting a system of its own", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="orderflow-verify-") as directory, progress() as on_step:
        with System(Path(directory), on_step=on_step) as system:
            yield system.url, system.data


def answers(url: str) -> bool:
    """Is there an edge?"""

    async def once() -> bool:
        async with Edge(url, timeout_s=3) as edge:
            try:
                return (await edge.get("/health/live")).status == 200
            except Unreachable:
                return False

    return asyncio.run(once())


def within(url: str, work: Callable[[Edge], Awaitable[T]]) -> T:
    """Do the work in a session with the edge. Raises Failure 69 when it does not answer."""

    async def session() -> T:
        async with Edge(url) as edge:
            return await work(edge)

    try:
        return asyncio.run(session())
    except Unreachable as error:
        raise Failure(str(error), then="start a system with `orderflow up`, or use --box", code=UNAVAILABLE) from None


def new_run_id() -> str:
    """Makes what a run creates its own."""
    from ulid import ULID

    return str(ULID())


def read_log(facts: race.RaceFacts, url: str, data: Path) -> None:
    """Let the log itself testify, where this machine knows the Kafka of the system: then no moment is missed."""
    from orderflow.cli import witness

    try:
        state = runstate.read(data)
    except Failure:
        return
    if state.url != url.rstrip("/"):
        return
    seen = witness.of_stock(state, facts.sku, facts.began_ms)
    facts.log_read, facts.sequences = True, seen.sequences
    facts.available_lowest = min(facts.available_lowest, seen.available_lowest)


async def kill(data: Path) -> race.Killed:
    """kill -9 of the worker of the system in this directory."""
    process = runstate.kill_worker(data)
    return race.Killed(process.pid, process.name)


async def started_again(data: Path, killed: race.Killed) -> race.Killed:
    """Wait until the supervisor has another worker in place of the killed one."""
    for _ in range(int(RESTART_WAIT_S / RESTART_POLL_S)):
        if any(process.name == killed.name and process.pid != killed.pid and process.alive for process in runstate.read(data).workers):
            return race.Killed(killed.pid, killed.name, True)
        await asyncio.sleep(RESTART_POLL_S)
    return killed


def report(check: str, figures: dict[str, Any], faults: list[str], as_json: bool) -> None:
    """Print figures and faults as JSON, and for people the verdict on stderr; exit 1 when there are faults."""
    print(json.dumps({"check": check, "passed": not faults, "figures": figures, "faults": faults}, indent=2))
    if not as_json:
        for line in fields(
            {"verdict": "proved" if not faults else "NOT proved", **{f"fault {n}": text for n, text in enumerate(faults, 1)}}
        ):
            print(line, file=sys.stderr)
    if faults:
        raise typer.Exit(NO)
