"""Random recurrent nodes of ONNX with random inputs, all from one seed, and how onnxruntime runs them."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
FUNCTIONS = {"RNN": 1, "GRU": 2, "LSTM": 3}
INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
OUTPUTS = {"RNN": ("Y", "Y_h"), "GRU": ("Y", "Y_h"), "LSTM": ("Y", "Y_h", "Y_c")}
# Each activation with the settings that it takes: alphas and betas are far from every default.
SETTINGS = {
    "Relu": 0,
    "Tanh": 0,
    "Sigmoid": 0,
    "Softsign": 0,
    "Softplus": 0,
    "LeakyRelu": 1,
    "ThresholdedRelu": 1,
    "Elu": 1,
    "Affine": 2,
    "ScaledTanh": 2,
    "HardSigmoid": 2,
}
STEPS, BATCH, INPUT, HIDDEN = 4, 3, 2, 3


@dataclass(frozen=True)
class Random:
    """A node and its inputs by the operator's names; None: the node does not have it."""

    node: onnx.NodeProto
    inputs: dict[str, np.ndarray]

    @property
    def described(self) -> str:
        found = {a.name: helper.get_attribute_value(a) for a in self.node.attribute}
        return f"{self.node.op_type} {found} {list(self.node.input)}"

    def tensors(self, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
        """The inputs as torch tensors, the real ones in `dtype`."""
        made = {name: torch.from_numpy(a.copy()) for name, a in self.inputs.items()}
        return {n: t.to(dtype) if t.is_floating_point() else t for n, t in made.items()}


def node_of(
    op: str, inputs: Mapping[str, object], outputs: tuple[str, ...] = (), **attributes: Any
) -> onnx.NodeProto:
    """A node that has these inputs under the operator's names, and all outputs or those named."""
    last = max(INPUTS.index(name) for name in inputs)
    names = [name if name in inputs else "" for name in INPUTS[: last + 1]]
    return helper.make_node(op, names, list(outputs or OUTPUTS[op]), **attributes)


def arrays(op: str, rng: np.random.Generator, directions: int = 1) -> dict[str, np.ndarray]:
    """All inputs that a node of an operator can have."""
    rows = GATES[op] * HIDDEN

    def noise(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    found = {
        "X": noise(STEPS, BATCH, INPUT),
        "W": noise(directions, rows, INPUT),
        "R": noise(directions, rows, HIDDEN) / 2,
        "B": noise(directions, 2 * rows) / 2,
        "sequence_lens": rng.permutation([STEPS, 1, 2]).astype(np.int32),
        "initial_h": noise(directions, BATCH, HIDDEN),
    }
    if op == "LSTM":
        found["initial_c"] = noise(directions, BATCH, HIDDEN)
        found["P"] = noise(directions, 3 * HIDDEN) / 2
    return found


def random_node(seed: int, op: str) -> Random:
    """Any attribute and any optional input, each with even odds."""
    dice, rng = random.Random(seed), np.random.default_rng(seed)
    attributes: dict[str, Any] = {"direction": dice.choice(["forward", "reverse", "bidirectional"])}
    directions = 1 + (attributes["direction"] == "bidirectional")
    inputs = arrays(op, rng, directions)
    for name in ("B", "sequence_lens", "initial_h", "initial_c", "P"):
        if name in inputs and dice.random() < 0.5:
            del inputs[name]
    if dice.random() < 0.8:
        names = dice.choices(list(SETTINGS), k=FUNCTIONS[op] * directions)
        attributes["activations"] = names
        alphas = [dice.uniform(0.3, 0.8) for n in names if SETTINGS[n] > 0]
        betas = [dice.uniform(-0.9, 0.9) for n in names if SETTINGS[n] > 1]
        attributes |= {"activation_alpha": alphas} if alphas else {}
        attributes |= {"activation_beta": betas} if betas else {}
    if dice.random() < 0.5:
        attributes["clip"] = dice.uniform(0.2, 1.5)
    if dice.random() < 0.5:
        attributes["hidden_size"] = HIDDEN
    coupled = {"GRU": "linear_before_reset", "LSTM": "input_forget"}.get(op)
    if coupled and dice.random() < 0.5:
        attributes[coupled] = 1
    return Random(node_of(op, inputs, **attributes), inputs)


def model_of(
    node: onnx.NodeProto, inputs: dict[str, np.ndarray], held: tuple[str, ...] = (), opset: int = 22
) -> onnx.ModelProto:
    """A model of that one node; inputs in `held` are initializers."""
    types = {np.dtype(np.int32): TensorProto.INT32, np.dtype(np.float32): TensorProto.FLOAT}
    types[np.dtype(np.float64)] = TensorProto.DOUBLE
    given = [
        helper.make_tensor_value_info(name, types[a.dtype], a.shape)
        for name, a in inputs.items()
        if name not in held
    ]
    kind = types[inputs["X"].dtype]
    given_out = [helper.make_tensor_value_info(name, kind, None) for name in node.output if name]
    initializers = [onnx.numpy_helper.from_array(inputs[name], name) for name in held]
    graph = helper.make_graph([node], "one", given, given_out, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
