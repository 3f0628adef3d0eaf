"""A cell as plain data, dicts and lists of JSON, and back. What is kept is its graph: no code, no file.

The function that the equation was written as does not travel, and where in a source file it stood is forgotten.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from refold.shapes import Shape, Size

from .check import check
from .graph import Graph, Init, Leaf, Node, Output, Slot
from .trace import Cell, Norms

Document = dict[str, Any]


def document(cell: Cell) -> Document:
    """The cell as data.

    Example
        >>> cell_of(document(cells.get("gru"))) == cells.get("gru")
        True
    """
    graph = cell.graph
    return {
        "name": cell.name,
        "source": cell.source,
        "about": cell.about,
        "starts": list(cell.starts),
        "norms": cell.norms and [cell.norms.weight, cell.norms.form],
        "graph": graph.name,
        "leaves": [_leaf(leaf) for leaf in graph.leaves],
        "nodes": [_node(node) for node in graph.nodes],
        "outputs": [[o.slot.kind, o.slot.name, o.node] for o in graph.outputs],
    }


def cell_of(stored: Document) -> Cell:
    """The cell that the data describe, checked as any other is.

    Errors  PlanError for an illegal graph; other data raise what Python does: the caller knows where they are from.
    """
    graph = Graph(
        stored["graph"],
        tuple(_leaf_of(leaf) for leaf in stored["leaves"]),
        tuple(_node_of(node) for node in stored["nodes"]),
        tuple(Output(Slot(kind, name), node) for kind, name, node in stored["outputs"]),
    )
    norms = stored["norms"] and Norms(*stored["norms"])
    starts = tuple(stored["starts"])
    return Cell(
        stored["name"], check(graph), stored["source"], stored["about"], starts, norms=norms
    )


def _leaf(leaf: Leaf) -> Document:
    init = {"name": leaf.init.name, "settings": dict(leaf.init.settings)}
    shape = _shape(leaf.shape)
    return {"kind": leaf.kind, "name": leaf.name, "shape": shape, "init": init, "learn": leaf.learn}


def _leaf_of(stored: Document) -> Leaf:
    init = Init(stored["init"]["name"], **stored["init"]["settings"])
    shape = _shape_of(stored["shape"])
    return Leaf(stored["kind"], stored["name"], shape, init, stored["learn"])


def _node(node: Node) -> Document:
    found: Document = {"op": node.op, "args": list(node.args), "shape": _shape(node.shape)}
    if node.attr is not None:
        found["attr"] = _attr(node.attr)
    if node.label is not None:
        found["label"] = node.label
    return found


def _node_of(stored: Document) -> Node:
    shape, attr = _shape_of(stored["shape"]), _attr_of(stored.get("attr"))
    return Node(stored["op"], tuple(stored["args"]), shape, attr, stored.get("label"))


def _attr(attr: Hashable) -> Any:
    """A number as it is; anything else under its kind."""
    if isinstance(attr, Slot):
        return {"slot": [attr.kind, attr.name]}
    if isinstance(attr, Size):
        return {"size": _size(attr)}
    return {"tuple": [_attr(one) for one in attr]} if isinstance(attr, tuple) else attr


def _attr_of(stored: Any) -> Hashable:
    if not isinstance(stored, dict):
        return stored
    ((kind, of),) = stored.items()
    if kind == "slot":
        return Slot(*of)
    return _size_of(of) if kind == "size" else tuple(_attr_of(one) for one in of)


def _shape(shape: Shape) -> list[Any]:
    return [_size(size) for size in shape]


def _shape_of(stored: list[Any]) -> Shape:
    return tuple(_size_of(size) for size in stored)


def _size(size: Size) -> list[Any]:
    return [[list(letters), count] for letters, count in size.terms]


def _size_of(stored: list[Any]) -> Size:
    return Size(tuple((tuple(letters), count) for letters, count in stored))
