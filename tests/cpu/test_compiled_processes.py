"""Threads and processes: one layer from several threads, after a fork, in new processes, many that build at once."""

import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from cases import as_state, by_name
from compiled import (
    everything,
    given,
    identical,
    kitchen,
    layer_of,
    process,
    ragged,
    script,
    threads,
)
from torch import Tensor

import refold as rf

STEPS, BATCH = 20, 9


def answer(layer: rf.Recurrent, seed: int) -> dict[str, Tensor]:
    x, states = given(layer, STEPS, BATCH, seed)
    lengths = ragged(STEPS, BATCH, seed) if seed % 2 else None
    return everything(layer, x, states, lengths)


def together(work: list[Callable[[], dict[str, Tensor]]]) -> list[dict[str, Tensor]]:
    """All at once: nobody begins before everybody is there."""
    start = threading.Barrier(len(work))

    def one(function: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        start.wait(30)
        return function()

    with ThreadPoolExecutor(len(work)) as pool:
        return [future.result(120) for future in [pool.submit(one, f) for f in work]]


# ---------------------------------------------------------------- several Python threads


@pytest.mark.parametrize("count", [1, 2])
def test_threads_that_share_a_layer(count: int) -> None:
    """Each with its own batch, all of them with gradients."""
    layer = layer_of("lstm", 19)
    with threads(count):
        expected = [answer(layer, seed) for seed in range(6)]
        for _ in range(3):
            found = together([lambda s=seed: answer(layer, s) for seed in range(6)])
            for mine, theirs in zip(found, expected, strict=True):
                identical(mine, theirs)


def stream(layer: rf.Recurrent, seed: int, steps: int, rows: int) -> dict[str, Tensor]:
    """Without gradients, a few steps a call."""
    x, states = given(layer, 60, rows, seed)
    state, outputs = as_state(states), []
    with torch.no_grad():
        for part in x.split(steps):
            y, state = layer(part, state)
            outputs.append(y)
    return by_name(torch.cat(outputs), state)


@pytest.mark.parametrize(("steps", "rows"), [(1, 1), (1, 7), (20, 9)])
def test_threads_that_stream_through_one_layer(steps: int, rows: int) -> None:
    """What such calls find prepared is shared, and no call may write into another's."""
    layer = layer_of("lstm", 64, num_layers=2, dtype=torch.float32)
    expected = [stream(layer, seed, steps, rows) for seed in range(4)]
    for _ in range(5):
        found = together([lambda s=s: stream(layer, s, steps, rows) for s in range(4)])
        for mine, theirs in zip(found, expected, strict=True):
            identical(mine, theirs)


def test_threads_that_build_their_layers_at_once() -> None:
    """The same cell and others, at sizes that nothing else here has compiled."""
    cells = ["gru_cho", "gru_cho", "leaky", kitchen, kitchen, "jordan"]
    found = together([lambda c=cell: answer(layer_of(c, 23), 1) for cell in cells])
    for cell, mine in zip(cells, found, strict=True):
        identical(mine, answer(layer_of(cell, 23), 1))


def test_a_backward_in_another_thread() -> None:
    layer = layer_of("lstm", 19)
    expected = answer(layer, 2)
    x, states = given(layer, STEPS, BATCH, 2)
    y, _ = layer(x, states)
    grown = torch.autograd.grad(y.sum(), x, retain_graph=True)[0]
    found = together([lambda: {"x": torch.autograd.grad(y.sum(), x, retain_graph=True)[0]}] * 4)
    for one in found:
        identical(one, {"x": grown})
    identical(answer(layer, 2), expected)


def longest_silence(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds that the work takes, and the longest time in it in which no other Python thread had a turn."""
    ticks: list[float] = []
    begun, done = threading.Event(), threading.Event()

    def count() -> None:
        begun.set()
        while not done.wait(0.001):
            ticks.append(time.perf_counter())

    watcher = threading.Thread(target=count)
    watcher.start()
    begun.wait(30)
    start = time.perf_counter()
    work()
    end = time.perf_counter()
    done.set()
    watcher.join()
    inside = [t for t in ticks if start < t < end]
    return end - start, max(b - a for a, b in pairwise([start, *inside, end]))


def test_a_long_run_lets_other_threads_go_on() -> None:
    """Python's lock is released. Three attempts: a busy machine keeps threads waiting too."""
    layer = layer_of("lstm", 64, dtype=torch.float32)
    x, _ = given(layer, 20_000, 4)
    with torch.no_grad():
        layer(x[:2])
        tried = [longest_silence(lambda: layer(x)) for _ in range(3)]
    assert any(silence < 0.4 * whole for whole, silence in tried), tried


# ---------------------------------------------------------------- forks and new processes

FORK = """
import multiprocessing, sys, warnings
import torch
from compiled import everything, given, identical, layer_of, ragged

def answer(layer):
    x, states = given(layer, 20, 9)
    return everything(layer, x, states, ragged(20, 9))

def send(pipe, layer):
    pipe.send({k: v.detach().numpy() for k, v in answer(layer).items()})
    pipe.send({k: v.detach().numpy() for k, v in answer(layer_of("gru_cho", 11)).items()})

if __name__ == "__main__":
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    kind = sys.argv[1]
    torch.set_num_threads(2)
    layer = layer_of("lstm", 19)
    # What the parent has done before: nothing, values, or gradients too.
    if sys.argv[2] == "values":
        with torch.no_grad():
            x, states = given(layer, 20, 9)
            layer(x, states)
    elif sys.argv[2] == "gradients":
        answer(layer)
    context = multiprocessing.get_context(kind)
    children = []
    for _ in range(2):
        here, there = context.Pipe()
        child = context.Process(target=send, args=(there, layer))
        child.start()
        there.close()
        children.append((child, here))
    expected = [answer(layer), answer(layer_of("gru_cho", 11))]
    for child, here in children:
        for theirs in expected:
            assert here.poll(60), "the child hangs"
            identical({k: torch.from_numpy(v) for k, v in here.recv().items()}, theirs)
        child.join(30)
        assert child.exitcode == 0
    print("equal")
"""


@pytest.mark.parametrize("before", ["nothing", "values", "gradients"])
def test_forked_children_answer_the_same(before: str) -> None:
    assert script(FORK, "fork", before, OMP_NUM_THREADS=2) == "equal\n"


def test_spawned_children_answer_the_same(tmp_path: Path) -> None:
    """A spawned child reads its program from a file, and gets the layer pickled."""
    file = tmp_path / "spawn.py"
    file.write_text(FORK)
    text = "import runpy, sys; sys.argv[0] = sys.argv.pop(1); runpy.run_path(sys.argv[0], run_name='__main__')"
    run = script(text, file, "spawn", "gradients", OMP_NUM_THREADS=2)
    assert run == "equal\n"


BUILD = """
import pickle, sys, time
from itertools import pairwise
from pathlib import Path
import torch
from compiled import everything, given, kitchen, layer_of, ragged
torch.set_num_threads(1)
me, folder, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
(folder / f"ready {me}").touch()
while len(list(folder.glob("ready *"))) < count:
    time.sleep(0.001)
found = []
for cell in ("lstm", kitchen):
    layer = layer_of(cell, 13)
    x, states = given(layer, 5, 7)
    found.append({k: v.detach().numpy() for k, v in everything(layer, x, states, ragged(5, 7)).items()})
(folder / f"found {me}").write_bytes(pickle.dumps(found))
"""


def build_at_once(folder: Path, cache: Path, count: int, seconds: float = 120) -> list[Path]:
    """Processes that wait for each other and then compile the same cells."""
    folder.mkdir()
    with ThreadPoolExecutor(count) as pool:
        runs = [
            pool.submit(script, BUILD, k, folder, count, seconds=seconds, REFOLD_CACHE=cache)
            for k in range(count)
        ]
        for run in runs:
            run.result()
    return sorted(folder.glob("found *"))


def test_processes_that_build_at_once_with_an_empty_cache(tmp_path: Path) -> None:
    """All get the same; what they leave is whole, and serves the next."""
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    found = [
        pickle.loads(path.read_bytes()) for path in build_at_once(tmp_path / "first", cache, 3)
    ]
    assert len(found) == 3
    tensors = [[{k: torch.from_numpy(v) for k, v in part.items()} for part in one] for one in found]
    for one in tensors[1:]:
        for mine, theirs in zip(one, tensors[0], strict=True):
            identical(mine, theirs)
    entries = {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert entries
    assert all(name.endswith(".code") for name in entries), "unfinished files are left"
    # A later process finds everything there; damaged entries are built again, and give the same.
    for path in list(cache.iterdir())[::2]:
        path.write_bytes(path.read_bytes()[:-7] + b"damaged")
    (again,) = build_at_once(tmp_path / "second", cache, 1)
    for mine, theirs in zip(pickle.loads(again.read_bytes()), tensors[0], strict=True):
        identical({k: torch.from_numpy(v) for k, v in mine.items()}, theirs)
    assert {path.name for path in cache.iterdir()} == entries.keys()


def test_without_a_cache_it_works_all_the_same(tmp_path: Path) -> None:
    closed = tmp_path / "file"
    closed.write_text("no folder")
    (found,) = build_at_once(tmp_path / "first", closed / "cache", 1)
    assert len(pickle.loads(found.read_bytes())) == 2


def test_the_end_of_the_process_is_quiet() -> None:
    """Layers, graphs and the pool are still alive when Python ends: no crash, nothing said."""
    text = """
import threading, torch
from compiled import given, layer_of
torch.set_num_threads(2)
layer = layer_of("lstm", 19)
x, states = given(layer, 20, 9)
y, _ = layer(x, states)
y.sum().backward(retain_graph=True)
thread = threading.Thread(target=lambda: layer(x, states)[0].sum().backward())
thread.start()
thread.join()
print("out")
"""
    run = process("-W", "error", "-c", text, OMP_NUM_THREADS=2)
    assert (run.returncode, run.stdout, run.stderr) == (0, "out\n", "")
