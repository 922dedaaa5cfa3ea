"""The checkers of what becomes of a command: decided, answered, repeated or parked."""

import pytest

from orderflow.streams.checkers import Asked, Seen, accounted, answers
from orderflow.streams.domain.contract import CommandMeta, EventMeta
from orderflow.streams.domain.stock_records import ReceiveStock
from orderflow.streams.wire import Reply


def asked(offset: int, command_id: str = "c") -> Asked:
    return Asked("stock", 0, offset, CommandMeta(command_id, 1), "SKU", ReceiveStock("main", 1))


HAPPENED = [Seen("stock", 0, 0, EventMeta("e", 1, 1, "", command_id="c"), "SKU", None)]


@pytest.mark.parametrize(
    ("commands", "parked", "happened", "told"),
    [
        ([asked(0)], [], HAPPENED, ""),
        ([asked(0)], [0], [], ""),
        ([asked(0)], [], [], "skipped"),
        ([asked(0)], [0], HAPPENED, "some of it happened"),
        ([asked(0), asked(1)], [0], HAPPENED, ""),
        ([asked(0), asked(1)], [0, 1], HAPPENED, "some of it happened"),
        ([asked(0), asked(1, "another")], [0], HAPPENED, "some of it happened"),
    ],
    ids=["decided", "parked", "skipped", "torn", "parked, then put back", "parked twice and torn", "torn beside another"],
)
def test_a_command_is_parked_or_decided_unless_it_came_again(
    commands: list[Asked], parked: list[int], happened: list[Seen], told: str
) -> None:
    found = list(accounted(happened, commands, {("stock", 0, offset): "FAILED" for offset in parked}, set()))
    assert any(told in violation.what for violation in found) if told else found == []


@pytest.mark.parametrize(("first", "agree"), [("refused PARKED", True), ("refused OUT_OF_STOCK", False), ("applied", True)])
def test_who_was_told_that_a_command_was_parked_may_hear_later_what_became_of_it(first: str, agree: bool) -> None:
    told = [Reply("r", "c", "SKU", 0, *each.split()) for each in (first, "applied")]
    assert (list(answers(told)) == []) == agree
