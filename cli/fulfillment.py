"""`orderflow fulfillment`: report what warehouses and carriers did, through the HTTP edge."""

from typing import Annotated, Literal

import typer

from orderflow.cli.client import DEFAULT_URL, Answer, Key, Url, ask, outcome_code
from orderflow.cli.terminal import AsJson, fields, group, show

app = group("Report what warehouses and carriers did.")

Target = Annotated[str, typer.Argument(metavar="ID", help="A fulfillment's id, or its order's when it has one fulfillment.")]


def status_path(target: str) -> str:
    return f"/api/v1/fulfillment/{target}/status"


def delivery_path(target: str) -> str:
    return f"/api/v1/orders/{target}/delivery"


def undelivered_path(target: str) -> str:
    return f"/api/v1/orders/{target}/undelivered"


@app.command()
def post(
    target: Target,
    status: Annotated[str, typer.Argument(metavar="STATUS", help="How far it is: picking, picked, packed, shipped, ...")],
    key: Key = "",
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Report how far a fulfillment is. One that comes too early waits for its predecessor; one that comes too late changes nothing.

    \b
    Example:
      orderflow fulfillment post test-order-123 picking
    \b
    Exit codes:
      0   recorded
      1   refused: the reason is printed
      69  the edge does not answer
      75  waits for its predecessor
    """
    _told(ask(url, "POST", status_path(target), body={"status": status}, key=key), as_json)


@app.command()
def deliver(target: Target, key: Key = "", url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Report, as a carrier would, that goods have reached their receiver.

    \b
    Example:
      orderflow fulfillment deliver test-order-123
    \b
    Exit codes:
      0   recorded
      1   refused: nothing is shipped, or no such order
      69  the edge does not answer
      75  accepted, not decided yet
    """
    _told(ask(url, "POST", delivery_path(target), body={}, key=key), as_json)


@app.command()
def undelivered(
    target: Target,
    reason: Annotated[Literal["returned_to_sender", "lost", "refused"], typer.Argument(help="Why it will never arrive.")],
    key: Key = "",
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Report, as a carrier would, that goods will never reach their receiver. Their money goes back; units that come back are a receipt.

    \b
    Example:
      orderflow fulfillment undelivered test-order-123 returned_to_sender
    \b
    Exit codes:
      0   recorded
      1   refused: nothing is shipped, or no such order
      69  the edge does not answer
      75  accepted, not decided yet
    """
    _told(ask(url, "POST", undelivered_path(target), body={"reason": reason}, key=key), as_json)


def _told(answer: Answer, as_json: bool) -> None:
    order = answer.body
    if answer.status == 202:
        show(order, as_json, lambda _: [f"accepted, waits for its predecessor: {answer.location}"])
    else:
        show(order, as_json, lambda _: fields({name: order.get(name) for name in ("order_id", "status", "fulfillment_status", "version")}))
    raise typer.Exit(outcome_code(answer))
