"""How wide a text is, and how a name is set: W_x with a lowered x, alpha as a Greek letter."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Advance widths in units of the font's size: of each sign the widest among the common sans serif fonts.
_NARROW = dict.fromkeys("iljtfIr.,:;|'()[]!/ ⁻¹²³", 0.43)
_WIDE = {"m": 0.98, "w": 0.82, "M": 0.87, "W": 0.99, "%": 0.95, "@": 1.0, "…": 1.0}
_SIGNS = dict.fromkeys("+−×÷⊙=<>≤≥·‖Σ√", 0.84)
_WIDTHS = {**_NARROW, **_WIDE, **_SIGNS}
_CAPITAL, _OTHER = 0.79, 0.65
SMALL = 0.74  # a lowered or raised sign, beside one on the line

_GREEK = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "theta": "θ",
    "lambda": "λ", "mu": "μ", "nu": "ν", "rho": "ρ", "sigma": "σ", "tau": "τ", "omega": "ω",
}  # fmt: skip
_PIECE = re.compile(r"([A-Za-z][A-Za-z0-9]*)(?:_(\w+))?|\^([−\-\w.]+)|(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Run:
    """A piece of a text: on the line (0), lowered (-1) or raised (1)."""

    text: str
    level: int = 0


def runs(text: str) -> tuple[Run, ...]:
    """A text in pieces: "f.W_x" is f.W and a lowered x, "z^−1" is z and a raised −1."""
    found: list[Run] = []
    for match in _PIECE.finditer(text):
        word, low, high, other = match.groups()
        for piece, level in ((_GREEK.get(word, word), 0), (low, -1), (high, 1), (other, 0)):
            if piece and found and found[-1].level == level:
                found[-1] = Run(found[-1].text + piece, level)
            elif piece:
                found.append(Run(piece, level))
    return tuple(found)


def width(text: str, size: float) -> float:
    """An upper bound for the width of a text, in the unit of `size`."""
    return sum(size * (SMALL if run.level else 1.0) * advance(run.text) for run in runs(text))


def advance(text: str) -> float:
    """An upper bound for the width of signs on one line, in units of the font's size."""
    return sum(map(_advance, text))


def _advance(sign: str) -> float:
    return _WIDTHS.get(sign, _CAPITAL if sign.isupper() else _OTHER)
