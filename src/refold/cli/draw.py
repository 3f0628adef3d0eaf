"""`refold draw`: the picture of a cell or a network in a file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from refold import cells
from refold.errors import DataError
from refold.ir.trace import Cell

from .kept import kept

if TYPE_CHECKING:
    from torch import Tensor, nn

    from refold.report.diagram import Picture, Theme

_ROWS = 16  # sequences of the noise on which gradients are measured
_STEPS = 5  # and their steps, unless --unroll says it


def draw(
    cell: Annotated[
        str,
        typer.Argument(help="A zoo cell, file.py:function, or a folder that `refold fit` wrote."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="The file: .svg, or .png with matplotlib. Else NAME.svg.")
    ] = None,
    theme: Annotated[
        str, typer.Option(help="auto, light or dark: the page it is for; auto follows the page.")
    ] = "auto",
    unroll: Annotated[
        str | None, typer.Option(help="Unfold over so many steps; 4,3 for an encoder and decoder.")
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(
            help="one-to-one, one-to-many, many-to-one, many-to-many or encoder-decoder: with a head."
        ),
    ] = None,
    layers: Annotated[int, typer.Option(help="How many layers stand on each other.")] = 1,
    bidirectional: Annotated[bool, typer.Option(help="Also from the last step back.")] = False,
    dilations: Annotated[
        str | None, typer.Option(help="How far back each layer looks, as 1,2,4.")
    ] = None,
    stack: Annotated[str, typer.Option(help="plain, residual or highway.")] = "plain",
    teach: Annotated[
        bool, typer.Option(help="Feed targets in place of the network's own outputs.")
    ] = False,
    gradient: Annotated[
        bool,
        typer.Option(
            help="Measure how gradients flow back: of a folder on its series, else of fresh weights on noise."
        ),
    ] = False,
    input_size: Annotated[int | None, typer.Option(help="Features of x; else 8.")] = None,
    hidden_size: Annotated[int | None, typer.Option(help="Units of a layer; else 16.")] = None,
    seed: Annotated[int, typer.Option(help="Of the weights and the noise of --gradient.")] = 0,
) -> None:
    """Draw a cell or a network: folded, with the delay of each state, or unfolded over steps."""
    from refold.report.diagram import draw as drawn  # loads torch: not for the other verbs

    steps, look = _steps(unroll), cast("Theme", theme)
    spread = _whole_numbers("--dilations", dilations, "1,2,4")
    asked = _Asked(network, layers, bidirectional, spread, stack, input_size, hidden_size)
    drawing = _drawing(cell, asked, gradient, seed)
    plain = partial(drawn, drawing.of, unroll=steps, teach=teach, theme=look)
    picture = _flowing(drawing, steps, look) if gradient else plain()
    typer.echo(str(picture.save(out or Path(f"{drawing.name}.svg"))))


@dataclass(frozen=True, slots=True)
class _Drawing:
    """What is drawn. x (T, N, m): what drives a network that was trained."""

    of: Any
    name: str
    x: Tensor | None = None


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the network is to be, beside its cell."""

    shape: str | None = None
    layers: int = 1
    both: bool = False
    dilations: tuple[int, ...] = ()
    stack: str = "plain"
    reads: int | None = None
    units: int | None = None


def _drawing(cell: str, asked: _Asked, gradient: bool, seed: int) -> _Drawing:
    if not Path(cell).is_dir():
        found = cells.find(cell)
        # Without any of these a cell is drawn by itself, its sizes as letters.
        alone = asked == _Asked() and not gradient
        return _Drawing(found if alone else _built(found, asked, seed), found.name)
    if asked != _Asked():
        fact = "a folder says itself how its networks are built"
        raise DataError(fact, "leave the options of sizes and shapes out", "refold draw")
    model = kept(Path(cell), None, 1, "refold draw")
    return _Drawing(model.recurrence, Path(cell).resolve().name, model.x)


def _whole_numbers(option: str, text: str | None, example: str) -> tuple[int, ...]:
    if text is None:
        return ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise DataError(
            f"{option} is {text}, and whole numbers are wanted.", f"Write {option} {example}, say."
        ) from None


def _steps(text: str | None) -> int | tuple[int, int] | None:
    found = _whole_numbers("--unroll", text, "5")
    if len(found) > 2:
        raise DataError(
            f"--unroll {text} has {len(found)} numbers.",
            "Write one, or two for an encoder and a decoder.",
        )
    return None if not found else found[0] if len(found) == 1 else (found[0], found[1])


def _built(cell: Cell, asked: _Asked, seed: int) -> nn.Module:
    """A network of fresh weights. Every further size of the cell is that of its units."""
    import torch

    from refold.nn.layer import Recurrent
    from refold.nn.stacks import Stack
    from refold.nn.wiring import FED_BACK, Network
    from refold.plan.cost import letters

    torch.manual_seed(seed)
    further = letters(cell.graph) - {"m", "n"}
    stack = Stack(asked.stack, asked.dilations)

    def made(reads: int, units: int, both: bool) -> Recurrent:
        more: dict[str, Any] = dict.fromkeys(further, units)
        return Recurrent(cell, reads, units, asked.layers, both, stack=stack, **more)

    reads = 8 if asked.reads is None else asked.reads
    units = 16 if asked.units is None else asked.units
    layer = made(reads, units, asked.both)
    if asked.shape is None:
        return layer
    decodes = asked.shape == "encoder-decoder"
    decoder = made(reads, units * layer.directions, False) if decodes else None
    head = layer.input_features if asked.shape in FED_BACK else 1
    return Network(layer, head, cast("Any", asked.shape), decoder=decoder)


def _flowing(drawing: _Drawing, unroll: int | tuple[int, int] | None, theme: Theme) -> Picture:
    """The unfolded network with its gradients for noisy targets, and a note that says so."""
    import torch

    from refold.nn.wiring import FED_BACK, Network
    from refold.report.diagram import draw as drawn

    network = drawing.of
    shape = network.shape if isinstance(network, Network) else "many-to-many"
    found = (_STEPS if shape != "one-to-one" else 1) if unroll is None else unroll
    steps, written = found if isinstance(found, tuple) else (found, found)
    x, told = _driven(drawing, shape, steps)
    with torch.no_grad():
        y = network(x, steps=written) if shape in FED_BACK else network(x)
    like = y[0] if isinstance(y, tuple) else y  # a layer also returns its states
    batch = (x, torch.randn_like(like))
    picture = drawn(network, gradient=True, batch=batch, theme=theme)
    diagram = replace(picture.diagram, notes=(*picture.diagram.notes, told))
    return replace(picture, diagram=diagram)


def _driven(drawing: _Drawing, shape: str, steps: int) -> tuple[Tensor, str]:
    """What a network reads (T, B, m), and what to say of it."""
    import torch

    from refold.nn.wiring import ONE_INPUT, Network

    if drawing.x is not None:
        x = drawing.x[-steps:, :_ROWS]
        told = f"Trained weights; x is what it reads at the last {len(x)} steps"
        return x, f"{told} of {x.shape[1]} series, d is normal noise."
    layer = drawing.of.layer if isinstance(drawing.of, Network) else drawing.of
    x = torch.randn(1 if shape in ONE_INPUT else steps, _ROWS, layer.input_features)
    return x, f"Fresh weights; x and d are normal noise, {_ROWS} sequences."
