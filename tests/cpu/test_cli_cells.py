"""`refold cells`: what the list says of every cell, one cell in full, and speeds that are measured once."""

import json
import subprocess
import sys
from typing import Any

import pytest
import torch

import refold as rf
from refold.cli import timing, zoo
from refold.cli.zoo import Sizes

SMALL = ("--input-size", 3, "--hidden-size", 5, "--steps", 4, "--batch", 2)


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    """A cache of the test's own."""
    monkeypatch.delenv("REFOLD_VECTORS", raising=False)
    monkeypatch.setenv("REFOLD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(timing, "SECONDS", 0.0)
    return tmp_path / "cache"


@pytest.fixture
def told(refold):
    """What --json gives."""

    def call(*words):
        code, out, err = refold("cells", *words, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)

    return call


def test_every_cell_has_a_line(refold):
    code, out, err = refold("cells")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    for family, members in rf.cells.families().items():
        for name, cell in members.items():
            (line,) = [line for line in lines if line.startswith(f"{name} ")]
            words = line.split()
            assert words[1] == family
            assert set(words) >= {leaf.name for leaf in cell.graph.leaves_of("state")} | {"—"}
    assert f"{len(rf.cells.all())} cells; numbers at m 16, n 64" in out
    assert "refold cells --speed" in out


def test_every_cell_has_a_family_and_a_use():
    members = [name for family in rf.cells.families().values() for name in family]
    assert members == list(rf.cells.all())
    for entry in zoo.entries(Sizes()):
        assert entry.use, entry.cell.name
        assert entry.cell.source, entry.cell.name


def test_the_numbers_are_those_of_a_layer(told):
    """Parameters counted, states as wide, the backend and its reason, for every cell."""
    found = told(*SMALL)["cells"]
    assert list(found) == list(rf.cells.all())
    for name, data in found.items():
        numbers = Sizes(3, 5).numbers(rf.cells.get(name))
        others: dict[str, Any] = {k: v for k, v in numbers.items() if k not in ("m", "n")}
        layer = rf.Recurrent(name, 3, 5, **others)
        assert data["parameters"]["number"] == sum(p.numel() for p in layer.parameters()), name
        widths = {key: state["number"] for key, state in data["states"].items()}
        assert widths == layer.state_sizes, name
        assert (data["backend"], data["reason"]) == (layer.kernel.backend, layer.kernel.reason)
        assert data["speed"] is None


def test_work_of_a_step(told):
    flops = told("lstm", *SMALL)["cells"]["lstm"]["flops_per_step"]
    assert flops == {"formula": "8 m n + 8 n²", "number": 8 * 3 * 5 + 8 * 5 * 5}


def test_one_family(refold, told):
    assert list(told("--family", "gru")["cells"]) == list(rf.cells.families()["gru"])
    _, out, _ = refold("cells", "--family", "gru")
    assert "gru_cho " in out
    assert "elman " not in out


def test_one_cell_in_full(refold):
    code, out, _ = refold("cells", "lstm", *SMALL)
    assert code == 0
    assert out.startswith(str(rf.explain(rf.cells.get("lstm"))))
    assert "learns   4 m n + 4 n² + 4 n = 180 numbers" in out
    assert "not measured; refold cells lstm --speed does so" in out


def test_a_narrow_terminal_has_numbers_alone(refold, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    _, out, _ = refold("cells", "--family", "gru")
    assert "15,616" in out
    assert "n²" not in out
    assert "formulas: 170 columns, or --json" in out


def test_a_pipe_is_wide(refold, monkeypatch):
    monkeypatch.delenv("COLUMNS")
    _, out, _ = refold("cells", "--family", "gru")
    assert "3 m n + 3 n² + 4 n" in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("lstmm",), 'there is no cell "lstmm"'),
        (("--family", "fast"), 'there is no family "fast"'),
        (("gru", "--family", "gru"), 'the cell "gru" and a family were named'),
        (("--steps", 0), "--steps"),
    ],
)
def test_what_is_refused(refold, words, told):
    code, out, err = refold("cells", *words)
    assert (code, out) == (2, "")
    assert told in err


def test_nothing_heavy_is_loaded():
    program = (
        "import sys; from refold.cli.main import app; app(['cells'], standalone_mode=False); "
        "print(*[m for m in ('torch', 'numpy', 'llvmlite') if m in sys.modules], file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "lstm_peephole" in ran.stdout
    assert ran.stderr.strip() == ""


def test_a_measured_speed_is_known_later(refold, told, folder, monkeypatch):
    measured = told("gru", *SMALL, "--speed")["cells"]["gru"]["speed"]
    assert measured["cell"] > 0
    assert measured["relative"] == pytest.approx(measured["lstm"] / measured["cell"])
    assert [p.name for p in folder.iterdir() if p.suffix == ".json"] == [zoo.FILE]
    again = told(*SMALL)["cells"]
    assert again["gru"]["speed"] == measured
    assert again["mgu"]["speed"] is None
    _, out, _ = refold("cells", "gru", *SMALL)
    assert f"speed    {measured['relative']:.2f} (" in out
    _, out, _ = refold("cells", "--family", "gru", *SMALL)
    assert f" {measured['relative']:.2f} " in out
    # Other sizes, other threads, other vectors: not known.
    assert told("gru")["cells"]["gru"]["speed"] is None
    assert told("gru", *SMALL, "--threads", 2)["cells"]["gru"]["speed"] is None
    monkeypatch.setenv("REFOLD_VECTORS", "sse")
    assert told("gru", *SMALL)["cells"]["gru"]["speed"] is None


def test_another_equation_of_the_name_is_not_known():
    first, second = (rf.cells.get(name) for name in ("gru", "gru_cho"))
    assert zoo.remember(first, Sizes(), zoo.Speed(1.0, 2.0)) == ""
    renamed = rf.Cell("gru", second.graph)
    here = zoo._here()
    assert zoo._key(first, Sizes(), here) in zoo.recall()
    assert zoo._key(renamed, Sizes(), here) not in zoo.recall()


def test_the_oldest_speeds_go(monkeypatch):
    monkeypatch.setattr(zoo, "LIMIT", 2)
    for name in ("gru", "mgu", "lstm"):
        zoo.remember(rf.cells.get(name), Sizes(), zoo.Speed(1.0, 2.0))
    assert [key.split()[0] for key in zoo.recall()] == ["mgu", "lstm"]


@pytest.mark.parametrize("text", ["", "[1, 2]", '{"gru 0": 1}', '{"gru 0": {"cell": 1}}', "\x00"])
def test_a_damaged_file_is_no_file(folder, text):
    folder.mkdir()
    (folder / zoo.FILE).write_text(text)
    assert zoo.recall() == {}
    zoo.remember(rf.cells.get("gru"), Sizes(), zoo.Speed(1.0, 2.0))
    assert list(zoo.recall().values()) == [zoo.Speed(1.0, 2.0)]


def test_speeds_that_cannot_be_kept(refold, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REFOLD_CACHE", str(tmp_path / "file" / "cache"))
    code, out, _ = refold("cells", "elman", *SMALL, "--speed")
    assert code == 0
    assert "the speeds cannot be kept: " in out
    assert "torch.nn.LSTM's time of a training step" in out


@rf.cell(source="a network that learns nothing")
def frozen(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    W=rf.Weight("n m", learn=False),
    U=rf.Weight("n n", learn=False),
):
    return rf.tanh(W @ x + U @ h)


@rf.cell(source="a weight that does not reach the output")
def idle(x=rf.Input("m"), h=rf.State("n"), c=rf.State("n"), *, W=rf.Weight("n m"), u=rf.Bias("n")):
    return rf.tanh(W @ x + h), rf.tanh(c + u)


@pytest.mark.parametrize("cell", [frozen, idle], ids=lambda c: c.name)
def test_every_kind_of_cell_can_be_measured(cell):
    found = timing.measure(cell, Sizes(3, 5, 4, 2), seconds=0.0)
    assert found.cell > 0
    assert found.lstm > 0


def test_measuring_leaves_the_process_as_it_was():
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    timing.measure(rf.cells.get("elman"), Sizes(3, 5, 4, 2, threads + 1), seconds=0.0)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == threads
