"""Long short-term memory: a cell state that gates write to, erase and read."""

from refold.ir import language as rf


@rf.cell(source="Hochreiter & Schmidhuber 1997; forget gate: Gers, Schmidhuber & Cummins 2000")
def lstm(
    x=rf.Input("m"),
    h=rf.State("n"),
    c=rf.State("n"),
    *,
    i=rf.Affine("n"),
    f=rf.Affine("n"),
    g=rf.Affine("n"),
    o=rf.Affine("n"),
):
    """Memory over hundreds of steps: language, sensors, long series."""
    c = rf.sigmoid(f(x, h)) * c + rf.sigmoid(i(x, h)) * rf.tanh(g(x, h))
    return rf.sigmoid(o(x, h)) * rf.tanh(c), c


@rf.cell(
    source="Gers, Schraudolph & Schmidhuber 2002, Learning precise timing with LSTM recurrent networks"
)
def lstm_peephole(
    x=rf.Input("m"),
    h=rf.State("n"),
    c=rf.State("n"),
    *,
    i=rf.Affine("n"),
    f=rf.Affine("n"),
    g=rf.Affine("n"),
    o=rf.Affine("n"),
    p_i=rf.Weight("n"),
    p_f=rf.Weight("n"),
    p_o=rf.Weight("n"),
):
    """The gates also look at the cell state: exact intervals and counting. The output gate sees the new cell state."""
    forget = rf.sigmoid(f(x, h) + p_f * c)
    write = rf.sigmoid(i(x, h) + p_i * c)
    c = forget * c + write * rf.tanh(g(x, h))
    return rf.sigmoid(o(x, h) + p_o * c) * rf.tanh(c), c
