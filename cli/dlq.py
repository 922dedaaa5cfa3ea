"""`orderflow dlq`: commands that could not be processed, read directly from Kafka."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from orderflow.cli.terminal import AsJson, Failure, columns, fields, group, show
from orderflow.cli.worker import Bootstrap

app = group("Look at commands that were set aside.")

SPACES = ("orders", "stock", "catalog")
WRONG_USAGE = 2
PREVIEW_CHARACTERS = 70


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
    show([letter for name in _spaces(space) for letter in _letters(name, bootstrap)], as_json, _list_lines)


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
    for letter in _letters(_spaces(space)[0], bootstrap):
        if (letter["partition"], letter["offset"]) == (partition, offset):
            show(letter, as_json, fields)
            return
    raise Failure(f"no dead letter at {space} {partition} {offset}", then="`orderflow dlq list` shows where they are")


def _spaces(name: str) -> tuple[str, ...]:
    if name and name not in SPACES:
        raise Failure(f"there is no key space {name!r}", then=f"there are {', '.join(SPACES)}", code=WRONG_USAGE)
    return (name,) if name else SPACES


def _letters(space: str, bootstrap: str | None) -> Iterator[dict[str, Any]]:
    from orderflow.cli import contracts, environment
    from orderflow.schemas.catalog import Catalog
    from orderflow.streams.settings import WorkerSettings

    settings = environment.load(WorkerSettings, bootstrap=bootstrap)
    topic = Catalog(settings.prefix, settings.partitions).dlq_topic(space)
    for message in contracts.read_topic(settings.bootstrap, topic):
        headers = {name: _text(value) for name, value in message.headers() or ()}
        yield {
            "space": space,
            "partition": message.partition(),
            "offset": message.offset(),
            "at": datetime.fromtimestamp(message.timestamp()[1] / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "key": _text(message.key()),
            "reason": headers.pop("reason", ""),
            "cause": headers.pop("cause", ""),
            "came_from": f"{headers.pop('topic', '?')}[{headers.pop('partition', '?')}] offset {headers.pop('offset', '?')}",
            "headers": headers,
            "value_hex": (message.value() or b"").hex(),
        }


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="backslashreplace")


def _list_lines(letters: list[dict[str, Any]]) -> Iterator[str]:
    if not letters:
        yield "nothing was set aside"
        return
    yield from columns(
        ("space", "partition", "offset", "at", "key", "reason", "cause"),
        (
            [*(each[name] for name in ("space", "partition", "offset", "at", "key", "reason")), _first_line(each["cause"])]
            for each in letters
        ),
    )


def _first_line(text: str) -> str:
    line = text.splitlines()[0] if text else ""
    return line if len(line) <= PREVIEW_CHARACTERS else line[: PREVIEW_CHARACTERS - 3] + "..."
