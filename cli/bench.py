"""`orderflow bench`: measurements of the checkout's tests/bench, each with the check of its output inside."""

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from orderflow.cli import bench_system, checkout, machine
from orderflow.cli.terminal import NO, UNAVAILABLE, AsJson, Failure, columns, group, progress, show

app = group("Measure; every run checks what came out.")

PEERS = ("kafka-streams", "faust", "faust-exactly-once", "quix")
CODECS = ("compiled", "python", "both")

Save = Annotated[Path | None, typer.Option("--save", help="Keep the raw results as JSON in this file.")]


@app.callback()
def measurements() -> None:
    """Measure; every run checks what came out."""


@app.command()
def j1(
    peers: Annotated[str, typer.Option("--peers", help=f"Others who do the same job in turn: {','.join(PEERS)}; or all.")] = "",
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=50, help="How often, void rounds not counted.")] = 3,
    records: Annotated[int, typer.Option("--records", min=1000, help="Commands in the input; 30 % of them warm up.")] = 1_000_000,
    codec: Annotated[str, typer.Option("--codec", help=f"The product's codec: {', '.join(CODECS)}.")] = "compiled",
    scarce: Annotated[bool, typer.Option("--scarce", help="So few units that 30 % are refused.")] = False,
    save: Save = None,
    as_json: AsJson = False,
) -> None:
    """Reserve stock exactly once as fast as one core can, in turn with others who do the same job.

    Broker on core 0, contestant on core 1; one recorded input; every output checked. A result is void, and in no median, when the machine
    changed its speed by more than 15 % meanwhile or since the others of its round, or others used more than a tenth of a core; such a
    round is made again. Peers that need more than 100 µs a record get 40 000 records. Peers are built once, in the user's cache.

    \b
    Example:
      orderflow bench j1 --rounds 3
      orderflow bench j1 --peers kafka-streams,quix --rounds 5 --save docs/benchmarks/j1.json
    \b
    Exit codes:
      0   measured; our output is right in every round (a peer that failed is listed as failed)
      1   our output is wrong or our worker did not finish; or this is no checkout
      69  the broker did not start; or a peer could not be built: it is listed as not run, with the reason
    """
    contest = checkout.measurement("j1_contest")
    if codec not in CODECS:
        raise typer.BadParameter(f"{codec}: there are {', '.join(CODECS)}", param_hint="--codec")
    wanted = list(PEERS) if peers == "all" else [name for name in peers.split(",") if name]
    for name in set(wanted) - set(PEERS):
        raise typer.BadParameter(f"{name}: there are {', '.join(PEERS)}", param_hint="--peers")
    document = on_a_box(
        lambda box, directory: contest.run(
            box,
            directory,
            codec=codec,
            peers=wanted,
            rounds=rounds,
            records=records,
            data="scarce" if scarce else "plenty",
            say=say,
            keep=lambda found: kept(found, save),
        )
    )
    finish(document, save, as_json, contest)
    if any(each["fault"] for each in document["rounds"] if each["contestant"].startswith("orderflow")):
        raise typer.Exit(NO)
    if document["not_run"]:
        raise typer.Exit(UNAVAILABLE)


@app.command("j1-product")
def j1_product(
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=50, help="How often.")] = 3,
    records: Annotated[int, typer.Option("--records", min=1000, help="Reservations; 30 % of them warm up.")] = 1_000_000,
    scarce: Annotated[bool, typer.Option("--scarce", help="So few units that 30 % are refused.")] = False,
    save: Save = None,
    as_json: AsJson = False,
) -> None:
    """Reserve stock as the product does it, in turn with J1: real schemas and envelope, rules, events, status records, answers.

    Prints the CPU of a reservation, how many records and bytes it writes, and the ratio to J1 of the same round. Checked: no oversell,
    one answer per command, the rows equal to the fold of the events.

    \b
    Example:
      orderflow bench j1-product --rounds 3 --records 200000
    \b
    Exit codes:
      0   measured, the output of every round is right
      1   the output of a round is wrong or a worker did not finish; or this is no checkout
      69  the broker or the registry did not start
    """
    contest = checkout.measurement("j1_product")
    document = on_a_box(
        lambda box, directory: contest.run(box, directory, rounds=rounds, records=records, data="scarce" if scarce else "plenty", say=say),
        registry=True,
    )
    finish(document, save, as_json, contest)
    if any(each["fault"] for each in document["rounds"]):
        raise typer.Exit(NO)


@app.command()
def report(
    check: Annotated[bool, typer.Option("--check", help="Change nothing; say which files differ.")] = False, as_json: AsJson = False
) -> None:
    """Write the tables and charts of docs/benchmarks*.md from the raw results in docs/benchmarks/.

    \b
    Example:
      orderflow bench j1 --peers all --rounds 5 --save docs/benchmarks/j1.json
      orderflow bench report
    \b
    Exit codes:
      0   the page and its charts are as the raw results say
      1   with --check: they are not; or the page has no place for a result; or this is no checkout
    """
    root, maker = checkout.root(), checkout.measurement("report")
    try:
        wanted = dict(maker.files(root))
    except maker.Missing as missing:
        raise Failure(str(missing)) from None
    stale = [file for file, text in wanted.items() if not file.is_file() or file.read_text() != text]
    if not check:
        for file in stale:
            file.write_text(wanted[file])
    result = {"files": len(wanted), "differed": [str(file.relative_to(root)) for file in stale]}
    show(result, as_json, lambda found: [*found["differed"], f"{len(stale)} of {len(wanted)} files {'differ' if check else 'written'}"])
    if check and stale:
        raise typer.Exit(NO)


for command in bench_system.COMMANDS:
    app.command()(command)


def on_a_box(measure: Callable[[Any, Path], dict[str, Any]], *, registry: bool = False) -> dict[str, Any]:
    """Run a measurement with a box of its own on core 0, in a temporary directory. Raises Failure 69 when it does not start."""
    from orderflow.connectors.box.artifacts import ArtifactError
    from orderflow.connectors.box.box import BoxError
    from orderflow.connectors.box.java import JavaMissing
    from orderflow.connectors.box.process import ChildError

    contest = checkout.measurement("contest")
    if not machine.can_pin():
        say("this machine has one core, or does not let programs choose one: servers and contestants share it, so compare with nothing")
    with tempfile.TemporaryDirectory(prefix="orderflow-bench-") as directory, progress() as on_step:
        try:
            with contest.started_box(Path(directory), on_step, registry=registry) as box:
                found: dict[str, Any] = measure(box, Path(directory))
                return found
        except (ArtifactError, BoxError, ChildError, JavaMissing) as error:
            raise Failure(f"the broker did not start: {error}", code=UNAVAILABLE) from error


def say(text: str) -> None:
    """One step of a long measurement, on stderr."""
    print(text, file=sys.stderr, flush=True)


def finish(document: dict[str, Any], save: Path | None, as_json: bool, job: Any) -> None:
    """Keep the raw results where asked for, and show them: as JSON, or as the job's own table."""
    kept(document, save)
    show(document, as_json, lambda found: _lines(found, job))


def kept(document: dict[str, Any], save: Path | None) -> None:
    """Keep the raw results where asked for."""
    if save is not None:
        checkout.measurement("contest").save(document, save)


def _lines(document: dict[str, Any], job: Any) -> Iterator[str]:
    yield from columns(job.HEAD, job.rows(document))
    void = sum(each["void"] for each in document["rounds"])
    if void:
        yield f"{void} of {len(document['rounds'])} results are void: the machine changed its speed, or others used it"
