"""How ids are made and read (contracts.md 1). Both sides of a conversation compute the same id, so nothing has to carry it around.

Ids are case-sensitive, `[A-Za-z0-9._-]{1,64}`; `~` joins an owner to its children and `/` a tenant to its keys, so neither is in an id.
"""

import re
from functools import lru_cache
from hashlib import sha256

from orderflow.streams.domain.zones import local_date

ID_LENGTH_MAX = 64
PARSED_MAX = 10_000
"""Reservation ids that are kept as they were parsed: an order meets each of its own many times in a few seconds."""
CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
VALUE_LENGTH_MAX = 128
_NOT_IN_A_VALUE = re.compile(r"[^A-Za-z0-9._-]+")
_ID = re.compile(rf"[A-Za-z0-9._-]{{1,{ID_LENGTH_MAX}}}")


def is_id(value: str) -> bool:
    """May this be an order's, a sku's, a line's or a location's id?"""
    return _ID.fullmatch(value) is not None


def reservation_id(sku: str, order_id: str, attempt: int) -> str:
    """`{sku}~{order_id}~{attempt}`: the order asks with it, the sku's owner answers with it."""
    return f"{sku}~{order_id}~{attempt}"


@lru_cache(PARSED_MAX)
def parse_reservation(value: str) -> tuple[str, str, int] | None:
    """(sku, order_id, attempt) of a reservation id; None when it is none."""
    parts = value.split("~")
    if len(parts) != 3 or not is_id(parts[0]) or not is_id(parts[1]) or not (parts[2].isascii() and parts[2].isdigit()):
        return None
    return parts[0], parts[1], int(parts[2])


def answers_prefix(order_id: str) -> str:
    """What the keys of all stock answers of an order start with."""
    return f"{order_id}~G"


def answer_key(order_id: str, reservation: str) -> str:
    """`{order_id}~G{attempt}~{sku}`: the row of an order's stock answer about this reservation, in order of attempt, then sku."""
    parsed = parse_reservation(reservation)
    if parsed is None:
        return f"{answers_prefix(order_id)}~{reservation}"
    sku, _, attempt = parsed
    return f"{answers_prefix(order_id)}{attempt}~{sku}"


def fulfillments_prefix(order_id: str) -> str:
    """What the ids of all fulfillments of an order start with."""
    return f"{order_id}~F"


def fulfillment_id(order_id: str, number: int) -> str:
    """`{order_id}~F{n}`, n from 1."""
    return f"{fulfillments_prefix(order_id)}{number}"


def attempt_id(order_id: str, number: int) -> str:
    """`{order_id}~A{n}`, n from 1: a try at the order's payment."""
    return f"{order_id}~A{number}"


def operation_key(attempt: str, operation: str, number: int) -> str:
    """`{attempt_id}:{operation}:{n}`: what a provider knows an operation by, so that a repeat is the same one (domain.md 2.3)."""
    return f"{attempt}:{operation}:{number}"


def reference_key(provider: str, reference: str) -> str:
    """`provider_ref:{provider}:{reference}`: the claim to a provider's own name of a payment (contracts.md 2)."""
    return f"provider_ref:{provider}:{_NOT_IN_A_VALUE.sub('-', reference)[:VALUE_LENGTH_MAX]}"


def timer_id(entity_id: str, kind: str, due_at: int) -> str:
    """`<entity_id>:<kind>:<due_at>`, which is its command id too (contracts.md 7)."""
    return f"{entity_id}:{kind}:{due_at}"


def order_number(order_id: str, at: int, time_zone: str) -> str:
    """`ORD-YYYYMMDD-` and 8 Crockford characters of the id's hash; for people and search only. `at` in microseconds."""
    number = int.from_bytes(sha256(order_id.encode()).digest()[:5], "big")
    letters = "".join(CROCKFORD[number >> shift & 31] for shift in range(35, -1, -5))
    return f"ORD-{local_date(at, time_zone):%Y%m%d}-{letters}"
