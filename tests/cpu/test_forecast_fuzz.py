"""Whatever is in a file, there is a forecast of the right stamps or an error that helps; see tests/mutated.py."""

import numpy as np
import polars as pl
import pytest
from mutated import check_refusal, draw, forecast, outcome

from refold.errors import DataError
from refold.forecast import Settings, from_frame, from_table, read_table

FILES = {
    "forecast": {"forecast.csv", "report.html"},
    "backtest": {"backtest.csv", "report.html"},
    "fit": {"about.json", "model.safetensors"},
}


def many(first, count, folder):
    found = []
    for number in range(first, first + count):
        own = folder / str(number)
        own.mkdir()
        try:
            found.append(outcome(number, own))
        except Exception as error:
            pytest.fail(f"table {number} (python tests/mutated.py {number} 1): {error!r}")
    assert {"a forecast", "refused"} == set(found)
    return found


def test_some_tables(tmp_path):
    found = many(0, 120, tmp_path)
    assert found.count("a forecast") > 30


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_ten_thousand_tables(tmp_path, part):
    many(1000 * part, 1000, tmp_path)


@pytest.mark.parametrize("verb", ["forecast", "backtest", "fit"])
def test_the_command_writes_all_or_nothing(refold, monkeypatch, tmp_path, verb):
    monkeypatch.setattr(
        "refold.forecast.Settings",
        lambda **given: Settings(**{"members": 1, "steps": 2, "hidden": 4, **given}),
    )
    codes = []
    for number in range(20_000, 20_012):
        own = tmp_path / str(number)
        own.mkdir()
        case = draw(number, own)
        words = case.words()
        if verb != "forecast" and case.future:
            words = words[:-2]  # the others take no --future
        more = {"forecast": ["--no-plot"], "backtest": ["--no-plot", "--windows", "2"]}.get(
            verb, []
        )
        code, _, err = refold(verb, *words, *more, "--out", own / "out")
        codes.append(code)
        assert code in (0, 2) and "Traceback" not in err and "Warning" not in err, (number, err)
        written = {path.name for path in (own / "out").glob("*")} if code == 0 else FILES[verb]
        assert written == FILES[verb], number
        assert code == 0 or (not (own / "out").exists() and "error" in err.lower()), (number, err)
    assert 0 in codes and 2 in codes


# What was found by them, one by one.


def written(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ds,y\n1,2\n2,3,4\n", "row 3 has 3 cells, and the header names 2"),
        ('ds,y\n1,2\n"2,3\n3,4\n', r"row \d cannot be split into cells: .*half a pair of quotes"),
        (b"ds,y\n1,2\n2,\xff\n", "row 3 is not text in UTF-8"),
        ("ds,y\n1,2\n".encode("utf-16"), "row 1 is not text in UTF-8"),
        ("", "it is empty"),
        ("a," + ",".join(f"{i}.5" for i in range(20)), "holds 20 numbers.*a whole series"),
    ],
)
def test_faults_of_text_files(tmp_path, text, told):
    with pytest.raises(DataError, match=f"(?s){told}") as caught:
        read_table(written(tmp_path / "a.csv", text))
    check_refusal(caught.value)


def test_blank_lines_in_front(tmp_path):
    table = read_table(written(tmp_path / "a.csv", "\n\nds;y\n1;2\n2;3\n"))
    assert table.frame["y"].to_list() == ["2", "3"] and table.frame["row"].to_list() == [4, 5]


@pytest.mark.parametrize(("value", "told"), [(1e301, "too large"), (5e-324, "too small")])
def test_numbers_at_the_ends_of_their_range(value, told):
    frame = pl.DataFrame({"ds": range(20), "y": [1.0] * 19 + [value]})
    with pytest.raises(DataError, match=f"row 19.* is {told} to reckon with"):
        from_frame(frame)


def test_a_row_for_each_series():
    with pytest.raises(DataError, match="each series has one row"):
        from_frame(pl.DataFrame({"unique_id": ["a", "b"], "ds": [1, 2], "y": [1.0, 2.0]}))


def test_brackets_in_names_are_no_markup(refold, monkeypatch, tmp_path):
    monkeypatch.setattr(
        "refold.forecast.Settings", lambda **given: Settings(members=1, steps=2, hidden=4)
    )
    rows = "".join(f"{i},{i % 5}\n" for i in range(30))
    written(tmp_path / "[b].csv", "ds,[/red]\n" + rows)
    code, out, _ = refold("forecast", "[b].csv", "-H", 2, "--target", "[/red]", "--no-plot")
    assert code == 0 and "[b].csv, column [/red]" in out


# The wide form.


@pytest.mark.parametrize("target", ["all", "b, a"])
def test_each_column_a_series(tmp_path, target):
    rows = "".join(f"2024-01-{d:02d},{d},{d * 2 if d < 30 else ''},x\n" for d in range(1, 31))
    table = read_table(written(tmp_path / "wide.csv", "day,a,b,c\n" + rows), target, time="day")
    panel = from_table(table)
    assert sorted(s.name for s in panel.series) == ["a", "b"]
    lengths = {s.name: len(s) for s in panel.series}
    assert lengths == {"a": 30, "b": 29} and table.columns.target == target


def test_the_wide_form_goes_through_the_commands(refold, monkeypatch, tmp_path):
    monkeypatch.setattr(
        "refold.forecast.Settings", lambda **given: Settings(members=1, steps=2, hidden=4)
    )
    y = np.random.default_rng(0).normal(size=(40, 3)).round(3)
    frame = pl.DataFrame({"ds": range(40), "p": y[:, 0], "q": y[:, 1], "r": y[:, 2]})
    frame.head(38).write_csv(tmp_path / "old.csv")
    frame.write_csv(tmp_path / "newer.csv")
    code, _, err = refold("forecast", "old.csv", "-H", 2)
    assert code == 2 and "--target all" in err
    assert (
        refold("fit", "old.csv", "-H", 2, "--target", "all", "--no-intervals", "--out", "m")[0] == 0
    )
    assert refold("predict", "m", "--data", "newer.csv", "--out", "out")[0] == 0
    found = pl.read_csv(tmp_path / "out/forecast.csv")
    assert found["unique_id"].to_list() == ["p", "p", "q", "q", "r", "r"]
    assert found["ds"].to_list() == [40, 41] * 3


@pytest.mark.parametrize(
    ("target", "id", "told"),
    [
        ("a,nothing", None, "there is no column 'nothing'"),
        ("a,a", None, "column 'a' is named twice"),
        ("a,b", "c", "column 'c' names series, and so do the 2 columns"),
    ],
)
def test_wide_tables_that_are_refused(tmp_path, target, id, told):
    rows = "".join(f"{d},{d * 2},{d * 3 % 7},x\n" for d in range(9))
    with pytest.raises(DataError, match=told):
        read_table(written(tmp_path / "wide.csv", "ds,a,b,c\n" + rows), target, id=id)


def test_a_good_table_is_forecast(tmp_path):
    """The generator itself: a table without a mutation has the stamps that it was drawn with."""
    plain = [n for n in range(40) if len(draw(n, tmp_path).notes) == 1]
    lengths = []
    for number in plain[:4]:
        try:
            lengths.append(forecast(draw(number, tmp_path), Settings(members=1, steps=2)).height)
        except DataError as error:
            check_refusal(error)
    assert lengths
