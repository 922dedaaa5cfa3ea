"""`orderflow orders`: place one or many, read, list, edit, answer a shortage, pay again, hold, cancel and look back, through the HTTP edge."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from orderflow.cli.client import DEFAULT_URL, Answer, Key, Url, ask, outcome_code
from orderflow.cli.money import parse_money
from orderflow.cli.terminal import NO, UNDECIDED, AsJson, Failure, columns, fields, group, show

PATH = "/api/v1/orders"
WRONG_USAGE = 2
BULK_MAX = 500
"""Orders in one request."""
LINE = "line_id sku quantity shipped delivered canceled"
BECAME = {"placed": "placed", "pending": "not decided yet", "refused": "refused", "not_taken": "not taken"}
"""What the edge counts of them, in words."""

app = group("Place, read, list, edit, hold and cancel orders.")

HoldName = Annotated[
    str, typer.Argument(metavar="[HOLD]", help="FRAUD_REVIEW, ADDRESS_INVALID, PAYMENT, PAYMENT_EXPIRING, CAPACITY, SHORT or MANUAL.")
]
Why = Annotated[str, typer.Option("--reason", help="Why, for the record; no personal data.")]
OrderId = Annotated[str, typer.Argument(metavar="ORDER", help="The order's id.")]


def parse_item(text: str) -> dict[str, Any]:
    """`SKU=QTY`, or `SKU` for one unit, with `@PRICE` where units have a price, such as 1250EUR. Raises Failure naming the text."""
    asked, priced, price = text.partition("@")
    sku, given, quantity = asked.partition("=")
    if not sku or (given and not quantity.isascii()) or (given and not quantity.isdigit()):
        raise Failure(f"{text!r} is not SKU=QUANTITY", then="write for example LIMITED-SKU=2", code=WRONG_USAGE)
    item: dict[str, Any] = {"sku": sku, "qty": int(quantity) if given else 1}
    return {**item, "unit_price": parse_money(price)} if priced else item


def parse_line(text: str) -> dict[str, Any]:
    """`LINE=QTY`. Raises Failure naming the text."""
    line_id, _, quantity = text.rpartition("=")
    if not line_id or not quantity.isascii() or not quantity.isdigit():
        raise Failure(f"{text!r} is not LINE=QUANTITY", then="write for example 1=2; `orders get` lists the lines", code=WRONG_USAGE)
    return {"line_id": line_id, "quantity": int(quantity)}


@app.command()
def place(
    items: Annotated[list[str], typer.Argument(metavar="SKU=QTY[@PRICE]...", help="What to order, and for how much a unit.")],
    order_id: Annotated[str, typer.Option("--order-id", help="An id of your own (demo profile).")] = "",
    channel: Annotated[str, typer.Option("--channel", help="The channel it is sold through.")] = "",
    token: Annotated[str, typer.Option("--token", help="The buyer's payment method as the channel's provider names it.")] = "",
    method: Annotated[
        str, typer.Option("--method", help="Paid in advance with: card, wallet, installment or bank_transfer, as its channel allows.")
    ] = "",
    customer: Annotated[str, typer.Option("--customer", help="Your opaque reference to the customer.")] = "",
    partial: Annotated[
        str,
        typer.Option(
            "--partial", metavar="POLICY", help="When stock has less: reject, ship_available, backorder or ask; else as its channel."
        ),
    ] = "",
    key: Key = "",
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Place an order and wait for its outcome.

    \b
    Example:
      orderflow orders place LIMITED-SKU=1 --key checkout-17
      orderflow orders place DEMO-SKU=2@1250EUR --channel prepaid
      orderflow orders place DEMO-SKU=50 --partial ship_available
    \b
    Exit codes:
      0   placed
      1   refused: the reason and every shortage are printed
      2   wrong usage
      69  the edge does not answer
      75  accepted, not decided yet: repeat with the same --key, or read the order; or its buyer has to act at the payment provider
    """
    body: dict[str, Any] = {"items": [parse_item(item) for item in items]}
    named = {
        "order_id": order_id,
        "channel": channel,
        "token_ref": token,
        "payment_method": method,
        "customer_ref": customer,
        "partial_policy": partial,
    }
    body |= {name: value for name, value in named.items() if value}
    answer = ask(url, "POST", PATH, body=body, key=key)
    show(answer.body, as_json, lambda _: order_lines(answer))
    raise typer.Exit(outcome_code(answer))


@app.command("place-many")
def place_many(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Orders as JSON: an array, or one a line; `-` reads what is piped in.")],
    key: Key = "",
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Place every order of a file, each by itself, and show what became of each.

    An order is what `POST /api/v1/orders` takes. 500 go in one request; with --key the whole file may be sent again, and each order meets
    its first answer.

    \b
    Example:
      orderflow orders place-many orders.jsonl --key monday
    \b
    Exit codes:
      0   all are placed
      1   some were refused: the reasons are printed, the others are placed
      2   the file cannot be read, or is no JSON
      69  the edge does not answer
      75  some are not decided yet, or were not taken: repeat with the same --key
    """
    orders = parse_orders(_text(file))
    document: dict[str, Any] = {**dict.fromkeys(BECAME, 0), "items": []}
    try:
        for first in range(0, len(orders), BULK_MAX):
            part = {"orders": orders[first : first + BULK_MAX]}
            answer = ask(url, "POST", f"{PATH}/bulk", body=part, key=f"{key}-{first}" if key and first else key)
            document |= {name: document[name] + answer.body[name] for name in BECAME}
            document["items"] += [{**item, "index": first + item["index"]} for item in answer.body["items"]]
    except Failure as failure:
        if document["items"] and not as_json:
            show(document, as_json, _placed_lines)
        failure.document = {**document, **failure.document}  # the edge is gone in the middle: these were placed
        raise
    show(document, as_json, _placed_lines)
    raise typer.Exit(NO if document["refused"] else UNDECIDED if document["pending"] or document["not_taken"] else 0)


def _text(file: Path) -> str:
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text()
    except (OSError, ValueError) as error:
        raise Failure(f"{file} cannot be read: {error}", code=WRONG_USAGE) from None


def parse_orders(text: str) -> list[Any]:
    """The orders of a JSON array, or of lines of JSON. Raises Failure naming the first line that is neither."""
    if text.lstrip().startswith("["):
        try:
            orders: list[Any] = json.loads(text)
        except ValueError as error:
            raise Failure(f"the file is no JSON array: {error}", code=WRONG_USAGE) from None
        return orders
    orders = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                orders.append(json.loads(line))
            except ValueError as error:
                raise Failure(f"line {number} is no JSON: {error}", then="write an order a line, or one array", code=WRONG_USAGE) from None
    if not orders:
        raise Failure("the file holds no order", then='write one a line, such as {"items": [{"sku": "A", "qty": 1}]}', code=WRONG_USAGE)
    return orders


def _placed_lines(found: dict[str, Any]) -> Iterator[str]:
    yield ", ".join(f"{found[name]} {text}" for name, text in BECAME.items() if found[name] or name == "placed")
    lines = ([each["index"], each["status"], each.get("order_id", ""), _why(each)] for each in found["items"])
    yield from columns(("#", "status", "order", "reason"), lines)


def _why(item: dict[str, Any]) -> str:
    """The reason of a refusal, with the first thing that was wrong or short."""
    problem = item.get("problem", {})
    details = [f"{fault.get('pointer', '')} {fault.get('detail', '')}" for fault in problem.get("errors", ())]
    details += [f"{each['sku']}: {each['requested']} asked for, {each['available']} available" for each in problem.get("shortages", ())]
    return ": ".join([problem.get("code", ""), *details[:1]]).strip(": ")


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
    show(answer.body, as_json, lambda _: order_lines(answer))


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
def edit(
    order_id: OrderId,
    lines: Annotated[list[str], typer.Argument(metavar="LINE=QTY...", help="The quantities that lines are to have.")],
    reason: Why = "",
    key: Key = "",
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Give lines of an order other quantities, before anything of it is picked: all of them or none.

    \b
    Example:
      orderflow orders edit test-order-123 1=5
    \b
    Exit codes:
      0   the order has these quantities
      1   refused: a shortage, its money declined, picking has begun, no such order or line
      2   wrong usage
      69  the edge does not answer
      75  accepted, stock or the provider has not answered yet: repeat with the same --key, or read the order
    """
    body: dict[str, Any] = {"lines": [parse_line(text) for text in lines]}
    answer = ask(url, "PUT", f"{PATH}/{order_id}", body={**body, "reason": reason} if reason else body, key=key)
    show(answer.body, as_json, lambda _: order_lines(answer))
    raise typer.Exit(outcome_code(answer))


@app.command()
def pay(
    order_id: OrderId,
    token: Annotated[str, typer.Option("--token", help="The buyer's other payment method as the channel's provider names it.")] = "",
    key: Key = "",
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Try once more to pay for an order whose payment was declined, where its channel allows another attempt.

    \b
    Example:
      orderflow orders pay order-17 --token pm_card_visa --key retry-1
    \b
    Exit codes:
      0   the order is paid for and goes on
      1   refused: declined again, nothing to retry, or too late
      2   wrong usage
      69  the edge does not answer
      75  accepted: the provider has not answered yet, or the buyer has to act there
    """
    answer = ask(url, "POST", f"{PATH}/{order_id}/payments", body={"token_ref": token} if token else {}, key=key)
    show(answer.body, as_json, lambda _: order_lines(answer))
    raise typer.Exit(outcome_code(answer))


@app.command()
def shortage(
    order_id: OrderId,
    choice: Annotated[str, typer.Argument(metavar="CHOICE", help="ship_available or cancel.")],
    key: Key = "",
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Answer for the customer of an order that was placed with `--partial ask` and found less than it wanted.

    \b
    Example:
      orderflow orders shortage test-order-123 ship_available
    \b
    Exit codes:
      0   the order goes on with what there is, or is canceled
      1   refused: nobody was asked, no such order, or no such choice
      69  the edge does not answer
      75  accepted, compensations are still running
    """
    answer = ask(url, "POST", f"{PATH}/{order_id}/shortage", body={"choice": choice}, key=key)
    show(answer.body, as_json, lambda _: order_lines(answer))
    raise typer.Exit(outcome_code(answer))


@app.command()
def cancel(
    order_id: OrderId,
    reason: Why = "",
    line: Annotated[
        list[str] | None, typer.Option("--line", metavar="LINE=QTY", help="Only so many units of this line; repeat for others.")
    ] = None,
    key: Key = "",
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Cancel an order, or some of its units that nobody picks yet; what stock kept for them is given back.

    \b
    Example:
      orderflow orders cancel test-order-123 --reason "changed my mind"
      orderflow orders cancel test-order-123 --line 1=2
    \b
    Exit codes:
      0   canceled
      1   refused: too late, or no such order or line
      2   wrong usage
      69  the edge does not answer
      75  accepted, compensations are still running
    """
    body: dict[str, Any] = {"reason": reason} if reason else {}
    if line:
        body["lines"] = [parse_line(text) for text in line]
    answer = ask(url, "POST", f"{PATH}/{order_id}/cancel", body=body, key=key)
    show(answer.body, as_json, lambda _: order_lines(answer))
    raise typer.Exit(outcome_code(answer))


@app.command()
def hold(
    order_id: OrderId,
    name: HoldName = "MANUAL",
    reason: Why = "",
    key: Key = "",
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Hold an order: nothing of it is handed over and nothing captured until the hold is released.

    \b
    Example:
      orderflow orders hold test-order-123 FRAUD_REVIEW --reason "two cards in one hour"
    \b
    Exit codes:
      0   held
      1   refused: it has left or ended, no such order, or no such hold
      69  the edge does not answer
      75  accepted, not decided yet: repeat with the same --key
    """
    _held("POST", order_id, name, reason, key, url, as_json)


@app.command()
def release(
    order_id: OrderId,
    name: HoldName = "MANUAL",
    reason: Why = "",
    key: Key = "",
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Release a hold of an order; without the last one it goes on.

    \b
    Example:
      orderflow orders release test-order-123 FRAUD_REVIEW --reason "the customer called"
    \b
    Exit codes:
      0   released, or it was not there
      1   refused: no such order, or no such hold
      69  the edge does not answer
      75  accepted, not decided yet: repeat with the same --key
    """
    _held("DELETE", order_id, name, reason, key, url, as_json)


def _held(method: str, order_id: str, name: str, reason: str, key: str, url: str, as_json: bool) -> None:
    answer = ask(url, method, f"{PATH}/{order_id}/holds/{name}", body={"reason": reason} if reason else {}, key=key)
    show(answer.body, as_json, lambda _: order_lines(answer))
    raise typer.Exit(outcome_code(answer))


def order_lines(answer: Answer) -> Iterator[str]:
    order = answer.body
    if answer.status == 202:
        yield f"accepted, not decided yet: {answer.location or order.get('location', '')}"
        return
    shown = {
        name: order.get(name) for name in ("order_id", "order_number", "status", "financial_status", "reason", "placed_at", "changed_at")
    }
    if order.get("action_url"):
        shown["the buyer is to go to"] = order["action_url"]
    yield from fields({**shown, "holds": ", ".join(order.get("holds", ()))})
    yield from columns(("line", *LINE.split()[1:]), _cells(order.get("lines", ()), LINE))
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
