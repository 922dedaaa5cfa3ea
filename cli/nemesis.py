"""`orderflow verify nemesis`: real faults on a real system of its own, by the programs of tests/chaos."""

import contextlib
import importlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orderflow.cli import checkout
from orderflow.cli.terminal import UNAVAILABLE, Failure, progress

if TYPE_CHECKING:
    from orderflow.connectors.box.box import Box

NETWORK = "network"
FAULTS = ("kill", "stop", "term", "joins", "twins", "broker-kill", "broker-restart", NETWORK)
USUAL = ("kill", NETWORK)


def run(faults: Sequence[str], rounds: int, seed: int, say: Callable[[str], None]) -> tuple[dict[str, Any], list[str]]:
    """A series of each fault on one box; the figures by fault, and everything that was not true. Raises Failure 1 or 69."""
    programs = _load()
    figures: dict[str, Any] = {}
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="orderflow-nemesis-") as name, _started_box(Path(name) / "box") as box:
        for fault in faults:
            try:
                series = _series(programs, box, Path(name) / fault, fault, rounds, seed, say)
            except AssertionError as never:  # it did not come back in time: there is nothing to judge
                wrong.append(f"{fault}: {never}")
                continue
            figures[fault] = series.figures()
            wrong.extend(f"{fault}: {problem}" for problem in series.verdict.problems)
    return figures, wrong


def _series(programs: dict[str, Any], box: "Box", place: Path, fault: str, rounds: int, seed: int, say: Callable[[str], None]) -> Any:
    from orderflow.connectors.box.box import Servers

    servers = Servers(box.bootstrap, box.registry_url)
    if fault == NETWORK:
        network = programs["network_faults"]
        return network.behind_proxy(servers, place, names=list(network.KINDS), rounds=rounds, seed=seed, say=say)
    return programs["nemesis"].run(servers, place, fault, rounds=rounds, seed=seed, box=box, say=say)


@contextlib.contextmanager
def _started_box(directory: Path) -> "Iterator[Box]":
    from orderflow.connectors.box.artifacts import ArtifactError
    from orderflow.connectors.box.box import Box, BoxError
    from orderflow.connectors.box.java import JavaMissing
    from orderflow.connectors.box.process import ChildError

    box = Box(directory)
    try:
        with progress() as on_step:
            box.start(on_step)
    except (BoxError, JavaMissing, ArtifactError, ChildError) as error:
        raise Failure(str(error), code=UNAVAILABLE) from None
    try:
        yield box
    finally:
        box.stop()


def _load() -> dict[str, Any]:
    """The programs of the checkout. Raises Failure where there is none."""
    place = checkout.root() / "tests" / "chaos"
    if not (place / "nemesis.py").is_file():
        raise Failure(f"{place} does not exist", then="get it back with `git checkout -- tests/chaos`")
    if str(place) not in sys.path:
        sys.path.append(str(place))
    return {name: importlib.import_module(name) for name in ("nemesis", "network_faults")}
