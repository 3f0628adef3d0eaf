"""Cells that no vendor has a kernel for, as equations: what the compiler is measured with.

Some are of the zoo; the others stand here. `loops.py` has the same steps written by hand.
"""

# ruff: noqa: B008  (declarations are default values: that is the language)
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import refold as rf

ALPHA = 0.1  # leaky, as in the zoo
EPSILON, GAMMA = 0.01, 0.01  # antisymmetric, as in the zoo: step and damping


@rf.cell(
    source="Ba, Kiros & Hinton 2016, arXiv:1607.06450; normed gate by gate, c carried as it is"
)
def lstm_norm(
    x=rf.Input("m"),
    h=rf.State("n"),
    c=rf.State("n"),
    *,
    i=rf.Affine("n", bias=False),
    f=rf.Affine("n", bias=False),
    g=rf.Affine("n", bias=False),
    o=rf.Affine("n", bias=False),
    s_i=rf.Weight("n", init="ones"),
    s_f=rf.Weight("n", init="ones"),
    s_g=rf.Weight("n", init="ones"),
    s_o=rf.Weight("n", init="ones"),
    s_c=rf.Weight("n", init="ones"),
    b_i=rf.Bias("n", init="zeros"),
    b_f=rf.Bias("n", init="zeros"),
    b_g=rf.Bias("n", init="zeros"),
    b_o=rf.Bias("n", init="zeros"),
    b_c=rf.Bias("n", init="zeros"),
):
    """LSTM whose gates and new cell state are layer-normed."""
    write = rf.sigmoid(rf.layer_norm(i(x, h), s_i, b_i))
    forget = rf.sigmoid(rf.layer_norm(f(x, h), s_f, b_f))
    new = rf.tanh(rf.layer_norm(g(x, h), s_g, b_g))
    c = forget * c + write * new
    read = rf.sigmoid(rf.layer_norm(o(x, h), s_o, b_o))
    return read * rf.tanh(rf.layer_norm(c, s_c, b_c)), c


@rf.cell(source="Chung, Gulcehre, Cho & Bengio 2015, arXiv:1502.02367, without the global gates")
def two_layers(
    x=rf.Input("m"), low=rf.State("n"), high=rf.State("k"), *, a=rf.Affine("n"), b=rf.Affine("k")
):
    """Two layers in one step; the lower one reads what the upper one was a step ago."""
    low = rf.tanh(a(x, low, high))
    high = rf.tanh(b(low, high))
    return rf.Step(low, high, output=high)


@rf.cell(source="Rusch, Mishra, Erichson & Mahoney 2022, arXiv:2110.04744, with a step of 1")
def lem(
    x=rf.Input("m"),
    y=rf.State("n"),
    z=rf.State("n"),
    *,
    a=rf.Affine("n"),
    b=rf.Affine("n"),
    c=rf.Affine("n"),
    d=rf.Affine("n"),
):
    """Long expressive memory: two states, each with a time scale of its own that is learned."""
    fast, slow = rf.sigmoid(a(x, y)), rf.sigmoid(b(x, y))
    z = (1 - fast) * z + fast * rf.tanh(c(x, y))
    y = (1 - slow) * y + slow * rf.tanh(d(x, z))
    return y, z


@rf.cell(source="made up for build times: ten gates and two states")
def ten_gates(
    x=rf.Input("m"),
    h=rf.State("n"),
    c=rf.State("n"),
    *,
    g1=rf.Affine("n"),
    g2=rf.Affine("n"),
    g3=rf.Affine("n"),
    g4=rf.Affine("n"),
    g5=rf.Affine("n"),
    g6=rf.Affine("n"),
    g7=rf.Affine("n"),
    g8=rf.Affine("n"),
    g9=rf.Affine("n"),
    g10=rf.Affine("n"),
):
    """Large, and of one stage."""
    written = rf.sigmoid(g2(x, h)) * rf.tanh(g3(x, h)) + rf.sigmoid(g4(x, h)) * rf.relu(g5(x, h))
    c = rf.sigmoid(g1(x, h)) * c + written * rf.sigmoid(g6(x, h))
    read = rf.sigmoid(g7(x, h)) * rf.tanh(c) + rf.sigmoid(g8(x, h)) * rf.tanh(g9(x, h))
    return read * rf.sigmoid(g10(x, h)), c


@dataclass(frozen=True, slots=True)
class Entry:
    """A cell of the comparison.

    sizes       further letters, as shares of the hidden size
    reductions  whether its step sums over the features of a row: the slower kind
    """

    title: str
    cell: rf.Cell
    sizes: Mapping[str, float] = field(default_factory=dict)
    reductions: bool = False

    def layer(self, inputs: int, hidden: int, backend: str) -> rf.Recurrent:
        """The cell as a layer."""
        letters: dict[str, Any] = self.letters(hidden)
        return rf.Recurrent(self.cell, inputs, hidden, backend=backend, **letters)

    def letters(self, hidden: int) -> dict[str, int]:
        """A number for every further letter."""
        return {letter: int(share * hidden) for letter, share in self.sizes.items()}


TWELVE = {
    "lstm_norm": Entry("LSTM with layer norm", lstm_norm, reductions=True),
    "lstm_peephole": Entry("LSTM with peepholes", rf.cells.get("lstm_peephole")),
    "lstm_projection": Entry("LSTM with projection", rf.cells.get("lstm_projection"), {"r": 0.5}),
    "mgu": Entry("minimal gated unit", rf.cells.get("mgu")),
    "gru_cho": Entry("GRU of Cho", rf.cells.get("gru_cho")),
    "li_gru": Entry("Li-GRU", rf.cells.get("li_gru")),
    "antisymmetric": Entry("antisymmetric", rf.cells.get("antisymmetric")),
    "leaky": Entry("leaky", rf.cells.get("leaky")),
    "jordan": Entry("Jordan", rf.cells.get("jordan"), {"k": 1}),
    "two_layers": Entry("feedback to a previous layer", two_layers, {"k": 1}),
    "mut1": Entry("MUT1", rf.cells.get("mut1")),
    "lem": Entry("LEM", lem),
}
IND_RNN = Entry("IndRNN", rf.cells.get("indrnn"))
LSTM = Entry("LSTM", rf.cells.get("lstm"))
TEN_GATES = Entry("ten gates", ten_gates)
