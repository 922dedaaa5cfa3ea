"""`orderflow topology`: the whole system on one page, read off the code that runs."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from orderflow.cli.terminal import AsJson, Failure, columns, show

WRONG_USAGE = 2


def topology(
    reason: Annotated[str, typer.Option("--reason", help="Show where the rules refuse for this reason.")] = "",
    as_json: AsJson = False,
) -> None:
    """Show the dataflow, and where each rule is.

    Per key space: its commands with the function that decides each, events, follow-ups, tables, deadlines, topics.

    \b
    Example:
      orderflow topology
      orderflow topology --reason INSUFFICIENT_STOCK
    \b
    Exit codes:
      0   shown
      2   there is no such reason
    """
    import msgspec

    from orderflow.cli import dataflow

    if reason:
        if reason not in dataflow.reasons():
            raise Failure(f"there is no reason {reason!r}", then=f"there are {', '.join(dataflow.reasons())}", code=WRONG_USAGE)
        show(dataflow.reason_places(reason), as_json, lambda places: places)
        return
    show(msgspec.to_builtins(dataflow.view()), as_json, _lines)


def _lines(spaces: list[dict[str, Any]]) -> Iterator[str]:
    yield "One command log per key; the key's commands are decided one after another by one writer. A rule is a pure function."
    for space in spaces:
        yield ""
        yield f"{space['name'].upper()}  key {space['key']}"
        yield f"  in   {space['commands_topic']}"
        yield from columns(("    command", "decided by"), ((f"    {each['command']}", each["rule"]) for each in space["decisions"]))
        yield f"  out  {space['events_topic']}"
        yield f"    {', '.join(space['events'])}"
        for name in space["status_topics"]:
            yield f"       {name} (the present value)"
        yield f"  asks {', '.join(space['sends']) or 'nobody'}"
        yield from (f"  reads {name}" for name in space["lookups"])
        rows = ((f"    {each['name']}", each["key"], each["timer"], ", ".join(each["indexes"])) for each in space["tables"])
        yield from columns(("  tables", "keyed by", "deadline", "indexes"), rows)
    yield ""
    yield "Where is an order refused? `orderflow topology --reason INSUFFICIENT_STOCK` names the lines."
