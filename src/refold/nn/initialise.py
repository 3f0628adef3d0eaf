"""Initialisers that act on what a weight does in its equation: recurrent weights, and the biases of time constants."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from refold.errors import EquationError, RefoldError
from refold.ir.gates import Bias, keeping
from refold.ir.graph import Init
from refold.ir.trace import Cell
from refold.ir.wrap import recurrent_reads
from refold.shapes import Size

from . import init
from .dropin import Layers
from .layer import Recurrent
from .settings import number

# What `gain` is called by initialisers that have a word of their own for it.
GAIN = {"identity": "scale", "spectral_radius": "radius"}


@dataclass(frozen=True, slots=True)
class Initialised:
    """What was drawn again: for each parameter by its name, how, in one line of text each."""

    changed: Mapping[str, tuple[str, ...]]

    def __str__(self) -> str:
        return "\n".join(f"{name}: {', '.join(how)}" for name, how in self.changed.items())


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """One layer and direction: its equation, numbers for the letters, and the parameters by their names there."""

    cell: Cell
    letters: Mapping[str, int]
    named: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class _Target:
    """Some rows of a parameter, the multiple of a draw that they get, and how that is told."""

    parameter: Tensor
    rows: slice
    times: float
    text: str

    @property
    def place(self) -> Tensor:
        return self.parameter[self.rows] if self.parameter.ndim else self.parameter


@dataclass(frozen=True, slots=True, eq=False)
class _Draw:
    """One draw, block by block, and where it goes."""

    init: Init
    hidden: int
    blocks: int
    targets: tuple[_Target, ...]

    @torch.no_grad()
    def make(self) -> None:
        drawn = torch.empty_like(self.targets[0].place)
        for block in drawn.chunk(self.blocks) if drawn.ndim else (drawn,):
            init.fill(block, self.init, self.hidden)
        for target in self.targets:
            target.place.copy_(target.times * drawn)


def initialise(
    module: nn.Module,
    *,
    recurrent: str | Init | None = "orthogonal",
    gain: float | None = None,
    chrono: float | None = None,
    seed: int | None = None,
) -> Initialised:
    """Draw the recurrent weights of every layer inside a module again, and set its gates to long memories.

    Arguments
        module     an rf.Recurrent, an rf.nn layer, or anything that holds some
        recurrent  an initialiser by name, or an rf.Init, for each weight that multiplies an old state; None leaves
                   them. A matrix of several gates is filled gate by gate, n rows each
        gain       of "orthogonal" and others that have one; the scale of "identity", the radius of "spectral_radius"
        chrono     the longest memory that is expected, in steps: each unit's gate gets the bias that keeps its state
                   for a time drawn uniformly up to so many, and a gate that writes the opposite bias. Which gate keeps
                   is read from the equation; where several biases are added in it, the first takes all, the others 0
        seed       for draws of their own; None draws from torch's global generator

    Errors  EquationError for an initialiser that does not fit a weight, for chrono and a cell without a gate that keeps
    its state, or a gate without a bias. Nothing is changed then.

    Example
        >>> layer = Recurrent("lstm", 1, 8)
        >>> print(initialise(layer, recurrent=None, chrono=100, seed=0))
        l0.f.b: log U(1, 99)
        l0.i.b: -log U(1, 99)

    Source  Saxe, McClelland & Ganguli 2014; Le, Jaitly & Hinton 2015; Tallec & Ollivier 2018, "Can recurrent neural
    networks warp time?", arXiv:1804.11188 (chrono).
    """
    chosen = _chosen(recurrent, gain)
    _check_chrono(chrono, chosen)
    draws = [draw for part in _parts(module) for draw in _draws(part, chosen, chrono)]
    names = {id(p): name for name, p in module.named_parameters()}
    changed: dict[str, tuple[str, ...]] = {}
    for target in (target for draw in draws for target in draw.targets):
        name = _name(target, names)
        changed[name] = (*changed.get(name, ()), target.text)
    with _seeded(seed, module):
        for draw in draws:
            draw.make()
    return Initialised(changed)


def _draws(part: _Part, chosen: Init | None, chrono: float | None) -> Iterator[_Draw]:
    if chosen is not None:
        for name in _recurrent(part.cell, chosen):
            yield _matrix(part, name, chosen)
    if chrono is not None:
        for kept in keeping(part.cell.graph):
            writing = [b for b in kept.write if _same_size(part, b[0], kept.keep[0])]
            ways = [(kept.keep, 1), *((biases, -1) for biases in writing)]
            targets = [t for biases, way in ways for t in _biases(part, biases, way, chrono)]
            yield _Draw(Init("chrono", steps=chrono), part.letters["n"], 1, tuple(targets))


def _matrix(part: _Part, name: str, chosen: Init) -> _Draw:
    """A recurrent weight; where it joins those of several gates, each has n rows of its own."""
    (leaf,) = (p for p in part.cell.graph.leaves_of("param") if p.name == name)
    hidden, rows = Size.of("n"), leaf.shape[0]
    blocks = rows.at(part.letters) // part.letters["n"] if set(rows.letters) == {"n"} else 1
    block = hidden if blocks > 1 else rows
    init.check(part.cell.name, replace(leaf, shape=(block, *leaf.shape[1:]), init=chosen))
    text = _told(chosen) + f", {blocks} blocks of {part.letters['n']} rows" * (blocks > 1)
    target = _Target(part.named[name], slice(None), 1.0, text)
    return _Draw(chosen, part.letters["n"], blocks, (target,))


def _biases(part: _Part, biases: Sequence[Bias], way: int, steps: float) -> Iterator[_Target]:
    """The first bias of a gate gets the draw, the others nothing: they are added."""
    for k, bias in enumerate(biases):
        parameter, start = part.named[bias.name], bias.start.at(part.letters)
        rows = slice(start, start + bias.rows.at(part.letters))
        some = parameter.ndim and rows.stop - rows.start < len(parameter)
        where = f"rows {rows.start} to {rows.stop}: " if some else ""
        times = way * bias.sign if k == 0 else 0
        text = {1: "", -1: "-", 0: "0"}[times] + f"log U(1, {steps - 1:g})" * (times != 0)
        yield _Target(parameter, rows, float(times), where + text)


def _same_size(part: _Part, one: Bias, other: Bias) -> bool:
    """Whether a gate has a unit for each of another's: one draw then serves both."""
    shapes = [part.named[bias.name].ndim and bias.rows.at(part.letters) for bias in (one, other)]
    return shapes[0] == shapes[1]


def _told(chosen: Init) -> str:
    settings = {**init.INITIALISERS[chosen.name].settings, **dict(chosen.settings)}
    given = ", ".join(f"{name}={value:g}" for name, value in settings.items())
    return f"{chosen.name}({given})" if given else chosen.name


def _parts(module: nn.Module) -> list[_Part]:
    """Every layer and direction inside a module."""
    found = [part for layer in module.modules() for part in _parts_of(layer)]
    if not found:
        fact = f"{type(module).__name__} holds no rf.Recurrent and no layer of rf.nn"
        remedy = "pass the network itself; rf.convert makes layers of torch.nn into refold's"
        raise RefoldError(fact, remedy, "rf.initialise(module)")
    return found


def _parts_of(layer: nn.Module) -> Iterator[_Part]:
    if isinstance(layer, Recurrent):
        for index in range(layer.num_layers):
            for reverse in range(layer.directions):
                named = layer.parameters_of(index, bool(reverse))
                yield _Part(layer.cell, layer._letters(index), named)
    if isinstance(layer, Layers):
        for index, named in enumerate(layer._parameters_of(layer._weights())):
            letters = layer._letters(index >= 1 + layer.bidirectional)
            yield _Part(layer._cell(), letters, named)


@contextmanager
def _seeded(seed: int | None, module: nn.Module) -> Iterator[None]:
    """With a seed, draws of their own; the caller's random state comes back after."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng({p.device for p in module.parameters() if p.is_cuda}):
        torch.manual_seed(seed)
        yield


# What is refused ------------------------------------------------------------------------------------------------------


def _chosen(recurrent: Any, gain: Any) -> Init | None:
    """The initialiser with its gain."""
    where = "rf.initialise(recurrent=...)"
    chosen = Init(recurrent) if isinstance(recurrent, str) else recurrent
    if chosen is not None and (
        not isinstance(chosen, Init) or chosen.name not in init.INITIALISERS
    ):
        name = chosen.name if isinstance(chosen, Init) else chosen
        known = ", ".join(init.INITIALISERS)
        raise EquationError(f"there is no initialiser {name!r}.", f"Choose one of {known}.", where)
    if gain is None:
        return chosen
    word = chosen and GAIN.get(chosen.name, "gain")
    if chosen is None or word not in init.INITIALISERS[chosen.name].settings:
        told = "recurrent is None" if chosen is None else f'"{chosen.name}" has none'
        remedy = 'Leave gain out, or say recurrent="orthogonal", "identity" or "spectral_radius".'
        raise EquationError(f"gain is {gain!r}, and {told}.", remedy, "rf.initialise(gain=...)")
    return Init(chosen.name, **{**dict(chosen.settings), word: number("gain", gain, 1.0)})


def _check_chrono(chrono: Any, chosen: Init | None) -> None:
    where = "rf.initialise(chrono=...)"
    if chrono is None:
        if chosen is None:
            fact = "recurrent and chrono are both None: there is nothing to do."
            raise EquationError(fact, "Give one of them.", "rf.initialise(...)")
        return
    if not 2 < number("chrono", chrono, 100) < math.inf:
        fact = f"chrono is {chrono!r}, and a memory is drawn from 1 to chrono - 1 steps."
        raise EquationError(
            fact, "Give a number above 2, such as the longest lag in the data.", where
        )


def _recurrent(cell: Cell, chosen: Init) -> tuple[str, ...]:
    """The weights that multiply old states."""
    try:
        return recurrent_reads(cell.graph).weights
    except EquationError as error:
        fact = f"cell '{cell.name}' multiplies none of its states by a learned weight."
        remedy = f'Pass recurrent=None: "{chosen.name}" has nothing to fill.'
        raise EquationError(fact, remedy, "rf.initialise(recurrent=...)") from error


def _name(target: _Target, names: Mapping[int, str]) -> str:
    if id(target.parameter) not in names:
        fact = "a weight is worked out from others, by one of torch's parametrizations"
        remedy = "initialise first, and parametrize then"
        raise RefoldError(fact, remedy, "rf.initialise(module)")
    return names[id(target.parameter)]
