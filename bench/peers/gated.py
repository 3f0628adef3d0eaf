"""torchrecurrent's layers of the other gated units."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from . import Peer
from .lstm import plain

Named = Mapping[str, Tensor]


def joined(
    w_x: list[Tensor], w_h: list[Tensor], b_x: list[Tensor], b_h: list[Tensor]
) -> dict[str, Tensor]:
    """Parts one below the other, under the peers' names."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return dict(zip(names, map(torch.cat, (w_x, w_h, b_x, b_h)), strict=True))


def chaos_free(p: Named) -> dict[str, Tensor]:
    b = [p["theta.b"], p["eta.b"]]
    none = torch.zeros_like(b[0])
    w_x = [p["theta.W_x"], p["eta.W_x"], p["W"]]
    return joined(w_x, [p["theta.W_h"], p["eta.W_h"]], [*b, none], [none, none])


def additive(p: Named) -> dict[str, Tensor]:
    b = [p["i.b"], p["f.b"]]
    none = torch.zeros_like(b[0])
    w_x = [p["W_c"], p["i.W_x"], p["f.W_x"]]
    return joined(w_x, [p["i.W_h"], p["f.W_h"]], b, [none, none])


def star(p: Named) -> dict[str, Tensor]:
    none = torch.zeros_like(p["k.b"])
    return joined([p["z.W_x"], p["k.W_x"]], [p["k.W_h"]], [p["z.b"], p["k.b"]], [none])


def twin(p: Named) -> dict[str, Tensor]:
    """No biases, as in the paper's equations."""
    none = p["U"].new_zeros(len(p["U"]))
    return joined([p["W"]], [p["U"]], [none], [none])


def bistable(p: Named, feedback: str) -> dict[str, Tensor]:
    """No biases, as in the paper's equations."""
    none = p["U"].new_zeros(len(p["U"]))
    w_h = [p[f"{feedback}_a"], p[f"{feedback}_c"]]
    return joined([p["U_a"], p["U_c"], p["U"]], w_h, [none] * 3, [none] * 2)


def minimal(p: Named) -> dict[str, Tensor]:
    weights = joined([p["W"]], [p["U_h"]], [p["b"]], [p["b_u"]])
    return weights | {"weight_mm": p["U_z"]}


def simple(p: Named) -> dict[str, Tensor]:
    """The product with the gated state has no bias in the paper."""
    none = torch.zeros_like(p["b_g"])
    return joined([p["W_g"], p["z.W_x"]], [p["U_g"], p["z.W_h"]], [p["b_g"], p["z.b"]], [none] * 2)


def simple_gated(p: Named) -> dict[str, Tensor]:
    """The bias of the state is the gate's alone, that of the input would be the candidate's, too."""
    return joined([p["W"]], [p["U"]], [torch.zeros_like(p["b"])], [p["b"]])


PEERS = {
    "ugrnn": Peer("UGRNN", lambda p: plain(p, "cg")),
    "intersection": Peer(
        "IntersectionRNN", lambda p: plain(p, ["a", "c", "g_y", "g_h"]), square=True
    ),
    "cfn": Peer("CFN", chaos_free),
    "ran": Peer("RAN", additive),
    "star": Peer("STAR", star),
    "atr": Peer("ATR", twin),
    "br": Peer("BR", lambda p: bistable(p, "w")),
    "nbr": Peer("NBR", lambda p: bistable(p, "W")),
    "minimal_rnn": Peer("MinimalRNN", minimal),
    "sgu": Peer("SGU", simple),
    "dsgu": Peer("DSGU", lambda p: simple(p) | {"weight_ho": p["U_o"]}),
    "sgrn": Peer("SGRN", simple_gated),
}
