"""The activation functions of ONNX's recurrent operators, in the equation language."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from refold.ir import language as rf


@dataclass(frozen=True, slots=True)
class Kind:
    """One of ONNX's activation functions.

    function  of the pre-activation, and of alpha and beta where it has them
    defaults  its settings, by their names, with what each is where a node gives none; None: ONNX names no default
    """

    function: Callable[..., Any]
    defaults: Mapping[str, float | None]


def _affine(x: Any, alpha: float, beta: float) -> Any:
    return alpha * x + beta


def _leaky_relu(x: Any, alpha: float) -> Any:
    return rf.leaky_relu(x, alpha)


def _thresholded_relu(x: Any, alpha: float) -> Any:
    return rf.where(x >= alpha, x, 0.0)


def _scaled_tanh(x: Any, alpha: float, beta: float) -> Any:
    return alpha * rf.tanh(beta * x)


def _hard_sigmoid(x: Any, alpha: float, beta: float) -> Any:
    return rf.clip(alpha * x + beta, 0.0, 1.0)


def _elu(x: Any, alpha: float) -> Any:
    return rf.elu(x, alpha)


# Defaults are those of the operators of the same name. Affine was one (experimental, opset 1) and had these; ScaledTanh
# was one too, without any.
KINDS = {
    "Relu": Kind(rf.relu, {}),
    "Tanh": Kind(rf.tanh, {}),
    "Sigmoid": Kind(rf.sigmoid, {}),
    "Affine": Kind(_affine, {"alpha": 1.0, "beta": 0.0}),
    "LeakyRelu": Kind(_leaky_relu, {"alpha": 0.01}),
    "ThresholdedRelu": Kind(_thresholded_relu, {"alpha": 1.0}),
    "ScaledTanh": Kind(_scaled_tanh, {"alpha": None, "beta": None}),
    "HardSigmoid": Kind(_hard_sigmoid, {"alpha": 0.2, "beta": 0.5}),
    "Elu": Kind(_elu, {"alpha": 1.0}),
    "Softsign": Kind(rf.softsign, {}),
    "Softplus": Kind(rf.softplus, {}),
}


@dataclass(frozen=True, slots=True)
class Activation:
    """An activation function with its settings, and the bound that holds what it reads between -clip and clip."""

    name: str
    settings: tuple[tuple[str, float], ...] = ()
    clip: float | None = None

    def __call__(self, x: Any) -> Any:
        return KINDS[self.name].function(self._held(x), **dict(self.settings))

    def _held(self, x: Any) -> Any:
        return x if self.clip is None else rf.clip(x, -self.clip, self.clip)
