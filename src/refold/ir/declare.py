"""What the parameters of a cell declare, by their default values.

    @rf.cell
    def elman(x=rf.Input("m"), h=rf.State("n"), *, W_x=rf.Weight("n m"), W_h=rf.Weight("n n"), b=rf.Bias("n")):
        return rf.tanh(W_h @ h + W_x @ x + b)

Sizes are letters: `m` is the layer's input_size, `n` its hidden_size, any other is given to the layer by keyword.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .graph import Init

# torch.nn's choice for every recurrent weight and bias, so that a network starts as its counterpart there does.
_DEFAULT = Init("torch")


class _Anything(type):
    """In an equation a symbol stands where a declaration is written, so a type checker must let anything pass."""

    def __call__(cls, *arguments: Any, **settings: Any) -> Any:
        return super().__call__(*arguments, **settings)


class Declaration(metaclass=_Anything):
    """What all declarations are."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Input(Declaration):
    """A sequence that the cell reads, one vector a step. `m` is the layer's input_size; "" is one number a step."""

    size: str = "m"


@dataclass(frozen=True, slots=True)
class State(Declaration):
    """A vector that the cell carries from step to step. `n` is the layer's hidden_size.

    start  the value of every element before the first step, where the caller gives none
    """

    size: str = "n"
    start: float = 0.0


@dataclass(frozen=True, slots=True)
class Weight(Declaration):
    """A matrix ("n m": n rows, m columns) or a vector ("n"), learned unless learn=False."""

    sizes: str
    init: Init | str = _DEFAULT
    learn: bool = True


@dataclass(frozen=True, slots=True)
class Bias(Declaration):
    """A vector that is added: a Weight of one size, by its usual name."""

    size: str
    init: Init | str = _DEFAULT
    learn: bool = True


@dataclass(frozen=True, slots=True)
class Affine(Declaration):
    """a(x, h) = W_x @ x + W_h @ h + b: a weight for each argument and one bias, named "a.W_x", "a.W_h", "a.b"."""

    size: str
    bias: bool = True
    init: Init | str = _DEFAULT
    bias_init: Init | str = _DEFAULT


@dataclass(frozen=True, slots=True)
class Scalar(Declaration):
    """A number with a name: fixed (a setting that the layer's keyword of that name overrides) or learned."""

    value: float
    learn: bool = False


def named(init: Init | str) -> Init:
    """An initialiser by its name alone, or with settings."""
    return Init(init) if isinstance(init, str) else init
