"""Ids that make a repeat meet its first answer: derived from the caller's Idempotency-Key, or random without one (contracts.md 1).

Raw keys never serve as ids and never reach a topic.
"""

import hashlib
import re
from base64 import b32encode

import orjson
from multidict import CIMultiDictProxy
from pydantic import BaseModel
from ulid import ULID

from orderflow.http.problems import Problem

HEADER = "Idempotency-Key"
_KEY = re.compile(r'"([\x21\x23-\x5b\x5d-\x7e]{1,255})"|([\x21\x23-\x7e]{1,255})')
_CROCKFORD = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", "0123456789ABCDEFGHJKMNPQRSTVWXYZ")


def derived_id(tenant: str, principal: str, route: str, key: str) -> str:
    """H of contracts.md 1: 26 Crockford characters (130 bits). `route` is method and path template; the key comes last."""
    digest = hashlib.sha256("|".join((tenant, principal, route, key)).encode()).digest()
    return b32encode(digest).decode().translate(_CROCKFORD)[:26]


def fresh_id() -> str:
    """A random ULID in place of H: the same length and alphabet, no two calls alike."""
    return str(ULID())


def fingerprint(body: BaseModel, target: str = "") -> str:
    """SHA-256 of what was asked: canonical JSON of the body under its own field names, without what was left at its default
    (so a new optional field never changes an old fingerprint), and the resource that the path names."""
    said = body.model_dump(mode="json", by_alias=False, exclude_defaults=True)
    return hashlib.sha256(orjson.dumps([target, said], option=orjson.OPT_SORT_KEYS)).hexdigest()


def key_in(headers: CIMultiDictProxy[str]) -> str | None:
    """The Idempotency-Key, quoted as in the IETF draft or bare as in practice; None without one.

    Raises:
        Problem: more than one, or not 1 to 255 visible ASCII characters.
    """
    values = headers.getall(HEADER, [])
    if not values:
        return None
    match = _KEY.fullmatch(values[0]) if len(values) == 1 else None
    if match is None:
        detail = "must be one value of 1 to 255 visible ASCII characters without quotes inside"
        raise Problem("SCHEMA_INVALID", faults=[{"header": HEADER, "code": "SCHEMA_INVALID", "detail": detail}])
    return match[1] or match[2]
