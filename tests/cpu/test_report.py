"""Figures and the page: they need nothing but themselves, and they say what is so."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest

from refold import report
from refold.errors import RefoldError
from refold.forecast import (
    Band,
    Settings,
    backtest_panel,
    evaluate,
    fit_panel,
    from_frame,
    predict_panel,
    verdict,
)
from refold.report import figures
from refold.report.page import number

QUICK = Settings(members=1, steps=5, origins=20)


def forecast_of(names: list[str], dates: bool = True):
    t = np.arange(48)
    parts = []
    for i, name in enumerate(names):
        stamps = np.datetime64("2020-01", "M") + t if dates else t
        stamps = stamps.astype("datetime64[us]") if dates else stamps
        y = 10 + i + np.sin(2 * np.pi * t / 12)
        parts.append(pl.DataFrame({"unique_id": [name] * 48, "ds": stamps, "y": y}))
    panel = from_frame(pl.concat(parts))
    found = evaluate(panel, 4, QUICK)
    return found, panel, predict_panel(fit_panel(panel, 4, QUICK))


@pytest.fixture(scope="module")
def single():
    return forecast_of(["<shop> & co"])


def page_of(parts, **changes):
    found, panel, values = parts
    told = {
        "title": "shop: the next 4 months",
        "about": "a.csv",
        "settings": {"Seed": "0"},
        "command": "refold forecast a.csv --horizon 4",
        "figures": {
            "forecast": report.to_svg(report.forecast_figure(*parts), "forecast", "next"),
            "errors": report.to_svg(report.errors_figure(found), "errors", "by step"),
        },
    }
    return report.forecast_page(found, panel, values, **{**told, **changes})


class Tags(HTMLParser):
    """Every tag must be closed in order; collects attributes and text."""

    VOID = ("meta", "br", "use", "path", "rect")

    def __init__(self, text):
        super().__init__()
        self.open, self.attributes, self.ids, self.words = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_loads_nothing_from_anywhere(single):
    page = page_of(single)
    tags = Tags(page)
    assert not re.search(r"https?:|//[a-z]|@import|<script|<link|<img|<iframe", page)
    links = [value for _, name, value in tags.attributes if name in ("href", "xlink:href", "src")]
    assert links and all(value.startswith("#") for value in links)
    assert all(value[1:] in tags.ids for value in links)
    assert not re.search(r"url\((?!#)", page)


def test_ids_are_unique_and_the_page_can_be_used_by_keyboard(single):
    tags = Tags(page_of(single))
    assert len(tags.ids) == len(set(tags.ids))
    scrolled = [tag for tag, name, value in tags.attributes if (name, value) == ("tabindex", "0")]
    assert len(scrolled) >= 3
    assert ("svg", "role", "img") in tags.attributes
    assert ("svg", "aria-label", "next") in tags.attributes


def test_the_verdict_stands_first_and_every_method_is_in_the_table(single):
    page = page_of(single)
    words = " ".join(Tags(page).words)
    found = single[0]
    sentences = verdict(found)
    assert 0 < words.index(sentences[0]) < words.index("Method")
    for row in found.rows:
        assert row.name in words and number(row.metrics["MAE"]) in words
    assert "refold forecast a.csv --horizon 4" in words


def test_a_lost_comparison_looks_lost(single):
    found, panel, values = single
    lost = tuple(
        replace(row, metrics={**row.metrics, "MAE": 9.0 if row.is_model else 1.0})
        for row in found.rows
    )
    page = page_of((replace(found, rows=lost), panel, values))
    assert '<section class="verdict lost"' in page
    assert "does NOT beat the naive forecasts" in page


def test_names_are_text_and_never_markup(single):
    page = page_of(single, title="<script>alert(1)</script>")
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "&lt;shop&gt; &amp; co" in page and "<shop>" not in page


def test_light_and_dark_come_from_variables(single):
    page = page_of(single)
    svg = page[page.index("<svg") : page.rindex("</svg>")]
    assert "var(--model)" in svg and "var(--muted)" in svg
    assert not any(colour in svg for colour in figures.INK.values())
    assert "prefers-color-scheme: dark" in page
    for name, colour in figures.INK.items():
        assert f"--{name}: {colour}" in page


def test_without_figures_the_page_has_none(single):
    assert "<svg" not in page_of(single, figures={})


def test_many_series_are_small_panels_and_one_is_large():
    found, panel, values = forecast_of([f"shop {i}" for i in range(8)], dates=False)
    figure = report.forecast_figure(found, panel, values)
    assert [ax.get_title(loc="left") for ax in figure.axes] == [f"shop {i}" for i in range(6)]
    assert "The first 6 of 8 series." in page_of((found, panel, values))


def test_the_lines_are_the_data(single):
    found, panel, values = single
    ax = report.forecast_figure(found, panel, values).axes[0]
    lines = {line.get_label(): np.asarray(line.get_ydata()) for line in ax.get_lines()}
    np.testing.assert_array_equal(
        lines["observed"], panel.series[0].values[-len(lines["observed"]) :]
    )
    np.testing.assert_array_equal(lines["forecast"][1:], values[0])
    held = lines["forecast of the held-out 4 months"]
    np.testing.assert_array_equal(held, found.model.forecasts[0])
    drawn = {
        line.get_label(): np.asarray(line.get_ydata())
        for line in report.errors_figure(found).axes[0].lines
    }
    for row in found.rows:
        np.testing.assert_array_equal(drawn[row.name], row.by_horizon)


# A backtest, and intervals.


@pytest.fixture(scope="module")
def tested():
    t = np.arange(60)
    parts = [
        pl.DataFrame({"unique_id": [name] * 60, "ds": t, "y": 10 + i + np.sin(t / 2)})
        for i, name in enumerate(("<one>", "two"))
    ]
    return backtest_panel(from_frame(pl.concat(parts)), 4, QUICK, windows=3, levels=(80.0, 95.0))


def page_of_backtest(found):
    figures_ = {
        "windows": report.to_svg(report.backtest_figure(found), "windows", "windows"),
        "errors": report.to_svg(report.errors_figure(found), "errors", "by step"),
    }
    return report.backtest_page(
        found, title="t", about="a.csv", settings={"Seed": "0"}, command="refold", figures=figures_
    )


def test_the_page_of_a_backtest(tested):
    page = page_of_backtest(tested)
    tags = Tags(page)
    words = " ".join(tags.words)
    assert len(tags.ids) == len(set(tags.ids)) and "<one>" not in page
    assert not re.search(r"https?:|@import|<script|<link|<img", page)
    assert verdict(tested)[0] in words and "From each origin" in words
    for window in tested.windows:
        last = window.known.series[0].stamps[-1]
        assert f"after {last}" in words
        assert number(window.model.metrics["MASE"]) in words
    inside = 100 * tested.model.metrics["80 % inside"]
    assert f"{inside:.1f} %" in words and "80 % MSIS" in words


def test_the_lines_of_a_backtest_are_the_data(tested):
    ax = report.backtest_figure(tested).axes[1]
    drawn = [np.asarray(line.get_ydata()) for line in ax.get_lines()]
    for window in tested.windows:
        assert any(np.array_equal(y, window.model.forecasts[1]) for y in drawn)
    assert len(ax.collections) == 6  # two intervals of each window


def test_a_fan_is_what_the_bands_are(single):
    found, panel, values = single
    bands = [
        Band(95.0, tuple(v - 2 for v in values), tuple(v + 2 for v in values)),
        Band(80.0, tuple(v - 1 for v in values), tuple(v + 1 for v in values)),
    ]
    ax = report.forecast_figure(found, panel, values, bands).axes[0]
    spans = [np.asarray(c.get_paths()[0].vertices)[:, 1] for c in ax.collections]
    assert [c.get_label() for c in ax.collections] == ["95 % interval", "80 % interval"]
    assert spans[0].max() == pytest.approx(values[0].max() + 2)
    assert spans[1].min() == pytest.approx(values[0].min() - 1)
    page = page_of(single, bands=bands)
    assert "low 95 %" in page and number(values[0][0] + 2) in page


def test_png(single, tmp_path):
    (tmp_path / "a.png").write_bytes(report.to_png(report.forecast_figure(*single)))
    assert (tmp_path / "a.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_its_own_pictures_are_known(single, tmp_path):
    picture = report.forecast_figure(*single)
    (tmp_path / "own.png").write_bytes(report.to_png(picture))
    picture.savefig(tmp_path / "other.png")
    (tmp_path / "folder.png").mkdir()
    found = {name: report.is_own_png(tmp_path / f"{name}.png") for name in ("own", "other", "none")}
    assert found == {"own": True, "other": False, "none": False}
    assert not report.is_own_png(tmp_path / "folder.png")


def test_matplotlib_is_asked_for_by_its_command(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        RefoldError, match=r"(?s)matplotlib is not installed.*pip install 'refold\[plots\]'"
    ):
        report.require_plots()


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (12345.6, "12,346"), (47.8333, "47.83"), (0.38201, "0.3820"), (9.9996, "10.000")]
    + [
        (float("nan"), "–"),
        (float("inf"), "–"),
        (1.5e-7, "1.5e-07"),
        (-3.25, "-3.250"),
        (1e300, "1e+300"),
    ],
)
def test_numbers(value, text):
    assert number(value) == text
