"""`orderflow up`: everything on one machine, until it is told to stop."""

import asyncio
import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from orderflow.cli import race
from orderflow.cli.client import Edge
from orderflow.cli.terminal import AsJson, Failure, columns, fields, progress

LIMITED_SKU, LIMITED_UNITS = "LIMITED-SKU", 10
TEST_SKU, TEST_UNITS, TEST_ORDER = "DEMO-SKU", 100, "test-order-123"
WRONG_USAGE = 2
STOPPED = 130
SEED_S = 60.0
"""How long the demo data may take."""


class Stopped(BaseException):
    """The process was asked to stop."""


def up(
    demo: Annotated[bool, typer.Option("--demo", help=f"Receive {LIMITED_UNITS} {LIMITED_SKU} and place the order {TEST_ORDER}.")] = False,
    bootstrap: Annotated[
        str, typer.Option("--bootstrap", envvar="ORDERFLOW_BOOTSTRAP", help="Your own Kafka instead of the box; needs --registry.")
    ] = "",
    registry: Annotated[str, typer.Option("--registry", envvar="ORDERFLOW_REGISTRY", help="Your own registry's Confluent API.")] = "",
    data: Annotated[Path | None, typer.Option("--data", help="Where everything is kept; a directory of the user without.")] = None,
    port: Annotated[int, typer.Option("--port", envvar="ORDERFLOW_PORT", min=0, max=65535, help="The port of the edge, 0 for any.")] = 8080,
    workers: Annotated[int, typer.Option("--workers", min=1, max=16, help="How many worker processes share the work.")] = 1,
    clock_speed: Annotated[
        int, typer.Option("--clock-speed", min=1, max=100_000, help="How many times shorter the days are: 86400 makes a second of one.")
    ] = 1,
    as_json: AsJson = False,
) -> None:
    """Start a whole system on this machine; Ctrl-C stops it.

    Kafka and registry (or your own), topics, schemas, the channels `box` and `prepaid`, workers, the edge, a payment provider that moves no money and its connector. What ends by itself is started again. With --json one line of JSON says what runs, once it is ready.

    \b
    Example:
      orderflow up --demo
      orderflow up --demo --clock-speed 86400
      curl -X POST http://localhost:8080/api/v1/orders -d '{"items":[{"sku":"LIMITED-SKU","qty":1}]}'
    \b
    Exit codes:
      0   stopped, as asked
      1   it cannot run like this: a port or the directory is taken
      2   wrong usage
      69  something did not start: its log is shown
      78  topics or schemas are not as they must be
    """
    from orderflow.cli import environment
    from orderflow.cli.system import System
    from orderflow.connectors.box.box import Servers

    if bool(bootstrap) != bool(registry):
        raise Failure("--bootstrap and --registry go together", then="name both, or none to start the box", code=WRONG_USAGE)
    unknown = environment.unknown()
    if unknown:
        raise Failure(unknown, then=environment.ADVICE, code=78)
    servers = Servers(bootstrap, registry) if bootstrap else None
    stop = threading.Event()
    _stop_on_signals()
    try:
        with progress() as on_step:
            system = System(
                data or environment.data_dir(),
                servers=servers,
                port=port,
                workers=workers,
                payments=True,
                environment={"ORDERFLOW_CLOCK_SPEED": str(clock_speed)},
                on_step=on_step,
                on_exit=_tell_exit,
            )
            system.start()
        try:
            if demo:
                asyncio.run(seed(system.url))
            runs = _what_runs(system.state)
            print(json.dumps(runs) if as_json else "\n".join(_lines(runs)), flush=True)
            stop.wait()
        finally:
            print("stopping", file=sys.stderr)
            system.stop()
    except Stopped:
        return


async def seed(url: str) -> None:
    """What the demo promises to find: 10 free LIMITED-SKU and a confirmed order of another SKU. A second start changes nothing."""
    deadline = time.monotonic() + SEED_S
    async with Edge(url) as edge:
        for sku, units in ((LIMITED_SKU, LIMITED_UNITS), (TEST_SKU, TEST_UNITS)):
            if (await race.read(edge, f"/api/v1/stock/{sku}", deadline)).status == 404:
                await _must(edge, "/api/v1/stock/receipts", {"sku": sku, "qty": units, "reference": "demo"}, f"demo-{sku}", deadline)
        if (await race.read(edge, f"/api/v1/orders/{TEST_ORDER}", deadline)).status == 404:
            body = {"order_id": TEST_ORDER, "items": [{"sku": TEST_SKU, "qty": 1}]}
            await _must(edge, "/api/v1/orders", body, f"demo-{TEST_ORDER}", deadline)


async def _must(edge: Edge, path: str, body: dict[str, Any], key: str, deadline: float) -> None:
    answer = await race.outcome(edge, path, body, key, deadline)
    if answer.status not in (200, 201, 202):
        raise Failure(f"the demo data were not taken: {path} answers {answer.status} {answer.code}", then="see the logs")


def _what_runs(state: Any) -> dict[str, Any]:
    import msgspec

    found: dict[str, Any] = msgspec.to_builtins(state)
    return found


def _lines(state: dict[str, Any]) -> Iterator[str]:
    yield f"orderflow is running: {state['url']}"
    yield ""
    yield from columns(("process", "pid", "address"), ([each["name"], each["pid"], each["url"]] for each in state["processes"]))
    yield ""
    yield from fields({"kafka": state["bootstrap"], "registry": state["registry"], "data": state["data"], "logs": f"{state['data']}/logs"})
    yield ""
    yield "Ctrl-C stops everything."


def _tell_exit(name: str, code: int, again_s: float) -> None:
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    print(f"{name} ended ({how}) and starts again in {again_s:g} s", file=sys.stderr, flush=True)


def _stop_on_signals() -> None:
    """SIGINT and SIGTERM end what is under way, also a start; everything that was started is stopped."""

    def stop(number: int, frame: FrameType | None) -> None:
        _ignore_signals()
        raise Stopped

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def _ignore_signals() -> None:
    """A second Ctrl-C must not leave half of the system running: everything has a bounded time to stop."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
