"""How weights start: initialisers by the names their papers gave them, chosen for each weight in the equation.

W_h=rf.Weight("n n", init="orthogonal")
b=rf.Bias("n", init=rf.Init("constant", value=1.0))
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from refold.errors import EquationError
from refold.ir.graph import Init, Leaf
from refold.ir.source import shown

Fill = Callable[..., object]


@dataclass(frozen=True, slots=True)
class Initialiser:
    """A way to fill a tensor, its settings with their defaults, and where it comes from."""

    fill: Fill  # (tensor, hidden size, **settings)
    settings: dict[str, float]
    source: str


def _torch(w: Tensor, hidden: int) -> None:
    bound = 1 / math.sqrt(hidden)
    nn.init.uniform_(w, -bound, bound)


def _identity(w: Tensor, hidden: int, scale: float) -> None:
    nn.init.eye_(w)
    w.mul_(scale)


def _spectral_radius(w: Tensor, hidden: int, radius: float) -> None:
    nn.init.uniform_(w, -1.0, 1.0)
    w.mul_(radius / torch.linalg.eigvals(w.double()).abs().max().to(w.dtype))


def _blocks(w: Tensor, hidden: int) -> None:
    rows, columns = w.shape
    w.zero_()[torch.arange(rows), torch.arange(rows) * columns // rows] = 1.0


def _open_uniform(w: Tensor, low: float, high: float) -> Tensor:
    """Uniform, and never quite at either end, where a logarithm may be infinite."""
    margin = (high - low) * torch.finfo(w.dtype).eps
    return w.uniform_(low, high).clamp_(low + margin, high - margin)


def _chrono(w: Tensor, hidden: int, steps: float) -> None:
    w.uniform_(1.0, steps - 1.0).log_()


def _ring(w: Tensor, hidden: int, r_min: float, r_max: float) -> None:
    # Uniform by area; |lambda| = exp(-exp(w)), so w is log(-log|lambda|).
    squared = _open_uniform(w, r_min**2, r_max**2)
    squared.log_().mul_(-0.5).log_()


def _phase(w: Tensor, hidden: int, most: float) -> None:
    _open_uniform(w, 0.0, most).log_()


def _decay(w: Tensor, hidden: int, low: float, high: float, power: float) -> None:
    w.uniform_(low, high).pow_(1 / power).logit_()


def _fan(fill: Fill) -> Fill:
    """torch.nn.init reads fans off a matrix; a vector counts as one column."""
    return lambda w, hidden, **settings: fill(w if w.dim() == 2 else w.unsqueeze(1), **settings)


INITIALISERS: dict[str, Initialiser] = {
    "torch": Initialiser(_torch, {}, "torch.nn.RNNBase: uniform within 1/sqrt(hidden_size)"),
    "zeros": Initialiser(lambda w, hidden: w.zero_(), {}, ""),
    "ones": Initialiser(lambda w, hidden: w.fill_(1.0), {}, ""),
    "constant": Initialiser(lambda w, hidden, value: w.fill_(value), {"value": 0.0}, ""),
    "uniform": Initialiser(lambda w, hidden, bound: w.uniform_(-bound, bound), {"bound": 0.1}, ""),
    "between": Initialiser(
        lambda w, hidden, low, high: w.uniform_(low, high), {"low": 0.0, "high": 1.0}, ""
    ),
    "normal": Initialiser(lambda w, hidden, std: w.normal_(0.0, std), {"std": 0.01}, ""),
    "lecun_normal": Initialiser(
        lambda w, hidden, gain: w.normal_(0.0, gain / math.sqrt(w.shape[-1])),
        {"gain": 1.0},
        "LeCun, Bottou, Orr & Müller 1998, Efficient BackProp",
    ),
    "glorot_uniform": Initialiser(
        _fan(nn.init.xavier_uniform_), {"gain": 1.0}, "Glorot & Bengio 2010"
    ),
    "glorot_normal": Initialiser(
        _fan(nn.init.xavier_normal_), {"gain": 1.0}, "Glorot & Bengio 2010"
    ),
    "he_uniform": Initialiser(
        _fan(nn.init.kaiming_uniform_),
        {"a": 0.0},
        "He, Zhang, Ren & Sun 2015",
    ),
    "he_normal": Initialiser(_fan(nn.init.kaiming_normal_), {}, "He, Zhang, Ren & Sun 2015"),
    "orthogonal": Initialiser(
        lambda w, hidden, gain: nn.init.orthogonal_(w, gain),
        {"gain": 1.0},
        "Saxe, McClelland & Ganguli 2014",
    ),
    "identity": Initialiser(_identity, {"scale": 1.0}, "Le, Jaitly & Hinton 2015 (IRNN)"),
    "spectral_radius": Initialiser(
        _spectral_radius, {"radius": 0.9}, "Jaeger 2001 (echo state networks)"
    ),
    "blocks": Initialiser(
        _blocks, {}, "row after row, equal shares of the columns: 1 where a row belongs"
    ),
    "chrono": Initialiser(
        _chrono,
        {"steps": 100.0},
        "Tallec & Ollivier 2018: forget biases for memories of up to so many steps",
    ),
    "ring": Initialiser(
        _ring,
        {"r_min": 0.0, "r_max": 1.0},
        "Orvieto et al. 2023: log(-log|lambda|), uniform by area",
    ),
    "phase": Initialiser(
        _phase, {"most": 2 * math.pi}, "Orvieto et al. 2023: the logarithm of an angle"
    ),
    "decay": Initialiser(
        _decay,
        {"low": 0.9, "high": 0.999, "power": 8.0},
        "De et al. 2024 (RG-LRU): sigmoid(w)**power is uniform",
    ),
}
_MATRICES = {
    "orthogonal": False,
    "identity": False,
    "spectral_radius": True,
    "blocks": False,
}  # name -> has to be square


def check(cell: str, leaf: Leaf) -> None:
    """Refuse an initialiser that does not exist or does not fit, before any tensor is made.

    Errors  EquationError at the declaration
    """
    init = leaf.init
    known = INITIALISERS.get(init.name)
    where = shown(leaf.place) if leaf.place else f"in cell '{cell}'"
    if known is None:
        raise EquationError(
            f'{leaf.name} starts with "{init.name}", which is no initialiser.',
            f"Choose one of {', '.join(INITIALISERS)}.",
            where,
        )
    strange = [name for name, _ in init.settings if name not in known.settings]
    if strange:
        raise EquationError(
            f'"{init.name}" has no setting {strange[0]}.',
            f"Its settings are {', '.join(known.settings) or 'none'}.",
            where,
        )
    if init.name in _MATRICES:
        square = len(leaf.shape) == 2 and leaf.shape[0] == leaf.shape[1]
        if len(leaf.shape) != 2 or (_MATRICES[init.name] and not square):
            kind = "square matrix" if _MATRICES[init.name] else "matrix"
            raise EquationError(
                f'{leaf.name} starts with "{init.name}", which needs a {kind}.',
                'Choose another initialiser, such as "torch" or "glorot_uniform".',
                where,
            )


@torch.no_grad()
def fill(tensor: Tensor, init: Init, hidden: int) -> None:
    """Fill a tensor in place. `hidden` is the layer's hidden_size."""
    known = INITIALISERS[init.name]
    known.fill(tensor, hidden, **{**known.settings, **dict(init.settings)})
