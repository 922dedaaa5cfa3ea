"""Faust as the shell: an app with one agent per command log, each handing its batches to one plain function."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faust

from orderflow.streams.engine import Engine
from orderflow.streams.partitions import Log, Work
from orderflow.streams.telemetry import Telemetry
from orderflow.streams.transport import App, BatchSchema
from orderflow.streams.watchdog import BOUND_S

GC_THRESHOLDS = (20_000, 20, 50)
"""Cycles are rare here, live objects are many: rows, events and outputs are Structs that the collector does not track."""

Process = Callable[[Work], None]
"""Decide a batch and leave the answer in `work.result`."""


def build_app(engine: Engine, process: Process, *, group: str, data: Path, host: str, port: int, watchdog_s: float = BOUND_S) -> App:
    """A Faust app over this engine. Its web endpoint runs in a thread of its own, so that a long batch does not silence it."""
    telemetry = Telemetry(engine)
    engine.on_commit = telemetry.committed
    web = {"web_host": host, "web_bind": host, "web_port": port, "web_in_thread": True}
    app = App(group, engine=engine, watchdog_s=watchdog_s, datadir=str(data / "faust"), **web)
    for source in engine.logs.values():
        _add_agent(app, source, process)
    return app


def _add_agent(app: App, source: Log, process: Process) -> None:
    topic = app.topic(source.topic, schema=BatchSchema())

    async def decide(stream: Any) -> None:
        async for work in stream:
            process(work)

    app.agent(topic, name=f"orderflow.{source.space}")(decide)


def run_app(app: App) -> None:
    """Run until told to stop. Exits the process: 0 after a clean stop, 10 to 13 when a supervisor has to start it again."""
    app.finalize()
    app.watchdog.start()
    worker = faust.Worker(app, loglevel="WARNING", quiet=True, redirect_stdouts=False, console_port=0)
    calm_collector()
    worker.spinner = None  # it writes cursor codes between the log lines, terminal or not, and sets the root logger to DEBUG
    worker.execute_from_commandline()


def calm_collector() -> None:
    """What is loaded by now stays for good, so nobody looks at it again. A tenth of a worker's time went into looking."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
