"""torchrecurrent's oscillators and flows."""

from __future__ import annotations

import torch
from torch import Tensor

from . import Peer
from .lstm import Named, plain, stacked


def expressive(p: Named) -> dict[str, Tensor]:
    """The peer's first gate is y's, its second is z's."""
    bias = stacked(p, "bacd", "b")
    return {
        "weight_ih": stacked(p, "bacd", "W_x"),
        "weight_hh": stacked(p, "bac", "W_y"),
        "weight_ch": p["d.W_z"],
        "bias_ih": bias,
        "bias_hh": torch.zeros_like(stacked(p, "bac", "b")),
        "bias_ch": torch.zeros_like(p["d.b"]),
    }


def coupled(p: Named) -> dict[str, Tensor]:
    """One bias of three is needed."""
    none = torch.zeros_like(p["b"])
    return {
        "weight_ih": p["V"],
        "weight_hh": p["W"],
        "weight_ch": p["U"],
        "bias_ih": p["b"],
        "bias_hh": none,
        "bias_ch": none,
    }


def undamped(p: Named) -> dict[str, Tensor]:
    """One bias of two is needed."""
    return {
        "weight_ih": p["V"],
        "weight_hh": p["w"],
        "weight_ch": p["c"],
        "bias_ih": p["b"],
        "bias_hh": torch.zeros_like(p["b"]),
    }


def delayed(p: Named) -> dict[str, Tensor]:
    """The gates in the order u, z, g, a."""
    z = {"z.W_x": p["U_z"], "z.W_h": p["W_z"], "z.b": p["b_z"]}
    return plain({**p, **z}, "uzga")


PEERS = {
    "lem": Peer(
        "LEM",
        expressive,
        departs="torchrecurrent's y reads the old z; in the paper's equation 3 it reads the new one.",
    ),
    "cornn": Peer("coRNN", coupled, settings={"dt": 0.042, "gamma": 2.7, "epsilon": 4.7}),
    "unicornn": Peer("UnICORNN", undamped, settings={"dt": 0.19, "alpha": 30.65}),
    "tau_gru": Peer("tauGRU", delayed, settings={"delay": 10}),
}
