"""Clipping and schedules: bounds and rates against their formulas, step by step."""

import json
import math

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from refold.data.batch import Batch, Sequences
from refold.errors import RefoldError
from refold.train.clip import Clip, Clipper
from refold.train.fit import fit
from refold.train.settings import Fit


def held(*values: float) -> dict[str, nn.Parameter]:
    """Two parameters whose gradients together are these values."""
    first, rest = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(len(values) - 1))
    first.grad, rest.grad = torch.tensor(values[:1]), torch.tensor(values[1:])
    return {"first": first, "rest": rest}


def gradient(parameters: dict[str, nn.Parameter]) -> Tensor:
    return torch.cat([p.grad for p in parameters.values() if p.grad is not None])


def clipped(clip: Clip, *values: float) -> tuple[float, Tensor]:
    parameters = held(*values)
    norm = float(torch.tensor(values).norm())
    return Clipper(clip)(parameters, norm), gradient(parameters)


def test_a_norm_scales_all_gradients_together():
    after, found = clipped(Clip(norm=1.0), 3.0, 0.0, 4.0)
    assert after == 1.0
    assert_close(found, torch.tensor([0.6, 0.0, 0.8]))
    after, found = clipped(Clip(norm=6.0), 3.0, 0.0, 4.0)
    assert after == 5.0
    assert_close(found, torch.tensor([3.0, 0.0, 4.0]), rtol=0, atol=0)


def test_a_value_cuts_each_element():
    after, found = clipped(Clip(value=2.0), 3.0, -1.0, -4.0)
    assert_close(found, torch.tensor([2.0, -1.0, -2.0]))
    assert after == pytest.approx(3.0)


def test_value_first_then_norm():
    after, found = clipped(Clip(value=2.0, norm=1.5), 3.0, -1.0, -4.0)
    assert after == 1.5
    assert_close(found, torch.tensor([2.0, -1.0, -2.0]) / 2)


def test_nothing_is_clipped_without_a_bound():
    after, found = clipped(Clip(), 3.0, 4.0)
    assert after == 5.0
    assert_close(found, torch.tensor([3.0, 4.0]), rtol=0, atol=0)


def test_the_running_bound_follows_the_average_and_not_an_explosion():
    clipper, average = Clipper(Clip(running=2.0)), 0.0
    norms = [1.0, 2.0, 3.0, 2.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0]
    for seen, norm in enumerate(norms, 1):  # the first ten bound nothing
        assert clipper(held(norm, 0.0), norm) == norm
        average += (norm - average) / seen
    assert clipper.average == pytest.approx(sum(norms) / 10)
    for seen, norm in enumerate([1e6, 1.0, 3.0, math.inf and 1e9], 11):
        bound = 2.0 * average
        assert clipper(held(norm, 0.0), norm) == pytest.approx(min(norm, bound))
        average += (min(norm, bound) - average) / seen
    assert clipper.average == pytest.approx(average) and average < 5


def test_the_running_average_forgets_after_a_hundred_steps():
    clipper = Clipper(Clip(running=1e9))
    for norm in [1.0] * 500 + [2.0] * 100:
        clipper(held(norm, 0.0), norm)
    assert clipper.average == pytest.approx(2 - 0.99**100)


def test_refusals():
    for text, settings in [
        ("norm is 0\ngive a positive number, or None", {"norm": 0}),
        ("value is -1", {"value": -1}),
        ("running is True", {"running": True}),
        ("norm is inf", {"norm": math.inf}),
    ]:
        with pytest.raises(RefoldError, match=text):
            Clip(**settings)


class Falling(nn.Module):
    """Its validation errors are given; its gradient is 1."""

    def __init__(self, *validation: float):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))
        self.validation = list(validation)

    def error(self, batch: Batch) -> Tensor:
        return self.w.sum() if self.training else torch.tensor(self.validation.pop(0))


def rates(tmp_path, network: nn.Module, **settings) -> list[float]:
    data = Sequences([torch.zeros(2, 1)] * 4)
    log = tmp_path / "steps.jsonl"
    settings = {"batch_size": 2, "optimiser": "sgd", **settings}
    fit(network, data, Fit(rate=0.1, log=log, **settings))
    return [json.loads(line)["rate"] for line in log.read_text().splitlines()]


def test_rates_that_fall_to_the_end_of_the_run(tmp_path):
    found = rates(tmp_path, Falling(), schedule="linear", epochs=3, validation=0)
    assert found == pytest.approx([0.1 * (1 - i / 6) for i in range(6)])
    found = rates(tmp_path, Falling(), schedule="cosine", epochs=3, validation=0)
    assert found == pytest.approx([0.05 * (1 + math.cos(math.pi * i / 6)) for i in range(6)])
    found = rates(tmp_path, Falling(), epochs=2, validation=0)
    assert found == [0.1] * 4


def test_a_rate_that_rises_first(tmp_path):
    found = rates(tmp_path, Falling(), warm_up=4, epochs=3, validation=0)
    assert found == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])
    found = rates(tmp_path, Falling(), warm_up=2, schedule="linear", epochs=3, validation=0)
    assert found == pytest.approx([0.05, 0.1 * 5 / 6, 0.1 * 4 / 6, 0.05, 0.1 / 3, 0.1 / 6])


def test_a_plateau_halves_the_rate(tmp_path):
    errors = [5.0, 4.0, 4.5, 4.5, 4.5, 4.5, 4.5]  # no better for more than two epochs: from the 6th
    network = Falling(*errors)
    found = rates(tmp_path, network, schedule="plateau", epochs=7, patience=20, batch_size=4)
    assert found == pytest.approx([0.1] * 5 + [0.05] * 2)


def test_enough_ends_a_run():
    data = Sequences([torch.zeros(2, 1)] * 4)
    run = fit(Falling(3.0, 1.0, 0.5, 0.2), data, Fit(epochs=9, enough=0.6, optimiser="sgd"))
    assert run.stopped == "enough" and run.epochs == 3
