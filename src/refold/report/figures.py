"""Figures of a forecast, drawn with matplotlib, which is loaded only when something is drawn.

A figure is drawn in the colours of `INK`; as SVG each of them becomes a variable of the page's
style sheet, so that one drawing suits a light and a dark page.
"""

from __future__ import annotations

import importlib.util
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from refold.errors import RefoldError
from refold.forecast import Backtest, Band, Evaluation, Panel, Ranking

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
Stamps = NDArray[Any]

# Blue and orange of Okabe & Ito 2008, darkened to 4.5:1 on white: told apart by all readers.
INK = {
    "text": "#1b1f24",
    "muted": "#5f6872",
    "rule": "#d5d9de",
    "history": "#3d444d",
    "model": "#0b62b0",
    "test": "#b8470b",
    "shade": "#f1f4f8",
    "paper": "#ffffff",
}
_MOST_PANELS = 6
_DOTS = (0, (1, 1.6))
_OTHER_STYLES = ("-", (0, (5, 2)), _DOTS, (0, (5, 2, 1, 2)))


def require_plots() -> None:
    """Errors  RefoldError when matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        fact = "matplotlib is not installed, so no figure can be drawn"
        remedy = "install it: pip install 'refold[plots]' - or forecast without figures: --no-plot"
        raise RefoldError(fact, remedy)


def forecast_figure(
    found: Evaluation, panel: Panel, forecasts: Sequence[Floats], bands: Sequence[Band] = ()
) -> Figure:
    """The end of each history, what was forecast of the held-out part, and the forecast.

    One panel per series, the first six of them; intervals as a fan around each forecast.
    """
    figure, axes = panels(panel)
    futures = panel.future(len(forecasts[0]))
    for i, (ax, series) in enumerate(zip(axes, panel.series, strict=False)):
        shown = tail(len(series), len(forecasts[0]), panel.season)
        stamps, values = series.stamps[-shown:], series.observed[-shown:]
        held = found.held_out.series[i].stamps
        ax.axvspan(held[0], held[-1], color=INK["shade"], zorder=0, lw=0)
        _fan(ax, held, found.bands, i, INK["test"], ahead=False)
        _fan(ax, futures[i], bands, i, INK["model"], ahead=True)
        ax.plot(stamps, values, color=INK["history"], lw=1.3, label="observed")
        ax.plot(
            held,
            found.model.forecasts[i],
            color=INK["test"],
            lw=1.8,
            ls=(0, (4, 1.5)),
            label=f"forecast of the held-out {len(held)} {panel.frequency.unit}",
        )
        # From the last observed point, so that the forecast is seen to go on from there.
        joined = np.concatenate([series.values[-1:], forecasts[i]])
        ahead = np.concatenate([series.stamps[-1:], futures[i]])
        ax.plot(ahead, joined, color=INK["model"], lw=2.2, label="forecast")
        style(ax, stamps.dtype.kind == "M")
        ax.set_title(series.name, loc="left", fontsize=10, color=INK["text"])
    legend(figure, axes[0])
    return figure


def backtest_figure(found: Backtest) -> Figure:
    """The end of each series and what was forecast of it from each origin; the first six series."""
    figure, axes = panels(found.panel)
    for i, (ax, series) in enumerate(zip(axes, found.panel.series, strict=False)):
        first = len(found.windows[0].known.series[i])
        horizon = len(found.model.by_horizon)
        start = max(0, first - tail(first, horizon, found.panel.season))
        stamps = series.stamps[start:]
        for window in found.windows:
            ahead = window.held_out.series[i].stamps
            _fan(ax, ahead, window.bands, i, INK["model"], ahead=window is found.windows[0])
            cutoff = window.known.series[i].stamps[-1]
            ax.axvline(cutoff, color=INK["rule"], lw=0.9, zorder=0)
        ax.plot(stamps, series.observed[start:], color=INK["history"], lw=1.3, label="observed")
        for window in found.windows:
            label = "forecast, each from its origin" if window is found.windows[0] else None
            ahead = window.held_out.series[i].stamps
            ax.plot(ahead, window.model.forecasts[i], color=INK["model"], lw=1.8, label=label)
        style(ax, stamps.dtype.kind == "M")
        ax.set_title(series.name, loc="left", fontsize=10, color=INK["text"])
    legend(figure, axes[0])
    return figure


def panels(panel: Panel) -> tuple[Figure, list[Axes]]:
    """A figure with room for each series, and the places in it."""
    number = min(len(panel.series), _MOST_PANELS)
    columns = 1 if number == 1 else 2
    rows = -(-number // columns)
    figure = sheet(9.6, 4.3 if rows == 1 else 2.5 * rows + 0.7)
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for ax in axes[number:]:
        ax.set_visible(False)
    return figure, axes


def _fan(
    ax: Axes, stamps: Stamps, bands: Sequence[Band], i: int, colour: str, *, ahead: bool
) -> None:
    """The intervals of one forecast, the widest behind the others; `ahead` puts them in the legend."""
    for rank, band in enumerate(sorted(bands, key=lambda band: -band.level)):
        label = f"{band.level:g} % interval" if ahead else None
        tint = min(0.16 + 0.08 * rank, 0.5)
        ax.fill_between(
            stamps, band.low[i], band.high[i], color=colour, alpha=tint, lw=0, label=label
        )


def legend(figure: Figure, ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper left", ncols=5, frameon=False, labelcolor=INK["text"]
    )


def errors_figure(found: Ranking) -> Figure:
    """Mean absolute error by step ahead, for every method."""
    from matplotlib.ticker import MaxNLocator

    figure = sheet(9.6, 3.4)
    ax = figure.subplots()
    steps = np.arange(1, len(found.model.by_horizon) + 1)
    others = [row for row in found.rows if not row.is_model]
    marker = "o" if len(steps) <= 24 else ""
    for row, line in zip(others, _OTHER_STYLES, strict=False):
        ax.plot(steps, row.by_horizon, color=INK["muted"], lw=1.3, ls=line, label=row.name)
    model = found.model
    ax.plot(
        steps, model.by_horizon, color=INK["model"], lw=2.4, marker=marker, ms=4, label=model.name
    )
    style(ax, dates=False)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=13, integer=True))
    # A recursion that diverges would press all other lines to the floor: it leaves the figure.
    shown = 3 * max(model.by_horizon.max(), found.naive.by_horizon.max())
    ax.set_ylim(0, min(1.05 * max(row.by_horizon.max() for row in found.rows), shown) or 1.0)
    ax.set_xlabel(f"{found.unit} ahead", color=INK["muted"])
    figure.legend(
        loc="outside upper left", ncols=len(found.rows), frameon=False, labelcolor=INK["text"]
    )
    return figure


def to_png(figure: Figure) -> bytes:
    """A figure as the content of a PNG file, which says that refold drew it."""
    content = io.BytesIO()
    figure.savefig(
        content, format="png", dpi=160, facecolor=INK["paper"], metadata={"Software": "refold"}
    )
    return content.getvalue()


def is_own_png(path: Path) -> bool:
    """Is this a picture that `to_png` made, and nobody else's?"""
    try:
        with path.open("rb") as file:
            return b"tEXtSoftware\0refold" in file.read(1000)
    except OSError:
        return False  # not there, a folder, or not for us to read


def to_svg(figure: Figure, name: str, description: str) -> str:
    """A figure as an <svg> element for a page: no outside reference, colours as CSS variables.

    name keeps the ids of several figures on a page apart.
    """
    import matplotlib as mpl

    text = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<style type="text/css">.*?</style>', "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    # Scaled by the page: the width and height in points would overrule it.
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 var(--sans)", svg)
    for use, colour in INK.items():
        svg = svg.replace(colour, f"var(--{use})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{description}"', 1)


def sheet(width: float, height: float) -> Figure:
    """A figure apart from pyplot's global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def tail(length: int, horizon: int, season: int) -> int:
    """How much history shows the shape of a series and leaves the forecast room."""
    return min(length, max(6 * horizon, 4 * season if season <= 4 * horizon else season, 24))


def plain_ticks() -> Any:
    """A few round numbers along an axis that holds no dates."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=7)


def style(ax: Axes, dates: bool) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.ticker import MaxNLocator

    if dates:
        locator = AutoDateLocator(minticks=4, maxticks=9)
        ax.xaxis.set_major_locator(locator)
        ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    else:
        ax.xaxis.set_major_locator(MaxNLocator(nbins=9, integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(nbins=5))
    bare(ax)


def bare(ax: Axes) -> None:
    """An axis without a frame, in the colours of the page."""
    ax.margins(x=0.01)
    ax.set_facecolor("none")
    ax.grid(axis="y", color=INK["rule"], lw=0.7)
    ax.set_axisbelow(True)
    ax.tick_params(colors=INK["muted"], length=0, labelsize=9)
    ax.xaxis.get_offset_text().set_color(INK["muted"])
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set_color(INK["rule"])
