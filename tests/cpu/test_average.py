"""The running average of the weights: against its formula, where it is used, and where it is not."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from refold.data.batch import Batch, Sequences
from refold.errors import RefoldError
from refold.train.average import Average
from refold.train.fit import fit
from refold.train.settings import Fit

DATA = Sequences([torch.zeros(1, 1)] * 4)


class Rising(nn.Module):
    """A weight whose gradient is -1 in every step; it remembers what it was validated with."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))
        self.trained: list[float] = []
        self.seen: list[float] = []

    def error(self, batch: Batch) -> Tensor:
        (self.trained if self.training else self.seen).append(float(self.w.detach()))
        return -self.w.sum() if self.training else torch.ones(())


def by_hand(weights: list[float], decay: float) -> list[float]:
    found = [0.0]
    for s, w in enumerate(weights, start=1):
        keep = min(decay, (s - 1) / (s + 9))
        found.append(keep * found[-1] + (1 - keep) * w)
    return found[1:]


@pytest.mark.parametrize("decay", [0.05, 0.98])
def test_the_average_is_what_its_formula_says(decay):
    network = Rising()
    settings = Fit(epochs=6, average=decay, optimiser="sgd", rate=0.5, batch_size=4, validation=0)
    fit(network, DATA, settings)
    weights = [0.5 * s for s in range(1, 7)]
    assert network.trained == [0.0, *weights[:-1]]
    assert_close(float(network.w.detach()), by_hand(weights, decay)[-1], rtol=1e-6, atol=0)


def test_it_is_validated_and_training_goes_on_from_the_weights():
    network = Rising()
    settings = Fit(epochs=3, average=0.9, optimiser="sgd", rate=1.0, batch_size=4)
    run = fit(network, DATA, settings, validation=DATA)
    assert network.trained == [0.0, 1.0, 2.0]
    assert_close(network.seen, by_hand([1.0, 2.0, 3.0], 0.9), rtol=1e-6, atol=0)
    # The first epoch was as good as any other, and its average is what stays.
    assert run.best_epoch == 1 and float(network.w.detach()) == pytest.approx(network.seen[0])


def test_without_it_the_weights_stand():
    network = Rising()
    fit(network, DATA, Fit(epochs=3, optimiser="sgd", rate=1.0, batch_size=4, validation=0))
    assert float(network.w.detach()) == 3.0


def test_an_average_in_use_gives_the_weights_back():
    network = Rising()
    average = Average(0.5, dict(network.named_parameters()))
    with torch.no_grad():
        network.w.fill_(4.0)
    average.take(1)
    with torch.no_grad():
        network.w.fill_(8.0)
    with pytest.raises(ZeroDivisionError), average.in_use():
        assert float(network.w.detach()) == 4.0
        raise ZeroDivisionError
    assert float(network.w.detach()) == 8.0


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1, True, "0.9"])
def test_decays_that_cannot_be(decay):
    with pytest.raises(RefoldError, match=r"(?s)Fit\(average=.*average is .*between 0 and 1"):
        Fit(average=decay)


@pytest.mark.parametrize("steps", [-1, 1.5, True])
def test_warm_ups_that_cannot_be(steps):
    with pytest.raises(RefoldError, match=r"(?s)Fit\(warm_up=.*warm_up is .*number of steps"):
        Fit(warm_up=steps)
