"""Compiled layers among torch's own machinery: compile, export, DDP, copies, autocast, torch.func, parametrizations."""

import io
import shutil
import warnings
from pathlib import Path
from typing import Any

import cases
import pytest
import torch
from cases import as_state, by_name
from compiled import (
    BACKEND,
    everything,
    given,
    gradients_of,
    identical,
    kitchen,
    layer_of,
    leaves_of,
    normal,
    process,
    ragged,
    same,
    script,
)
from torch import Tensor, nn
from torch.func import functional_call, jvp, vmap
from torch.nn.utils import parametrizations

import refold as rf

STEPS, BATCH, HIDDEN = 5, 7, 19
# What torch itself says about its own parts.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
]


def twins(name: Any = "lstm", **options) -> tuple[rf.Recurrent, rf.Recurrent]:
    """The layer, and the same with the reference backend."""
    mine, reference = (layer_of(name, HIDDEN, b, **options) for b in (BACKEND, "reference"))
    return mine, reference


# ---------------------------------------------------------------- torch.compile and torch.export


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled_like_itself(name: Any, engine: str, **options) -> None:
    layer, _ = twins(name, **options)
    fast = torch.compile(layer, fullgraph=True, backend=engine)
    x, states = given(layer, STEPS, BATCH)
    leaves = leaves_of(layer, x, states)
    mine, theirs = (by_name(*f(x, as_state(states))) for f in (fast, layer))
    same(mine, theirs, 1e-13)
    same(gradients_of(mine, leaves), gradients_of(theirs, leaves), 1e-13)
    with torch.no_grad():
        same(by_name(*fast(x)), by_name(*layer(x)), 1e-13)


@pytest.mark.parametrize("name", ["lstm", "gru_cho", "two_layer_feedback"])
def test_torch_compile_of_the_whole_graph(name: str, fresh_compiler: None) -> None:
    compiled_like_itself(name, "aot_eager", num_layers=2, bidirectional=True)


def test_torch_compile_of_a_network_around_a_layer(fresh_compiler: None) -> None:
    """What is around the layer is compiled with it, in one graph, for ragged batches of several sizes."""
    layer, _ = twins()
    network = nn.ModuleList([nn.Linear(4, cases.INPUT), layer, nn.Linear(HIDDEN, 2)]).double()

    def run(x: Tensor, lengths: Tensor) -> Tensor:
        first, middle, last = network
        return last(torch.relu(middle(first(x), lengths=lengths)[0])).square().mean()

    fast = torch.compile(run, fullgraph=True, backend="aot_eager")
    for steps, rows in ((5, 7), (3, 2), (9, 7), (4, 4)):
        x, lengths = normal(steps, rows, 4), torch.tensor(ragged(steps, rows))
        found = []
        for function in (fast, run):
            network.zero_grad()
            error = function(x, lengths)
            error.backward()
            found.append({"error": error} | {k: p.grad for k, p in network.named_parameters()})
        same(found[0], found[1], 1e-12)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("name", ["lstm", "gru_cho"])
def test_torch_compile_with_inductor(name: str, fresh_compiler: None, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled_like_itself(name, "inductor")


def test_torch_export(fresh_compiler: None) -> None:
    """The program runs without the layer, and after a round trip through a file."""
    layer, _ = twins("lstm", num_layers=2)
    x, states = given(layer, STEPS, BATCH)
    x, states = x.detach(), tuple(s.detach() for s in states)
    layer.eval()
    program = torch.export.export(layer, (x, states))
    expected = by_name(*layer(x, states))
    same(by_name(*program.module()(x, states)), expected, 1e-13)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    same(by_name(*torch.export.load(file).module()(x, states)), expected, 1e-13)


def test_torch_export_for_any_number_of_rows(fresh_compiler: None) -> None:
    layer, _ = twins("gru_cho")
    rows = torch.export.Dim("rows", min=2, max=64)
    x = normal(STEPS, BATCH, cases.INPUT)
    program = torch.export.export(layer.eval(), (x,), dynamic_shapes=({1: rows},))
    other = normal(STEPS, 13, cases.INPUT, seed=3)
    same(by_name(*program.module()(other)), by_name(*layer(other)), 1e-13)


EXPORTED = """
import sys
import torch
from cases import by_name
from compiled import given, layer_of, same
import refold as rf
layer_of("gru_cho", 19).operators()
program = torch.export.load(sys.argv[1]).module()
layer = layer_of("lstm", 19, num_layers=2)
x, states = given(layer, 5, 7)
with torch.no_grad():
    try:
        program(x, states)
    except rf.KernelError as error:
        assert error.remedy
        print("refused")
    layer.operators()
    same(by_name(*program(x, states)), by_name(*layer(x, states)), 1e-13)
print("equal")
"""


def test_an_exported_program_in_another_process(fresh_compiler: None, tmp_path: Path) -> None:
    """It needs the compiled layer, and says so; it finds it once the layer is made there too."""
    layer, _ = twins("lstm", num_layers=2)
    x, states = given(layer, STEPS, BATCH)
    plain = x.detach(), tuple(s.detach() for s in states)
    torch.export.save(torch.export.export(layer.eval(), plain), tmp_path / "program.pt2")
    run = process("-c", EXPORTED, tmp_path / "program.pt2")
    assert run.stdout.split() == ["refused", "equal"], run.stderr


def test_the_operator_keeps_torchs_rules() -> None:
    """torch's own check of schema, autograd, fake tensors and tracing.

    Traced values are compared where nothing is kept for the way back: what is kept has columns that nobody reads.
    """
    from refold.kernels.llvm.running.operator import name_of

    layer, _ = twins("lstm")
    x, states = given(layer, STEPS, BATCH)
    params = cases.parameters(layer)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    for lengths in (None, torch.tensor(ragged(STEPS, BATCH))):
        for histories in (False, True):
            for keep in (False, True):
                call = (
                    name_of(layer.kernel),  # type: ignore[arg-type]
                    [x.detach().requires_grad_(keep)],
                    [s[0].detach().requires_grad_(keep) for s in states],
                    [p.detach().requires_grad_(keep) for p in params.values()],
                    " ".join(params),
                    lengths,
                    STEPS,
                    False,
                    histories,
                    keep,
                )
                every = (*checks, *(() if keep else ("test_aot_dispatch_dynamic",)))
                torch.library.opcheck(torch.ops.refold.sequence.default, call, test_utils=every)


# ---------------------------------------------------------------- data parallel

PARALLEL = """
import os, sys, warnings
from pathlib import Path
import torch
import torch.distributed as dist
from compiled import given, layer_of
from torch.nn.parallel import DistributedDataParallel

def main(rank, count, folder):
    warnings.filterwarnings("ignore", category=FutureWarning)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=count)
    layer = layer_of("lstm", 19, num_layers=2)
    parallel = DistributedDataParallel(layer)
    x, states = given(layer, 5, 8)
    mine = slice(rank * 8 // count, (rank + 1) * 8 // count)
    y, _ = parallel(x[:, mine].detach(), tuple(s[:, mine].detach() for s in states))
    y.square().mean().backward()
    if rank == 0:
        torch.save({k: p.grad for k, p in layer.named_parameters()}, f"{folder}/found")
    dist.barrier()
    # torch takes its process group apart in another thread and may wait for itself there, whatever layer was in it.
    os._exit(0)

main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
"""


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_data_parallel_training(count: int, tmp_path: Path) -> None:
    """Gradients are the means over the processes: those of the whole batch."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(count) as pool:
        for run in [pool.submit(script, PARALLEL, k, count, tmp_path) for k in range(count)]:
            run.result()
    layer = layer_of("lstm", HIDDEN, num_layers=2)
    x, states = given(layer, 5, 8)
    layer(x, states)[0].square().mean().backward()
    found = torch.load(tmp_path / "found")
    same(found, {k: p.grad for k, p in layer.named_parameters() if p.grad is not None}, 1e-12)


# ---------------------------------------------------------------- torch.func and second derivatives


def reference_instead(warned: Any) -> None:
    """One warning at least, and it says what runs instead."""
    assert any("reference" in str(w.message) for w in warned)


def test_a_gradient_of_a_gradient_is_the_references_and_says_so() -> None:
    layer, reference = twins("lstm")
    found = []
    for made in (layer, reference):
        x, states = given(made, STEPS, BATCH)
        leaves = list(leaves_of(made, x, states).values())
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            values = by_name(*made(x, states))
            error = torch.stack([(v * v * normal(*v.shape)).sum() for v in values.values()]).sum()
            first = torch.autograd.grad(error, leaves, create_graph=True)
            along = torch.stack([(g * normal(*g.shape, seed=4)).sum() for g in first]).sum()
            second = torch.autograd.grad(along, leaves)
        if made is layer:
            reference_instead(warned)
        found.append(dict(enumerate((*first, *second))))
    same(found[0], found[1], 1e-11)


def test_a_penalty_on_the_gradient_trains() -> None:
    """create_graph=True and backward(), as for a gradient penalty."""
    found = []
    for layer in twins("gru"):
        x, _ = given(layer, STEPS, BATCH)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            y, _ = layer(x)
            (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
            (y.square().mean() + slope.square().sum()).backward()
        found.append({k: p.grad for k, p in layer.named_parameters()})
    same(found[0], found[1], 1e-11)


def test_vmap_is_the_references_and_says_so() -> None:
    layer, reference = twins("lstm")
    x = normal(STEPS, BATCH, cases.INPUT)
    with pytest.warns(UserWarning, match="reference"):
        found = vmap(lambda one: layer(one)[0], in_dims=1, out_dims=1)(x)
    same({"y": found}, {"y": reference(x)[0]})


def test_forward_mode_is_the_references_and_says_so() -> None:
    layer, reference = twins("lstm")
    x, direction = normal(STEPS, BATCH, cases.INPUT), normal(STEPS, BATCH, cases.INPUT, seed=2)
    with pytest.warns(UserWarning, match="reference"):
        mine = jvp(lambda v: layer(v)[0], (x,), (direction,))
    theirs = jvp(lambda v: reference(v)[0], (x,), (direction,))
    same(dict(enumerate(mine)), dict(enumerate(theirs)))


def test_dual_numbers_are_the_references_and_say_so() -> None:
    """Forward mode by torch.autograd.forward_ad, which no transform announces."""
    from torch.autograd import forward_ad

    x, direction = normal(STEPS, BATCH, cases.INPUT), normal(STEPS, BATCH, cases.INPUT, seed=2)
    found = []
    for layer in twins("lstm"):
        with warnings.catch_warnings(record=True) as warned, forward_ad.dual_level():
            warnings.simplefilter("always")
            y, _ = layer(forward_ad.make_dual(x, direction))
            value, along = forward_ad.unpack_dual(y)
        assert along is not None
        found.append({"y": value.detach(), "along": along.detach()})
        if len(found) == 1:
            reference_instead(warned)
    same(found[0], found[1])


def test_per_sample_gradients() -> None:
    from torch.func import grad

    x = normal(BATCH, STEPS, cases.INPUT)
    found = []
    for layer in twins("gru"):
        weights = {k: p.detach() for k, p in layer.named_parameters()}

        def error(w: dict[str, Tensor], one: Tensor, layer: rf.Recurrent = layer) -> Tensor:
            return functional_call(layer, w, (one,))[0].square().sum()

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            found.append(vmap(grad(error), in_dims=(None, 0))(weights, x))
    same(found[0], found[1])


def test_functional_call_uses_the_weights_it_is_given() -> None:
    layer, reference = twins("lstm")
    x, states = given(layer, STEPS, BATCH)
    weights = {
        k: normal(*p.shape, seed=50 + i).mul(0.3).requires_grad_()
        for i, (k, p) in enumerate(layer.named_parameters())
    }
    found = []
    for made in (layer, reference):
        values = by_name(*functional_call(made, weights, (x, states)))
        found.append(values | gradients_of(values, {"x": x, **weights}))
    same(found[0], found[1])
    identical(by_name(*layer(x, states)), by_name(*twins("lstm")[0](x, states)))


# ---------------------------------------------------------------- weights that are computed


@pytest.mark.parametrize("what", ["weight_norm", "spectral_norm", "orthogonal"])
def test_parametrizations(what: str) -> None:
    found = []
    for layer in twins("elman"):
        torch.manual_seed(4)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            getattr(parametrizations, what)(layer.l0, "W_h")
        layer.eval()  # spectral_norm goes one step on in each call in training
        x, states = given(layer, STEPS, BATCH)
        found.append(everything(layer, x, states))
    assert any("parametrizations" in key for key in found[0])
    same(found[0], found[1], 1e-11)


def test_checkpointing_and_hooks_on_what_is_saved() -> None:
    from torch.utils.checkpoint import checkpoint

    layer, _ = twins("lstm")
    x, states = given(layer, STEPS, BATCH)
    leaves = leaves_of(layer, x, states)
    plain = by_name(*layer(x, states))
    expected = plain | gradients_of(plain, leaves)
    again: Any = checkpoint(layer, x, states, use_reentrant=False)
    values = by_name(*again)
    same(values | gradients_of(values, leaves), expected, 1e-14)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
        values = by_name(*layer(x, states))
    same(values | gradients_of(values, leaves), expected, 1e-14)
    with torch.autograd.graph.save_on_cpu():
        values = by_name(*layer(x, states))
    same(values | gradients_of(values, leaves), expected, 1e-14)


# ---------------------------------------------------------------- modes


def test_autocast_leaves_the_layer_in_its_own_precision() -> None:
    """torch's products would be bfloat16 there; a recurrence is not, as in torch.nn.LSTM's oneDNN path in float32."""
    layer, _ = twins("lstm", dtype=torch.float32)
    x, states = given(layer, STEPS, BATCH)
    expected = everything(layer, x, states)
    with torch.autocast("cpu", torch.bfloat16):
        found = everything(layer, x, states)
    assert found["output"].dtype == torch.float32
    identical(found, expected)


def test_a_network_trains_in_autocast() -> None:
    layer, _ = twins("lstm", dtype=torch.float32)
    head = nn.Linear(HIDDEN, 2)
    x, _ = given(layer, STEPS, BATCH)
    with torch.autocast("cpu", torch.bfloat16):
        y = head(layer(x)[0])
        assert y.dtype == torch.bfloat16
        y.float().square().mean().backward()
    for p in (*layer.parameters(), *head.parameters()):
        assert p.grad is not None
        assert bool(p.grad.isfinite().all())
        assert p.grad.dtype == torch.float32


def test_anomaly_mode_and_gradcheck() -> None:
    layer = layer_of("lstm", 3)
    x, states = given(layer, 2, 2)
    with (
        warnings.catch_warnings(),
        torch.autograd.set_detect_anomaly(True),
    ):
        warnings.simplefilter("ignore")
        assert torch.autograd.gradcheck(lambda *a: layer(a[0], a[1:])[0], (x, *states))


def test_inference_mode_and_its_tensors() -> None:
    layer, _ = twins("lstm")
    x, states = given(layer, STEPS, BATCH)
    expected = by_name(*layer(x, states))
    with torch.inference_mode():
        found = by_name(*layer(x, states))
        assert found["output"].is_inference()
        inside = [s.clone() for s in states]
    identical({k: v.clone() for k, v in found.items()}, expected)
    with torch.no_grad():
        identical(by_name(*layer(x, tuple(inside))), expected)


def test_meta_tensors_are_refused_with_a_remedy() -> None:
    layer, _ = twins("lstm")
    with pytest.raises(rf.KernelError, match="meta"):
        layer.to("meta")(torch.zeros(2, 3, cases.INPUT, dtype=torch.float64, device="meta"))


def test_the_layer_says_which_backend_it_has() -> None:
    for name in (*cases.CASES, kitchen):
        layer = layer_of(name, 5)
        assert layer.kernel.backend == BACKEND
        assert layer.kernel.reason
