"""The reservoir of an echo state network, on vectors. `p` has its fixed weights, too."""

from cases import Case
from oracle import Parameters, States
from torch import Tensor, tanh


def esn(
    p: Parameters,
    x: Tensor,
    states: States,
    alpha: float = 1.0,
    rho: float = 0.9,
    sigma: float = 1.0,
    beta: float = 0.1,
) -> tuple[Tensor, States]:
    """Jaeger et al. 2007: leaky units, with scales for the recurrent weights, the input's and the bias."""
    (h,) = states
    new = tanh(sigma * (p["W_in"] @ x) + rho * (p["W"] @ h) + beta * p["b"])
    h = (1 - alpha) * h + alpha * new
    return h, (h,)


CASES = {"esn": Case("esn", esn)}
