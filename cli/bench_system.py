"""`orderflow bench latency | restore | restart | rebalance | scale | hot | soak | micro`: what a running system does, beside what was wanted of it.

Every command measures with real workers on a broker of its own, checks what came out, and prints a missed target as plainly as a met one.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from orderflow.cli import checkout, logs, machine
from orderflow.cli.terminal import NO, UNAVAILABLE, AsJson, Failure, columns, show

MICRO_FILE = Path("docs") / "benchmarks" / "micro.json"
MICRO_TIMES = 10
QUICK_TIMES = 3

Rounds = Annotated[int, typer.Option("--rounds", min=1, max=50, help="How often.")]
Save = Annotated[Path | None, typer.Option("--save", help="Keep the raw results as JSON in this file.")]
Workers = Annotated[int, typer.Option("--workers", min=1, max=64, help="The larger number of workers to compare with one.")]


def latency(
    rate: Annotated[float, typer.Option("--rate", min=1, help="Commands/s of the first measurement; orders/s with --product.")] = 200.0,
    seconds: Annotated[float, typer.Option("--seconds", min=1, help="How long it is measured, after the warm-up.")] = 30.0,
    warm: Annotated[float, typer.Option("--warm", min=0, help="Seconds of warm-up: the broker compiles itself for a minute.")] = 60.0,
    curve: Annotated[str, typer.Option("--curve", help="Shares of the peak for the curve, in percent; or none.")] = "10,50,80",
    curve_seconds: Annotated[float, typer.Option("--curve-seconds", min=1, help="How long each point of the curve is measured.")] = 15.0,
    peak: Annotated[float, typer.Option("--peak", min=0, help="The peak in events/s; 0 measures it with a short J1.")] = 0.0,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, max=64, help="The curve has one worker and so many; 2 without. With --product: 1.")
    ] = None,
    product: Annotated[
        bool, typer.Option("--product", help="Instead: orders over HTTP to a whole system, and CPU of its processes.")
    ] = False,
    items: Annotated[int, typer.Option("--items", min=1, max=20, help="SKUs per order with --product.")] = 1,
    prepaid: Annotated[bool, typer.Option("--prepaid", help="With --product: orders that the local provider authorizes first.")] = False,
    save: Save = None,
    as_json: AsJson = False,
) -> None:
    """How long a command waits until a read_committed reader can see its answer: at a fixed rate, then over the load.

    Waits count from the moment a command was due, so a slow system cannot hide behind a slow sender. With --product it is the wait
    of a POST of an order for its 201, through the edge and every hop of the saga.

    \b
    Example:
      orderflow bench latency --save docs/benchmarks/latency.json
      orderflow bench latency --seconds 5 --warm 2 --curve none
      orderflow bench latency --product --rate 50 --prepaid
    \b
    Exit codes:
      0   measured, every command was answered once (targets may be missed: they are printed)
      1   the output is wrong; or this is no checkout
      2   a share is no number
      69  the broker, a worker or the load did not run: the log is shown
    """
    options: dict[str, Any] = {"rate": rate, "seconds": seconds, "warm_s": warm}
    if product:
        options |= {"items": items, "workers": workers or 1, "prepaid": prepaid}
        _run(
            "product",
            options,
            save,
            as_json,
            lambda job, box, directory, say: [job.measure(box, directory, say=say, **options)],
            registry=True,
        )
        return
    shares = [number / 100 for number in _numbers(curve, "--curve")]
    options |= {"curve": shares, "curve_s": curve_seconds, "workers": workers or 2, "peak": peak}
    _run("latency", options, save, as_json, lambda job, box, directory, say: job.measure(box.bootstrap, directory, say=say, **options))


def restore(
    rows: Annotated[int, typer.Option("--rows", min=1000, help="Rows in the changelogs; a second set has 100 000.")] = 5_000_000,
    rounds: Annotated[int, typer.Option("--rounds", min=0, max=50, help="kill -9 so often for each set of rows.")] = 5,
    rebuilds: Annotated[int, typer.Option("--rebuilds", min=1, max=20, help="Rebuild from an empty disk so often.")] = 3,
    save: Save = None,
    as_json: AsJson = False,
) -> None:
    """How soon a worker is back: from an empty disk, and after kill -9 with its disk kept, with few rows and with many.

    Checked: every command has one answer, and the rows on disk are the fold of the changelogs, by number and digest.

    \b
    Example:
      orderflow bench restore --rows 1000000 --rounds 5
    \b
    Exit codes:
      0   measured, the state is right (targets may be missed: they are printed)
      1   the state or the answers are wrong; or this is no checkout
      69  the broker or a worker did not run: the log is shown
    """
    options = {"rows": rows, "kills": rounds, "rebuilds": rebuilds}
    _run("restore", options, save, as_json, lambda job, box, directory, say: job.measure(box.bootstrap, directory, say=say, **options))


def restart(
    rounds: Rounds = 3,
    records: Annotated[int, typer.Option("--records", min=1000, help="Commands of J1 that everybody has processed before.")] = 1_000_000,
    save: Save = None,
    as_json: AsJson = False,
) -> None:
    """How soon somebody is back after kill -9 with the disk kept: ours, and Kafka Streams as a static and as a dynamic member, in turn.

    \b
    Example:
      orderflow bench restart --rounds 3
    \b
    Exit codes:
      0   measured, the output of everybody is right (a missed target is printed)
      1   an output is wrong, or a peer could not be built; or this is no checkout
      69  the broker or a contestant did not run: the log is shown
    """
    options = {"rounds": rounds, "records": records}
    _run("restart", options, save, as_json, lambda job, box, directory, say: job.measure(box.bootstrap, directory, say=say, **options))


def rebalance(
    rate: Annotated[float, typer.Option("--rate", min=10, help="Commands/s meanwhile.")] = 1000.0,
    joins: Annotated[int, typer.Option("--joins", min=0, max=1000, help="A worker joins and leaves again so often.")] = 3,
    rounds: Annotated[int, typer.Option("--rounds", min=0, max=50, help="kill -9 of one of two so often.")] = 3,
    session_timeout: Annotated[
        float, typer.Option("--session-timeout", min=2, help="Seconds until the group misses a dead worker.")
    ] = 10.0,
    standby: Annotated[bool, typer.Option("--standby", help="All of it once more with workers that copy what they do not own.")] = False,
    save: Save = None,
    as_json: AsJson = False,
) -> None:
    """How long a key waits while workers come, go and die under load: the longest time without an answer, of moved and kept partitions.

    \b
    Example:
      orderflow bench rebalance --joins 20 --standby
    \b
    Exit codes:
      0   measured, every command was answered once (targets may be missed: they are printed)
      1   an answer is lost, doubled or wrong; or this is no checkout
      69  the broker, a worker or the load did not run: the log is shown
    """
    options = {"rate": rate, "joins": joins, "kills": rounds, "session_timeout_s": session_timeout, "standby": standby}
    _run("rebalance", options, save, as_json, lambda job, box, directory, say: job.measure(box.bootstrap, directory, say=say, **options))


def scale(
    rounds: Rounds = 3,
    records: Annotated[int, typer.Option("--records", min=1000, help="Commands per point; 30 % of them warm up.")] = 500_000,
    workers: Workers = 2,
    partitions: Annotated[str, typer.Option("--partitions", help="The numbers of partitions.")] = "4,8,16",
    keys: Annotated[str, typer.Option("--keys", help="The numbers of SKUs that have stock; or none.")] = "100000,1000000,5000000",
    reservations: Annotated[
        int, typer.Option("--reservations", min=0, help="Open reservations for the memory per million; 0 leaves it out.")
    ] = 1_000_000,
    save: Save = None,
    as_json: AsJson = False,
) -> None:
    """What an event costs with more workers, partitions, keys and open reservations; one of them moves at a time.

    On two cores several workers share them with the broker: look at CPU per event, not at events per second.

    \b
    Example:
      orderflow bench scale --rounds 1 --records 100000 --partitions 4,16 --keys 100000,500000 --reservations 200000
    \b
    Exit codes:
      0   measured, the output of every run is right (targets may be missed: they are printed)
      1   the output of a run is wrong; or this is no checkout
      2   a list has something else than numbers
      69  the broker or a worker did not run: the log is shown
    """
    counts = {"partitions": _numbers(partitions, "--partitions"), "keys": _numbers(keys, "--keys")}
    options = {"rounds": rounds, "records": records, "workers": workers, **counts, "reservations": reservations}
    _run("scale", options, save, as_json, lambda job, box, directory, say: job.measure(box.bootstrap, directory, say=say, **options))


def hot(
    rounds: Rounds = 3,
    records: Annotated[int, typer.Option("--records", min=1000, help="Commands per run; 30 % of them warm up.")] = 500_000,
    save: Save = None,
    as_json: AsJson = False,
) -> None:
    """What a SKU that everybody wants does to the speed: keys spread evenly, by Zipf's law (1.1), and one single key, in turn.

    \b
    Example:
      orderflow bench hot --rounds 3
    \b
    Exit codes:
      0   measured, the output of every run is right
      1   the output of a run is wrong; or this is no checkout
      69  the broker or a worker did not run: the log is shown
    """
    options = {"rounds": rounds, "records": records}
    _run("hot", options, save, as_json, lambda job, box, directory, say: job.measure(box.bootstrap, directory, say=say, **options))


def soak(
    minutes: Annotated[float, typer.Option("--minutes", min=0.5, max=10_000, help="How long.")] = 30.0,
    rate: Annotated[float, typer.Option("--rate", min=1, help="Orders/s, every second one prepaid.")] = 40.0,
    state_memory: Annotated[
        int, typer.Option("--state-memory", min=64, help="The worker's budget for rows in MiB: small, so that its caches are full early.")
    ] = 64,
    save: Save = None,
    as_json: AsJson = False,
) -> None:
    """Does anything grow in a system that runs for long? Memory, open files and threads of every process, and the waits of callers.

    The last third of the time is compared with the one before.

    \b
    Example:
      orderflow bench soak --minutes 30
    \b
    Exit codes:
      0   measured, every order took its units once (targets may be missed: they are printed)
      1   units are missing, or a process ended meanwhile; or this is no checkout
      69  the broker or a process did not run: the log is shown
    """
    options = {"minutes": minutes, "rate": rate, "state_memory_mb": state_memory}
    _run(
        "soak",
        options,
        save,
        as_json,
        lambda job, box, directory, say: [job.measure(box, directory, say=say, **options)],
        registry=True,
    )


def micro(
    quick: Annotated[bool, typer.Option("--quick", help="Three times each part instead of ten: for CI.")] = False,
    against: Annotated[Path | None, typer.Option("--against", help="Compare with these raw results instead of the repository's.")] = None,
    save: Save = None,
    as_json: AsJson = False,
) -> None:
    """The parts of an event's cost, as ratios to a calibration loop: codec, rows, RocksDB, produce, a turn.

    A part that became more than 20 % dearer than in docs/benchmarks/micro.json is a warning, never a failure.

    \b
    Example:
      orderflow bench micro --quick
      orderflow bench micro --save docs/benchmarks/micro.json
    \b
    Exit codes:
      0   measured, with or without warnings
      1   a part did not do what it should; or this is no checkout
      69  the broker did not start
    """
    from orderflow.cli.bench import on_a_box, say

    logs.configure()
    job = checkout.measurement("micro")
    before = job.stored(against or checkout.root() / MICRO_FILE)
    document = on_a_box(lambda box, directory: job.run(box, directory, rounds=QUICK_TIMES if quick else MICRO_TIMES, say=say))
    document["warnings"] = job.warnings(document, before)
    if save is not None:
        checkout.measurement("contest").save(document, save)
    show(document, as_json, lambda found: _micro_lines(found, job, before))
    if any(part["fault"] for part in document["parts"].values()):
        raise typer.Exit(NO)


COMMANDS = (latency, restore, restart, rebalance, scale, hot, soak, micro)
"""In the order of the help; `orderflow bench` takes them in."""


def _numbers(text: str, option: str) -> list[int]:
    try:
        return [] if text == "none" else [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{text}: whole numbers separated by commas, or none", param_hint=option) from None


def _run(
    name: str,
    options: Mapping[str, Any],
    save: Path | None,
    as_json: bool,
    measure: Callable[[Any, Any, Path, Callable[[str], None]], list[dict[str, Any]]],
    *,
    registry: bool = False,
) -> None:
    """Measure on a box of its own, keep, show, and say by the exit code whether the output was right."""
    from confluent_kafka import KafkaException

    from orderflow.cli.bench import on_a_box, say

    logs.configure()
    if machine.may_starve():
        say("kernel.sched_autogroup_enabled is 1: pinned processes may starve each other; set it to 0 with sysctl for the measurement")
    job, wanted, fleet = (checkout.measurement(module) for module in (name, "targets", "fleet"))

    def measured(box: Any, directory: Path) -> dict[str, Any]:
        rounds = measure(job, box, directory, say)
        document: dict[str, Any] = wanted.document(name, options, rounds, job.targets(rounds))
        return document

    try:
        document = on_a_box(measured, registry=registry)
    except fleet.BenchError as error:
        raise Failure(str(error), code=UNAVAILABLE) from None
    except KafkaException as error:
        raise Failure(
            f"the broker did not do its part: {error.args[0].str()}", then="is the machine too busy?", code=UNAVAILABLE
        ) from error
    if save is not None:
        checkout.measurement("contest").save(document, save)
    show(document, as_json, lambda found: _lines(found, job, wanted))
    if any(each["fault"] for each in document["rounds"]):
        raise typer.Exit(NO)


def _lines(document: dict[str, Any], job: Any, wanted: Any) -> Iterator[str]:
    """The figures, then each target, then what makes them doubtful."""
    yield from columns(job.HEAD, job.rows(document))
    if document["targets"]:
        yield ""
        yield from columns(wanted.HEAD, wanted.rows(document))
    yield from doubts(document)


def doubts(document: dict[str, Any]) -> Iterator[str]:
    """Why the figures may mean little."""
    if not document["facts"]["pinned"]:
        yield "broker and workers shared the cores: this machine cannot pin them, so compare with nothing"
    rounds = document["rounds"]
    void = sum(each["void"] for each in rounds)
    if void:
        yield f"{void} of {len(rounds)} results are void: the machine changed its speed, or others used it"


def _micro_lines(document: dict[str, Any], job: Any, before: Mapping[str, float]) -> Iterator[str]:
    yield from columns(job.HEAD, job.rows(document, before))
    if not before:
        yield "nothing to compare with: keep a run with --save docs/benchmarks/micro.json"
    for warning in document["warnings"]:
        yield f"warning: {warning}"
