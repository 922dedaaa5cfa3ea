"""Python source for one record's codec: every field inlined, no loop over the schema at run time.

One rule: generated code may give up, never lie. Whatever its shortcuts do not cover (a string beyond the tables, a second block, any
error) raises, and it then hands the whole record to plain.py. So each shortcut here must raise where it does not hold.
"""

from collections.abc import Callable
from typing import Any, assert_never

from orderflow.schemas import varint
from orderflow.schemas.avsc import Array, Enum, Map, Node, Nullable, Record, Scalar
from orderflow.schemas.plain import CodecError, Layout


def encoder(layout: Layout, otherwise: Callable[..., bytes]) -> Callable[..., bytes]:
    """`encode(value)` or, with a lead, `encode(meta, key, value)`; what it cannot do it asks of `otherwise`."""
    source = _Encoder(layout)
    return source.compile("encode", source.arguments, otherwise)


def decoder(layout: Layout, otherwise: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """`decode(data)`; what it cannot do it asks of `otherwise`."""
    return _Decoder(layout).compile("decode", "data", otherwise)


class _Source:
    """Lines of one function and the objects they name."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.lines: list[str] = []
        self.names: dict[str, Any] = {name: getattr(varint, name) for name in dir(varint) if not name.startswith("_")}
        self.names.update(join=b"".join, fail=_give_up, empty=())
        self.depth = 2
        self._count = 0

    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    def variable(self) -> str:
        self._count += 1
        return f"v{self._count}"

    def constant(self, value: Any) -> str:
        self._count += 1
        name = f"c{self._count}"
        self.names[name] = value
        return name

    def compile(self, function: str, arguments: str, otherwise: Callable[..., Any]) -> Callable[..., Any]:
        self.names["otherwise"] = otherwise
        head = [f"def {function}({arguments}):", "    try:"]
        tail = ["    except Exception:", "        pass", f"    return otherwise({arguments})"]
        exec(compile("\n".join(head + self.lines + tail), f"<{function} {self.layout.record.name}>", "exec"), self.names)
        made: Callable[..., Any] = self.names[function]
        return made


def _give_up() -> None:
    raise CodecError


class _Encoder(_Source):
    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        fields = layout.record.fields
        self.arguments = "meta, key, value" if layout.lead else "value"
        parts = [self.constant(layout.header)] if layout.header else []
        for number, field in enumerate(fields):
            path = ("meta", "key")[number] if number < layout.lead else f"value.{field.name}"
            self.put(field.node, path, parts, field.default)
        self.line(f"return join(({', '.join(parts)},))" if parts else "return b''")

    def put(self, node: Node, path: str, parts: list[str], default: Any = None) -> None:
        """Emits what must run first and appends the expressions whose bytes make up the value at `path`."""
        match node:
            case Scalar(kind="string"):
                if isinstance(default, str):
                    raw = default.encode()
                    usual = self.constant(varint.encode_long(len(raw)) + raw)
                    parts.append(f"({usual} if (s := {path}) == {default!r} else SMALL[len(s := s.encode())] + s)")
                else:
                    parts.extend((f"SMALL[len(s := {path}.encode())]", "s"))
            case Scalar(kind="bytes"):
                parts.extend((f"SMALL[len(s := {path})]", "s"))
            case Scalar(kind="long", logical=""):
                parts.append(f"(SMALL[n] if 0 <= (n := {path}) < 8192 else encode_long(n))")
            case Scalar() | Enum():
                parts.append(self.one(node, path))
            case Record():
                value = self.variable()
                self.line(f"{value} = {path}")
                for field in node.fields:
                    self.put(field.node, f"{value}.{field.name}", parts, field.default)
            case Nullable(of=Scalar() | Enum() as of):
                parts.append(f"(b'\\0' if (x := {path}) is None else b'\\2' + {self.one(of, 'x')})")
            case Nullable():
                parts.append(self.nullable(node.of, path))
            case Array():
                parts.append(self.array(node.items, path))
            case Map():
                parts.append(self.map(node.values, path))
            case _:
                assert_never(node)

    def one(self, node: Scalar | Enum, path: str) -> str:
        """A single expression for a value without parts."""
        match node:
            case Enum():
                table = {member: varint.encode_long(n) for n, member in enumerate(self.layout.members(node))}
                return f"{self.constant(table)}[{path}]"
            case Scalar(kind="string"):
                return f"SMALL[len(s := {path}.encode())] + s"
            case Scalar(kind="bytes"):
                return f"SMALL[len(s := {path})] + s"
            case Scalar(kind="boolean"):
                return f"BOOLEAN[{path}]"
            case Scalar(kind="int"):
                return f"encode_int({path})"
            case Scalar(logical="timestamp-micros"):
                return f"INSTANT[{path}]"
            case _:
                return f"encode_long({path})"

    def nullable(self, of: Node, path: str) -> str:
        value, made = self.variable(), self.variable()
        self.line(f"{value} = {path}")
        self.line(f"if {value} is None:")
        self.line(f"    {made} = b'\\0'")
        self.line("else:")
        self.depth += 1
        parts = ["b'\\2'"]
        self.put(of, value, parts)
        self.line(f"{made} = join(({', '.join(parts)},))")
        self.depth -= 1
        return made

    def array(self, items: Node, path: str) -> str:
        value, made = self.variable(), self.variable()
        self.line(f"{value} = {path}")
        self.line(f"if {value} is empty:")
        self.line(f"    {made} = b'\\0'")
        self.line(f"elif type({value}) is tuple:")
        self.block(items, value, made, f"for i{made} in {value}:", [], f"i{made}")
        return made

    def map(self, values: Node, path: str) -> str:
        value, made = self.variable(), self.variable()
        self.line(f"{value} = {path}")
        self.line(f"if {value} == {{}} and type({value}) is dict:")
        self.line(f"    {made} = b'\\0'")
        self.line(f"elif type({value}) is dict:")
        key = [f"SMALL[len(s := k{made}.encode())]", "s"]
        self.block(values, value, made, f"for k{made}, i{made} in {value}.items():", key, f"i{made}")
        return made

    def block(self, node: Node, value: str, made: str, loop: str, parts: list[str], item: str) -> None:
        """One block of items in `o<made>`, then `made` is its bytes; any other type gives up."""
        self.depth += 1
        self.line(f"o{made} = [SMALL[len({value})]]")
        self.line(loop)
        self.depth += 1
        self.put(node, item, parts)
        self.line(f"o{made} += ({', '.join(parts)},)")
        self.depth -= 1
        self.line(f"o{made}.append(b'\\0')")
        self.line(f"{made} = join(o{made})")
        self.depth -= 1
        self.line("else:")
        self.line("    fail()")


class _Decoder(_Source):
    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        size = len(layout.header)
        if size:
            self.line(f"if data[:{size}] != {self.constant(layout.header)}: fail()")
        self.line(f"p = {size}")
        values = [self.get(field.node, field.default) for field in layout.record.fields]
        self.line("if p != len(data): fail()")
        made = f"{self.constant(layout.makers[layout.record.name])}({', '.join(values[layout.lead :])})"
        self.line("return " + ", ".join([*values[: layout.lead], made]))

    def get(self, node: Node, default: Any = None) -> str:
        """Emits what reads the value at `p` and moves `p` behind it; the variable that then holds the value."""
        value = self.variable()
        match node:
            case Scalar(kind="string" | "bytes"):
                self.text(node, value, default)
            case Scalar(kind="boolean"):
                self.line(f"{value} = FLAG[data[p]]")
                self.line("p += 1")
            case Scalar(logical="timestamp-micros") if not isinstance(default, int):
                self.line("a, b, c, d = four(data, p)")
                self.line(f"{value} = FIRST[a] | MORE[b] << 13 | MORE[c] << 27 | LAST[d]")
                self.line("p += 8")
            case Scalar(kind="long"):
                self.line("n = data[p]")
                self.line(f"if n < 128: {value} = ZIGZAG[n]; p += 1")
                self.line(f"else: {value}, p = read_long(data, p)")
            case Scalar():
                self.line(f"{value}, p = read_int(data, p)")
            case Enum():
                table = self.constant({n << 1: member for n, member in enumerate(self.layout.members(node)) if n < 64})
                self.line(f"{value} = {table}[data[p]]")
                self.line("p += 1")
            case Record():
                values = [self.get(field.node, field.default) for field in node.fields]
                self.line(f"{value} = {self.constant(self.layout.makers[node.name])}({', '.join(values)})")
            case Nullable():
                self.nullable(node.of, value)
            case Array():
                self.array(node.items, value)
            case Map():
                self.map(node.values, value)
            case _:
                assert_never(node)
        return value

    def text(self, node: Scalar, value: str, default: Any) -> None:
        """A string or bytes; the field's default is recognised without making it again."""
        decoded = ".decode()" if node.kind == "string" else ""
        if isinstance(default, str) and default:
            usual = varint.encode_long(len(default.encode())) + default.encode()
            self.line(f"if data[p:p + {len(usual)}] == {usual!r}: {value} = {default!r}; p += {len(usual)}")
            self.line(f"else: {value}, p = read_string(data, p)")
            return
        self.line("n = data[p]")
        if default == "":
            empty = repr("" if decoded else b"")
            self.line(f"if not n: {value} = {empty}; p += 1")
        self.line(f"{'elif' if default == '' else 'if'} n < 128: q = p + SKIP[n]; {value} = data[p + 1:q]{decoded}; p = q")
        self.line(f"else: {value}, p = {'read_string' if decoded else 'read_bytes'}(data, p)")

    def nullable(self, of: Node, value: str) -> None:
        self.line("n = data[p]")
        self.line("p += 1")
        self.line(f"if not n: {value} = None")
        self.line("elif n == 2:")
        self.depth += 1
        self.line(f"{value} = {self.get(of)}")
        self.depth -= 1
        self.line("else: fail()")

    def array(self, items: Node, value: str) -> None:
        self.block(value, "()", "[]")
        self.line(f"o{value}.append({self.get(items)})")
        self.end(value, f"tuple(o{value})")

    def map(self, values: Node, value: str) -> None:
        self.block(value, "{}", "{}")
        key = self.get(Scalar("string"))
        self.line(f"o{value}[{key}] = {self.get(values)}")
        self.end(value, f"o{value}")

    def block(self, value: str, none: str, start: str) -> None:
        """Opens the loop over the only block; each item takes a byte at least, so the count is bounded by the data."""
        self.line(f"if not data[p]: {value} = {none}; p += 1")
        self.line("else:")
        self.depth += 1
        self.line("n, p = read_long(data, p)")
        self.line("if not 0 < n <= len(data): fail()")
        self.line(f"o{value} = {start}")
        self.line("for _ in range(n):")
        self.depth += 1

    def end(self, value: str, made: str) -> None:
        self.depth -= 1
        self.line("if data[p]: fail()")
        self.line("p += 1")
        self.line(f"{value} = {made}")
        self.depth -= 1
