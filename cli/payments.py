"""`orderflow payments`: read and move the money of orders through the HTTP edge; run the connector and the local provider."""

from pathlib import Path
from typing import Annotated, Any

import typer

from orderflow.cli import buyers, cod
from orderflow.cli.client import DEFAULT_URL, Key, Url, ask, outcome_code
from orderflow.cli.money import PATH, WRONG_USAGE, parse_money, payment_lines
from orderflow.cli.terminal import MISCONFIGURED, UNAVAILABLE, AsJson, Failure, group, show
from orderflow.cli.worker import SCHEMA_CACHE, Bootstrap, JsonLog, Registry

app = group("Read and move the money of orders; run what talks to payment providers.")

PaymentId = Annotated[str, typer.Argument(metavar="PAYMENT", help="The payment's id, which is its order's.")]
Amount = Annotated[
    str, typer.Argument(metavar="[AMOUNT]", help="Minor units and currency, such as 1250EUR; without it all that is possible.")
]
Reason = Annotated[str, typer.Option("--reason", help="Why; it is recorded.")]


@app.command()
def get(payment_id: PaymentId, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show a payment: its counters and the latest operation of each attempt.

    \b
    Example:
      orderflow payments get order-17
    \b
    Exit codes:
      0   shown
      1   there is no such payment
      69  the edge does not answer
      75  its partition is moving: repeat
    """
    answer = ask(url, "GET", f"{PATH}/{payment_id}")
    show(answer.body, as_json, lambda _: payment_lines(answer))


@app.command()
def capture(
    payment_id: PaymentId, amount: Amount = "", reason: Reason = "", key: Key = "", url: Url = DEFAULT_URL, as_json: AsJson = False
) -> None:
    """Take authorized money before the goods leave; handing them over does it by itself.

    \b
    Example:
      orderflow payments capture order-17 1250EUR --key capture-1
    \b
    Exit codes:
      0   captured
      1   refused, by a rule or by the provider
      2   wrong usage
      69  the edge does not answer
      75  accepted: the provider has not answered yet
    """
    _moved(payment_id, "capture", amount, reason, key, url, as_json)


@app.command()
def refund(
    payment_id: PaymentId, amount: Amount = "", reason: Reason = "", key: Key = "", url: Url = DEFAULT_URL, as_json: AsJson = False
) -> None:
    """Give captured money back.

    \b
    Example:
      orderflow payments refund order-17 250EUR --key refund-1 --reason "late"
    \b
    Exit codes:
      0   refunded
      1   refused, by a rule or by the provider
      2   wrong usage
      69  the edge does not answer
      75  accepted: the provider has not answered yet
    """
    _moved(payment_id, "refund", amount, reason, key, url, as_json)


@app.command()
def void(
    payment_id: PaymentId, amount: Amount = "", reason: Reason = "", key: Key = "", url: Url = DEFAULT_URL, as_json: AsJson = False
) -> None:
    """Give back what was authorized and not captured, of an order that ends; canceling an order does it by itself.

    \b
    Example:
      orderflow payments void order-17 --key void-1
    \b
    Exit codes:
      0   given back
      1   refused, by a rule or by the provider
      2   wrong usage
      69  the edge does not answer
      75  accepted: the provider has not answered yet
    """
    _moved(payment_id, "void", amount, reason, key, url, as_json)


def _moved(payment_id: str, verb: str, amount: str, reason: str, key: str, url: str, as_json: bool) -> None:
    body: dict[str, Any] = {"amount": parse_money(amount)} if amount else {}
    if reason:
        body["reason"] = reason
    answer = ask(url, "POST", f"{PATH}/{payment_id}/{verb}", body=body, key=key)
    show(answer.body, as_json, lambda _: payment_lines(answer))
    raise typer.Exit(outcome_code(answer))


app.command()(cod.confirm)
app.command()(cod.collected)
app.command()(buyers.act)
app.command()(buyers.dispute)
app.command()(buyers.decide)


# -- processes ------------------------------------------------------------------------------------------------------------------------
@app.command()
def connect(
    bootstrap: Bootstrap = None,
    registry: Registry = None,
    data: Annotated[Path | None, typer.Option("--data", help="Where it keeps schema ids. [env: ORDERFLOW_DATA]")] = None,
    provider: Annotated[str | None, typer.Option("--provider", help="local, stripe or paypal. [env: ORDERFLOW_PROVIDER]")] = None,
    provider_url: Annotated[str | None, typer.Option("--provider-url", help="Where it answers. [env: ORDERFLOW_PROVIDER_URL]")] = None,
    port: Annotated[int | None, typer.Option("--port", help="Of its health and metrics. [env: ORDERFLOW_CONNECTOR_PORT]")] = None,
    as_json: JsonLog = False,
) -> None:
    """Run one payments connector until it is told to stop: it asks the provider what orders request, and records what it says.

    \b
    Example:
      ORDERFLOW_BOOTSTRAP=kafka:9092 orderflow payments connect --provider-url http://provider:8090
      ORDERFLOW_STRIPE_KEY_FILE=/run/secrets/stripe orderflow payments connect --provider stripe
    \b
    Exit codes:
      0   stopped in good order: what was not answered is asked again, under the same keys
      69  the log failed for good, or Kafka or the registry does not answer: start it again
      78  not started: settings, topics or schemas are not as they must be
    """
    import asyncio

    from confluent_kafka import KafkaException

    from orderflow.cli import environment, logs, startcheck
    from orderflow.connectors.payments import connector
    from orderflow.connectors.payments.providers import build_provider
    from orderflow.connectors.payments.settings import PaymentSettings
    from orderflow.schemas.catalog import Catalog
    from orderflow.streams.records import Records

    options = {"bootstrap": bootstrap, "registry": registry, "data": data, "connector_port": port}
    options |= {"provider": provider, "provider_url": provider_url}
    settings, found = environment.read(PaymentSettings, **options)
    place = environment.place(PaymentSettings, **options)
    catalog = Catalog(place.prefix, place.partitions) if place else Catalog()
    cache_file = (place.data if place else Path()) / SCHEMA_CACHE
    startcheck.insist(startcheck.all_problems(place, found, catalog, cache_file))
    assert settings is not None, "a missing settings object has problems"
    logs.configure("json" if as_json else "")
    records = Records.load(catalog, settings.registry, cache_file)

    async def run() -> None:
        await connector.serve(settings, records, build_provider(settings), settings.provider, _stop_on_signal())

    try:
        asyncio.run(run())
    except KafkaException as error:
        raise Failure(f"the log failed: {error.args[0].str()}", then="start it again", code=UNAVAILABLE) from None


@app.command()
def provider(
    data: Annotated[Path, typer.Option("--data", help="The file of its book.")] = Path("provider.db"),
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="The port to listen on.")] = 8090,
    webhooks: Annotated[str, typer.Option("--webhooks", help="Where it tells of every operation; needs --secrets.")] = "",
    secrets: Annotated[Path | None, typer.Option("--secrets", help="The edge's file of secrets; [local] signs.")] = None,
    clock_speed: Annotated[
        int,
        typer.Option(
            "--clock-speed", envvar="ORDERFLOW_CLOCK_SPEED", min=1, help="Its authorizations last so many times less than 7 days."
        ),
    ] = 1,
    as_json: JsonLog = False,
) -> None:
    """Run the local payment provider, which moves no money: what `orderflow up` and the demo pay with.

    By the last two digits of an amount in minor units it declines or answers late: docs/how-to/payments.md lists them.

    \b
    Example:
      orderflow payments provider --data /tmp/book.db --port 8090
      orderflow payments provider --webhooks http://127.0.0.1:8080/api/v1/webhooks/local --secrets webhooks.toml
    \b
    Exit codes:
      0   stopped, as asked
      1   it cannot listen there
      78  the file of secrets has no usable [local]
    """
    import asyncio

    from orderflow.cli import logs
    from orderflow.connectors.payments import provider as program
    from orderflow.connectors.payments.book import VALID_US

    logs.configure("json" if as_json else "")
    receiver = _receiver(webhooks, secrets)

    async def serve() -> None:
        await program.serve(data, host, port, _stop_on_signal(), receiver, valid_us=VALID_US // clock_speed)

    try:
        asyncio.run(serve())
    except OSError as error:
        raise Failure(f"it cannot listen on {host}:{port} ({error.strerror})", then="choose another with --port") from None


def _receiver(url: str, secrets: Path | None) -> Any:
    """Who is told of every operation; None when nobody is."""
    from orderflow.connectors.payments.courier import Receiver
    from orderflow.connectors.payments.local import NAME
    from orderflow.connectors.webhooks.sources import Refused, standard_keys

    if bool(url) != (secrets is not None):
        raise Failure("--webhooks and --secrets go together", then="give both or none", code=WRONG_USAGE)
    if secrets is None:
        return None
    try:
        return Receiver(url, standard_keys(secrets, NAME))
    except Refused as refused:
        raise Failure(refused.reasons, code=MISCONFIGURED) from None


def _stop_on_signal() -> Any:
    import asyncio
    import signal

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop
