"""Passes: graph to equivalent graph.

fold     arithmetic on numbers is done now; x + 0, x * 1, W.T.T and their like vanish
gather   what a long sum adds before the loop is added before the loop: W @ x + U @ h + b = (W @ x + b) + U @ h
share    equal lines become one line (the builder does it whenever a graph is rebuilt)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

from refold.shapes import Size

from .graph import Builder, Graph, Node, Output
from .ops import OPS, same

# Given the builder and a node whose arguments are already rewritten: the line to use instead, or None to keep it.
Rule = Callable[[Builder, Node], int | None]


def simplified(graph: Graph) -> Graph:
    """All passes, in their order."""
    return fold(gather(fold(graph)))


def fold(graph: Graph) -> Graph:
    """Do now what needs no data."""
    return rewrite(graph, _folded)


def share(graph: Graph) -> Graph:
    """Write equal lines once."""
    return rewrite(graph, lambda builder, node: None)


def rewrite(graph: Graph, rule: Rule) -> Graph:
    """Rebuild a graph line by line, asking `rule` about each."""
    builder = Builder()
    moved: list[int] = []
    for node in graph.nodes:
        node = node.reading(tuple([moved[a] for a in node.args]))
        instead = rule(builder, node)
        if instead is None:
            instead = builder.add(node)
        elif (
            node.label and not builder.nodes[instead].label and builder.nodes[instead].op != "const"
        ):
            builder.name(instead, node.label)
        moved.append(instead)
    outputs = tuple(Output(o.slot, moved[o.node]) for o in graph.outputs)
    return builder.graph(graph.name, graph.leaves, outputs)


# Folding --------------------------------------------------------------------------------------------------------------

_ARITHMETIC: dict[str, Callable[..., float]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "neg": lambda a: -a,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "tanh": math.tanh,
    "log": math.log,
}


def _folded(builder: Builder, node: Node) -> int | None:
    # Most lines end here: their arguments are no ops that a rule looks for, nor the same line twice.
    if _TELLING.isdisjoint([builder.nodes[a].op for a in node.args]) and not _is_twice(node):
        return None
    for rule in _RULES[node.op]:
        found = rule(builder, node)
        if found is not None:
            return found
    return None


def _number(builder: Builder, node: Node) -> int | None:
    """An op on numbers is a number."""
    arguments = [builder.nodes[a] for a in node.args]
    if any(a.op != "const" for a in arguments):
        return None
    try:
        value = _ARITHMETIC[node.op](*(a.attr for a in arguments))
    except (ValueError, OverflowError):
        return None  # log(-1): left for run time, where it gives nan as it does elsewhere
    return builder.add(Node("const", (), (), float(value)))


_NEUTRAL = {"add": 0.0, "sub": 0.0, "mul": 1.0, "div": 1.0}


def _neutral(builder: Builder, node: Node) -> int | None:
    """x + 0, x - 0, x * 1, x / 1 are x; x * -1 is -x."""
    left, right = node.args
    neutral = _NEUTRAL[node.op]
    commutes = node.op in ("add", "mul")
    for kept, other in ((left, right), (right, left)) if commutes else ((left, right),):
        number = builder.nodes[other]
        if number.op != "const" or builder.nodes[kept].shape != node.shape:
            continue
        if number.attr == neutral:
            return kept
        if node.op == "mul" and number.attr == -1.0:
            return builder.add(Node("neg", (kept,), node.shape, place=node.place))
    return None


def _double(builder: Builder, node: Node) -> int | None:
    """-(-x) and W.T.T undo themselves."""
    inner = builder.nodes[node.args[0]]
    return inner.args[0] if inner.op == node.op else None


_LINEAR = {  # op -> the arguments in which it is linear, so that a minus sign can be taken out
    "mul": (0, 1),
    "div": (0,),
    "matvec": (1,),
    "sum": (0,),
    "expand": (0,),
    "transpose": (0,),
    "pad": (0,),
    "slice": (0,),
}


def _minus(builder: Builder, node: Node) -> int | None:
    """A minus sign moves outwards, until it meets a sum: a + (-b) * c is a - b * c."""
    negated = [builder.nodes[a].op == "neg" for a in node.args]
    if True not in negated:
        return None
    inner = [builder.nodes[a].args[0] if n else a for a, n in zip(node.args, negated, strict=True)]
    if node.op in ("add", "sub") and negated[1]:
        op = "sub" if node.op == "add" else "add"
        return _again(builder, node.reading((node.args[0], inner[1]), op))
    if node.op == "add" and negated[0]:
        return _again(builder, node.reading((node.args[1], inner[0]), "sub"))
    for position in _LINEAR.get(node.op, ()):
        if negated[position]:
            args = tuple(
                i if k == position else a
                for k, (a, i) in enumerate(zip(node.args, inner, strict=True))
            )
            positive = _again(builder, node.reading(args).named(None))
            return _again(builder, Node("neg", (positive,), node.shape, place=node.place))
    return None


def _twice(builder: Builder, node: Node) -> int | None:
    """x + x is 2 x."""
    if not _is_twice(node):
        return None
    two = builder.add(Node("const", (), (), 2.0))
    return builder.add(Node("mul", (two, node.args[0]), node.shape, place=node.place))


def _is_twice(node: Node) -> bool:
    return node.op == "add" and node.args[0] == node.args[1]


def _again(builder: Builder, node: Node) -> int:
    found = _folded(builder, node)
    return builder.add(node) if found is None else found


def _bare(builder: Builder, node: Node) -> int | None:
    """A scalar need not be spread over a shape that the other operand has anyway."""
    if not any(_spread(builder, a) for a in node.args):
        return None
    if all(_spread(builder, a) or builder.nodes[a].shape != node.shape for a in node.args):
        return None
    args = tuple(builder.nodes[a].args[0] if _spread(builder, a) else a for a in node.args)
    return _again(builder, node.reading(args))


def _spread(builder: Builder, index: int) -> bool:
    return builder.nodes[index].op == "expand"


def _flat(builder: Builder, node: Node) -> int | None:
    """A concatenation of concatenations is one."""
    if all(builder.nodes[a].op != "concat" for a in node.args):
        return None
    parts = [builder.nodes[a].args if builder.nodes[a].op == "concat" else (a,) for a in node.args]
    return builder.add(node.reading(tuple([part for group in parts for part in group])))


def _turned(builder: Builder, node: Node) -> int | None:
    """An outer product is transposed by taking its vectors the other way round."""
    inner = builder.nodes[node.args[0]]
    if inner.op != "outer":
        return None
    return builder.add(Node("outer", inner.args[::-1], node.shape, place=node.place))


def _side_by_side(builder: Builder, node: Node) -> int | None:
    """Pieces padded with zeros to their places and added up are one concatenation."""
    if any(builder.nodes[a].op != "pad" for a in node.args):
        return None
    first, second = sorted(
        (builder.nodes[a] for a in node.args), key=lambda n: _span(builder, n)[0].terms
    )
    for a, b in ((first, second), (second, first)):
        (start, rows), (next_start, next_rows) = _span(builder, a), _span(builder, b)
        if start + rows == next_start:
            shape = (rows + next_rows, *node.shape[1:])
            joined = _again(builder, Node("concat", (a.args[0], b.args[0]), shape))
            if shape == node.shape:
                return joined
            return builder.add(Node("pad", (joined,), node.shape, (start, node.shape[0])))
    return None


def _span(builder: Builder, pad: Node) -> tuple[Size, Size]:
    """Where a padded piece begins, and how many rows it has."""
    assert isinstance(pad.attr, tuple)
    return pad.attr[0], builder.nodes[pad.args[0]].shape[0]


_TELLING = frozenset(("const", "neg", "transpose", "expand", "concat", "pad", "outer"))
_ORDER: dict[Rule, Collection[str]] = {  # rules, and the ops that each of them is about
    _number: _ARITHMETIC,
    _neutral: _NEUTRAL,
    _double: ("neg", "transpose"),
    _minus: ("add", "sub", *_LINEAR),
    _twice: ("add",),
    _bare: [name for name, op in OPS.items() if op.shape is same and op.arity],
    _flat: ("concat",),
    _turned: ("transpose",),
    _side_by_side: ("add",),
}
_RULES: dict[str, tuple[Rule, ...]] = {
    name: tuple(rule for rule, about in _ORDER.items() if name in about) for name in OPS
}


# Gathering ------------------------------------------------------------------------------------------------------------


def gather(graph: Graph) -> Graph:
    """Add the terms of each sum in the order in which they become known: parameters, inputs, states."""
    varying = graph.varying()
    loop = graph.after(graph.reading("state", "carry"))
    rank = [2 if i in loop else int(i in varying) for i in range(len(graph.nodes))]
    uses = graph.uses()
    leaving = {o.node for o in graph.outputs}
    inner = {
        i for i in range(len(graph.nodes)) if _inside_a_sum(graph, i, uses) and i not in leaving
    }

    builder = Builder()
    moved: list[int] = []
    for i, node in enumerate(graph.nodes):
        if node.op in ("add", "sub", "neg") and i not in inner:
            terms = list(_terms(graph, i, inner, 1))
            if len({rank[t] for t, _ in terms}) > 1 and len(terms) > 2:
                moved.append(_sum_by_rank(builder, graph, node, terms, rank, moved))
                continue
        moved.append(builder.add(node.reading(tuple([moved[a] for a in node.args]))))
    outputs = tuple(Output(o.slot, moved[o.node]) for o in graph.outputs)
    return builder.graph(graph.name, graph.leaves, outputs)


def _inside_a_sum(graph: Graph, i: int, uses: dict[int, list[int]]) -> bool:
    """A sum that only one other sum reads."""
    if graph.nodes[i].op not in ("add", "sub", "neg") or len(uses[i]) != 1:
        return False
    reader = graph.nodes[uses[i][0]]
    return reader.op in ("add", "sub", "neg") and reader.shape == graph.nodes[i].shape


def _terms(graph: Graph, i: int, inner: set[int], sign: int) -> list[tuple[int, int]]:
    """The signed terms of the sum that ends in line i, from left to right."""
    node = graph.nodes[i]
    signs = {"add": (sign, sign), "sub": (sign, -sign), "neg": (-sign,)}[node.op]
    found: list[tuple[int, int]] = []
    for arg, s in zip(node.args, signs, strict=True):
        found += _terms(graph, arg, inner, s) if arg in inner else [(arg, s)]
    return found


def _sum_by_rank(
    builder: Builder,
    graph: Graph,
    node: Node,
    terms: list[tuple[int, int]],
    rank: list[int],
    moved: list[int],
) -> int:
    # A positive term first in each rank saves a negation.
    ordered = sorted(terms, key=lambda term: (rank[term[0]], -term[1]))
    total, label = None, None
    for position, (term, sign) in enumerate(ordered):
        operand, shape = moved[term], graph.nodes[term].shape
        if total is None:
            total = (
                operand
                if sign > 0
                else builder.add(Node("neg", (operand,), shape, place=node.place))
            )
            continue
        shape = shape or builder.nodes[total].shape
        label = node.label if position == len(ordered) - 1 else None
        op = "add" if sign > 0 else "sub"
        total = builder.add(Node(op, (total, operand), shape, None, label, node.place))
    assert total is not None
    return total
