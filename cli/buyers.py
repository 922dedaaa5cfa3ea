"""`orderflow payments act | dispute | decide`: play a buyer, or their bank, at the local provider. Of a real provider nobody here decides."""

import asyncio
from typing import Annotated, Any, Literal

import typer

from orderflow.cli.client import Edge, Unreachable
from orderflow.cli.terminal import NO, UNAVAILABLE, AsJson, Failure, fields, show

PATH = "/v1/disputes"

DISPUTE = ("dispute_ref", "payment_ref", "outcome", "amount_minor", "currency", "reason")

PaymentId = Annotated[str, typer.Argument(metavar="PAYMENT", help="The payment's id, which is its order's.")]
Provider = Annotated[str | None, typer.Option("--provider-url", help="Where it answers. [env: ORDERFLOW_PROVIDER_URL]")]


def act(
    payment_id: PaymentId,
    word: Annotated[Literal["agree", "refuse"], typer.Argument(help="What the buyer does on the provider's page.")],
    provider_url: Provider = None,
    as_json: AsJson = False,
) -> None:
    """Let a buyer act where the local provider waits for them: what its page does that the order's `action_url` names.

    \b
    Example:
      orderflow payments act order-17 agree
    \b
    Exit codes:
      0   done
      1   no such payment waits for its buyer
      69  the provider does not answer
    """
    names = ("payment_ref", "provider_ref", "outcome", "amount_minor", "currency", "code")
    _show(_played(provider_url, f"/pay/{payment_id}/{word}", {}), as_json, names)


def dispute(
    payment_id: PaymentId,
    amount: Annotated[int | None, typer.Option("--amount", min=1, help="Minor units; all that was captured without.")] = None,
    reason: Annotated[str, typer.Option("--reason", help="The bank's word for why.")] = "fraudulent",
    provider_url: Provider = None,
    as_json: AsJson = False,
) -> None:
    """Let a buyer dispute a payment at the local provider, which keeps the money and tells of it by a webhook.

    \b
    Example:
      orderflow payments dispute order-17 --reason product_not_received
    \b
    Exit codes:
      0   it is open
      1   so much was not captured
      69  the provider does not answer
    """
    _show(_played(provider_url, PATH, {"payment_ref": payment_id, "amount_minor": amount, "reason": reason}), as_json, DISPUTE)


def decide(
    dispute_ref: Annotated[str, typer.Argument(metavar="DISPUTE", help="The provider's name of it: dp_...")],
    outcome: Annotated[Literal["won", "lost"], typer.Argument(help="won: the money is the shop's again; lost: it is the buyer's.")],
    provider_url: Provider = None,
    as_json: AsJson = False,
) -> None:
    """Let the bank decide an open dispute at the local provider.

    \b
    Example:
      orderflow payments decide dp_4f1c won
    \b
    Exit codes:
      0   decided
      1   there is no such dispute, or it is decided already
      69  the provider does not answer
    """
    _show(_played(provider_url, f"{PATH}/{dispute_ref}/{outcome}", {}), as_json, DISPUTE)


def _played(url: str | None, path: str, body: dict[str, Any]) -> dict[str, Any]:
    from orderflow.cli import environment
    from orderflow.connectors.payments.local import URL
    from orderflow.connectors.payments.settings import PaymentSettings

    settings = environment.load(PaymentSettings, provider_url=url)

    async def once() -> Any:
        async with Edge(settings.provider_url or URL) as provider:
            return await provider.call("POST", path, body=body)

    try:
        answer = asyncio.run(once())
    except Unreachable as error:
        raise Failure(
            f"the provider does not answer ({error})", then="name it with --provider-url or ORDERFLOW_PROVIDER_URL", code=UNAVAILABLE
        ) from None
    if answer.status != 200:
        raise Failure(str(answer.body.get("error", f"the provider answers {answer.status}")), code=NO)
    found: dict[str, Any] = answer.body
    return found


def _show(found: dict[str, Any], as_json: bool, names: tuple[str, ...]) -> None:
    show(found, as_json, lambda document: fields({name: document[name] for name in names}))
