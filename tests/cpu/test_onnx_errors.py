"""What from_onnx refuses, and what it says."""

import sys
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from onnx_nodes import BATCH, HIDDEN, STEPS, Random, arrays, model_of, node_of
from torch import Tensor

import refold as rf


def bare(op: str = "RNN", **attributes) -> onnx.NodeProto:
    return helper.make_node(op, ["X", "W", "R"], ["Y", "Y_h"], name="one", **attributes)


def tensors(op: str = "RNN", *names: str) -> dict[str, Tensor]:
    inputs = arrays(op, np.random.default_rng(0))
    found = Random(node_of(op, inputs), inputs).tensors(torch.float32)
    return {n: found[n] for n in ("X", "W", "R", *names)}


def strange_type() -> onnx.NodeProto:
    node = bare()
    node.attribute.append(helper.make_attribute("clip", 3))
    return node


EQUATIONS = {
    "operator": (helper.make_node("Gemm", ["a", "b"], ["c"]), "the node's operator is Gemm."),
    "domain": (
        helper.make_node("LSTM", ["a", "b", "c"], ["d"], domain="com.example"),
        "the node's operator is LSTM of domain com.example.",
    ),
    "direction": (bare(direction="sideways"), 'direction is "sideways".'),
    "layout": (bare(layout=2), "layout is 2."),
    "hidden_size": (bare(hidden_size=0), "hidden_size is 0."),
    "clip": (bare(clip=-1.0), "clip is -1.0."),
    "attribute": (bare(input_forget=1), "RNN has no attribute input_forget."),
    "type": (strange_type(), "attribute clip is of ONNX's type 2, and must be a number."),
    "activation": (bare(activations=["Mish"]), 'there is no activation function "Mish".'),
    "too few": (
        bare("LSTM", activations=["Tanh"], direction="bidirectional"),
        "activations has 1 names, Tanh; 3 for each of 2 directions are 6.",
    ),
    "no default": (
        bare(activations=["ScaledTanh"], activation_alpha=[1.0]),
        "ScaledTanh has no beta: activation_beta is used up, and ONNX names no default.",
    ),
    "surplus": (
        bare(activations=["LeakyRelu"], activation_alpha=[0.1, 0.2]),
        "activation_alpha has 1 numbers more than LeakyRelu take.",
    ),
    "many inputs": (
        helper.make_node("RNN", list("abcdefg"), ["y"]),
        "the node has 7 inputs, and RNN reads 6.",
    ),
    "no R": (helper.make_node("RNN", ["a", "b"], ["y"]), "the node has no input R."),
}


@pytest.mark.parametrize("case", EQUATIONS)
def test_a_node_that_cannot_be(case):
    node, fact = EQUATIONS[case]
    with pytest.raises(rf.EquationError) as caught:
        rf.from_onnx(node)
    assert caught.value.fact == fact
    assert caught.value.remedy
    assert node.op_type in caught.value.where


def refused(node: onnx.NodeProto, initializers: Any = None, /, *given, **named) -> str:
    with pytest.raises(rf.KernelError) as caught:
        rf.from_onnx(node, initializers)(*given, **named)
    assert caught.value.remedy
    return f"{caught.value.where}: {caught.value.fact}"


HERE = "in node 'one' (RNN): "


def test_missing_and_strange_inputs():
    t = tensors()
    x, w, r = t.values()
    assert (
        refused(bare(), None, x)
        == HERE + "the node reads W (here 'W'), and it is neither held nor given."
    )
    assert (
        refused(bare(), {"W": w, "R": r})
        == HERE + "the node reads X (here 'X'), and it is neither held nor given."
    )
    assert refused(bare(), {"w": w}) == HERE + "the node has no input w."
    assert (
        refused(bare(), t, x, x)
        == HERE + "2 inputs came in by position, and the node leaves 1 open."
    )
    assert refused(bare(), t, x, X=x) == HERE + "X came in twice."
    assert refused(bare(), t, x, lens=x) == HERE + "the node has no input lens."
    assert refused(bare(), t, [1.0]) == HERE + "X is a list."
    assert refused(bare(), {"W": "W"}, x) == HERE + "W is a str."


def test_sizes_that_do_not_fit():
    x, w, r = tensors().values()
    assert (
        refused(bare(hidden_size=4), {"R": r})
        == HERE + "R is (1, 3, 3), and (1, 4, 4) is expected."
    )
    assert (
        refused(bare(direction="bidirectional"), {"R": r})
        == HERE + "R is (1, 3, 3), and (2, 3, 3) is expected."
    )
    assert (
        refused(bare(), {"W": w[:, :2], "R": r})
        == HERE + "W is (1, 2, 2), and (1, 3, input) is expected."
    )
    assert (
        refused(bare("GRU"), {"R": r})
        == "in node 'one' (GRU): R is (1, 3, 3), and (1, 9, 3) is expected."
    )
    assert (
        refused(bare(), {"W": w, "R": r}, x[0])
        == HERE + "X is (3, 2), and (steps, batch, 2) is expected."
    )
    assert (
        refused(bare(), {"W": w, "R": r}, x[..., :1])
        == HERE + "X is (4, 3, 1), and (steps, batch, 2) is expected."
    )


def test_states_biases_and_lengths_that_do_not_fit():
    inputs = tensors("LSTM", "B", "P", "initial_h", "initial_c", "sequence_lens")
    node = node_of("LSTM", arrays("LSTM", np.random.default_rng(0)))
    where = "in a node LSTM: "

    def with_(**changed: Tensor) -> str:
        return refused(node, None, **{**inputs, **changed})

    assert with_(B=inputs["B"][:, :5]) == where + "B is (1, 5), and (1, 24) is expected."
    assert with_(P=inputs["P"][0]) == where + "P is (9,), and (1, 9) is expected."
    wide = torch.zeros(1, BATCH + 1, HIDDEN)
    assert with_(initial_h=wide) == where + "initial_h is (1, 4, 3), and (1, 3, 3) is expected."
    assert with_(initial_c=wide) == where + "initial_c is (1, 4, 3), and (1, 3, 3) is expected."
    lengths = inputs["sequence_lens"]
    assert (
        with_(sequence_lens=lengths[:2]) == where + "sequence_lens is (2,), and (3,) is expected."
    )
    assert with_(sequence_lens=lengths + STEPS).endswith(
        "sequence_lens hold 6, and there are 4 steps."
    )
    assert with_(sequence_lens=lengths / 1).endswith(
        "sequence_lens are torch.float32, and must be whole numbers."
    )


def test_dtypes_and_devices_that_differ():
    x, w, r = tensors().values()
    held = {"W": w, "R": r}
    assert refused(bare(), held, x.double()) == HERE + "X is torch.float64, and W is torch.float32."
    assert refused(bare(), held, x.long()) == HERE + "X is torch.int64."
    assert refused(bare(), {"W": w.int()}) == HERE + "W is torch.int32."
    assert refused(bare(), held, x.to("meta")) == HERE + "X is on meta, and W is on cpu."


def test_a_backend_that_cannot_run():
    x, w, r = tensors().values()
    half = {"W": w.half(), "R": r.half()}
    with pytest.raises(rf.KernelError, match="the compiler knows float32 and float64, not float16"):
        rf.from_onnx(bare(), half, backend="llvm")(x.half())
    with pytest.raises(rf.KernelError, match='there is no backend "fast"'):
        rf.from_onnx(bare(), {"W": w, "R": r}, backend="fast")(x)


# Sources --------------------------------------------------------------------------------------------------------------


def unfound(source: object, **settings) -> str:
    with pytest.raises(rf.DataError) as caught:
        rf.from_onnx(source, **settings)
    assert caught.value.remedy
    return caught.value.fact


def test_models_without_such_a_node():
    model = model_of(helper.make_node("Relu", ["X"], ["Y"]), {"X": np.zeros((1, 1, 1), np.float32)})
    assert unfound(model) == "the graph 'one' has no node RNN, GRU, LSTM."
    assert unfound({"W": 1}) == "source is a dict."


def test_which_of_several_nodes():
    inputs = {
        n: a for n, a in arrays("RNN", np.random.default_rng(0)).items() if n in ("X", "W", "R")
    }
    model = model_of(bare(), inputs)
    model.graph.node.append(helper.make_node("RNN", ["X", "W", "R"], ["other"]))
    nodes = "the graph 'one' has the recurrent nodes one, other, and "
    assert unfound(model) == nodes + "no name says which."
    assert unfound(model, name="third") == nodes + "none is called 'third'."
    assert rf.from_onnx(model, name="other").outputs == ("Y",)
    assert rf.from_onnx(model, name="Y_h").outputs == ("Y", "Y_h")


def test_files(tmp_path):
    assert unfound(tmp_path / "no.onnx") == f"there is no file {tmp_path / 'no.onnx'}."
    (tmp_path / "bad.onnx").write_text("no model")
    assert unfound(str(tmp_path / "bad.onnx")).startswith(
        f"{tmp_path / 'bad.onnx'} cannot be read as ONNX: "
    )


def test_without_the_package(tmp_path, monkeypatch):
    inputs = arrays("RNN", np.random.default_rng(0))
    proto = {n: numpy_helper.from_array(inputs[n]) for n in ("W", "R")}
    monkeypatch.setitem(sys.modules, "onnx", None)
    for call in (
        lambda: rf.from_onnx(tmp_path / "model.onnx"),
        lambda: rf.from_onnx(bare_made, proto),
    ):
        with pytest.raises(rf.KernelError, match=r"pip install 'refold\[onnx\]'"):
            call()
    held = rf.from_onnx(bare_made, {n: inputs[n] for n in ("W", "R")})  # arrays do without it
    assert [tuple(p.shape) for p in held.parameters()] == [inputs["W"].shape, inputs["R"].shape]


bare_made = bare()
