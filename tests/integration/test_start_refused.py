"""A process that is not set up as it must be does not start: every reason is named at once, before anything was polled or written.

The origin started with a consumer missing and its orders stayed confirmed for ever (bug 27).
"""

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from confluent_kafka.admin import AdminClient, NewTopic
from integration_harness import PATIENCE_S, until

from orderflow.cli import contracts
from orderflow.connectors.box.box import Servers
from orderflow.connectors.box.ports import free_port
from orderflow.schemas.catalog import Catalog, Topic
from orderflow.schemas.registry import Registry

pytestmark = pytest.mark.box

MISCONFIGURED = 78


class Refusal(NamedTuple):
    """How a process ended that did not start."""

    code: int
    errors: list[str]


class Place(NamedTuple):
    """A prefix on the shared servers, and a data directory."""

    servers: Servers
    names: Catalog
    data: Path

    def environment(self, **variables: str) -> dict[str, str]:
        """Nothing of ours but what is named here."""
        own = {
            "BOOTSTRAP": self.servers.bootstrap,
            "REGISTRY": self.servers.registry_url,
            "PREFIX": self.names.prefix,
            "GROUP": self.names.prefix,
            "DATA": str(self.data),
            "PROFILE": "demo",
            "WORKER_PORT": str(free_port()),
        }
        given = {f"ORDERFLOW_{name}": value for name, value in {**own, **variables}.items()}
        return {**{name: value for name, value in os.environ.items() if not name.startswith("ORDERFLOW_")}, **given}

    def refused(self, command: str, **variables: str) -> Refusal:
        program = [sys.executable, "-m", "orderflow.cli", command, "--json"]
        done = subprocess.run(program, env=self.environment(**variables), capture_output=True, text=True, timeout=PATIENCE_S)
        assert done.stdout, done.stderr
        return Refusal(done.returncode, json.loads(done.stdout)["errors"])

    @property
    def groups(self) -> list[str]:
        """The consumer groups of this prefix: a worker that polls has one."""
        admin = AdminClient({"bootstrap.servers": self.servers.bootstrap})
        found = admin.list_consumer_groups().result(PATIENCE_S)
        return [group.group_id for group in found.valid if group.group_id.startswith(self.names.prefix)]


@pytest.fixture(scope="module")
def place(box: Servers, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Place]:
    def make(word: str) -> Place:
        return Place(box, Catalog(f"{word}-{uuid.uuid4().hex[:8]}"), tmp_path_factory.mktemp(word) / "data")

    return make


@pytest.fixture(scope="module")
def right(place: Callable[[str], Place]) -> Place:
    """All that a worker needs."""
    made = place("right")
    contracts.apply_topics(made.servers.bootstrap, made.names)
    contracts.apply_schemas(made.servers.registry_url, made.names)
    return made


@pytest.fixture(scope="module")
def wrong(place: Callable[[str], Place]) -> Place:
    """Topics and subjects that are wrong in every way there is."""
    made = place("wrong")
    make_topics(made, {missing(made): None, miscounted(made): {"partitions": 3}, mistimed(made): {"message.timestamp.type": "CreateTime"}})
    registry = Registry(made.servers.registry_url)
    for subject in made.names.subjects():
        if subject.name not in unregistered(made):
            registry.register(subject.name, subject.schema)
    return made


def missing(at: Place) -> str:
    return at.names.events_topic("stock")


def miscounted(at: Place) -> str:
    return at.names.changelog_topic("stock", "reservation")


def mistimed(at: Place) -> str:
    return at.names.commands_topic("stock")


def unregistered(at: Place) -> list[str]:
    return [f"{at.names.commands_topic('orders')}-orderflow.orders.PlaceOrder", f"{at.names.status_topic('stock')}-value"]


def make_topics(at: Place, changed: Mapping[str, dict[str, Any] | None]) -> None:
    """The topics of the catalogue, some of them left out or made otherwise."""

    def new(topic: Topic) -> NewTopic:
        change = dict(changed.get(topic.name) or {})
        return NewTopic(topic.name, change.pop("partitions", topic.partitions), 1, config={**topic.config, **change})

    wanted = [new(topic) for topic in at.names.topics() if changed.get(topic.name, {}) is not None]
    admin = AdminClient({"bootstrap.servers": at.servers.bootstrap})
    for made in admin.create_topics(wanted).values():
        made.result(PATIENCE_S)


def of_the_servers(at: Place) -> list[str]:
    """What is wrong with the topics and subjects of `wrong`, in the words of the refusal."""
    registry = at.servers.registry_url
    return [
        f"topic {mistimed(at)}: message.timestamp.type is CreateTime, must be LogAppendTime",
        f"topic {missing(at)}: missing",
        f"topic {miscounted(at)}: partitions is 3, must be 4",
        f"schemas: not registered at {registry}, run `orderflow schemas apply`: {', '.join(unregistered(at))}",
    ]


MISSPELT = {"GRUOP": "shop"}
TOLD = "ORDERFLOW_GRUOP is no setting: did you mean ORDERFLOW_GROUP?"


def test_a_worker_names_everything_that_is_wrong_at_once_and_never_joins(wrong: Place) -> None:
    code, errors = wrong.refused("worker", GROUP="", **MISSPELT)
    assert code == MISCONFIGURED
    assert errors[0].startswith("ORDERFLOW_GROUP=: ")
    assert errors[1:] == [TOLD, *of_the_servers(wrong)]
    assert not (wrong.data / "db").exists()

    code, errors = wrong.refused("worker")
    assert (code, errors) == (MISCONFIGURED, of_the_servers(wrong)), "also without a wrong setting"
    assert wrong.groups == [], "it asked for no partition"


def test_an_edge_names_everything_that_is_wrong_at_once(wrong: Place) -> None:
    code, errors = wrong.refused("serve", PORT="no", **MISSPELT)
    assert code == MISCONFIGURED
    assert errors[0].startswith("ORDERFLOW_PORT=no: ")
    assert errors[1:] == [TOLD, *of_the_servers(wrong)]


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        (MISSPELT, TOLD),
        ({"GROUP": ""}, "ORDERFLOW_GROUP=: "),
        ({"GROUP": "two words"}, "ORDERFLOW_GROUP=two words: "),
        ({"LOCATIONS": ","}, "ORDERFLOW_LOCATIONS is empty"),
    ],
)
def test_one_wrong_setting_is_enough(right: Place, variables: dict[str, str], told: str) -> None:
    code, errors = right.refused("worker", **variables)
    assert code == MISCONFIGURED
    assert len(errors) == 1 and errors[0].startswith(told)
    assert right.groups == []


def test_a_wrong_place_is_named_and_nothing_is_said_about_another(right: Place) -> None:
    code, errors = right.refused("worker", PREFIX="two words", GROUP="")
    assert code == MISCONFIGURED
    assert [error.partition("=")[0] for error in errors] == ["ORDERFLOW_PREFIX", "ORDERFLOW_GROUP"]


@pytest.fixture
def running(right: Place) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen([sys.executable, "-m", "orderflow.cli", "worker"], env=right.environment(), stderr=subprocess.DEVNULL)
    yield process
    process.kill()
    process.wait()


def test_the_same_worker_joins_when_nothing_is_wrong(right: Place, running: "subprocess.Popen[bytes]") -> None:
    until(lambda: right.groups == [right.names.prefix] or running.poll() is not None, "it joins")
    assert running.poll() is None
    running.send_signal(signal.SIGTERM)
    assert running.wait(PATIENCE_S) == 0
