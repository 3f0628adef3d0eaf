"""A network with another value of one parameter, for `bifurcation`."""

from __future__ import annotations

import copy
import re

import torch
from torch import Tensor, nn

from refold.errors import DataError
from refold.nn.layer import Recurrent
from refold.nn.wiring import Network

NAME = re.compile(r"(?:l(\d+)\.)?(.+?)(?:\[([\d, ]+)\])?")


def varied(module: nn.Module, name: str, value: float) -> nn.Module:
    """A copy in which a parameter of one number, or the element "W_h[0, 1]", is the value; another is multiplied by it.

    name  as in the equation, "l1.W_h" in a stack

    Errors  DataError for a parameter that there is not
    """
    where = f"bifurcation({name!r})"
    made = copy.deepcopy(module)
    layer = made.layer if isinstance(made, Network) else made
    if not isinstance(layer, Recurrent):
        fact = f"a {type(layer).__name__} keeps its parameters under torch's names"
        raise DataError(fact, "give an rf.Recurrent or an rf.Network", where)
    found = NAME.fullmatch(name)
    assert found is not None
    number, own, element = found.groups()
    level = int(number or 0)
    named = layer._part(level, False).named() if level < layer.num_layers else {}
    if own not in named:
        known = ", ".join(named)
        raise DataError(f"there is no parameter {name!r}", f"its parameters are {known}", where)
    with torch.no_grad():
        _set(named[own], element, value, where)
    return made


def _set(place: Tensor, element: str | None, value: float, where: str) -> None:
    if element is not None:
        index = tuple(int(i) for i in element.split(","))
        if len(index) != place.ndim or any(i >= n for i, n in zip(index, place.shape, strict=True)):
            fact = f"the parameter has the shape {tuple(place.shape)}"
            raise DataError(fact, "name an element of it", where)
        place[index] = value
    elif place.numel() == 1:
        place.fill_(value)
    else:
        place.mul_(value)
