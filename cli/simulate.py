"""`orderflow simulate`: seeded runs of the production code over a simulated log, disk, clock and network (tests/simulation).

Every run follows from its seed. A failing one prints the seed, what was wrong and the last steps, then shrinks.
"""

import multiprocessing
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import count
from typing import Annotated, Any

import typer

from orderflow.cli import checkout
from orderflow.cli.terminal import NO, AsJson, Failure, show

PROFILES = {"smoke": 20, "ci": 200, "long": 1_000_000_000}
"""Profile -> how many seeds without --seeds."""
LONG_S = 2 * 3600.0
TAIL_LINES = 40
FIRST_SEED = 1
CORES = os.cpu_count() or 1
AHEAD = 4
"""Seeds handed out before the first of them is done, per process."""


def simulate(
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="How many seeds; the profile's number without.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="This seed only.")] = None,
    first: Annotated[int, typer.Option("--first", help="The first seed.")] = FIRST_SEED,
    profile: Annotated[str, typer.Option("--profile", help="smoke: 60 orders; ci and long: 300 orders, more faults.")] = "ci",
    orders: Annotated[int | None, typer.Option("--orders", min=1, help="Orders per seed instead of the profile's.")] = None,
    limit_s: Annotated[
        float | None, typer.Option("--limit-s", help="Begin no seed after this many seconds; 7200 in the long profile.")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Processes that run seeds side by side; all cores without.")] = CORES,
    trace: Annotated[bool, typer.Option("--trace", help="Print the timeline of each run.")] = False,
    planted: Annotated[bool, typer.Option("--planted", help="Plant each of the known bugs; how many seeds until it is found?")] = False,
    as_json: AsJson = False,
) -> None:
    """Run the same code through many interleavings, crashes and lost answers, and check every invariant.

    Past seeds (tests/simulation/corpus.txt) are run first. Two runs of one seed are byte-identical.

    \b
    Example:
      orderflow simulate --seeds 200
      orderflow simulate --seed 4711 --trace
    \b
    Exit codes:
      0  every check held in every run; with --planted: every bug was found
      1  a run failed: its seed, problems and last steps are printed; with --planted: a bug was not found; or this is no checkout
      2  there is no such profile
    """
    if profile not in PROFILES:
        raise typer.BadParameter(f"{profile}: there are {', '.join(PROFILES)}", param_hint="--profile")
    bench = _load()
    limit = limit_s if limit_s is not None else LONG_S if profile == "long" else float("inf")
    if planted:
        table = list(_planted(bench, profile, orders, first, seeds or 200, limit))
        show({"profile": profile, "planted": table}, as_json, _planted_lines)
        if not all(row["found"] for row in table):
            raise typer.Exit(NO)
        return
    wanted = iter([seed]) if seed is not None else _seeds(first, seeds or PROFILES[profile])
    total = {"seeds": 0, "events": 0, "simulated_s": 0.0, "cpu_s": 0.0, "ends": 0, "began": time.monotonic()}
    plans = _plans(bench, profile, seed, wanted, orders)
    for done in _results(bench, plans, jobs if seed is None else 1, limit):
        total["seeds"] += 1
        total["events"] += done.events
        total["simulated_s"] += done.simulated_s
        total["cpu_s"] += done.wall_s
        total["ends"] += done.ends
        if trace or done.problems:
            result = bench.run.run(done.plan)
            if trace:
                print("\n".join(result.timeline), file=sys.stderr)
            if result.problems:
                _failed(bench, profile, result, total, as_json)
        if not as_json and sys.stderr.isatty():
            print(f"\r{total['seeds']} seeds, {total['events']} events", end="", file=sys.stderr, flush=True)
    show({"profile": profile, "passed": True, **_figures(total, jobs)}, as_json, _lines)


def _results(bench: Any, plans: Iterator[Any], jobs: int, limit_s: float) -> Iterator[Any]:
    """What each run came to, in the order of the seeds, so that the first failing one is the same however many processes there are."""
    began = time.monotonic()
    if jobs == 1:
        for plan in plans:
            if time.monotonic() - began > limit_s:
                return
            yield bench.run.brief(plan)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("fork")) as pool:
        waiting: deque[Any] = deque()
        try:
            while True:
                while len(waiting) < AHEAD * jobs and time.monotonic() - began <= limit_s and (plan := next(plans, None)) is not None:
                    waiting.append(pool.submit(bench.run.brief, plan))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _load() -> Any:
    """The simulator of the checkout, as the module `simulation`."""
    tests = checkout.root() / "tests"
    if not (tests / "simulation" / "run.py").is_file():
        raise Failure(f"{tests / 'simulation'} does not exist", then="get it back with `git checkout -- tests/simulation`")
    if str(tests) not in sys.path:
        sys.path.append(str(tests))
    import importlib
    from types import SimpleNamespace

    names = ("run", "shrink", "planted", "corpus")
    return SimpleNamespace(**{name: importlib.import_module(f"simulation.{name}") for name in names})


def _seeds(first: int, number: int) -> Iterator[int]:
    return iter(range(first, first + number))


def _plans(bench: Any, profile: str, only: int | None, wanted: Iterator[int], orders: int | None) -> Iterator[Any]:
    """The corpus, then what was asked for."""
    if only is None:
        yield from (plan for _, plan in bench.corpus.past())
    yield from (bench.run.plan_of(number, profile, orders) for number in wanted)


def _failed(bench: Any, profile: str, result: Any, total: dict[str, Any], as_json: bool) -> None:
    """Say which seed failed and how, shrink it, and end."""
    seed = result.plan.seed
    if not as_json:
        print(f"\nseed {seed} of profile {profile} FAILED:", file=sys.stderr)
        for problem in result.problems[:10]:
            print(f"  {problem[:400]}", file=sys.stderr)
        print("shrinking ...", file=sys.stderr, flush=True)
    small, runs = bench.shrink.shrink(result, bench.run.run)
    document = {
        "profile": profile,
        "passed": False,
        "seed": seed,
        "problems": result.problems,
        "shrunk": {
            "runs": runs,
            "orders": small.plan.load.orders,
            "workers": small.plan.workers,
            "faults": [str(fault) for fault in small.plan.faults],
            "problems": small.problems,
            "timeline": small.timeline[-TAIL_LINES:],
            "corpus": bench.corpus.line_of(small.plan, small.problems[0][:100]),
        },
        "again": f"orderflow simulate --profile {profile} --seed {seed} --trace",
        **_figures(total),
    }
    show(document, as_json, _failed_lines)
    raise typer.Exit(NO)


def _figures(total: dict[str, Any], jobs: int = 1) -> dict[str, Any]:
    wall, cpu = max(time.monotonic() - total["began"], 1e-9), max(total["cpu_s"], 1e-9)
    return {
        "seeds": total["seeds"],
        "events": total["events"],
        "events_per_s": round(total["events"] / wall),
        "events_per_s_per_process": round(total["events"] / cpu),
        "processes": jobs,
        "simulated_hours": round(total["simulated_s"] / 3600, 2),
        "wall_s": round(wall, 1),
        "process_ends": total["ends"],
    }


def _lines(document: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{document['seeds']} seeds, {document['events']} events, {document['simulated_hours']} simulated hours, "
        f"{document['process_ends']} ends of processes: every check held"
    )
    per_process = f"{document['events_per_s_per_process']} in each of {document['processes']} processes"
    yield f"{document['events_per_s']} simulated events/s ({per_process}); {document['wall_s']} s"


def _failed_lines(document: dict[str, Any]) -> Iterator[str]:
    small = document["shrunk"]
    yield f"seed {document['seed']} fails; the smallest failing run of {small['runs']} tried has {small['orders']} orders:"
    yield f"workers: {small['workers']}"
    yield from (f"fault    {fault}" for fault in small["faults"])
    yield from (f"problem  {problem[:600]}" for problem in small["problems"][:10])
    yield "the last steps:"
    yield from (line[:200] for line in small["timeline"])
    yield f"for the corpus: {small['corpus']}"
    yield f"again: {document['again']}"


def _planted(bench: Any, profile: str, orders: int | None, first: int, seeds: int, limit_s: float) -> Iterator[dict[str, Any]]:
    """Each bug by itself, until a seed finds it."""
    for name, parts in bench.planted.PLANTED.items():
        began, found, problem = time.monotonic(), None, ""
        for number in count(first):
            if number >= first + seeds or time.monotonic() - began > limit_s:
                break
            result = bench.run.run(bench.run.plan_of(number, profile, orders), parts(), prepare=bench.planted.PREPARES.get(name))
            if result.problems:
                found, problem = number, result.problems[0]
                break
        seconds = round(time.monotonic() - began, 1)
        tried = (found if found is not None else first + seeds - 1) - first + 1
        print(f"{name}: {'seed ' + str(found) if found is not None else 'not found'}, {seconds} s", file=sys.stderr, flush=True)
        yield {"bug": name, "found": found is not None, "seeds": tried, "seconds": seconds, "by": problem[:200]}


def _planted_lines(document: dict[str, Any]) -> Iterator[str]:
    from orderflow.cli.terminal import columns

    rows = [(row["bug"], row["seeds"] if row["found"] else "not found", row["seconds"], row["by"][:90]) for row in document["planted"]]
    yield from columns(("bug", "seeds", "seconds", "found by"), rows)
