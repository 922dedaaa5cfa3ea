"""`orderflow orders`: place, read, list, cancel and look back, through the HTTP edge."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from orderflow.cli.client import DEFAULT_URL, Answer, Key, Url, ask, outcome_code
from orderflow.cli.payments import parse_money
from orderflow.cli.terminal import AsJson, Failure, columns, fields, group, show

PATH = "/api/v1/orders"
WRONG_USAGE = 2

app = group("Place, read, list and cancel orders.")

OrderId = Annotated[str, typer.Argument(metavar="ORDER", help="The order's id.")]


def parse_item(text: str) -> dict[str, Any]:
    """`SKU=QTY`, or `SKU` for one unit, with `@PRICE` where units have a price, such as 1250EUR. Raises Failure naming the text."""
    asked, priced, price = text.partition("@")
    sku, given, quantity = asked.partition("=")
    if not sku or (given and not quantity.isascii()) or (given and not quantity.isdigit()):
        raise Failure(f"{text!r} is not SKU=QUANTITY", then="write for example LIMITED-SKU=2", code=WRONG_USAGE)
    item: dict[str, Any] = {"sku": sku, "qty": int(quantity) if given else 1}
    return {**item, "unit_price": parse_money(price)} if priced else item


@app.command()
def place(
    items: Annotated[list[str], typer.Argument(metavar="SKU=QTY[@PRICE]...", help="What to order, and for how much a unit.")],
    order_id: Annotated[str, typer.Option("--order-id", help="An id of your own (demo profile).")] = "",
    channel: Annotated[str, typer.Option("--channel", help="The channel it is sold through.")] = "",
    token: Annotated[str, typer.Option("--token", help="The buyer's payment method as the channel's provider names it.")] = "",
    customer: Annotated[str, typer.Option("--customer", help="Your opaque reference to the customer.")] = "",
    key: Key = "",
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Place an order and wait for its outcome.

    \b
    Example:
      orderflow orders place LIMITED-SKU=1 --key checkout-17
      orderflow orders place DEMO-SKU=2@1250EUR --channel prepaid
    \b
    Exit codes:
      0   placed
      1   refused: the reason and every shortage are printed
      2   wrong usage
      69  the edge does not answer
      75  accepted, not decided yet: repeat with the same --key, or read the order
    """
    body: dict[str, Any] = {"items": [parse_item(item) for item in items]}
    for name, value in (("order_id", order_id), ("channel", channel), ("token_ref", token), ("customer_ref", customer)):
        if value:
            body[name] = value
    answer = ask(url, "POST", PATH, body=body, key=key)
    show(answer.body, as_json, lambda _: _order_lines(answer))
    raise typer.Exit(outcome_code(answer))


@app.command()
def get(order_id: OrderId, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show an order as its owner has committed it.

    \b
    Example:
      orderflow orders get test-order-123
    \b
    Exit codes:
      0   shown
      1   there is no such order
      69  the edge does not answer
      75  its partition is moving: repeat
    """
    answer = ask(url, "GET", f"{PATH}/{order_id}")
    show(answer.body, as_json, lambda _: _order_lines(answer))


@app.command("list")
def list_orders(
    status: Annotated[str, typer.Option("--status", help="Only orders with this label.")] = "",
    status_not: Annotated[str, typer.Option("--status-not", help="Only orders without this label.")] = "",
    sku: Annotated[str, typer.Option("--sku", help="Only orders of this SKU.")] = "",
    customer: Annotated[str, typer.Option("--customer", help="Only orders of this customer reference.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=500, help="How many to show; the total counts all.")] = 20,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """List orders, the newest first, and count all that match.

    \b
    Example:
      orderflow orders list --sku LIMITED-SKU --status-not cancelled
    \b
    Exit codes:
      0   listed
      1   refused: a filter is wrong
      69  the edge does not answer
      75  no owner answers: repeat
    """
    query = {"status": status, "status_not": status_not, "sku": sku, "customer": customer, "limit": str(limit)}
    answer = ask(url, "GET", PATH, query={name: value for name, value in query.items() if value})
    show(answer.body, as_json, _list_lines)


@app.command()
def timeline(order_id: OrderId, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show all that happened to an order, refusals included.

    \b
    Example:
      orderflow orders timeline test-order-123
    \b
    Exit codes:
      0   shown
      1   there is no such order
      69  the edge does not answer
      75  its partition is moving: repeat
    """
    answer = ask(url, "GET", f"{PATH}/{order_id}/timeline")
    show(answer.body, as_json, _timeline_lines)


@app.command()
def cancel(
    order_id: OrderId,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the record.")] = "",
    key: Key = "",
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Cancel an order; what stock kept for it is given back.

    \b
    Example:
      orderflow orders cancel test-order-123 --reason "changed my mind"
    \b
    Exit codes:
      0   canceled
      1   refused: too late, or no such order
      69  the edge does not answer
      75  accepted, compensations are still running
    """
    body = {"reason": reason} if reason else {}
    answer = ask(url, "POST", f"{PATH}/{order_id}/cancel", body=body, key=key)
    show(answer.body, as_json, lambda _: _order_lines(answer))
    raise typer.Exit(outcome_code(answer))


def _order_lines(answer: Answer) -> Iterator[str]:
    order = answer.body
    if answer.status == 202:
        yield f"accepted, not decided yet: {answer.location or order.get('location', '')}"
        return
    yield from fields(
        {name: order.get(name) for name in ("order_id", "order_number", "status", "financial_status", "reason", "placed_at", "changed_at")}
    )
    yield from columns(("sku", "quantity", "shipped", "delivered"), _cells(order.get("lines", ()), "sku quantity shipped delivered"))
    if order.get("fulfillments"):
        yield from columns(("fulfillment", "status", "location"), _cells(order["fulfillments"], "fulfillment_id status location_id"))


def _list_lines(found: dict[str, Any]) -> Iterator[str]:
    labels = ", ".join(f"{count} {label}" for label, count in found.get("by_label", {}).items())
    yield f"{found['total']} orders" + (f": {labels}" if labels else "")
    if not found.get("complete", True):
        yield f"not counted: partitions {found['partitions_missing']}, nobody answers for them"
    if found["items"]:
        yield from columns(
            ("order", "number", "status", "reason", "placed"), _cells(found["items"], "order_id order_number status reason placed_at")
        )


def _timeline_lines(found: dict[str, Any]) -> Iterator[str]:
    yield from columns(("#", "at", "event", "caused by"), _cells(found["events"], "sequence at event caused_by"))
    if not found.get("complete", True):
        yield "the log is longer than one scan reads: the rest is missing"


def _cells(items: Any, names: str) -> Iterator[list[Any]]:
    for item in items:
        yield [item.get(name, "") for name in names.split()]
