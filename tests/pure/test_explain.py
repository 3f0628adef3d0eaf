"""What `explain` prints: as it stands in tests/golden, as legal LaTeX, and as true equations.

After a wanted change of the text, renew the golden files with

    REFOLD_UPDATE_GOLDEN=1 python -m pytest tests/pure/test_explain.py

and read the difference before committing it.
"""

import os
import re
from pathlib import Path
from typing import Any

import pytest

import refold as rf
from refold.errors import PlanError

GOLDEN = Path(__file__).parents[1] / "golden"


def compare(text: str, file: str) -> None:
    """The text is what the golden file holds; or, on request, becomes it."""
    path = GOLDEN / file
    if os.environ.get("REFOLD_UPDATE_GOLDEN") == "1":
        path.write_text(text + "\n", encoding="utf-8")
    assert text + "\n" == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["elman", "leaky", "lstm", "gru_cho"])
def test_the_explanation_is_as_agreed(name):
    compare(str(rf.explain(rf.cells.get(name))), f"{name}.txt")


def test_the_latex_is_as_agreed():
    compare(rf.explain(rf.cells.get("elman")).latex, "elman.tex")


# Form -----------------------------------------------------------------------------------------------------------------


@rf.cell
def every_op(
    x=rf.Input("m"),
    h=rf.State("2n"),
    s=rf.State(""),
    *,
    W=rf.Weight("2n m"),
    U=rf.Weight("n 2n"),
    a_long_name=rf.Bias("n"),
    alpha=rf.Scalar(0.5, learn=True),
):
    v = W @ x - h**3 / (1 + rf.abs(h) ** 0.5)
    p, q = rf.split(v, 2)
    p = rf.where((p < q) & ~(p >= 0) | (q == 1), rf.exp(-p), rf.minimum(p, rf.maximum(q, -2.5e-7)))
    w = rf.concat(rf.softmax(q), U @ rf.layer_norm(h) * rf.norm(q) + a_long_name)
    new = rf.tanh(w) + rf.softplus(rf.sin(rf.cos(rf.atan(rf.erf(h))))) + alpha * rf.max(p)
    return rf.Step(
        new,
        rf.sum(new) * s,
        output=rf.stop_gradient(rf.floor(h)) + rf.sqrt(1 + h * h) + rf.log(1 + s * s),
    )


# Networks of thresholds give nothing that has a gradient.
LEARNED = [
    cell
    for cell in rf.cells.all().values()
    if cell.name not in ("mcculloch_pitts", "hopfield", "bam")
]


@pytest.mark.parametrize("cell", [*LEARNED, every_op], ids=lambda cell: cell.name)
def test_the_latex_is_balanced(cell):
    latex = rf.explain(cell).latex
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", latex):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    assert depth == 0
    assert latex.count(r"\left(") == latex.count(r"\right)")
    assert latex.count(r"\lVert") == latex.count(r"\rVert")
    assert (
        re.findall(r"\\(begin|end)\{(.*?)\}", latex) == [("begin", "align*"), ("end", "align*")] * 3
    )
    for block in re.findall(r"\\begin\{align\*\}\n(.*?)\n\\end\{align\*\}", latex, re.S):
        rows = block.split(" \\\\\n")
        assert all(row.count("&=") == 1 for row in rows)
        # No name has two lower or two upper indices side by side, which LaTeX refuses.
        assert not re.search(r"(\^|_)\{[^{}]*\}\1", block)
    assert latex.isascii()


@pytest.mark.parametrize("cell", [*LEARNED, every_op], ids=lambda cell: cell.name)
def test_every_name_is_defined_once_and_every_weight_has_a_gradient(cell):
    e = rf.explain(cell)
    step, adjoint = [left for left, _ in e.step], [left for left, _ in e.adjoint]
    gradients = [left for left, _ in e.gradients]
    for names in (step, adjoint, gradients, [*step, *adjoint]):
        assert len(names) == len(set(names))
    learned = [leaf.name for leaf in cell.graph.leaves_of("param") if leaf.learn]
    assert [f"dE/d{name}" for name in learned if f"dE/d{name}" not in gradients] == []
    states = [leaf.name for leaf in cell.graph.leaves_of("state")]
    assert [f"δ_{name}(t)" for name in states] == adjoint[: len(states)]


def test_stages_choose_what_is_printed():
    elman = rf.cells.get("elman")
    graph, adjoint, whole = (
        str(rf.explain(elman, s)) for s in ("graph", "adjoint", ("graph", "adjoint", "plan"))
    )
    assert "h(t) = tanh" in graph and "δ_h" not in graph and "plan" not in graph
    assert "δ_h(t) =" in adjoint and "h(t) = tanh" not in adjoint
    assert whole == str(rf.explain(elman)) == repr(rf.explain(elman))
    assert rf.explain(elman, "plan").latex == ""
    assert "memory='small'" in str(rf.explain(elman, "plan", memory="small"))
    with pytest.raises(PlanError, match='no stage "plans"') as caught:
        rf.explain(elman, "plans")
    assert caught.value.remedy == "Choose among graph, adjoint, plan."


def test_a_weight_that_is_not_learned_has_no_gradient():
    gradients = [left for left, _ in rf.explain(rf.cells.get("leaky")).gradients]
    assert "dE/dalpha" not in gradients and "dE/dW_h" in gradients


# Truth: the printed right-hand sides, worked out with NumPy -----------------------------------------------------------

STEPS, SIZES = 4, {"m": 2, "n": 3, "k": 3}


def python(text: str) -> str:
    """A printed right-hand side as Python: W v is W @ v, ⊙ and · are *, and a name is looked up at its time."""
    text = text.removeprefix("Σ_t ").translate(
        str.maketrans({"ᵀ": "⊺", "²": "**2", "⊙": "*", "·": "*", "[": "(", "]": ")"})
    )
    text = re.sub(r"(?<=[\w)⊺']) (?=[\w(∂])", " @ ", text)

    def looked_up(match: re.Match[str]) -> str:
        name, time = match.groups()
        is_function = time is None and match.string[match.end() :].startswith("(")
        return name if is_function else f'at("{name}", {time})'

    text = re.sub(r"((?:∂E/∂)?[^\W\d][\w.']*)(?:\((t(?:[+-]1)?)\))?", looked_up, text)
    return text.replace("⊺", ".T")


@rf.cell
def layered(
    x=rf.Input("m"),
    h=rf.State("n"),
    g=rf.State("n"),
    *,
    W=rf.Weight("n m"),
    U=rf.Weight("n n"),
    V=rf.Weight("n n"),
):
    """One name for several values, a state inside a step, and a state that another is divided by."""
    v = W @ x + U @ g
    v = rf.tanh(v) / (1 + v * v)
    new = rf.exp(-(v * v)) * h + v
    return new, rf.tanh(V @ new) / (2 + h * h) * (V @ h)


@rf.cell
def antisymmetric(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    W=rf.Weight("n n"),
    V=rf.Weight("n m"),
    gamma=rf.Scalar(0.1),
):
    A = W - W.T
    return h + 0.5 * rf.tanh(A @ h - gamma * h + V @ x)


@rf.cell
def layer_normed(
    x=rf.Input("m"), h=rf.State("n"), *, W=rf.Weight("n n"), V=rf.Weight("n m"), g=rf.Weight("n")
):
    return rf.tanh(rf.layer_norm(W @ h + V @ x, weight=g))


class Run:
    """The printed equations of a cell on random numbers: vectors are columns, time runs from 1 to STEPS."""

    def __init__(self, cell: rf.Cell):
        self.np = pytest.importorskip("numpy")
        self.random = self.np.random.default_rng(1)
        self.explanation, self.leaves = rf.explain(cell), cell.graph.leaves
        self.values: dict[tuple[str, int | None], Any] = {}
        for leaf in self.leaves:
            times = {"param": [None], "state": [0], "input": range(1, STEPS + 2)}[leaf.kind]
            for t in times:
                self.values[leaf.name, t] = self.noise(leaf.shape)
        self.states = [leaf for leaf in self.leaves if leaf.kind == "state"]
        self.says: dict[tuple[str, int | None], Any] = {
            (leaf.name, t): self.noise(leaf.shape)
            for leaf in self.states
            for t in range(1, STEPS + 1)
        }
        self.functions = {name: getattr(self.np, name) for name in ("tanh", "exp", "sqrt", "sum")}
        self.functions["σ"] = lambda v: 1 / (1 + self.np.exp(-v))

    def noise(self, shape):
        rows, columns = [*(size.at(SIZES) for size in shape), 1, 1][:2]
        return self.random.normal(size=(rows, columns)) if shape else float(self.random.normal())

    def at(self, name: str, t: int | None):
        """What a name stands for; adjoints from beyond the last step are 0."""
        if name in SIZES and t is None:
            return SIZES[name]
        if name.startswith("∂E/∂"):
            return self.says[name.removeprefix("∂E/∂"), t]
        known = self.values.get((name, t))
        return self.np.zeros((SIZES["n"], 1)) if known is None and t == STEPS + 1 else known

    def work_out(self, right: str, t: int):
        return eval(python(right), {"at": self.at, "t": t, **self.functions})

    def forward(self) -> float:
        """E = the sum over t and states of says · state, so that ∂E/∂s(t) is `says`."""
        for t in range(1, STEPS + 2):
            for left, right in self.explanation.step:
                self.values[left.removesuffix("(t)"), t] = self.work_out(right, t)
        return sum(float((c * self.values[key]).sum()) for key, c in self.says.items())

    def backward(self) -> dict[str, Any]:
        for t in range(STEPS, 0, -1):
            for left, right in self.explanation.adjoint:
                self.values[left.removesuffix("(t)"), t] = self.work_out(right, t)
        return {
            left: sum(self.work_out(right, t) for t in range(1, STEPS + 1))
            for left, right in self.explanation.gradients
            if right.startswith("Σ_t ")
        } | {"dE/dx(1)": self.work_out(dict(self.explanation.gradients)["dE/dx(t)"], 1)}


@pytest.mark.parametrize(
    "name", ["elman", "jordan", "leaky", "gru", "gru_cho", "mgu", "lstm", "lstm_peephole"]
)
def test_the_printed_equations_are_true(name):
    """Each printed gradient, along a random direction, against a central difference of the printed recurrence."""
    run = Run(rf.cells.get(name))
    run.forward()
    gradients = run.backward()
    learned = [leaf.name for leaf in run.leaves if leaf.kind == "param" and leaf.learn]
    assert set(gradients) == {f"dE/d{name}" for name in learned} | {"dE/dx(1)"}
    for left, gradient in gradients.items():
        key = ("x", 1) if left == "dE/dx(1)" else (left.removeprefix("dE/d"), None)
        middle, step = run.values[key], 1e-5
        direction = run.random.normal(size=middle.shape)
        assert gradient.shape == middle.shape
        ends = []
        for sign in (1, -1):
            run.values[key] = middle + sign * step * direction
            ends.append(run.forward())
        run.values[key] = middle
        expected = (ends[0] - ends[1]) / (2 * step)
        assert abs(expected) > 1e-4
        assert float((gradient * direction).sum()) == pytest.approx(expected, rel=1e-7, abs=1e-8), (
            left
        )
