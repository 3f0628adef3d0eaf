"""Is every cell of the zoo faster than torchrecurrent's layer for it, and how does it stand beside torch.nn.LSTM?

    python -m bench.zoo

A training step in float32 at T 100, B 32, I 16, H 64, one and two threads, medians of interleaved runs; ratios are
the other's time divided by refold's, so above 1 is faster. torchrecurrent's layers are given the cell's weights, and
have to give its outputs, except where one of the two departs from the paper (bench/peers says which, and how). Letters
that are neither m nor n count as n; a layer that takes only I = H has both 64. A cell that learns nothing is run
forward only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

import refold as rf
from bench import peers
from bench.compiled_cells import same
from bench.measure import Options, Shape, forward, geometric, interleaved, marked, name_of, options
from bench.record import into_docs, machine, save, table
from refold.cli.zoo import Sizes

SHAPE: Shape = (100, 32, 16, 64)
TINY: Shape = (5, 3, 4, 6)
EACH, MEAN = 3.0, 8.0  # what is asked of every layer, and of their geometric mean


def layer_of(name: str, shape: Shape, backend: str, sizes: Mapping[str, Any]) -> rf.Recurrent:
    """Our layer of a cell of the zoo."""
    _, _, inputs, hidden = shape
    cell = rf.cells.get(name)
    letters = Sizes(inputs, hidden).numbers(cell)
    others = {k: v for k, v in letters.items() if k not in ("m", "n")}
    return rf.Recurrent(cell, inputs, hidden, backend=backend, **{**sizes, **others})


def batch(shape: Shape, features: int) -> Tensor:
    """The input; positive, since one of the features may be a time step."""
    return torch.rand(shape[0], shape[1], features)


def training(layer: nn.Module, x: Tensor) -> Callable[[], object]:
    """From dE/dy to the gradients of every parameter that reaches the output; forward alone where none does."""
    y = layer(x)[0]
    if not y.requires_grad:
        return forward(layer, x)
    every, given = tuple(layer.parameters()), torch.randn_like(y)
    found = torch.autograd.grad(y, every, given, allow_unused=True)
    wanted = tuple(p for p, g in zip(every, found, strict=True) if g is not None)
    return lambda: torch.autograd.grad(layer(x)[0], wanted, given)


def beside_peer(name: str, peer: peers.Peer, shape: Shape, asked: Options) -> dict[str, float]:
    """Milliseconds of torchrecurrent's layer and of ours, which compute the same."""
    steps, rows, inputs, hidden = shape
    inputs = hidden if peer.square else inputs
    mine = layer_of(name, (steps, rows, inputs, hidden), asked.backend, peer.sizes)
    theirs = getattr(import_module("torchrecurrent"), peer.layer)(inputs, hidden, **peer.settings)
    x = batch(shape, inputs)
    with torch.no_grad():
        peers.load(theirs, peer.weights(mine.parameters_of()))
        if not peer.departs:
            same([theirs(x)[0]], [mine(x)[0]])
    runs = {"torchrecurrent": training(theirs, x), "refold": training(mine, x)}
    return {k: 1000 * t for k, t in interleaved(runs, asked.seconds).items()}


def beside_lstm(name: str, shape: Shape, asked: Options) -> dict[str, float]:
    """Milliseconds of torch.nn.LSTM and of our cell."""
    _, _, inputs, hidden = shape
    mine, vendor = layer_of(name, shape, asked.backend, {}), nn.LSTM(inputs, hidden)
    runs = {
        "torch": training(vendor, batch(shape, inputs)),
        "refold": training(mine, batch(shape, mine.input_features)),
    }
    return {k: 1000 * t for k, t in interleaved(runs, asked.seconds).items()}


def child(asked: Options) -> None:
    """One part: "peers", torchrecurrent's layers; "lstm", every cell of the zoo beside torch.nn.LSTM."""
    torch.manual_seed(0)
    shape, rows = TINY if asked.dry else SHAPE, []
    for threads in asked.threads:
        torch.set_num_threads(threads)
        if asked.part == "peers":
            for name, peer in peers.every().items():
                about = {"cell": name, "layer": peer.layer, "threads": threads}
                found = beside_peer(name, peer, shape, asked)
                rows.append({**about, **found, "departs": bool(peer.departs)})
        else:
            for name in rf.cells.all():
                rows.append({"cell": name, "threads": threads, **beside_lstm(name, shape, asked)})
    print(json.dumps(rows))


def ratio(row: Mapping[str, Any], other: str) -> float:
    """The other's time by ours."""
    return row[other] / row["refold"]


def peers_table(rows: list[dict[str, Any]], threads: tuple[int, ...]) -> str:
    """A line for each of torchrecurrent's layers, then their geometric mean and the lowest."""
    columns = [[r for r in rows if r["threads"] == count] for count in threads]
    head = ["cell", "torchrecurrent", *(f"{count} thr" for count in threads)]
    lines = []
    for same_cell in zip(*columns, strict=True):
        first = same_cell[0]
        name = f"[{first['cell']}](cells/{first['cell']}.md){' †' * first['departs']}"
        found = [marked(ratio(r, "torchrecurrent"), EACH, digits=1) for r in same_cell]
        lines.append([name, first["layer"], *found])
    all_of = [[ratio(r, "torchrecurrent") for r in column] for column in columns]
    means = [marked(geometric(ratios), MEAN, digits=1) for ratios in all_of]
    lowest = [marked(min(ratios), EACH, digits=1) for ratios in all_of]
    return table(head, [*lines, ["**geometric mean**", "", *means], ["**lowest**", "", *lowest]])


def without_cell() -> list[str]:
    """torchrecurrent's layers for which the zoo has no cell."""
    theirs = import_module("torchrecurrent")
    classes = [v for v in vars(theirs).values() if isinstance(v, type) and issubclass(v, nn.Module)]
    names = {c.__name__ for c in classes if not c.__name__.endswith("Cell")}
    return sorted(names - {peer.layer for peer in peers.every().values()})


def main(asked: Options | None = None) -> None:
    asked = asked or options(__doc__, seconds=0.3)
    if find_spec("torchrecurrent") is None:
        raise SystemExit("torchrecurrent is not installed: pip install -e '.[bench]'")
    if asked.part:
        return child(asked)
    beside = asked.child("bench.zoo", "peers")
    alone = asked.child("bench.zoo", "lstm")
    text = peers_table(beside, asked.threads)
    print(text)
    for count in asked.threads:
        ratios = {r["cell"]: ratio(r, "torch") for r in alone if r["threads"] == count}
        told = ", ".join(f"{name} {r:.2f}" for name, r in ratios.items())
        print(f"beside torch.nn.LSTM, {count} thr: {told}")
    if missing := without_cell():
        print(f"torchrecurrent's layers without a cell here: {', '.join(missing)}")
    if asked.whole:
        result = {**machine(), "shape": SHAPE, "torchrecurrent": beside, "torch.nn.LSTM": alone}
        save("zoo", result)
        into_docs("docs/speed.md", "zoo", text)
        print(f"{name_of(SHAPE)}: now `make docs` puts the speeds on the cells' pages")


if __name__ == "__main__":
    main()
