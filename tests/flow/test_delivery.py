"""Bugs the origin really had around delivery (design: domain 5), each with the test that keeps it out: what fails is neither done nor known.

Number 36, the broker that is away, is tests/chaos/test_broker.py; 31 and 32, pollers and roll-backs, are tests/simulation/test_delivery.py.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flow_harness import RECORDS, Flow

from orderflow.streams.domain.stock_records import ReceiveStock


@pytest.fixture
def flow(tmp_path: Path) -> Iterator[Flow]:
    flow = Flow(tmp_path)
    yield flow
    flow.check_fold()
    flow.store.close()


def receive(flow: Flow, command_id: str, quantity: int = 5) -> None:
    flow.send("stock", "A", ReceiveStock("main", quantity, reference=command_id), command_id)
    flow.run()


def on_hand(flow: Flow) -> int:
    row = flow.tables("stock")["stock"].get("A")
    return row.cells[0].on_hand if row is not None else 0


def fail(flow: Flow, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """The stock rules raise at their next `times` decisions."""
    rules, left = flow.processors["stock"].rules, [times]
    sound = rules.decide

    def decide(*given: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            raise ZeroDivisionError("a bug in a rule")
        return sound(*given)

    monkeypatch.setattr(rules, "decide", decide)


def test_bug_28_a_command_whose_handler_raised_twice_is_not_taken_for_done_and_has_one_effect(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The origin wrote its deduplication on failure, so that a failed event was never done again."""
    fail(flow, monkeypatch, times=2)
    for attempt in range(4):
        receive(flow, "same")
        assert on_hand(flow) == (5 if attempt >= 2 else 0)
    assert len(flow.parked("stock")) == 2
    assert [reply.outcome for reply in flow.replies("same")] == ["refused", "refused", "applied", "applied"]


def test_bug_28_a_machine_that_fails_parks_nothing_and_the_batch_is_done_again(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk error is not the command's fault: it ends the process, and the log still has the command."""
    rows = flow.rows["stock"]
    sound, left = rows.get, [2]

    def get(*given: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError("the disk")
        return sound(*given)

    monkeypatch.setattr(rows, "get", get)
    flow.send("stock", "A", ReceiveStock("main", 5, reference="r"), "same")
    (record,) = flow.waiting["stock"]
    for _ in range(2):
        with pytest.raises(OSError, match="the disk"):
            flow.run()
        rows.discard()
        flow.waiting["stock"] = [record]
    flow.run()
    assert (on_hand(flow), flow.parked("stock")) == (5, [])


def test_bug_33_a_poison_command_is_parked_and_restored_by_sending_its_bytes_again(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    """The origin's rows failed after ten tries and were deleted after thirty days, and nobody was told: tests/integration/test_parking.py."""
    fail(flow, monkeypatch, times=1)
    receive(flow, "poison", 7)
    receive(flow, "sound", 1)
    (letter,) = flow.parked("stock")
    assert on_hand(flow) == 1, "its neighbours go on"
    assert dict(letter.headers or [])["reason"] == b"FAILED"

    for _ in range(2):
        flow.append("stock", letter.key, letter.value)
        flow.run()
    assert on_hand(flow) == 8, "once, though it was sent again twice"


def test_bug_34_what_cannot_be_encoded_aborts_the_whole_step_and_leaves_no_state_without_its_event(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The origin ignored the error: the state was saved, the event was never sent."""
    receive(flow, "before", 5)
    before = flow.tables("stock"), len(flow.events("stock"))
    space = RECORDS.of("stock")
    sound, left = space.encode_event, [1]

    def encode(*given: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            raise ValueError("not to be encoded")
        return sound(*given)

    monkeypatch.setattr(space, "encode_event", encode)
    receive(flow, "step", 3)
    assert (flow.tables("stock"), len(flow.events("stock"))) == before
    assert [dict(letter.headers or [])["reason"] for letter in flow.parked("stock")] == [b"FAILED"]
    receive(flow, "step", 3)
    assert on_hand(flow) == 8
