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
        for leaf in self._leaves:
            init.check(cell.name, leaf)
            shape = [size.at(layout.letters) for size in leaf.shape]
            home, name = self._home(leaf.name)
            tensor = torch.empty(shape, device=device, dtype=dtype)
            if leaf.learn:
                home.register_parameter(name, nn.Parameter(tensor))
            else:
                home.register_buffer(name, tensor)
        if layout.learn_state:
            self.start = nn.ParameterDict(
                {
                    s: nn.Parameter(torch.empty(w, device=device, dtype=dtype))
                    for s, w in self._layout.states.items()
                }
            )
        # Without any parameter the layer's dtype and device are still those that were asked for.
        self.register_buffer("_like", torch.empty(0, device=device, dtype=dtype), persistent=False)
        self.reset()

    def reset(self) -> None:
        """Draw all parameters again, each as its declaration says."""
        for leaf in self._leaves:
            tensor = self.named()[leaf.name]
            if leaf.name in self._layout.scalars:
                tensor.data.fill_(self._layout.scalars[leaf.name])
            else:
                init.fill(tensor, leaf.init, self._layout.letters["n"])
        for name, tensor in self._learned_start().items():
            tensor.data.fill_(self._starts[name])

    def named(self) -> dict[str, Tensor]:
        """Parameters and fixed values by their names in the equation, in the order declared."""
        found = {}
        for leaf in self._leaves:
            home, name = self._home(leaf.name)
            found[leaf.name] = getattr(home, name)
        return found

    @property
    def like(self) -> Tensor:
        """A tensor of the layer's dtype, on its device."""
        first = next(iter(self.named().values()), self._buffers["_like"])
        assert first is not None
        return first

    def first(self, rows: int) -> tuple[Tensor, ...]:
        """The states before the first step, where the caller gives none."""
        learned = self._learned_start()
        if learned:
            return tuple(s.expand(rows, -1) for s in learned.values())
        return tuple(
            self.like.new_full((rows, w), self._starts[s]) for s, w in self._layout.states.items()
        )

    def _learned_start(self) -> dict[str, Tensor]:
        start = self._modules.get("start")
        return {} if start is None else {s: start[s] for s in self._layout.states}  # type: ignore[index]

    def _home(self, name: str) -> tuple[nn.Module, str]:
        """The module that holds a parameter, and its name there."""
        parent, _, last = name.rpartition(".")
        if not parent:
            return self, name
        if parent not in self._modules:
            self.add_module(parent, nn.Module())
        return self.get_submodule(parent), last
