"""`refold.draw`: the folded picture of a cell or a layer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

from refold import cells
from refold.errors import DataError
from refold.ir.trace import Cell
from refold.nn.layer import Recurrent
from refold.shapes import Size

from .derive import derive
from .layout import Layout, layout
from .picture import Diagram
from .png import png
from .svg import svg

Theme = Literal["auto", "light", "dark"]
THEMES: tuple[Theme, ...] = get_args(Theme)


@dataclass(frozen=True)
class Picture:
    """A picture: `.svg` is its text, a notebook shows it, `.save` writes it.

    Attributes  diagram: what is drawn, as data; theme: "auto" follows the page that it is shown on
    """

    diagram: Diagram
    theme: Theme = "auto"

    @cached_property
    def layout(self) -> Layout:
        """Where everything stands."""
        return layout(self.diagram)

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


def draw(network: Cell | Recurrent | str, *, theme: Theme = "auto") -> Picture:
    """The folded picture: what one step reads, computes and hands to the next, each state's loop with its delay.

    network  a cell, its name in the zoo, or a layer: then sizes are numbers. Of a stack the first layer is drawn.
    theme    "light", "dark", or "auto": as the page is that shows it
    Errors   EquationError for what is neither; DataError for another theme
    Example  rf.draw("lstm").save("lstm.svg")
    """
    if theme not in THEMES:
        raise DataError(f'there is no theme "{theme}".', f"Choose among {', '.join(THEMES)}.")
    if isinstance(network, Recurrent):
        return Picture(_layer(network), theme)
    cell = cells.of(network)
    return Picture(derive(cell.graph, cell.name), theme)


def _layer(layer: Recurrent) -> Diagram:
    letters = {**layer.sizes, "m": layer.input_size, "n": layer.hidden_size}

    def number(size: Size) -> str:
        return str(size.at(letters))

    count, both = layer.num_layers, layer.bidirectional
    parts = [layer.cell.name]
    if count > 1 or both:
        directions = " in both directions" if both else ""
        parts.append(f"{count} layer{'s' * (count > 1)}{directions}")
        parts.append("the first is drawn" if count > 1 else "each as drawn")
    return derive(layer.cell.graph, ", ".join(parts), number)
