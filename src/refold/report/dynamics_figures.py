"""Figures of a diagnosis: memory, exponents, the spectrum, the portrait, gates. Each mark says what it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from refold.dynamics.findings import Findings
from refold.dynamics.gates import LIMITS, RANGE
from refold.dynamics.points import Point
from refold.dynamics.spectrum import periods, time_constants

from .figures import INK, bare, sheet, to_svg
from .live import Drawn, tipped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FLOOR = 1e-30  # below it a curve of memory would only tell of rounding
_RUNS = 6
_KINDS = {"stable": "o", "saddle": "X", "unstable": "s", "neutral": "D"}
_COLUMNS = 3


def dynamics_figures(found: Findings) -> dict[str, str]:
    """Each as an <svg> element, by its name."""
    figures: dict[str, tuple[Callable[[Findings], Drawn], str]] = {
        "memory": (memory_figure, "What is left of a gradient after each lag"),
        "exponents": (exponents_figure, "The largest Lyapunov exponents"),
        "spectrum": (spectrum_figure, "Multipliers in the complex plane"),
        "portrait": (portrait_figure, "Where states go, and where they rest"),
    }
    if found.memory.gates:
        figures["gates"] = (gates_figure, "How the values of gates are spread")
    made = {name: (draw(found), told) for name, (draw, told) in figures.items()}
    return {
        name: tipped(to_svg(drawn.figure, name, told), name, drawn.tips)
        for name, (drawn, told) in made.items()
    }


def memory_figure(found: Findings) -> Drawn:
    """The gain against the lag, on a logarithmic axis: median and largest, and the bounds above them."""
    drawn, memory = Drawn(sheet(9.6, 4.0)), found.memory
    ax = drawn.figure.subplots()
    lags = memory.lags.tolist()
    lines = (
        (memory.largest, INK["model"], 1.0, (0, (4, 1.5)), "largest of the rows"),
        (memory.bound, INK["muted"], 1.2, "-", "bound by singular values"),
        (memory.guaranteed, INK["test"], 1.2, (0, (1, 1.6)), "bound for any data"),
    )
    for values, colour, width, style, label in lines:
        shown = values.double().where(values.isfinite() & (values > _FLOOR), math.nan)
        if shown.isfinite().any():
            ax.plot(lags, shown.tolist(), color=colour, lw=width, ls=style, label=label)
    median = memory.median.tolist()
    kept = [v if v > _FLOOR else math.nan for v in median]
    ax.plot(lags, kept, color=INK["model"], lw=2.2, label="median of the rows")
    for lag, value in zip(lags, kept, strict=True):
        if math.isfinite(value) and lag % max(1, len(lags) // 50) == 0:
            text = (
                f"after {lag} {'step' if lag == 1 else 'steps'} {value:.3g} of a gradient is left"
            )
            drawn.mark(ax, lag, value, text, marker="o", ms=4, color=INK["model"])
    ax.set_yscale("log")
    _plain(ax, "steps back", "left of a gradient")
    _legend(drawn, ax)
    return drawn


def exponents_figure(found: Findings) -> Drawn:
    """The exponents with their standard errors; above the line at 0 neighbouring states part."""
    drawn, lyapunov = Drawn(sheet(9.6, 3.0)), found.lyapunov
    ax = drawn.figure.subplots()
    ax.axhline(0, color=INK["text"], lw=1.0)
    pairs = zip(lyapunov.exponents.tolist(), lyapunov.errors.tolist(), strict=True)
    for i, (value, error) in enumerate(pairs, 1):
        ax.errorbar([i], [value], [error], color=INK["muted"], lw=1.2, capsize=3)
        text = f"exponent {i}: {value:+.4f} +- {error:.2g} nats a step"
        colour = INK["test"] if value > 0 else INK["model"]
        drawn.mark(ax, i, value, text, marker="o", ms=7, color=colour)
    ax.set_xlim(0.5, len(lyapunov.exponents) + 0.5)
    _plain(ax, "exponent", "nats per step")
    ax.set_xticks(range(1, len(lyapunov.exponents) + 1))
    return drawn


def spectrum_figure(found: Findings) -> Drawn:
    """Eigenvalues of the mean Jacobian, and the multipliers of the first fixed points, with the unit circle."""
    drawn = Drawn(sheet(9.6, 5.6))
    ax = drawn.figure.subplots()
    angle = torch.linspace(0, 2 * math.pi, 181)
    ax.plot(angle.cos().tolist(), angle.sin().tolist(), color=INK["muted"], lw=1.0)
    for axis in (ax.axhline, ax.axvline):
        axis(0, color=INK["rule"], lw=0.8, zorder=0)
    mean = found.memory.directions.eigenvalues
    _eigenvalues(drawn, ax, mean, "mean Jacobian", "o", INK["model"])
    for number, point in enumerate(found.portrait.points.points[:3], 1):
        name = f"fixed point {number}, {point.kind}"
        _eigenvalues(drawn, ax, point.multipliers, name, _KINDS[point.kind], INK["test"])
    _plain(ax, "real part", "imaginary part")
    ax.set_aspect("equal", adjustable="datalim")
    ax.grid(visible=False)
    _legend(drawn, ax)
    return drawn


def _eigenvalues(
    drawn: Drawn, ax: Axes, values: torch.Tensor, name: str, marker: str, colour: str
) -> None:
    filled = colour if name == "mean Jacobian" else "none"
    style = {"marker": marker, "ms": 6, "color": colour, "markerfacecolor": filled, "mew": 1.3}
    rows = zip(
        values.tolist(), time_constants(values).tolist(), periods(values).tolist(), strict=True
    )
    for i, (mu, constant, period) in enumerate(rows):
        text = f"{name}: {mu.real:.4g} {mu.imag:+.4g}i, time constant {constant:.3g} steps"
        text += f", period {period:.3g}" if math.isfinite(period) else ""
        drawn.mark(ax, mu.real, mu.imag, text, label=None if i else name, **style)


def portrait_figure(found: Findings) -> Drawn:
    """On one axis the change against the state, in a plane arrows; runs, and fixed points by their kind."""
    drawn, portrait = Drawn(sheet(9.6, 5.6)), found.portrait
    ax = drawn.figure.subplots()
    flat = portrait.axes.shape[0] == 1
    grid, change = portrait.grid, portrait.change
    if flat:
        ax.axhline(0, color=INK["text"], lw=1.0)
        ax.plot(grid[:, 0].tolist(), change[:, 0].tolist(), color=INK["model"], lw=2)
        _plain(ax, found.unfolded.labels[0], "change in a step")
    else:
        _arrows(ax, grid, change)
        for row in portrait.runs.unbind(1)[:_RUNS]:
            ax.plot(row[:, 0].tolist(), row[:, 1].tolist(), color=INK["model"], lw=0.8, alpha=0.7)
        own = portrait.axes.shape[0] == portrait.axes.shape[1]
        names = found.unfolded.labels if own else ("principal axis 1", "principal axis 2")
        _plain(ax, names[0], names[1])
        ax.grid(visible=False)
    _points(drawn, ax, found)
    _legend(drawn, ax)
    return drawn


def _arrows(ax: Axes, grid: torch.Tensor, change: torch.Tensor) -> None:
    """Directions of one length: the speeds differ by orders of magnitude, and the small ones matter."""
    unit = change / change.norm(dim=-1, keepdim=True).clamp(min=1e-300)
    ax.quiver(
        *grid.T.tolist(), *unit.T.tolist(), color=INK["muted"], pivot="mid", scale=28, width=0.0025
    )


def _points(drawn: Drawn, ax: Axes, found: Findings) -> None:
    labelled: set[str] = set()
    for point, at in zip(found.portrait.points.points, found.portrait.at.tolist(), strict=True):
        x, y = (at[0], 0.0) if len(at) == 1 else at
        kind = point.kind
        style = {"marker": _KINDS[kind], "ms": 9, "color": INK["test"], "mew": 1.5}
        if kind != "stable":
            style["markerfacecolor"] = INK["paper"]
        label = None if kind in labelled else f"{kind} fixed point"
        drawn.mark(ax, x, y, _told(point), label=label, zorder=5, **style)
        labelled.add(kind)


def _told(point: Point) -> str:
    modulus = float(point.multipliers[0].abs())
    state = ", ".join(f"{v:.3g}" for v in point.state[:4].tolist())
    more = ", ..." if len(point.state) > 4 else ""
    told = f"{point.kind} fixed point at ({state}{more})"
    return f"{told}: {point.index} direction(s) leave it, largest |multiplier| {modulus:.4g}"


def gates_figure(found: Findings) -> Drawn:
    """A histogram for each gate; shaded: where it is saturated."""
    gates = found.memory.gates[: 4 * _COLUMNS]
    columns = min(_COLUMNS, len(gates))
    rows = -(-len(gates) // columns)
    drawn = Drawn(sheet(9.6, 2.1 * rows + 0.3))
    places = drawn.figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for ax in places[len(gates) :]:
        ax.set_visible(False)
    for ax, gate in zip(places, gates, strict=False):
        low, high = RANGE[gate.kind]
        width = (high - low) / len(gate.shares)
        middles = [low + (i + 0.5) * width for i in range(len(gate.shares))]
        for begin, end in ((low, LIMITS[gate.kind][0]), (LIMITS[gate.kind][1], high)):
            ax.axvspan(begin, end, color=INK["shade"], lw=0, zorder=0)
        ax.bar(middles, gate.shares.tolist(), width * 0.9, color=INK["model"])
        _plain(ax, "", "")
        ax.set_xlim(low, high)
        title = f"{gate.name} ({gate.kind}): {gate.low:.0%} low, {gate.high:.0%} high"
        ax.set_title(title, loc="left", fontsize=9, color=INK["text"])
    return drawn


def _plain(ax: Axes, x: str, y: str) -> None:
    """The page's style, with the names of both axes."""
    bare(ax)
    if ax.get_yscale() == "log":  # whole decades only: the lines between them are noise
        ax.minorticks_off()
    ax.set_xlabel(x, color=INK["muted"])
    ax.set_ylabel(y, color=INK["muted"])


def _legend(drawn: Drawn, ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    if labels:
        drawn.figure.legend(
            handles,
            labels,
            loc="outside upper left",
            ncols=4,
            frameon=False,
            labelcolor=INK["text"],
            fontsize=9,
        )
