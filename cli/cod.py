"""`orderflow payments confirm | collected`: cash on delivery, which people confirm and couriers collect."""

from typing import Annotated

import typer

from orderflow.cli.client import DEFAULT_URL, Key, Url, ask, outcome_code
from orderflow.cli.money import PATH, parse_money, payment_lines
from orderflow.cli.orders import PATH as ORDERS
from orderflow.cli.orders import order_lines
from orderflow.cli.terminal import AsJson, show


def confirm(
    order_id: Annotated[str, typer.Argument(metavar="ORDER", help="The id of an order that is paid on delivery.")],
    note: Annotated[str, typer.Option("--note", help="What people noted; no personal data.")] = "",
    key: Key = "",
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Confirm an order that is paid on delivery: the buyer was asked and wants it. After a day without a yes it expires.

    \b
    Example:
      orderflow payments confirm order-17
    \b
    Exit codes:
      0   confirmed, now or before
      1   refused: too late, not paid on delivery, or no such order
      69  the edge does not answer
      75  accepted, not decided yet
    """
    answer = ask(url, "POST", f"{ORDERS}/{order_id}/confirm-cod", body={"note": note} if note else {}, key=key)
    show(answer.body, as_json, lambda _: order_lines(answer))
    raise typer.Exit(outcome_code(answer))


def collected(
    order_id: Annotated[str, typer.Argument(metavar="ORDER", help="The id of an order that is paid on delivery.")],
    amount: Annotated[str, typer.Argument(metavar="AMOUNT", help="Minor units and currency, such as 1250EUR.")],
    reference: Annotated[str, typer.Option("--reference", help="What the courier calls it.")] = "",
    key: Key = "",
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Record what a courier has collected for goods that have left. Another amount than was due is recorded, and marked cod_mismatch.

    \b
    Example:
      orderflow payments collected order-17 1250EUR --key round-9
    \b
    Exit codes:
      0   recorded
      1   refused: nothing has left, or more than the order costs
      2   wrong usage
      69  the edge does not answer
      75  accepted, not decided yet
    """
    body = {"amount": parse_money(amount)} | ({"reference": reference} if reference else {})
    answer = ask(url, "POST", f"{PATH}/{order_id}/cod-collection", body=body, key=key)
    show(answer.body, as_json, lambda _: payment_lines(answer))
    raise typer.Exit(outcome_code(answer))
