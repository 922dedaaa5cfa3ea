"""Avro bytes of one record, read and written step by step with every check, so that an error names its field.

The slow twin of the code that emit.py generates, over the same classes. It decides every odd case: long strings, several blocks,
mappings that are no dicts, and all errors.
"""

from collections.abc import Callable, Mapping
from typing import Any, assert_never

from msgspec import Struct

from orderflow.schemas.avsc import Array, Enum, Field, Map, Node, Nullable, Record, Scalar
from orderflow.schemas.varint import encode_int, encode_long, read_bytes, read_int, read_long, read_string


class CodecError(ValueError):
    """A value that does not fit its record, or bytes that are not that record. Names the record and, where it can, the field."""


Maker = Callable[..., Any]
Makers = Mapping[str, Maker]
"""The class of each record and enum by Avro full name. A record's is called with its values in field order."""


class Layout(Struct, frozen=True):
    """One record bound to its classes. With `lead` = 2 the first two fields, meta and key, stand outside of the value."""

    record: Record
    makers: Makers
    lead: int
    header: bytes

    def members(self, enum: Enum) -> tuple[Any, ...]:
        """The enum's members in symbol order. CodecError when its class lacks one."""
        members = getattr(self.makers[enum.name], "__members__", {})
        if missing := [symbol for symbol in enum.symbols if symbol not in members]:
            raise CodecError(f"{enum.name}: {self.makers[enum.name]!r} has no member {', '.join(missing)}")
        return tuple(members[symbol] for symbol in enum.symbols)

    def encode(self, *values: Any) -> bytes:
        """The header and the record of `(value)`, or of `(meta, key, value)`."""
        if len(values) != (3 if self.lead else 1):
            raise CodecError(f"{self.record.name}: {len(values)} values given")
        out = [self.header]
        for number, field in enumerate(self.record.fields):
            value = values[number] if number < self.lead else _attribute(values[-1], field, self.record.name)
            self._write(field.node, value, out, f"{self.record.name}.{field.name}")
        return b"".join(out)

    def decode(self, data: bytes) -> Any:
        """The inverse of `encode`: a value, or meta, key and value. CodecError for anything but exactly one record."""
        data = bytes(data)
        name, at = self.record.name, len(self.header)
        if data[:at] != self.header:
            raise CodecError(f"{name}: header {data[:at].hex()} instead of {self.header.hex()}")
        values = []
        for field in self.record.fields:
            value, at = self._read(field.node, data, at, f"{name}.{field.name}")
            values.append(value)
        if at != len(data):
            raise CodecError(f"{name}: {len(data) - at} bytes after the record")
        made = self.make(self.record, values[self.lead :], name)
        return (*values[: self.lead], made) if self.lead else made

    def make(self, record: Record, values: list[Any], path: str) -> Any:
        """The record's value from its fields' values. CodecError when its class refuses them."""
        try:
            return self.makers[record.name](*values)
        except (TypeError, ValueError) as error:
            raise CodecError(f"{path}: {error}") from error

    def _write(self, node: Node, value: Any, out: list[bytes], path: str) -> None:
        match node:
            case Scalar():
                out.append(_write_scalar(node, value, path))
            case Enum():
                members = self.members(node)
                if value not in members:
                    raise CodecError(f"{path}: {value!r} is no symbol of {node.name}")
                out.append(encode_long(members.index(value)))
            case Nullable():
                out.append(b"\0" if value is None else b"\2")
                if value is not None:
                    self._write(node.of, value, out, path)
            case Array():
                if not isinstance(value, tuple | list):
                    raise CodecError(f"{path}: {type(value).__name__} instead of a tuple")
                if value:
                    out.append(encode_long(len(value)))
                    for number, item in enumerate(value):
                        self._write(node.items, item, out, f"{path}[{number}]")
                out.append(b"\0")
            case Map():
                if not isinstance(value, Mapping):
                    raise CodecError(f"{path}: {type(value).__name__} instead of a mapping")
                if value:
                    out.append(encode_long(len(value)))
                    for key, item in value.items():
                        out.append(_write_scalar(Scalar("string"), key, f"{path} key"))
                        self._write(node.values, item, out, f"{path}[{key!r}]")
                out.append(b"\0")
            case Record():
                for field in node.fields:
                    self._write(field.node, _attribute(value, field, path), out, f"{path}.{field.name}")
            case _:
                assert_never(node)

    def _read(self, node: Node, data: bytes, at: int, path: str) -> tuple[Any, int]:
        match node:
            case Scalar():
                return _read_scalar(node, data, at, path)
            case Enum():
                index, at = _read_scalar(_INDEX, data, at, path)
                if not 0 <= index < len(node.symbols):
                    raise CodecError(f"{path}: symbol {index} of {len(node.symbols)} in {node.name}")
                return self.members(node)[index], at
            case Nullable():
                index, at = _read_scalar(_INDEX, data, at, path)
                if index not in (0, 1):
                    raise CodecError(f"{path}: branch {index} of a nullable")
                return self._read(node.of, data, at, path) if index else (None, at)
            case Array():
                items: list[Any] = []
                count, at = _read_count(data, at, path)
                while count:
                    for _ in range(count):
                        item, at = self._read(node.items, data, at, f"{path}[{len(items)}]")
                        items.append(item)
                    count, at = _read_count(data, at, path)
                return tuple(items), at
            case Map():
                entries: dict[str, Any] = {}
                count, at = _read_count(data, at, path)
                while count:
                    for _ in range(count):
                        key, at = _read_scalar(Scalar("string"), data, at, f"{path} key")
                        entries[key], at = self._read(node.values, data, at, f"{path}[{key!r}]")
                    count, at = _read_count(data, at, path)
                return entries, at
            case Record():
                values = []
                for field in node.fields:
                    value, at = self._read(field.node, data, at, f"{path}.{field.name}")
                    values.append(value)
                return self.make(node, values, path), at
            case _:
                assert_never(node)


_INDEX = Scalar("long")


def _attribute(value: Any, field: Field, path: str) -> Any:
    try:
        return getattr(value, field.name)
    except AttributeError:
        raise CodecError(f"{path}: {type(value).__name__} has no {field.name}") from None


def _write_scalar(node: Scalar, value: Any, path: str) -> bytes:
    try:
        match node.kind:
            case "string" if isinstance(value, str):
                raw = value.encode()
                return encode_long(len(raw)) + raw
            case "bytes" if isinstance(value, bytes | bytearray | memoryview):
                return encode_long(len(value)) + value
            case "boolean" if isinstance(value, bool):
                return b"\1" if value else b"\0"
            case "int" if isinstance(value, int) and not isinstance(value, bool):
                return encode_int(value)
            case "long" if isinstance(value, int) and not isinstance(value, bool):
                return encode_long(value)
    except (OverflowError, UnicodeEncodeError) as error:
        raise CodecError(f"{path}: {error}") from None
    raise CodecError(f"{path}: {type(value).__name__} instead of {node.kind}")


def _read_scalar(node: Scalar, data: bytes, at: int, path: str) -> tuple[Any, int]:
    try:
        match node.kind:
            case "string":
                return read_string(data, at)
            case "bytes":
                return read_bytes(data, at)
            case "boolean":
                return (False, True)[data[at]], at + 1
            case "int":
                return read_int(data, at)
            case "long":
                return read_long(data, at)
            case _:
                assert_never(node.kind)
    except IndexError:
        raise CodecError(f"{path}: {'ends too early' if at >= len(data) else f'{data[at:].hex()[:20]} is no {node.kind}'}") from None
    except ValueError as error:
        raise CodecError(f"{path}: {error}") from None


def _read_count(data: bytes, at: int, path: str) -> tuple[int, int]:
    """The items of the next block and where they start. A negative count is followed by the block's size in bytes."""
    count, at = _read_scalar(_INDEX, data, at, path)
    if count < 0:
        size, at = _read_scalar(_INDEX, data, at, path)
        count = -count
        if not count <= size <= len(data) - at:
            raise CodecError(f"{path}: block of {count} items in {size} bytes with {len(data) - at} left")
    if count > len(data) - at:
        raise CodecError(f"{path}: {count} items with {len(data) - at} bytes left")
    return count, at
