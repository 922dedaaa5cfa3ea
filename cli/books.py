"""Our payments beside the provider's own book, operation by operation: what is in one and not in the other, or not the same.

Pure: `differences` says all that is to be said of two books that were read at the same time.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import TYPE_CHECKING

from msgspec import Struct

from orderflow.streams.domain.ids import operation_key
from orderflow.streams.domain.payment_ledger import COUNTERS

if TYPE_CHECKING:
    from orderflow.streams.domain.payment_records import PaymentSnapshot, PaymentSnapshotAttempt

OPEN = ("requested", "unknown", "requires_action")
"""Outcomes of an operation that nobody has answered yet, the provider or its buyer."""
MISSING_THERE, MISSING_HERE, AMOUNT, OUTCOME, OPEN_HERE = "missing there", "missing here", "amount", "outcome", "open here"
REPAIRS: Mapping[str, str] = {
    MISSING_THERE: "orderflow orders timeline {payment_id}   # our side of {key}; ask the provider what became of it",
    MISSING_HERE: "orderflow orders timeline {payment_id}   # we never asked for {key}; have the provider undo it",
    AMOUNT: "orderflow orders timeline {payment_id}   # what was asked as {key}; have the provider correct it",
    OUTCOME: "orderflow orders timeline {payment_id}   # what we were told of {key}; have the provider undo or repeat it",
    OPEN_HERE: "orderflow payments connect   # one that runs asks for {key} again and records the answer; nothing moves twice",
}
"""The command by kind of difference. No command of ours moves what the provider did without being asked: there it only shows our side."""


class Row(Struct, frozen=True):
    """An operation as the provider's book has it."""

    key: str
    payment_ref: str
    operation: str
    amount_minor: int
    currency: str
    outcome: str


class Difference(Struct, frozen=True, order=True):
    """One thing that is not the same, what each book says of it, and the command that repairs it."""

    payment_id: str
    key: str
    kind: str
    ours: str
    theirs: str
    repair: str


def differences(ours: Mapping[str, "PaymentSnapshot"], theirs: Iterable[Row]) -> list[Difference]:
    """Everything that differs, by payment and key."""
    rows: dict[str, list[Row]] = defaultdict(list)
    for row in theirs:
        rows[row.payment_ref].append(row)
    found: list[Difference] = []
    for payment_id in ours.keys() | rows.keys():
        payment = ours.get(payment_id)
        found += _of_payment(payment, rows[payment_id]) if payment else (_unasked(row) for row in rows[payment_id])
    return sorted(found)


def open_operations(ours: Iterable["PaymentSnapshot"]) -> int:
    """How many operations wait for the provider."""
    return sum(attempt.outcome in OPEN for payment in ours for attempt in payment.attempts)


def _of_payment(payment: "PaymentSnapshot", rows: Iterable[Row]) -> Iterator[Difference]:
    """An operation is known by its number within its attempt: each number once there, the latest with our values, all of them with our sums."""
    attempts = {attempt.attempt_id: attempt for attempt in payment.attempts}
    known: dict[tuple[str, int], Row] = {}
    for row in rows:
        place = _place(row, attempts)
        if place is None or place in known:
            yield _unasked(row)
        else:
            known[place] = row
    told = set[str]()
    for attempt in payment.attempts:
        for number in range(1, attempt.operation_no + 1):
            row_there = known.get((attempt.attempt_id, number))
            for difference in _of_operation(payment.payment_id, attempt, number, row_there):
                told.add(attempt.operation if number == attempt.operation_no else "")
                yield difference
    if "" not in told:
        yield from _sums(payment, known.values(), told)


def _place(row: Row, attempts: Mapping[str, "PaymentSnapshotAttempt"]) -> tuple[str, int] | None:
    """Attempt and number of a row that we may have asked for; None when we did not."""
    attempt_id = row.key.rpartition(":")[0].rpartition(":")[0]
    number, attempt = row.key.rpartition(":")[2], attempts.get(attempt_id)
    if attempt is None or not (number.isascii() and number.isdigit()) or not 1 <= int(number) <= attempt.operation_no:
        return None
    is_latest = int(number) == attempt.operation_no
    if row.key != operation_key(attempt_id, row.operation, int(number)) or (is_latest and row.operation != attempt.operation):
        return None
    return attempt_id, int(number)


def _of_operation(payment_id: str, attempt: "PaymentSnapshotAttempt", number: int, row: Row | None) -> Iterator[Difference]:
    """One number of ours beside its row; of all but the latest we only know that they were answered."""
    is_latest = number == attempt.operation_no
    is_open = is_latest and attempt.outcome in OPEN
    if row is None:
        if not is_open:
            key = operation_key(attempt.attempt_id, attempt.operation if is_latest else "*", number)
            yield _difference(MISSING_THERE, payment_id, key, attempt.outcome if is_latest else "answered", "no such operation")
        return
    if not is_latest:
        return
    asked, there = f"{attempt.amount.amount_minor}{attempt.amount.currency}", f"{row.amount_minor}{row.currency}"
    if asked != there:
        yield _difference(AMOUNT, payment_id, row.key, asked, there)
    if is_open and attempt.outcome != row.outcome:
        yield _difference(OPEN_HERE, payment_id, row.key, attempt.outcome, row.outcome)
    elif attempt.outcome != row.outcome:
        yield _difference(OUTCOME, payment_id, row.key, attempt.outcome, row.outcome)


def _sums(payment: "PaymentSnapshot", rows: Iterable[Row], told: Set[str]) -> Iterator[Difference]:
    """What was moved in all, of the operations about which nothing was said yet."""
    moved = dict.fromkeys(COUNTERS.values(), 0)
    for row in rows:
        if row.outcome == "succeeded" and row.operation in COUNTERS:
            moved[COUNTERS[row.operation]] += row.amount_minor
    for counter, there in moved.items():
        here, currency = getattr(payment.ledger, counter), payment.ledger.currency
        named = [operation for operation, moves in COUNTERS.items() if moves == counter]
        if here != there and told.isdisjoint(named):
            yield _difference(AMOUNT, payment.payment_id, f"{payment.payment_id} {named[0]}", f"{here}{currency}", f"{there}{currency}")


def _unasked(row: Row) -> Difference:
    return _difference(
        MISSING_HERE, row.payment_ref, row.key, "not asked", f"{row.operation} {row.amount_minor}{row.currency} {row.outcome}"
    )


def _difference(kind: str, payment_id: str, key: str, ours: str, theirs: str) -> Difference:
    return Difference(payment_id, key, kind, ours, theirs, REPAIRS[kind].format(payment_id=payment_id, key=key))
