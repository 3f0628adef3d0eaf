"""Gated units beyond the GRU: interpolation, update and rotation gates of one state."""

from refold.ir import language as rf


@rf.cell(source="Collins, Sohl-Dickstein & Sussillo 2017, arXiv:1611.09913, the update gate RNN")
def ugrnn(x=rf.Input("m"), h=rf.State("n"), *, c=rf.Affine("n"), g=rf.Affine("n")):
    """One gate between the old state and a vanilla step: as trainable as a GRU at two thirds of its weights."""
    keep = rf.sigmoid(g(x, h))
    return keep * h + (1 - keep) * rf.tanh(c(x, h))


@rf.cell(source="Collins, Sohl-Dickstein & Sussillo 2017, arXiv:1611.09913, the +RNN")
def intersection(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    a=rf.Affine("m"),
    c=rf.Affine("n"),
    g_y=rf.Affine("m"),
    g_h=rf.Affine("n"),
):
    """A gate along time and one along depth, which passes x on, so that the output is as wide as x: deep stacks."""
    up, on = rf.sigmoid(g_y(x, h)), rf.sigmoid(g_h(x, h))
    new = on * h + (1 - on) * rf.tanh(c(x, h))
    return rf.Step(new, output=up * x + (1 - up) * rf.relu(a(x, h)))


@rf.cell(source="Laurent & von Brecht 2017, arXiv:1612.06212, equations 1 and 2")
def cfn(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    theta=rf.Affine("n"),
    eta=rf.Affine("n"),
    W=rf.Weight("n m"),
):
    """The chaos-free network: without input every state decays to zero. Language, where dynamics should be tame."""
    forget = rf.sigmoid(theta(x, h))
    write = rf.sigmoid(eta(x, h))
    return forget * rf.tanh(h) + write * rf.tanh(W @ x)


@rf.cell(source="Lee, Levy & Zettlemoyer 2017, arXiv:1705.07393, equation 1, with g = tanh")
def ran(
    x=rf.Input("m"),
    h=rf.State("n"),
    c=rf.State("n"),
    *,
    i=rf.Affine("n"),
    f=rf.Affine("n"),
    W_c=rf.Weight("n m"),
):
    """Recurrent additive network: the cell state is a gated sum of linear maps of the inputs. Language."""
    c = rf.sigmoid(i(x, h)) * (W_c @ x) + rf.sigmoid(f(x, h)) * c
    return rf.tanh(c), c


@rf.cell(source="Turkoglu, D'Aronco, Wegner & Schindler 2019, arXiv:1911.11033")
def star(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    k=rf.Affine("n"),
    z=rf.Affine("n"),
):
    """One gate, and a new value that sees the input alone: gradients keep their size through deep stacks."""
    write = rf.sigmoid(k(x, h))
    return rf.tanh((1 - write) * h + write * rf.tanh(z(x)))


@rf.cell(source="Zhang, Xiong, Su, Lin & Zhang 2018, arXiv:1810.12546")
def atr(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    W=rf.Weight("n m"),
    U=rf.Weight("n n"),
):
    """Twin gates: the sum and the difference of one map of x and one of h, the fewest weights of any gated unit."""
    p, q = W @ x, U @ h
    return rf.sigmoid(p + q) * p + rf.sigmoid(p - q) * h


@rf.cell(source="Vecoven, Ernst & Drion 2021, doi:10.1371/journal.pone.0252676, the BRC")
def br(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    U=rf.Weight("n m"),
    U_a=rf.Weight("n m"),
    U_c=rf.Weight("n m"),
    w_a=rf.Weight("n"),
    w_c=rf.Weight("n"),
):
    """Bistable units, each with its own past only: a > 1 latches a bit for as long as one likes."""
    a = 1 + rf.tanh(U_a @ x + w_a * h)
    c = rf.sigmoid(U_c @ x + w_c * h)
    return c * h + (1 - c) * rf.tanh(U @ x + a * h)


@rf.cell(source="Vecoven, Ernst & Drion 2021, doi:10.1371/journal.pone.0252676, the nBRC")
def nbr(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    U=rf.Weight("n m"),
    U_a=rf.Weight("n m"),
    U_c=rf.Weight("n m"),
    W_a=rf.Weight("n n"),
    W_c=rf.Weight("n n"),
):
    """Bistable units whose feedback is set by the whole state: bits that last, written by their neighbours."""
    a = 1 + rf.tanh(U_a @ x + W_a @ h)
    c = rf.sigmoid(U_c @ x + W_c @ h)
    return c * h + (1 - c) * rf.tanh(U @ x + a * h)


@rf.cell(source="Chen 2017, arXiv:1711.06788, equations 1 to 3, with a tanh layer as its input map")
def minimal_rnn(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    W=rf.Weight("n m"),
    b=rf.Bias("n"),
    U_h=rf.Weight("n n"),
    U_z=rf.Weight("n n"),
    b_u=rf.Bias("n"),
):
    """The state stays in the space of the embedded input, and one gate updates it: a network that can be understood."""
    z = rf.tanh(W @ x + b)
    keep = rf.sigmoid(U_h @ h + U_z @ z + b_u)
    return keep * h + (1 - keep) * z


@rf.cell(source="Gao & Glowacka 2016, arXiv:1604.02910, the simple gated unit")
def sgu(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    W_g=rf.Weight("n m"),
    b_g=rf.Bias("n"),
    U_g=rf.Weight("n n"),
    z=rf.Affine("n"),
):
    """The input multiplies the state, once before and once after a product. Long sequences with few weights."""
    gate = rf.tanh(U_g @ ((W_g @ x + b_g) * h))
    new = rf.softplus(gate * h)
    write = rf.hard_sigmoid(z(x, h))
    return (1 - write) * h + write * new


@rf.cell(source="Gao & Glowacka 2016, arXiv:1604.02910, the deep simple gated unit")
def dsgu(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    W_g=rf.Weight("n m"),
    b_g=rf.Bias("n"),
    U_g=rf.Weight("n n"),
    U_o=rf.Weight("n n"),
    z=rf.Affine("n"),
):
    """The simple gated unit with one more product and a bounded new value: the stabler of the two."""
    gate = rf.tanh(U_g @ ((W_g @ x + b_g) * h))
    new = rf.sigmoid(U_o @ (gate * h))
    write = rf.hard_sigmoid(z(x, h))
    return (1 - write) * h + write * new


@rf.cell(source="doi:10.1049/gtd2.12056, the simple gated recurrent network")
def sgrn(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    W=rf.Weight("n m"),
    U=rf.Weight("n n"),
    b=rf.Bias("n"),
):
    """One map of the input is new value and part of the gate: load forecasts with very few weights."""
    forget = rf.sigmoid(W @ x + U @ h + b)
    return rf.tanh((1 - forget) * (W @ x) + forget * h)
