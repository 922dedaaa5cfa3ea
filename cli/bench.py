"""`orderflow bench`: measurements of the checkout's tests/bench, each with the check of its output inside."""

import importlib.util
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Annotated, Any

import typer

from orderflow.cli import checkout, machine
from orderflow.cli.terminal import NO, UNAVAILABLE, AsJson, Failure, columns, group, progress, show

app = group("Measure; every run checks what came out.")

WARM_SHARE = 0.3
RUN_TIMEOUT_S = 900
BROKER_CORE, CONTESTANT_CORE = 0, 1
TAIL_LINES = 20


@app.callback()
def measurements() -> None:
    """Measure; every run checks what came out."""


@app.command()
def j1(
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=50, help="How often.")] = 3,
    records: Annotated[int, typer.Option("--records", min=1000, help="Commands per round; 30 % of them warm up.")] = 1_000_000,
    scarce: Annotated[bool, typer.Option("--scarce", help="So few units that 30 % are refused.")] = False,
    as_json: AsJson = False,
) -> None:
    """Reserve stock exactly once as fast as one core can: the worker on core 1, the broker on core 0, the output checked.

    A round in which the machine changed its speed by more than 15 %, or in which others used more than a tenth of a core, is void.

    \b
    Example:
      orderflow bench j1 --rounds 3 --records 1000000
    \b
    Exit codes:
      0   measured, the output of every round is right
      1   the output of a round is wrong; or this is no checkout
      69  the broker or the worker did not run: the log is shown
    """
    file = checkout.root() / "tests" / "bench" / "j1.py"
    if not file.is_file():
        raise Failure(f"{file} does not exist", then="get it back with `git checkout -- tests/bench`")
    job = _load(file)
    data_set = "scarce" if scarce else "plenty"
    results = list(_rounds(job, file, rounds, records, job.ON_HAND[data_set], quiet=as_json))
    valid = [each for each in results if not each["void"] and not each["fault"]]
    document = {
        "job": "j1",
        "data": data_set,
        "records": records,
        "pinned": machine.can_pin(),
        "rounds": results,
        "median": _medians(valid),
    }
    show(document, as_json, _lines)
    if any(each["fault"] for each in results):
        raise typer.Exit(NO)


def _load(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("orderflow_bench_j1", file)
    assert spec is not None and spec.loader is not None, "a Python file has a loader"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _rounds(job: ModuleType, file: Path, rounds: int, records: int, on_hand: int, quiet: bool) -> Iterator[dict[str, Any]]:
    from orderflow.connectors.box.box import Box

    with tempfile.TemporaryDirectory(prefix="orderflow-bench-") as directory:
        box = Box(Path(directory) / "box", registry=False)
        with machine.on_core(BROKER_CORE), progress() as on_step:
            box.start(on_step)
        try:
            for number in range(1, rounds + 1):
                if not quiet:
                    print(f"round {number} of {rounds}: writing {records} commands, then measuring", file=sys.stderr, flush=True)
                yield _round(job, file, box, Path(directory), f"j1-{number}", records, on_hand)
        finally:
            box.stop()


def _round(job: ModuleType, file: Path, box: Any, directory: Path, prefix: str, records: int, on_hand: int) -> dict[str, Any]:
    from orderflow.connectors.box.ports import free_port

    job.prepare(box.bootstrap, prefix, records)
    command = (
        *(sys.executable, str(file), box.bootstrap, prefix, str(directory / prefix)),
        *(str(records), str(int(records * WARM_SHARE)), str(on_hand), str(free_port())),
    )
    broker = int((box.data_dir / "run" / "kafka.pid").read_text().split()[0])
    with machine.on_core(CONTESTANT_CORE):
        before = machine.calibrate()
        busy, ours, began = machine.busy_s(), _ours_s(broker), time.monotonic()
        figures = _contest(command, directory / f"{prefix}.log")
        seconds = time.monotonic() - began
        foreign = max(0.0, (machine.busy_s() - busy - (_ours_s(broker) - ours)) / seconds)
        after = machine.calibrate()
    drift = abs(after - before) / before
    fault, checked = "", {}
    try:
        checked = job.check(box.bootstrap, prefix, records, on_hand)
    except AssertionError as error:
        fault = str(error) or "the output is wrong"
    return {
        "prefix": prefix,
        **figures,
        "calibration_s": [round(before, 4), round(after, 4)],
        "drift": round(drift, 3),
        "foreign_cores": round(foreign, 3),
        "void": drift > machine.DRIFT_MAX or foreign > machine.FOREIGN_MAX,
        "checked": checked,
        "fault": fault,
    }


def _ours_s(broker: int) -> float:
    """CPU seconds of the broker, of this process and of the contestants that have ended."""
    own, ended = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return machine.used_s(broker) + own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime


def _contest(command: Sequence[str], log: Path) -> dict[str, Any]:
    """Run the worker until it has consumed the input; its figures. Raises Failure with the tail of its log."""
    with log.open("wb") as errors:
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, timeout=RUN_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            raise Failure(f"the worker did not finish in {RUN_TIMEOUT_S} s", then=_tail(log), code=UNAVAILABLE) from None
    lines = done.stdout.decode().strip().splitlines()
    try:
        figures: dict[str, Any] = json.loads(lines[-1])
    except (IndexError, ValueError):
        raise Failure(f"the worker ended with {done.returncode} and no figures", then=_tail(log), code=UNAVAILABLE) from None
    return figures


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-TAIL_LINES:])


def _medians(valid: list[dict[str, Any]]) -> dict[str, Any]:
    """Median and range of what counts, over the rounds that are not void."""
    if not valid:
        return {}
    found: dict[str, Any] = {"rounds": len(valid)}
    for name in ("cpu_us_per_event", "events_per_s"):
        values = [each[name] for each in valid]
        found[name] = {"median": median(values), "from": min(values), "to": max(values)}
    return found


def _lines(document: dict[str, Any]) -> Iterator[str]:
    names = ("events_per_s", "cpu_us_per_event", "commit_share", "write_share", "rss_mb", "drift", "foreign_cores")
    rows = (
        [each["prefix"], *(each.get(name, "") for name in names), each["fault"] or ("void" if each["void"] else "right")]
        for each in document["rounds"]
    )
    yield from columns(("round", *names, "output"), rows)
    if not document["pinned"]:
        yield "broker and worker shared the cores: this machine cannot pin them, so compare with nothing"
    middle = document["median"]
    if not middle:
        yield "no round counts: the machine was too busy or changed its speed"
        return
    speed, cpu = middle["events_per_s"], middle["cpu_us_per_event"]
    yield f"median of {middle['rounds']}: {cpu['median']} CPU µs per event ({cpu['from']}-{cpu['to']})"
    yield f"             {speed['median']} events/s ({speed['from']}-{speed['to']}), exactly once, every answer checked"
