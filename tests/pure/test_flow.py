"""Every way to misuse rf.flow, and what refold says about it; and how a flow is written down."""

import re

import pytest

import refold as rf


def refused(write) -> rf.EquationError:
    with pytest.raises(rf.EquationError) as caught:
        write()
    return caught.value


def underlined(error: rf.EquationError) -> str:
    """The source text that the carets stand under."""
    _, text, carets = error.where.splitlines()[:3]
    found = re.search(r"\^+", carets)
    assert found is not None
    return text[found.start() : found.end()]


def equation(x=rf.Input("m"), h=rf.State("n"), *, W=rf.Weight("n m")):
    return W @ x - h


@pytest.mark.parametrize(
    ("settings", "fact", "remedy"),
    [
        ({"solver": "rk5"}, "there is no solver 'rk5'", "euler, exponential_euler, heun, rk4"),
        ({"solver": None}, "there is no solver None", "rk4"),
        ({"dt": -0.1}, "dt is -0.1, and the time from step to step is a positive", "dt=0.1"),
        ({"dt": 0}, "dt is 0,", "dt=0.1"),
        ({"dt": float("inf")}, "dt is inf,", "dt=0.1"),
        ({"dt": "input"}, "dt is 'input',", "dt=0.1"),
        ({"substeps": 0}, "substeps is 0, and a solver takes a whole number", "substeps=4"),
        ({"substeps": 1.5}, "substeps is 1.5,", "substeps=4"),
        ({"substeps": True}, "substeps is True,", "substeps=4"),
    ],
)
def test_settings_are_checked(settings, fact, remedy):
    error = refused(lambda: rf.flow(**settings)(equation))
    assert fact in error.fact and remedy in error.remedy
    assert error.where.startswith("in cell 'equation' (") and "def equation(" in error.where


def test_dt_in_two_places():
    def twice(h=rf.State("n"), *, dt=rf.Scalar(0.1)):
        return -h

    error = refused(lambda: rf.flow(dt=0.2)(twice))
    assert "dt is declared in the function, as Scalar(value=0.1" in error.fact
    assert "given to rf.flow as 0.2" in error.fact and "one of the two places" in error.remedy
    assert underlined(error) == "dt=rf.Scalar(0.1)"


@pytest.mark.parametrize(
    "declaration", [rf.Weight("n"), rf.State("n"), rf.Input("m"), rf.Affine("n"), rf.Bias("n")]
)
def test_the_name_dt_is_taken(declaration):
    def clash(h=rf.State("n"), *, dt=declaration):
        return -h

    error = refused(lambda: rf.flow(clash))
    assert f"dt is declared as {declaration!r}" in error.fact
    assert 'dt=rf.Input("")' in error.remedy and "another name" in error.remedy
    assert underlined(error) == "dt=declaration"


def test_a_declared_dt_is_positive():
    def still(h=rf.State("n"), *, dt=rf.Scalar(0.0)):
        return -h

    error = refused(lambda: rf.flow(still))
    assert "dt is 0.0," in error.fact and underlined(error) == "dt=rf.Scalar(0.0)"


def test_a_local_dt_is_a_second_meaning():
    def local(h=rf.State("n")):
        dt = h * h
        return -dt

    error = refused(lambda: rf.flow(local))
    assert "the name dt is used twice" in error.fact and underlined(error) == "dt"


def two(h=rf.State("n"), c=rf.State("k"), *, W=rf.Weight("n k")):
    return W @ c


def swapped(h=rf.State("n"), c=rf.State("k"), *, W=rf.Weight("n k")):
    return W.T @ h, W @ c


def nothing(h=rf.State("n")):
    rf.tanh(h)


def number(h=rf.State("n")):
    return 0.0


def scalar(h=rf.State("n")):
    return -rf.sum(h)


def listed(h=rf.State("n"), c=rf.State("n")):
    return [-h, -c]


def empty(h=rf.State("n")):
    return ()


@pytest.mark.parametrize(
    ("written", "under", "fact", "remedy"),
    [
        (two, "return W @ c", "the states are h, c, and 1 value came back", "return dh, dc"),
        (empty, "return ()", "the states are h, and 0 values came back", "return dh"),
        (nothing, None, "the states are h, and nothing came back", "return dh"),
        (listed, "return [-h, -c]", "the states are h, c, and 1 value came back", "dh, dc"),
        (swapped, "return W.T @ h, W @ c", "h is (n,), and its derivative is (k,)", "in the order"),
        (scalar, "return -rf.sum(h)", "h is (n,), and its derivative is a scalar", "state's size"),
        (number, "return 0.0", "the derivative of h comes back as a float", "a number alone"),
    ],
)
def test_what_comes_back_is_checked(written, under, fact, remedy):
    error = refused(lambda: rf.flow(written))
    assert fact in error.fact and remedy in error.remedy
    if under is not None:
        assert underlined(error) == under


@pytest.mark.parametrize("solver", ["euler", "exponential_euler", "heun", "rk4"])
def test_a_slip_in_the_equation_is_shown_where_it_is(solver):
    def slip(x=rf.Input("m"), h=rf.State("n"), *, W=rf.Weight("n n")):
        return W @ x - h

    error = refused(lambda: rf.flow(solver=solver)(slip))
    assert "the inner sizes n and m differ" in error.fact and underlined(error) == "W @ x"


def test_what_is_not_used_is_refused():
    def unused(x=rf.Input("m"), h=rf.State("n")):
        return -h

    error = refused(lambda: rf.flow(unused))
    assert "x is declared and never used" in error.fact


def test_a_sign_needs_its_gradient_stopped():
    def flat(h=rf.State("n")):
        return -rf.sign(h)

    error = refused(lambda: rf.flow(solver="exponential_euler")(flat))
    assert "rf.sign has no derivative" in error.fact and underlined(error) == "rf.sign(h)"


def test_only_a_function_is_a_flow():
    error = refused(lambda: rf.flow(3))  # type: ignore[call-overload]
    assert "rf.flow was given an int" in error.fact and "@rf.flow" in error.remedy


@pytest.mark.parametrize("cell", [rf.cells.get("elman"), equation, "ctrnn"])
def test_only_a_flow_is_restepped(cell):
    error = refused(lambda: rf.stepped(cell, solver="euler"))
    assert "which has no differential equation to step" in error.fact
    assert "under @rf.flow" in error.remedy


def test_a_restep_is_checked_too():
    cell = rf.flow(equation)
    assert "no solver 'rk9'" in refused(lambda: rf.stepped(cell, solver="rk9")).fact
    assert "dt is -1," in refused(lambda: rf.stepped(cell, dt=-1)).fact
    assert "substeps is 0," in refused(lambda: rf.stepped(cell, substeps=0)).fact


def test_a_flow_prints_as_its_solver():
    text = str(rf.explain(rf.flow(solver="heun")(equation), "graph"))
    for line in (
        "dh(t)  = W x(t) - h(t-1)",
        "h'(t)  = h(t-1) + dt · dh(t)",
        "dh'(t) = W x(t) - h'(t)",
        "h(t)   = h(t-1) + 0.5 · dt · dh(t) + 0.5 · dt · dh'(t)",
    ):
        assert line in text


def test_a_constant_rate_is_worked_out_once():
    """dh/dt = W x - h has the rate -1 for all elements: its factor is a number for the whole call."""
    cell = rf.flow(solver="exponential_euler")(equation)
    named = {node.label: node for node in cell.graph.nodes}
    assert named["phi"].shape == () and named["z"].shape == ()
    assert cell.graph.varying().isdisjoint(
        i for i, node in enumerate(cell.graph.nodes) if node.label in ("phi", "z")
    )


def test_without_an_explicit_rate_the_step_is_euler():
    def held(h=rf.State("n"), *, W=rf.Weight("n n")):
        return W @ h

    one, other = (rf.flow(solver=s)(held) for s in ("exponential_euler", "euler"))
    assert one.graph == other.graph
