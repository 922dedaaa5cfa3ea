"""Avro's integers: zigzag, then seven bits a byte, lowest first. Tables, because this runs for every field of every record.

Two sets: exact functions for any 64-bit value, and tables the generated code (emit.py) indexes itself. A table has no entry where
its shortcut does not hold, so a wrong use raises instead of lying.
"""

from struct import Struct

INT_MIN, INT_MAX = -(1 << 31), (1 << 31) - 1
LONG_BYTES_MAX = 10
_MASK = 0x3FFF
"""Two bytes of a varint carry 14 bits."""

_SHORT = [bytes((n,)) if n < 128 else bytes((n & 127 | 128, n >> 7)) for n in range(_MASK + 1)]
"""The varint of n < 2**14 that ends here."""

SMALL = _SHORT[::2]
"""Encoded 0 .. 8191, also as lengths and counts."""

_LOW = [bytes((n & 127 | 128, n >> 7 | 128)) for n in range(_MASK + 1)]
"""Fourteen bits with more to follow."""

BOOLEAN = {False: b"\0", True: b"\1"}
ZIGZAG = [n >> 1 ^ -(n & 1) for n in range(128)]
"""One-byte longs."""

SKIP: list[int | None] = [None if n & 1 else 1 + (n >> 1) for n in range(128)]
"""From a string's one-byte length to its end; odd ones are negative lengths."""

FLAG = (False, True)
four = Struct("<4H").unpack_from
"""An eight-byte varint as four pairs of bytes, for FIRST, MORE, MORE, LAST."""

FIRST: list[int | None] = [None] * 65536
MORE: list[int | None] = [None] * 65536
LAST: list[int | None] = [None] * 65536
for _high in range(128):
    for _low in range(128):
        _bits = _low | _high << 7
        MORE[_low | 128 | (_high | 128) << 8] = _bits
        if not _low & 1:
            FIRST[_low | 128 | (_high | 128) << 8] = _bits >> 1
        if _high:
            LAST[_low | 128 | _high << 8] = _bits << 41


def encode_long(value: int) -> bytes:
    """Any 64-bit integer. OverflowError beyond, TypeError for what is no integer."""
    n = value << 1 if value >= 0 else ~(value << 1)
    if n <= _MASK:
        return _SHORT[n]
    if n < 1 << 28:
        return _LOW[n & _MASK] + _SHORT[n >> 14]
    if n < 1 << 42:
        return _LOW[n & _MASK] + _LOW[n >> 14 & _MASK] + _SHORT[n >> 28]
    if n < 1 << 56:
        return _LOW[n & _MASK] + _LOW[n >> 14 & _MASK] + _LOW[n >> 28 & _MASK] + _SHORT[n >> 42]
    if n >> 64:
        raise OverflowError("beyond 64 bits")
    return _LOW[n & _MASK] + _LOW[n >> 14 & _MASK] + _LOW[n >> 28 & _MASK] + _LOW[n >> 42 & _MASK] + _SHORT[n >> 56]


class _Instants(dict[int, bytes]):
    """Encoded instants seen lately: a turn writes the same few into every record it makes."""

    def __missing__(self, instant: int) -> bytes:
        if len(self) >= INSTANTS_MAX:
            self.clear()
        self[instant] = encoded = encode_long(instant)
        return encoded


INSTANTS_MAX = 4096
INSTANT = _Instants()


def encode_int(value: int) -> bytes:
    """A 32-bit integer."""
    if not INT_MIN <= value <= INT_MAX:
        raise OverflowError("beyond 32 bits")
    return encode_long(value)


def read_long(data: bytes, at: int) -> tuple[int, int]:
    """The long at `at` and the position after it. ValueError when it is longer than needed or than 64 bits, IndexError at the end."""
    byte = data[at]
    if byte < 128:
        return ZIGZAG[byte], at + 1
    n, shift, end = byte & 127, 7, at + LONG_BYTES_MAX
    while True:
        at += 1
        if at == end:
            raise ValueError("integer longer than 64 bits")
        byte = data[at]
        n |= (byte & 127) << shift
        if byte < 128:
            break
        shift += 7
    if not byte or n >> 64:
        raise ValueError("integer not in its shortest form" if not byte else "integer longer than 64 bits")
    return n >> 1 ^ -(n & 1), at + 1


def read_int(data: bytes, at: int) -> tuple[int, int]:
    """The 32-bit integer at `at` and the position after it."""
    value, at = read_long(data, at)
    if not INT_MIN <= value <= INT_MAX:
        raise ValueError("integer longer than 32 bits")
    return value, at


def read_bytes(data: bytes, at: int) -> tuple[bytes, int]:
    """The length-prefixed bytes at `at` and the position after them. ValueError when they would not fit."""
    size, at = read_long(data, at)
    if not 0 <= size <= len(data) - at:
        raise ValueError(f"length {size} with {len(data) - at} bytes left")
    return data[at : at + size], at + size


def read_string(data: bytes, at: int) -> tuple[str, int]:
    """The UTF-8 string at `at` and the position after it."""
    raw, at = read_bytes(data, at)
    return raw.decode(), at
