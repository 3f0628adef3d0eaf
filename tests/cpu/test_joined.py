"""Joined cells as layers: the numbers of the plan that leaves them joined, and of the cell written gate by gate."""

import pytest
import torch
from cases import CASES, both_backends, exact, noise, parameters, seeded
from joined import JOINED
from torch import Tensor

import refold as rf
from refold.plan import plan as planning

INPUT, HIDDEN = 3, 4
LENGTHS = [5, 0, 3]


def outcome(layer: rf.Recurrent) -> dict[str, Tensor]:
    """The output of a ragged batch, the final states, and the gradients of x, initial states and parameters."""
    x = noise(5, 3, INPUT).requires_grad_()
    first = [noise(1, 3, n, seed=5 + k) for k, n in enumerate(layer.state_sizes.values())]
    first = [s.requires_grad_() for s in first]
    y, last = layer(x, first[0] if len(first) == 1 else tuple(first), lengths=LENGTHS)
    given = [y, *(last if isinstance(last, tuple) else (last,))]
    shares = [(v * noise(*v.shape, seed=30 + k)).sum() for k, v in enumerate(given)]
    torch.stack(shares).sum().backward()
    leaves = {"x": x, **{f"h{k}": s for k, s in enumerate(first)}, **parameters(layer)}
    gradients = {f"dE/d{name}": leaf.grad for name, leaf in leaves.items()}
    assert all(g is not None and g.abs().sum() > 0 for g in gradients.values())
    return {**{str(k): v.detach() for k, v in enumerate(given)}, **gradients}  # type: ignore[dict-item]


@pytest.fixture
def joined_plans(monkeypatch):
    """Plans that leave the graph as it was written."""

    def leave() -> None:
        monkeypatch.setattr(planning, "sunk", lambda graph: graph)
        planning.plan.cache_clear()

    yield leave
    planning.plan.cache_clear()


@both_backends
@pytest.mark.parametrize("name", [*JOINED, *CASES])
def test_sinking_changes_no_number(name, backend, joined_plans):
    cell, options = (JOINED[name], {}) if name in JOINED else (CASES[name].cell, CASES[name].sizes)

    def layer() -> rf.Recurrent:
        options_ = {"dtype": torch.float64, "backend": backend, **options}
        return seeded(rf.Recurrent(cell, INPUT, HIDDEN, **options_))

    sunk, made = outcome(layer()), planning.plan(layer().cell)
    joined_plans()
    assert (planning.plan(layer().cell) == made) == (name not in JOINED)
    left = outcome(layer())
    assert sunk.keys() == left.keys()
    for key, value in left.items():
        exact(sunk[key], value, msg=lambda m, key=key: f"{key}: {m}")
