"""`orderflow verify` against real systems: right ones pass, and for each check one that was made wrong on purpose does not."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from integration_harness import ANSWERS, PATIENCE_S, PATIENT, until

from orderflow.cli import contracts
from orderflow.cli.main import main
from orderflow.cli.system import System
from orderflow.connectors.box.box import Servers
from orderflow.schemas.catalog import Catalog

pytestmark = pytest.mark.box

AHEAD_S = 10.0
"""Until a reservation is due that is made now, also on a machine that stands still for a few seconds."""

Start = Callable[..., System]
Json = dict[str, Any]


@pytest.fixture(scope="module")
def start(box: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts systems that share the Kafka of the test run, each under topic names and a group of its own."""
    started: list[System] = []

    def one(name: str, wrong: str = "") -> System:
        data = tmp_path_factory.mktemp(name)
        command = [sys.executable, "-m", "orderflow.cli", "worker"]
        if wrong:
            (data / "worker.py").write_text(f"{wrong}\nfrom orderflow.cli.main import main\nmain(['worker'])\n")
            command = [sys.executable, str(data / "worker.py")]
        names = {"ORDERFLOW_PREFIX": data.name, "ORDERFLOW_GROUP": data.name, **PATIENT, **ANSWERS}
        system = System(data, servers=box, environment=names, worker_program=command)
        started.append(system)
        system.start()
        return system

    yield one
    for system in started:
        system.stop()


@pytest.fixture(scope="module")
def system(start: Start) -> System:
    """One that is as it must be."""
    return start("right")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    """Exit code and JSON of a command line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--json"])
    code = ended.value.code
    assert isinstance(code, int | None)
    return code or 0, json.loads(capsys.readouterr().out)


def at(system: System) -> tuple[str, str, str, str]:
    return "--url", system.url, "--data", str(system.data)


# -- as it must be ------------------------------------------------------------------------------------------------------------------
def test_fifty_buyers_of_ten_units(system: System, capsys: pytest.CaptureFixture[str]) -> None:
    code, report = run(capsys, "verify", "race", "--orders", "50", "--stock", "10", *at(system))
    assert (code, report["faults"]) == (0, [])
    assert report["figures"]["confirmed"] == 10 and report["figures"]["rejected"] == 40 and report["figures"]["available"] == 0
    assert report["figures"]["stock_events"] >= 50, "the log was read"


def test_fifty_impatient_buyers_and_a_worker_that_is_killed(system: System, capsys: pytest.CaptureFixture[str]) -> None:
    code, report = run(capsys, "verify", "race", "--kill-worker", "--duplicate-posts", *at(system))
    assert (code, report["faults"]) == (0, [])
    assert sum(report["figures"]["answers"].values()) == 100 and report["figures"]["worker_killed"] > 0


def test_all_arrival_orders_end_shipped(system: System, capsys: pytest.CaptureFixture[str]) -> None:
    code, report = run(capsys, "verify", "ordering", *at(system))
    assert (code, report["faults"]) == (0, [])
    assert report["figures"]["ended"] == {"one after another": {"shipped": 24}, "at once": {"shipped": 24}}


def test_a_reservation_that_is_due_expires(box: Servers, system: System, capsys: pytest.CaptureFixture[str]) -> None:
    reserve_for_a_while(box, system, capsys)
    until(lambda: due(system, capsys) == (5, 0), "its units are for sale again")
    code, report = run(capsys, "verify", "stuck", *at(system))
    assert (code, report["faults"]) == (0, [])


# -- made wrong on purpose ----------------------------------------------------------------------------------------------------------
OVERSELLS = """
from orderflow.streams.domain import backorders, stock
from orderflow.streams.domain.parts import Qty
backorders.ahead = lambda cells: -1_000_000
stock.allocate = lambda cells, quantity, preferred: (Qty(cells[0].location_id, "", quantity),)
stock.violations = lambda state: ()
"""
FORGETS_WHAT_CAME_EARLY = """
from orderflow.streams.domain import fulfillment
from orderflow.streams.domain.reasons import Reason
from orderflow.streams.domain.refusals import refusal
fulfillment._buffered = lambda row, command, target, turn, *, own: refusal(command, Reason.PREDECESSOR_MISSING, status=command.status)
"""
NEVER_EXPIRES = """
from orderflow.streams.domain import stock
stock._expire = lambda state, command, turn: ()
"""


def test_a_system_that_oversells_is_found(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    code, report = run(capsys, "verify", "race", *at(start("oversells", OVERSELLS)))
    assert code == 1 and not report["passed"]
    assert report["figures"]["confirmed"] == 50 and report["figures"]["available"] == report["figures"]["available_lowest"] == -40
    assert any("50 orders were confirmed, must be 10" in fault for fault in report["faults"])


def test_a_system_that_forgets_early_posts_is_found(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    code, report = run(capsys, "verify", "ordering", "--wait", "30", *at(start("forgets", FORGETS_WHAT_CAME_EARLY)))
    assert code == 1 and any("must be shipped" in fault for fault in report["faults"])
    assert any("409 PREDECESSOR_MISSING" in fault for fault in report["faults"])


def test_a_system_that_never_expires_is_found(box: Servers, start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = start("never", NEVER_EXPIRES)
    reserve_for_a_while(box, wrong, capsys)
    code, report = run(capsys, "verify", "stuck", *at(wrong))
    assert code == 1 and "reservation DUE~o-due~1 of order o-due is overdue by" in report["faults"][0]


def due(system: System, capsys: pytest.CaptureFixture[str]) -> tuple[int, int]:
    """(available, reserved) of DUE."""
    _, stock = run(capsys, "stock", "get", "DUE", "--url", system.url)
    return stock["available"], stock["reserved"]


def reserve_for_a_while(box: Servers, system: System, capsys: pytest.CaptureFixture[str]) -> None:
    """Reserve two of five units for ten seconds, as an order that then goes silent would; return when they are well overdue."""
    from confluent_kafka import Producer

    from orderflow.streams.domain.contract import CommandMeta
    from orderflow.streams.domain.parts import Holder
    from orderflow.streams.domain.stock_records import ReserveStock

    code, _ = run(capsys, "stock", "receive", "DUE", "5", "--key", "due", "--url", system.url)
    assert code == 0
    space = records_of(box, system).of("stock")
    now = time.time_ns() // 1000
    command = ReserveStock("DUE~o-due~1", Holder("o-due", 1), 2, now + int(AHEAD_S * 1_000_000))
    producer = Producer({"bootstrap.servers": box.bootstrap, "partitioner": "murmur2_random"})
    producer.produce(space.commands, space.encode_command(CommandMeta("reserve-due", now), "DUE", command), b"DUE")
    assert producer.flush(PATIENCE_S) == 0
    until(lambda: due(system, capsys) == (3, 2), "they are reserved")
    time.sleep(max(0.0, now / 1_000_000 + AHEAD_S + 2.5 - time.time()))


def records_of(box: Servers, system: System) -> Any:
    return contracts.load_records(box.registry_url, Catalog(system.data.name), system.data / "schemas.json")


# -- the other verbs, on the same system --------------------------------------------------------------------------------------------
def test_an_order_through_the_command_line(system: System, capsys: pytest.CaptureFixture[str]) -> None:
    url = ("--url", system.url)
    assert run(capsys, "stock", "receive", "BOOK", "3", "--reference", "note-1", *url)[0] == 0
    code, order = run(capsys, "orders", "place", "BOOK=2", "--order-id", "cli-1", "--key", "k1", *url)
    assert code == 0 and order["order_id"] == "cli-1"
    assert run(capsys, "orders", "place", "BOOK=2", "--order-id", "cli-1", "--key", "k1", *url)[1]["order_id"] == "cli-1"
    code, problem = run(capsys, "orders", "place", "BOOK=2", *url)
    assert code == 1 and problem["code"] == "INSUFFICIENT_STOCK" and problem["shortages"][0]["available"] == 1
    listed = run(capsys, "orders", "list", "--sku", "BOOK", *url)[1]
    assert listed["total"] == 2 and run(capsys, "orders", "list", "--sku", "BOOK", "--status-not", "cancelled", *url)[1]["total"] == 1
    for status in ("picking", "picked", "packed", "shipped"):
        assert run(capsys, "fulfillment", "post", "cli-1", status, *url)[0] in (0, 75)
    assert run(capsys, "fulfillment", "deliver", "cli-1", *url)[0] == 0
    assert run(capsys, "orders", "get", "cli-1", *url)[1]["status"] == "delivered"
    events = run(capsys, "orders", "timeline", "cli-1", *url)[1]["events"]
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert run(capsys, "orders", "get", "nobody", *url)[0] == 1


def test_an_order_is_canceled_and_its_units_come_back(system: System, capsys: pytest.CaptureFixture[str]) -> None:
    url = ("--url", system.url)
    assert run(capsys, "stock", "receive", "PEN", "1", *url)[0] == 0
    assert run(capsys, "orders", "place", "PEN", "--order-id", "cli-2", *url)[0] == 0
    assert run(capsys, "orders", "cancel", "cli-2", "--reason", "changed my mind", *url)[0] in (0, 75)
    until(lambda: run(capsys, "stock", "get", "PEN", *url)[1]["available"] == 1, "its units come back")
    until(lambda: run(capsys, "orders", "get", "cli-2", *url)[1]["status"] == "canceled", "it hears of it, one step later")


def test_stock_is_adjusted_with_a_reason(system: System, capsys: pytest.CaptureFixture[str]) -> None:
    url = ("--url", system.url)
    assert run(capsys, "stock", "receive", "INK", "3", *url)[0] == 0
    code, stock = run(capsys, "stock", "adjust", "INK", "-2", "--reason", "damaged", *url)
    assert code == 0 and stock["on_hand"] == 1
    assert run(capsys, "stock", "adjust", "INK", "-2", "--reason", "damaged", *url)[0] == 1
    assert run(capsys, "stock", "get", "INK", *url)[1]["on_hand"] == 1


def test_channels_are_set_and_listed(
    box: Servers, system: System, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORDERFLOW_PREFIX", system.data.name)
    where = ("--bootstrap", box.bootstrap, "--registry", box.registry_url)
    (tmp_path / "channels.json").write_text('{"shop": {"currency": "VND"}, "box": {"client_ids": true}}')
    assert run(capsys, "channels", "apply", str(tmp_path / "channels.json"), "--wait", "60", *where) == (
        0,
        {"applied": ["shop", "box"], "open": []},
    )
    channels = {each["key"]: each for each in run(capsys, "channels", "list", *where)[1]}
    assert channels["channel:shop"]["policy"]["currency"] == "VND"
    assert channels["channel:box"]["version"] == 1, "setting what is set already changes nothing"
    (tmp_path / "channels.json").write_text('{"bad": {"payment_terms": "never"}}')
    code, result = run(capsys, "channels", "apply", str(tmp_path / "channels.json"), "--wait", "2", *where)
    assert code == 75 and result["open"] == ["bad"]


def test_a_command_that_cannot_be_read_is_shown(
    box: Servers, system: System, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from confluent_kafka import Producer

    monkeypatch.setenv("ORDERFLOW_PREFIX", system.data.name)
    producer = Producer({"bootstrap.servers": box.bootstrap, "partitioner": "murmur2_random"})
    producer.produce(Catalog(system.data.name).commands_topic("orders"), b"no record at all", b"poison")
    assert producer.flush(PATIENCE_S) == 0
    (letter,) = until(lambda: run(capsys, "dlq", "list", "--space", "orders", "--bootstrap", box.bootstrap)[1], "it is set aside")
    assert letter["key"] == "poison" and bytes.fromhex(letter["value_hex"]) == b"no record at all" and letter["cause"]
    place = (str(letter["partition"]), str(letter["offset"]))
    assert run(capsys, "dlq", "show", "orders", *place, "--bootstrap", box.bootstrap)[1] == letter
    assert run(capsys, "dlq", "show", "orders", place[0], "999", "--bootstrap", box.bootstrap)[0] == 1


def test_a_second_system_in_the_same_directory_is_refused(system: System, box: Servers) -> None:
    from orderflow.cli.terminal import Failure

    with pytest.raises(Failure, match="a system runs in"):
        System(system.data, servers=box).start()


# -- contracts and settings on a real broker ----------------------------------------------------------------------------------------
def test_topics_and_schemas_from_nothing(box: Servers, capsys: pytest.CaptureFixture[str]) -> None:
    name = ("--prefix", "fromnothing")
    kafka, registry = ("--bootstrap", box.bootstrap, *name), ("--registry", box.registry_url, *name)
    code, plan = run(capsys, "topics", "plan", *kafka)
    assert code == 1 and {each["apply"] for each in plan} == {"make"}
    assert run(capsys, "schemas", "list", *registry)[0] == 1
    assert len(run(capsys, "topics", "apply", *kafka)[1]["made"]) == len(plan)
    assert run(capsys, "topics", "apply", *kafka)[1]["made"] == []
    assert run(capsys, "schemas", "apply", *registry)[0] == 0
    assert run(capsys, "schemas", "apply", *registry) == (0, [])
    assert run(capsys, "topics", "plan", *kafka) == (0, []) and run(capsys, "schemas", "list", *registry)[0] == 0
    code, plan = run(capsys, "topics", "plan", "--partitions", "5", *kafka)
    assert code == 1 and {each["apply"] for each in plan if each["what"] == "partitions"} == {"refuse"}
    assert run(capsys, "topics", "apply", "--partitions", "5", *kafka)[0] == 78


def test_a_worker_without_its_topics_lists_all_of_them(
    box: Servers, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORDERFLOW_PREFIX", "nowhere")
    where = ("--bootstrap", box.bootstrap, "--registry", box.registry_url, "--data", str(tmp_path))
    code, refusal = run(capsys, "worker", *where)
    missing = [error for error in refusal["errors"] if error.endswith(": missing")]
    assert code == 78 and len(missing) == len(Catalog("nowhere").topics())
    assert any("not registered" in error for error in refusal["errors"])
    assert run(capsys, "serve", "--profile", "demo", *where)[0] == 78


def test_a_worker_refuses_a_topic_without_log_append_time(
    box: Servers, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from confluent_kafka.admin import AdminClient, NewTopic

    monkeypatch.setenv("ORDERFLOW_PREFIX", "wrongtime")
    admin, name = AdminClient({"bootstrap.servers": box.bootstrap}), "wrongtime.orders.commands.v1"
    admin.create_topics([NewTopic(name, 3, 1, config={"message.timestamp.type": "CreateTime"})])[name].result()
    code, refusal = run(capsys, "worker", "--bootstrap", box.bootstrap, "--registry", box.registry_url, "--data", str(tmp_path))
    assert code == 78
    assert f"topic {name}: message.timestamp.type is CreateTime, must be LogAppendTime" in refusal["errors"]
    assert f"topic {name}: partitions is 3, must be 4" in refusal["errors"]
