"""`orderflow topics`: the topics of the catalogue on a broker."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orderflow.cli.terminal import NO, AsJson, columns, group, show
from orderflow.cli.worker import Bootstrap

if TYPE_CHECKING:
    from orderflow.schemas.catalog import Catalog

app = group("Compare and make the topics.")

Prefix = Annotated[str | None, typer.Option("--prefix", help="First part of every topic's name. [env: ORDERFLOW_PREFIX]")]
Partitions = Annotated[int | None, typer.Option("--partitions", help="Partitions per key space, for life. [env: ORDERFLOW_PARTITIONS]")]


@app.command()
def plan(bootstrap: Bootstrap = None, prefix: Prefix = None, partitions: Partitions = None, as_json: AsJson = False) -> None:
    """Show what is missing and what differs on the broker, without changing anything.

    \b
    Example:
      orderflow topics plan --bootstrap kafka:9092
    \b
    Exit codes:
      0   the topics are as they must be
      1   something is missing (apply makes it) or differs (apply refuses it)
      69  the broker does not answer
    """
    from orderflow.cli import contracts
    from orderflow.schemas import admin

    address, catalog = _target(bootstrap, prefix, partitions)
    differences = admin.plan(contracts.connect(address), catalog)
    result = [
        {
            "topic": each.topic,
            "what": each.what,
            "expected": each.expected,
            "found": each.found,
            "apply": "make" if each.missing else "refuse",
        }
        for each in differences
    ]
    show(result, as_json, _plan_lines)
    if result:
        raise typer.Exit(NO)


@app.command()
def apply(bootstrap: Bootstrap = None, prefix: Prefix = None, partitions: Partitions = None, as_json: AsJson = False) -> None:
    """Make the topics that are missing. Nothing is made when an existing one is not as it must be.

    \b
    Example:
      orderflow topics apply --bootstrap kafka:9092
    \b
    Exit codes:
      0   the topics are as they must be
      1   the broker refused
      69  the broker does not answer
      78  existing topics differ: all differences are listed, nothing was changed
    """
    from orderflow.cli import contracts

    address, catalog = _target(bootstrap, prefix, partitions)
    made = contracts.apply_topics(address, catalog)
    result = {"made": list(made), "kept": len(catalog.topics()) - len(made)}
    show(result, as_json, _apply_lines)


def _target(bootstrap: str | None, prefix: str | None, partitions: int | None) -> "tuple[str, Catalog]":
    from orderflow.cli import environment
    from orderflow.schemas.catalog import Catalog
    from orderflow.streams.settings import WorkerSettings

    settings = environment.load(WorkerSettings, bootstrap=bootstrap, prefix=prefix, partitions=partitions)
    return settings.bootstrap, Catalog(settings.prefix, settings.partitions)


def _plan_lines(result: list[dict[str, Any]]) -> Iterator[str]:
    if not result:
        yield "all topics are as they must be"
        return
    yield from columns(("topic", "what", "must be", "is", "apply would"), ([*each.values()] for each in result))


def _apply_lines(result: dict[str, Any]) -> Iterator[str]:
    for name in result["made"]:
        yield f"made  {name}"
    yield f"{len(result['made'])} made, {result['kept']} were as they must be"
