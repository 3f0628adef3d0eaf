"""`refold diagnose` on a model that was kept: the same figures as from Python, and what is refused."""

import numpy as np
import polars as pl
import pytest

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
    assert (code, err) == (0, "")
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
