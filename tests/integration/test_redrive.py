"""Dead letters go back on their logs: as they came, once, whatever ends the one who does it."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from integration_harness import PATIENCE_S, Place, Raw, Rig, eventually, started, until

from orderflow.cli import invariants, letters
from orderflow.cli.terminal import Failure
from orderflow.connectors.box.box import Servers
from orderflow.schemas.catalog import INPUT_BYTES_MAX
from orderflow.schemas.partitioner import partition_of
from orderflow.streams.domain.stock_records import ReceiveStock

pytestmark = pytest.mark.box

TRACE = ("traceparent", b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01")
NOWHERE = "1000000000"
"""An offset at which there is no command: the record that was set aside is gone."""


@pytest.fixture(scope="module")
def rig(box: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with started(box, tmp_path_factory.mktemp("redrive"), "redrive") as running:
        yield running


def orderflow(rig: Rig, *arguments: str, code: int = 0, answer: str | None = None) -> subprocess.CompletedProcess[str]:
    """The command line, with an answer on stdin or with nobody to give one."""
    environment = {**os.environ, "ORDERFLOW_BOOTSTRAP": rig.bootstrap, "ORDERFLOW_PREFIX": rig.names.prefix}
    program = [sys.executable, "-m", "orderflow.cli", "dlq", *arguments]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, input=answer or "")
    assert done.returncode == code, done
    return done


def redrive(rig: Rig, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(orderflow(rig, "redrive", *arguments, "--yes", "--json").stdout)
    return found


def sound(rig: Rig, sku: str, quantity: int = 3) -> Raw:
    command = rig.command("stock", sku, ReceiveStock("main", quantity, reference="test"))
    return command._replace(headers=(TRACE,), partition=partition_of(sku.encode(), rig.names.partitions))


def set_aside(rig: Rig, raw: Raw, reason: str) -> Place:
    """A letter of a record that an earlier version could not process: this one can."""
    said = {
        **dict.fromkeys(letters.ADDED, "earlier"),
        "topic": raw.topic,
        "partition": str(raw.partition),
        "offset": NOWHERE,
        "reason": reason,
    }
    headers = tuple((name, value.encode()) for name, value in said.items())
    (place,) = rig.produce([raw._replace(topic=rig.names.dlq_topic("stock"), headers=(*headers, *raw.headers))])
    return place


def put_back(rig: Rig, sku: str) -> list[Any]:
    """The records of a key on its log that came from a letter."""
    return [each for each in rig.read(rig.names.commands_topic("stock"), sku) if letters.FROM in dict(each.headers() or ())]


def letter_at(rig: Rig, place: Place) -> letters.Letter:
    (found,) = (each for each in letters.read(rig.bootstrap, rig.names, ["stock"]) if (each.partition, each.offset) == place[1:])
    return found


class Killed:
    """A producer that does not come to its commit; all before that is on the broker."""

    def __init__(self, producer: Any) -> None:
        self._producer = producer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def commit_transaction(self, timeout: float) -> None:
        self._producer.flush(PATIENCE_S)
        raise KeyboardInterrupt


def reason_of_its_own() -> str:
    return f"FAILED-{uuid.uuid4().hex[:8]}"


def test_without_letters_there_is_nothing_to_put_back(rig: Rig) -> None:
    """First: the others leave letters."""
    assert orderflow(rig, "redrive", "--all").stdout == "nothing to put back\n"
    assert (
        "no dead letter at stock 0 7" in orderflow(rig, "redrive", "--space", "stock", "--partition", "0", "--offset", "7", code=1).stderr
    )


async def test_what_can_be_processed_now_is_processed_once(rig: Rig, box: Servers) -> None:
    sku, reason = f"SKU-{uuid.uuid4().hex[:8]}", reason_of_its_own()
    raw = sound(rig, sku)
    place = set_aside(rig, raw, reason)

    shown = orderflow(rig, "redrive", "--reason", reason, "--dry-run").stdout
    assert f"{raw.topic}[{raw.partition}]" in shown and "1 record would be put back" in shown
    assert put_back(rig, sku) == []
    for answer in (None, "n\n"):
        assert "nothing was put back" in orderflow(rig, "redrive", "--reason", reason, code=1, answer=answer).stderr
    assert put_back(rig, sku) == []

    done = orderflow(rig, "redrive", "--reason", reason, answer="y\n").stdout
    assert done.startswith("space ") and "1 record put back" in done, "the question is not on stdout"
    await eventually(lambda: rig.get(f"/api/v1/stock/{sku}"), lambda found: found.status == 200)
    (back,) = put_back(rig, sku)
    assert (back.key(), back.value(), back.partition()) == (raw.key, raw.value, raw.partition)
    assert back.headers() == [TRACE, (letters.FROM, f"{place.topic}[{place.partition}]@{place.offset}".encode())]

    again = redrive(rig, "--reason", reason)
    assert (again["letters"], again["before"]) == ([], 1)
    at_its_place = redrive(rig, "--topic", raw.topic, "--partition", str(place.partition), "--offset", str(place.offset))
    assert (at_its_place["letters"], at_its_place["before"]) == ([], 1)
    assert len(put_back(rig, sku)) == 1
    assert await rig.stock(sku) == (3, 3, 0, 0)
    (listed,) = (each for each in json.loads(orderflow(rig, "list", "--json").stdout) if each["reason"] == reason)
    assert listed["redriven"] >= listed["at"]


async def test_a_command_that_was_sent_again_meanwhile_has_no_second_effect(rig: Rig) -> None:
    sku, reason = f"SKU-{uuid.uuid4().hex[:8]}", reason_of_its_own()
    raw = sound(rig, sku)
    set_aside(rig, raw, reason)
    rig.produce([raw])
    await eventually(lambda: rig.get(f"/api/v1/stock/{sku}"), lambda found: found.status == 200)
    assert await rig.stock(sku) == (3, 3, 0, 0)
    redrive(rig, "--reason", reason)
    rig.produce([sound(rig, sku, 1)])
    await rig.stock_becomes(sku, 4, 4, 0, 0)


def test_what_cannot_be_processed_still_is_set_aside_again_and_that_letter_is_another_one(rig: Rig, box: Servers) -> None:
    sku = f"SKU-{uuid.uuid4().hex[:8]}"
    wrong = sound(rig, sku)._replace(value=b"not a command")
    rig.produce([wrong])

    def of_it() -> list[letters.Letter]:
        return [each for each in letters.read(rig.bootstrap, rig.names, ["stock"]) if each.key == wrong.key]

    (first,) = until(of_it, "it is set aside")
    redrive(rig, "--space", "stock", "--partition", str(first.partition), "--offset", str(first.offset))
    first, second = until(lambda: len(of_it()) == 2 and of_it(), "it is set aside again") or []
    assert first.redriven_ms is not None and second.redriven_ms is None
    assert second.value == wrong.value
    assert second.said(letters.FROM) == f"{first.topic}[{first.partition}]@{first.offset}"
    verified = invariants.run(box.bootstrap, box.registry_url, rig.names.prefix, rig.names.partitions)
    assert [fault for fault in verified.faults if fault.startswith("I17")] == [], "it knows marks, and what was put back"


def test_who_is_killed_in_the_middle_has_put_nothing_back(rig: Rig) -> None:
    sku, reason = f"SKU-{uuid.uuid4().hex[:8]}", reason_of_its_own()
    place = set_aside(rig, sound(rig, sku), reason)
    killed = Killed(letters.redriver(rig.bootstrap, rig.names))
    with pytest.raises(KeyboardInterrupt):
        letters.put_back(killed, [letter_at(rig, place)], rig.names)  # type: ignore[arg-type]
    assert len(redrive(rig, "--reason", reason)["letters"]) == 1
    assert len(put_back(rig, sku)) == 1
    assert letter_at(rig, place).redriven_ms is not None


def test_of_two_at_once_the_later_one_wins(rig: Rig) -> None:
    sku, reason = f"SKU-{uuid.uuid4().hex[:8]}", reason_of_its_own()
    place = set_aside(rig, sound(rig, sku), reason)
    slow = letters.redriver(rig.bootstrap, rig.names)
    chosen = letter_at(rig, place)
    assert len(redrive(rig, "--reason", reason)["letters"]) == 1
    with pytest.raises(Failure, match="somebody else"):
        letters.put_back(slow, [chosen], rig.names)
    assert len(put_back(rig, sku)) == 1


def test_all_go_back_or_none(rig: Rig) -> None:
    """A record as large as its log takes has no room for one more header."""
    sku, reason = f"SKU-{uuid.uuid4().hex[:8]}", reason_of_its_own()
    raw = sound(rig, sku)
    full = raw._replace(value=b"x" * (INPUT_BYTES_MAX - 100), headers=())
    small, large = set_aside(rig, raw, reason), full
    said = {**dict.fromkeys(letters.ADDED, "earlier"), "topic": raw.topic, "partition": str(raw.partition), "reason": reason}
    producer = letters.redriver(rig.bootstrap, rig.names)
    producer.begin_transaction()
    producer.produce(small.topic, large.value, large.key, large.partition, headers=[(name, each.encode()) for name, each in said.items()])
    producer.commit_transaction(PATIENCE_S)

    assert "does not go to" in orderflow(rig, "redrive", "--reason", reason, "--yes", code=1).stderr
    assert put_back(rig, sku) == []
    assert letter_at(rig, small).redriven_ms is None
    redrive(rig, "--space", "stock", "--partition", str(small.partition), "--offset", str(small.offset))
    assert len(put_back(rig, sku)) == 1
