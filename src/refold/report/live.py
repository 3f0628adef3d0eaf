"""What makes a page live: marks with a text of their own, larger and smaller figures, all of it by keyboard too.

Nothing is loaded: the script stands in the page. Without it the page shows the same figures at rest.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLE = """
.live { margin: 0 0 1rem; }
.live .told { min-height: 1.6em; margin: .35rem 0 0; font-size: .9375rem; color: var(--text); }
.tools { display: flex; gap: .5rem; align-items: center; flex-wrap: wrap; margin: 0 0 .35rem; }
.tools button { font: inherit; font-size: .875rem; color: var(--text); background: var(--shade);
  border: 1px solid var(--rule); border-radius: .3rem; min-width: 2.2rem; padding: .15rem .6rem; }
.tools input[type=range] { flex: 1 1 20rem; accent-color: var(--model); }
.tools label { font-size: .9375rem; } .tools[hidden] { display: none; }
.tip { cursor: crosshair; outline: none; }
.tip:hover path, .tip:focus path, .tip:hover use, .tip:focus use { stroke: var(--test) !important;
  stroke-width: 4 !important; }
.tip:focus-visible { outline: none; }
@media print { .tools, .told { display: none; } }
"""

# One stop of the Tab key for each figure; the arrow keys go from mark to mark in it.
SCRIPT = """
for (const figure of document.querySelectorAll("figure.live")) {
  const svg = figure.querySelector("svg"), told = figure.querySelector(".told");
  const marks = [...figure.querySelectorAll(".tip")];
  const say = (mark) => { told.textContent = mark.dataset.tip; };
  marks.forEach((mark, i) => {
    mark.setAttribute("tabindex", i ? "-1" : "0");
    mark.addEventListener("mouseenter", () => say(mark));
    mark.addEventListener("focus", () => say(mark));
    mark.addEventListener("keydown", (event) => {
      const by = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
      const to = {Home: 0, End: marks.length - 1}[event.key] ?? (by && i + by);
      if (to === undefined || !marks[to]) return;
      event.preventDefault();
      mark.setAttribute("tabindex", "-1");
      marks[to].setAttribute("tabindex", "0");
      marks[to].focus();
    });
  });
  const tools = figure.querySelector(".tools.zoom");
  let size = 1;
  const zoom = (by) => {
    size = by ? Math.min(6, Math.max(1, size * by)) : 1;
    svg.style.width = 100 * size + "%";
    figure.dataset.size = size;
  };
  const factors = [1.5, 1 / 1.5, 0];
  tools.querySelectorAll("button").forEach((b, i) => b.addEventListener("click", () => zoom(factors[i])));
  tools.hidden = false;
}
"""

_ZOOM = (
    '<div class="tools zoom" hidden><button type="button" aria-label="Larger">+</button>'
    '<button type="button" aria-label="Smaller">−</button>'
    '<button type="button">Whole</button></div>'
)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A figure of matplotlib, and what each of its marks says."""

    figure: Figure
    tips: list[str] = field(default_factory=list)

    def mark(self, ax: Axes, x: float, y: float, text: str, **style: object) -> None:
        """One point that says something when it is pointed at."""
        ax.plot([x], [y], gid=f"tip-{len(self.tips)}", ls="", **style)  # type: ignore[arg-type]
        self.tips.append(text)


def tipped(svg: str, name: str, tips: Sequence[str]) -> str:
    """The marks of a figure that `to_svg` made under this name, with their texts."""

    def told(found: re.Match[str]) -> str:
        text = escape(tips[int(found[1])])
        return (
            f'<g class="tip" role="img" aria-label="{text}" data-tip="{text}"><title>{text}</title>'
        )

    return re.sub(rf'<g id="{name}-tip-(\d+)">', told, svg)


def live(svg: str, caption: str, label: str, controls: str = "") -> str:
    """A figure that can be made larger, whose marks are told below it."""
    region = (
        f'<div class="wide" role="region" tabindex="0" aria-label="{escape(label)}">{svg}</div>'
    )
    return (
        f'<figure class="live">{_ZOOM}{controls}{region}<p class="told" role="status"></p>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
