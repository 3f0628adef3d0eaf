"""`refold diagnose` on a model that was kept: the same figures as from Python, and what is refused."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import refold as rf
from refold.forecast import Settings


@pytest.fixture
def model(refold, tmp_path, monkeypatch):
    """A model of two networks that were hardly trained."""
    monkeypatch.setattr(
        "refold.forecast.Settings",
        lambda **given: Settings(**{"members": 2, "steps": 3, "rate": 1e-3, **given}),
    )
    days = pl.date_range(pl.date(2020, 1, 1), pl.date(2024, 12, 1), "1mo", eager=True)
    values = 20 + np.arange(60) + 5 * np.sin(np.arange(60))
    pl.DataFrame({"day": days, "sold": values}).write_csv(tmp_path / "shop.csv")
    code, _, err = refold("fit", tmp_path / "shop.csv", "-H", 3, "--no-intervals", "--out", "model")
    assert code == 0, err
    return tmp_path / "model"


def test_it_says_what_python_says(refold, model):
    code, out, err = refold("diagnose", model, "--network", 2, "--exponents", 3)
    assert code == 0 and err == "Written to refold-diagnosis: diagnosis.html, diagnosis.json\n"
    for word in ("vanish", "Memory", "half-life", "sigmoid", "Lyapunov", "Kaplan-Yorke"):
        assert word in out
    table = out.split("Lyapunov")[1].splitlines()[2:]
    assert [len(line.split()) for line in table[:4]] == [3, 3, 3, len(table[3].split())]
    assert "row(s) of" in table[3]
    other = refold("diagnose", model)[1]
    assert other.split("Memory")[1] != out.split("Memory")[1]


def test_what_is_refused(refold, model):
    for options, text in (
        (("--network", 3), "2 network(s), and network 3 is asked for"),
        (("--network", 0), "--network from 1 to 2"),
        (("--exponents", 0), "--exponents is 0"),
    ):
        code, out, err = refold("diagnose", model, *options)
        assert code == 2 and out == "" and text in err
    code, out, err = refold("diagnose", model.parent / "nothing")
    assert code == 2 and out == "" and "nothing" in err


def test_it_writes_the_page_and_its_numbers(refold, model):
    code, out, _ = refold("diagnose", model, "--json", "--out", "told", "--no-plot")
    assert code == 0
    told, kept = json.loads(out), json.loads(Path("told/diagnosis.json").read_text())
    assert told == kept and told["verdict"]["kind"] in ("vanish", "explode", "neither")
    page = Path("told/diagnosis.html").read_text()
    assert told["verdict"]["sentence"].split(".")[0] in page
    assert f"refold diagnose {model} --network 1 --exponents 4" in page


def test_newer_rows_move_it_on(refold, model):
    rows = pl.read_csv(model.parent / "shop.csv", try_parse_dates=True)
    newer = rows.tail(1).with_columns(pl.col("day").dt.offset_by("1mo"), sold=pl.lit(90.0))
    newer.write_csv("shop.csv")
    before = json.loads(refold("diagnose", model, "--json", "--no-plot")[1])
    code, out, err = refold("diagnose", model, "shop.csv", "--json", "--no-plot", "--out", "on")
    assert code == 0, err
    after = json.loads(out)
    assert after["memory"]["median"] != before["memory"]["median"]


def test_the_networks_of_a_model_are_drawn(refold, model, tmp_path):
    code, out, err = refold("draw", "model", "--theme", "light")
    assert (code, out) == (0, "model.svg\n"), err
    assert "32×32" in (tmp_path / "model.svg").read_text()
    code, _, err = refold("draw", "model", "--gradient", "--unroll", "4", "--out", "flow.svg")
    assert code == 0, err
    flow = (tmp_path / "flow.svg").read_text()
    assert "Trained weights" in flow and "last 4 steps" in flow and "h(4)" in flow
    code, _, err = refold("draw", "model", "--layers", "2")
    assert code == 2 and "a folder says itself" in err


@pytest.fixture
def columns(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "x.csv"
    pl.DataFrame({name: torch.randn(50).numpy() for name in "ab"}).write_csv(path)
    return path


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_weights_of_torch_are_diagnosed_as_the_layer_itself(refold, tmp_path, columns, kind):
    layer = getattr(torch.nn, kind)(2, 3, num_layers=2)
    torch.save({f"deep.{n}": t for n, t in layer.state_dict().items()}, tmp_path / "w.pt")
    code, out, err = refold("diagnose", "w.pt", columns, "--no-plot")
    assert code == 0, err
    own = getattr(rf.nn, kind)(2, 3, num_layers=2)
    own.load_state_dict(layer.state_dict())
    x = pl.read_csv(columns).to_torch()
    assert out.split("\n\n")[0] == str(rf.dynamics(own, x))


@pytest.mark.parametrize("layers", [1, 2])
def test_weights_of_refold_need_the_name_of_their_cell(refold, tmp_path, columns, layers):
    network = rf.Network(rf.Recurrent("mgu", 2, 3, num_layers=layers), head=1)
    torch.save(network.state_dict(), tmp_path / "w.pt")
    code, out, err = refold("diagnose", "w.pt", columns, "--cell", "mgu", "--no-plot")
    assert code == 0, err
    x = pl.read_csv(columns).to_torch()
    assert out.split("\n\n")[0] == str(rf.dynamics(network, x))
    code, out, err = refold("diagnose", "w.pt", columns)
    assert code == 2 and out == "" and "name it: --cell" in err


def test_what_is_refused_of_weights(refold, tmp_path, columns):
    torch.save(torch.nn.GRU(2, 3).state_dict(), tmp_path / "gru.pt")
    torch.save(torch.nn.Linear(2, 3).state_dict(), tmp_path / "linear.pt")
    torch.save(torch.ones(2), tmp_path / "one.pt")
    (tmp_path / "text.pt").write_text("weights")
    pl.DataFrame({"a": [1.0], "b": ["x"]}).write_csv(tmp_path / "words.csv")
    pl.DataFrame({"a": [1.0, 2.0]}).write_csv(tmp_path / "narrow.csv")
    for words, text in (
        (("linear.pt",), "it has no recurrent layer(s)"),
        (("one.pt",), "it holds a Tensor"),
        (("text.pt",), "it cannot be read as a state_dict"),
        (("none.pt",), "there is no such file"),
        (("gru.pt", columns, "--cell", "lstm"), "which no lstm has"),
        (("gru.pt", "words.csv"), "column 'b' holds String"),
        (("gru.pt", "narrow.csv"), "reads 2 features"),
        (("gru.pt", "absent.csv"), "it cannot be read"),
    ):
        code, out, err = refold("diagnose", *words)
        assert code == 2 and out == "" and text in err, err
        assert not Path("refold-diagnosis").exists()
