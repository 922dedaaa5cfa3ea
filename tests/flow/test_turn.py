"""The turn's own promises, whatever the rules: once, in order, whole or parked."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from flow_harness import RECORDS, Flow

from orderflow.streams import turn
from orderflow.streams.domain.contract import CommandMeta, ReplyTo
from orderflow.streams.domain.order_records import PlacedLine, PlaceOrder
from orderflow.streams.domain.parts import Holder
from orderflow.streams.domain.stock_records import AdjustStock, ReceiveStock, ReserveStock

FAR = 2_000_000_000_000_000


@pytest.fixture
def flow(tmp_path: Path) -> Iterator[Flow]:
    flow = Flow(tmp_path)
    yield flow
    flow.check_fold()
    flow.store.close()


def receive(flow: Flow, sku: str, quantity: int, command_id: str = "c-receive") -> None:
    flow.send("stock", sku, ReceiveStock("main", quantity, reference="r"), command_id)
    flow.run()


def reserve(sku: str, order_id: str, quantity: int) -> ReserveStock:
    return ReserveStock(f"{sku}~{order_id}~1", Holder(order_id, 1), quantity, FAR)


def place(flow: Flow, order_id: str, sku: str = "A", quantity: int = 1, command_id: str = "", **meta: object) -> None:
    order = PlaceOrder("box", lines=(PlacedLine("1", sku, quantity),))
    flow.send("orders", order_id, order, command_id or f"c-{order_id}", **meta)


def test_an_order_goes_from_place_to_confirmed_and_the_reply_is_the_snapshot(flow: Flow) -> None:
    receive(flow, "A", 5)
    place(flow, "o1")
    flow.run()
    (reply,) = flow.replies("c-o1")
    assert (reply.outcome, reply.reason) == ("applied", "")
    snapshot = RECORDS.unpack(reply.body).value
    assert snapshot.order_id == "o1"
    assert snapshot.status.value in ("CONFIRMED", "PROCESSING")
    assert flow.snapshots("stock")["A"].cells[0].available == 4


def test_a_refused_order_names_the_shortage_to_the_one_who_waits(flow: Flow) -> None:
    receive(flow, "A", 1)
    place(flow, "o1", quantity=3)
    flow.run()
    (reply,) = flow.replies("c-o1")
    refused = RECORDS.unpack(reply.body).value
    assert (reply.outcome, refused.reason) == ("refused", "INSUFFICIENT_STOCK")
    assert [(s.sku, s.requested, s.available) for s in refused.shortages] == [("A", 3, 1)]


def test_sequences_are_gap_free_and_ids_derive_from_them(flow: Flow) -> None:
    receive(flow, "A", 5)
    for number in range(7):
        place(flow, f"o{number}")
    flow.run()
    metas = [meta for meta, key, _ in flow.events("stock") if key == "A"]
    assert [meta.sequence for meta in metas] == list(range(1, len(metas) + 1))
    assert [meta.event_id for meta in metas] == [f"stock:A:{n}" for n in range(1, len(metas) + 1)]


def test_a_repeated_command_changes_nothing_and_gets_its_first_answer(flow: Flow) -> None:
    receive(flow, "A", 5, "same")
    before = len(flow.events("stock"))
    receive(flow, "A", 5, "same")
    assert len(flow.events("stock")) == before
    first, second = flow.replies("same")
    assert first.body == second.body
    assert flow.tables("stock")["stock"]["A"].cells[0].on_hand == 5


def test_a_repeated_refused_reservation_gets_the_first_answer_even_when_there_is_stock_now(flow: Flow) -> None:
    receive(flow, "A", 1)
    flow.send("stock", "A", reserve("A", "o9", 2), "r1", reply_to=None)
    flow.run()
    receive(flow, "A", 10, "more")
    sent = [o.value for o in flow.outputs if o.topic == RECORDS.of("orders").commands]
    flow.send("stock", "A", reserve("A", "o9", 2), "r1", reply_to=None)
    flow.run()
    again = [o.value for o in flow.outputs if o.topic == RECORDS.of("orders").commands][len(sent) :]
    answers = [RECORDS.of("orders").decode_command(value or b"") for value in (sent[-1], again[-1])]
    assert answers[0][0].command_id == answers[1][0].command_id
    assert answers[0][2] == answers[1][2]
    assert flow.tables("stock")["reservation"] == {}


def test_the_same_key_with_another_body_is_refused(flow: Flow) -> None:
    receive(flow, "A", 5)
    flow.send("stock", "A", AdjustStock("main", delta=-1, reason="damage"), "k", body_hash="one")
    flow.run()
    flow.send("stock", "A", AdjustStock("main", delta=-2, reason="damage"), "k", body_hash="two")
    flow.run()
    assert [reply.reason for reply in flow.replies("k")] == ["", "KEY_REUSED"]
    assert flow.tables("stock")["stock"]["A"].cells[0].on_hand == 4


def test_a_duplicate_in_flight_waits_for_the_same_answer(flow: Flow) -> None:
    receive(flow, "A", 1)
    place(flow, "o1", command_id="c", reply_to=ReplyTo("edge", 0, "first"))
    place(flow, "o1", command_id="c", reply_to=ReplyTo("edge", 0, "second"))
    flow.run()
    replies = flow.replies("c")
    assert sorted(reply.request_id for reply in replies) == ["first", "second"]
    assert len({(reply.outcome, reply.body) for reply in replies}) == 1


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (b"A", b"", "EMPTY"),
        (b"A", None, "EMPTY"),
        (b"A", b"not avro at all", "UNDECODABLE"),
        (b"A", b"\0\0\0\xff\xff123", "UNDECODABLE"),
    ],
)
def test_what_cannot_be_decoded_is_parked_with_its_bytes_and_its_neighbours_go_on(
    flow: Flow, key: bytes, value: bytes | None, reason: str
) -> None:
    flow.send("stock", "A", ReceiveStock("main", 2, reference="r"), "before")
    flow.append("stock", key, value, [("traceparent", b"t")])
    flow.send("stock", "A", ReceiveStock("main", 3, reference="r"), "after")
    flow.run()
    (letter,) = flow.parked("stock")
    headers = dict(letter.headers or [])
    assert (letter.key, letter.value or b"", headers["reason"]) == (key, value or b"", reason.encode())
    assert headers["topic"] == RECORDS.of("stock").commands.encode()
    assert headers["offset"] == b"1"
    assert headers["traceparent"] == b"t"
    assert flow.tables("stock")["stock"]["A"].cells[0].on_hand == 5


def test_a_record_with_the_wrong_key_is_parked(flow: Flow) -> None:
    value = RECORDS.of("stock").encode_command(CommandMeta("c", 1), "A", ReceiveStock("main", 2, reference="r"))
    flow.append("stock", b"B", value)
    flow.run()
    (letter,) = flow.parked("stock")
    assert dict(letter.headers or [])["reason"] == b"WRONG_KEY"
    assert flow.tables("stock")["stock"] == {}


@pytest.mark.parametrize(("key", "command_id"), [("", "c"), ("A", "")])
def test_an_empty_id_is_parked_and_swallows_nobody(flow: Flow, key: str, command_id: str) -> None:
    value = RECORDS.of("stock").encode_command(CommandMeta(command_id, 1), key, ReceiveStock("main", 2, reference="r"))
    flow.append("stock", key.encode(), value)
    flow.run()
    assert dict(flow.parked("stock")[0].headers or [])["reason"] == b"EMPTY_ID"


def test_a_command_whose_outputs_are_too_large_is_parked_whole(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    receive(flow, "A", 5)
    monkeypatch.setattr(turn, "RECORD_BYTES_MAX", 2_000)
    order = PlaceOrder("box", lines=(PlacedLine("1", "A", 1),), attributes={"note": "x" * 4000})
    flow.send("orders", "big", order, "c-big")
    place(flow, "small")
    flow.run()
    (letter,) = flow.parked("orders")
    assert dict(letter.headers or [])["reason"] == b"TOO_LARGE"
    assert "big" not in flow.tables("orders")["order"]
    assert "small" in flow.tables("orders")["order"]
    assert [(r.outcome, r.reason) for r in flow.replies("c-big")] == [("refused", "PARKED")]


def test_a_key_that_makes_a_record_too_large_counts_although_its_value_is_small(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn, "RECORD_BYTES_MAX", 40_000)
    flow.send("stock", "A", ReceiveStock("main", 7, reference="r"), "c-far", reply_to=ReplyTo("e" * 50_000, 0, "c-far"))
    flow.run()
    (letter,) = flow.parked("stock")
    assert dict(letter.headers or [])["reason"] == b"TOO_LARGE"
    assert flow.tables("stock")["stock"] == {}


def test_a_rule_that_fails_parks_its_command_and_leaves_no_row_behind(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    receive(flow, "A", 5)
    rules = flow.processors["stock"].rules
    real = rules.react

    def failing(state: object, event: object, meta: object) -> object:
        if getattr(event, "reference", "") == "boom":
            raise ZeroDivisionError("a bug in a rule")
        return real(state, event, meta)

    monkeypatch.setattr(rules, "react", failing)
    flow.send("stock", "A", ReceiveStock("main", 7, reference="boom"), "c-boom")
    flow.send("stock", "A", ReceiveStock("main", 1, reference="fine"), "c-fine")
    flow.run()
    assert b"ZeroDivisionError" in dict(flow.parked("stock")[0].headers or [])["cause"]
    assert flow.tables("stock")["stock"]["A"].cells[0].on_hand == 6


def test_a_reservation_expires_by_its_timer_and_never_before(flow: Flow) -> None:
    receive(flow, "A", 5)
    due_at = (flow.now_ms + 60_000) * 1000
    flow.send("stock", "A", ReserveStock("A~o1~1", Holder("o1", 1), 2, due_at), "r", reply_to=None)
    flow.run()
    flow.pass_time(59)
    assert flow.tables("stock")["reservation"]["A~o1~1"].status.value == "ACTIVE"
    flow.pass_time(1.1)
    assert flow.tables("stock")["reservation"]["A~o1~1"].status.value == "EXPIRED"
    assert flow.snapshots("stock")["A"].cells[0].available == 5


def test_turn_time_never_goes_back(flow: Flow) -> None:
    receive(flow, "A", 5)
    flow.now_ms -= 5_000
    receive(flow, "A", 1, "back in time")
    times = [meta.occurred_at for meta, _, _ in flow.events("stock")]
    assert times == sorted(times)


def test_another_tenant_has_its_own_stock_under_the_same_code(flow: Flow) -> None:
    receive(flow, "A", 5)
    flow.send("stock", "A", ReceiveStock("main", 2, reference="r"), "theirs", tenant="acme")
    flow.run()
    tables = flow.rows["stock"]
    assert tables.get("stock", "A").cells[0].on_hand == 5
    assert tables.get("stock", "acme/A").cells[0].on_hand == 2
    assert flow.snapshots("stock")["acme/A"].tenant == "acme"


def test_a_shrinking_count_takes_units_from_its_own_tenants_reservations(flow: Flow) -> None:
    for tenant in ("main", "acme"):
        flow.send("stock", "A", ReceiveStock("main", 3, reference="r"), f"in-{tenant}", tenant=tenant)
        flow.send("stock", "A", reserve("A", "o1", 3), f"r-{tenant}", tenant=tenant, reply_to=None)
    flow.send("stock", "A", AdjustStock("main", delta=-2, reason="damage"), "count", tenant="acme")
    flow.run()
    kept = {key: sum(q.quantity for q in flow.rows["stock"].get("reservation", key).allocations) for key in ("A~o1~1", "acme/A~o1~1")}
    assert kept == {"A~o1~1": 3, "acme/A~o1~1": 1}


def test_the_trace_of_a_request_is_on_everything_it_caused(flow: Flow) -> None:
    receive(flow, "A", 5)
    trace = ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    meta = CommandMeta("c", flow.now_ms * 1000, correlation_id="request-1")
    value = RECORDS.of("orders").encode_command(meta, "o1", PlaceOrder("box", lines=(PlacedLine("1", "A", 1),)))
    seen = len(flow.outputs)
    flow.append("orders", b"o1", value, [trace])
    flow.run()
    caused = [o for o in flow.outputs[seen:] if o.topic in (RECORDS.of("orders").events, RECORDS.of("stock").commands)]
    assert caused
    assert all(trace in (output.headers or []) for output in caused)
    assert {meta.correlation_id for meta, _, _ in flow.events("orders")} == {"request-1"}


def test_answers_older_than_seven_days_are_forgotten_two_at_a_time(flow: Flow) -> None:
    for number in range(5):
        receive(flow, "A", 1, f"old-{number}")
    flow.now_ms += 8 * 24 * 3600 * 1000
    receive(flow, "A", 1, "new")
    table = flow.rows["stock"].tables["answer"]
    kept = [raw.decode()[1:] for raw, _ in flow.rows["stock"].family.scan(table.prefix)]
    assert kept == ["A/new", "A/old-2", "A/old-3", "A/old-4"]
