"""`orderflow config`: every setting, where its value comes from, and whether a system could start with them."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from orderflow.cli.terminal import MISCONFIGURED, AsJson, columns, group, show
from orderflow.cli.worker import SCHEMA_CACHE

app = group("Show and check the settings.")


@app.command("show")
def show_settings(as_json: AsJson = False) -> None:
    """Show every variable, its value, whether that is the default, and what it means. There are no secrets among them.

    \b
    Example:
      ORDERFLOW_PORT=9090 orderflow config show
    \b
    Exit codes:
      0   shown
    """
    from orderflow.cli import environment

    others = [
        {"variable": name, "read_by": "other", "value": value, "source": source, "meaning": environment.OTHERS[name]}
        for name, value, source in environment.other_values()
    ]
    show([*environment.entries(), *others], as_json, _lines)


@app.command("check")
def check_settings(
    offline: Annotated[bool, typer.Option("--offline", help="Look at the settings only, not at broker and registry.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check all that a worker and an edge check before they start: settings, unknown variables, topics, schemas. All at once.

    \b
    Example:
      orderflow config check --offline
    \b
    Exit codes:
      0   a system can start with these settings
      78  it cannot: every reason is listed
    """
    problems = list(dict.fromkeys(_problems(offline)))
    show({"problems": problems}, as_json, lambda _: problems or ["a system can start with these settings"])
    if problems:
        raise typer.Exit(MISCONFIGURED)


def _problems(offline: bool) -> Iterator[str]:
    from orderflow.cli import environment, startcheck
    from orderflow.schemas.catalog import Catalog
    from orderflow.streams.settings import WorkerSettings

    for name, model in environment.models().items():
        _, found = environment.read(model)
        yield from (f"{name}: {problem}" for problem in found)
    yield from environment.unknown()
    settings = environment.place(WorkerSettings)
    if offline or settings is None:
        return
    catalog = Catalog(settings.prefix, settings.partitions)
    yield from startcheck.broker_problems(settings.bootstrap, catalog)
    with tempfile.TemporaryDirectory(prefix="orderflow-") as directory:  # a check leaves nothing behind
        known, copy = settings.data / SCHEMA_CACHE, Path(directory) / SCHEMA_CACHE
        if known.exists():
            shutil.copy(known, copy)
        yield from startcheck.schema_problems(settings.registry, catalog, copy)


def _lines(settings: list[dict[str, Any]]) -> Iterator[str]:
    names = ("variable", "value", "source", "read_by", "meaning")
    yield from columns(names, ([each[name] for name in names] for each in settings))
