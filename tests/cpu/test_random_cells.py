"""Rung 6 of the ladder: the derived adjoint against torch's autograd, on equations drawn at random."""

import pytest
import torch
from random_cells import Draw

from refold.ir.check import check
from refold.ir.ops import OPS
from refold.ir.rewrite import fold, gather, share
from refold.kernels.autograd import Derived
from refold.kernels.base import Call
from refold.kernels.reference import Reference
from refold.plan.adjoint import reverse
from refold.plan.plan import plan
from refold.plan.split import hoist

COUNT, BATCHES = 600, 20
SIZES = {"m": 2, "n": 3, "k": 2}
STEPS, ROWS = 4, 3


def drawn_call(cell, seed):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    graph = cell.graph
    inputs = tuple(
        normal(STEPS, ROWS, SIZES[leaf.shape[0].terms[0][0][0]])
        for leaf in graph.leaves_of("input")
    )
    states = tuple(normal(ROWS, leaf.shape[0].at(SIZES)) for leaf in graph.leaves_of("state"))
    params = {
        leaf.name: (0.6 * normal(*(s.at(SIZES) for s in leaf.shape))).detach().requires_grad_()
        for leaf in graph.leaves_of("param")
    }
    lengths = torch.tensor([4, 0, 2]) if seed % 3 == 0 else None
    return Call(STEPS, inputs, states, params, lengths, backwards=seed % 2 == 0)


def outcome(kernel, call):
    run = kernel(call)
    generator = torch.Generator().manual_seed(0)
    results = (run.output, *run.history, *run.final)
    shares = [(r * torch.randn(r.shape, generator=generator, dtype=r.dtype)).sum() for r in results]
    error = torch.stack(shares).sum()
    arguments = (*call.inputs, *call.states, *call.params.values())
    gradients = torch.autograd.grad(error, arguments, materialize_grads=True)
    return {"error": error, **{str(i): g for i, g in enumerate(gradients)}}


@pytest.mark.parametrize("batch", range(BATCHES))
def test_derived_adjoint_is_autograds(batch):
    for seed in range(batch, COUNT, BATCHES):
        cell = Draw(seed).cell()
        call = drawn_call(cell, seed)
        expected = outcome(Reference(plan(cell), SIZES, "test"), call)
        assert all(v.isfinite().all() for v in expected.values())
        for memory in ("fast", "small"):
            found = outcome(Derived(plan(cell, memory), SIZES, "test"), call)
            torch.testing.assert_close(
                found,
                expected,
                rtol=1e-9,
                atol=1e-10,
                msg=lambda m, s=seed, y=memory: f"cell {s}, {y}: {m}",
            )


@pytest.mark.parametrize("batch", range(BATCHES))
def test_every_pass_leaves_a_legal_graph(batch):
    for seed in range(batch, COUNT, BATCHES):
        graph = Draw(seed).cell().graph
        for rewrite in (fold, gather, share, fold):
            graph = check(rewrite(graph))
        once, step = hoist(graph)
        check(once)
        check(step)
        check(fold(reverse(step)))
        for memory in ("fast", "small"):
            p = plan(Draw(seed).cell(), memory)
            for legal in (p.once, p.forward.graph, p.backward.graph, p.once_back):
                check(legal)


def test_the_generator_reaches_every_differentiable_op():
    reached = set()
    for seed in range(COUNT):
        cell = Draw(seed).cell()
        reached |= {node.op for node in cell.graph.nodes}
    unreached = {
        "floor",
        "round",
        "outer",
        "pad",
        "expand",
        "matmul",
    }  # no gradient; reverse steps only; parameters only
    assert reached >= set(OPS) - unreached
