"""Claims: what a provider says under its own name of a payment reaches the order whose it is, however early, late or often."""

from random import Random

import pytest
from domain_harness import NOW, SETTINGS, Log, Seeded, World, seconds
from domain_payments import PREPAID, asked, authorized, place, priced, said
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import asdict, replace

from orderflow.streams.domain import claims
from orderflow.streams.domain.claims import (
    ClaimSnapshot,
    ClaimValue,
    EarlyFact,
    EarlyFactForgotten,
    EarlyFactForwarded,
    EarlyFactKept,
    RecordEarlyFact,
    ValueClaimed,
)
from orderflow.streams.domain.contract import Send
from orderflow.streams.domain.ids import reference_key
from orderflow.streams.domain.parts import Money
from orderflow.streams.domain.payment_records import PaymentRequested, RecordWebhook, WebhookRecorded
from orderflow.streams.domain.reasons import Reason

KEY = reference_key("local", "ref-1")


def fact(number: int = 1) -> EarlyFact:
    return EarlyFact("local", f"evt {number}", "something.new", provider_ref="ref-1")


def log() -> Log:
    return Log("references", KEY)


def test_what_is_said_of_a_claimed_value_is_passed_on_as_if_it_had_named_its_owner() -> None:
    value = log()
    assert value.when(ClaimValue("o1")).events == [ValueClaimed("o1")]
    outcome = value.when(RecordEarlyFact(fact()))
    assert outcome.events == [EarlyFactForwarded("o1", fact())]
    assert outcome.sends == [Send("orders", "o1", RecordWebhook(**asdict(fact())))]
    assert value.snapshot("claim") == ClaimSnapshot(KEY, sequence=2, version=1, at=NOW, owner="o1")


def test_what_is_said_before_waits_for_its_owner_in_the_order_in_which_it_came() -> None:
    value = log()
    due_at = NOW + seconds(SETTINGS.claim_wait_s)
    assert value.when(RecordEarlyFact(fact(1)), command_id="a").events == [EarlyFactKept(fact(1), due_at)]
    value.when(RecordEarlyFact(fact(2)), command_id="b")
    assert value.snapshot("claim") is None, "it is nobody's"
    outcome = value.when(ClaimValue("o1"), command_id="c")
    assert outcome.events == [ValueClaimed("o1"), EarlyFactForwarded("o1", fact(1)), EarlyFactForwarded("o1", fact(2))]
    assert [send.command.provider_event_id for send in outcome.sends] == ["evt 1", "evt 2"]
    assert value.rows.claim == claims.ClaimRow(5, "o1", ()) and list(value.timers()) == []


def test_what_nobody_claims_in_ten_minutes_is_forgotten_and_its_row_with_it() -> None:
    value = log()
    value.when(RecordEarlyFact(fact(1)), command_id="a")
    value.when(RecordEarlyFact(fact(2)), at=NOW + seconds(60), command_id="b")
    (first,) = value.timers()
    assert first.due_at == NOW + seconds(600)
    assert value.when(first).events == [EarlyFactForgotten(fact(1))]
    (second,) = value.timers()
    assert value.when(replace(second, due_at=second.due_at - 1)).events == [], "another deadline's"
    assert value.when(second).events == [EarlyFactForgotten(fact(2))]
    assert value.rows.claim is None
    assert value.when(ClaimValue("o1")).events == [ValueClaimed("o1")], "it can be claimed later"


def test_the_first_claim_wins_and_its_repeat_is_nothing() -> None:
    value = log()
    value.when(ClaimValue("o1"))
    assert value.when(ClaimValue("o1")).recalled
    refused = value.when(ClaimValue("o2")).refused
    assert (refused.reason, refused.detail) == (Reason.REFERENCE_TAKEN, {"owner": "o1", "claimed_by": "o2"})
    assert value.rows.claim.owner == "o1"


def test_a_value_that_nobody_claims_does_not_grow_for_ever() -> None:
    value = log()
    for number in range(claims.WAITING_MAX):
        value.when(RecordEarlyFact(fact(number)), command_id=str(number))
    refused = value.when(RecordEarlyFact(fact(99)), command_id="99").refused
    assert refused.reason == Reason.UNKNOWN_REFERENCE and len(value.rows.claim.waiting) == claims.WAITING_MAX


def test_an_order_claims_the_providers_name_of_each_of_its_payments() -> None:
    order = authorized(committed=False)
    sends = [send for event, meta in order.events for send in order.rules.react(order.rows, event, meta) if isinstance(send, Send)]
    assert [send for send in sends if send.space == "references"] == [Send("references", KEY, ClaimValue("o1"))]


@pytest.mark.parametrize(("reference", "key"), [("pi_3.x-Y", "pi_3.x-Y"), ("a/b~c d", "a-b-c-d"), ("r" * 300, "r" * 128)])
def test_a_reference_of_any_form_makes_a_key(reference: str, key: str) -> None:
    assert reference_key("stripe", reference) == f"provider_ref:stripe:{key}"


@given(st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_whatever_arrives_first_the_order_hears_each_fact_once(seed: int) -> None:
    """Facts and the order's own history in any interleaving, repeats included; what came more than ten minutes early is lost, and said so."""
    random = Seeded(seed)
    world = World(random, channel=PREPAID)
    world.repeat = 0.3
    world.stock("A", 5)
    world.send("orders", "o1", place(priced("1", "A", 1, 1000)), "place")
    facts = [replace(fact(number), kind=f"kind.{number}") for number in range(random.randrange(1, 4))]
    for each in facts:
        world.send("references", KEY, RecordEarlyFact(each), f"webhook:local:{each.provider_event_id}")
    pay(world, random)
    world.settle()
    order = world.log("orders", "o1")
    heard = [event.provider_event_id for event in order.named(WebhookRecorded)]
    forgotten = [event.fact.provider_event_id for event in world.log("references", KEY).named(EarlyFactForgotten)]
    assert sorted(heard + forgotten) == sorted(each.provider_event_id for each in facts)


def pay(world: World, random: Random) -> None:
    """Let things arrive until the order asks for its authorization, then answer, now and then early and now and then late."""
    order = world.log("orders", "o1")
    while world.flying and not order.named(PaymentRequested):
        world.arrive(random.choice(list(world.flying)))
    if order.named(PaymentRequested):
        world.send("orders", "o1", said(asked(order)), "answer")


def test_money_in_a_fact_is_kept_whole() -> None:
    told = replace(fact(), amount=Money(5, "EUR"), operation="dispute", outcome="opened", dispute_ref="dp_1")
    value = log()
    value.when(RecordEarlyFact(told))
    (send,) = value.when(ClaimValue("o1"), command_id="claim").sends
    assert asdict(send.command) == asdict(told)
