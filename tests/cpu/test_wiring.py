"""Networks of all shapes against hand-written loops, one row at a time and without padding."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import refold as rf
from refold.errors import KernelError, RefoldError
from refold.nn.layer import Recurrent
from refold.nn.wiring import Network, Shape

F64 = torch.float64
EXACT: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}


# The definition, written out. States of a row are tuples of vectors.


@rf.cell
def two_inputs(x=rf.Input("m"), z=rf.Input("k"), h=rf.State("n"), *, a=rf.Affine("n")):
    return rf.tanh(a(x, z, h))


@rf.cell
def three_numbers(x=rf.Input("3"), h=rf.State("n"), *, a=rf.Affine("n")):
    return rf.tanh(a(x, h))


@rf.cell
def no_input(h=rf.State("n"), *, a=rf.Affine("n")):
    return rf.tanh(a(h))


def elman(p, x, state):
    return (torch.tanh(p["W_x"] @ x + p["W_h"] @ state[0] + p["b"]),)


def lstm(p, x, state):
    h, c = state
    i, f, g, o = (p[k + ".W_x"] @ x + p[k + ".W_h"] @ h + p[k + ".b"] for k in "ifgo")
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


STEP = {"elman": elman, "lstm": lstm}


def run(step, p, xs, state):
    outputs = []
    for x in xs:
        state = step(p, x, state)
        outputs.append(state[0])
    return outputs, state


def run_layer(layer, cell, xs, states=None):
    """All layers and directions over the steps of one row: outputs, final states of each."""
    step, finals = STEP[cell], []
    zero = tuple(torch.zeros(n, dtype=F64) for n in layer.state_sizes.values())
    for index in range(layer.num_layers):
        halves = []
        for reverse in range(layer.directions):
            start = zero if states is None else states[index * layer.directions + reverse]
            p = layer.parameters_of(index, bool(reverse))
            ys, end = run(step, p, xs[::-1] if reverse else xs, start)
            halves.append(ys[::-1] if reverse else ys)
            finals.append(end)
        xs = [torch.cat(pair) for pair in zip(*halves, strict=True)]
    return xs, finals


def headed(net, outputs):
    """The head on one vector."""
    assert isinstance(net.head, nn.Module)
    return net.head(outputs)


def joined(finals, directions):
    if directions == 1:
        return finals
    pairs = zip(finals[::2], finals[1::2], strict=True)
    return [tuple(torch.cat(s) for s in zip(a, b, strict=True)) for a, b in pairs]


def layer_of(cell="elman", m=2, n=3, **settings):
    return Recurrent(cell, m, n, dtype=F64, **settings)


def ragged(lengths, m=2):
    """Padded inputs with NaN behind every row's end, and the rows themselves."""
    x = torch.randn(max(lengths), len(lengths), m, dtype=F64)
    for row, n in enumerate(lengths):
        x[n:, row] = torch.nan
    x.requires_grad_()
    return x, [list(x[:n, row]) for row, n in enumerate(lengths)]


def same_gradients(net, x, ours, theirs):
    """Values, and the gradients of a random projection, with respect to all that has one."""
    assert_close(ours, theirs, **EXACT)
    v = torch.randn_like(ours)
    wanted = [x, *net.parameters()]
    got = torch.autograd.grad((ours * v).sum(), wanted)
    want = torch.autograd.grad((theirs * v).sum(), wanted)
    for a, b in zip(got, want, strict=True):
        assert_close(a, b, **EXACT)


def padded(rows, k):
    """A list of lists of outputs as (T, B, k), zero behind."""
    out = []
    for t in range(max(len(row) for row in rows)):
        here = [row[t] if t < len(row) else torch.zeros(k, dtype=F64) for row in rows]
        out.append(torch.stack(here))
    return torch.stack(out)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


CASES = [
    ("elman", {}),
    ("lstm", {"num_layers": 2}),
    ("elman", {"bidirectional": True}),
    ("lstm", {"bidirectional": True, "num_layers": 2}),
]
LENGTHS = [4, 0, 1, 5, 3]


@pytest.mark.parametrize(("cell", "settings"), CASES)
def test_many_to_many(cell, settings):
    net = Network(layer_of(cell, **settings), head=2)
    x, rows = ragged(LENGTHS)
    theirs = [[headed(net, y) for y in run_layer(net.layer, cell, row)[0]] for row in rows]
    same_gradients(net, x, net(x, LENGTHS), padded(theirs, 2))


@pytest.mark.parametrize(("cell", "settings"), CASES)
def test_many_to_one_joins_the_last_outputs_of_both_directions(cell, settings):
    net = Network(layer_of(cell, **settings), head=2, shape="many-to-one")
    x, rows = ragged(LENGTHS)
    theirs = []
    for row in rows:
        ys, _ = run_layer(net.layer, cell, row)
        if not row:
            last = torch.zeros(net.layer.output_features, dtype=F64)
        elif net.layer.directions == 2:
            last = torch.cat([ys[-1][:3], ys[0][3:]])
        else:
            last = ys[-1]
        theirs.append(headed(net, last))
    same_gradients(net, x, net(x, LENGTHS), torch.stack(theirs))


@pytest.mark.parametrize(("cell", "settings"), CASES)
def test_one_to_one(cell, settings):
    net = Network(layer_of(cell, **settings), head=2, shape="one-to-one")
    x = torch.randn(4, 2, dtype=F64, requires_grad=True)
    theirs = torch.stack([headed(net, run_layer(net.layer, cell, [row])[0][0]) for row in x])
    same_gradients(net, x, net(x), theirs)
    assert_close(net(x.unsqueeze(0)), theirs, **EXACT)


def write_out(layer, cell, head, first, states, number, told=None):
    """The outputs of one row that reads its own past outputs, or those it is told."""
    outputs, x = [], first
    for t in range(number):
        ys, states = run_layer(layer, cell, [x], states)
        outputs.append(head(ys[0]))
        x = outputs[-1] if told is None else told[t]
    return outputs


@pytest.mark.parametrize(("cell", "settings"), CASES[:2])
@pytest.mark.parametrize("teach", [False, True])
def test_one_to_many(cell, settings, teach):
    net = Network(layer_of(cell, **settings), head=2, shape="one-to-many")
    x = torch.randn(3, 2, dtype=F64, requires_grad=True)
    target = torch.randn(4, 3, 2, dtype=F64)
    theirs = [
        write_out(net.layer, cell, net.head, x[b], None, u, target[:, b] if teach else None)
        for b, u in enumerate([2, 4, 0])
    ]
    call: dict[str, Any] = {"target": target} if teach else {}
    same_gradients(net, x, net(x, target_lengths=[2, 4, 0], **call), padded(theirs, 2))


@pytest.mark.parametrize(("cell", "settings"), CASES)
@pytest.mark.parametrize("teach", [False, True])
def test_encoder_decoder(cell, settings, teach):
    encoder = layer_of(cell, **settings)
    size = 3 * encoder.directions
    decoder = layer_of(cell, 2, size, num_layers=encoder.num_layers)
    net = Network(encoder, head=2, shape="encoder-decoder", decoder=decoder)
    lengths, u_lengths = [4, 0, 5], [2, 3, 1]
    x, rows = ragged(lengths)
    target = torch.randn(3, 3, 2, dtype=F64)
    theirs = []
    for b, row in enumerate(rows):
        states = joined(run_layer(encoder, cell, row)[1], encoder.directions)
        told, first = target[:, b] if teach else None, torch.zeros(2, dtype=F64)
        theirs.append(write_out(decoder, cell, net.head, first, states, u_lengths[b], told))
    call: dict[str, Any] = {"target": target} if teach else {"steps": 3}
    ours = net(x, lengths, target_lengths=u_lengths, **call)
    same_gradients(net, x, ours, padded(theirs, 2))


def test_teacher_forcing_on_its_own_outputs_is_the_free_run():
    net = Network(layer_of("lstm"), head=2, shape="encoder-decoder", decoder=layer_of("lstm", 2, 3))
    x = torch.randn(5, 4, 2, dtype=F64)
    free = net(x, steps=6)
    assert_close(net(x, target=free.detach()), free, **EXACT)


def test_padding_of_targets_is_not_read():
    net = Network(layer_of(), head=2, shape="one-to-many")
    x, target = torch.randn(2, 2, dtype=F64), torch.randn(4, 2, 2, dtype=F64)
    clean = net(x, target=target, target_lengths=[2, 4])
    target[2:, 0] = torch.nan
    dirty = net(x, target=target, target_lengths=[2, 4])
    assert_close(dirty, clean, rtol=0, atol=0)
    dirty.sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in net.parameters() if p.grad is not None)


def test_classes_are_fed_back_as_one_hot_vectors():
    net = Network(layer_of(m=3), head=3, shape="one-to-many", feedback="class")
    x = torch.randn(2, 3, dtype=F64)
    free = net(x, steps=4)
    assert_close(net(x, target=free.argmax(-1)), free, **EXACT)
    one_hot = nn.functional.one_hot(free.argmax(-1), 3).to(F64)
    plain = Network(net.layer, net.head, shape="one-to-many")
    assert_close(plain(x, target=one_hot), free, **EXACT)


@pytest.mark.parametrize("shape", ["one-to-many", "many-to-one", "many-to-many"])
def test_an_initial_state_is_that_of_the_layer(shape):
    net = Network(layer_of("lstm", num_layers=2), head=2, shape=shape)
    state = (torch.randn(2, 1, 3, dtype=F64), torch.randn(2, 1, 3, dtype=F64))
    x = torch.randn(1, 1, 2, dtype=F64)
    call: dict[str, Any] = {"steps": 1} if shape == "one-to-many" else {}
    rows = [tuple(part[k, 0] for part in state) for k in range(2)]
    want = headed(net, run_layer(net.layer, "lstm", [x[0, 0]], rows)[0][0])
    assert_close(net(x, state=state, **call).flatten(), want, **EXACT)
    x_alone = x[0, 0] if shape == "one-to-many" else x[:, 0]
    alone = net(x_alone, state=tuple(part[:, 0] for part in state), **call)
    assert_close(alone.flatten(), want, **EXACT)


def test_states_may_be_a_list_as_the_layer_takes_them():
    net = Network(layer_of("lstm"), head=2)
    x, state = torch.randn(4, 2, dtype=F64), [torch.randn(1, 3, dtype=F64) for _ in "hc"]
    assert_close(net(x, state=state), net(x, state=tuple(state)), rtol=0, atol=0)
    with pytest.raises(KernelError, match="state h is a float"):
        net(x, state=[1.0, 2.0])


def test_a_cell_of_several_inputs_is_fed_all_of_them():
    layer = Recurrent(two_inputs, 2, 4, k=3, dtype=F64)
    x, d = torch.randn(3, 5, dtype=F64), torch.randn(4, 3, 5, dtype=F64)
    net = Network(layer, 5, "one-to-many")
    whole = torch.cat([x.unsqueeze(0), d[:-1]])
    assert_close(net(x, target=d), headed(net, layer(whole)[0]), **EXACT)
    free = net(x, steps=4)
    assert_close(net(x, target=free), free, **EXACT)
    refused("an output has 2 features.* a layer that reads 5\ngive head=5", layer, 2, "one-to-many")
    both = Network(layer_of(n=4), 5, "encoder-decoder", decoder=layer)
    assert both(torch.randn(2, 3, 2, dtype=F64), steps=4).shape == (4, 3, 5)


def test_a_cell_whose_input_has_a_size_of_its_own():
    net = Network(Recurrent(three_numbers, 7, 4, dtype=F64), 3, "one-to-many")
    assert net(torch.randn(2, 3, dtype=F64), steps=4).shape == (4, 2, 3)
    refused("reads no input, and an output is to be fed back", Recurrent(no_input, 0, 4), 1,
            "one-to-many")  # fmt: skip


def test_classes_past_a_row_are_not_read():
    net = Network(layer_of(m=3), 3, "one-to-many", feedback="class")
    x, target = torch.randn(2, 3, dtype=F64), torch.tensor([[0, 1], [2, 2], [1, 0]])
    clean = net(x, target=target, target_lengths=[1, 3])
    target[1:, 0] = -1
    target[2, 1] = 99  # nothing follows it, so it is fed to nobody
    assert_close(net(x, target=target, target_lengths=[1, 3]), clean, rtol=0, atol=0)
    text = r"target holds class -1, and the layer reads 3 classes\ngive classes from 0 to 2"
    with pytest.raises(KernelError, match=text):
        net(x, target=target, target_lengths=[3, 3])


def test_without_a_batch_the_axis_is_left_out():
    x = torch.randn(5, 1, 2, dtype=F64)
    shapes: list[tuple[Shape, Tensor]]
    shapes = [("many-to-many", x), ("many-to-one", x), ("one-to-one", x[0])]
    for shape, one in shapes:
        net = Network(layer_of("lstm"), head=4, shape=shape)
        assert_close(net(one.squeeze(-2)), net(one).squeeze(-2), **EXACT)
    net = Network(layer_of(), head=2, shape="one-to-many")
    assert_close(net(x[0, 0], target=x[:, 0]), net(x[0], target=x)[:, 0], **EXACT)
    net = Network(layer_of(), shape="encoder-decoder", decoder=layer_of(m=3, n=3))
    assert_close(net(x[:, 0], steps=2), net(x, steps=2)[:, 0], **EXACT)


def test_any_module_can_be_the_head_and_none_is_the_output_itself():
    x = torch.randn(4, 2, 2, dtype=F64)
    plain = Network(layer_of())
    assert_close(plain(x), plain.layer(x)[0], rtol=0, atol=0)
    deep = nn.Sequential(nn.Linear(3, 5, dtype=F64), nn.Tanh(), nn.Linear(5, 1, dtype=F64))
    assert Network(layer_of(), deep)(x).shape == (4, 2, 1)


def test_it_prints_its_shape():
    assert "shape='many-to-one'" in repr(Network(layer_of(), shape="many-to-one"))
    assert "feedback='value'" in repr(Network(layer_of(m=3), shape="one-to-many"))


# Refusals: parts


def refused(text, *parts, **settings):
    with pytest.raises(RefoldError, match=text):
        Network(*parts, **settings)


def test_refusals_of_parts():
    refused("no shape 'many'\none of: one-to-one, one-to-many", layer_of(), shape="many")
    refused("layer is a LSTM, not an rf.Recurrent", nn.LSTM(2, 3))
    refused("layer is batch_first, but a network computes on", layer_of(batch_first=True))
    refused("feedback='class', but many-to-one feeds nothing", layer_of(), None, "many-to-one",
            feedback="class")  # fmt: skip
    refused("no feedback 'x'", layer_of(m=3), None, "one-to-many", feedback="x")
    refused(r"needs a second layer.*\n.*Recurrent\(cell, k, 6\)", layer_of(bidirectional=True),
            shape="encoder-decoder")  # fmt: skip
    refused("a decoder is given, which many-to-many does not", layer_of(), decoder=layer_of())
    refused(r"reads 3 features, the layer gives 6 \(3 x 2 direction", layer_of(bidirectional=True),
            nn.Linear(3, 1))  # fmt: skip
    for head in (0, -1, 2.5, "3", True, torch.tanh):
        refused("head is .*\ngive a module, such as torch.nn.Tanh", layer_of(), head)


def test_refusals_of_loops():
    refused("an output has 3 features.* that reads 2\ngive head=2", layer_of(), None, "one-to-many")
    refused("the layer is bidirectional", layer_of(bidirectional=True), 2, "one-to-many")
    both: dict[str, Any] = {"shape": "encoder-decoder", "head": 2}
    refused("the decoder is bidirectional", layer_of(bidirectional=True, n=2),
            decoder=layer_of(n=4, bidirectional=True), **both)  # fmt: skip
    refused(r"ends with 1 layer\(s\) of states h \(6\), both directions joined; the decoder starts "
            r"with 1 layer\(s\) of states h \(3\)", layer_of(bidirectional=True),
            decoder=layer_of(), **both)  # fmt: skip
    refused(r"states h \(3\); .* states h \(3\), c \(3\)", layer_of(), decoder=layer_of("lstm"),
            **both)  # fmt: skip
    refused(r"with 2 layer\(s\).* with 1 layer", layer_of(num_layers=2), decoder=layer_of(), **both)


# Refusals: calls


def test_refusals_of_inputs():
    x = torch.zeros(4, 2, 2, dtype=F64)
    net = Network(layer_of())
    for text, args, call in [
        (r"x is a list, not a tensor \(T, B, m\)", [[1.0]], {}),
        (r"x has shape \(4,\)\ngive \(T, B, m\) or", [x[:, 0, 0]], {}),
        ("lengths is given without rows", [x[:, 0], [4]], {}),
        ("steps is given, but many-to-many feeds nothing back", [x], {"steps": 3}),
        ("target is given, but many-to-many", [x], {"target": x}),
    ]:
        with pytest.raises(KernelError, match=r"shape='many-to-many'(.|\n)*" + text):
            net(*args, **call)
    for text, lengths in [
        (r"^lengths have shape \(1,\), and the batch has 2 rows", [4]),
        ("^lengths hold 5, and there are 4 steps", [1, 5]),
        ("^lengths are torch.float32, and must be whole", [1.5, 2]),
        ("^lengths are torch.bool, and must be whole", [True, False]),
        ("^lengths cannot be read as a tensor", "ab"),
    ]:
        with pytest.raises(KernelError, match=text):
            net(x, lengths)
    single = Network(layer_of(), shape="one-to-one")
    with pytest.raises(KernelError, match="4 steps, where one input is read"):
        single(x)
    with pytest.raises(KernelError, match="lengths is given, but x has one step"):
        single(x[0], [1, 1])
    packed = nn.utils.rnn.pack_sequence([x[:, 0]])
    with pytest.raises(KernelError, match=r"PackedSequence.*\n.*pad_packed_sequence"):
        net(packed)


def test_refusals_of_outputs():
    x, d = torch.zeros(2, 2, dtype=F64), torch.zeros(4, 2, 2, dtype=F64)
    net = Network(layer_of(), 2, "one-to-many")
    for text, call in [
        ("the number of outputs is not known\ngive steps=U", {}),
        ("steps is 0\ngive a whole number, at least 1", {"steps": 0}),
        ("steps is -1", {"steps": -1}),
        ("steps is 2.5", {"steps": 2.5}),
        ("steps is '3'", {"steps": "3"}),
        ("steps is True", {"steps": True}),
        ("target is a list", {"target": [1.0]}),
        (r"target has 5 rows, and x has 2\ngive one row", {"target": torch.zeros(4, 5, 2).to(F64)}),
        ("target_lengths are all 0", {"target_lengths": [0, 0]}),
        ("steps is 3, but target has 4 steps", {"steps": 3, "target": d}),
        (r"target is torch.int64 of shape \(4, 2\)\ngive float", {"target": d[..., 0].long()}),
        (r"shape \(4, 2\)\ngive float \(U, B, k\)", {"target": d[:, 0]}),
        ("1 features are fed back to a layer that reads 2", {"target": d[..., :1]}),
    ]:
        with pytest.raises(KernelError, match=r"shape='one-to-many'(.|\n)*" + text):
            net(x, **call)
    for text, call in [
        ("^target_lengths hold -1, and no length is negative", {"target_lengths": [-1, 2]}),
        ("^target_lengths hold 5, and there are 4", {"steps": 4, "target_lengths": [1, 5]}),
        ("^target_lengths are torch.float32", {"target_lengths": [1.5, 2]}),
    ]:
        with pytest.raises(KernelError, match=text):
            net(x, **call)
    hidden_size_known_late = nn.Sequential(nn.Linear(3, 5, dtype=F64))
    with pytest.raises(KernelError, match="5 features are fed back"):
        Network(layer_of(), hidden_size_known_late, "one-to-many")(x, steps=2)
