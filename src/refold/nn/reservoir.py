"""Echo state networks: a recurrence that stays as it is drawn, and a linear read-out that is solved for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from refold.errors import DataError
from refold.ir.trace import Cell

from .doors import Lengths
from .layer import Recurrent, State


class EchoState(nn.Module):
    """A recurrent layer whose weights stay as they are drawn, and a read-out by ridge regression.

    y(t) = W_out [1; x(t); h(t)]: the read-out sees the layer's output, its input and a constant.

    Arguments
        input_size, hidden_size  of the layer
        cell      "esn", or any other cell of the zoo
        ridge     the penalty on the squares of W_out
        washout   the first steps of each sequence that are not fitted: the state still knows where it began
        settings  everything else that rf.Recurrent takes: rho=0.95, alpha=0.3, backend="llvm", dtype=...

    Shapes   x (T, B, input_size) or (T, input_size), the target (T, B, k) or (T, k); lengths as for rf.Recurrent
    Errors   DataError: no step is left after the washout, shapes that do not fit, a read-out that was not fitted
    Source   Jaeger 2001, The echo state approach; Lukosevicius 2012, A practical guide, equation 9
    Example
        net = EchoState(1, 300, rho=0.95).fit(series[:-1], series[1:])
        following = net.free_run(series, steps=50)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        cell: Cell | str = "esn",
        *,
        ridge: float = 1e-6,
        washout: int = 100,
        **settings: Any,
    ):
        super().__init__()
        if not ridge >= 0:
            raise DataError(f"ridge is {ridge!r}", "pass ridge=1e-6, say", "EchoState")
        if not isinstance(washout, int) or washout < 0:
            raise DataError(f"washout is {washout!r}", "pass a number of steps", "EchoState")
        self.ridge, self.washout = ridge, washout
        self.layer = Recurrent(cell, input_size, hidden_size, **settings)
        for parameter in self.layer.parameters():  # those of another cell
            parameter.requires_grad_(False)
        self.register_buffer("weight", None)

    weight: Tensor | None

    @torch.no_grad()
    def fit(self, x: Tensor, target: Tensor, lengths: Lengths = None) -> EchoState:
        """Solve for the read-out, in double precision, over all steps of all sequences after the washout."""
        features, _ = self._features(x, None, lengths)
        if target.shape[:-1] != features.shape[:-1] or target.ndim != features.ndim:
            raise DataError(
                f"the target is {tuple(target.shape)}, and x is {tuple(x.shape)}",
                "give one vector of targets for each step of x",
                "EchoState.fit",
            )
        counted = self._counted(features, lengths)
        rows, wanted = features[counted].double(), target[counted].double()
        if not len(rows):
            raise DataError(
                f"no step is left after a washout of {self.washout}",
                "give longer sequences, or EchoState(..., washout=10)",
                "EchoState.fit",
            )
        # Ridge regression is least squares with a row of sqrt(ridge) for each weight and targets of 0: unlike the
        # normal equations, this does not square the condition number.
        size = rows.shape[1]
        penalty = self.ridge**0.5 * torch.eye(size, dtype=rows.dtype, device=rows.device)
        system = torch.cat([rows, penalty]).cpu()
        answers = torch.cat([wanted, wanted.new_zeros(size, wanted.shape[1])]).cpu()
        solved = torch.linalg.lstsq(system, answers, driver="gelsd").solution
        self.weight = solved.T.to(features)
        return self

    def forward(
        self, x: Tensor, state: State | None = None, lengths: Lengths = None
    ) -> tuple[Tensor, State]:
        """(y, the final states), y past a row's length what the read-out makes of zeros: its constant."""
        features, final = self._features(x, state, lengths)
        return features @ self._fitted().T, final

    @torch.no_grad()
    def predict(self, x: Tensor, state: State | None = None, lengths: Lengths = None) -> Tensor:
        """The output at every step of x."""
        return self(x, state, lengths)[0]

    @torch.no_grad()
    def free_run(self, x: Tensor, steps: int, state: State | None = None) -> Tensor:
        """The steps that follow x: each output is the next input.

        Shapes  x (T, B, k) with T of at least 1; (steps, B, k) comes back
        """
        y, state = self(x, state)
        if y.shape[-1] != x.shape[-1]:
            raise DataError(
                f"an output has {y.shape[-1]} numbers and an input {x.shape[-1]}",
                "fit the network to predict its own next input",
                "EchoState.free_run",
            )
        found = [y[-1:]]
        for _ in range(steps - 1):
            y, state = self(found[-1], state)
            found.append(y)
        return torch.cat(found)

    def _features(self, x: Tensor, state: State | None, lengths: Lengths) -> tuple[Tensor, State]:
        """[1; x; h] at every step."""
        h, final = self.layer(x, state, lengths)
        return torch.cat([torch.ones_like(h[..., :1]), x.to(h), h], -1), final

    def _counted(self, features: Tensor, lengths: Lengths) -> Tensor:
        """True for the steps that are fitted."""
        t = torch.arange(len(features), device=features.device)
        if features.ndim == 2 or lengths is None:
            late = t >= self.washout
            return late if features.ndim == 2 else late[:, None].expand(features.shape[:2])
        ends = torch.as_tensor(lengths, device=features.device)
        return (t[:, None] >= self.washout) & (t[:, None] < ends)

    def _fitted(self) -> Tensor:
        if self.weight is None:
            raise DataError(
                "the read-out was not fitted", "call .fit(x, target) first", "EchoState"
            )
        return self.weight

    def extra_repr(self) -> str:
        return f"ridge={self.ridge:g}, washout={self.washout}"
