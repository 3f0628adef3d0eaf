"""bench/zoo.py: the zoo beside torchrecurrent and torch.nn.LSTM, in small."""

import dataclasses
import sys

import pytest
import torch

import refold as rf
from bench import measure, peers, zoo

DRY = measure.Options("llvm", 0.0, (1,), busy=False, dry=True, part="")


def rows(*ratios: float, layer: str = "MGU", departs: bool = False):
    """A cell that is so many times faster, on one thread, two threads, ..."""
    return [
        {
            "cell": "mgu",
            "layer": layer,
            "threads": t,
            "torchrecurrent": r,
            "refold": 1.0,
            "departs": departs,
        }
        for t, r in enumerate(ratios, 1)
    ]


def test_the_table_marks_what_misses():
    text = zoo.peers_table([*rows(2.0, 16.0), *rows(50.0, 16.0, departs=True)], (1, 2))
    assert text.splitlines()[2:] == [
        "| [mgu](cells/mgu.md) | MGU | **2.0** ✗ | 16.0 |",
        "| [mgu](cells/mgu.md) † | MGU | 50.0 | 16.0 |",
        "| **geometric mean** |  | 10.0 | 16.0 |",
        "| **lowest** |  | **2.0** ✗ | 16.0 |",
    ]


def test_a_mean_that_misses_is_marked():
    text = zoo.peers_table(rows(7.9), (1,))
    assert "| **geometric mean** |  | **7.9** ✗ |" in text


@pytest.mark.parametrize("name", [next(iter(peers.every())), list(peers.every())[-1]])
def test_a_layer_beside_its_peer(name):
    found = zoo.beside_peer(name, peers.every()[name], zoo.TINY, DRY)
    assert found.keys() == {"torchrecurrent", "refold"}
    assert min(found.values()) > 0


def test_another_peer_is_noticed():
    """Outputs are compared before anything is measured."""
    name, peer = next((n, p) for n, p in peers.every().items() if not p.departs)
    changed = dataclasses.replace(
        peer, weights=lambda p: {k: v + 1 for k, v in peer.weights(p).items()}
    )
    with pytest.raises(AssertionError):
        zoo.beside_peer(name, changed, zoo.TINY, DRY)


def test_a_cell_beside_the_lstm():
    found = zoo.beside_lstm("jordan", zoo.TINY, DRY)
    assert found.keys() == {"torch", "refold"}


def test_every_peer_is_of_the_zoo_and_there():
    import torchrecurrent

    for name, peer in peers.every().items():
        assert name in rf.cells.all()
        assert issubclass(getattr(torchrecurrent, peer.layer), torch.nn.Module)
    assert not {peer.layer for peer in peers.every().values()} & set(zoo.without_cell())


@pytest.mark.slow
def test_the_whole_script(monkeypatch, capfd):
    words = ["zoo", "--dry", "--seconds", "0", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", words)
    zoo.main()
    out = capfd.readouterr().out
    for name in rf.cells.all():
        assert f"{name} " in out
    assert "**geometric mean**" in out
