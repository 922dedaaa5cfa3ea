"""`orderflow schemas`: the Avro records of the catalogue and the registry."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer

from orderflow.cli.terminal import NO, UNAVAILABLE, AsJson, Failure, columns, group, show
from orderflow.cli.topics import Partitions, Prefix
from orderflow.cli.worker import Registry

if TYPE_CHECKING:
    from orderflow.schemas.catalog import Catalog

app = group("Check, register and list the schemas.")


@app.command()
def apply(registry: Registry = None, prefix: Prefix = None, partitions: Partitions = None, as_json: AsJson = False) -> None:
    """Register every schema that is missing and set the compatibility of its subject. Producers never register.

    \b
    Example:
      orderflow schemas apply --registry http://registry:8081
    \b
    Exit codes:
      0   the registry is as it must be
      1   the registry refused
      69  the registry does not answer
      78  a change is incompatible: every subject and field is named, nothing was registered
    """
    from orderflow.cli import contracts

    address, catalog = _target(registry, prefix, partitions)
    changes = contracts.apply_schemas(address, catalog)
    result = [{"subject": change.subject.name, "done": change.what} for change in changes]
    show(result, as_json, lambda _: _apply_lines(result, len(catalog.subjects())))


@app.command()
def check(as_json: AsJson = False) -> None:
    """Check the schema files themselves against the rules of the house; needs no registry.

    \b
    Example:
      orderflow schemas check
    \b
    Exit codes:
      0   clean
      1   every complaint is listed, naming record and field
    """
    from orderflow.schemas.lint import lint

    complaints = list(lint())
    show(complaints, as_json, lambda _: complaints or ["all schemas keep the rules"])
    if complaints:
        raise typer.Exit(NO)


@app.command("list")
def list_schemas(registry: Registry = None, prefix: Prefix = None, partitions: Partitions = None, as_json: AsJson = False) -> None:
    """List every subject with the id the registry has for our schema, and what apply would do about it.

    \b
    Example:
      orderflow schemas list
    \b
    Exit codes:
      0   everything is registered
      1   something is not: run `orderflow schemas apply`
      69  the registry does not answer
    """
    from orderflow.schemas.registry import Registry as Client
    from orderflow.schemas.registry import RegistryUnavailable, plan

    address, catalog = _target(registry, prefix, partitions)
    try:
        open_changes = {change.subject.name: change.what for change in plan(address, catalog)}
        client = Client(address)
        result = [
            {
                "subject": subject.name,
                "id": client.id_of(subject.name, subject.schema),
                "compatibility": subject.compatibility,
                "apply": open_changes.get(subject.name, "nothing"),
            }
            for subject in catalog.subjects()
        ]
    except RegistryUnavailable as error:
        raise Failure(str(error), then="name the registry with --registry or ORDERFLOW_REGISTRY", code=UNAVAILABLE) from None
    show(result, as_json, lambda _: columns(("subject", "id", "compatibility", "apply would"), (list(each.values()) for each in result)))
    if open_changes:
        raise typer.Exit(NO)


def _target(registry: str | None, prefix: str | None, partitions: int | None) -> "tuple[str, Catalog]":
    from orderflow.cli import environment
    from orderflow.schemas.catalog import Catalog
    from orderflow.streams.settings import WorkerSettings

    settings = environment.load(WorkerSettings, registry=registry, prefix=prefix, partitions=partitions)
    return settings.registry, Catalog(settings.prefix, settings.partitions)


def _apply_lines(result: list[dict[str, Any]], total: int) -> Iterator[str]:
    for each in result:
        yield f"{each['done']}  {each['subject']}"
    yield f"{len(result)} changed, {total - len(result)} were as they must be"
