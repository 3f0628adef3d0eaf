"""How much memory a training step takes beyond what was there, measured in processes of their own."""

import pytest
from compiled import BACKEND, script

# Peak of the resident memory over one training step, from a mark that is set just before it; in MB.
PEAK = """
import sys
from pathlib import Path
import torch
import refold as rf

def field(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024

def step(layer, x):
    layer.zero_grad()
    y, _ = layer(x)
    y.sum().backward()

backend, memory, T, B, I, H = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
torch.set_num_threads(1)
torch.manual_seed(0)
if backend == "torch":
    layer = torch.nn.LSTM(I, H)
else:
    layer = rf.Recurrent("lstm", I, H, backend=backend, memory=memory)
step(layer, torch.randn(3, min(B, 2), I))
x = torch.randn(T, B, I)
before = field("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
step(layer, x)
print(field("VmHWM") - before)
for p in layer.parameters():
    assert p.grad.isfinite().all() and p.grad.abs().max() > 0
"""


def peak(backend: str, memory: str, *shape: int) -> float:
    return float(script(PEAK, backend, memory, *shape, seconds=300))


@pytest.mark.slow
def test_a_hundred_thousand_steps_train_in_200_mb() -> None:
    assert peak(BACKEND, "small", 100_000, 1, 8, 64) < 200


def test_twenty_thousand_steps_train_in_40_mb() -> None:
    """The same in small: what is kept grows with the square root of T, what comes out with T."""
    assert peak(BACKEND, "small", 20_000, 1, 8, 64) < 40


def test_a_training_step_takes_no_more_than_torch_nn() -> None:
    shape = (100, 64, 64, 256)
    assert peak(BACKEND, "fast", *shape) <= peak("torch", "", *shape)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(100, 32, 16, 64), (1000, 32, 32, 64), (100, 64, 128, 512)])
def test_nor_at_other_sizes(shape: tuple[int, ...]) -> None:
    assert peak(BACKEND, "fast", *shape) <= peak("torch", "", *shape) + 1
