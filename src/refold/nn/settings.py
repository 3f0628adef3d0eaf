"""What a layer is asked for: numbers, switches and sizes, checked when it is made."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch

from refold.errors import EquationError
from refold.ir.graph import Leaf
from refold.ir.trace import Cell
from refold.plan.cost import letters

Record = TypeVar("Record")


def keywords(
    cell: Cell, given: Mapping[str, float], own: Iterable[str]
) -> tuple[dict[str, int], dict[str, float]]:
    """Keywords parted into numbers for letters and values for fixed scalars; `own`: names that the layer itself has.

    Errors  EquationError for a letter without a number, a keyword that the cell does not know, a size below 1
    """
    known = sorted(letters(cell.graph) - {"m", "n"})
    scalars = [leaf.name for leaf in cell.graph.leaves_of("param") if leaf.shape == ()]
    taken = {*own, *known, "m", "n"} & set(scalars)
    if taken:
        raise EquationError(
            f"cell '{cell.name}' calls a scalar {min(taken)}, which is a size or a setting of the layer.",
            "Give the scalar another name.",
        )
    strange = [name for name in given if name not in (*known, *scalars)]
    if strange:
        raise EquationError(
            f"cell '{cell.name}' has neither a size nor a scalar called {strange[0]}.",
            f"Its sizes are {', '.join(['m', 'n', *known])}; its scalars {', '.join(scalars) or 'none'}. "
            "m is input_size and n is hidden_size.",
        )
    missing = [letter for letter in known if letter not in given]
    if missing:
        raise EquationError(
            f"cell '{cell.name}' needs a number for the size {missing[0]}.",
            f"Pass it by keyword: rf.Recurrent(..., {missing[0]}=...).",
        )
    sizes = {letter: whole(letter, given[letter]) for letter in known}
    return sizes, {name: number(name, given[name]) for name in scalars if name in given}


def refuse_bad_stack(
    cell: Cell, output: Leaf, features: int, width: Callable[[Leaf, int], int]
) -> None:
    """A layer above the first reads the output of the one below, and its states have the sizes of the first's.

    features  of the output; width: how many numbers a leaf has in a layer, counted from 0

    Errors  EquationError for a cell that cannot stand on another of its kind
    """
    if not cell.graph.leaves_of("input"):
        raise EquationError(
            f"cell '{cell.name}' reads no input, and a stack hands each layer the output of the one below.",
            "Set num_layers=1.",
        )
    first = cell.graph.leaves_of("input")[0]
    if width(first, 1) != features:
        raise EquationError(
            f"input {first.name} of cell '{cell.name}' has {width(first, 1)} numbers, "
            f"and the layer below gives {features}.",
            f'Declare it {first.name}=rf.Input("m"), or set num_layers=1.',
        )
    for leaf in (*cell.graph.leaves_of("state"), output):
        if width(leaf, 1) != width(leaf, 0):
            raise EquationError(
                f"{leaf.kind} {leaf.name} of cell '{cell.name}' has {width(leaf, 0)} numbers in the "
                f"first layer and {width(leaf, 1)} above it: its size {leaf.shape[0]} follows what is read.",
                "Choose input_size equal to the output's size, or set num_layers=1.",
            )


def number(name: str, value: object, example: float = 0.5) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise EquationError(
            f"{name} is {value!r}, and must be a number.", f"Pass {name}={example}, say."
        )
    return float(value)


def whole(name: str, value: object, least: int = 1) -> int:
    example = 2 if name == "num_layers" else 64
    found = number(name, value, example)
    if not found.is_integer() or found < least:
        raise EquationError(
            f"{name} is {value!r}, and must be a whole number, at least {least}.",
            f"Pass {name}={example}, say.",
        )
    return int(found)


def yes_or_no(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise EquationError(f"{name} is {value!r}.", f"Pass {name}=True or {name}=False.")
    return value


def record(name: str, value: object, kind: type[Record]) -> Record:
    if not isinstance(value, kind):
        raise EquationError(
            f"{name} is {value!r}, and must be an rf.{kind.__name__}.",
            f"Pass {name}=rf.{kind.__name__}(...).",
        )
    return value


def check_dtype(dtype: object) -> None:
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise EquationError(
            f"dtype is {dtype}, and gradients need real numbers.",
            "Choose torch.float32 or torch.float64.",
        )


def dropout_rate(value: object, layers: int) -> float:
    value = number("dropout", value)
    if not 0 <= value <= 1:
        raise EquationError(
            f"dropout is {value!r}, and a probability lies between 0 and 1.",
            "Pass dropout=0.1, say.",
        )
    if value > 0 and layers == 1:
        warnings.warn(
            "dropout acts between layers, and this stack has one: it does nothing. Set num_layers=2 or more.",
            UserWarning,
            stacklevel=3,
        )
    return float(value)
