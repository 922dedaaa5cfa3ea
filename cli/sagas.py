"""`orderflow sagas`: what orders wait for, what of it is stuck, and the two things people can do about it, through the HTTP edge."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from orderflow.cli.client import DEFAULT_URL, Answer, Key, Url, ask, outcome_code
from orderflow.cli.money import PATH as PAYMENTS
from orderflow.cli.money import payment_lines
from orderflow.cli.orders import PATH as ORDERS
from orderflow.cli.orders import OrderId
from orderflow.cli.terminal import UNDECIDED, AsJson, Failure, columns, fields, group, show

PATH = "/api/v1/sagas"
REASON = "SAGA_COMPENSATED"
"""Why an order was canceled whose saga did not end by itself."""
PEOPLE = "people"
"""Whom a saga waits for whose compensation was declined."""
ADVICE = {
    "overdue": "its time is over and no worker acted: see `orderflow_partition_ready` and the worker's log",
    "unanswered": "nobody answers: see whether `orderflow payments connect` runs and its provider answers, and `orderflow dlq list`",
    "declined": "the provider will not give the money back: clear it there, then `orderflow sagas resume`",
    "by_hand": "what was collected on delivery is to be given back by hand: then `orderflow payments refund` records it",
}
"""What to look at, by why a saga is stuck."""
ENDED = ("canceled", "rejected", "expired")

app = group("See what orders wait for, find what is stuck, resume or compensate it.")


@app.command("list")
def list_sagas(
    stuck: Annotated[bool, typer.Option("--stuck", help="Only those that need people.")] = False,
    saga_type: Annotated[str, typer.Option("--type", help="Only of one type: place, edit, cancel, handover, payment.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=500, help="How many to show; the total counts all.")] = 20,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """List what is under way, the longest wait first.

    place: an order gets its stock and its authorization, or gives all back. cancel: a cancel waits for every owner and for the money.
    handover: goods wait for their capture. payment: other money moves, for people or back from an order that has ended.
    An order that is with its warehouse waits for nobody and is not listed.

    \b
    Example:
      orderflow sagas list --stuck
    \b
    Exit codes:
      0   listed, also when there are none
      1   refused: a filter is wrong
      69  the edge does not answer
      75  no owner answers: repeat
    """
    query = {"limit": str(limit), **({"stuck": "true"} if stuck else {}), **({"type": saga_type} if saga_type else {})}
    show(ask(url, "GET", PATH, query=query).body, as_json, _list_lines)


@app.command("show")
def show_saga(order_id: OrderId, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show what is under way for an order: the step, since when, whom it waits for, and what to look at where it is stuck.

    \b
    Example:
      orderflow sagas show order-17
    \b
    Exit codes:
      0   shown, also when nothing is under way
      1   there is no such order
      69  the edge does not answer
      75  its partition is moving: repeat
    """
    show(ask(url, "GET", f"{PATH}/{order_id}").body, as_json, _show_lines)


@app.command()
def resume(order_id: OrderId, key: Key = "", url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Ask once more for the void or refund that the provider declined, with the same amount, as a new operation.

    This is the only thing that does not go on by itself: requests without an answer are repeated under their keys until there is one, and
    what an owner of stock was asked stands in its log. Where nothing was declined it changes nothing and says whom the order waits for.

    \b
    Example:
      orderflow sagas resume order-17
    \b
    Exit codes:
      0   given back
      1   refused by the provider again, nothing was declined, or there is no such order
      69  the edge does not answer
      75  asked: the provider has not answered yet
    """
    _asked_again(ask(url, "GET", f"{PATH}/{order_id}").body, key, url, as_json)


@app.command()
def compensate(order_id: OrderId, key: Key = "", url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Give everything back: cancel the order with the reason SAGA_COMPENSATED, or resume the void or refund it hangs on.

    Stock is released at once. An operation whose outcome nobody knows is waited for first, because money that moved must be known to go
    back: the order stays cancel_pending until the provider answers. What was handed over is not taken back.

    \b
    Example:
      orderflow sagas compensate order-17
    \b
    Exit codes:
      0   all is given back, or was before
      1   refused: it was handed over, the provider declines, or there is no such order
      69  the edge does not answer
      75  under way: `orderflow sagas show` says whom it waits for
    """
    found = ask(url, "GET", f"{PATH}/{order_id}").body
    if any(PEOPLE in each["waits_for"] for each in found["items"]):
        _asked_again(found, key, url, as_json)
    if found["state"] in ENDED:
        show(found, as_json, _show_lines)
        raise typer.Exit(UNDECIDED if found["items"] else 0)
    answer = ask(url, "POST", f"{ORDERS}/{order_id}/cancel", body={"reason": REASON}, key=key)
    show(answer.body, as_json, lambda _: _canceled_lines(answer))
    raise typer.Exit(UNDECIDED if answer.body.get("state") == "cancel_pending" else outcome_code(answer))


def _asked_again(found: dict[str, Any], key: str, url: str, as_json: bool) -> None:
    """Repeat the declined compensation and exit. Under the same key for the same decline, so that two people ask once."""
    saga = next((each for each in found["items"] if PEOPLE in each["waits_for"]), None)
    if saga is None:
        raise Failure(
            f"nothing of order {found['order_id']} was declined; {_waiting(found)}", then="it goes on by itself when that answers"
        )
    path = f"{PAYMENTS}/{found['order_id']}"
    attempt = ask(url, "GET", path).body["attempts"][-1]
    body = {"amount": attempt["amount"], "reason": REASON}
    key = key or f"resume-{found['order_id']}-{attempt['operation_no']}"
    answer = ask(url, "POST", f"{path}/{attempt['operation']}", body=body, key=key)
    show(answer.body, as_json, lambda _: payment_lines(answer))
    raise typer.Exit(outcome_code(answer))


def _waiting(found: dict[str, Any]) -> str:
    names = [name for each in found["items"] for name in each["waits_for"]]
    return f"it waits for {', '.join(names)}" if names else "it waits for nobody"


NAMES = ("order_id", "type", "step", "since", "waited_s", "waits_for", "stuck")


def _cells(items: list[dict[str, Any]]) -> Iterator[list[Any]]:
    for item in items:
        yield [", ".join(item[name]) if name == "waits_for" else item[name] for name in NAMES]


def _list_lines(found: dict[str, Any]) -> Iterator[str]:
    types = ", ".join(f"{count} {name}" for name, count in found["by_type"].items())
    yield f"{found['total']} sagas" + (f": {types}" if types else "")
    if not found["complete"]:
        yield f"not counted: partitions {found['partitions_missing']}, nobody answers for them"
    if not found["caught_up"]:
        yield "some partitions are still consuming their backlog: nothing there is called stuck"
    if found["items"]:
        yield from columns(NAMES, _cells(found["items"]))


def _show_lines(found: dict[str, Any]) -> Iterator[str]:
    yield from fields({name: found[name] for name in ("order_id", "state", "reason")})
    if not found["items"]:
        yield "nothing is under way"
        return
    yield from columns(NAMES, _cells(found["items"]))
    for why in {each["stuck"]: None for each in found["items"] if each["stuck"]}:
        yield f"{why}: {ADVICE[why]}"


def _canceled_lines(answer: Answer) -> Iterator[str]:
    if answer.status == 202:
        yield f"accepted, not over yet: {answer.location}"
        return
    yield from fields({name: answer.body.get(name) for name in ("order_id", "state", "reason", "financial_status", "changed_at")})
