"""A pass over reverse steps: what is zero in a sum by its construction is left out of it.

A vector is centred when its own mean has been taken off: d = z - sum(z) / n. Its elements add up to zero, and so do
those of s * d for any number s of the row, and those of sums of such vectors.

A layer norm's derivative is where this pays. The gradient that arrives at z is u - t - t - sum(u - t - t) / n, with
t = s * d, and s is a sum over the features itself: the second sum would wait for the first. The sum of u is the same
number, and both run in one pass.
"""

from __future__ import annotations

from refold.shapes import Shape

from .graph import Builder, Graph, Node, Output

# What the error reaches; every other line of a reverse step is one of the step, where it has its value already.
_ARRIVING = ("carry", "given")


def without_zero_sums(graph: Graph) -> Graph:
    """Leave terms out of a reverse step's sums over features that add up to zero whatever their values are.

    Equal up to rounding. A term that is left out no longer makes its sum NaN; where the term itself is read, it still
    spreads. In a layer norm it does: a NaN in z makes the whole of d NaN, and the gradient that arrives at z with it.
    """
    centred = _centred(graph)
    reached = graph.after(i for slot, i in graph.slots().items() if slot.kind in _ARRIVING)
    sums = {i for i in reached if _is_sum(graph.nodes[i]) and _drops(graph, i, centred)}
    if not sums:
        return graph
    builder = Builder()
    moved: list[int] = []
    for i, node in enumerate(graph.nodes):
        if i in sums:
            moved.append(_rest_of_sum(builder, graph, node, centred, moved))
        else:
            moved.append(builder.add(node.reading(tuple([moved[a] for a in node.args]))))
    outputs = tuple(Output(o.slot, moved[o.node]) for o in graph.outputs)
    return builder.graph(graph.name, graph.leaves, outputs)


# What is centred ------------------------------------------------------------------------------------------------------


def _centred(graph: Graph) -> frozenset[int]:
    """The vectors whose elements add up to zero by their construction."""
    found: set[int] = set()
    for i, node in enumerate(graph.nodes):
        if len(node.shape) == 1 and _is_centred(graph, node, found):
            found.add(i)
    return frozenset(found)


def _is_centred(graph: Graph, node: Node, found: set[int]) -> bool:
    if node.op == "sub" and any(_is_mean(graph, m, z) for z, m in (node.args, reversed(node.args))):
        return True
    if node.op in ("add", "sub", "neg"):
        return found.issuperset(node.args)
    if node.op == "mul":
        a, b = node.args
        return (a in found and _is_number(graph, b)) or (b in found and _is_number(graph, a))
    return node.op == "div" and node.args[0] in found and _is_number(graph, node.args[1])


def _is_mean(graph: Graph, m: int, z: int) -> bool:
    """Whether line m is the mean of the elements of vector z: sum(z) / n."""
    shape = graph.nodes[z].shape
    node = graph.nodes[_spread(graph, m)]
    if len(shape) != 1 or node.op not in ("div", "mul") or node.shape:
        return False
    a, b = node.args
    if node.op == "div":
        return _is_sum(graph.nodes[a], z) and _is_size(graph.nodes[b], shape)
    return any(
        _is_sum(graph.nodes[s], z) and _is_one_over_size(graph, k, shape)
        for s, k in ((a, b), (b, a))
    )


def _is_sum(node: Node, of: int | None = None) -> bool:
    """Whether a line is the sum over the features of a vector."""
    return node.op == "sum" and node.attr == 1 and of in (None, node.args[0])


def _is_size(node: Node, shape: Shape) -> bool:
    """Whether a number is a vector's size: its letter, or the number that stands for it."""
    if node.op == "size":
        return node.attr == shape[0]
    return node.op == "const" and not shape[0].letters and node.attr == shape[0].at({})


def _is_one_over_size(graph: Graph, i: int, shape: Shape) -> bool:
    node = graph.nodes[i]
    if node.op == "div":
        one, size = (graph.nodes[a] for a in node.args)
        return one.op == "const" and one.attr == 1.0 and _is_size(size, shape)
    size = 0 if shape[0].letters else shape[0].at({})
    return node.op == "const" and size > 0 and node.attr == 1.0 / size


def _is_number(graph: Graph, i: int) -> bool:
    """Whether all features read the same number of a row."""
    return graph.nodes[_spread(graph, i)].shape == ()


def _spread(graph: Graph, i: int) -> int:
    """The number that a line spreads over the features, or the line itself."""
    node = graph.nodes[i]
    return node.args[0] if node.op == "expand" else i


# What is left of a sum ------------------------------------------------------------------------------------------------


def _drops(graph: Graph, i: int, centred: frozenset[int]) -> bool:
    """Whether a term of line i is centred: taken apart over signs and sums, down to products."""
    return any(
        a in centred or (graph.nodes[a].op in ("add", "sub", "neg") and _drops(graph, a, centred))
        for a in graph.nodes[i].args
    )


def _rest_of_sum(
    builder: Builder, graph: Graph, node: Node, centred: frozenset[int], moved: list[int]
) -> int:
    shape = graph.nodes[node.args[0]].shape
    rest = _rest(builder, graph, node.args[0], centred, moved)
    if rest is None:
        return builder.add(Node("const", (), (), 0.0, node.label, node.place))
    if builder.nodes[rest].shape != shape:  # numbers alone are left, one for each feature
        rest = builder.add(Node("expand", (rest,), shape, shape))
    return builder.add(node.reading((rest,)))


def _rest(
    builder: Builder, graph: Graph, i: int, centred: frozenset[int], moved: list[int]
) -> int | None:
    """Line i without its centred terms, or None where nothing is left."""
    node = graph.nodes[i]
    if i in centred:
        return None
    if node.op not in ("add", "sub", "neg") or not _drops(graph, i, centred):
        return moved[i]
    left = [_rest(builder, graph, a, centred, moved) for a in node.args]
    kept = [k for k in left if k is not None]
    if not kept:
        return None
    if len(kept) == len(left):
        shape = max((builder.nodes[k].shape for k in kept), key=len)
        return builder.add(Node(node.op, tuple(kept), shape, place=node.place))
    if node.op == "sub" and left[0] is None:
        return builder.add(Node("neg", (kept[0],), builder.nodes[kept[0]].shape, place=node.place))
    return kept[0]
