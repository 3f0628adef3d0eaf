"""What each parameter of a cell does: it multiplies the input or the past, is added, or is read out."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from .graph import Graph

# In order of precedence, where a parameter has several.
ROLES = ("recurrent", "input", "bias", "output")
_PRODUCTS = ("matvec", "mul", "div")


@lru_cache(maxsize=256)
def roles(graph: Graph) -> dict[str, str]:
    """For each parameter by its name: its role.

    recurrent  it multiplies what depends on an old state: W_h @ h, and V @ s with an s that is made of h
    input      it multiplies what depends on inputs alone
    bias       it is added, or used in another way
    output     no state depends on it
    """
    slots = graph.slots()
    found: dict[str, str] = {}
    for leaf in graph.leaves_of("param"):
        uses = set(_uses(graph, slots[leaf.slot])) if leaf.slot in slots else set()
        found[leaf.name] = min(uses, key=ROLES.index, default="output")
    return found


def _uses(graph: Graph, parameter: int) -> Iterator[str]:
    """The role in each line on the way to a state where a parameter meets what varies."""
    varying, past = graph.varying(), graph.after(graph.reading("state"))
    states = graph.before(o.node for o in graph.outputs_of("state"))
    made = graph.after([parameter]) - varying  # of parameters alone
    for i in graph.after([parameter]) & states & varying:
        node = graph.nodes[i]
        if made.isdisjoint(node.args):
            continue
        if node.op not in _PRODUCTS:
            yield "bias"
        else:
            yield "recurrent" if past.intersection(node.args) else "input"
    if any(o.node in made for o in graph.outputs_of("state")):
        yield "bias"
