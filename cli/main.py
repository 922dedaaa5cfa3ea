"""`orderflow`: the door. It lists the nouns and turns failures into exit codes; every noun is a file of its own.

Nothing heavy is imported before a command runs: the help must come at once.
"""

import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

from orderflow.cli import (
    bench,
    channels,
    config,
    demo,
    dlq,
    docs,
    fulfillment,
    orders,
    payments,
    reconcile,
    reservations,
    sagas,
    schemas,
    serve,
    simulate,
    stock,
    tables,
    topics,
    topology,
    up,
    verify,
    worker,
)
from orderflow.cli.terminal import Failure

app = typer.Typer(
    name="orderflow",
    help="Orders and stock on Kafka, decided once, in order, exactly once.\n\nStart with `orderflow demo`, then `orderflow up --demo`.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


@app.callback(invoke_without_command=True)
def door(version: bool = typer.Option(False, "--version", help="Show the version and exit.")) -> None:
    if version:
        from importlib.metadata import version as installed

        print(f"orderflow {installed('orderflow')}")
        raise typer.Exit


NOUNS = (
    orders,
    sagas,
    payments,
    stock,
    fulfillment,
    reservations,
    channels,
    topics,
    schemas,
    tables,
    dlq,
    verify,
    reconcile,
    bench,
    config,
)
for function in (up.up, demo.demo, worker.worker, serve.serve, topology.topology, docs.docs, simulate.simulate):
    app.command()(function)
for noun in NOUNS:
    app.add_typer(noun.app, name=noun.__name__.rpartition(".")[2])


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 no, 2 wrong usage; each command's help lists what else it may end with."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        app(given)
    except Failure as failure:
        failure.show("--json" in given)
        sys.exit(failure.code)
    raise AssertionError("a command always exits")
