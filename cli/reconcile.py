"""`orderflow reconcile`: what we believe beside what others have in their books (slot D63). Nothing is resolved by itself."""

import asyncio
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orderflow.cli.terminal import NO, UNAVAILABLE, AsJson, Failure, columns, group, show
from orderflow.cli.topics import Partitions, Prefix
from orderflow.cli.worker import Bootstrap, Registry

if TYPE_CHECKING:
    from orderflow.cli.books import Row
    from orderflow.streams.domain.payment_records import PaymentSnapshot

AGAIN_AFTER_S = 5.0
"""Longer than an answer of the local provider is on its way."""

app = group("Compare what we believe with the books of others.")


@app.command()
def payments(
    provider_url: Annotated[str | None, typer.Option("--provider-url", help="Where it answers. [env: ORDERFLOW_PROVIDER_URL]")] = None,
    bootstrap: Bootstrap = None,
    registry: Registry = None,
    prefix: Prefix = None,
    partitions: Partitions = None,
    as_json: AsJson = False,
) -> None:
    """Compare every payment with the book of the local provider, operation by operation.

    It reads our payments from their status topic and all that the provider did. On a running system a difference counts only if it is there
    again five seconds later. Each one is printed with the command to go on with; nothing is resolved by itself.

    \b
    Example:
      orderflow reconcile payments --json
    \b
    Exit codes:
      0   equal
      1   not so: each difference is printed
      69  the broker, the registry or the provider does not answer
      78  the topics or schemas do not exist
    """
    from orderflow.cli import environment
    from orderflow.connectors.payments.settings import PaymentSettings

    options = {"bootstrap": bootstrap, "registry": registry, "prefix": prefix, "partitions": partitions}
    settings = environment.load(PaymentSettings, **options, provider_url=provider_url)
    found = _compared(settings)
    if found["differences"]:
        time.sleep(AGAIN_AFTER_S)
        again = _compared(settings)
        found = {**again, "differences": [each for each in again["differences"] if each in found["differences"]]}
    show(found, as_json, _lines)
    raise typer.Exit(NO if found["differences"] else 0)


def _compared(settings: Any) -> dict[str, Any]:
    """Both books as they are now, ours first: what the provider has later is younger, and gone at the second look."""
    import msgspec

    from orderflow.cli import books
    from orderflow.connectors.payments.local import URL as LOCAL_URL

    ours = _ours(settings)
    theirs = asyncio.run(_book(settings.provider_url or LOCAL_URL))
    return {
        "payments": len(ours),
        "operations": len(theirs),
        "open": books.open_operations(ours.values()),
        "differences": msgspec.to_builtins(books.differences(ours, theirs)),
    }


def _ours(settings: Any) -> "dict[str, PaymentSnapshot]":
    """Every payment by its id, from the status topic. Raises Failure 69 or 78."""
    from orderflow.cli import contracts
    from orderflow.schemas.catalog import Catalog

    with tempfile.TemporaryDirectory(prefix="orderflow-reconcile-") as directory:
        records = contracts.load_records(settings.registry, Catalog(settings.prefix, settings.partitions), Path(directory) / "schemas.json")
    topic, _ = records.of("orders").status["payment"]
    decode = records.of("orders").decode_status("payment")
    latest = {message.key().decode(): message.value() for message in contracts.read_topic(settings.bootstrap, topic)}
    return {key: decode(value) for key, value in latest.items() if value is not None}


async def _book(url: str) -> "list[Row]":
    """Everything the provider did, page by page. Raises Failure 69."""
    import msgspec

    from orderflow.cli.books import Row
    from orderflow.cli.client import Edge, Unreachable

    rows: list[Row] = []
    try:
        async with Edge(url) as provider:
            after, more = 0, True
            while more:
                page = await provider.get("/v1/operations", after=after)
                if page.status != 200:
                    raise Unreachable(f"{url} answers {page.status}")
                rows += msgspec.convert(page.body["operations"], list[Row])
                more = bool(page.body["more"])
                after = page.body["operations"][-1]["number"] if more else 0
    except (Unreachable, KeyError, msgspec.ValidationError) as error:
        raise Failure(
            f"the provider's book cannot be read ({error})",
            then="start it, or name it with --provider-url or ORDERFLOW_PROVIDER_URL",
            code=UNAVAILABLE,
        ) from None
    return rows


def _lines(found: dict[str, Any]) -> Iterator[str]:
    yield f"{found['payments']} payments, {found['operations']} operations in the provider's book, {found['open']} open"
    if not found["differences"]:
        yield "equal"
        return
    names = ("payment_id", "kind", "key", "ours", "theirs")
    yield from columns(names, ([each[name] for name in names] for each in found["differences"]))
    for each in found["differences"]:
        yield f"{each['key']}: {each['repair']}"
