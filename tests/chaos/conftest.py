"""How many rounds each fault gets, and from which seed: `--chaos-rounds 200 --chaos-seed 7`."""

from collections.abc import Callable

import pytest


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> Callable[[int], int]:
    """`rounds(20)`: what was asked for on the command line, else this number."""
    asked: int = request.config.getoption("--chaos-rounds")
    return lambda usual: asked or usual


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    found: int = request.config.getoption("--chaos-seed")
    return found
