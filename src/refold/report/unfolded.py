"""The unfolded network with the gradient in it: a chain of steps, and below each how much comes to which unit.

A slider moves the step that the gradient starts from. The numbers stand in the page, as tenths of a decade.
"""

from __future__ import annotations

import json
import math
from html import escape

from refold.dynamics.unfolded import Unfolded

from .live import live

UNITS = 24  # rows, at most: those through which most is felt
DECADES = 6  # from full colour down to none
LOWEST = -30  # decades; what is less is told as 0
_LEFT, _TOP, _WIDE, _ROW, _CHAIN = 92, 14, 960, 13, 44

# One more picture for each place of the slider; the same colours as `_shade`.
SCRIPT = """
for (const figure of document.querySelectorAll("figure.unfolded")) {
  const data = JSON.parse(figure.querySelector("script").textContent);
  const input = figure.querySelector("input"), now = figure.querySelector("output");
  const told = figure.querySelector(".told");
  const shade = (v) => v === null ? ["none", 0] : v > 0
    ? ["var(--test)", Math.min(1, .25 + v / 10 / data.decades)]
    : ["var(--model)", Math.max(0, 1 + v / 10 / data.decades)];
  const size = (v) => v === null ? "0" : Number((10 ** (v / 10)).toPrecision(2)).toString();
  const at = (t, k, u) => k > t ? null : data.units[t][k][u];
  const paint = (cell, v) => {
    const [fill, opacity] = shade(v);
    cell.setAttribute("fill", fill);
    cell.setAttribute("fill-opacity", opacity.toFixed(3));
  };
  const describe = (t, k) => k > t ? `step ${data.first + k} lies behind the error`
    : `from step ${data.first + t} back to step ${data.first + k}: ${size(data.total[t][k])} of a gradient`;
  const draw = () => {
    const t = Number(input.value);
    figure.querySelectorAll("[data-u]").forEach((c) => paint(c, at(t, c.dataset.k, c.dataset.u)));
    figure.querySelectorAll(".node").forEach((n) => {
      const k = Number(n.dataset.k);
      paint(n.querySelector("circle"), k > t ? null : data.total[t][k]);
      n.dataset.tip = describe(t, k);
      n.setAttribute("aria-label", n.dataset.tip);
      n.querySelector("title").textContent = n.dataset.tip;
    });
    now.textContent = data.first + t;
    input.setAttribute("aria-valuetext", `step ${data.first + t}`);
    told.textContent = describe(t, 0);
  };
  figure.querySelectorAll("[data-u]").forEach((c) => c.addEventListener("mouseenter", () => {
    const t = Number(input.value), k = Number(c.dataset.k), v = at(t, k, c.dataset.u);
    if (v !== null) told.textContent = `a change of 1 of ${data.labels[c.dataset.u]} at step ` +
      `${data.first + k} is felt at step ${data.first + t} as ${size(v)}`;
  }));
  input.addEventListener("input", draw);
  figure.querySelector(".tools.time").hidden = false;
}
"""


def unfolded_figure(found: Unfolded) -> str:
    """The figure with its slider, at the last step."""
    units = found.foremost(UNITS)
    last = found.steps
    controls = (
        '<div class="tools time" hidden><label for="error-step">The gradient starts at step</label>'
        f'<input id="error-step" type="range" min="0" max="{last}" value="{last}" '
        f'aria-valuetext="step {found.first + last}">'
        f'<output for="error-step">{found.first + last}</output></div>'
    )
    caption = (
        "The network unfolded over its last steps, one circle for a step, time from left to right. Full "
        "colour: all of the gradient arrives at that step; each paler shade is a smaller share, none "
        f"is less than 1e-{DECADES}. Orange: more arrives than there was. The rows are single units, "
        f"{len(units)} of {len(found.labels)}, those with the longest memory."
    )
    svg = _svg(found, units)
    numbers = json.dumps(_numbers(found, units), separators=(",", ":")).replace("<", "\\u003c")
    data = f'<script type="application/json">{numbers}</script>'
    figure = live(svg, caption, "The unfolded network", controls)
    return figure.replace('class="live"', 'class="live unfolded"', 1).replace(
        "</figure>", f"{data}</figure>"
    )


def _svg(found: Unfolded, units: list[int]) -> str:
    places = found.steps + 1
    column = (_WIDE - _LEFT - 10) / places
    height = _TOP + _CHAIN + _ROW * len(units) + 26
    parts = [_chain(found, column)]
    for row, unit in enumerate(units):
        y = _TOP + _CHAIN + row * _ROW
        name = escape(found.labels[unit])
        parts.append(
            f'<text x="{_LEFT - 8}" y="{y + 10}" text-anchor="end" class="unit">{name}</text>'
        )
        for k in range(places):
            fill, opacity = _shade(_tenths(float(found.felt[-1, k, unit])))
            parts.append(
                f'<rect x="{_LEFT + k * column:.1f}" y="{y}" width="{column - 1:.1f}" height="{_ROW - 1}" '
                f'data-k="{k}" data-u="{row}" fill="{fill}" fill-opacity="{opacity:.3f}"/>'
            )
    y = height - 8
    for k in range(0, places, 5):
        x = _LEFT + (k + 0.5) * column
        parts.append(
            f'<text x="{x:.1f}" y="{y}" text-anchor="middle" class="unit">{found.first + k}</text>'
        )
    style = "<style>.unit { font: 10px var(--sans); fill: var(--muted); }</style>"
    title = "The unfolded network, and how much of a gradient comes to each step and unit"
    return f'<svg viewBox="0 0 {_WIDE} {height}" role="group" aria-label="{title}">{style}{"".join(parts)}</svg>'


def _chain(found: Unfolded, column: float) -> str:
    """The circles h(k) and the arrows between them, along which the gradient goes back."""
    y, radius = _TOP + 10, min(7.0, column / 3)
    parts = [f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end" class="unit">all units</text>']
    for k in range(found.steps + 1):
        x = _LEFT + (k + 0.5) * column
        if k:
            begin, end = x - column + radius, x - radius
            parts.append(
                f'<path d="M{begin:.1f} {y}H{end:.1f}m-3 -3l3 3l-3 3" fill="none" stroke="var(--muted)"/>'
            )
        value = _tenths(float(found.total[-1, k]))
        fill, opacity = _shade(value)
        text = (
            f"from step {found.first + found.steps} back to step {found.first + k}: "
            f"{float(found.total[-1, k]):.2g} of a gradient"
        )
        parts.append(
            f'<g class="tip node" data-k="{k}" role="img" aria-label="{text}" data-tip="{text}"><title>{text}'
            f'</title><path d="M{x:.1f} {y + radius:.1f}v14" stroke="var(--rule)" fill="none"/>'
            f'<circle cx="{x:.1f}" cy="{y}" r="{radius:.1f}" fill="{fill}" fill-opacity="{opacity:.3f}" '
            f'stroke="var(--muted)"/></g>'
        )
    return "".join(parts)


def _numbers(found: Unfolded, units: list[int]) -> dict[str, object]:
    places = range(found.steps + 1)
    felt, total = found.felt[..., units].tolist(), found.total.tolist()
    return {
        "first": found.first,
        "decades": DECADES,
        "labels": [found.labels[u] for u in units],
        "total": [[_tenths(total[t][k]) for k in range(t + 1)] for t in places],
        "units": [[[_tenths(v) for v in felt[t][k]] for k in range(t + 1)] for t in places],
    }


def _tenths(value: float) -> int | None:
    """Of a decade; None for what is nothing."""
    if not value > 10.0**LOWEST:  # NaN too: a step behind the error
        return None
    return round(10 * math.log10(value)) if math.isfinite(value) else 3000


def _shade(tenths: int | None) -> tuple[str, float]:
    if tenths is None:
        return "none", 0.0
    if tenths > 0:
        return "var(--test)", min(1.0, 0.25 + tenths / 10 / DECADES)
    return "var(--model)", max(0.0, 1 + tenths / 10 / DECADES)
