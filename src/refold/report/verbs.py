"""Figures and pages of what is asked of series beside their forecast: a drawing and a table each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from refold.forecast import Anomalies, Importance, Reliability, Tuned, trials_frame

from .figures import INK, legend, panels, plain_ticks, sheet, style, tail
from .page import captioned, details, document, made, number, plain_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Shown:
    """A table of a page: its heading, its columns, its rows as text. folded: behind a summary."""

    heading: str
    names: Sequence[str]
    rows: Sequence[Sequence[str]]
    folded: bool = False

    def html(self) -> str:
        """The table under its heading."""
        table = plain_table(self.names, self.rows, self.heading)
        if self.folded:
            return details(self.heading, table)
        return f"<h2>{escape(self.heading)}</h2>{table}"


def plain_page(
    sentences: Sequence[str],
    *,
    title: str,
    about: str,
    figures: Sequence[tuple[str, str]],
    tables: Sequence[Shown],
    settings: Mapping[str, str],
    command: str,
) -> str:
    """A page as text: the answer in words, figures as (<svg>, caption), tables, how it was made."""
    said = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="sub">{escape(about)}</p>',
        f'<section class="verdict" aria-label="Verdict">{said}</section>',
        *(captioned(svg, caption) for svg, caption in figures),
        *(table.html() for table in tables),
        *made(settings, command),
    ]
    return document(title, "\n".join(parts))


def anomalies_figure(found: Anomalies) -> Figure:
    """The judged part of each series with its interval, anomalies as rings; the first six series.

    Where some series have anomalies and others none, those that have most come first.
    """
    most = np.argsort([-int(flags.sum()) for flags in found.flags], kind="stable")
    figure, axes = panels(found.panel)
    for ax, i in zip(axes, most, strict=False):
        series, judged, flags = found.panel.series[i], found.judged.series[i], found.flags[i]
        start = max(0, len(series) - len(judged) - tail(len(judged), len(judged) // 6, 1))
        label = f"{found.band.level:g} % interval"
        low, high = found.band.low[i], found.band.high[i]
        ax.fill_between(judged.stamps, low, high, color=INK["model"], alpha=0.18, lw=0, label=label)
        observed = (series.stamps[start:], series.observed[start:])
        ax.plot(*observed, color=INK["history"], lw=1.2, label="observed")
        at = (judged.stamps[flags], judged.values[flags])
        ring = {"marker": "o", "ms": 8, "mew": 1.8, "mfc": "none", "ls": "none"}
        ax.plot(*at, color=INK["test"], label="anomaly", **ring)
        style(ax, series.stamps.dtype.kind == "M")
        ax.set_title(series.name, loc="left", fontsize=10, color=INK["text"])
    legend(figure, axes[0])
    return figure


def anomalies_table(found: Anomalies) -> Shown:
    """The anomalies, the furthest out first."""
    rows = []
    for i, (series, flags) in enumerate(zip(found.judged.series, found.flags, strict=True)):
        stamps = found.panel.texts(series.stamps)
        parts = (series.values, found.forecasts[i], found.band.low[i], found.band.high[i])
        for at in np.flatnonzero(flags):
            numbers = [number(float(part[at])) for part in parts]
            score = float(found.scores[i][at])
            p_value = number(float(found.p_values[i][at]))
            rows.append((score, [series.name, stamps[at], *numbers, number(score), p_value]))
    rows.sort(key=lambda row: -row[0])
    level = f"{found.band.level:g} %"
    names = ("unique_id", "ds", "y", "y_hat", f"low {level}", f"high {level}", "score", "p_value")
    return Shown("Anomalies", names, [row for _, row in rows])


def importance_figure(found: Importance) -> Figure:
    """How far the error rises without each group, the most first; whiskers are one deviation."""
    figure = sheet(9.6, 0.42 * len(found.names) + 1.1)
    ax = figure.subplots()
    places = np.arange(len(found.names))[::-1]
    whisker = {"ecolor": INK["history"], "elinewidth": 1.4}
    ax.barh(
        places, found.means, xerr=found.deviations, height=0.6, color=INK["model"], error_kw=whisker
    )
    style(ax, dates=False)
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", color=INK["rule"], lw=0.7)
    ax.xaxis.set_major_locator(plain_ticks())
    ax.set_yticks(places, found.names, color=INK["text"])
    ax.set_xlabel("rise of the error, in naive errors (MASE)", color=INK["muted"])
    return figure


def importance_table(found: Importance) -> Shown:
    """The rise of the error without each group."""
    rows = [
        [name, number(float(mean)), number(float(deviation)), f"{mean / found.error:.1%}"]
        for name, mean, deviation in zip(found.names, found.means, found.deviations, strict=True)
    ]
    return Shown("Rise of the error", ("inputs", "rise", "deviation", "share"), rows)


def tuning_figure(found: Tuned) -> Figure:
    """The error of each trial, and the best one so far; trials that were given up are rings."""
    figure = sheet(9.6, 3.4)
    ax = figure.subplots()
    for state, fill, label in (
        ("complete", INK["model"], "trial"),
        ("pruned", "none", "given up before the last origin"),
    ):
        shown = [t for t in found.trials if t.state == state]
        at = ([t.number for t in shown], [t.error for t in shown])
        ax.plot(*at, ls="none", marker="o", ms=6, mec=INK["model"], mfc=fill, label=label)
    errors = [t.error if t.state == "complete" else np.inf for t in found.trials]
    best = np.minimum.accumulate(errors)
    numbers = [t.number for t in found.trials]
    ax.step(numbers, best, where="post", color=INK["test"], lw=1.8, label="best so far")
    style(ax, dates=False)
    # Far worse ones would press all others to the floor: they leave the figure.
    highest = np.nanmax([found.first.error, found.best.error])
    ax.set_ylim(0.97 * found.best.error, 1.3 * highest)
    if np.isfinite(found.first.error):
        ax.axhline(found.first.error, color=INK["muted"], lw=1.2, ls=":", label="settings given")
    ax.set_xlabel("trial", color=INK["muted"])
    ax.set_ylabel(found.by, color=INK["muted"])
    legend(figure, ax)
    return figure


def trials_table(found: Tuned) -> Shown:
    """All trials, the best first; those that were given up or failed last."""
    frame = trials_frame(found).drop("seconds")
    whole = frame["state"] == "complete"
    order = np.lexsort((frame["error"].fill_null(np.inf).to_numpy(), ~whole.to_numpy()))
    rows = [[_cell(value) for value in row] for row in frame[order].rows()]
    return Shown("Trials", frame.columns, rows)


def _cell(value: object) -> str:
    if value is None:
        return "by rule"
    return number(value) if isinstance(value, float) else str(value)


def reliability_figure(found: Reliability) -> Figure:
    """The share of values inside of each interval, beside the level that it should be."""
    figure = sheet(9.6, 4.0)
    ax = figure.subplots()
    ends = (0.0, 100.0)
    ax.plot(ends, ends, color=INK["muted"], lw=1.2, ls=":", label="as stated")
    line = {"color": INK["model"], "lw": 2.2, "marker": "o", "ms": 4}
    ax.plot(found.levels, found.inside, label="inside of the interval", **line)
    style(ax, dates=False)
    ax.set_xlim(ends)
    ax.set_ylim(ends)
    ax.xaxis.set_major_locator(plain_ticks())
    ax.set_xlabel("level, in percent", color=INK["muted"])
    ax.set_ylabel("values inside, in percent", color=INK["muted"])
    legend(figure, ax)
    return figure
