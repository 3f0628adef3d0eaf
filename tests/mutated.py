"""Random tables, most of them with something wrong, as files; and what has to come of each.

    python tests/mutated.py FIRST COUNT     draws the tables FIRST to FIRST + COUNT - 1 and forecasts them

A table begins as a good one (series on a grid, written in one of the usual dialects) and is then mutated.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
import math
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import torch

from refold.errors import RefoldError
from refold.forecast import (
    Covariates,
    Resample,
    Settings,
    check_length,
    fit_panel,
    forecast_csv,
    from_table,
    predicted,
    read_future,
    read_table,
    with_future_table,
)
from refold.forecast.settings import Over

Row = dict[str, Any]
LENGTHS = (1, 2, 3, 6, 9, 14, 20, 30, 45, 60, 100, 180)
BERLIN = ZoneInfo("Europe/Berlin")


# ---------------------------------------------------------------- good series


def _month(start: int, days: int, every: int) -> Callable[[int], dt.datetime]:
    def at(i: int) -> dt.datetime:
        year, month = divmod(start + every * i, 12)
        first = dt.datetime(year, month + 1, 1)
        if days == 1:
            return first
        following = dt.datetime(year + (month == 11), (month + 1) % 12 + 1, 1)
        return following - dt.timedelta(days=1)

    return at


def _fixed(start: dt.datetime, step: dt.timedelta) -> Callable[[int], dt.datetime]:
    return lambda i: start + i * step


def _business(i: int) -> dt.datetime:
    weeks, day = divmod(i, 5)
    return dt.datetime(2021, 2, 1) + dt.timedelta(days=7 * weeks + day)


def _berlin(step: dt.timedelta) -> Callable[[int], dt.datetime]:
    """Hours that were counted, as the clock on the wall showed them: over both changes of it."""
    start = dt.datetime(2024, 3, 29, 20, tzinfo=dt.UTC)
    return lambda i: (start + i * step).astimezone(BERLIN)


_HOUR, _DAY = dt.timedelta(hours=1), dt.timedelta(days=1)
GRIDS: dict[str, tuple[Callable[[int], Any], tuple[str, ...]]] = {
    "steps": (lambda i: i, ("",)),
    "steps of 7": (lambda i: 100 + 7 * i, ("",)),
    "days": (
        _fixed(dt.datetime(2023, 12, 28), _DAY),
        ("%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y", "%Y%m%d", "%d %b %Y", "%Y-%m-%d %H:%M:%S"),
    ),
    "weeks": (_fixed(dt.datetime(2019, 1, 6), 7 * _DAY), ("%Y-%m-%d", "%Y/%m/%d", "%d-%m-%Y")),
    "hours": (_fixed(dt.datetime(2024, 2, 28, 5), _HOUR), ("%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S")),
    "half hours": (_fixed(dt.datetime(2014, 7, 1), _HOUR / 2), ("%Y-%m-%d %H:%M:%S",)),
    "seconds": (_fixed(dt.datetime(2024, 1, 1), dt.timedelta(seconds=1)), ("%Y-%m-%d %H:%M:%S",)),
    "months": (_month(2015 * 12, 1, 1), ("%Y-%m-%d", "%Y-%m", "%b %Y", "%d/%m/%Y")),
    "month ends": (_month(2015 * 12, 31, 1), ("%Y-%m-%d", "%d.%m.%Y")),
    "quarters": (_month(1990 * 12, 1, 3), ("%Y-%m-%d",)),
    "years": (_month(1900 * 12, 1, 12), ("%Y-%m-%d",)),
    "business days": (_business, ("%Y-%m-%d",)),
    "hours in Berlin": (_berlin(_HOUR), ("%Y-%m-%d %H:%M:%S%z", "%Y-%m-%dT%H:%M:%S%z")),
}


def _values(r: random.Random, n: int) -> list[float]:
    kind = r.choice(tuple(VALUES))
    return [float(VALUES[kind](r, i)) for i in range(n)]


VALUES: dict[str, Callable[[random.Random, int], float]] = {
    "noise": lambda r, i: r.gauss(0, 1),
    "positive": lambda r, i: round(50 + 10 * math.sin(i) + r.random(), 2),
    "trend": lambda r, i: 3 * i - 20,
    "counts": lambda r, i: r.choice((0, 0, 0, 1, 5)),
    "constant": lambda r, i: 7,
    "zero": lambda r, i: 0,
    "huge": lambda r, i: r.uniform(1, 9) * 1e299,
    "tiny": lambda r, i: r.uniform(1, 9) * 1e-299,
    "huge and tiny": lambda r, i: r.choice((1e299, 1e-299)),
    "both": lambda r, i: r.choice((1e-12, 1e12)),
    "exact": lambda r, i: (2, 4, 8)[i % 3],
    "one jump": lambda r, i: 1e9 if i == 5 else 1 + 0.01 * i,
    "flat, then not": lambda r, i: 3 if i < 12 else r.random(),
    "up and down": lambda r, i: (-1) ** i * 1e299,
}


# ---------------------------------------------------------------- one table


@dataclass
class Draw:
    """A table on its way to a file. expected: the stamps of the forecast, while they are plain."""

    random: random.Random
    names: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    future: list[Row] | None = None
    horizon: int = 1
    given: dict[str, str] = field(default_factory=dict)
    text: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    expected: dict[str, list[Any]] | None = None
    suffix: str = ".csv"

    def row(self) -> Row:
        return self.random.choice(self.rows) if self.rows else {}

    def some(self, name: str, cell: Any) -> None:
        """One to three cells of a column become this."""
        for _ in range(self.random.randint(1, 3)):
            self.row()[name] = cell


@dataclass(frozen=True)
class Case:
    """A file, what is said of it, and the stamps that a forecast has if it is plain."""

    path: Path
    future: Path | None
    horizon: int
    given: dict[str, str]
    notes: tuple[str, ...]
    expected: dict[str, list[str]] | None

    def words(self) -> list[str]:
        """As they are written in a command."""
        flags = [word for name, text in self.given.items() for word in (f"--{name}", text)]
        future = ["--future", str(self.future)] if self.future else []
        return [str(self.path), "--horizon", str(self.horizon), *flags, *future]

    def covariates(self) -> Covariates:
        names = {role: self.given.get(role) for role in ("static", "known", "historical")}
        return Covariates(**{role: text.split(",") for role, text in names.items() if text})


def draw(number: int, folder: Path) -> Case:
    """Table `number`, written into the folder."""
    r = random.Random(number)
    made = Draw(r, horizon=r.choice((1, 1, 2, 3, 7, 12)))
    _begin(made)
    if r.random() < 0.3:
        _beside(made)
    for name in r.sample(sorted(MUTATIONS), k=r.choice((0, 1, 1, 1, 2, 3))):
        made.notes.append(name)
        MUTATIONS[name](made)
    path = folder / f"table{made.text.get('stem', '')}{made.suffix}"
    _write(made, path, made.rows)
    future = None
    if made.future is not None:
        future = folder / f"future{made.suffix}"
        _write(made, future, made.future)
    expected = None
    if made.expected is not None:
        names = {"table": path.stem}  # one series is named after its file
        expected = {
            names.get(name, name): [_plain(stamp) for stamp in stamps]
            for name, stamps in made.expected.items()
        }
    return Case(path, future, made.horizon, made.given, tuple(made.notes), expected)


def _begin(made: Draw) -> None:
    r = made.random
    grid = r.choice(tuple(GRIDS))
    at, forms = GRIDS[grid]
    form, count = r.choice(forms), r.choice((1, 1, 1, 2, 3, 5))
    time_name = r.choice(("ds", "date", "when")) if grid not in ("steps", "steps of 7") else "ds"
    made.names = ["unique_id", time_name, "y"] if count > 1 else [time_name, "y"]
    made.notes.append(f"{count} of {grid}")
    made.text["form"], made.expected = form, {}
    for s in range(count):
        name = f"s{s}" if count > 1 else "table"
        length, offset = r.choice(LENGTHS), r.choice((0, 0, 0, 3))
        stamps = [at(i + offset) for i in range(length)]
        values = _values(r, length)
        for stamp, y in zip(stamps, values, strict=True):
            made.rows.append({"unique_id": name, time_name: stamp, "y": y})
        made.expected[name] = [at(i + offset + length) for i in range(made.horizon)]
    made.text["time"], made.text["at"] = time_name, at
    made.text["separator"] = r.choice(",,,;\t|")
    if r.random() < 0.2:
        made.suffix = ".parquet"
    if r.random() < 0.3:
        r.shuffle(made.names)


def _beside(made: Draw) -> None:
    """Covariates of all kinds; what is known ahead stands behind the end or in a file of its own."""
    r, when = made.random, made.text["time"]
    made.names += ["promo", "warmth", "shop"]
    made.given |= {"known": "promo", "historical": "warmth", "static": "shop"}
    ahead = [
        {"unique_id": name, when: stamp, "promo": r.choice((0, 1))}
        for name, stamps in (made.expected or {}).items()
        for stamp in stamps
    ]
    for row in made.rows:
        row |= {"promo": r.choice((0, 1)), "warmth": r.gauss(10, 5), "shop": row["unique_id"]}
    if r.random() < 0.5:
        made.future = ahead
    else:
        shops = {"shop": None} if r.random() < 0.5 else {}
        made.rows += [row | {"shop": row["unique_id"]} | shops for row in ahead]
    made.notes.append("covariates")


# ---------------------------------------------------------------- what goes wrong


def _unplain(change: Callable[[Draw], Any]) -> Callable[[Draw], None]:
    """A change after which it is no longer known beforehand which stamps are to come."""

    def changed(made: Draw) -> None:
        made.expected = None
        change(made)

    return changed


def _drop_column(made: Draw) -> None:
    made.names.remove(made.random.choice(made.names))


def _drop_rows(made: Draw) -> None:
    made.rows = [row for row in made.rows if made.random.random() > 0.2] or made.rows


def _duplicate(made: Draw) -> None:
    made.rows.append(dict(made.row()))


def _gap(made: Draw) -> None:
    if len(made.rows) > 4:
        at = made.random.randrange(1, len(made.rows) - 2)
        del made.rows[at : at + made.random.choice((1, 5, 30))]


def _jitter(made: Draw) -> None:
    for row in made.rows:
        stamp = row.get(made.text["time"])
        if isinstance(stamp, dt.datetime):
            row[made.text["time"]] = stamp + dt.timedelta(minutes=made.random.randint(0, 600))


def _on_the_wall(made: Draw) -> None:
    """Stamps lose their offsets: one hour is missing, another comes twice."""
    for i, row in enumerate(made.rows):
        row[made.text["time"]] = _berlin(_HOUR)(5160 + i).replace(tzinfo=None)


def _resample(made: Draw) -> None:
    made.given |= {"resample": made.random.choice(("D", "h", "W", "MS", "QS", "2D", "fortnight"))}
    if made.random.random() < 0.7:
        made.given["aggregate"] = made.random.choice(("mean", "sum", "last", "median"))


def _named(made: Draw) -> None:
    made.given |= {"target": "y", "time": made.text["time"]}
    if "unique_id" in made.names:
        made.given["id"] = "unique_id"


def _misnamed(made: Draw) -> None:
    flag = made.random.choice(("target", "time", "id", "known", "static"))
    made.given[flag] = made.random.choice((*made.names, "nothing", "", "y,y", " "))


def _rename(made: Draw) -> None:
    old = made.random.choice(made.names)
    new = made.random.choice(
        ("", "row", "wall", "[/]", "x:y", "a,b", 'q"', "größe", "_end", "y" * 300)
    )
    made.names[made.names.index(old)] = new
    for row in (*made.rows, *(made.future or ())):
        row[new] = row.get(old)


def _cells(column: str, cells: tuple[Any, ...]) -> Callable[[Draw], None]:
    def change(made: Draw) -> None:
        name = made.text["time"] if column == "time" else column
        made.some(name, made.random.choice(cells))

    return change


def _extra(made: Draw) -> None:
    name = made.random.choice(("remark", "z", "day"))
    made.names.append(name)
    for i, row in enumerate(made.rows):
        row[name] = {"remark": f"note {i}", "z": i * 0.5, "day": "2024-01-01"}[name]


def _ids(made: Draw) -> None:
    new = made.random.choice(
        ("[red]", "[/]", "a,b", 'say "x"', " s ", "", "naïve", "1", "x" * 400, "a\nb")
    )
    old = made.row().get("unique_id")
    for row in (*made.rows, *(made.future or ())):
        if row.get("unique_id") == old:
            row["unique_id"] = new


def _all_missing(made: Draw) -> None:
    name = made.row().get("unique_id")
    for row in made.rows:
        if row.get("unique_id") == name:
            row["y"] = made.random.choice((None, "NA"))


def _ends_missing(made: Draw) -> None:
    for row in (*made.rows[:3], *made.rows[-3:]):
        row["y"] = None


def _bytes(change: Callable[[random.Random, bytes], bytes]) -> Callable[[Draw], None]:
    def changed(made: Draw) -> None:
        made.suffix = ".csv" if made.random.random() < 0.9 else made.suffix
        made.text["bytes"] = change

    return changed


def _cut(r: random.Random, text: bytes) -> bytes:
    return text[: r.randrange(len(text) + 1)]


def _noise(r: random.Random, text: bytes) -> bytes:
    found = bytearray(text)
    for _ in range(3):
        if found:
            found[r.randrange(len(found))] = r.randrange(256)
    return bytes(found)


def _line(r: random.Random, text: bytes, line: bytes) -> bytes:
    lines = text.split(b"\n")
    lines.insert(r.randrange(len(lines) + 1), line)
    return b"\n".join(lines)


def _stem(made: Draw) -> None:
    made.text["stem"] = made.random.choice((" of mine", "[bold]", "[bold", "ü", ".v2"))


def _set(name: str, *values: Any) -> Callable[[Draw], None]:
    def change(made: Draw) -> None:
        made.given[name] = made.random.choice(values)

    return change


def _horizon(made: Draw) -> None:
    made.horizon = made.random.choice((0, -1, 40, 500))


BAD_NUMBERS = (
    "inf",
    "-inf",
    "1e400",
    "many",
    "1,5",
    "12 %",
    "0x1F",
    "1_000",
    "١٢",
    "--",
    "=A1",
    "€3",
    "1e301",
    "5e-324",
)
ODD_NUMBERS = (
    "",
    "NA",
    "NaN",
    "null",
    " 5 ",
    "+5",
    "1e3",
    ".5",
    "5.",
    "-0",
    "007",
    "1e301",
    "5e-324",
)
BAD_STAMPS = (
    "",
    "soon",
    "2024-02-30",
    "0000-00-00",
    "9999-12-31",
    "1066-10-14",
    "NaT",
    "12",
    "-5",
    "2024",
)
MUTATIONS: dict[str, Callable[[Draw], None]] = {
    "columns: one gone": _unplain(_drop_column),
    "columns: renamed": _unplain(_rename),
    "columns: one more": _extra,
    "columns: named": _named,
    "columns: misnamed": _unplain(_misnamed),
    "rows: shuffled": lambda made: made.random.shuffle(made.rows),
    "rows: some gone": _unplain(_drop_rows),
    "rows: a gap": _unplain(_gap),
    "rows: one twice": _unplain(_duplicate),
    "rows: none": _unplain(lambda made: made.rows.clear()),
    "stamps: irregular": _unplain(_jitter),
    "stamps: the clock changes": _unplain(_on_the_wall),
    "stamps: bad": _unplain(_cells("time", BAD_STAMPS)),
    "stamps: the same": _unplain(lambda m: [r.update({m.text["time"]: 5}) for r in m.rows]),
    "values: bad": _unplain(_cells("y", BAD_NUMBERS)),
    "values: odd": _unplain(_cells("y", ODD_NUMBERS)),
    "values: all text": _unplain(lambda made: [row.update(y="text") for row in made.rows]),
    "values: none in a series": _unplain(_all_missing),
    "values: none at the ends": _unplain(_ends_missing),
    "ids: odd": _unplain(_ids),
    "ids: missing": _unplain(_cells("unique_id", ("", None))),
    "covariates: bad": _unplain(_cells("promo", ("", "inf", "text", None))),
    "covariates: changing": _unplain(_cells("shop", ("other", "", None))),
    "file: cut": _unplain(_bytes(_cut)),
    "file: noise": _unplain(_bytes(_noise)),
    "file: empty": _unplain(_bytes(lambda r, text: b"")),
    "file: no header": _unplain(_bytes(lambda r, text: text.partition(b"\n")[2])),
    "file: a long row": _unplain(_bytes(lambda r, text: _line(r, text, b"1,2,3,4,5,6,7,8,9"))),
    "file: a short row": _unplain(_bytes(lambda r, text: _line(r, text, b"1"))),
    "file: a blank line": _bytes(lambda r, text: _line(r, text, b"")),
    "file: an open quote": _unplain(_bytes(lambda r, text: _line(r, text, b'"a,b'))),
    "file: a mark in front": _bytes(lambda r, text: b"\xef\xbb\xbf" + text),
    "file: lines of Windows": _bytes(lambda r, text: text.replace(b"\n", b"\r\n")),
    "file: Latin-1": _unplain(_bytes(lambda r, text: text + b"\xe4\xf6,\xfc\n")),
    "file: UTF-16": _unplain(_bytes(lambda r, text: text.decode("latin-1").encode("utf-16"))),
    "file: named oddly": _stem,
    "said: a spacing": _unplain(_set("freq", "D", "MS", "h", "3", "W", "B", "0", "QE", "2h")),
    "said: seasons": _set("season", "1", "5", "4,12", "500"),
    "said: steps": _unplain(_resample),
    "said: a horizon": _unplain(_horizon),
}  # fmt: skip


# ---------------------------------------------------------------- into a file


def _plain(stamp: Any) -> str:
    """A stamp in UTC, or a number."""
    if not isinstance(stamp, dt.datetime):
        return str(stamp)
    return (
        stamp.astimezone(dt.UTC).replace(tzinfo=None).isoformat()
        if stamp.tzinfo
        else stamp.isoformat()
    )


def _write(made: Draw, path: Path, rows: list[Row]) -> None:
    if path.suffix == ".parquet":
        try:
            columns = {name: [row.get(name) for row in rows] for name in made.names}
            pl.DataFrame(columns, strict=True).write_parquet(path)
        except (TypeError, ValueError, pl.exceptions.PolarsError):
            # No column holds text beside numbers, or an hour that a clock leaves out.
            columns = {name: [str(row.get(name)) for row in rows] for name in made.names}
            pl.DataFrame(columns).write_parquet(path)
        content = path.read_bytes()
    else:
        buffer = io.StringIO()
        writer = csv.writer(buffer, delimiter=made.text["separator"], lineterminator="\n")
        writer.writerow(made.names)
        writer.writerows([[_cell(made, row.get(name)) for name in made.names] for row in rows])
        content = buffer.getvalue().encode()
    change = made.text.get("bytes")
    path.write_bytes(change(made.random, content) if change else content)


def _cell(made: Draw, cell: Any) -> Any:
    return cell.strftime(made.text["form"]) if isinstance(cell, dt.datetime) else cell


# ---------------------------------------------------------------- what comes of it


def tiny(number: int) -> Settings:
    """Networks that learn nothing, in every way and with every head."""
    r = random.Random(-number)
    over: Over = r.choice(("segments", "steps")) if r.random() < 0.2 else "origins"
    head = "point"
    if over == "origins":
        head = r.choice((*["point"] * 6, "quantiles", "normal", "student", "poisson"))
    return Settings(members=1, steps=2, hidden=4, over=over, head=head, seed=number)


def forecast(case: Case, settings: Settings) -> pl.DataFrame:
    """What `refold forecast` does, without the comparison. Raises whatever is raised.

    Errors  AssertionError for a forecast that is none.
    """
    given, named = case.given, case.covariates()
    resample = None
    if "resample" in given:
        resample = Resample(given["resample"], given.get("aggregate", "mean"))  # type: ignore[arg-type]
    seasons = [int(s) for s in given["season"].split(",")] if "season" in given else None
    columns = (given.get("target"), given.get("time"), given.get("id"))
    table = read_table(case.path, *columns, covariates=named)
    panel = from_table(table, given.get("freq"), seasons, case.horizon, resample=resample)
    if case.future is not None:
        told = read_future(case.future, table.columns, named.known)
        if table.columns.id is None:
            told = told.under(panel.series[0].name)
        panel = with_future_table(panel, told)
    check_length(panel, case.horizon)
    fitted = fit_panel(panel, case.horizon, settings)
    ahead = predicted(fitted, None, ())
    frame = pl.read_csv(io.StringIO(forecast_csv(panel, ahead.values)), infer_schema=False)
    check(frame, case, [s.name for s in panel.series])
    return frame


def check(frame: pl.DataFrame, case: Case, names: list[str]) -> None:
    """A number at every stamp that is to come, and nothing else."""
    assert frame.columns[:3] == ["unique_id", "ds", "y_hat"], frame.columns
    assert frame["unique_id"].to_list() == [n for n in names for _ in range(case.horizon)]
    numbers = frame["y_hat"].cast(pl.Float64)
    assert numbers.is_finite().all() and not numbers.null_count(), numbers
    for part in frame.partition_by("unique_id"):
        assert part["ds"].n_unique() == case.horizon
    if case.expected is not None:
        found = {name: [] for name in names}
        for name, stamp in frame.select("unique_id", "ds").iter_rows():
            found[name].append(_read(stamp))
        assert found == case.expected


def _read(stamp: str) -> str:
    return stamp if stamp.lstrip("-").isdigit() else _plain(dt.datetime.fromisoformat(stamp))


def check_refusal(error: RefoldError) -> None:
    """A short text that says what is so and what to do, and holds nothing of how refold works."""
    assert len(error.fact) > 8 and error.remedy, str(error)
    assert len(str(error)) < 1000, str(error)
    for word in ("Traceback", "polars", "Error(", "ndarray", "dtype", "None of"):
        assert word not in str(error), str(error)


def outcome(number: int, folder: Path) -> str:
    """ "a forecast" or "refused"; whatever else is raised is a fault of refold."""
    case = draw(number, folder)
    try:
        forecast(case, tiny(number))
    except RefoldError as error:
        check_refusal(error)
        return "refused"
    return "a forecast"


def main(first: int, count: int) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    began, counts = time.perf_counter(), {"a forecast": 0, "refused": 0, "wrong": 0}
    for number in range(first, first + count):
        with tempfile.TemporaryDirectory() as folder:
            try:
                counts[outcome(number, Path(folder))] += 1
            except Exception as error:
                counts["wrong"] += 1
                case = draw(number, Path(folder))
                told = traceback.extract_tb(error.__traceback__)[-1]
                print(f"table {number}, {case.notes}, {tiny(number).over} {tiny(number).head}")
                print(
                    f"    {type(error).__name__} {str(error)[:300]} ({Path(told.filename).name}:{told.lineno})"
                )
                sys.stdout.flush()
    print(f"{count} tables in {time.perf_counter() - began:.0f} s: {counts}")
    sys.exit(counts["wrong"] > 0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
