"""The repository this program runs from, for commands that need more of it than the package: benchmarks and generated pages."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

from orderflow.cli.terminal import Failure


def root() -> Path:
    """The checkout's directory. Raises Failure when the package was installed without one."""
    here = Path(__file__).resolve().parent.parent
    if not (here / "pyproject.toml").is_file():
        raise Failure(
            "this needs a checkout of the repository, and the package was installed without one",
            then="clone it, then `make setup` and run .venv/bin/orderflow there",
        )
    return here


def measurement(name: str) -> ModuleType:
    """A module of tests/bench by its name. Raises Failure when it, or the checkout, is not there."""
    folder = root() / "tests" / "bench"
    if not (folder / f"{name}.py").is_file():
        raise Failure(f"{folder / name}.py does not exist", then="get it back with `git checkout -- tests/bench`")
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    return importlib.import_module(name)
