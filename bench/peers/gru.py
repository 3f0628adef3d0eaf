"""torchrecurrent's layers of the GRU family."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from . import Peer
from .lstm import plain

Named = Mapping[str, Tensor]


def with_candidate(p: Named, gates: str) -> dict[str, Tensor]:
    """Gates, and a candidate of W_x, W_h and b behind them."""
    return plain({**p, "new.W_x": p["W_x"], "new.W_h": p["W_h"], "new.b": p["b"]}, [*gates, "new"])


def light(p: Named) -> dict[str, Tensor]:
    """The candidate comes first and does not see the state."""
    return {
        "weight_ih": torch.cat([p["c.W_x"], p["f.W_x"]]),
        "weight_hh": p["f.W_h"],
        "bias_ih": torch.cat([p["c.b"], p["f.b"]]),
        "bias_hh": torch.zeros_like(p["f.b"]),
    }


def mut1(p: Named) -> dict[str, Tensor]:
    """The gate z does not see the state, and x has no bias inside the inner tanh."""
    none = torch.zeros_like(p["b"])
    return {
        "weight_ih": torch.cat([p["z.W_x"], p["r.W_x"], p["W_x"]]),
        "weight_hh": torch.cat([p["r.W_h"], p["W_h"]]),
        "bias_ih": torch.cat([p["z.b"], p["r.b"], none]),
        "bias_hh": torch.cat([none, p["b"]]),
    }


def mut3(p: Named) -> dict[str, Tensor]:
    z = {"z.W_x": p["W_z"], "z.W_h": p["U_z"], "z.b": p["b_z"]}
    return with_candidate({**p, **z}, "zr")


PEERS = {
    "mgu": Peer("MGU", lambda p: with_candidate(p, "f")),
    "li_gru": Peer("LiGRU", lambda p: plain(p, "za")),
    "light_ru": Peer("LightRU", light),
    "mut1": Peer("MUT1", mut1),
    "mut2": Peer("MUT2", lambda p: with_candidate(p, "zr")),
    "mut3": Peer("MUT3", mut3),
    "t_gru": Peer("TGRU", lambda p: plain(p, "zfo", "p")),
    "mi_ru1": Peer("MiRU1", lambda p: with_candidate(p, "r")),
    "mi_ru2": Peer("MiRU2", lambda p: with_candidate(p, "")),
}
