"""The page of a diagnosis: one HTML file that loads nothing. The verdict first, in words, then what it rests on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from refold.dynamics.findings import Findings
from refold.ir.trace import Cell
from refold.plan.explain import explain

from . import live, unfolded
from .page import details, document, number, pairs, plain_table, scrolled

_CAPTIONS = {
    "memory": "What is left of a gradient, or of a change of the state, after so many steps. The median and the "
    "largest of the rows are measured; the bounds cannot be passed, and they are often far above.",
    "exponents": "How fast neighbouring states part (above 0) or meet (below), along the directions of the state, "
    "with one standard error. An exponent above 0 on a run that stays bounded and does not rest is chaos.",
    "spectrum": "What one step multiplies each direction with. Inside the circle a direction is forgotten, outside "
    "it grows; far from the positive axis it turns as it goes. In a network that is not linear this holds near one "
    "state alone.",
    "portrait": "Arrows: which way a state goes in one step, the input held at its mean. Lines: the states of the "
    "data. Marks: where a state rests.",
    "gates": "How often each gate has which value. In the shaded parts it is saturated: hardly any gradient passes.",
}
_HEADS = {
    "memory": "Memory",
    "exponents": "Lyapunov exponents",
    "spectrum": "Spectrum",
    "portrait": "Fixed points",
    "gates": "Gates",
}
_OPENINGS = {
    "vanish": "This network forgets: gradients vanish.",
    "explode": "This network is unstable to train: gradients explode.",
    "neither": "Gradients neither vanish nor explode.",
}


def diagnosis_page(
    found: Findings,
    *,
    title: str,
    about: str,
    cells: Sequence[Cell],
    settings: Mapping[str, str],
    command: str,
    figures: Mapping[str, str],
) -> str:
    """The page as text.

    figures  of `dynamics_figures`, as <svg> elements by name; those that are missing are left out. cells: those whose
             equations are told
    """
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="sub">{escape(about)}</p>',
        _verdict(found),
        *_section("memory", figures, _memory(found)),
        "<h2>The gradient in the unfolded network</h2>",
        unfolded.unfolded_figure(found.unfolded),
        *_section("exponents", figures, _exponents(found)),
        *_section("spectrum", figures, _spectrum(found)),
        *_section("portrait", figures, _points(found)),
        *(_section("gates", figures, _gates(found)) if found.memory.gates else []),
        *_equations(cells),
        "<h2>How this was made</h2>",
        f"<dl>{pairs(settings)}</dl>",
        "<h2>Make it again</h2>",
        f'<pre tabindex="0" aria-label="Command">{escape(command)}</pre>',
        f"<style>{live.STYLE}</style><script>{unfolded.SCRIPT}{live.SCRIPT}</script>",
    ]
    return document(title, "\n".join(parts))


def plain_words(found: Findings) -> list[str]:
    """The verdict for a reader who knows no exponents: what is so, what it means, how sure it is."""
    return [
        _OPENINGS[found.verdict.kind],
        _remembered(found),
        _settled(found),
        found.verdict.sentence,
    ]


def _remembered(found: Findings) -> str:
    memory = found.memory
    last = int(memory.lags[-1])
    if math.isinf(memory.half_life):
        return (
            f"After {_steps(last)} {float(memory.median[-1]):.2g} times a change of the state is left: "
            "its half-life is longer than what was measured."
        )
    below = (memory.median < 0.01).nonzero()
    gone = f", and 99 % after {int(below[0])}" if len(below) else ""
    return f"Half of a change of the state is forgotten after {_steps(memory.half_life)}{gone}."


def _settled(found: Findings) -> str:
    largest, error = float(found.lyapunov.exponents[0]), float(found.lyapunov.errors[0])
    stable = len(found.portrait.points.stable)
    if largest > 2 * error:
        first = f"Neighbouring states part by a factor of {math.exp(largest):.3g} a step: small differences grow"
    elif largest < -2 * error:
        first = "Neighbouring states meet: it comes to follow its input, wherever it started"
    else:
        first = "Neighbouring states neither part nor meet, as far as these steps tell"
    rests = (
        "one state of rest that is stable"
        if stable == 1
        else f"{stable} states of rest that are stable"
    )
    return f"{first}. With its input held, it has {rests if stable else 'no stable state of rest that was found'}."


def _steps(number: float) -> str:
    return "one step" if number == 1 else f"{number:g} steps"


def _verdict(found: Findings) -> str:
    first, *others, technical = plain_words(found)
    lines = f"<p>{escape(first)}</p><p>{escape(' '.join(others))}</p><p>{escape(technical)}</p>"
    lost = "" if found.verdict.kind == "neither" else " lost"
    return f'<section class="verdict{lost}" aria-label="Verdict">{lines}</section>'


def _section(name: str, figures: Mapping[str, str], table: str) -> list[str]:
    svg = figures.get(name)
    shown = [live.live(svg, _CAPTIONS[name], f"Figure: {_HEADS[name]}")] if svg else []
    return [f"<h2>{_HEADS[name]}</h2>", *shown, details("Numbers", table)]


def _memory(found: Findings) -> str:
    memory = found.memory
    columns = (memory.median, memory.largest, memory.bound)
    rows = [[str(lag), *(number(float(c[lag])) for c in columns)] for lag in memory.lags.tolist()]
    return plain_table(("lag", "median", "largest", "bound"), rows, "Memory by lag")


def _exponents(found: Findings) -> str:
    lyapunov = found.lyapunov
    each = zip(lyapunov.exponents.tolist(), lyapunov.errors.tolist(), strict=True)
    rows = [[str(i), f"{value:+.5f}", f"{error:.2g}"] for i, (value, error) in enumerate(each, 1)]
    return plain_table(("", "nats per step", "standard error"), rows, "Exponents")


def _spectrum(found: Findings) -> str:
    mean = found.memory.directions
    triples = zip(
        *(c.tolist() for c in (mean.eigenvalues, mean.time_constants, mean.periods)), strict=True
    )
    rows = [
        [f"{mu.real:+.4f} {mu.imag:+.4f}i", number(abs(mu)), number(constant), number(period)]
        for mu, constant, period in triples
    ]
    names = ("eigenvalue of the mean Jacobian", "modulus", "time constant", "period")
    return plain_table(names, rows, "Eigenvalues")


def _points(found: Findings) -> str:
    rows = [
        [
            p.kind,
            str(p.index),
            number(float(p.multipliers[0].abs())),
            f"{p.residual:.1e}",
            f"{p.starts:.1%}",
        ]
        for p in found.portrait.points.points
    ]
    names = ("kind", "directions that leave", "largest |multiplier|", "residual", "of the starts")
    return plain_table(names, rows, "Fixed points")


def _gates(found: Findings) -> str:
    rows = [[g.name, g.kind, f"{g.low:.1%}", f"{g.high:.1%}"] for g in found.memory.gates]
    return plain_table(("gate", "activation", "low", "high"), rows, "Saturation of gates")


def _equations(cells: Sequence[Cell]) -> list[str]:
    if not cells:
        return []
    told = [
        scrolled(f"<pre>{escape(str(explain(cell, ('graph', 'adjoint'))))}</pre>", cell.name)
        for cell in cells
    ]
    return ["<h2>Equations, and backpropagation through time derived from them</h2>", *told]
