"""Random nodes against onnxruntime, and where onnxruntime departs from ONNX's specification.

h of an LSTM      "clip ... is applied to the input of activations", and C is the input of h; onnxruntime leaves it
                  as it is. Everything else is compared by taking the bound from h
hidden_size       optional; onnxruntime refuses a node without it
defaults          "the same as of corresponding ONNX operators", which for ThresholdedRelu is alpha = 1, and was
                  alpha = 1, beta = 0 for Affine: in onnxruntime all are 0
a row of length 0 its Y_h and Y_c are 0 there; ONNX does not say; here such a row keeps its initial state
layout 1, float64 are refused there
"""

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx_nodes import HIDDEN, Random, arrays, model_of, node_of, random_node
from torch import Tensor

import refold as rf
from refold.export.from_onnx import OnnxNode
from refold.export.node import read

onnxruntime.set_default_logger_severity(4)  # what it refuses, it also prints
MANY = 90
LARGE = 1e4  # some random nodes grow without bound, and float32 ends before float64


def theirs(random: Random, opset: int = 22) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    node = onnx.NodeProto()
    node.CopyFrom(random.node)
    if all(a.name != "hidden_size" for a in node.attribute):
        node.attribute.append(onnx.helper.make_attribute("hidden_size", HIDDEN))
    model = model_of(node, random.inputs, opset=opset).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, random.inputs))


def as_they_read_it(random: Random, backend: str) -> OnnxNode:
    """The node, without the bound on what h of an LSTM reads."""
    node = read(random.node)
    if node.op == "LSTM":
        free = [replace(s.activations[2], clip=None) for s in node.settings]
        settings = [
            replace(s, activations=(*s.activations[:2], h))
            for s, h in zip(node.settings, free, strict=True)
        ]
        node = replace(node, settings=tuple(settings))
    return OnnxNode(node, {}, backend)


def agree(mine: tuple[Tensor, ...], outputs: list[np.ndarray], what: str) -> None:
    assert len(mine) == len(outputs)
    for a, b in zip(mine, outputs, strict=True):
        scale = max(1.0, float(a.abs().max()))
        expected = torch.from_numpy(b).to(a.dtype)
        torch.testing.assert_close(
            a, expected, rtol=0.0, atol=1e-5 * scale, msg=lambda m: f"{what}: {m}"
        )


@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_random_nodes(op):
    compared = 0
    for seed in range(MANY):
        random = random_node(seed, op)
        mine = as_they_read_it(random, "reference")(**random.tensors())
        if max(float(v.abs().max()) for v in mine) < LARGE:
            agree(mine, theirs(random, (7, 14, 21, 22)[seed % 4]), f"{seed}, {random.described}")
            compared += 1
    assert compared >= 0.9 * MANY


@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("seed", range(100, 104))
def test_random_nodes_compiled(op, seed):
    random = random_node(seed, op)
    mine = as_they_read_it(random, "llvm")(**random.tensors(torch.float32))
    agree(mine, theirs(random), random.described)


def test_clip_bounds_what_h_reads():
    inputs = arrays("LSTM", np.random.default_rng(0))
    inputs = {name: inputs[name] for name in ("X", "W", "R", "initial_c")}
    inputs["initial_c"] = inputs["initial_c"] + 9
    random = Random(node_of("LSTM", inputs, clip=0.5, activations=["Sigmoid", "Tanh", "Affine"],
                            activation_alpha=[1.0], activation_beta=[0.0]), inputs)  # fmt: skip
    y = rf.from_onnx(random.node)(**random.tensors())[0]
    assert float(y.abs().max()) <= 0.5  # h is the identity: |o h(C)| <= clip
    assert float(np.abs(theirs(random)[0]).max()) > 1
    agree(as_they_read_it(random, "reference")(**random.tensors()), theirs(random), "h unbounded")


@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_rows_of_length_zero(op):
    inputs = arrays(op, np.random.default_rng(0))
    inputs["sequence_lens"][:] = [4, 0, 2]
    random = Random(node_of(op, inputs), inputs)
    y, *last = rf.from_onnx(random.node)(**random.tensors())
    y_ort, *last_ort = theirs(random)
    agree((y,), [y_ort], op)
    assert (y[:, :, 1] == 0).all()
    for mine, other, name in zip(last, last_ort, ("initial_h", "initial_c"), strict=False):
        agree((mine[:, [0, 2]],), [other[:, [0, 2]]], name)
        assert (other[:, 1] == 0).all()
        torch.testing.assert_close(mine[:, 1], random.tensors()[name][:, 1])


@pytest.mark.parametrize("name", ["LeakyRelu", "Elu", "HardSigmoid", "ThresholdedRelu", "Affine"])
def test_defaults_of_activations(name):
    inputs = arrays("RNN", np.random.default_rng(1))
    inputs = {n: inputs[n] for n in ("X", "W", "R")}
    random = Random(node_of("RNN", inputs, activations=[name]), inputs)
    (y, _), (y_ort, _) = rf.from_onnx(random.node)(**random.tensors()), theirs(random)
    if name not in ("ThresholdedRelu", "Affine"):
        agree((y,), [y_ort], name)
        return
    said = node_of("RNN", inputs, activations=[name], activation_alpha=[1.0])
    if name == "Affine":
        said.attribute.append(onnx.helper.make_attribute("activation_beta", [0.0]))
    agree((y,), [theirs(Random(said, inputs))[0]], name)
    assert np.abs(y.numpy() - y_ort).max() > 0.1
