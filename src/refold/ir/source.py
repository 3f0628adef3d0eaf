"""From a running frame to the user's text: where an op was written, what name it was given, and the caret under it."""

from __future__ import annotations

import ast
import dis
import inspect
import linecache
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from types import CodeType, FrameType, FunctionType

from .graph import Place

_HERE = __name__.rpartition(".")[0] + "."  # frames of these modules are ours, not the user's


def user_frame() -> FrameType:
    """The innermost frame outside this room: the line of the equation that is being read."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_HERE):
        frame = frame.f_back
    return frame


def place_in(frame: FrameType, cell: str) -> Place:
    """The span of source that the frame is evaluating."""
    code = frame.f_code
    spans = _spans(code)
    index = frame.f_lasti // 2
    line, end_line, column, end_column = spans[index] if index < len(spans) else (None,) * 4
    return Place(cell, code.co_filename, line or frame.f_lineno, end_line, column, end_column)


def labels_in(frame: FrameType) -> tuple[str, ...]:
    """The local names that the value under evaluation is about to be bound to; usually one or none."""
    return _bindings(frame.f_code).get(frame.f_lasti, ())


def place_of(function: Callable[..., object], cell: str) -> Place:
    """The `def` line of a function."""
    code = _code(function)
    return Place(cell, code.co_filename, _def_line(function))


def place_of_default(function: Callable[..., object], parameter: str, cell: str) -> Place:
    """Where a parameter's declaration is written; the `def` line where the source cannot be read."""
    tree = _tree(function)
    if tree is None:
        return place_of(function, cell)
    definition, first_line, indent = tree
    a = definition.args
    positional = [*a.posonlyargs, *a.args]
    pairs = list(zip(positional[len(positional) - len(a.defaults) :], a.defaults, strict=True))
    pairs += [(arg, d) for arg, d in zip(a.kwonlyargs, a.kw_defaults, strict=True) if d is not None]
    starts = {arg.arg: arg for arg in [*positional, *a.kwonlyargs]}
    spans: dict[str, ast.expr | ast.arg] = dict(starts)
    spans |= {arg.arg: default for arg, default in pairs}
    if parameter not in spans:  # a signature that was made by hand
        return place_of(function, cell)
    return _place(
        starts[parameter],
        spans[parameter],
        cell,
        _code(function).co_filename,
        first_line - 1,
        indent,
    )


def place_of_return(function: Callable[..., object], cell: str) -> Place:
    """The `return` of a function that has one; else its `def` line."""
    code, tree = _code(function), _tree(function)
    if tree is None:
        lines = {
            i.positions.lineno for i in _instructions(code) if "RETURN" in i.opname and i.positions
        }
        line = lines.pop() if len(lines) == 1 else None
        return place_of(function, cell) if line is None else Place(cell, code.co_filename, line)
    definition, first_line, indent = tree
    returns = list(_returns(definition.body))
    if len(returns) != 1:
        return place_of(function, cell)
    return _place(returns[0], returns[0], cell, code.co_filename, first_line - 1, indent)


def _returns(statements: Iterable[ast.AST]) -> Iterator[ast.Return]:
    """The `return` statements of a function, those of functions inside it left out."""
    for statement in statements:
        if isinstance(statement, ast.Return):
            yield statement
        elif not isinstance(
            statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.expr
        ):
            yield from _returns(ast.iter_child_nodes(statement))


def _place(
    start: ast.stmt | ast.arg,
    end: ast.stmt | ast.arg | ast.expr,
    cell: str,
    file: str,
    shift: int,
    indent: int,
) -> Place:
    """From one node of a definition that was cut out of its file to another, as it stands in the file."""
    return Place(
        cell,
        file,
        start.lineno + shift,
        (end.end_lineno or end.lineno) + shift,
        start.col_offset + indent,
        (end.end_col_offset or 0) + indent,
    )


def rebound(function: Callable[..., object], names: set[str]) -> tuple[str, Place] | None:
    """The first declared name that the body assigns to, and where."""
    code = _code(function)
    hidden: dict[
        str, dis.Positions | None
    ] = {}  # from 3.12 a comprehension's own variables live in the function
    for instruction in _instructions(code):
        if instruction.opname == "LOAD_FAST_AND_CLEAR":
            hidden[instruction.argval] = instruction.positions
        if not instruction.opname.startswith(("STORE_FAST", "STORE_DEREF")):
            continue
        for name in _stored(instruction):
            if name in names and not _inside(instruction.positions, hidden.get(name)):
                p = instruction.positions
                spot = (
                    (p.lineno, p.end_lineno, p.col_offset, p.end_col_offset) if p else (None,) * 4
                )
                line = spot[0] or code.co_firstlineno
                return name, Place("", code.co_filename, line, *spot[1:])
    return None


def _inside(inner: dis.Positions | None, outer: dis.Positions | None) -> bool:
    if inner is None or outer is None or None in inner or None in outer:
        return False
    return (outer[0], outer[2]) <= (inner[0], inner[2]) and (inner[1], inner[3]) <= (
        outer[1],
        outer[3],
    )


def shown(place: Place) -> str:
    """The `where` of an error: cell, file and line, then the source text with carets under the span."""
    head = f"in cell '{place.cell}' ({_short(place.file)}:{place.line})"
    text = linecache.getline(place.file, place.line)
    if not text.strip():
        return head
    indent = len(text) - len(text.lstrip())
    body = text.strip()
    if place.column is None or place.end_column is None:
        return f"{head}\n    {body}"
    # Positions count bytes; what is printed counts characters.
    start = len(text.encode()[: place.column].decode(errors="replace")) - indent
    if place.end_line == place.line:
        stop = len(text.encode()[: place.end_column].decode(errors="replace")) - indent
    else:
        stop = len(body)
    start, stop = max(start, 0), min(stop, len(body))
    return f"{head}\n    {body}\n    {' ' * start}{'^' * max(stop - start, 1)}"


def _short(file: str) -> str:
    """Paths below the working folder are shown relative to it."""
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file


def _code(function: Callable[..., object]) -> CodeType:
    function = inspect.unwrap(function)
    assert isinstance(function, FunctionType)
    return function.__code__


def _def_line(function: Callable[..., object]) -> int:
    """co_firstlineno is the first decorator's line; the reader looks for `def`."""
    tree = _tree(function)
    if tree is None:
        return _code(function).co_firstlineno
    definition, first_line, _ = tree
    return definition.lineno + first_line - 1


@lru_cache(maxsize=8)  # asked once for each parameter of a function, one function after another
def _tree(function: Callable[..., object]) -> tuple[ast.FunctionDef, int, int] | None:
    """The parsed definition, its first line in the file, its indentation; None without source."""
    try:
        source_lines, first_line = inspect.getsourcelines(function)
    except (OSError, TypeError):
        return None  # typed at a prompt that keeps no source: errors then name the line only
    source = "".join(source_lines)
    indent = len(source) - len(source.lstrip())
    try:
        definition = ast.parse(textwrap.dedent(source)).body[0]
    except SyntaxError:
        return None
    if not isinstance(definition, ast.FunctionDef):
        return None
    return definition, first_line, indent


@lru_cache(maxsize=8)  # read for names, spans and what is bound anew, one function after another
def _instructions(code: CodeType) -> tuple[dis.Instruction, ...]:
    return tuple(dis.get_instructions(code))


Span = tuple[int | None, int | None, int | None, int | None]


@lru_cache(maxsize=512)
def _spans(code: CodeType) -> list[Span]:
    """The span of source of each code unit. Of a test or a loop, where Python has the whole statement, its operand."""
    spans = list(code.co_positions())
    operand = None
    for instruction in _instructions(code):
        index = instruction.offset // 2
        name = instruction.opname
        if name in ("TO_BOOL", "COPY", "GET_ITER") or ("JUMP" in name and "IF" in name):
            spans[index] = operand or spans[index]
        elif name != "EXTENDED_ARG":
            operand = spans[index]
    return spans


@lru_cache(maxsize=512)
def _bindings(code: CodeType) -> dict[int, tuple[str, ...]]:
    """For each instruction offset (caches included), the names that its result is stored to right away."""
    names: dict[int, tuple[str, ...]] = {}
    instructions = _instructions(code)
    for here, following in pairwise(instructions):
        bound = _bound(instructions, following)
        if bound:
            names |= dict.fromkeys(range(here.offset, following.offset, 2), bound)
    return names


def _bound(instructions: Sequence[dis.Instruction], store: dis.Instruction) -> tuple[str, ...]:
    if store.opname == "UNPACK_SEQUENCE":
        names: list[str] = []
        for later in instructions[instructions.index(store) + 1 :]:
            if not later.opname.startswith("STORE_FAST"):
                break
            names += _stored(later)
        return tuple(names) if len(names) == store.arg else ()
    if store.opname.startswith(("STORE_FAST", "STORE_DEREF", "STORE_NAME")):
        return tuple(_stored(store)[:1])
    return ()


def _stored(store: dis.Instruction) -> list[str]:
    """The names an instruction stores to. From 3.13 one instruction may store two, or store one and load one."""
    if isinstance(store.argval, tuple):
        count = store.opname.count("STORE_FAST")
        return [str(name) for name in store.argval[:count]]
    return [str(store.argval)]
