"""`orderflow dlq`: commands that could not be processed, read directly from Kafka, and put back on their logs."""

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orderflow.cli.terminal import AsJson, Failure, columns, fields, group, show
from orderflow.cli.worker import Bootstrap

if TYPE_CHECKING:
    from orderflow.cli.letters import Letter
    from orderflow.schemas.catalog import Catalog

app = group("Look at commands that were set aside, and put them back on their logs.")

SPACES = ("orders", "stock", "catalog", "references")
WRONG_USAGE = 2
PREVIEW_CHARACTERS = 70
REDRIVE_MAX = 10_000
"""Letters that are put back at once: until their transaction ends, the workers of these partitions wait."""


@app.command("list")
def list_letters(
    space: Annotated[str, typer.Option("--space", help=f"One key space: {', '.join(SPACES)}; all without.")] = "",
    bootstrap: Bootstrap = None,
    as_json: AsJson = False,
) -> None:
    """List what was set aside, with where it came from and why.

    \b
    Example:
      orderflow dlq list --space orders
    \b
    Exit codes:
      0   listed, also when there are none
      2   there is no such key space
      69  the broker does not answer
      78  the topic does not exist
    """
    from orderflow.cli import letters

    address, catalog = _target(bootstrap)
    show([_shown(each) for each in letters.read(address, catalog, _spaces(space))], as_json, _list_lines)


@app.command("show")
def show_letter(
    space: Annotated[str, typer.Argument(metavar="SPACE", help=f"The key space: {', '.join(SPACES)}.")],
    partition: Annotated[int, typer.Argument(metavar="PARTITION", help="As `dlq list` shows it.")],
    offset: Annotated[int, typer.Argument(metavar="OFFSET", help="As `dlq list` shows it.")],
    bootstrap: Bootstrap = None,
    as_json: AsJson = False,
) -> None:
    """Show one of them whole: headers, cause, bytes.

    \b
    Example:
      orderflow dlq show orders 2 0
    \b
    Exit codes:
      0   shown
      1   there is none at this place
      2   there is no such key space
      69  the broker does not answer
    """
    from orderflow.cli import letters

    address, catalog = _target(bootstrap)
    for letter in letters.read(address, catalog, _spaces(space)):
        if (letter.partition, letter.offset) == (partition, offset):
            show(_shown(letter), as_json, fields)
            return
    raise _nothing_at(f"{space} {partition} {offset}")


@app.command("redrive")
def redrive(
    space: Annotated[str, typer.Option("--space", help=f"Those of one key space: {', '.join(SPACES)}.")] = "",
    topic: Annotated[str, typer.Option("--topic", help="Those that came from this command log.")] = "",
    reason: Annotated[str, typer.Option("--reason", help="Those with this reason, e.g. FAILED.")] = "",
    partition: Annotated[int | None, typer.Option("--partition", min=0, help="Those of one partition, as `dlq list` shows it.")] = None,
    offset: Annotated[
        int | None, typer.Option("--offset", min=0, help="The one at this offset; needs --partition and --space or --topic.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All there are.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be put back.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    bootstrap: Bootstrap = None,
    as_json: AsJson = False,
) -> None:
    """Put what was set aside back on its log, as it came; mend what was wrong first.

    A record must match every option that is given. It goes to the end of the partition it came from, with its key, bytes and headers, and
    once: in the same transaction it is marked as put back. What was done meanwhile under the same command id is not done again.

    \b
    Example:
      orderflow dlq redrive --reason FAILED --dry-run
      orderflow dlq redrive --space orders --partition 2 --offset 0 --yes
    \b
    Exit codes:
      0   put back, or shown, or there was nothing to put back
      1   there is none at this place; or nothing was put back: the answer was no, a log refused one, or somebody else began meanwhile
      2   the options do not say which, or there is no such key space or command log
      69  the broker does not answer; when that happens at the end, `dlq list` shows what is back
      78  the topic does not exist
    """
    from orderflow.cli import letters

    if every == (bool(space or topic or reason) or partition is not None or offset is not None):
        wrong = "--all leaves no choice" if every else "it is not said which"
        then = "choose with --space, --topic, --reason, --partition and --offset, or take --all"
        raise Failure(wrong, then=then, code=WRONG_USAGE)
    address, catalog = _target(bootstrap)
    spaces = _spaces_of(catalog, space, topic)
    if offset is not None and (partition is None or len(spaces) > 1):
        raise Failure("--offset alone is no place", then="add --partition and --space, as `dlq list` shows them", code=WRONG_USAGE)
    producer = None if dry_run else letters.redriver(address, catalog)
    chosen = [
        letter
        for letter in letters.read(address, catalog, spaces)
        if reason in ("", letter.said("reason")) and partition in (None, letter.partition) and offset in (None, letter.offset)
    ]
    if offset is not None and not chosen:
        raise _nothing_at(f"{spaces[0]} {partition} {offset}")
    left = [letter for letter in chosen if letter.redriven_ms is None]
    going = left[:REDRIVE_MAX]
    if producer is not None and going:
        if not (yes or _is_wanted(f"Put {_count(len(going))} back?")):
            raise Failure("nothing was put back", then="--dry-run shows what it would be, --yes does it without a question")
        letters.put_back(producer, going, catalog)
    result = {
        "put_back": producer is not None,
        "letters": [
            {
                "space": letter.space,
                "partition": letter.partition,
                "offset": letter.offset,
                "key": _text(letter.key),
                "reason": letter.said("reason"),
                "to": f"{letter.said('topic')}[{letter.said('partition')}]",
            }
            for letter in going
        ],
        "before": len(chosen) - len(left),
        "left": len(left) - len(going),
    }
    show(result, as_json, _redrive_lines)


def _spaces_of(catalog: "Catalog", space: str, topic: str) -> tuple[str, ...]:
    """The key spaces that match both. Raises Failure 2 when one of them does not exist or they exclude each other."""
    logs = {catalog.commands_topic(name): name for name in SPACES}
    if topic and topic not in logs:
        raise Failure(f"there is no command log {topic!r}", then=f"there are {', '.join(logs)}", code=WRONG_USAGE)
    spaces = tuple(name for name in _spaces(space) if logs.get(topic, name) == name)
    if not spaces:
        raise Failure(f"{topic} is not the log of {space}", then="leave one of them out", code=WRONG_USAGE)
    return spaces


def _is_wanted(question: str) -> bool:
    """Asked on stderr, for stdout may be piped; who cannot answer says no."""
    print(f"{question} [y/N] ", end="" if sys.stdin.isatty() else "\n", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _nothing_at(place: str) -> Failure:
    return Failure(f"no dead letter at {place}", then="`orderflow dlq list` shows where they are")


def _spaces(name: str) -> tuple[str, ...]:
    if name and name not in SPACES:
        raise Failure(f"there is no key space {name!r}", then=f"there are {', '.join(SPACES)}", code=WRONG_USAGE)
    return (name,) if name else SPACES


def _target(bootstrap: str | None) -> "tuple[str, Catalog]":
    """The broker, and the catalogue of the system."""
    from orderflow.cli import environment
    from orderflow.schemas.catalog import Catalog
    from orderflow.streams.settings import WorkerSettings

    settings = environment.load(WorkerSettings, bootstrap=bootstrap)
    return settings.bootstrap, Catalog(settings.prefix, settings.partitions)


def _shown(letter: "Letter") -> dict[str, Any]:
    headers = {name: _text(value) for name, value in letter.headers}
    return {
        "space": letter.space,
        "partition": letter.partition,
        "offset": letter.offset,
        "at": _time(letter.at_ms),
        "redriven": "" if letter.redriven_ms is None else _time(letter.redriven_ms),
        "key": _text(letter.key),
        "reason": headers.pop("reason", ""),
        "cause": headers.pop("cause", ""),
        "came_from": f"{headers.pop('topic', '?')}[{headers.pop('partition', '?')}] offset {headers.pop('offset', '?')}",
        "headers": headers,
        "value_hex": (letter.value or b"").hex(),
    }


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="backslashreplace")


def _list_lines(letters: list[dict[str, Any]]) -> Iterator[str]:
    if not letters:
        yield "nothing was set aside"
        return
    yield from columns(
        ("space", "partition", "offset", "at", "redriven", "key", "reason", "cause"),
        (
            [
                *(each[name] for name in ("space", "partition", "offset", "at")),
                each["redriven"] or "-",
                each["key"],
                each["reason"],
                _first_line(each["cause"]),
            ]
            for each in letters
        ),
    )


def _redrive_lines(result: dict[str, Any]) -> Iterator[str]:
    going, before, left = result["letters"], result["before"], result["left"]
    if going:
        names = ("space", "partition", "offset", "key", "reason", "to")
        yield from columns(names, ([each[name] for name in names] for each in going))
        yield f"{_count(len(going))} {'put back' if result['put_back'] else 'would be put back'}"
    else:
        yield "nothing to put back"
    if before:
        yield f"{_count(before)} put back before, not again"
    if left:
        yield f"{_count(left)} left: run it again"


def _count(records: int) -> str:
    return f"{records} record" + ("" if records == 1 else "s")


def _first_line(text: str) -> str:
    line = text.splitlines()[0] if text else ""
    return line if len(line) <= PREVIEW_CHARACTERS else line[: PREVIEW_CHARACTERS - 3] + "..."
