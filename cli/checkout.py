"""The repository this program runs from, for commands that need more of it than the package: benchmarks and generated pages."""

from pathlib import Path

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
