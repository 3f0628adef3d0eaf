"""What the runs of layers and directions give, put together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from refold.kernels.base import Call, Kernel, Run


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """One call of a kernel. In a layer of dilation `spread` every so-many steps are further rows (see `folded`)."""

    kernel: Kernel
    call: Call
    run: Run
    spread: int = 1


def side_by_side(runs: Sequence[Run], states: Iterable[str], histories: bool) -> dict[str, Tensor]:
    """What a layer's directions gave, joined along the features: "output" and, with `histories`, each state by name."""
    names = [*(states if histories else ()), "output"]
    values = [(*(run.history if histories else ()), run.output) for run in runs]
    both = values[0] if len(runs) == 1 else [torch.cat(p, -1) for p in zip(*values, strict=True)]
    return dict(zip(names, both, strict=True))


def joined(states: tuple[Tensor, ...]) -> Tensor:
    """The final states of all layers and directions."""
    return states[0].unsqueeze(0) if len(states) == 1 else torch.stack(states)
