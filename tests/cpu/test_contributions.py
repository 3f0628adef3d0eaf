"""The terms of a gradient, step by step: they sum to it, and each is what its equation says."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import refold as rf
from refold import cells
from refold.errors import DataError, EquationError, RefoldError
from refold.ir.graph import Slot
from refold.ir.roles import roles
from refold.ir.wrap import recurrent_reads
from refold.train.gradients.bptt import gradients
from refold.train.gradients.contributions import contributions

F64 = torch.float64
EXACT: dict[str, Any] = {"rtol": 0.0, "atol": 1e-12}
SUMS: dict[str, Any] = {"steps": "sum", "sequences": "sum"}
MEANS: dict[str, Any] = {"steps": "mean", "sequences": "mean"}
T, B = 6, 3
BACKENDS = ["reference", "derived", "llvm"]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@rf.cell
def linear(x=rf.Input("m"), h=rf.State("n", start=1.0), *, w=rf.Weight("n")):
    return w * h + 0 * rf.sum(x)


def layer_of(cell, *args, **options):
    return rf.Recurrent(cell, 2, 3, *args, dtype=F64, **options)


def data_of(steps: int = T, k: int = 2, lengths: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
    """x and d, with NaN behind the end of each row."""
    x, d = torch.randn(steps, B, 2, dtype=F64), torch.randn(steps, B, k, dtype=F64)
    for row, length in enumerate(lengths or ()):
        x[length:, row] = torch.nan
        d[length:, row] = torch.nan
    return x, d


def sums_to_the_gradient(network: Any, x, d, **options: Any):
    """All terms, all adjoints, and the terms of the errors of each step alone."""
    torch.manual_seed(1)  # for whatever is dropped
    want = gradients(network, x, d, **options)
    torch.manual_seed(1)
    found = contributions(network, x, d, **options)
    assert list(found.terms) == list(want.parameters) == list(found.role)
    for name, total in found.gradients().items():
        assert_close(total, want.parameters[name], **EXACT, msg=lambda m, n=name: f"{n}: {m}")
    for direct, carried, whole in zip(found.direct, found.carried, want.states, strict=True):
        assert list(direct) == list(carried) == list(whole)
        for name, delta in whole.items():
            assert_close(direct[name] + carried[name], delta, **EXACT)
    parts = []
    for at in range(len(found.errors.step)):
        torch.manual_seed(1)
        parts.append(contributions(network, x, d, at=at, **options).terms)
    for name, terms in found.terms.items():
        assert_close(torch.stack([part[name] for part in parts]).sum(0), terms, **EXACT)
    return found


# What a term is -------------------------------------------------------------------------------------------------------


def test_the_terms_of_an_elman_network_by_its_equations():
    network = rf.Network(layer_of("elman"), head=2)
    x, d = data_of()
    found = contributions(network, x, d, **SUMS)
    delta = gradients(network, x, d, **SUMS).states[0]["h"]
    h = torch.cat([torch.zeros(1, B, 3, dtype=F64), network.layer(x)[0].detach()])
    for k in range(T):
        a = (1 - h[k + 1] ** 2) * delta[k]
        assert_close(found.terms["layer.l0.W_x"][k], a.T @ x[k], **EXACT)
        assert_close(found.terms["layer.l0.W_h"][k], a.T @ h[k], **EXACT)
        assert_close(found.terms["layer.l0.b"][k], a.sum(0), **EXACT)
        assert isinstance(network.head, nn.Linear)
        e = 2 * (network.head(h[k + 1]) - d[k]).detach()
        assert_close(found.terms["head.weight"][k], e.T @ h[k + 1], **EXACT)
        assert_close(found.direct[0]["h"][k], e @ network.head.weight.detach(), **EXACT)
    assert torch.count_nonzero(found.carried[0]["h"][:-1]) == (T - 1) * B * 3
    assert torch.count_nonzero(found.carried[0]["h"][-1]) == 0


def test_every_step_has_the_same_part_in_a_linear_one():
    """h(t) = w h(t-1), E = h(T)^2 / 2: each of the T terms is w^(2T - 1), so K of them give K w^(2T - 1)."""
    layer = rf.Recurrent(linear, 1, 1, dtype=F64)
    with torch.no_grad():
        layer.parameters_of()["w"].fill_(0.5)
    x = torch.zeros(10, 1, 1, dtype=F64)

    def half(y, d):
        return (y - d).square() / 2

    terms = contributions(layer, x, x, half, **SUMS, at=-1).terms["l0.w"]
    assert_close(terms, torch.full((10, 1), 0.5**19, dtype=F64), **EXACT)
    assert float(terms[-3:].sum()) == pytest.approx(5.7220458984375e-6, abs=1e-12)


def test_the_error_of_a_step_says_nothing_about_later_steps():
    network = rf.Network(layer_of("gru"), head=2)
    x, d = data_of()
    found = contributions(network, x, d, **SUMS, at=2)
    for terms in found.terms.values():
        assert torch.count_nonzero(terms[2]) > 0
        assert torch.count_nonzero(terms[3:]) == 0


def test_a_negative_step_counts_from_the_end_of_each_row():
    network, lengths = rf.Network(layer_of("lstm"), head=2), [6, 2, 4]
    x, d = data_of(lengths=lengths)
    for at in (-1, -2):
        found = contributions(network, x, d, **MEANS, lengths=lengths, at=at)
        mask = torch.arange(T)[:, None] == torch.tensor(lengths) + at
        want = gradients(network, x, d, **SUMS, lengths=lengths, mask=mask).parameters
        shares = [1 / (3 * length) for length in lengths]  # of a step in the mean of means
        alone = [
            gradients(network, x[:n, b : b + 1], d[:n, b : b + 1], **SUMS, mask=mask[:n, b : b + 1])
            for b, n in enumerate(lengths)
        ]
        for name, total in found.gradients().items():
            rows = [share * row.parameters[name] for share, row in zip(shares, alone, strict=True)]
            assert_close(total, torch.stack(rows).sum(0), **EXACT)
            assert_close(
                torch.stack([row.parameters[name] for row in alone]).sum(0), want[name], **EXACT
            )


# That they sum to the gradient ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_of_a_ragged_stack_in_both_directions(backend):
    layer = layer_of("lstm", num_layers=2, bidirectional=True, backend=backend)
    lengths = [6, 0, 4]
    found = sums_to_the_gradient(
        rf.Network(layer, head=2), *data_of(lengths=lengths), **MEANS, lengths=lengths
    )
    assert found.terms["layer.l1_reverse.f.W_h"].shape == (T, 3, 3)
    assert list(found.direct[3]) == ["h", "c"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cell", ["elman", "gru", "lru", "jordan"])
def test_of_cells_with_outputs_of_all_kinds(cell, backend):
    sizes = {"k": 2} if cell == "jordan" else {}
    network = rf.Network(layer_of(cell, backend=backend, **sizes), head=2)
    lengths = [3, 6, 1]
    sums_to_the_gradient(network, *data_of(lengths=lengths), **MEANS, lengths=lengths)


@pytest.mark.parametrize("backend", BACKENDS)
def test_of_all_that_is_wired_around_a_cell(backend):
    """Dilated layers under a highway, with learned starts, whose terms are those of each row's first step."""
    stack = rf.Stack("highway", dilations=(2, 3))
    options: Any = {"stack": stack, "learn_state": True, "backend": backend}
    network = rf.Network(layer_of("gru", num_layers=2, bidirectional=True, **options), head=2)
    found = sums_to_the_gradient(
        network, *data_of(7, lengths=[7, 2, 4]), **MEANS, lengths=[7, 2, 4]
    )
    assert found.role["layer.highway1.W_T"] == "output"
    assert found.role["layer.l0.start_h"] == "start"
    assert torch.count_nonzero(found.terms["layer.l0.start_h"][2:]) == 0
    assert torch.count_nonzero(found.terms["layer.l0_reverse.start_h"][2:]) > 0


def test_of_what_is_dropped_in_training():
    drop = rf.Regularise(variational=0.3, recurrent=0.3, zoneout=0.2, weight_drop=0.3)
    layer = layer_of("lstm", num_layers=2, dropout=0.3, regularise=drop)
    network = rf.Network(layer, nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 2, dtype=F64)))
    sums_to_the_gradient(network, *data_of(), **MEANS)


def test_of_a_weight_that_is_worked_out_from_another():
    layer = layer_of("elman")
    nn.utils.parametrizations.orthogonal(layer.get_submodule("l0"), "W_h")
    found = sums_to_the_gradient(layer, *data_of(k=3), **SUMS)
    assert found.role["l0.parametrizations.W_h.original"] == "recurrent"


def test_of_a_given_start_and_masks():
    network = rf.Network(layer_of("lstm", learn_state=True), head=2)
    state = tuple(torch.randn(1, B, 3, dtype=F64) for _ in range(2))
    mask = torch.rand(T, B, 2) > 0.4
    found = sums_to_the_gradient(network, *data_of(), **MEANS, state=state, mask=mask)
    assert torch.count_nonzero(found.terms["layer.l0.start_h"]) == 0  # it was not used


def test_of_networks_of_all_shapes():
    x, d = data_of()
    rows = [6, 2, 4]
    for shape, steps in (("many-to-one", T), ("one-to-one", 1)):
        network = rf.Network(layer_of("lstm"), 2, shape)  # type: ignore[arg-type]
        options = {"lengths": rows} if steps > 1 else {}
        found = sums_to_the_gradient(network, x[:steps], d[0], **MEANS, **options)
        assert torch.count_nonzero(found.terms["head.bias"].sum(1)) == (3 if steps > 1 else 1)
    network = rf.Network(layer_of("gru"), 2, "one-to-many")
    sums_to_the_gradient(network, x[:1], d[:4], **MEANS, d_lengths=[4, 2, 3])
    network = rf.Network(layer_of("gru"), 2, "encoder-decoder", decoder=layer_of("gru"))
    found = sums_to_the_gradient(network, x, d[:4], **MEANS, lengths=rows, d_lengths=[4, 2, 3])
    assert found.terms["layer.l0.W_n"].shape[0] == T and found.terms["decoder.l0.W_n"].shape[0] == 4
    assert found.parts()["recurrent"].shape == (T,)


# What is made of them -------------------------------------------------------------------------------------------------


def test_parts_are_norms_of_all_terms_of_a_kind():
    network = rf.Network(layer_of("elman", num_layers=2), head=2)
    x, d = data_of()
    found = contributions(network, x, d, **SUMS)
    parts = found.parts()
    assert list(parts) == ["input", "recurrent", "bias", "output"]
    both = torch.cat([found.terms[f"layer.l{k}.W_h"].flatten(1) for k in (0, 1)], 1)
    assert_close(parts["recurrent"], both.norm(dim=1), **EXACT)
    small = contributions(network, x, d, **SUMS, norms=True)
    assert small.terms["layer.l0.W_h"].shape == (T,)
    assert_close(small.parts(), parts, **EXACT)
    assert small.role == found.role


def test_what_a_parameter_does():
    said = {name: roles(cells.of(name).graph) for name in ("lstm", "jordan", "lru", "mgu3")}
    assert said["lstm"]["f.W_x"] == "input" and said["lstm"]["f.W_h"] == "recurrent"
    assert said["lstm"]["f.b"] == "bias"
    assert said["jordan"] == {
        "W_x": "input",
        "W_y": "recurrent",
        "b": "bias",
        "V": "recurrent",
        "c": "bias",
    }
    assert said["lru"]["nu_log"] == "recurrent" and said["lru"]["B_re"] == "input"
    assert said["lru"]["C_re"] == said["lru"]["D"] == "output"
    assert said["mgu3"]["b_f"] == "recurrent"  # sigmoid(b_f) * h


def test_what_multiplies_old_states_is_recurrent_in_every_cell():
    seen = 0
    for cell in cells.all().values():
        said = roles(cell.graph)
        assert set(said) == {leaf.name for leaf in cell.graph.leaves_of("param")}
        try:
            weights = recurrent_reads(cell.graph).weights
        except EquationError:
            continue
        graph = cell.graph
        reached = graph.before(output.node for output in graph.outputs_of("state"))
        for name in weights:  # unless it is read out, and no state comes of it
            fed = graph.slots()[Slot("param", name)] in reached
            assert said[name] == ("recurrent" if fed else "output"), f"{cell.name}: {name}"
        seen += 1
    assert seen > 50
    assert roles(cells.of("intersection").graph)["a.W_h"] == "output"  # a gate along depth


def test_nothing_is_left_behind():
    network = rf.Network(layer_of("gru"), head=2)
    x, d = data_of()
    want = contributions(network, x, d, **SUMS)
    with torch.no_grad():
        found = contributions(network, x, d, **SUMS)
    assert_close(found.terms, want.terms, rtol=0, atol=0)
    assert all(p.grad is None for p in network.parameters())
    assert network.head is not None and not network.head._forward_hooks
    frozen = network.layer.parameters_of()["W_n"].requires_grad_(False)
    found = contributions(network, x, d, **SUMS)
    assert not frozen.requires_grad and "layer.l0.W_n" not in found.terms | found.role


def test_a_record_lasts_as_long_as_its_block():
    layer, x = layer_of("lstm", bidirectional=True), data_of()[0]
    with layer.record() as records:
        layer(x)
        y, _ = layer(x[:2])
        with layer.probe() as probes:
            layer(x)
        assert [len(record.run.history) for record in records] == [2, 2]
        assert records[0].call.steps == T and probes[0]["h"].shape[0] == T
    layer(x[:3])
    assert records[0].call.steps == T
    assert_close(layer(x[:2])[0], y)


@pytest.mark.parametrize(("steps", "rows"), [(0, 2), (3, 0)])
def test_of_no_steps_and_of_no_rows_there_is_nothing(steps, rows):
    layer = layer_of("lstm")
    x, d = torch.zeros(steps, rows, 2, dtype=F64), torch.zeros(steps, rows, 3, dtype=F64)
    found = contributions(layer, x, d, **SUMS)
    assert found.terms["l0.f.b"].shape == (steps, 3)
    assert torch.count_nonzero(found.terms["l0.f.b"]) == 0


# What is refused ------------------------------------------------------------------------------------------------------


def test_refusals():
    x, d = data_of(k=3)
    layer = layer_of("elman")
    text = r"contributions\(network\)\nnetwork is a GRU, whose steps are not known\ngive an rf\.Network"
    with pytest.raises(RefoldError, match=text):
        contributions(nn.GRU(2, 3), x, d, **SUMS)  # type: ignore[arg-type]
    for at in (T, -T - 1):
        with pytest.raises(DataError, match=rf"at is {at}, and the targets have 6 step\(s\)\ngive"):
            contributions(layer, x, d, **SUMS, at=at)
    with pytest.raises(RefoldError, match=r"norms of the terms were kept.*\ncall contributions"):
        contributions(layer, x, d, **SUMS, norms=True).gradients()
