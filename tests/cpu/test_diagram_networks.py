"""Pictures of layers and networks, folded and unfolded, with and without their gradients."""

from pathlib import Path

import pytest
import torch
from woven import check_woven, degrees

import refold as rf
from refold.report.diagram.grid import Grid

ZOO = list(rf.cells.all())


def layer(cell="gru", m=3, n=8, **more):
    return rf.Recurrent(cell, m, n, **more)


def coded(both: bool) -> rf.Network:
    decoder = layer("lstm", 1, 16 if both else 8)
    encoder = layer("lstm", 2, bidirectional=both)
    return rf.Network(encoder, head=1, shape="encoder-decoder", decoder=decoder)


def network(shape, **more) -> rf.Network:
    return rf.Network(layer(**more), head=3, shape=shape)


NETWORKS = {
    "stack": lambda: layer(num_layers=3),
    "both": lambda: layer("lstm", num_layers=2, bidirectional=True),
    "residual": lambda: layer(m=8, num_layers=3, stack=rf.Stack("residual")),
    "highway": lambda: layer(m=8, num_layers=2, bidirectional=True, stack=rf.Stack("highway")),
    "dilated": lambda: layer("elman", num_layers=3, stack=rf.Stack(dilations=(1, 2, 4))),
    "dilated-both": lambda: layer(bidirectional=True, stack=rf.Stack(dilations=(2,))),
    "two-inputs": lambda: layer("ltc", num_layers=2),
    "jordan": lambda: rf.Network(layer("jordan", k=2), head=2),
    "many-to-many": lambda: network("many-to-many"),
    "many-to-one": lambda: network("many-to-one"),
    "many-to-one-both": lambda: network("many-to-one", bidirectional=True, num_layers=2),
    "one-to-one": lambda: network("one-to-one"),
    "one-to-many": lambda: network("one-to-many"),
    "encoder-decoder": lambda: coded(False),
    "encoder-decoder-both": lambda: coded(True),
}


def grid(picture) -> Grid:
    assert isinstance(picture.diagram, Grid)
    return picture.diagram


@pytest.mark.parametrize("name", ZOO)
def test_an_unfolded_cell_overlaps_nowhere(name):
    check_woven(rf.draw(name, unroll=3))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_overlaps_nowhere(name):
    made = NETWORKS[name]()
    check_woven(rf.draw(made))
    check_woven(rf.draw(made, unroll=1 if name == "one-to-one" else 5))


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_overlap_nowhere(name):
    torch.manual_seed(0)
    made = NETWORKS[name]()
    layers = made if isinstance(made, rf.Recurrent) else made.layer
    once = name in ("one-to-one", "one-to-many")
    x = torch.randn(1 if once else 4, 2, layers.input_features)
    fed = "encoder" in name or name == "one-to-many"
    y = made(x, steps=4) if fed else made(x)
    d = torch.randn_like(y[0] if isinstance(y, tuple) else y)
    picture = rf.draw(made, gradient=True, batch=(x, d))
    check_woven(picture)
    assert any(wire.flow for wire in grid(picture).wires)


def test_what_is_shared_has_one_letter_and_one_colour():
    found = grid(rf.draw("lstm", unroll=4))
    assert [weight.letter for weight in found.weights] == ["U", "W"]
    assert [w.weight for w in found.wires if w.key == "u00"] == [0] * 4
    hidden = [w.weight for w in found.wires if w.name == "h"]
    assert hidden == [1] * 4
    assert [w.weight for w in found.wires if w.name == "c"] == [-1] * 4  # nothing multiplies c


def test_each_layer_and_direction_has_weights_of_its_own():
    found = grid(rf.draw(layer(num_layers=2, bidirectional=True), unroll=3))
    letters = [weight.letter for weight in found.weights]
    assert letters == ["U_1", "W_1", "U_1′", "W_1′", "U_2", "W_2", "U_2′", "W_2′"]
    assert found.weights[4].text.endswith("each 8×16")


def test_jordans_output_is_fed_to_the_next_hidden_layer():
    found = grid(rf.draw("jordan", unroll=3))
    text = {node.place: node.text for node in found.nodes}
    back = [w for w in found.wires if w.name == "y" and text[w.start]]
    assert [(text[w.start], text[w.end]) for w in back] == [("Σ", "tanh")] * 2


def test_a_dilated_layer_reads_the_state_of_d_steps_before():
    made = layer("elman", num_layers=2, stack=rf.Stack(dilations=(1, 3)))
    found = grid(rf.draw(made, unroll=6))
    assert {w.end[1] - w.start[1] for w in found.wires if w.key == "s10h"} == {3}
    ends = {text for node in found.nodes for _, text in node.ends}
    assert {"h_2(0)", "h_2(−1)", "h_2(−2)", "h_2(4)", "h_2(5)", "h_2(6)"} <= ends


def test_the_unfolded_picture_of_the_documentation_is_this():
    drawn = Path(__file__).parents[2] / "docs" / "img" / "lstm_unfolded.svg"
    assert drawn.read_text() == rf.draw("lstm", unroll=4).svg


def test_a_long_run_is_shortened():
    texts = {node.text for node in grid(rf.draw("gru", unroll=40)).nodes}
    assert {"x(3)", "⋯", "x(39)", "x(40)"} <= texts and "x(4)" not in texts


def test_shapes_read_and_write_where_they_do():
    once = [n.text for n in grid(rf.draw(network("many-to-one"), unroll=4)).nodes]
    assert once.count("y") == 1 and once.count("linear") == 1 and "x(4)" in once
    fed = grid(rf.draw(network("one-to-many"), unroll=4))
    assert degrees(fed)["feedback"] == 3
    taught = grid(rf.draw(network("one-to-many"), unroll=4, teach=True))
    assert degrees(taught)["feedback"] == 0
    assert {"x(1)", "d(1)", "d(3)"} <= {n.text for n in taught.nodes}


def test_the_widths_are_those_of_the_gradients():
    torch.manual_seed(0)
    made, x, d = network("many-to-one"), torch.randn(4, 2, 3), torch.randn(2, 3)
    found = rf.gradients(made, x, d, steps="sum", sequences="mean")
    wires = grid(rf.draw(made, gradient=True, batch=(x, d))).wires
    norms = [w.flow.norm for w in wires if w.flow and w.key == "s00h~"]
    told = found.states[0]["h"].flatten(1).norm(dim=1)
    assert norms == pytest.approx(told[:3].tolist())
    read = [w.flow.norm for w in wires if w.flow and w.key == "u00~"]
    assert read == pytest.approx(found.inputs.flatten(1).norm(dim=1).tolist())


@pytest.mark.parametrize(("factor", "tone"), [(6.0, "explodes"), (0.05, "vanishes")])
def test_what_explodes_and_what_vanishes_is_marked(factor, tone):
    torch.manual_seed(0)
    made = network("many-to-one", cell="elman_relu", n=16)
    with torch.no_grad():
        made.get_parameter("layer.l0.W_h").mul_(factor)
    batch = (torch.randn(6, 4, 3), torch.randn(4, 3))
    picture = rf.draw(made, gradient=True, batch=batch)
    assert tone in {w.flow.tone for w in grid(picture).wires if w.flow}
    assert f"rf-line-{tone}" in picture.svg
    assert ("stroke-dasharray" in picture.svg) == (tone == "vanishes")


@pytest.mark.parametrize(
    ("made", "given", "fact"),
    [
        ("gru", {"unroll": 0}, "unroll is 0, and steps are whole numbers"),
        ("gru", {"unroll": (2, 3)}, "only an encoder and a decoder have two"),
        ("gru", {"unroll": 3, "teach": True}, "feeds no output back"),
        ("gru", {"teach": True}, "drawn folded"),
        ("gru", {"gradient": True}, "has no weights yet"),
        ("one-to-one", {"unroll": 2}, "a one-to-one network has one step"),
        ("many-to-one", {"gradient": True}, "there is no batch"),
        ("dilated", {"unroll": 99}, "99 steps of a dilated stack"),
    ],
)
def test_what_cannot_be_drawn_is_refused(made, given, fact):
    target = NETWORKS[made]() if made in NETWORKS else made
    with pytest.raises(rf.DataError, match=fact):
        rf.draw(target, **given)


def test_the_command_draws_networks(refold, tmp_path):
    out = tmp_path / "n.svg"
    words = ("--unroll", "5", "--theme", "dark", "--network", "many-to-one", "--out", str(out))
    code, told, _ = refold("draw", "gru", *words)
    assert (code, told.strip()) == (0, str(out))
    assert "gru, many-to-one, unfolded over 5 steps" in out.read_text()
    code, _, _ = refold("draw", "gru", "--gradient", "--layers", "2", "--out", str(out))
    assert code == 0 and "normal noise" in out.read_text()
    code, _, said = refold("draw", "gru", "--unroll", "x", "--out", str(tmp_path / "no.svg"))
    assert code == 2 and "whole numbers are wanted" in said
    assert not (tmp_path / "no.svg").exists()
