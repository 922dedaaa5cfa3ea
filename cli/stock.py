"""`orderflow stock`: receive, read and adjust, through the HTTP edge."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from orderflow.cli.client import DEFAULT_URL, Answer, Key, Url, ask, outcome_code
from orderflow.cli.terminal import AsJson, columns, fields, group, show

PATH = "/api/v1/stock"

app = group("Receive, read and adjust stock.")

Sku = Annotated[str, typer.Argument(metavar="SKU", help="The SKU, case-sensitive.")]
Location = Annotated[str, typer.Option("--location", help="The stock location; the edge's default without.")]


@app.command()
def receive(
    sku: Sku,
    quantity: Annotated[int, typer.Argument(metavar="QTY", help="How many units came in.")],
    location: Location = "",
    reference: Annotated[str, typer.Option("--reference", help="The delivery note or the like.")] = "",
    key: Key = "",
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Book goods that came in.

    \b
    Example:
      orderflow stock receive LIMITED-SKU 10 --reference delivery-note-7
    \b
    Exit codes:
      0   booked
      1   refused: the reason is printed
      69  the edge does not answer
      75  accepted, not booked yet: repeat with the same --key
    """
    body: dict[str, Any] = {"sku": sku, "qty": quantity}
    body |= {name: value for name, value in (("location", location), ("reference", reference)) if value}
    _told(ask(url, "POST", f"{PATH}/receipts", body=body, key=key), as_json)


@app.command()
def get(sku: Sku, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show what is on hand, kept for orders and available, in all and by location.

    \b
    Example:
      orderflow stock get LIMITED-SKU
    \b
    Exit codes:
      0   shown
      1   the SKU was never received
      69  the edge does not answer
      75  its partition is moving: repeat
    """
    _told(ask(url, "GET", f"{PATH}/{sku}"), as_json)


@app.command(context_settings={"ignore_unknown_options": True})
def adjust(
    sku: Sku,
    delta: Annotated[int, typer.Argument(metavar="DELTA", help="Units more, or with a minus fewer.")],
    reason: Annotated[str, typer.Option("--reason", help="One word in lower case, such as damaged or recount.")],
    location: Location = "",
    expected: Annotated[int | None, typer.Option("--expected", min=0, help="Refuse when another number was on hand before.")] = None,
    key: Key = "",
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Correct the number of units on hand.

    \b
    Example:
      orderflow stock adjust LIMITED-SKU -1 --reason damaged
    \b
    Exit codes:
      0   corrected
      1   refused: it would go below zero, or another number was there
      69  the edge does not answer
      75  accepted, not decided yet: repeat with the same --key
    """
    body: dict[str, Any] = {"sku": sku, "delta": delta, "reason": reason}
    if location:
        body["location"] = location
    if expected is not None:
        body["expected"] = expected
    _told(ask(url, "POST", f"{PATH}/adjust", body=body, key=key), as_json)


def _told(answer: Answer, as_json: bool) -> None:
    show(answer.body, as_json, lambda _: _lines(answer))
    raise typer.Exit(outcome_code(answer))


def _lines(answer: Answer) -> Iterator[str]:
    stock = answer.body
    if answer.status == 202:
        yield f"accepted, not decided yet: {answer.location or stock.get('location', '')}"
        return
    yield from fields({name: stock.get(name) for name in ("sku", "available", "on_hand", "reserved", "allocated", "changed_at")})
    names = ("location_id", "on_hand", "reserved", "allocated", "available")
    yield from columns(names, ([cell.get(name, "") for name in names] for cell in stock.get("cells", ())))
