"""torchrecurrent's layers of the vanilla family."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from . import Peer

Named = Mapping[str, Tensor]


def one(w_x: Tensor, w_h: Tensor, b: Tensor) -> dict[str, Tensor]:
    """One product with x, one with h and one bias; the peers' second one is not needed."""
    return {"weight_ih": w_x, "weight_hh": w_h, "bias_ih": b, "bias_hh": torch.zeros_like(b)}


def independent(p: Named) -> dict[str, Tensor]:
    none = torch.zeros_like(p["b"])
    return {"weight_ih": p["W"], "vector_u": p["u"], "bias_ih": p["b"], "bias_hh": none}


def antisymmetric_gated(p: Named) -> dict[str, Tensor]:
    """The gate comes first; the bias of the state is the candidate's alone."""
    return {
        "weight_ih": torch.cat([p["V_z"], p["V_h"]]),
        "weight_hh": p["W"],
        "bias_ih": torch.cat([p["b_z"], p["b_h"]]),
        "bias_hh": torch.zeros_like(p["b_h"]),
    }


def context(p: Named) -> dict[str, Tensor]:
    """As far as it goes: the peer's second half of weights is a read-out, here the sum of its two arguments."""
    n = len(p["R"])
    one = torch.eye(n, dtype=p["R"].dtype)
    none = p["R"].new_zeros(2 * n)
    return {
        "alpha": p["R"].new_tensor(0.95),
        "weight_ih": torch.cat([p["B"], p["A"]]),
        "weight_hh": torch.cat([p["R"], one]),
        "weight_ch": torch.cat([p["P"], one]),
        "bias_ih": none,
        "bias_hh": none,
        "bias_ch": none,
    }


def fast(p: Named) -> dict[str, Tensor]:
    weights = one(p["W"], p["U"], p["b"])
    return weights | {"alpha": p["alpha"].reshape(1), "beta": p["beta"].reshape(1)}


def fast_gated(p: Named) -> dict[str, Tensor]:
    weights = one(p["W"], p["U"], torch.cat([p["b_z"], p["b_h"]]))
    return weights | {"zeta": p["zeta"].reshape(1), "nu": p["nu"].reshape(1)}


def typed(p: Named) -> dict[str, Tensor]:
    """The paper's candidate has no bias."""
    bias = torch.cat([torch.zeros_like(p["b"]), p["b"]])
    return {"weight_ih": torch.cat([p["W"], p["V"]]), "bias_ih": bias}


DAMPED = {"epsilon": 0.01, "gamma": 0.01}

PEERS = {
    "indrnn": Peer("IndRNN", independent, settings={"nonlinearity": "relu"}),
    "antisymmetric": Peer(
        "AntisymmetricRNN", lambda p: one(p["V"], p["W"], p["b"]), settings=DAMPED
    ),
    "antisymmetric_gated": Peer("GatedAntisymmetricRNN", antisymmetric_gated, settings=DAMPED),
    "scrn": Peer(
        "SCRN",
        context,
        settings={"alpha": 0.95},
        departs="torchrecurrent feeds tanh of the read-out back in the place of h, and learns alpha; in the paper "
        "the hidden layer feeds itself, the read-out feeds nothing, and alpha is fixed.",
        sizes={"k": 8},
    ),
    "fast_rnn": Peer("FastRNN", fast),
    # Its gate is a tanh unless told otherwise; the paper's is a sigmoid.
    "fast_grnn": Peer("FastGRNN", fast_gated, settings={"nonlinearity": "sigmoid"}),
    "t_rnn": Peer("TRNN", typed),
}
