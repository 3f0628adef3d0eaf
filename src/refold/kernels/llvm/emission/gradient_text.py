"""LLVM IR as text, for code whose shape is loops and tables: half a microsecond a line, where objects take twenty."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class Text:
    """A function under construction, as text. Values are names or numbers; all integers are int64."""

    def __init__(self, name: str, args: str, public: bool = False):
        head = f"define {'' if public else 'internal '}void @{name}({args})"
        self.lines = [head + ("" if public else " noinline") + " {", "entry:"]
        self.block = "entry"
        self.count = 0

    def __str__(self) -> str:
        return "\n".join([*self.lines, "  ret void", "}", ""])

    def new(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def run(self, line: str) -> None:
        self.lines.append(f"  {line}")

    def get(self, line: str) -> str:
        """Add an instruction that has a value."""
        name = f"%{self.new()}"
        self.lines.append(f"  {name} = {line}")
        return name

    def begin(self, block: str) -> None:
        self.lines.append(f"{block}:")
        self.block = block

    def add(self, a: str | int, b: str | int) -> str:
        return self.get(f"add i64 {a}, {b}")

    def sub(self, a: str | int, b: str | int) -> str:
        return self.get(f"sub i64 {a}, {b}")

    def mul(self, a: str | int, b: str | int) -> str:
        return self.get(f"mul i64 {a}, {b}")

    def is_(self, relation: str, a: str | int, b: str | int) -> str:
        """A truth value: eq, ne, slt, sgt."""
        return self.get(f"icmp {relation} i64 {a}, {b}")

    def at(self, pointer: str, offset: str | int) -> str:
        """The address some bytes further on."""
        return self.get(f"getelementptr i8, ptr {pointer}, i64 {offset}")

    def load(self, kind: str, pointer: str, align: int) -> str:
        return self.get(f"load {kind}, ptr {pointer}, align {align}")

    def store(self, kind: str, value: str, pointer: str, align: int) -> None:
        self.run(f"store {kind} {value}, ptr {pointer}, align {align}")

    def word(self, table: str, index: int) -> str:
        return self.load("i64", self.at(table, 8 * index), 8)

    def address(self, table: str, index: int) -> str:
        return self.load("ptr", self.at(table, 8 * index), 8)

    def record(self, table: str, index: str, words: str | int) -> str:
        return self.at(table, self.mul(self.mul(index, words), 8))

    def choose(self, condition: str, kind: str, a: str | int, b: str | int) -> str:
        return self.get(f"select i1 {condition}, {kind} {a}, {kind} {b}")

    def call(self, function: str, args: Sequence[str]) -> None:
        self.run(f"call void {function}({', '.join(args)})")

    def spread(self, number: str, lanes: int, pointer: str, align: int) -> str:
        """A number in memory, of this type, in every lane of a vector."""
        vector = f"<{lanes} x {number}>"
        value = self.load(number, pointer, align)
        one = self.get(f"insertelement {vector} poison, {number} {value}, i32 0")
        places = f"<{lanes} x i32> zeroinitializer"
        return self.get(f"shufflevector {vector} {one}, {vector} poison, {places}")

    def step(self, name: str, step: str | int) -> None:
        """The next value of a pointer that a loop carries."""
        self.run(f"%{name}.next = getelementptr i8, ptr %{name}, i64 {step}")

    @contextmanager
    def loop(self, begin: str | int, end: str | int, step: int = 1) -> Iterator[str]:
        """From begin up to before end; perhaps not at all."""
        head, body, last, after = (self.new() for _ in range(4))
        index, following = f"%{self.new()}", f"%{self.new()}"
        before = self.block
        self.run(f"br label %{head}")
        self.begin(head)
        self.run(f"{index} = phi i64 [ {begin}, %{before} ], [ {following}, %{last} ]")
        self.run(f"br i1 {self.is_('slt', index, end)}, label %{body}, label %{after}")
        self.begin(body)
        yield index
        self.run(f"br label %{last}")
        self.begin(last)
        self.run(f"{following} = add i64 {index}, {step}")
        self.run(f"br label %{head}")
        self.begin(after)

    @contextmanager
    def when(self, condition: str) -> Iterator[None]:
        inside, after = self.new(), self.new()
        self.run(f"br i1 {condition}, label %{inside}, label %{after}")
        self.begin(inside)
        yield
        self.run(f"br label %{after}")
        self.begin(after)
