"""States that go through a file: training goes on to the same bits, and what does not fit is named."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.testing import assert_close

from refold.errors import CheckpointError
from refold.train.checkpoints.file import read, write
from refold.train.checkpoints.states import (
    joined,
    optimiser_state,
    part,
    restore_optimiser,
    restore_scheduler,
    restore_weights,
    scheduler_state,
    weights,
)

OPTIMISERS: dict[str, Any] = {
    "adam": torch.optim.Adam,
    "amsgrad": partial(torch.optim.AdamW, amsgrad=True, betas=(0.1, 0.3)),
    "rate as a tensor": partial(torch.optim.Adam, lr=torch.tensor(0.1), foreach=False),
    "sgd": partial(torch.optim.SGD, lr=0.1),
    "momentum": partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
    "rmsprop": partial(torch.optim.RMSprop, centered=True, momentum=0.9),
    "adagrad": torch.optim.Adagrad,
    "adadelta": torch.optim.Adadelta,
    "adamax": torch.optim.Adamax,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "rprop": torch.optim.Rprop,
    "asgd": torch.optim.ASGD,
    "lbfgs": partial(torch.optim.LBFGS, lr=0.1, max_iter=2, history_size=3),
}


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).to(dtype)


def train(net: nn.Module, optimiser: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))

        def error(x: Tensor = x) -> Tensor:
            optimiser.zero_grad()
            loss = net(x.to(next(net.parameters()).dtype)).square().mean()
            loss.backward()
            return loss

        optimiser.step(error)  # type: ignore[arg-type]


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert_close(list(a.values()), list(b.values()), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", OPTIMISERS)
def test_training_goes_on_to_the_same_bits(name, dtype, tmp_path):
    first = network(dtype)
    one = OPTIMISERS[name](first.parameters())
    train(first, one, range(3))
    tensors, document = optimiser_state(one)
    write(tmp_path / "a", joined(weights=weights(first), optimiser=tensors), {"o": document})
    train(first, one, range(3, 6))

    found, about = read(tmp_path / "a")
    second = network(dtype)
    two = OPTIMISERS[name](second.parameters())
    train(second, two, range(9, 11))  # whatever it holds already is replaced
    restore_weights(second, part(found, "weights"))
    restore_optimiser(two, part(found, "optimiser"), about["o"])
    train(second, two, range(3, 6))
    same(weights(second), weights(first))
    ends = [optimiser_state(each) for each in (one, two)]
    same(ends[1][0], ends[0][0])
    assert ends[1][1] == ends[0][1]


def test_a_restored_state_is_the_optimisers_own():
    net = network()
    optimiser = torch.optim.Adam(net.parameters())
    train(net, optimiser, range(2))
    tensors, document = optimiser_state(optimiser)
    held = {name: tensor.clone() for name, tensor in tensors.items()}
    kept = copy.deepcopy(document)
    restore_optimiser(optimiser, held, document)
    train(net, optimiser, range(2, 4))
    optimiser.param_groups[0]["lr"] = 7.0
    same(held, {name: tensor.clone() for name, tensor in tensors.items()})
    assert document == kept


def test_an_optimiser_before_its_first_step():
    net = network()
    tensors, document = optimiser_state(torch.optim.Adam(net.parameters(), lr=0.25))
    assert tensors == {}
    other = torch.optim.Adam(net.parameters())
    train(net, other, range(1))
    restore_optimiser(other, tensors, document)
    assert other.param_groups[0]["lr"] == 0.25 and not other.state


def adam(*shapes: tuple[int, ...], names: str = "") -> torch.optim.Optimizer:
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    return torch.optim.Adam(list(zip(names, parameters, strict=True)) if names else parameters)


def half() -> torch.optim.Optimizer:
    return torch.optim.Adam([nn.Parameter(torch.zeros(3, dtype=torch.float16))])


def grouped() -> torch.optim.Optimizer:
    parameters = [nn.Parameter(torch.zeros(3)) for _ in range(2)]
    return torch.optim.Adam([{"params": [p]} for p in parameters])


UNFIT: dict[str, Any] = {
    "class": (
        torch.optim.SGD([nn.Parameter(torch.zeros(3))], lr=1.0),
        adam((3,)),
        "holds the state of SGD, this is Adam\nuse SGD as before, or start a new run",
    ),
    "number": (adam((3,)), adam((3,), (3,)), r"had groups of \[1\] parameters, now it has \[2\]"),
    "groups": (adam((3,), (3,)), grouped(), r"groups of \[2\] parameters, now it has \[1, 1\]"),
    "shape": (
        adam((3,), (4, 1)),
        adam((3,), (4, 2)),
        r"parameter 1 of the optimiser was 1 \(float32, \(4, 1\)\), now it is 1 \(float32, \(4, 2\)\)",
    ),
    "dtype": (adam((3,)), half(), r"was 0 \(float32, \(3,\)\), now it is 0 \(float16, \(3,\)\)"),
    "name": (
        adam((3,), (3,), names="ab"),
        adam((3,), (3,), names="ba"),
        r"parameter 0 of the optimiser was a \(float32, \(3,\)\), now it is b \(float32, \(3,\)\)"
        "\nbuild the network and its optimiser as they were built then",
    ),
}


@pytest.mark.parametrize("name", UNFIT)
def test_the_state_of_another_optimiser_is_refused(name):
    old, new, text = UNFIT[name]
    before = copy.deepcopy(new.state_dict())
    with pytest.raises(CheckpointError, match=text) as caught:
        restore_optimiser(new, *optimiser_state(old), path="run/a")
    assert caught.value.where == "run/a"
    assert new.state_dict() == before


def test_names_count_only_where_both_have_them():
    tensors, document = optimiser_state(adam((3,), names="a"))
    restore_optimiser(adam((3,)), tensors, document)


def test_a_state_that_is_missing_is_refused():
    net = network()
    optimiser = torch.optim.Adam(net.parameters())
    train(net, optimiser, range(1))
    tensors, document = optimiser_state(optimiser)
    with pytest.raises(CheckpointError, match="the checkpoint holds no state for Adam\ngive the"):
        restore_optimiser(optimiser, {}, {})
    tensors.pop("state/1/exp_avg")
    text = "the state of the optimiser needs state/1/exp_avg, and there is no such tensor"
    with pytest.raises(CheckpointError, match=text):
        restore_optimiser(optimiser, tensors, document)


# Schedules

SCHEDULES: dict[str, Any] = {
    "step": partial(lr_scheduler.StepLR, step_size=2, gamma=0.3),
    "milestones": partial(lr_scheduler.MultiStepLR, milestones=[2, 8, 8], gamma=0.3),
    "exponential": partial(lr_scheduler.ExponentialLR, gamma=0.9),
    "cosine": partial(lr_scheduler.CosineAnnealingLR, T_max=6),
    "restarts": partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=3, T_mult=2),
    "one cycle": partial(lr_scheduler.OneCycleLR, max_lr=0.5, total_steps=20),
    "cyclic": partial(lr_scheduler.CyclicLR, base_lr=0.1, max_lr=0.5, step_size_up=3),
    "linear": partial(lr_scheduler.LinearLR, total_iters=7),
    "polynomial": partial(lr_scheduler.PolynomialLR, total_iters=7, power=2.0),
    "function": partial(lr_scheduler.LambdaLR, lr_lambda=lambda step: 1 / (1 + step)),
    "plateau": partial(lr_scheduler.ReduceLROnPlateau, patience=1),
    "warm up": lambda optimiser: lr_scheduler.SequentialLR(
        optimiser,
        [
            lr_scheduler.LinearLR(optimiser, total_iters=2),
            lr_scheduler.MultiStepLR(optimiser, milestones=[1, 6]),
        ],
        milestones=[3],
    ),
}


def rates(optimiser: torch.optim.Optimizer, schedule: Any, steps: range) -> list[float]:
    found = []
    for step in steps:
        optimiser.step()
        plateau = isinstance(schedule, lr_scheduler.ReduceLROnPlateau)
        schedule.step(*([1.0 + step // 2] if plateau else []))
        found.append(optimiser.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_goes_on_to_the_same_rates(name, tmp_path):
    one, two = (torch.optim.SGD(network().parameters(), lr=0.2, momentum=0.9) for _ in range(2))
    first = SCHEDULES[name](one)
    rates(one, first, range(4))
    tensors, document = optimiser_state(one)
    write(tmp_path / "a", tensors, {"optimiser": document, "schedule": scheduler_state(first)})

    tensors, about = read(tmp_path / "a")
    second = SCHEDULES[name](two)
    restore_optimiser(two, tensors, about["optimiser"])
    restore_scheduler(second, about["schedule"])
    assert scheduler_state(second) == scheduler_state(first)
    wanted = rates(one, first, range(4, 14))
    assert rates(two, second, range(4, 14)) == wanted
    assert len(set(wanted)) > 1


def test_the_state_of_another_schedule_is_refused():
    optimiser = adam((3,))
    step = lr_scheduler.StepLR(optimiser, 2)
    with pytest.raises(
        CheckpointError, match="holds the state of StepLR, this is ExponentialLR"
    ) as it:
        restore_scheduler(
            lr_scheduler.ExponentialLR(optimiser, 0.9), scheduler_state(step), "run/a"
        )
    assert it.value.where == "run/a"
    text = "the schedule was one of 1 groups of parameters, now there are 2\nbuild the optimiser"
    with pytest.raises(CheckpointError, match=text):
        restore_scheduler(lr_scheduler.StepLR(grouped(), 2), scheduler_state(step))
    with pytest.raises(CheckpointError, match="the checkpoint holds no state for StepLR"):
        restore_scheduler(step, {})


# Weights


class Tied(nn.Module):
    passing: Tensor

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(2, 2)
        self.b = self.a
        self.register_buffer("passing", torch.zeros(2), persistent=False)


def test_weights_are_all_that_training_changes():
    net = Tied()
    net.passing += 3
    found = {name: tensor.clone() for name, tensor in weights(net).items()}
    assert set(found) == {"a.weight", "a.bias", "passing"}
    assert not any(tensor.requires_grad for tensor in found.values())
    other = Tied()
    places = [p.data_ptr() for p in other.parameters()]
    restore_weights(other, found)
    same(weights(other), found)
    assert [p.data_ptr() for p in other.parameters()] == places  # an optimiser keeps its hold
    assert all(p.requires_grad and p.grad is None for p in other.parameters())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda held: held.update({"0.weight": torch.zeros(4, 2)}),
            r"0.weight is float32 of shape \(4, 2\) in the checkpoint, float32 of shape \(4, 3\) here",
        ),
        (
            lambda held: held.update({"0.bias": torch.zeros(4, dtype=torch.float64)}),
            r"0.bias is float64 of shape \(4,\) in the checkpoint, float32 of shape \(4,\) here",
        ),
        (lambda held: held.pop("0.bias"), "does not have 0.bias, Sequential has it\nbuild"),
        (
            lambda held: [held.pop("0.bias"), held.pop("0.weight")],
            "does not have 0.bias, Sequential has it; so it is with 2 names\nbuild the network",
        ),
        (lambda held: held.update(h=torch.ones(1)), "has h, Sequential does not have it\nbuild"),
    ],
    ids=["shape", "dtype", "missing", "several missing", "unknown"],
)
def test_weights_that_do_not_fit_change_nothing(change, text):
    net = network()
    before = {name: tensor.clone() for name, tensor in weights(net).items()}
    other = {name: tensor + 1 for name, tensor in before.items()}
    change(other)
    with pytest.raises(CheckpointError, match=text) as caught:
        restore_weights(net, other, "runs/a/step-000000003.safetensors")
    assert caught.value.where == "runs/a/step-000000003.safetensors"
    same(weights(net), before)


def test_parts_are_joined_and_parted():
    w, v = torch.ones(1), torch.ones(2)
    whole = joined(best={"w": w}, best2={"w": v, "a/b": w}, none={})
    assert list(whole) == ["best/w", "best2/w", "best2/a/b"]
    assert part(whole, "best") == {"w": w} and list(part(whole, "best2")) == ["w", "a/b"]
    assert part(whole, "none") == {}
