"""The parameters of one layer and direction, as a torch.nn.Module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from refold.ir.graph import Leaf
from refold.ir.trace import Cell

from . import init


@dataclass(frozen=True, slots=True)
class Layout:
    """What has to be made: the cell with numbers for its letters.

    letters  a number for every letter; scalars: values that replace those of fixed scalars; states: their widths
    """

    cell: Cell
    letters: Mapping[str, int]
    scalars: Mapping[str, float]
    states: Mapping[str, int]
    learn_state: bool


class Parameters(nn.Module):
    """The parameters of one layer and direction, each under its name in the equation ("i.W_x" is W_x of child i)."""

    def __init__(
        self, layout: Layout, device: torch.device | str | None, dtype: torch.dtype | None
    ):
        super().__init__()
        cell = layout.cell
        self._layout = layout
        self._leaves: tuple[Leaf, ...] = cell.graph.leaves_of("param")
        self._starts = dict(zip(layout.states, cell.starts, strict=True))
        self._children: dict[str, str] = {}  # an Affine's name -> its module's
        self._places: dict[
            str, tuple[str, str]
        ] = {}  # a leaf's name -> its module's, its own there
        for leaf in self._leaves:
            init.check(cell.name, leaf)
            shape = [size.at(layout.letters) for size in leaf.shape]
            tensor = torch.empty(shape, device=device, dtype=dtype)
            self._keep(leaf.name, nn.Parameter(tensor) if leaf.learn else tensor)
        self._named = tuple((leaf.name, self._places[leaf.name]) for leaf in self._leaves)
        if layout.learn_state:
            for state, width in layout.states.items():
                start = torch.empty(width, device=device, dtype=dtype)
                self._keep(_start(state), nn.Parameter(start))
        # Without any parameter the layer's dtype and device are still those that were asked for.
        self.register_buffer("_like", torch.empty(0, device=device, dtype=dtype), persistent=False)
        self.draw()

    def draw(self) -> None:
        """Draw all parameters again, each as its declaration says."""
        for leaf in self._leaves:
            tensor = self._kept(leaf.name)
            if leaf.name in self._layout.scalars:
                with (
                    torch.no_grad()
                ):  # not through .data: compiled code learns of changes by torch's count of them
                    tensor.fill_(self._layout.scalars[leaf.name])
            else:
                init.fill(tensor, leaf.init, self._layout.letters["n"])
        if self._layout.learn_state:
            for state, start in self._starts.items():
                with torch.no_grad():
                    self._kept(_start(state)).fill_(start)

    def named(self) -> dict[str, Tensor]:
        """Parameters and fixed values by their names in the equation, in the order declared."""
        modules = self._modules
        found = {}
        for name, (child, own) in self._named:  # faster by three than asking the modules
            home = modules[child] if child else self
            tensor = home._parameters.get(own)  # type: ignore[union-attr]
            found[name] = self._kept(name) if tensor is None else tensor
        return found

    @property
    def like(self) -> Tensor:
        """A tensor of the layer's dtype, on its device."""
        first = self._leaves[0].name if self._leaves else None
        return self._buffers["_like"] if first is None else self._kept(first)  # type: ignore[return-value]

    def first(self, rows: int) -> tuple[Tensor, ...]:
        """The states before the first step, where the caller gives none."""
        if self._layout.learn_state:
            return tuple(self._kept(_start(state)).expand(rows, -1) for state in self._starts)
        widths = self._layout.states
        return tuple(self.like.new_full((rows, widths[s]), v) for s, v in self._starts.items())

    def start(self, state: str) -> Tensor:
        """The learned start of a state, (size,)."""
        return self._kept(_start(state))

    def _keep(self, name: str, tensor: Tensor) -> None:
        """Register a tensor under its name in the equation, or nearly: a gate may be called `reset` or `type`."""
        parent, _, own = name.rpartition(".")
        if parent and parent not in self._children:
            self._children[parent] = _free(self, parent)
            self.register_module(self._children[parent], nn.Module())
        child = self._children[parent] if parent else ""
        home = self.get_submodule(child)
        self._places[name] = child, _free(home, own)
        if isinstance(tensor, nn.Parameter):
            home.register_parameter(self._places[name][1], tensor)
        else:
            home.register_buffer(self._places[name][1], tensor)

    def _kept(self, name: str) -> Tensor:
        child, own = self._places[name]
        home = self._modules[child] if child else self
        return getattr(home, own)

    def homes(self) -> list[tuple[Mapping[str, Tensor | None], str]] | None:
        """For each of `named`, the dictionary that holds it and its name there; None: one of them is worked out."""
        found: list[tuple[Mapping[str, Tensor | None], str]] = []
        for leaf in self._leaves:
            child, own = self._places[leaf.name]
            home = self._modules[child] if child else self
            assert home is not None
            for held in (home._parameters, home._buffers):
                if held.get(own) is not None:
                    found.append((held, own))
                    break
            else:
                return None
        return found


def _start(state: str) -> str:
    """The name of a learned state before the first step."""
    return f"start_{state}"


def _free(module: nn.Module, name: str) -> str:
    """The name, with an underscore behind it while it already means something to the module."""
    taken = {*module.__dict__, *module._parameters, *module._buffers, *module._modules}
    while hasattr(type(module), name) or name in taken:
        name += "_"
    return name
