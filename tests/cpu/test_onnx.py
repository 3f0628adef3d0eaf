"""Nodes of ONNX as torch modules: layouts, gradients, files, what is held and what is given."""

import copy
import pickle
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx_nodes import BATCH, HIDDEN, INPUT, STEPS, Random, arrays, model_of, node_of, random_node
from torch import Tensor
from torch.autograd import gradcheck
from torch.testing import assert_close

import refold as rf

OPS = ["RNN", "GRU", "LSTM"]
DIRECTIONS = ["forward", "reverse", "bidirectional"]
COUPLED = {"RNN": {}, "GRU": {"linear_before_reset": 1}, "LSTM": {"input_forget": 1}}


def full(op: str, direction: str = "forward", seed: int = 0, **attributes) -> Random:
    """A node with every input that its operator has."""
    inputs = arrays(op, np.random.default_rng(seed), 1 + (direction == "bidirectional"))
    return Random(node_of(op, inputs, direction=direction, **attributes), inputs)


def equal(mine: tuple[Tensor, ...], theirs: tuple[Tensor, ...], tolerance: float = 1e-12) -> None:
    assert len(mine) == len(theirs)
    for a, b in zip(mine, theirs, strict=True):
        assert_close(a, b, rtol=0.0, atol=tolerance)


# Meaning --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("op", OPS)
def test_layout_1_is_layout_0_by_row(op, direction):
    by_step, by_row = full(op, direction), full(op, direction, layout=1)
    inputs = by_step.tensors()
    turned = {"X", "initial_h", "initial_c"}
    given = {n: t.transpose(0, 1) if n in turned else t for n, t in inputs.items()}
    y, *last = rf.from_onnx(by_step.node)(**inputs)
    y_row, *last_row = rf.from_onnx(by_row.node)(**given)
    directions = len(last[0])
    assert y_row.shape == (BATCH, STEPS, directions, HIDDEN)
    equal((y_row,), (y.permute(2, 0, 1, 3),))
    equal(tuple(last_row), tuple(s.transpose(0, 1) for s in last))


@pytest.mark.parametrize("op", OPS)
def test_reverse_is_each_row_turned_around(op):
    forward, reverse = full(op), full(op, "reverse")
    inputs = forward.tensors()
    lengths = inputs["sequence_lens"].tolist()

    def turned(x: Tensor) -> Tensor:
        rows = [torch.cat([x[:n, i].flip(0), x[n:, i]]) for i, n in enumerate(lengths)]
        return torch.stack(rows, 1)

    y, *last = rf.from_onnx(forward.node)(**inputs)
    y_back, *last_back = rf.from_onnx(reverse.node)(**{**inputs, "X": turned(inputs["X"])})
    equal((turned(y_back.squeeze(1)), *last_back), (y.squeeze(1), *last))


@pytest.mark.parametrize("op", OPS)
def test_each_direction_has_its_own_activations(op):
    per = {"RNN": 1, "GRU": 2, "LSTM": 3}[op]
    one, other = (
        ["Elu", "Softsign", "LeakyRelu"][:per],
        ["HardSigmoid", "ScaledTanh", "Affine"][:per],
    )
    alphas = [0.4] * sum(n in ("Elu", "LeakyRelu") for n in one)
    both = full(
        op,
        "bidirectional",
        activations=one + other,
        activation_alpha=alphas + [0.5, 0.6, 0.7][:per],
        activation_beta=[0.1, 0.2, 0.3][:per],
    )
    inputs = both.tensors()
    y, *last = rf.from_onnx(both.node)(**inputs)
    ways = (
        ("forward", {"activations": one, "activation_alpha": alphas}),
        (
            "reverse",
            {
                "activations": other,
                "activation_alpha": [0.5, 0.6, 0.7][:per],
                "activation_beta": [0.1, 0.2, 0.3][:per],
            },
        ),
    )
    for index, (direction, attributes) in enumerate(ways):
        alone = full(op, direction, **{k: v for k, v in attributes.items() if v})
        part = {
            n: t if n in ("X", "sequence_lens") else t[index : index + 1] for n, t in inputs.items()
        }
        y_alone, *last_alone = rf.from_onnx(alone.node)(**part)
        equal((y_alone, *last_alone), (y[:, [index]], *(s[[index]] for s in last)))


def test_the_output_gate_sees_the_new_cell_state():
    inputs = {n: a[:, :1] for n, a in arrays("LSTM", np.random.default_rng(3)).items() if n == "X"}
    inputs |= {"W": np.zeros((1, 4 * HIDDEN, INPUT), np.float32)}
    inputs |= {"R": np.zeros((1, 4 * HIDDEN, HIDDEN), np.float32)}
    inputs |= {"initial_c": np.full((1, 1, HIDDEN), 2.0, np.float32)}
    # P is in the order i, o, f: only o looks
    inputs |= {"P": np.repeat(np.array([0.0, 3.0, 0.0], np.float32), HIDDEN)[None]}
    random = Random(node_of("LSTM", inputs), inputs)
    y, _, y_c = rf.from_onnx(random.node)(**{**random.tensors(), "X": random.tensors()["X"][:1]})
    c = torch.full((1, 1, HIDDEN), 1.0, dtype=torch.float64)  # f = 1/2, and i g = 0
    equal((y[0], y_c), (torch.sigmoid(3 * c) * torch.tanh(c), c))


def test_defaults_are_torchs_modules():
    torch.manual_seed(0)
    x = torch.randn(STEPS, BATCH, INPUT, dtype=torch.float64)
    order = {"LSTM": [0, 3, 1, 2], "GRU": [1, 0, 2], "RNN": [0]}  # ONNX's gates among torch's
    for op, gates in order.items():
        module = getattr(torch.nn, op)(INPUT, HIDDEN, dtype=torch.float64)

        def taken(p: Tensor, gates=gates) -> Tensor:
            parts = p.detach().chunk(len(gates))
            return torch.cat([parts[k] for k in gates])

        weights = {
            "W": taken(module.weight_ih_l0)[None],
            "R": taken(module.weight_hh_l0)[None],
            "B": torch.cat([taken(module.bias_ih_l0), taken(module.bias_hh_l0)])[None],
        }
        names = ["X", "W", "R", "B"]
        proto = node_of(op, dict.fromkeys(names), ("Y",), linear_before_reset=int(op == "GRU"))
        if op != "GRU":
            del proto.attribute[:]
        node = rf.from_onnx(proto, weights)
        expected, _ = module(x)
        equal((node(x)[0].squeeze(1),), (expected,))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("op", OPS)
def test_backends_agree(op, seed):
    random = random_node(seed, op)
    outcomes = []
    for backend in ("reference", "llvm"):
        inputs = {
            n: t.requires_grad_() if t.is_floating_point() else t
            for n, t in random.tensors().items()
        }
        values = rf.from_onnx(random.node, backend=backend)(**inputs)
        torch.stack([(v * v).sum() for v in values]).sum().backward()
        grads = [t.grad for t in inputs.values() if t.is_floating_point()]
        outcomes.append((*values, *grads))
    for mine, meant in zip(*outcomes, strict=True):
        assert_close(mine, meant, rtol=1e-9, atol=1e-10)


# Gradients ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["reference", "llvm"])
@pytest.mark.parametrize("op", OPS)
def test_gradients_of_inputs_and_initializers(op, backend):
    smooth = {
        "RNN": ["Softsign"],
        "GRU": ["Softplus", "ScaledTanh"],
        "LSTM": ["Sigmoid", "Elu", "Tanh"],
    }
    settings = {
        "GRU": {"activation_alpha": [0.8], "activation_beta": [0.9]},
        "LSTM": {"activation_alpha": [0.7]},
    }
    names = smooth[op] * 2
    lists = {k: v * 2 for k, v in settings.get(op, {}).items()}
    random = full(op, "bidirectional", activations=names, **lists, **COUPLED[op])
    weights = [n for n in random.inputs if n in ("W", "R", "B", "P")]
    held = {n: torch.nn.Parameter(t) for n, t in random.tensors().items() if n in weights}
    node = rf.from_onnx(random.node, held, backend=backend)
    assert dict(node.named_parameters()).keys() == held.keys()
    inputs = random.tensors()
    given = [n for n in inputs if n not in (*held, "sequence_lens")]
    arguments = [inputs[n].requires_grad_() for n in given] + list(held.values())

    def run(*values: Tensor) -> tuple[Tensor, ...]:
        own = dict(zip([*given, *held], values, strict=True))
        return node(**own, sequence_lens=inputs["sequence_lens"])

    assert gradcheck(run, arguments)
    # and through the parameters that the node holds, without naming them
    values = node(**{n: inputs[n] for n in [*given, "sequence_lens"]})
    grads = torch.autograd.grad([v.sum() for v in values], list(held.values()))
    again = run(*arguments)
    expected = torch.autograd.grad([v.sum() for v in again], list(held.values()))
    equal(grads, expected)
    assert all(g.abs().sum() > 0 for g in grads)


# What is held, what is given, what comes back ------------------------------------------------------------------------


def test_initializers_are_parameters_and_the_rest_is_given():
    random = full("LSTM", "bidirectional", hidden_size=HIDDEN)
    inputs = random.tensors(torch.float32)
    expected = rf.from_onnx(random.node)(*inputs.values())  # all by position, in the node's order
    model = model_of(random.node, random.inputs, held=("W", "R", "B", "P", "initial_c"))
    node = rf.from_onnx(model)
    assert {n for n, _ in node.named_parameters()} == {"W", "R", "B", "P"}
    assert {n for n, _ in node.named_buffers()} == {"initial_c"}
    given = [inputs[n] for n in ("X", "sequence_lens", "initial_h")]
    equal(node(*given), expected)
    equal(node(given[0], given[1], initial_h=given[2]), expected)
    other = node(*given, initial_c=inputs["initial_c"] + 1)  # what is held can be replaced by name
    assert not torch.equal(other[0], expected[0])
    mixed = rf.from_onnx(random.node, {n: random.inputs[n] for n in ("W", "R", "B", "P")})
    equal(mixed(given[0], given[1], given[2], inputs["initial_c"]), expected)
    proto = {n: numpy_helper.from_array(random.inputs[n]) for n in ("W", "R", "B", "P")}
    equal(
        rf.from_onnx(random.node, proto)(**{n: inputs[n] for n in inputs if n not in proto}),
        expected,
    )


def test_lengths_and_states_may_be_left_out():
    random = full("LSTM")
    inputs = random.tensors()
    weights = {n: inputs[n] for n in ("W", "R", "B", "P")}
    node = rf.from_onnx(random.node, weights)
    zeros = torch.zeros(1, BATCH, HIDDEN, dtype=torch.float64)
    lengths = torch.full((BATCH,), STEPS)
    equal(node(inputs["X"]), node(inputs["X"], lengths, zeros, zeros))
    equal(node(inputs["X"], None, zeros), node(inputs["X"]))


def test_only_named_outputs_come_back():
    inputs = arrays("LSTM", np.random.default_rng(0))
    tensors = Random(node_of("LSTM", inputs), inputs).tensors()
    y, y_h, y_c = rf.from_onnx(node_of("LSTM", inputs))(**tensors)
    for outputs, expected in (
        (("", "Y_h"), (y_h,)),
        (("Y",), (y,)),
        (("", "", "last"), (y_c,)),
        (("a", "", "b"), (y, y_c)),
    ):
        node = rf.from_onnx(node_of("LSTM", inputs, outputs))
        equal(node(**tensors), expected)
        assert len(node.outputs) == len(expected)
    assert node.outputs == ("Y", "Y_c")


def test_names_of_the_graph_work_as_well():
    random = full("GRU")
    inputs = random.tensors()
    names = ["signal", "w", "r", "b", "lens", "first"]
    proto = helper.make_node("GRU", names, ["y", "last"], name="layer_0")
    own = dict(zip(names, inputs.values(), strict=True))
    expected = rf.from_onnx(random.node)(**inputs)
    equal(rf.from_onnx(proto)(**own), expected)
    held = rf.from_onnx(proto, {n: own[n] for n in "wrb"})
    equal(held(signal=own["signal"], sequence_lens=own["lens"], first=own["first"]), expected)
    assert repr(held) == "OnnxNode(GRU, layer_0)"


def test_no_steps_and_no_rows():
    random = full("LSTM", "bidirectional")
    inputs = random.tensors()
    node = rf.from_onnx(random.node)
    y, y_h, y_c = node(
        **{**inputs, "X": inputs["X"][:0], "sequence_lens": torch.zeros(BATCH, dtype=torch.int32)}
    )
    assert y.shape == (0, 2, BATCH, HIDDEN)
    equal((y_h, y_c), (inputs["initial_h"], inputs["initial_c"]))
    none = {n: t[:, :0] if n in ("X", "initial_h", "initial_c") else t for n, t in inputs.items()}
    y, y_h, _ = node(**{**none, "sequence_lens": torch.zeros(0, dtype=torch.int32)})
    assert (y.shape, y_h.shape) == ((STEPS, 2, 0, HIDDEN), (2, 0, HIDDEN))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_runs_on_the_reference(dtype):
    random = full("GRU", "bidirectional")
    number = TensorProto.FLOAT16 if dtype == torch.float16 else TensorProto.BFLOAT16
    held = {
        n: helper.make_tensor(n, number, random.inputs[n].shape, random.inputs[n].ravel())
        for n in ("W", "R", "B")
    }
    node = rf.from_onnx(random.node, held)
    assert all(p.dtype == dtype for p in node.parameters())
    rounded = {n: t.to(dtype) if t.is_floating_point() else t for n, t in random.tensors().items()}
    given = {n: t for n, t in rounded.items() if n not in held}
    expected = rf.from_onnx(random.node)(
        **{n: t.double() if t.is_floating_point() else t for n, t in rounded.items()}
    )
    for mine, meant in zip(node(**given), expected, strict=True):
        assert mine.dtype == dtype
        assert_close(mine.double(), meant, rtol=0.0, atol=8 * torch.finfo(dtype).eps)


def test_a_node_is_a_module_like_others():
    random = full("LSTM")
    inputs = random.tensors()
    weights = {n: inputs.pop(n) for n in ("W", "R", "B", "P")}
    node = rf.from_onnx(random.node, weights)
    expected = node(**inputs)
    for other in (copy.deepcopy(node), pickle.loads(pickle.dumps(node))):
        equal(other(**inputs), expected)
    fresh = rf.from_onnx(random.node, {n: torch.zeros_like(w) for n, w in weights.items()})
    fresh.load_state_dict(node.state_dict())
    equal(fresh(**inputs), expected)
    single = {n: t.float() if t.is_floating_point() else t for n, t in inputs.items()}
    equal(tuple(v.double() for v in node.float()(**single)), expected, 1e-5)


def test_a_node_is_compiled_by_torch_as_one_operator():
    random = full("GRU", "bidirectional", layout=1)
    inputs = random.tensors(torch.float32)
    turned = {n: inputs[n].transpose(0, 1) for n in ("X", "initial_h")}
    weights = {n: inputs[n] for n in ("W", "R", "B")}
    given = (turned["X"], inputs["sequence_lens"], turned["initial_h"])
    whole = torch.compile(rf.from_onnx(random.node, weights), fullgraph=True, backend="aot_eager")
    equal(whole(*given), rf.from_onnx(random.node, weights)(*given), 1e-6)


def test_equations_and_plan_of_a_node_can_be_read():
    node = rf.from_onnx(full("LSTM", clip=0.5).node)
    (cell,) = node.cells
    text = str(rf.explain(cell, "graph"))
    assert "W_i      = W[0:n]" in text
    assert "[R_i; R_f; R_c; R_o] h(t-1)" in str(rf.explain(cell, "plan"))


# Files ----------------------------------------------------------------------------------------------------------------


def two_layers() -> onnx.ModelProto:
    first, second = full("GRU", seed=1), full("GRU", seed=2)
    w = [{n: r.inputs[n] for n in ("W", "R", "B")} for r in (first, second)]
    w[1]["W"] = w[1]["R"]  # it reads what the first gives
    nodes = [
        helper.make_node(
            "GRU", ["x", "W0", "R0", "B0"], ["y0", "last"], name="low", hidden_size=HIDDEN
        ),
        helper.make_node("Squeeze", ["y0", "axes"], ["between"]),
        helper.make_node("GRU", ["between", "W1", "R1", "B1"], ["y1"], hidden_size=HIDDEN),
    ]
    constant = helper.make_node("Constant", [], ["B1"], value=numpy_helper.from_array(w[1]["B"]))
    held = {f"{n}{k}": a for k, weights in enumerate(w) for n, a in weights.items()}
    held |= {"axes": np.array([1])}
    graph = helper.make_graph(
        [constant, *nodes],
        "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [STEPS, None, INPUT])],
        [helper.make_tensor_value_info("y1", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a, n) for n, a in held.items() if n != "B1"],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=10)


def test_a_model_with_two_nodes():
    model = two_layers()
    low, high = rf.from_onnx(model, name="low"), rf.from_onnx(model, name="y1")
    assert [len(list(n.parameters())) for n in (low, high)] == [3, 3]
    x = torch.randn(STEPS, 2, INPUT)
    (y,) = high(low(x)[0].squeeze(1))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (expected,) = session.run(None, {"x": x.numpy()})
    equal((y,), (torch.from_numpy(expected),), 1e-6)


def test_a_file_that_torch_wrote(tmp_path):
    torch.manual_seed(0)
    module = torch.nn.LSTM(INPUT, HIDDEN, bidirectional=True)
    x = torch.randn(STEPS, BATCH, INPUT)
    path = tmp_path / "lstm.onnx"
    with warnings.catch_warnings():
        # torch's exporter that needs no further package is the old one, and warns that it is, of traces and of batches.
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (x,), str(path), dynamo=False, opset_version=17)
    node = rf.from_onnx(path)
    y, h, c = node(x)
    expected, (h_torch, c_torch) = module(x)
    for mine, meant in ((y.transpose(1, 2).flatten(2), expected), (h, h_torch), (c, c_torch)):
        assert_close(mine, meant, rtol=0.0, atol=1e-6)
    assert sum(p.numel() for p in node.parameters()) == sum(p.numel() for p in module.parameters())


def test_old_opsets_mean_the_same():
    random = full("GRU")
    node = random.node
    old = onnx.NodeProto()
    old.CopyFrom(node)
    old.attribute.append(helper.make_attribute("output_sequence", 1))
    equal(rf.from_onnx(old)(**random.tensors()), rf.from_onnx(node)(**random.tensors()))
