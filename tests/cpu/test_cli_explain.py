"""`refold explain` and `refold cells`, and how the command line names a cell."""

import pytest

import refold as rf
from refold.plan.explain import STAGES

MINE = """
import refold as rf

@rf.cell
def slow(x=rf.Input("m"), h=rf.State("n"), *, W=rf.Weight("n m"), tau=rf.Scalar(5.0)):
    return h + (rf.tanh(W @ x) - h) / tau

def plain(x): return x
"""


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


@pytest.mark.parametrize("name", rf.cells.all())
def test_every_zoo_cell_is_explained(refold, name):
    code, out, _ = refold("explain", name)
    assert code == 0
    assert out.strip() == str(rf.explain(rf.cells.get(name)))


@pytest.mark.parametrize("stage", STAGES)
def test_one_stage(refold, stage):
    code, out, _ = refold("explain", "elman", "--stage", stage)
    assert code == 0
    assert out.strip() == str(rf.explain(rf.cells.get("elman"), stage))


def test_latex(refold):
    code, out, _ = refold("explain", "lstm", "--latex")
    assert code == 0
    assert out.count(r"\begin{align*}") == out.count(r"\end{align*}") == 3


def test_small_memory_keeps_the_states_alone(refold):
    code, out, _ = refold("explain", "lstm", "--stage", "plan", "--memory", "small")
    assert code == 0
    assert "kept     the states after every step\n" in out


def test_a_cell_of_the_users_file(refold, mine):
    code, out, _ = refold("explain", f"{mine}:slow")
    assert code == 0
    assert "h(t) = h(t-1) + (tanh(W x(t)) - h(t-1)) / tau" in out


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("lstmm", 'there is no cell "lstmm"'),
        ("nowhere.py:slow", "there is no Python file nowhere.py"),
        ("mine.py:fast", "mine.py has no fast"),
        ("mine.py:plain", "plain in mine.py is no cell"),
        ("broken.py:slow", "broken.py cannot be run: ZeroDivisionError"),
        ("wrong.py:slow", "the inner sizes n and m differ"),
    ],
)
def test_what_is_refused(refold, mine, tmp_path, text, told):
    (tmp_path / "broken.py").write_text("1 / 0")
    (tmp_path / "wrong.py").write_text(MINE.replace('"n m"', '"n n"'))
    code, out, err = refold("explain", text)
    assert code == 2
    assert out == ""
    assert told in err.replace("\n       ", " ")


def test_a_wrong_stage_is_refused(refold):
    code, _, err = refold("explain", "lstm", "--stage", "kernel")
    assert code == 2
    assert "kernel" in err


def test_cells(refold):
    code, out, _ = refold("cells")
    assert code == 0
    for name in rf.cells.all():
        assert f"{name} " in out
