"""The command as a user meets it: what it writes, what it says, and that it leaves nothing half done."""

import errno
import os
import signal
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from refold.cli import folder
from refold.cli import forecast as verb
from refold.errors import DataError
from refold.forecast import Settings


@pytest.fixture
def quick(monkeypatch):
    """Defaults that train in no time: for what does not depend on the training."""
    monkeypatch.setattr(
        "refold.forecast.Settings",
        lambda **given: Settings(**{"members": 1, "steps": 3, **given}),
    )


@pytest.fixture
def shop(tmp_path):
    """A good file of 40 months."""
    days = pl.date_range(pl.date(2020, 1, 1), pl.date(2023, 4, 1), "1mo", eager=True)
    values = 20 + np.arange(40) + 5 * np.sin(np.arange(40))
    pl.DataFrame({"day": days, "sold": values}).write_csv(tmp_path / "shop.csv")
    return tmp_path / "shop.csv"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_airpassengers(refold, tmp_path):
    code, out, _ = refold(
        "forecast", "--example", "airpassengers", "--horizon", 12, "--out", "demo/air"
    )
    assert code == 0
    assert names(tmp_path / "demo") == ["air"]
    assert names(tmp_path / "demo/air") == ["forecast.csv", "forecast.png", "report.html"]
    frame = pl.read_csv(tmp_path / "demo/air/forecast.csv")
    assert frame.columns == ["unique_id", "ds", "y_hat"]
    assert frame["unique_id"].unique().to_list() == ["airpassengers"]
    assert frame["ds"].to_list() == [f"1961-{month:02d}-01" for month in range(1, 13)]
    # The summers have always been the peak, and 1961 goes on from 1960.
    assert frame["y_hat"].arg_max() in (6, 7)
    assert 400 < frame["y_hat"].to_numpy().mean() < 600
    for word in ("Naive", "Seasonal naive", "Linear autoregression", "refold gru", "MASE"):
        assert word in out
    assert "The network beats the naive forecasts" in out
    page = (tmp_path / "demo/air/report.html").read_text(encoding="utf-8")
    assert "refold forecast --example airpassengers --horizon 12 --cell gru --seed 0" in page


def test_the_default_folder_is_filled_again_and_other_files_stay(refold, quick, shop, tmp_path):
    (tmp_path / "refold-forecast").mkdir()
    (tmp_path / "refold-forecast/notes.txt").write_text("mine")
    for seed in (0, 1):
        assert refold("forecast", shop, "-H", 3, "--seed", seed, "--no-plot")[0] == 0
    assert names(tmp_path) == ["refold-forecast", "shop.csv"]
    assert names(tmp_path / "refold-forecast") == ["forecast.csv", "notes.txt", "report.html"]


def test_several_series_of_parquet(refold, quick, tmp_path):
    parts = []
    for name, n in (("north", 40), ("south", 25)):
        hours = pl.datetime_range(
            pl.datetime(2024, 1, 1),
            pl.datetime(2024, 1, 1) + pl.duration(hours=n - 1),
            "1h",
            eager=True,
        )
        y = np.random.default_rng(n).normal(size=n)
        parts.append(pl.DataFrame({"site": [name] * n, "at": hours, "load": y, "price": y * 2}))
    pl.concat(parts).write_parquet(tmp_path / "grid.parquet")
    code, out, _ = refold(
        "forecast", "grid.parquet", "--horizon", 4, "--target", "load", "--time", "at", "--id", "site",
        "--freq", "h", "--season", 6, "--cell", "elman", "--out", "out", "--no-plot",
    )  # fmt: skip
    assert code == 0
    frame = pl.read_csv(tmp_path / "out/forecast.csv")
    assert frame["unique_id"].to_list() == ["north"] * 4 + ["south"] * 4
    assert frame["ds"][4] == "2024-01-02 01:00:00"
    assert "columns not used: price" in out and "season 6 hours, given" in out
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "--target load --time at --id site --freq h --season 6 --cell elman" in page


def test_numbered_rows(refold, quick, tmp_path):
    (tmp_path / "taylor.csv").write_text('"Y"\n' + "\n".join(map(str, range(10, 50))) + "\n")
    code, out, _ = refold("forecast", "taylor.csv", "--horizon", 2, "--no-plot")
    assert code == 0 and "rows are numbered 1, 2, 3" in out
    frame = pl.read_csv(tmp_path / "refold-forecast/forecast.csv")
    assert frame["ds"].to_list() == [41, 42] and frame["unique_id"][0] == "taylor"


REFUSED = [
    (("--horizon", 3, "--target", "x"), "no column 'x'; there are: day, sold"),
    (("--horizon", 3, "--cell", "elmann"), 'there is no cell "elmann"'),
    (("--horizon", 3, "--freq", "fortnight"), "'fortnight' is not a frequency"),
    (("--horizon", 3, "--season", "a,b"), "'a,b' is not a list of whole numbers"),
    (("--horizon", 3, "--season", "0"), "'0' holds a number below 1"),
    (("--horizon", 3, "--out", "shop.csv"), "shop.csv is a file, not a folder"),
    (("--horizon", 3, "--out", "shop.csv/out"), "nothing can be written in"),
    (("--horizon", 3, "--out", "x" * 300), "cannot be written: File name too long"),
    (("--horizon", 0), "the horizon is 0"),
    ((), "no horizon is given"),
    (("--horizon", 18), "series shop has 40 points; horizon 18 needs 42"),
    (("--horizon", 3, "--example", "sunspots"), "both a file and an example are given"),
]


@pytest.mark.parametrize(("words", "text"), REFUSED)
def test_what_is_refused(refold, shop, tmp_path, words, text, monkeypatch):
    monkeypatch.setattr("refold.forecast.evaluate", None)  # refused before any training
    code, out, err = refold("forecast", shop, *words)
    assert code == 2
    assert text in err.replace("\n       ", " ")
    assert "error:" in err and "fix:" in err and "Traceback" not in err
    assert out == ""
    assert names(tmp_path) == ["shop.csv"]


def test_bad_files_are_refused_alike(refold, tmp_path):
    (tmp_path / "twice.csv").write_text("t,y\n1,0.5\n2,0.5\n2,0.5\n", encoding="utf-8")
    (tmp_path / "old.xls").write_text("x")
    for file, text in (("twice.csv", "has two values at 2"), ("none.csv", "there is no file")):
        code, _, err = refold("forecast", file, "--horizon", 1)
        assert code == 2 and text in err
    assert refold("forecast", "old.xls", "--horizon", 1)[0] == 2
    assert refold("forecast", "--horizon", 1)[0] == 2
    assert refold("forecast", "--example", "flowers", "--horizon", 1)[0] == 2
    assert refold("forecast", "twice.csv", "--horizon", "many")[0] == 2
    assert names(tmp_path) == ["old.xls", "twice.csv"]


def test_without_matplotlib_it_says_so_first(refold, shop, tmp_path, monkeypatch, quick):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, err = refold("forecast", shop, "--horizon", 3)
    assert code == 2 and "pip install 'refold[plots]'" in err
    assert names(tmp_path) == ["shop.csv"]
    assert refold("forecast", shop, "--horizon", 3, "--no-plot")[0] == 0


def test_a_failure_while_writing_leaves_nothing(refold, shop, tmp_path, monkeypatch, quick):
    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("refold.report.forecast_page", fail)
    assert refold("forecast", shop, "--horizon", 3, "--no-plot")[0] == 130
    assert names(tmp_path) == ["shop.csv"]


def filled(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_failure_while_writing_leaves_what_was_there(refold, shop, tmp_path, monkeypatch, quick):
    assert refold("forecast", shop, "-H", 3, "--out", "out")[0] == 0
    before = filled(tmp_path)
    replace_ = Path.replace

    def full(path, target):
        """The disk is full when the last file is moved up."""
        if path.parent.name == "new" and path.name == "report.html":
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace_(path, target)

    monkeypatch.setattr(Path, "replace", full)
    for words in (("--out", "out"), ("--out", "out", "--no-plot"), ("--out", "far/away")):
        code, _, err = refold("forecast", shop, "-H", 3, "--seed", 1, *words)
        assert code == 2
        assert "cannot be written: No space left on device" in err and "Traceback" not in err
        assert filled(tmp_path) == before
        assert names(tmp_path) == ["out", "shop.csv"]


def test_a_full_disk(refold, shop, tmp_path, monkeypatch, quick):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    code, _, err = refold("forecast", shop, "-H", 3, "--no-plot", "--out", "a/b")
    assert code == 2 and "a/b cannot be written: No space left on device" in err
    assert names(tmp_path) == ["shop.csv"]


@pytest.mark.parametrize("at", ["page", "move"])
def test_a_signal_to_stop_leaves_nothing_half_done(refold, shop, tmp_path, monkeypatch, quick, at):
    def stop(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        return "" if at == "page" else None

    (tmp_path / "out").mkdir()
    (tmp_path / "out/forecast.csv").write_text("older")
    before, handler = filled(tmp_path), signal.getsignal(signal.SIGTERM)
    if at == "page":
        monkeypatch.setattr("refold.report.forecast_page", stop)
    else:
        monkeypatch.setattr(Path, "replace", stop)
    assert refold("forecast", shop, "-H", 3, "--no-plot", "--out", "out")[0] == 143
    assert filled(tmp_path) == before and names(tmp_path / "out") == ["forecast.csv"]
    assert signal.getsignal(signal.SIGTERM) is handler


def test_the_folder_may_be_a_disk_of_its_own(refold, shop, tmp_path, monkeypatch, quick):
    """Nothing is written beside it: that is another disk, or not ours to write to."""
    made, mkdtemp, out = [], tempfile.mkdtemp, tmp_path / "out"

    def noted(**given):
        made.append(Path(given["dir"]).resolve())
        return mkdtemp(**given)

    out.mkdir()
    monkeypatch.setattr("tempfile.mkdtemp", noted)
    assert refold("forecast", shop, "-H", 3, "--no-plot", "--out", "out")[0] == 0
    assert set(made) == {out} and names(out) == ["forecast.csv", "report.html"]


def test_an_older_picture_goes_and_one_of_the_users_stays(refold, shop, tmp_path, quick):
    assert refold("forecast", shop, "-H", 3, "--out", "out")[0] == 0
    assert refold("forecast", shop, "-H", 3, "--out", "out", "--no-plot")[0] == 0
    assert names(tmp_path / "out") == ["forecast.csv", "report.html"]
    (tmp_path / "out/forecast.png").write_text("a picture of mine")
    assert refold("forecast", shop, "-H", 3, "--out", "out", "--no-plot")[0] == 0
    assert (tmp_path / "out/forecast.png").read_text() == "a picture of mine"


def test_what_must_not_be_replaced_is_refused_first(refold, shop, tmp_path, monkeypatch):
    monkeypatch.setattr("refold.forecast.evaluate", None)
    (tmp_path / "out/report.html").mkdir(parents=True)
    code, _, err = refold("forecast", shop, "-H", 3, "--out", "out")
    assert code == 2 and "out/report.html is a folder" in err
    shop.rename(tmp_path / "forecast.csv")
    code, _, err = refold("forecast", "forecast.csv", "-H", 3, "--out", ".")
    assert code == 2 and "forecast.csv is the table that is read" in err
    assert names(tmp_path) == ["forecast.csv", "out"]


def test_a_folder_that_comes_during_the_training_is_not_replaced(tmp_path):
    (tmp_path / "report.html").mkdir()
    with pytest.raises(DataError, match=r"report\.html is a folder"):
        folder.write(tmp_path, {"forecast.csv": b"1", "report.html": b"2"})
    assert names(tmp_path) == ["report.html"]


def test_offsets_come_back(refold, quick, tmp_path):
    days = "".join(f"2024-01-{day:02d}T00:00:00+05:30,{day % 7}\n" for day in range(1, 32))
    (tmp_path / "india.csv").write_text("day,sold\n" + days)
    code, out, _ = refold("forecast", "india.csv", "-H", 3, "--no-plot")
    assert code == 0 and "times are in UTC+05:30" in out and "2024-01-01 to 2024-01-31" in out
    frame = pl.read_csv(tmp_path / "refold-forecast/forecast.csv", infer_schema=False)
    assert frame["ds"][0] == "2024-02-01 00:00:00+05:30"


def test_a_cell_with_other_inputs_than_one_is_refused(refold, shop, tmp_path, quick):
    (tmp_path / "two.py").write_text(
        "import refold as rf\n\n"
        "@rf.cell\n"
        "def two(x=rf.Input('m'), z=rf.Input('k'), h=rf.State('n'), *, W=rf.Weight('n m'), V=rf.Weight('n k')):\n"
        "    return rf.tanh(W @ x + V @ z + h)\n"
    )
    code, _, err = refold("forecast", shop, "-H", 3, "--cell", "two.py:two", "--no-plot")
    assert code == 2 and "cell two reads x, z" in err and 'x=rf.Input("m")' in err


def test_the_version(refold):
    code, out, _ = refold("--version")
    assert code == 0 and out.startswith("refold ")


def test_a_network_that_loses_is_said_to_lose(refold, quick, tmp_path):
    (tmp_path / "flat.csv").write_text("Y\n" + "5\n" * 30 + "5\n6\n" + "5\n" * 8)
    code, out, _ = refold("forecast", "flat.csv", "--horizon", 4, "--no-plot")
    assert code == 0 and "does NOT beat the naive forecasts" in out


def test_help_names_every_flag(refold):
    code, out, _ = refold("forecast", "--help")
    assert code == 0
    for flag in (
        "--horizon",
        "--target",
        "--time",
        "--id",
        "--freq",
        "--cell",
        "--out",
        "--example",
    ):
        assert flag in out
    assert verb.forecast.__doc__ is not None
    assert verb.forecast.__doc__.split("\n")[0] in out


def test_any_cell_can_forecast(refold, shop, quick, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import refold as rf\n\n"
        "@rf.cell\n"
        "def slow(x=rf.Input('m'), h=rf.State('k'), *, W=rf.Weight('k m'), tau=rf.Scalar(5.0)):\n"
        "    return h + (rf.tanh(W @ x) - h) / tau\n"
    )
    for cell, name in (("jordan", "jordan"), ("mine.py:slow", "slow")):
        code, out, _ = refold("forecast", shop, "--horizon", 3, "--cell", cell, "--no-plot")
        assert code == 0
        assert f"refold {name}" in out
        assert f"--cell {cell}" in (tmp_path / "refold-forecast" / "report.html").read_text()
