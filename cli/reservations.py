"""`orderflow reservations`: what stock keeps for orders, through the HTTP edge."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from orderflow.cli.client import DEFAULT_URL, Url, ask
from orderflow.cli.terminal import AsJson, columns, group, show

PATH = "/api/v1/reservations"

app = group("See what stock keeps for orders.")


@app.command("list")
def list_reservations(
    overdue: Annotated[bool, typer.Option("--overdue", help="Only those whose time has passed.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=500, help="How many to show; the total counts all.")] = 20,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """List open reservations, the longest overdue first.

    \b
    Example:
      orderflow reservations list --overdue
    \b
    Exit codes:
      0   listed
      69  the edge does not answer
      75  no owner answers: repeat
    """
    query = {"limit": str(limit), **({"overdue": "true"} if overdue else {})}
    show(ask(url, "GET", PATH, query=query).body, as_json, _lines)


def _lines(found: dict[str, Any]) -> Iterator[str]:
    yield f"{found['total']} open reservations"
    if not found.get("complete", True):
        yield f"not counted: partitions {found['partitions_missing']}, nobody answers for them"
    if not found.get("caught_up", True):
        yield "some partitions are still consuming their backlog: overdue there does not mean late"
    names = ("reservation_id", "order_id", "status", "quantity", "due_at", "overdue_s")
    if found["items"]:
        yield from columns(names, ([item.get(name, "") for name in names] for item in found["items"]))
