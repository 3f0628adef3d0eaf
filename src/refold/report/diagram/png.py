"""A layout as PNG, drawn with matplotlib, which is loaded only here."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from refold.report.figures import require_plots

from .layout import Layout, Line, Rect, Shape, Text
from .svg import DARK, FILLS, LIGHT, curve, head, together
from .text import SMALL, Run, runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DPI = 192  # twice what SVG's pixels are


def png(layout: Layout, theme: str) -> bytes:
    """The content of a PNG file.

    Errors  RefoldError when matplotlib is not installed
    """
    require_plots()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    colours = DARK if theme == "dark" else LIGHT
    # SVG's pixel is a 96th of an inch; matplotlib's point a 72nd.
    figure = Figure(figsize=(layout.width / 96, layout.height / 96), facecolor=colours["paper"])
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_axis_off()
    ax.set_xlim(0, layout.width)
    ax.set_ylim(layout.height, 0)
    for lines in together(layout):
        _lines(ax, lines, colours)
    for x, y in layout.dots:
        _circle(ax, x, y, 2.6, colours["line"], colours["line"])
    for shape in layout.shapes:
        _shape(ax, shape, colours)
    for text in layout.texts:
        _text(ax, text, colours)
    content = io.BytesIO()
    # Hinted signs are wider or narrower than `_wide` reckons, which adds up over a line.
    with rc_context({"text.hinting": "none"}):
        figure.savefig(content, format="png", dpi=_DPI, metadata={"Software": "refold"})
    return content.getvalue()


def _lines(ax: Axes, lines: list[Line], colours: dict[str, str]) -> None:
    from matplotlib.patches import PathPatch, Polygon
    from matplotlib.path import Path

    codes = {"M": [Path.MOVETO], "L": [Path.LINETO], "Q": [Path.CURVE3, Path.CURVE3]}
    pieces = [piece for line in lines for piece in curve(list(line.points), line.arrow, line.width)]
    path = Path([p for _, ps in pieces for p in ps], [c for name, _ in pieces for c in codes[name]])
    first = lines[0]
    colour = colours[first.tone or ("loop" if first.loop else "line")]
    dashes = (0, (5, 4)) if first.tone == "vanishes" else "solid"
    # An SVG pixel is three quarters of a point.
    wide = first.width * 0.75 or 1
    style = {"linewidth": wide, "linestyle": dashes, "capstyle": "butt"}
    ax.add_patch(PathPatch(path, fill=False, edgecolor=colour, **style))
    for line in lines:
        if line.arrow:
            corners = head(line.points[-2], line.points[-1], line.width)
            ax.add_patch(Polygon(corners, facecolor=colour, edgecolor="none"))


def _circle(ax: Axes, x: float, y: float, r: float, fill: str, edge: str) -> None:
    from matplotlib.patches import Circle

    ax.add_patch(Circle((x, y), r, facecolor=fill, edgecolor=edge, linewidth=1))


def _shape(ax: Axes, shape: Shape, colours: dict[str, str]) -> None:
    from matplotlib.patches import FancyBboxPatch

    r: Rect = shape.body
    if shape.kind == "plain":
        return
    fill = colours[FILLS[shape.kind]]
    edge = colours["loop" if shape.kind == "delay" else "edge"]
    if shape.kind in ("circle", "unit"):
        _circle(ax, r.x + r.w / 2, r.y + r.h / 2, r.w / 2, fill, edge)
        return
    round_by = {"state": r.h / 2, "bar": 0.0}.get(shape.kind, 5.0)
    style = f"round,pad=0,rounding_size={min(round_by, r.w / 2)}" if round_by else "square,pad=0"
    dashes = (0, (4, 3)) if shape.kind == "param" else "solid"
    ax.add_patch(
        FancyBboxPatch(
            (r.x, r.y),
            r.w,
            r.h,
            boxstyle=style,
            facecolor=fill,
            edgecolor=edge,
            linewidth=1,
            linestyle=dashes,
        )
    )


def _text(ax: Axes, text: Text, colours: dict[str, str]) -> None:
    """Run by run: matplotlib has no lowered letters outside its own mathematics."""
    pieces = (Run(text.text),) if text.tone == "strong" else runs(text.text)
    weight = "bold" if text.tone == "strong" else "normal"
    wides = [_wide(run, text.font, weight) for run in pieces]
    x = text.x - sum(wides) * {"start": 0.0, "middle": 0.5, "end": 1.0}[text.anchor]
    tone = colours.get("text" if text.tone == "strong" else text.tone, colours["text"])
    for run, wide in zip(pieces, wides, strict=True):
        size = text.font * (SMALL if run.level else 1.0)
        y = text.y + {0: 0.0, -1: 0.28, 1: -0.38}[run.level] * text.font
        ax.text(x, y, run.text, fontsize=size * 0.75, color=tone, weight=weight, va="baseline")
        x += wide


def _wide(run: Run, size: float, weight: str) -> float:
    """As wide as matplotlib sets it, which is less than the upper bound that the layout reckons with."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=size * (SMALL if run.level else 1.0), weight=weight)

    def ink(text: str) -> float:
        return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]

    # What a run takes is more than its ink, which ends before the last sign does: it ends where an x would begin.
    return ink(run.text + "x") - ink("x")
