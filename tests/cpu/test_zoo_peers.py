"""torchrecurrent's layers with the zoo's weights: the same numbers, or a note that says which of the two departs."""

from importlib import import_module
from typing import Any

import pytest
import torch
from compiled import drawn, normal
from torch import Tensor, nn
from torch.testing import assert_close

import refold as rf
from bench.peers import Peer, load

torchrecurrent = pytest.importorskip("torchrecurrent")

SIZE, STEPS, BATCH = 8, 6, 3  # input and hidden size are equal: some cells of the peer want it so
PEERS: dict[str, Peer] = {
    name: peer
    for family in ("vanilla", "gru", "lstm", "gated", "linear", "oscillator")
    for name, peer in import_module(f"bench.peers.{family}").PEERS.items()
}


def both(name: str) -> tuple[Tensor, Tensor]:
    """Outputs of the cell and of its peer, in float64, for the same x and the same weights."""
    peer = PEERS[name]
    sizes: dict[str, Any] = dict(peer.sizes)
    layer = drawn(rf.Recurrent(name, SIZE, SIZE, dtype=torch.float64, backend="llvm", **sizes))
    made: nn.Module = getattr(torchrecurrent, peer.layer)(SIZE, SIZE, **peer.settings).double()
    x = normal(STEPS, BATCH, SIZE)
    with torch.no_grad():
        load(made, peer.weights(layer.parameters_of()))
        return layer(x)[0], made(x)[0]


@pytest.mark.parametrize("name", [name for name, peer in PEERS.items() if not peer.departs])
def test_the_peer_has_the_same_numbers(name: str) -> None:
    ours, theirs = both(name)
    assert ours.abs().max() > 1e-3
    assert_close(ours, theirs, rtol=0.0, atol=1e-12 * float(theirs.abs().max()))


@pytest.mark.parametrize("name", [name for name, peer in PEERS.items() if peer.departs])
def test_where_the_peer_departs_its_numbers_do_too(name: str) -> None:
    """Else the note is stale."""
    ours, theirs = both(name)
    width = min(ours.shape[-1], theirs.shape[-1])
    assert (ours[..., :width] - theirs[..., :width]).abs().max() > 1e-3
    assert PEERS[name].departs.startswith(("torchrecurrent", "refold"))


def test_a_peer_is_of_the_family_of_its_cell() -> None:
    for family, cells in rf.cells.families().items():
        try:
            peers = import_module(f"bench.peers.{family}").PEERS
        except ModuleNotFoundError:
            continue
        assert set(peers) <= set(cells)


def test_every_layer_of_the_peer_has_a_cell() -> None:
    layers = {n for n in torchrecurrent.__all__ if not n.endswith("Cell") and n[0].isalpha()}
    layers = {n for n in layers if f"{n}Cell" in torchrecurrent.__all__}
    assert len(layers) > 35
    assert layers - {peer.layer for peer in PEERS.values()} == set()
