"""torchrecurrent's layers of the LSTM family."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from . import Peer

Named = Mapping[str, Tensor]


def stacked(p: Named, gates: Iterable[str], part: str) -> Tensor:
    """One part of several gates, one below the other."""
    return torch.cat([p[f"{gate}.{part}"] for gate in gates])


def plain(p: Named, gates: Iterable[str], state: str = "h") -> dict[str, Tensor]:
    """Weights and biases of gates that read x and a state; the peers' second bias is not needed."""
    bias = stacked(p, gates, "b")
    return {
        "weight_ih": stacked(p, gates, "W_x"),
        "weight_hh": stacked(p, gates, f"W_{state}"),
        "bias_ih": bias,
        "bias_hh": torch.zeros_like(bias),
    }


def peepholes(p: Named) -> dict[str, Tensor]:
    """The peepholes' three vectors as one."""
    return {"weight_ph": torch.cat([p["p_i"], p["p_f"], p["p_o"]])}


def halved(p: Named) -> dict[str, Tensor]:
    """The paper's squashing functions are 2 tanh(x / 2) and tanh(x / 2): halved weights make them the peer's."""
    cell = {name: p[name] / 2 for name in ("g.W_x", "g.W_h", "g.b")}
    return plain({**p, **cell}, "igo")


def multiplicative(p: Named) -> dict[str, Tensor]:
    """Biases of the intermediate state are the peer's own."""
    bias = stacked(p, "ifgo", "b")
    none = torch.zeros_like(p["i.b"])
    return {
        "weight_ih": torch.cat([p["W_mx"], stacked(p, "ifgo", "W_x")]),
        "weight_hh": p["W_mh"],
        "weight_mh": stacked(p, "ifgo", "W_m"),
        "bias_ih": torch.cat([none, bias]),
        "bias_hh": none,
        "bias_mh": torch.zeros_like(bias),
    }


def working_memory(p: Named) -> dict[str, Tensor]:
    """Biases beside the cell state are the peer's own."""
    more = {
        "weight_mh": torch.cat([p["V_i"], p["V_f"], p["V_o"]]),
        "bias_mh": torch.zeros_like(stacked(p, "ifo", "b")),
    }
    return plain(p, "ifgo") | more


def eight(p: Named) -> dict[str, Tensor]:
    """The eight leaves of the searched cell in their order."""
    fourth = {"a_4.W_x": p["W_4"], "a_4.W_h": p["U_4"], "a_4.b": p["b_4"]}
    renamed = {name.removeprefix("a_"): w for name, w in {**p, **fourth}.items()}
    return plain(renamed, "12345678")


PEERS = {
    "lstm_1997": Peer("OriginalLSTM", halved),
    "lstm_peephole": Peer("PeepholeLSTM", lambda p: plain(p, "ifgo") | peepholes(p)),
    "lstm_residual": Peer(
        "ResLSTM",
        lambda p: (
            plain(p, "ifgo") | peepholes(p) | {"weight_proj": p["W_p"], "weight_res": p["W_r"]}
        ),
    ),
    "janet": Peer("JANET", lambda p: plain(p, "sg") | {"beta": torch.ones(())}),
    "multiplicative_lstm": Peer("MultiplicativeLSTM", multiplicative),
    "nas": Peer(
        "NAS",
        eight,
        departs="torchrecurrent adds what comes from input and state in the fourth leaf; the found cell, as its "
        "authors' TensorFlow code has it, multiplies them.",
    ),
    "t_lstm": Peer("TLSTM", lambda p: plain(p, "zfo", "p")),
    "wmc_lstm": Peer("WMCLSTM", working_memory),
    "controller_lstm": Peer("MCLSTM", lambda p: plain(p, "fiorg", "v")),
}
