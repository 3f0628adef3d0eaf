"""Long short-term memory: a cell state that gates write to, erase and read."""

from collections.abc import Callable
from typing import Any

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


@rf.cell(source="Hochreiter & Schmidhuber 1997, Long short-term memory, with blocks of one cell")
def lstm_1997(
    x=rf.Input("m"),
    h=rf.State("n"),
    c=rf.State("n"),
    *,
    i=rf.Affine("n"),
    g=rf.Affine("n"),
    o=rf.Affine("n"),
):
    """The first LSTM: no forget gate, so a cell keeps all it was given. Short sequences, sums and counts."""
    # The paper's squashing functions: 4 sigmoid(x) - 2 into the cell, 2 sigmoid(x) - 1 out of it.
    c = c + rf.sigmoid(i(x, h)) * (4 * rf.sigmoid(g(x, h)) - 2)
    return rf.sigmoid(o(x, h)) * (2 * rf.sigmoid(c) - 1), c


@rf.cell(
    source="Hochreiter & Schmidhuber 1997, Long short-term memory, with blocks of several cells"
)
def lstm_1997_blocks(
    x=rf.Input("m"),
    h=rf.State("n"),
    c=rf.State("n"),
    *,
    i=rf.Affine("q"),
    g=rf.Affine("n"),
    o=rf.Affine("q"),
    S=rf.Weight("n q", init="blocks", learn=False),
):
    """The n cells stand in q blocks, and those of a block share one input gate and one output gate."""
    c = c + (S @ rf.sigmoid(i(x, h))) * (4 * rf.sigmoid(g(x, h)) - 2)
    return (S @ rf.sigmoid(o(x, h))) * (2 * rf.sigmoid(c) - 1), c


@rf.cell(
    source="Greff, Srivastava, Koutnik, Steunebrink & Schmidhuber 2015, arXiv:1503.04069, CIFG"
)
def lstm_coupled(
    x=rf.Input("m"),
    h=rf.State("n"),
    c=rf.State("n"),
    *,
    i=rf.Affine("n"),
    g=rf.Affine("n"),
    o=rf.Affine("n"),
    p_i=rf.Weight("n"),
    p_o=rf.Weight("n"),
):
    """What is written replaces what is forgotten: one gate less than an LSTM, as good in most of its uses."""
    write = rf.sigmoid(i(x, h) + p_i * c)
    c = (1 - write) * c + write * rf.tanh(g(x, h))
    return rf.sigmoid(o(x, h) + p_o * c) * rf.tanh(c), c


@rf.cell(source="van der Westhuizen & Lasenby 2018, arXiv:1804.04849")
def janet(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    s=rf.Affine("n", bias_init=rf.Init("chrono", steps=100)),
    g=rf.Affine("n", bias_init="zeros"),
    beta=rf.Scalar(1.0),
):
    """An LSTM of which only the forget gate is left: half the weights, memories of up to 100 steps."""
    gate = s(x, h)
    return rf.sigmoid(gate) * h + (1 - rf.sigmoid(gate - beta)) * rf.tanh(g(x, h))


@rf.cell(
    source="Sak, Senior & Beaufays 2014, arXiv:1402.1128, without peepholes, as torch.nn.LSTM(proj_size=r) has it"
)
def lstm_projection(
    x=rf.Input("m"),
    h=rf.State("r"),
    c=rf.State("n"),
    *,
    i=rf.Affine("n"),
    f=rf.Affine("n"),
    g=rf.Affine("n"),
    o=rf.Affine("n"),
    W_r=rf.Weight("r n"),
):
    """Hands r < n numbers to the next step and the next layer: many cells with few weights, large vocabularies."""
    c = rf.sigmoid(f(x, h)) * c + rf.sigmoid(i(x, h)) * rf.tanh(g(x, h))
    return W_r @ (rf.sigmoid(o(x, h)) * rf.tanh(c)), c


@rf.cell(source="Sak, Senior & Beaufays 2014, arXiv:1402.1128")
def lstm_projection_peephole(
    x=rf.Input("m"),
    h=rf.State("r"),
    c=rf.State("n"),
    *,
    i=rf.Affine("n"),
    f=rf.Affine("n"),
    g=rf.Affine("n"),
    o=rf.Affine("n"),
    p_i=rf.Weight("n"),
    p_f=rf.Weight("n"),
    p_o=rf.Weight("n"),
    W_r=rf.Weight("r n"),
):
    """The projected LSTM of the paper, whose gates also look at the cell state: acoustic models."""
    forget = rf.sigmoid(f(x, h) + p_f * c)
    write = rf.sigmoid(i(x, h) + p_i * c)
    c = forget * c + write * rf.tanh(g(x, h))
    return W_r @ (rf.sigmoid(o(x, h) + p_o * c) * rf.tanh(c)), c


@rf.cell(source="Ba, Kiros & Hinton 2016, arXiv:1607.06450, supplement")
def lstm_layer_norm(
    x=rf.Input("m"),
    h=rf.State("n"),
    c=rf.State("n"),
    *,
    W_x=rf.Weight("4n m"),
    W_h=rf.Weight("4n n"),
    b=rf.Bias("4n", init="zeros"),
    s_x=rf.Weight("4n", init="ones"),
    b_x=rf.Bias("4n", init="zeros"),
    s_h=rf.Weight("4n", init="ones"),
    b_h=rf.Bias("4n", init="zeros"),
    s_c=rf.Weight("n", init="ones"),
    b_c=rf.Bias("n", init="zeros"),
):
    """Normalises what comes from the state, from the input and from the cell: steady training of long sequences."""
    gates = rf.layer_norm(W_h @ h, s_h, b_h) + rf.layer_norm(W_x @ x, s_x, b_x) + b
    f, i, o, g = rf.split(gates, 4)
    c = rf.sigmoid(f) * c + rf.sigmoid(i) * rf.tanh(g)
    return rf.sigmoid(o) * rf.tanh(rf.layer_norm(c, s_c, b_c)), c


@rf.cell(source="Kim, El-Khamy & Lee 2017, arXiv:1701.03360, with W_r x where the sizes differ")
def lstm_residual(
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
    W_p=rf.Weight("n n"),
    W_r=rf.Weight("n m"),
):
    """The input passes by the cell and through the output gate: deep stacks, speech from afar."""
    forget = rf.sigmoid(f(x, h) + p_f * c)
    write = rf.sigmoid(i(x, h) + p_i * c)
    c = forget * c + write * rf.tanh(g(x, h))
    return rf.sigmoid(o(x, h) + p_o * c) * (W_p @ rf.tanh(c) + W_r @ x), c


@rf.cell(source="Krause, Lu, Murray & Renals 2016, arXiv:1609.07959")
def multiplicative_lstm(
    x=rf.Input("m"),
    h=rf.State("n"),
    c=rf.State("n"),
    *,
    W_mx=rf.Weight("n m"),
    W_mh=rf.Weight("n n"),
    i=rf.Affine("n"),
    f=rf.Affine("n"),
    g=rf.Affine("n"),
    o=rf.Affine("n"),
):
    """Each input has a transition of its own: text, character by character."""
    m = (W_mx @ x) * (W_mh @ h)
    c = rf.sigmoid(f(x, m)) * c + rf.sigmoid(i(x, m)) * rf.tanh(g(x, m))
    return rf.sigmoid(o(x, m)) * rf.tanh(c), c


@rf.cell(source="Zoph & Le 2016, arXiv:1611.01578, appendix, as TensorFlow's NASCell has it")
def nas(
    x=rf.Input("m"),
    h=rf.State("n"),
    c=rf.State("n"),
    *,
    a_1=rf.Affine("n"),
    a_2=rf.Affine("n"),
    a_3=rf.Affine("n"),
    W_4=rf.Weight("n m"),
    U_4=rf.Weight("n n"),
    b_4=rf.Bias("n"),
    a_5=rf.Affine("n"),
    a_6=rf.Affine("n"),
    a_7=rf.Affine("n"),
    a_8=rf.Affine("n"),
):
    """The cell that a search over trees of operations found: language models."""
    forget = rf.tanh(rf.sigmoid(a_1(x, h)) * rf.relu(a_2(x, h)))
    write = rf.tanh(rf.sigmoid(a_3(x, h)) + rf.relu((W_4 @ x) * (U_4 @ h + b_4)))
    new = rf.tanh(rf.tanh(a_5(x, h)) * rf.sigmoid(a_6(x, h)))
    read = rf.sigmoid(rf.tanh(a_7(x, h)) + rf.sigmoid(a_8(x, h)))
    c = rf.tanh(forget + c) * write
    return rf.tanh(c * rf.tanh(new + read)), c


@rf.cell(
    source="Hoedt, Kratzert, Klotz, Halmich, Holzleitner, Nearing, Hochreiter & Klambauer 2021, arXiv:2101.05186, "
    "with a redistribution that does not depend on time (R = softmax(B_r))"
)
def mc_lstm(
    x=rf.Input(""),
    a=rf.Input("m"),
    c=rf.State("n"),
    *,
    i=rf.Affine("n", init="orthogonal", bias_init="zeros"),
    o=rf.Affine("n", init="orthogonal", bias_init=rf.Init("constant", value=-3.0)),
    B_r=rf.Weight("n n"),
    ones=rf.Weight("n", init="ones", learn=False),
    epsilon=rf.Scalar(1e-5),
):
    """Mass x is stored, moved between cells and handed out, and none is lost; a is what else is known. Runoff."""
    share = c / (rf.sum(rf.abs(c)) + epsilon)
    # A column of R says where the mass of one cell goes, and sums to one.
    weights = rf.exp(B_r)
    mass = weights @ (c / (weights.T @ ones)) + rf.softmax(i(a, share)) * x
    out = rf.sigmoid(o(a, share))
    return rf.Step((1 - out) * mass, output=out * mass)


def _slstm(log_forget: Callable[[Any], Any], name: str, about: str) -> rf.Cell:
    """The exponential LSTM, with the logarithm of its forget gate as a function of what the gate reads."""

    @rf.cell(
        source=f"Beck et al. 2024, xLSTM, arXiv:2405.04517, equations 8 to 17, one head, {about}",
        name=name,
    )
    def cell(
        x=rf.Input("m"),
        h=rf.State("n"),
        c=rf.State("n"),
        n=rf.State("n"),
        # c and n stand for c exp(m) and n exp(m), which are 0: so low, the first step's m is its own.
        m=rf.State("n", start=-1e4),
        *,
        i=rf.Affine("n"),
        f=rf.Affine("n"),
        z=rf.Affine("n"),
        o=rf.Affine("n"),
    ):
        """Exponential gates revise what was stored; m keeps them within range. Language, long sequences."""
        write, keep = i(x, h), log_forget(f(x, h)) + m
        m = rf.maximum(keep, write)
        c = rf.exp(keep - m) * c + rf.exp(write - m) * rf.tanh(z(x, h))
        n = rf.exp(keep - m) * n + rf.exp(write - m)
        return rf.sigmoid(o(x, h)) * (c / n), c, n, m

    return cell


slstm = _slstm(lambda f: -rf.softplus(-f), "slstm", "with a sigmoid forget gate")
slstm_exp = _slstm(lambda f: f, "slstm_exp", "with an exponential forget gate")


@rf.cell(
    source="Balduzzi & Ghifary 2016, Strongly-typed recurrent neural networks, arXiv:1602.02218"
)
def t_lstm(
    x=rf.Input("m"),
    c=rf.State("n"),
    p=rf.State("m"),
    *,
    z=rf.Affine("n"),
    f=rf.Affine("n"),
    o=rf.Affine("n"),
):
    """Gates see this input and the one before, p, and no state: types are kept, steps are cheap."""
    keep = rf.sigmoid(f(x, p))
    c = keep * c + (1 - keep) * z(x, p)
    return rf.Step(c, x, output=c * rf.tanh(o(x, p)))


@rf.cell(
    source="Landi, Baraldi, Cornia & Cucchiara 2021, Working memory connections for LSTM, arXiv:2109.00020"
)
def wmc_lstm(
    x=rf.Input("m"),
    h=rf.State("n"),
    c=rf.State("n"),
    *,
    i=rf.Affine("n"),
    f=rf.Affine("n"),
    g=rf.Affine("n"),
    o=rf.Affine("n"),
    V_i=rf.Weight("n n"),
    V_f=rf.Weight("n n"),
    V_o=rf.Weight("n n"),
):
    """Peepholes with whole matrices and a bound: the gates look at all of the cell state."""
    forget = rf.sigmoid(f(x, h) + rf.tanh(V_f @ c))
    write = rf.sigmoid(i(x, h) + rf.tanh(V_i @ c))
    c = forget * c + write * rf.tanh(g(x, h))
    return rf.sigmoid(o(x, h) + rf.tanh(V_o @ c)) * rf.tanh(c), c


@rf.cell(
    source="memory-controller LSTM, NIPS 2017 workshop paper, as torchrecurrent's MCLSTM cites and has it"
)
def controller_lstm(
    x=rf.Input("m"),
    v=rf.State("n"),
    c=rf.State("n"),
    *,
    i=rf.Affine("n"),
    f=rf.Affine("n"),
    g=rf.Affine("n"),
    o=rf.Affine("n"),
    r=rf.Affine("n"),
):
    """One gate for the output and another for what the gates of the next step read."""
    c = rf.sigmoid(f(x, v)) * c + rf.sigmoid(i(x, v)) * rf.tanh(g(x, v))
    read = rf.sigmoid(o(x, v)) * rf.tanh(c)
    return rf.Step(rf.sigmoid(r(x, v)) * rf.tanh(c), c, output=read)
