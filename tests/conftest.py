"""Fixtures for every test: a real Kafka and registry, started when the first test asks for them.

    pytest --bootstrap 127.0.0.1:9092 --registry http://127.0.0.1:8081

(or ORDERFLOW_TEST_BOOTSTRAP and ORDERFLOW_TEST_REGISTRY) runs against servers of your own. Tests share them: use topic,
subject and group names of your own, and take `own_box` for whatever kills or stops something.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from orderflow.connectors.box.artifacts import print_progress
from orderflow.connectors.box.box import Box, Servers


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("orderflow")
    group.addoption("--bootstrap", default=os.environ.get("ORDERFLOW_TEST_BOOTSTRAP"), help="use this Kafka, host:port")
    group.addoption("--registry", default=os.environ.get("ORDERFLOW_TEST_REGISTRY"), help="use this registry, its Confluent-compatible URL")
    group.addoption("--chaos-rounds", type=int, default=0, help="rounds per fault in tests/chaos; 0 takes each test's own small number")
    group.addoption("--chaos-seed", type=int, default=1, help="seed of the faults and of the load in tests/chaos")
    group.addoption("--chaos-down-s", type=float, default=20.0, help="how long the broker is away in the test of an outage")


WAITED_IN_VAIN = [r"AssertionError: never( came)?: ", "TimeoutExpired"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On CI's shared machine a test on real servers that waited in vain is tried once more, and the summary names it (RERUN); a wrong
    result never is.
    """
    if os.environ.get("CI"):
        for item in items:
            if item.get_closest_marker("box"):
                item.add_marker(pytest.mark.flaky(reruns=1, only_rerun=WAITED_IN_VAIN))


@pytest.fixture(scope="session")
def box(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """The Kafka and registry of this test run: the box, one for all tests, or the user's own."""
    bootstrap, registry = request.config.getoption("--bootstrap"), request.config.getoption("--registry")
    if bool(bootstrap) != bool(registry):
        raise pytest.UsageError("--bootstrap and --registry go together")
    if bootstrap:
        yield Servers(bootstrap, registry)
        return
    started = Box(tmp_path_factory.mktemp("box"))
    started.start(print_progress())
    yield Servers(started.bootstrap, started.registry_url)
    started.stop()


@pytest.fixture
def own_box(tmp_path: Path) -> Iterator[Callable[..., Box]]:
    """Starts boxes for one test only, `own_box(registry=False)`, in one directory unless `data_dir` says another; ends them all."""
    with ExitStack() as started:

        def start(*, data_dir: Path = tmp_path / "box", **options: int) -> Box:
            return started.enter_context(Box(data_dir, **options))

        yield start
