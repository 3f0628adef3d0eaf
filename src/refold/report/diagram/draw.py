"""`refold.draw`: pictures of a cell, a layer or a network, folded or unfolded."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

from torch import Tensor

from refold import cells
from refold.errors import DataError
from refold.ir.trace import Cell
from refold.nn.layer import Recurrent
from refold.nn.wiring import Network
from refold.shapes import Size
from refold.train.errors import Loss

from .derive import derive
from .flow import measured
from .grid import Grid
from .layout import Layout, layout
from .network import folded, unfolded
from .parts import Wired, wired
from .picture import Diagram
from .png import png
from .svg import svg
from .weave import woven

Theme = Literal["auto", "light", "dark"]
THEMES: tuple[Theme, ...] = get_args(Theme)


@dataclass(frozen=True)
class Picture:
    """A picture: `.svg` is its text, a notebook shows it, `.save` writes it.

    Attributes  diagram: what is drawn, as data; theme: "auto" follows the page that it is shown on
    """

    diagram: Diagram | Grid
    theme: Theme = "auto"

    @cached_property
    def layout(self) -> Layout:
        """Where everything stands."""
        return woven(self.diagram) if isinstance(self.diagram, Grid) else layout(self.diagram)

    @cached_property
    def svg(self) -> str:
        """The picture as an SVG file has it."""
        return svg(self.layout, self.theme, self.diagram.title)

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return f"<picture of {self.diagram.title}>"

    def save(self, path: str | Path) -> Path:
        """Write the picture as .svg, or as .png, which needs matplotlib; a PNG file follows no page: "auto" is light.

        Errors  DataError for another ending, or a file that cannot be written; RefoldError without matplotlib
        """
        path = Path(path)
        if path.suffix not in (".svg", ".png"):
            raise DataError(
                f"{path} ends in {path.suffix or 'nothing'}, and a picture is a .svg or a .png file.",
                f"Name it {path.stem}.svg.",
            )
        content = self.svg.encode() if path.suffix == ".svg" else png(self.layout, self.theme)
        try:
            path.write_bytes(content)
        except OSError as error:
            raise DataError(
                f"{path} cannot be written: {error.strerror or error}.", "Name another place."
            ) from error
        return path


def draw(
    network: Cell | Recurrent | Network | str,
    *,
    unroll: int | tuple[int, int] | None = None,
    teach: bool = False,
    gradient: bool = False,
    batch: tuple[Tensor, Tensor] | None = None,
    loss: Loss = "squared",
    theme: Theme = "auto",
) -> Picture:
    """The picture of a cell, of a layer, or of a network.

    Folded, a cell or a layer shows what one step reads, computes and hands to the next; a stack, a layer in both
    directions or a network shows its layers as boxes. Every state has its loop with its delay. Unfolded, each step has
    a column, and what is multiplied by the same weights has the same letter and colour.

    network   a cell, its name in the zoo, a layer, or a network: then sizes are numbers
    unroll    over how many steps the network is unfolded; for an encoder and a decoder (T, U). From seven steps on
              the middle ones are an ellipsis, where no layer is dilated.
    teach     where outputs are fed back: the targets d are fed instead, as in training
    gradient  over the unfolded network the way back of backpropagation through time: each arrow is as wide as the norm
              of dE/dh(t), dE/dx(t) or dE/dy(t) is large, for the `batch` (x, d) and the `loss`
    theme     "light", "dark", or "auto": as the page is that shows it

    Shapes    x and d of a batch as `refold.gradients` takes them: x (T, B, m)
    Errors    EquationError for what is no network; DataError for another theme, for steps that cannot be drawn, and
              for a gradient without a batch; the errors of `refold.gradients`
    Example   rf.draw("lstm").save("lstm.svg")
              rf.draw(rf.Network(layer, head=1, shape="many-to-one"), unroll=5)
    """
    if theme not in THEMES:
        raise DataError(f'there is no theme "{theme}".', f"Choose among {', '.join(THEMES)}.")
    known = network if isinstance(network, Recurrent | Network) else cells.of(network)
    if gradient or batch is not None:
        return Picture(_flowing(known, unroll, gradient, batch, loss), theme)
    if unroll is not None:
        whole = wired(known)
        steps, written = _steps(whole, unroll)
        return Picture(unfolded(whole, steps, written, teach=_teach(whole, teach)), theme)
    if teach:
        raise DataError(
            "teach=True is about an unfolded network, and this one is drawn folded.",
            "Set unroll=5, say.",
        )
    if isinstance(known, Cell):
        return Picture(derive(known.graph, known.name), theme)
    if (
        isinstance(known, Network)
        or known.num_layers > 1
        or known.bidirectional
        or known.stack.dilations
    ):
        return Picture(folded(wired(known)), theme)
    return Picture(_layer(known), theme)


def _layer(layer: Recurrent) -> Diagram:
    letters = {**layer.sizes, "m": layer.input_size, "n": layer.hidden_size}

    def number(size: Size) -> str:
        return str(size.at(letters))

    return derive(layer.cell.graph, layer.cell.name, number)


def _teach(whole: Wired, teach: bool) -> bool:
    if teach and not whole.fed_back:
        raise DataError(
            "teach=True feeds targets in place of outputs, and this network feeds no output back.",
            "Leave teach out.",
        )
    return teach


def _steps(whole: Wired, unroll: int | tuple[int, int]) -> tuple[int, int]:
    """Steps that are read and steps that are written."""
    pair = unroll if isinstance(unroll, tuple) else (unroll, unroll)
    if len(pair) != 2 or not all(
        isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in pair
    ):
        raise DataError(
            f"unroll is {unroll!r}, and steps are whole numbers, at least 1.", "Set unroll=5, say."
        )
    if isinstance(unroll, tuple) and len(whole.parts) < 2:
        raise DataError(
            f"unroll is {unroll!r}, and only an encoder and a decoder have two numbers of steps.",
            f"Set unroll={pair[0]}.",
        )
    if whole.shape == "one-to-one" and pair[0] != 1:
        raise DataError(
            f"unroll is {pair[0]}, and a one-to-one network has one step.", "Set unroll=1."
        )
    return int(pair[0]), int(pair[1])


def _flowing(
    network: Cell | Recurrent | Network,
    unroll: int | tuple[int, int] | None,
    gradient: bool,
    batch: tuple[Tensor, Tensor] | None,
    loss: Loss,
) -> Grid:
    """The unfolded network with the gradients of a batch."""
    if isinstance(network, Cell):
        raise DataError(
            f"cell '{network.name}' has no weights yet, so it has no gradients.",
            "Draw a layer or a network: rf.draw(rf.Recurrent(cell, m, n), gradient=True, batch=(x, d)).",
        )
    if not gradient or batch is None:
        missing = "no batch" if batch is None else "gradient=False"
        raise DataError(
            f"the way back is measured on a batch, and there is {missing}.",
            "Pass gradient=True and batch=(x, d).",
        )
    x, d = batch
    whole = wired(network)
    flows = measured(network, x, d, loss)
    steps, written = len(flows.inputs), len(flows.outputs)
    if whole.fed_back and len(whole.parts) == 1:
        steps = written
    told = (steps, written) if len(whole.parts) > 1 else steps
    if unroll is not None and unroll != told:
        raise DataError(
            f"unroll is {unroll}, and the batch has {told} steps.",
            f"Set unroll={told}, or leave it out.",
        )
    return unfolded(whole, steps, written, teach=whole.fed_back, flows=flows)
