"""Open sagas found through the real indexes of real rows on disk: listed, shown, sampled, and counted as they end."""

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flow_harness import RECORDS, Flow
from prometheus_client import CollectorRegistry

from orderflow.streams import open_sagas
from orderflow.streams.domain.order_records import CancelOrder, PlacedLine, PlaceOrder
from orderflow.streams.domain.parts import Money
from orderflow.streams.domain.payment_records import CapturePayment, PaymentRequested, RecordProviderResult
from orderflow.streams.domain.sagas import End, Patience
from orderflow.streams.domain.stock_records import ReceiveStock
from orderflow.streams.open_sagas import OpenSagas
from orderflow.streams.reading import NotHere, Reader
from orderflow.streams.saga_figures import SagaFigures
from orderflow.streams.topology import SPACES
from orderflow.streams.worker import command_log
from orderflow.tables.rocks import Position


@pytest.fixture
def flow(tmp_path: Path) -> Iterator[Flow]:
    """Two prepaid orders that wait for their provider, and one of an invoice that waits for nobody."""
    flow = Flow(tmp_path)
    flow.send("stock", "A", ReceiveStock("main", 5, reference="r"), "receive")
    for order_id, terms in (("o1", "prepaid"), ("o2", "invoice"), ("o3", "prepaid")):
        line = PlacedLine("1", "A", 1, unit_price=Money(500, "EUR"))
        flow.send("orders", order_id, PlaceOrder("box", payment_terms=terms, lines=(line,)), f"place {order_id}")
        flow.run()
    yield flow
    flow.check_fold()
    flow.store.close()


def looking_at(flow: Flow, patience: Patience = Patience(), caught_up: bool = True) -> OpenSagas:  # noqa: B008  (frozen)
    """The sagas of a worker that owns the flow's partitions."""
    logs = {log.topic: log for log in (command_log(space, RECORDS) for space in SPACES)}
    partitions = {
        (topic, 0): SimpleNamespace(
            rows=flow.rows[log.space],
            family=flow.rows[log.space].family,
            number=0,
            running=True,
            caught_up=caught_up,
            committed=Position(),
        )
        for topic, log in logs.items()
    }
    engine: Any = SimpleNamespace(logs=logs, partitions=partitions, restoring={})
    return OpenSagas(Reader(engine, SPACES, 1, {}), patience)


def say(flow: Flow, order_id: str, outcome: str = "succeeded") -> None:
    asked = [event for _, key, event in flow.events("orders") if key == order_id and isinstance(event, PaymentRequested)][-1]
    result = RecordProviderResult(asked.attempt_id, asked.operation, asked.operation_no, outcome, asked.amount, "local", "ref")
    flow.send("orders", order_id, result, f"{asked.idempotency_key}:{outcome}", reply_to=None)
    flow.run()


def test_what_is_open_is_listed_the_longest_wait_first(flow: Flow) -> None:
    found = looking_at(flow).matching(False, "", 500)
    assert [(each["order_id"], each["saga_type"], each["step"]) for each in found["items"]] == [
        ("o1", "place", "authorize"),
        ("o3", "place", "authorize"),
    ]
    assert (found["total"], found["by_label"], found["partitions"]) == (2, {"place": 2}, [0])
    assert looking_at(flow).matching(False, "", 1)["total"] == 2, "the limit bounds what is shown, not what is counted"
    assert looking_at(flow).matching(False, "cancel", 500)["items"] == []


def test_a_saga_leaves_the_list_as_it_ends(flow: Flow) -> None:
    say(flow, "o1")
    flow.send("orders", "o3", CancelOrder(), "cancel")
    flow.run()
    assert [(each["order_id"], each["saga_type"]) for each in looking_at(flow).matching(False, "", 500)["items"]] == [("o3", "cancel")]
    say(flow, "o3")
    say(flow, "o3")
    assert looking_at(flow).matching(False, "", 500)["items"] == []
    family = flow.rows["orders"].family
    tables = flow.rows["orders"].tables
    assert [key for name in ("order", "payment") for _, key in family.scan(tables[name].index_prefix("open"))] == []


def test_money_that_moves_for_an_order_at_rest_is_found_too(flow: Flow) -> None:
    """The order's own row says nothing of it: its payment's does."""
    say(flow, "o1")
    flow.send("orders", "o1", CapturePayment(), "capture")
    flow.run()
    assert flow.tables("orders")["order"]["o1"].answers_open == 0
    found = looking_at(flow).matching(False, "payment", 500)["items"]
    assert [(each["order_id"], each["step"]) for each in found] == [("o1", "capture")]


def test_stuck_is_said_of_what_has_caught_up_only(flow: Flow) -> None:
    """The flow's clock lies in the future, so patience below zero is what makes its sagas old."""
    impatient = Patience(-(2**31), -(2**31))
    assert looking_at(flow).matching(True, "", 500)["total"] == 0
    found = looking_at(flow, impatient).matching(True, "", 500)
    assert [each["stuck"] for each in found["items"]] == ["overdue", "overdue"]
    behind = looking_at(flow, impatient, caught_up=False).matching(True, "", 500)
    assert (behind["total"], behind["caught_up"]) == (0, False)


def test_one_order_is_shown_with_its_status(flow: Flow) -> None:
    found = looking_at(flow)
    assert found.of("nobody") is None
    shown = found.of("o1")
    assert shown is not None and (shown["status"], len(shown["items"])) == ("PENDING", 1)
    assert list(shown["items"][0]["waits_for"]) == ["provider local"]
    at_rest = found.of("o2")
    assert at_rest is not None and at_rest["items"] == []
    found.reader.engine.partitions.clear()
    with pytest.raises(NotHere):
        found.of("o1")


def test_figures_count_ends_and_look_at_what_is_open(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = CollectorRegistry()
    monkeypatch.setattr(open_sagas, "SAMPLE_S", 0.0)
    figures = SagaFigures(looking_at(flow), registry)
    say(flow, "o1")
    say(flow, "o3", "declined")
    figures.ended(flow.ended)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, labels)

    assert value("orderflow_sagas_total", type="place", outcome="completed") == 2
    assert value("orderflow_sagas_total", type="place", outcome="refused") == 1
    assert value("orderflow_sagas_total", type="cancel", outcome="compensated") == 0, "a rate needs the series before its first end"
    assert value("orderflow_saga_step_seconds_count", type="place") == 3
    assert value("orderflow_saga_step_seconds_bucket", type="place", le="+Inf") == 3
    assert value("orderflow_sagas_open", type="place") == 0 and value("orderflow_sagas_cut") == 0


def test_the_page_for_people_on_call_names_figures_that_exist(flow: Flow) -> None:
    registry = CollectorRegistry()
    figures = SagaFigures(looking_at(flow), registry)
    figures.ended([End("place", "completed", 1)])
    exposed = {sample.name for metric in registry.collect() for sample in metric.samples}
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "stuck-orders.md").read_text()
    named = set(re.findall(r"orderflow_sagas?_\w+", page))
    assert named and named <= exposed | {"orderflow_saga_step_seconds"}, named - exposed


def test_a_sample_is_bounded_and_says_so(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    assert looking_at(flow).sample().open == {"place": 2} and not looking_at(flow).sample().cut
    monkeypatch.setattr(open_sagas, "SAMPLE_ORDERS_MAX", 1)
    cut = looking_at(flow).sample()
    assert (cut.open, cut.cut) == ({"place": 1}, True)


def test_a_sample_is_not_taken_again_within_its_time(flow: Flow) -> None:
    found = looking_at(flow)
    first = found.sample()
    say(flow, "o1")
    assert found.sample() is first
