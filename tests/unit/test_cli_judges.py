"""The judges of `verify` and `demo`: right facts pass, and each way of being wrong is told, one row a way."""

from collections.abc import Callable

import pytest
from msgspec import structs

from orderflow.cli.demo import STORY_EVENTS, StoryFacts, judge_story
from orderflow.cli.ordering import ARRIVALS, MODES, Course, OrderingFacts, judge_ordering
from orderflow.cli.paying import LATE_LEDGER, LEDGERS, UNITS, LateFacts, Money, PaymentFacts, judge_late, judge_payments, ledger_lines
from orderflow.cli.race import Kept, Killed, Post, RaceFacts, judge_race
from orderflow.cli.stuck import Late, StuckFacts, judge_stuck


def race() -> RaceFacts:
    """50 buyers of 10 units, as it must be; every fifth buyer won."""
    won = set(range(0, 50, 5))
    return RaceFacts(
        sku="S",
        orders=50,
        stock=10,
        posts=[Post(n, 201, "", f"o{n}") if n in won else Post(n, 409, "INSUFFICIENT_STOCK", f"o{n}") for n in range(50)],
        states={f"o{n}": "processing" if n in won else "rejected" for n in range(50)},
        reasons={f"o{n}": "" if n in won else "INSUFFICIENT_STOCK" for n in range(50)},
        listed_total=50,
        listed_not_cancelled=10,
        list_complete=True,
        available=0,
        available_lowest=0,
        on_hand=10,
        reserved=0,
        allocated=10,
        reservations_complete=True,
        log_read=True,
        sequences=tuple(range(1, 62)),
    )


def test_a_right_race_passes() -> None:
    assert judge_race(race()) == []
    assert race().figures()["confirmed"] == 10 and race().figures()["rejected"] == 40


def test_a_race_without_shortage_passes() -> None:
    """More units than buyers: everybody gets one, the rest stays."""
    facts = RaceFacts("S", 2, 5, posts=[Post(n, 201, "", f"o{n}") for n in range(2)], states={"o0": "confirmed", "o1": "shipped"})
    facts = structs.replace(facts, listed_total=2, listed_not_cancelled=2, list_complete=True, reservations_complete=True)
    assert judge_race(structs.replace(facts, available=3, on_hand=5, reserved=0, allocated=2)) == []


def _oversold(facts: RaceFacts) -> None:
    facts.states["o1"], facts.posts[1] = "confirmed", Post(1, 201, "", "o1")
    facts.allocated, facts.available, facts.listed_not_cancelled = 11, -1, 11


def _told_both(facts: RaceFacts) -> None:
    facts.posts_per_order = 2
    facts.posts = [*facts.posts, *facts.posts]
    facts.posts[0] = Post(0, 409, "INSUFFICIENT_STOCK", "o0")


def _two_orders_from_one_key(facts: RaceFacts) -> None:
    facts.posts_per_order = 2
    facts.posts = [*facts.posts, *facts.posts]
    facts.posts[50] = Post(0, 201, "", "o5")


def _killed_for_good(facts: RaceFacts) -> None:
    facts.kill_asked, facts.killed = True, Killed(7, "worker-1", False)


RACES: dict[str, tuple[Callable[[RaceFacts], object], str]] = {
    "eleven confirmed": (_oversold, "11 orders were confirmed, must be 10"),
    "below zero at the end": (_oversold, "-1 units are available, must be 0"),
    "below zero for a moment": (lambda f: setattr(f, "available_lowest", -1), "available was -1 at some moment"),
    "no outcome": (lambda f: f.states.update(o0="pending"), "1 orders have no outcome: o0"),
    "order lost": (lambda f: f.states.pop("o0"), "50 buyers, but 49 orders"),
    "wrong reason": (lambda f: f.reasons.update(o1="UNKNOWN_SKU"), "rejected for another reason than INSUFFICIENT_STOCK: o1"),
    "a buyer was told 500": (lambda f: f.posts.__setitem__(3, Post(3, 500, "INTERNAL", "o3")), "buyer 3 was told 500 INTERNAL"),
    "a buyer was told 409 of another kind": (
        lambda f: f.posts.__setitem__(3, Post(3, 409, "RESERVATION_FINAL", "o3")),
        "buyer 3 was told 409 RESERVATION_FINAL, but the order is rejected",
    ),
    "winner was told no": (
        lambda f: f.posts.__setitem__(0, Post(0, 409, "INSUFFICIENT_STOCK", "o0")),
        "buyer 0 was told 409 INSUFFICIENT_STOCK, but the order is processing",
    ),
    "loser was told yes": (lambda f: f.posts.__setitem__(1, Post(1, 201, "", "o1")), "buyer 1 was told 201, but the order is rejected"),
    "an answer without an order": (lambda f: f.posts.__setitem__(1, Post(1, 202, "", "")), "buyer 1 was told 202 without the order's id"),
    "an answer is missing": (lambda f: f.posts.pop(), "50 POSTs, but 49 answers"),
    "the same key told both": (_told_both, "buyer 0 was told 409 INSUFFICIENT_STOCK, but the order is processing"),
    "two orders from one key": (_two_orders_from_one_key, "1 buyers have more than one order from one key: 0"),
    "a gap in the log": (lambda f: setattr(f, "sequences", (1, 2, 4)), "the sequence of the sku's events has a gap"),
    "an empty log": (lambda f: setattr(f, "sequences", ()), "the sequence of the sku's events has a gap"),
    "goods vanished": (lambda f: setattr(f, "on_hand", 9), "9 units are on hand, must be 10"),
    "kept for nobody": (lambda f: setattr(f, "reserved", 1), "stock keeps 1 + 10 units for 10 confirmed orders"),
    "orphan of a rejected order": (
        lambda f: f.kept.append(Kept("S~o1~1", "o1", 1)),
        "1 reservations are left without a live order: S~o1~1",
    ),
    "orphan of no order at all": (lambda f: f.kept.append(Kept("S~x~1", "x", 1)), "left without a live order: S~x~1"),
    "list counts too many": (lambda f: setattr(f, "listed_total", 51), "the list counts 51 orders, must be 50"),
    "list hides winners": (lambda f: setattr(f, "listed_not_cancelled", 9), "9 orders that are not canceled, but 10 were confirmed"),
    "list incomplete": (lambda f: setattr(f, "list_complete", False), "a list is incomplete"),
    "kill asked, not done": (lambda f: setattr(f, "kill_asked", True), "the worker was not killed"),
    "killed for good": (
        _killed_for_good,
        "nobody started the worker again after kill -9 of process 7",
    ),
}


@pytest.mark.parametrize("name", RACES)
def test_a_wrong_race_is_told(name: str) -> None:
    break_it, fault = RACES[name]
    facts = race()
    break_it(facts)
    assert any(fault in told for told in judge_race(facts)), judge_race(facts)


def test_every_fault_of_a_race_has_its_row_alone() -> None:
    """A single wrong fact is told without inventing others about stock or answers."""
    facts = race()
    facts.available_lowest = -1
    assert len(judge_race(facts)) == 1


# -- ordering -----------------------------------------------------------------------------------------------------------------------
def ordering() -> OrderingFacts:
    courses = [
        Course(arrival, mode, f"o{number}-{mode}", [200] * 4, [""] * 4, "shipped", ["shipped"], list(range(1, 9)), True)
        for mode in MODES
        for number, arrival in enumerate(ARRIVALS)
    ]
    return OrderingFacts(courses)


def test_there_are_24_arrival_orders() -> None:
    assert len(ARRIVALS) == len(set(ARRIVALS)) == 24


def test_a_right_ordering_passes() -> None:
    assert judge_ordering(ordering()) == []
    assert ordering().figures()["ended"] == {"one after another": {"shipped": 24}, "at once": {"shipped": 24}}


def _refused(course: Course) -> None:
    course.answers[1], course.codes[1] = 409, "PREDECESSOR_MISSING"


ORDERINGS: dict[str, tuple[Callable[[Course], object], str]] = {
    "ended by the last arrival": (lambda c: setattr(c, "status", "picking"), "ended picking, must be shipped"),
    "order never seen": (lambda c: setattr(c, "status", ""), "ended unknown, must be shipped"),
    "fulfillment behind": (lambda c: setattr(c, "fulfillments", ["packed"]), "its fulfillments are ['packed']"),
    "two fulfillments": (lambda c: setattr(c, "fulfillments", ["shipped", "shipped"]), "must be one that is shipped"),
    "a post was refused": (
        _refused,
        "refused: 409 PREDECESSOR_MISSING",
    ),
    "a post was not answered": (lambda c: (c.answers.pop(), c.codes.pop()), "3 posts were answered"),
    "a gap": (lambda c: c.sequences.remove(3), "the sequence of its events has a gap"),
    "doubled": (lambda c: c.sequences.insert(3, 3), "the sequence of its events has a gap"),
    "no events": (lambda c: c.sequences.clear(), "the sequence of its events has a gap"),
    "timeline cut": (lambda c: setattr(c, "timeline_complete", False), "the sequence of its events has a gap"),
}


@pytest.mark.parametrize("name", ORDERINGS)
def test_a_wrong_ordering_is_told(name: str) -> None:
    break_it, fault = ORDERINGS[name]
    facts = ordering()
    break_it(facts.courses[30])
    found = judge_ordering(facts)
    assert len(found) == 1 and fault in found[0], found


def test_an_arrival_order_left_out_is_told() -> None:
    facts = ordering()
    del facts.courses[0]
    assert judge_ordering(facts) == ["23 of 24 arrival orders were tried one after another"]


# -- stuck --------------------------------------------------------------------------------------------------------------------------
def test_nothing_stuck_passes() -> None:
    assert judge_stuck(StuckFacts(0, [], True, True)) == []


def test_a_reservation_may_be_due_for_a_second() -> None:
    assert judge_stuck(StuckFacts(1, [Late("r", "o", 1.0)], True, True)) == []


@pytest.mark.parametrize(
    ("facts", "fault"),
    [
        (StuckFacts(1, [Late("r", "o", 1.1)], True, True), "reservation r of order o is overdue by 1.1 s"),
        (StuckFacts(9, [Late(f"r{n}", "o", 9.0) for n in range(9)], True, True), "and 6 more reservations are overdue"),
        (StuckFacts(0, [], False, True), "have not consumed their backlog"),
        (StuckFacts(0, [], True, False), "not every partition has an owner"),
    ],
)
def test_stuck_is_told(facts: StuckFacts, fault: str) -> None:
    assert any(fault in told for told in judge_stuck(facts))


# -- the story of the demo ----------------------------------------------------------------------------------------------------------
def story() -> StoryFacts:
    labels = ["processing", "shipped", "delivered"]
    return StoryFacts("o", 201, labels, [200] * 5, list(STORY_EVENTS), list(range(1, 6)), 5, 4)


def test_a_right_story_passes() -> None:
    assert judge_story(story()) == []


@pytest.mark.parametrize(
    ("field", "value", "fault"),
    [
        ("placed", 202, "the order was answered 202, must be 201"),
        ("answers", [200, 200, 409, 200, 200], "the reports of warehouse and carrier"),
        ("answers", [200] * 4, "the reports of warehouse and carrier"),
        ("labels", ["processing", "processing", "delivered"], "must end shipped -> delivered"),
        ("labels", [], "the order went nowhere"),
        ("on_hand_after", 5, "5 units were on hand before one was shipped, 5 after"),
        ("on_hand_after", 3, "5 units were on hand before one was shipped, 3 after"),
        ("events", ["OrderCreated"], "its timeline lacks OrderStatusChanged"),
        ("sequences", [1, 2, 4], "the sequence of its events has a gap"),
    ],
)
def test_a_wrong_story_is_told(field: str, value: object, fault: str) -> None:
    facts = story()
    setattr(facts, field, value)
    assert any(fault in told for told in judge_story(facts)), judge_story(facts)


# -- the payments of the demo -------------------------------------------------------------------------------------------------------
def paid() -> PaymentFacts:
    money = {name: Money(status, dict(ledger), dict(ledger), 1) for name, (status, ledger) in LEDGERS.items()}
    return PaymentFacts({"sold": 201, "declined": 402, "canceled": 202}, money, 201, 4)


def test_right_payments_pass_and_every_row_of_the_table_is_open_by_nothing() -> None:
    assert judge_payments(paid()) == []
    assert [line.split()[-1] for line in ledger_lines(paid().money)] == ["open", "0", "0", "0"]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda facts: facts.placed.update(sold=503), "the orders were answered"),
        (lambda facts: facts.placed.update(declined=201), "must be 402"),
        (lambda facts: setattr(facts, "refunded", 409), "the refund was answered 409"),
        (lambda facts: setattr(facts.money["sold"], "status", "packed"), "the sold order is packed, must be shipped"),
        (lambda facts: facts.money["canceled"].ledger.update(voided=0), "the canceled order's ledger is"),
        (lambda facts: facts.money["sold"].book.update(captured=2500), "the provider's book says"),
        (lambda facts: setattr(facts.money["sold"], "rows_per_key", 2), "is 2 times in the provider's book"),
        (lambda facts: facts.money.pop("declined"), "the declined order is nowhere"),
        (lambda facts: setattr(facts, "available", 3), "3 units are free, must be 4"),
    ],
)
def test_wrong_payments_are_told(change: Callable[[PaymentFacts], object], fault: str) -> None:
    facts = paid()
    change(facts)
    assert any(fault in told for told in judge_payments(facts)), judge_payments(facts)


def late() -> LateFacts:
    return LateFacts(202, Money("expired", dict(LATE_LEDGER), dict(LATE_LEDGER), 1), UNITS)


def test_a_late_payment_that_was_given_back_passes() -> None:
    assert judge_late(late()) == []
    assert ledger_lines({"late": late().money})[1].split()[-1] == "0"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda facts: setattr(facts, "placed", 201), "answered 201, must be 202"),
        (lambda facts: setattr(facts.money, "status", "processing"), "is processing, must be expired"),
        (lambda facts: facts.money.ledger.update(voided=0), "the late order's ledger is"),
        (lambda facts: facts.money.book.update(captured=1505), "the provider's book says"),
        (lambda facts: setattr(facts, "available", 4), "4 units are free, must be 5"),
    ],
)
def test_a_late_payment_that_was_kept_is_told(change: Callable[[LateFacts], object], fault: str) -> None:
    facts = late()
    change(facts)
    assert any(fault in told for told in judge_late(facts)), judge_late(facts)
