"""Reading files: which column is which, and what is refused, with a text that says how to mend it."""

import datetime as dt

import numpy as np
import polars as pl
import pytest

from refold.errors import DataError
from refold.forecast import Columns, from_frame, from_table, read_table


@pytest.fixture
def write(tmp_path):
    def write(text: str, name: str = "shop.csv"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def months(count: int, form: str = "%Y-%m-%d") -> list[str]:
    return [dt.date(2020 + i // 12, i % 12 + 1, 1).strftime(form) for i in range(count)]


def lines(header: str, *columns) -> str:
    rows = [",".join(map(str, row)) for row in zip(*columns, strict=True)]
    return "\n".join([header, *rows]) + "\n"


# What is read.


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        (lines("Month,#Passengers", months(9, "%Y-%m"), range(9)), ("#Passengers", "Month", None)),
        (lines("Y,date", range(9), months(9)), ("Y", "date", None)),
        (lines("Y", range(9)), ("Y", None, None)),
        (lines("t,y", range(9), range(9)), ("y", "t", None)),
        (lines("step,load", range(3, 12), np.sin(range(9))), ("load", "step", None)),
        (lines("n,v", range(9), [3, 1, 4, 1, 5, 9, 2, 6, 5]), ("v", "n", None)),
        (lines("shop,day,sold", ["a"] * 9, months(9), range(9)), ("sold", "day", "shop")),
        (
            lines("unique_id,ds,y,z", [1] * 9, months(9), range(9), range(9)),
            ("y", "ds", "unique_id"),
        ),
    ],
)
def test_columns_are_guessed_from_what_they_hold(write, text, columns):
    assert read_table(write(text)).columns == Columns(*columns)


@pytest.mark.parametrize(
    "form",
    [
        "%Y-%m-%d",
        "%Y/%m/%d",
        "%m/%d/%Y",
        "%d/%m/%Y",
        "%d.%m.%Y",
        "%d %b %Y",
        "%b %Y",
        "%Y-%m",
        "%m/%d/%y",
        "%d/%m/%y",
        "%d.%m.%y",
        "%m/%d/%y %H:%M",
        "%b %d %Y",
        "%B %d %Y",
        "%Y%m%d",
    ],
)
def test_forms_of_dates(write, form):
    table = read_table(write(lines("when,sold", months(30, form), range(30))))
    panel = from_table(table)
    assert panel.frequency.alias == "MS"
    assert str(panel.series[0].stamps[-1])[:10] == "2022-06-01"


def test_a_year_of_two_digits_is_no_year_of_antiquity(write):
    days = [(dt.date(2020, 1, 31) + dt.timedelta(i)).strftime("%m/%d/%y") for i in range(60)]
    panel = from_table(read_table(write(lines("day,sold", days, range(60)))))
    assert str(panel.series[0].stamps[0])[:10] == "2020-01-31"
    refused(
        write(lines("day,sold", ["0020-01-01", "0020-01-02"], [1, 2])), "no date format fits it"
    )


def test_numbers_are_dates_only_where_each_of_them_is_one(write):
    panel = from_table(read_table(write(lines("y,t", range(3), [20200130, 20200131, 20200201]))))
    assert panel.frequency.alias == "D"
    panel = from_table(read_table(write(lines("y,t", range(3), [20200131, 20200132, 20200133]))))
    assert panel.series[0].stamps.tolist() == [20200131, 20200132, 20200133]


def test_quarters_and_times_of_day(write):
    quarters = [f"{2000 + i // 4}Q{i % 4 + 1}" for i in range(12)]
    panel = from_table(read_table(write(lines("q,v", quarters, range(12)))))
    assert panel.frequency.alias == "QS"
    hours = [f"2024-01-01T{i:02d}:00:00Z" for i in range(12)]
    panel = from_table(read_table(write(lines("at,v", hours, range(12)))))
    assert panel.frequency.alias == "h"


def test_newest_first_and_days_without_a_zero(write):
    days = ["03/8/1991", "03/1/1991", "02/22/1991", "02/15/1991", "02/8/1991"]
    panel = from_table(read_table(write(lines("Week,Gasoline", days, range(5)))))
    assert panel.frequency.alias == "W-FRI"
    assert panel.series[0].values.tolist() == [4, 3, 2, 1, 0]
    assert any("not in order of time: sorted" in note for note in panel.notes)


def test_separators_quotes_byte_order_mark_and_blank_lines(write):
    text = (
        '\ufeff"day";"sold"\n' + "".join(f"{d};{i}.5\n" for i, d in enumerate(months(5))) + "\n\n"
    )
    table = read_table(write(text))
    assert table.columns == Columns("sold", "day", None)
    assert table.frame.height == 5


def test_parquet_with_typed_columns(tmp_path):
    path = tmp_path / "shop.parquet"
    days = pl.date_range(dt.date(2024, 1, 1), dt.date(2024, 1, 9), eager=True)
    pl.DataFrame({"shop": ["a"] * 9, "day": days, "sold": range(9)}).write_parquet(path)
    panel = from_table(read_table(path))
    assert (panel.frequency.alias, panel.series[0].name) == ("D", "a")


def test_rows_are_numbered_within_each_series_when_there_is_no_time(write):
    text = lines("shop,sold", ["a", "b", "a", "b", "a"], [1.5, 10, 2, 20, 3])
    panel = from_table(read_table(write(text)))
    assert [s.stamps.tolist() for s in panel.series] == [[1, 2, 3], [1, 2]]
    assert [s.values.tolist() for s in panel.series] == [[1.5, 2, 3], [10, 20]]
    assert any("rows are numbered 1, 2, 3" in note for note in panel.notes)


def test_a_remark_beside_dates_names_no_series(write):
    text = lines("day,sold,remark", months(5), range(5), ["rain", "sun", "snow", "hail", "wind"])
    table = read_table(write(text))
    assert table.columns == Columns("sold", "day", None)
    assert "columns not used: remark" in table.notes


def test_a_blank_line_between_rows_is_no_row(write):
    text = "t,y\n1,0.5\n2,0.5\n\n3,0.5\n,\n4,many\n5,0.5\n"
    refused(write(text), "row 7: the value 'many' of series shop at 4")
    assert len(from_table(read_table(write(text.replace("many", "0.5")))).series[0]) == 5
    (series,) = from_table(read_table(write("Y\n1\n\n3\n"))).series
    assert series.missing is not None and series.missing.tolist() == [False, True, False]


def test_row_labels_that_pandas_has_written_are_no_column(tmp_path):
    path = tmp_path / "x.parquet"
    frame = pl.DataFrame({"v": [1.5, 2.5, 0.5], "__index_level_0__": [4, 7, 9]})
    frame.write_parquet(path)
    assert read_table(path).columns == Columns("v", None, None)


def test_the_name_of_a_single_series_is_the_stem(write):
    panel = from_table(read_table(write(lines("Y", range(9)), "taylor.csv")))
    assert panel.series[0].name == "taylor"


# What is refused.


def refused(path, match, **named):
    with pytest.raises(DataError, match=match):
        from_table(read_table(path, **named))


def test_files_that_cannot_be_read(write, tmp_path):
    refused(tmp_path / "none.csv", "there is no file")
    refused(write("x", "old.xlsx"), "extension '.xlsx' is not one of")
    refused(write("x", "bare"), "a name without an extension is not one of")
    refused(tmp_path, "is a folder\ncheck the path")
    refused(write(""), "it is empty")
    refused(write("a,b\n"), "no rows below the header")
    refused(write("not parquet", "x.parquet"), "cannot be read")
    (tmp_path / "latin.csv").write_bytes(b"d\xe9j\xe0,vu\n1,2\n")
    refused(tmp_path / "latin.csv", "is not text in UTF-8")
    refused(write("a,b\n1,2,3\n"), "row 2 has 3 cells, and the header names 2")


def test_a_lost_header(write):
    refused(write("NN5-001,13.4,14.7\nNN5-002,11.5,13.5\n"), "first line should name the columns")


def test_columns_that_do_not_exist(write):
    path = write(lines("day,sold", months(5), range(5)))
    for flag in ("target", "time", "id"):
        refused(path, rf"(?s)no column 'x'; there are: day, sold.*--{flag}", **{flag: "x"})


def test_guesses_that_are_not_unique(write):
    text = lines("day,sold,price", months(5), range(5), [2.5] * 5)
    refused(write(text), r"(?s)2 columns hold numbers: sold, price.*--target sold")
    text = lines("day,due,sold", months(5), months(5), range(5))
    refused(write(text), r"(?s)2 columns hold dates: day, due.*--time day")
    text = lines("day,shop,town,sold", months(5), "aabbb", "vwwww", range(5))
    refused(write(text), r"(?s)2 columns hold text: shop, town.*--id shop")
    text = lines("i,j,x", range(5), range(5), [0.5] * 5)
    refused(write(text), r"(?s)2 columns could number the rows: i, j.*--time i")
    refused(write(lines("day,shop", months(5), "abcde")), "no column of numbers is left")
    wide = lines("0,1,2,3", *[[0.1, 0.3, 0.2]] * 4)
    refused(write(wide), r"(?s)4 columns hold numbers.*if each column is a series: --target all")


@pytest.mark.parametrize("form", ["%G-W%V", "week %U of %Y"])
def test_dates_that_no_format_fits_are_no_names_of_series(write, form):
    days = [(dt.date(2020, 1, 6) + dt.timedelta(7 * i)).strftime(form) for i in range(20)]
    refused(
        write(lines("day,sold", days, range(20))),
        rf"(?s)column 'day' has another text in every row, for example '{days[0]}'.*YYYY-MM-DD",
    )


def test_two_columns_of_one_name(write):
    refused(write("ds,ds\n1,2\n"), "2 columns have the name 'ds'")
    assert read_table(write('"a, t","a, y"\n1,0.5\n2,0.2\n')).columns.target == "a, y"


def test_numbers_that_may_name_the_series(write):
    text = lines("day,store,sold", months(5), [7, 7, 8, 8, 8], [1.5] * 5)
    refused(write(text), r"(?s)--target store, and if one of them names the series: --id")


def test_a_date_that_is_none(write):
    days = [*months(9)[:6], "2020-13-01", *months(9)[7:]]
    refused(write(lines("day,sold", days, range(9))), r"row 8 holds '2020-13-01': it is no date")
    days[6] = ""
    refused(write(lines("day,sold", days, range(9))), r"row 8 has no time")
    text = lines("day,sold", ["monday", "tuesday"], [1, 2])
    refused(write(text), r"row 2 holds 'monday': no date format fits it", time="day", target="sold")


def test_a_date_that_can_be_read_in_two_ways(write):
    text = lines("day,sold", ["01/02/2020", "05/06/2020"], [1, 2])
    refused(write(text), r"(?s)can be read as MM/DD/YYYY and as DD/MM/YYYY.*YYYY-MM-DD")


@pytest.mark.parametrize(
    ("cell", "what"),
    [
        ("many", "row 5: the value 'many' of series shop at 2020-04-01 is no number"),
        ("inf", "row 5: the value 'inf' of series shop at 2020-04-01 is not finite"),
    ],
)
def test_values_that_are_no_finite_numbers(write, cell, what):
    values = [1, 2, 3, cell, 5, 6, 7, 8, 9]
    refused(write(lines("day,sold", months(9), values)), f"column sold\n{what}")


def test_duplicates(write):
    days = months(9)
    twice = [*days[:4], days[3], *days[5:]]
    refused(
        write(lines("day,sold", twice, range(9))),
        r"(?s)series shop has two values at 2020-04-01 \(rows 5 and 6\).*--id",
    )


def test_a_stamp_off_the_grid(write):
    days = [f"2024-01-{i:02d} 00:00" for i in range(1, 12)]
    days[7] = "2024-01-08 06:00"
    text = lines("day,sold", days, range(11))
    refused(write(text), r"series shop, row 9: 2024-01-08 06:00:00 does not fall on days \(D\)")


def test_rows_without_time_or_name(write):
    path = write(lines("shop,t,sold", ["a", "a", "", "a"], [1, 2, 3, 4], [1.5] * 4))
    refused(path, "row 4 does not say which series", id="shop", time="t", target="sold")
    path = write(lines("t,sold", [1, 2, "", 4], [1.5] * 4))
    refused(path, "row 4 has no time", time="t", target="sold")


def test_a_time_of_fractions(tmp_path):
    path = tmp_path / "x.parquet"
    pl.DataFrame({"t": [0.5, 1.0, 1.5], "v": [1.0, 2.0, 3.0]}).write_parquet(path)
    refused(path, "time column holds Float64, for example 0.5", time="t", target="v")


def test_seasons_are_found_in_numbered_steps(write):
    t = np.arange(24 * 7 * 6)
    load = 10 + np.sin(2 * np.pi * t / 24) * np.where(t % 168 < 120, 1.0, 0.6)
    panel = from_table(read_table(write(lines("Y", load.round(6)))))
    assert panel.seasons == (24, 168)
    assert from_table(read_table(write(lines("Y", load.round(6)))), seasons=(12,)).seasons == (12,)
    noise = np.random.default_rng(0).normal(size=500).round(6)
    assert from_table(read_table(write(lines("Y", noise)))).seasons == ()


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_seasons_are_found_in_numbers_of_any_size(size):
    t = np.arange(60)
    frame = pl.DataFrame({"ds": t, "y": size * (3 + np.sin(2 * np.pi * t / 6))})
    assert from_frame(frame).seasons == (6,)
