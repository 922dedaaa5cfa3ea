"""Reading a verified body: JSON of documented fields, where anything else is a clear error and never a guess."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TEXT_MAX = 256


class Unreadable(ValueError):
    """The sender is who it says, and the body is not what it documents."""


@contextmanager
def event(raw: bytes) -> Iterator[Any]:
    """The body as a JSON object; a field that is missing or of another type raises Unreadable too."""
    try:
        body = json.loads(raw)
    except ValueError:
        raise Unreadable("the body is no JSON") from None
    try:
        yield body
    except (KeyError, TypeError, AttributeError) as error:
        raise Unreadable(f"a field is missing or of another type: {error}") from None


def text(value: object) -> str:
    """A string. Raises TypeError."""
    if not isinstance(value, str) or len(value) > TEXT_MAX:
        raise TypeError(f"{type(value).__name__} where a string of at most {TEXT_MAX} characters is meant")
    return value


def number(value: object) -> int:
    """A whole number. Raises TypeError."""
    if type(value) is not int:
        raise TypeError(f"{type(value).__name__} where a whole number is meant")
    return value


def as_sent(header: str) -> bytes:
    """The bytes of a header's value as they came."""
    return header.encode("utf-8", "surrogateescape")
