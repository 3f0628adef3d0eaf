"""Many futures of one state: each branch is a step of the layer, whatever the cell."""

from typing import Any

import pytest
import torch

from refold import Recurrent, Stack, cells
from refold.errors import KernelError
from refold.nn.branch import branch
from refold.nn.regularise import Regularise
from refold.plan.cost import letters

FEATURES = 6


def layer_of(name: str) -> Recurrent:
    more: dict[str, Any] = dict.fromkeys(letters(cells.get(name).graph) - {"m", "n"}, FEATURES)
    return Recurrent(name, FEATURES, FEATURES, backend="reference", dtype=torch.float64, **more)


def given(states: tuple[torch.Tensor, ...]) -> Any:
    """States as a layer takes them: a single one by itself."""
    first, *others = states
    return states if others else first


def states_of(layer: Recurrent, rows: int) -> tuple[torch.Tensor, ...]:
    """States as they are after some steps."""
    x = torch.randn(3, rows, layer.input_features, dtype=torch.float64)
    state = layer(x)[1]
    states = state if isinstance(state, tuple) else (state,)
    return tuple(s.detach()[0] for s in states)


@pytest.mark.parametrize("name", cells.all())
def test_a_branch_is_one_step_of_the_layer(name):
    layer = layer_of(name)
    states = states_of(layer, rows=4)
    x = torch.randn(5, layer.input_features, dtype=torch.float64)
    found = branch(layer, x, tuple(s.unsqueeze(-2) for s in states))
    rows = tuple(s.repeat_interleave(5, dim=0)[None] for s in states)
    each, _ = layer(x.repeat(4, 1)[None], given(rows))
    torch.testing.assert_close(found.expand(4, 5, -1).flatten(0, 1), each[0])


@pytest.mark.parametrize("name", ["gru", "lstm", "elman", "mgu"])
def test_gradients_of_branches_are_those_of_rows(name):
    layer = layer_of(name)
    states = tuple(s.requires_grad_() for s in states_of(layer, rows=2))
    x = torch.randn(3, layer.input_features, dtype=torch.float64, requires_grad=True)
    wanted = (x, *states, *layer.parameters())
    weight = torch.randn(2, 3, layer.output_features, dtype=torch.float64)
    found = (weight * branch(layer, x, tuple(s.unsqueeze(-2) for s in states))).sum()
    rows = tuple(s.repeat_interleave(3, dim=0)[None] for s in states)
    each, _ = layer(x.repeat(2, 1)[None], given(rows))
    other = (weight.flatten(0, 1) * each[0]).sum()
    pairs = [torch.autograd.grad(value, wanted, allow_unused=True) for value in (found, other)]
    for mine, theirs in zip(*pairs, strict=True):
        theirs = torch.zeros(()) if theirs is None else theirs
        torch.testing.assert_close(torch.zeros_like(theirs) if mine is None else mine, theirs)


@pytest.mark.parametrize(
    "more",
    [
        {"num_layers": 2},
        {"bidirectional": True},
        {"stack": Stack(dilations=(2,))},
        {"regularise": Regularise(zoneout=0.1)},
    ],
)
def test_what_is_no_single_cell_is_refused(more):
    layer = Recurrent("gru", 3, 4, **more)
    with pytest.raises(KernelError, match="branch off one layer"):
        branch(layer, torch.zeros(2, 3), torch.zeros(1, 4))


def test_another_number_of_features_is_refused():
    with pytest.raises(KernelError, match="x has 2 features, and the layer reads 3"):
        branch(Recurrent("gru", 3, 4), torch.zeros(5, 2), torch.zeros(1, 4))
