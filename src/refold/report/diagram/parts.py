"""What a picture of a network has to know of it: its layers, and how they are wired along time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from refold.errors import DataError
from refold.ir.trace import Cell
from refold.nn.layer import Recurrent
from refold.nn.wiring import FED_BACK, Network
from refold.shapes import Size

from .derive import derive
from .shared import Met, chain, met

MOST = 16  # columns that are drawn at most
_SHOWN = 6  # steps from which a run is shortened, where no layer looks further back than one


@dataclass(frozen=True, slots=True)
class Part:
    """A stack of layers of one cell. number writes a size as a layer has it; gates: see `chain`."""

    cell: Cell
    number: Callable[[Size, int], str]
    met: Met
    gates: tuple[str, ...]
    layers: int = 1
    directions: int = 1
    dilations: tuple[int, ...] = (1,)
    stack: str = "plain"

    @property
    def states(self) -> tuple[str, ...]:
        return tuple(leaf.name for leaf in self.cell.graph.leaves_of("state"))

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(leaf.name for leaf in self.cell.graph.leaves_of("input"))

    @property
    def inner(self) -> tuple[str, ...]:
        """The matrices between the gates, where these are drawn apart."""
        leaves = self.cell.graph.leaves_of("param")
        matrices = {leaf.name for leaf in leaves if len(leaf.shape) == 2}
        return tuple(n for n in self.met.others if n in matrices) if len(self.gates) > 1 else ()

    @property
    def output(self) -> str:
        return self.cell.graph.outputs_of("output")[0].slot.name


@dataclass(frozen=True, slots=True)
class Wired:
    """A network: one part, or an encoder and a decoder; its shape; and its head by a name, "" for none.

    shape  one of rf.Network's, "layer" for a layer by itself
    """

    parts: tuple[Part, ...]
    shape: str
    head: str = ""
    weights: str = ""  # what the head's weight is

    @property
    def fed_back(self) -> bool:
        return self.shape in FED_BACK

    @property
    def writes_once(self) -> bool:
        return self.shape in ("many-to-one", "one-to-one")


def wired(network: Cell | nn.Module) -> Wired:
    """What a picture says of a cell, a layer or a network."""
    if isinstance(network, Network):
        layers = [network.layer] + ([network.decoder] if network.decoder is not None else [])
        head = network.head
        name = "" if head is None else type(head).__name__.lower()
        weights = ""
        if isinstance(head, nn.Linear):
            bias = ", with a bias" if head.bias is not None else ""
            weights = f"{head.out_features}×{head.in_features}{bias}"
        return Wired(_aligned([_layer(each) for each in layers]), network.shape, name, weights)
    if isinstance(network, Recurrent):
        return Wired((_layer(network),), "layer")
    assert isinstance(network, Cell)
    return Wired((_part(network, lambda size, layer: str(size)),), "layer")


def _part(cell: Cell, number: Callable[[Size, int], str]) -> Part:
    return Part(cell, number, met(cell.graph), chain(derive(cell.graph, cell.name)))


def _layer(layer: Recurrent) -> Part:
    letters = {**layer.sizes, "n": layer.hidden_size}

    def number(size: Size, at: int) -> str:
        # A layer above the first reads the outputs of the one below.
        read = layer.output_features if at else layer.input_size
        return str(size.at({**letters, "m": read}))

    one = _part(layer.cell, number)
    count = layer.num_layers
    spread = layer.stack.spread(count)
    return Part(
        one.cell, one.number, one.met, one.gates, count, layer.directions, spread, layer.stack.kind
    )


def _aligned(parts: list[Part]) -> tuple[Part, ...]:
    """Encoder and decoder stand in the same rows: with gates drawn apart in both alike, or in neither."""
    if len({len(part.gates) for part in parts}) == 1:
        return tuple(parts)
    return tuple(
        Part(p.cell, p.number, p.met, (), p.layers, p.directions, p.dilations, p.stack)
        for p in parts
    )


def shown(steps: int, wired: Wired) -> list[int | None]:
    """The steps that get a column; None is an ellipsis.

    Errors  DataError where a layer looks further back than one step, and there are too many to draw each
    """
    dilated = max(d for part in wired.parts for d in part.dilations) > 1
    if steps <= _SHOWN or (dilated and steps <= MOST):
        return list(range(1, steps + 1))
    if dilated:
        raise DataError(
            f"{steps} steps of a dilated stack are more than a picture holds.",
            f"Set unroll={MOST} or less.",
        )
    return [1, 2, 3, None, steps - 1, steps]
