"""`refold draw`: the picture of a cell or a network in a file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from refold import cells
from refold.errors import DataError
from refold.ir.trace import Cell

if TYPE_CHECKING:
    from torch import nn

    from refold.report.diagram import Picture, Theme

_ROWS = 16  # sequences of the noise on which gradients are measured
_STEPS = 5  # and their steps, unless --unroll says it


def draw(
    cell: Annotated[str, typer.Argument(help="A zoo cell, or file.py:function.")],
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
        bool, typer.Option(help="Measure how gradients flow back, of fresh weights on noise.")
    ] = False,
    input_size: Annotated[int | None, typer.Option(help="Features of x; else 8.")] = None,
    hidden_size: Annotated[int | None, typer.Option(help="Units of a layer; else 16.")] = None,
    seed: Annotated[int, typer.Option(help="Of the weights and the noise of --gradient.")] = 0,
) -> None:
    """Draw a cell or a network: folded, with the delay of each state, or unfolded over steps."""
    from refold.report.diagram import draw as drawn  # loads torch: not for the other verbs

    found = cells.find(cell)
    steps = _steps(unroll)
    spread = _whole_numbers("--dilations", dilations, "1,2,4")
    asked = _Asked(network, layers, bidirectional, spread, stack, input_size, hidden_size)
    # Without any of these a cell is drawn by itself, its sizes as letters.
    built: Any = found if asked == _Asked() and not gradient else _built(found, asked, seed)
    look = cast("Theme", theme)
    picture = drawn(built, unroll=steps, teach=teach, theme=look)
    if gradient:
        picture = _flowing(built, steps, look)
    typer.echo(str(picture.save(out or Path(f"{found.name}.svg"))))


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


def _flowing(network: nn.Module, unroll: int | tuple[int, int] | None, theme: Theme) -> Picture:
    """The unfolded network with its gradients for normal noise, and a note that says so."""
    import torch

    from refold.nn.layer import Recurrent
    from refold.nn.wiring import FED_BACK, ONE_INPUT, Network
    from refold.report.diagram import draw as drawn

    layer = network.layer if isinstance(network, Network) else network
    assert isinstance(layer, Recurrent)
    shape = network.shape if isinstance(network, Network) else "many-to-many"
    found = (_STEPS if shape != "one-to-one" else 1) if unroll is None else unroll
    steps, written = found if isinstance(found, tuple) else (found, found)
    x = torch.randn(1 if shape in ONE_INPUT else steps, _ROWS, layer.input_features)
    with torch.no_grad():
        y = network(x, steps=written) if shape in FED_BACK else network(x)
    like = y[0] if isinstance(y, tuple) else y  # a layer also returns its states
    batch = (x, torch.randn_like(like))
    picture = drawn(cast("Any", network), gradient=True, batch=batch, theme=theme)
    told = f"Fresh weights; x and d are normal noise, {_ROWS} sequences."
    diagram = replace(picture.diagram, notes=(*picture.diagram.notes, told))
    return replace(picture, diagram=diagram)
