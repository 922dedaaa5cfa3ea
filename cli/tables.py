"""`orderflow tables`: the rows of a running system, per partition: who has them, what they come to, and whether the logs agree."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orderflow.cli.terminal import NO, UNAVAILABLE, AsJson, Failure, columns, group, show
from orderflow.cli.topics import Partitions, Prefix
from orderflow.cli.worker import Bootstrap, Registry

if TYPE_CHECKING:
    from orderflow.cli.owners import Place
    from orderflow.streams.records import Records
    from orderflow.streams.settings import WorkerSettings

app = group("Look at the rows of a running system and prove that they are what the logs say.")

SPACES = ("orders", "stock", "catalog", "references")
WRONG_USAGE = 2

Space = Annotated[str, typer.Option("--space", help=f"One key space: {', '.join(SPACES)}; all without.")]
Partition = Annotated[int | None, typer.Option("--partition", min=0, help="One partition; all without.")]


@app.command("list")
def list_tables(
    space: Space = "",
    bootstrap: Bootstrap = None,
    registry: Registry = None,
    prefix: Prefix = None,
    partitions: Partitions = None,
    as_json: AsJson = False,
) -> None:
    """List every partition with its owner, about how many keys and bytes it has, and how far it is.

    A digest is shown when `tables digest` asked for it and nothing has happened to the partition since.

    \b
    Example:
      orderflow tables list --space stock
    \b
    Exit codes:
      0   listed
      1   some partitions have no owner that answers
      2   there is no such key space
      69  the broker or the registry does not answer
      78  the topics or schemas do not exist
    """
    from orderflow.cli import owners

    _, _, places = _system(space, None, bootstrap, registry, prefix, partitions)
    told: dict[tuple[str, int], dict[str, Any]] = {}
    silent: dict[str, str] = {}
    for address in dict.fromkeys(place.address for place in places if place.address):
        try:
            answer = owners.ask(address, "/state")
        except Failure as failure:
            silent[address] = str(failure)
            continue
        told.update({(each["space"], each["partition"]): {**each, "instance": answer["instance"]} for each in answer["partitions"]})
    rows = []
    for place in places:
        found = told.get((place.space, place.partition), {})
        state = "running" if found.get("running") else "restoring" if found else "no answer" if place.address else "no owner"
        rows.append({"space": place.space, "partition": place.partition, "owner": place.address, "state": state, **found})
    show(rows, as_json, _list_lines)
    if any(row["state"] in ("no answer", "no owner") for row in rows):
        raise typer.Exit(NO)


@app.command("digest")
def digest_tables(
    space: Space = "",
    partition: Partition = None,
    bootstrap: Bootstrap = None,
    registry: Registry = None,
    prefix: Prefix = None,
    partitions: Partitions = None,
    as_json: AsJson = False,
) -> None:
    """Ask each owner for the digest of its rows: equal rows at one position have equal digests, wherever they are kept.

    \b
    Example:
      orderflow tables digest --space stock --partition 0
    \b
    Exit codes:
      0   shown
      2   there is no such key space or partition
      69  the broker, the registry or an owner does not answer
      75  a partition is moving
      78  the topics or schemas do not exist
    """
    from orderflow.cli import owners

    _, _, places = _system(space, partition, bootstrap, registry, prefix, partitions)
    rows = [
        {"owner": place.address, **owners.ask(place.address, f"/state/{place.space}/{place.partition}/digest")} for place in _owned(places)
    ]
    for row in rows:
        row.pop("buckets", None)
    show(rows, as_json, _digest_lines)


@app.command("verify")
def verify_tables(
    space: Space = "",
    partition: Partition = None,
    bootstrap: Bootstrap = None,
    registry: Registry = None,
    prefix: Prefix = None,
    partitions: Partitions = None,
    as_json: AsJson = False,
) -> None:
    """Compare three things per partition: its owner's rows, the fold of its changelogs, the fold of its events.

    It reads every changelog and every event there is. The system may run: what is found counts only if a second look finds it too.

    \b
    Example:
      orderflow tables verify --space stock
    \b
    Exit codes:
      0   all three say the same
      1   not so: partition, table and key of every difference, up to 20 per partition
      2   there is no such key space or partition
      69  the broker, the registry or an owner does not answer
      75  a partition is moving
      78  the topics or schemas do not exist
    """
    import msgspec

    from orderflow.cli import comparing

    settings, records, places = _system(space, partition, bootstrap, registry, prefix, partitions)
    compared = comparing.compare(settings.bootstrap, records, _owned(places))
    show(msgspec.to_builtins(compared), as_json, _verify_lines)
    if any(each.faults for each in compared):
        raise typer.Exit(NO)


@app.command("checkpoint")
def checkpoint_tables(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The new data directory; it must not exist.")],
    worker: Annotated[str, typer.Option("--worker", help="URL of the worker to copy; needed when there are several.")] = "",
    bootstrap: Bootstrap = None,
    registry: Registry = None,
    prefix: Prefix = None,
    partitions: Partitions = None,
    as_json: AsJson = False,
) -> None:
    """Make a data directory with the committed rows of a running worker, so that another one starts without reading the changelogs.

    Only what happens after it is read then. Run it on the worker's machine; nothing of the worker stops.

    \b
    Example:
      orderflow tables checkpoint /var/lib/orderflow-2 --worker http://127.0.0.1:6066
    \b
    Exit codes:
      0   made
      1   the directory exists, or the worker cannot make it
      2   there are several workers and none was named
      69  the broker, the registry or the worker does not answer
    """
    from ulid import ULID

    from orderflow.cli import owners

    if directory.exists():
        raise Failure(f"{directory} exists", then="name a directory that does not: a checkpoint is never merged", code=NO)
    address = worker.rstrip("/") or _only_worker(bootstrap, registry, prefix, partitions)
    made = owners.ask(address, f"/state/checkpoints/{ULID()}", method="POST")
    source = Path(made["path"])
    if not source.is_dir():
        raise Failure(f"the checkpoint is at {source} on the worker's machine", then="move it from there to where it is needed", code=NO)
    directory.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(source, directory)
    show({"directory": str(directory.absolute()), "of": made["instance"]}, as_json, _checkpoint_lines)


def _system(
    space: str, partition: int | None, bootstrap: str | None, registry: str | None, prefix: str | None, partitions: int | None
) -> "tuple[WorkerSettings, Records, list[Place]]":
    """The running system and the partitions that are meant. Raises Failure."""
    from orderflow.cli import contracts, environment, owners
    from orderflow.streams.settings import WorkerSettings

    if space and space not in SPACES:
        raise Failure(f"there is no key space {space!r}", then=f"there are {', '.join(SPACES)}", code=WRONG_USAGE)
    settings = environment.load(WorkerSettings, bootstrap=bootstrap, registry=registry, prefix=prefix, partitions=partitions)
    if partition is not None and partition >= settings.partitions:
        raise Failure(f"there is no partition {partition}", then=f"they are 0 to {settings.partitions - 1}", code=WRONG_USAGE)
    contracts.connect(settings.bootstrap)
    records = owners.load_records(settings)
    places = owners.places(settings, records, (space,) if space else SPACES)
    return settings, records, [place for place in places if partition in (None, place.partition)]


def _owned(places: "list[Place]") -> "list[Place]":
    """All of them, or Failure 69 naming those without an owner."""
    missing = [f"{place.space}[{place.partition}]" for place in places if not place.address]
    if missing:
        raise Failure(f"nobody owns {', '.join(missing)}", then="start a worker, or wait until one has taken over", code=UNAVAILABLE)
    return places


def _only_worker(bootstrap: str | None, registry: str | None, prefix: str | None, partitions: int | None) -> str:
    _, _, places = _system("", None, bootstrap, registry, prefix, partitions)
    found = sorted({place.address for place in places if place.address})
    if len(found) == 1:
        return found[0]
    if not found:
        raise Failure("no worker runs", then="start one first", code=UNAVAILABLE)
    raise Failure(f"there are several workers: {', '.join(found)}", then="name one with --worker", code=WRONG_USAGE)


def _list_lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    names = ("space", "partition", "owner", "state", "keys_about", "size_bytes_about", "position", "digest")
    head = ("space", "partition", "owner", "state", "keys (about)", "bytes (about)", "position", "digest")
    yield from columns(head, ([_shown(row.get(name)) for name in names] for row in rows))


def _digest_lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    names = ("space", "partition", "owner", "rows", "size_bytes", "position", "digest")
    yield from columns(names, ([row[name] for name in names] for row in rows))


def _verify_lines(compared: list[dict[str, Any]]) -> Iterator[str]:
    names = ("space", "partition", "owner", "rows", "events", "moved_on", "position", "digest")
    verdicts = ("differs" if each["faults"] else each["note"] or "same" for each in compared)
    yield from columns(
        (*names, "verdict"), ([*(each[name] for name in names), verdict] for each, verdict in zip(compared, verdicts, strict=True))
    )
    for each in compared:
        for fault in each["faults"]:
            yield f"{fault['space']}[{fault['partition']}] table {fault['table']}, key {fault['key']}: {fault['what']}"


def _checkpoint_lines(made: dict[str, Any]) -> Iterator[str]:
    yield f"{made['directory']} holds the rows of {made['of']}"
    yield f"start a worker with it: orderflow worker --data {made['directory']}"


def _shown(value: Any) -> Any:
    return "-" if value is None or value == "" else value
