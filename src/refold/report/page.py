"""The report of a forecast: one HTML file that loads nothing from anywhere.

The answer stands first, in words; then the figure, the table, the errors by step, the numbers, the
settings, and how to get the same again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from refold.forecast import Backtest, Band, Evaluation, Panel, Ranking, Row, verdict
from refold.forecast.metrics import DEFINITIONS, NAMES

Floats = NDArray[np.float64]

# A page of a thousand series stays readable: the CSV has all of them.
_MOST_ROWS = 400

_STYLE = """
:root { --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif;
  --mono: ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace;
  --text: #1b1f24; --muted: #5f6872; --rule: #d5d9de; --history: #3d444d; --model: #0b62b0;
  --test: #b8470b; --shade: #f1f4f8; --paper: #ffffff; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e9ed; --muted: #9aa4af; --rule: #333a42;
  --history: #c3cad2; --model: #6cb6ff; --test: #ff9d5c; --shade: #1d232a; --paper: #12161b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--text);
  font: 1.0625rem/1.6 var(--sans); font-variant-numeric: tabular-nums; }
main { max-width: 56rem; margin: 0 auto; padding: 3rem 1.25rem 5rem; }
h1 { font-size: 2rem; line-height: 1.2; letter-spacing: -.015em; margin: 0 0 .35rem;
  overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 3rem 0 .75rem; }
p { margin: 0 0 .8rem; max-width: 44rem; }
.wide + p { margin-top: .6rem; }
.sub, figcaption, .small { color: var(--muted); font-size: .9375rem; }
.verdict { margin: 1.75rem 0 2rem; padding: 1rem 1.25rem; background: var(--shade);
  border-left: .25rem solid var(--model); border-radius: 0 .35rem .35rem 0; }
.verdict.lost { border-left-color: var(--test); }
.verdict p:first-child { font-size: 1.2rem; line-height: 1.45; font-weight: 600; }
.verdict p:last-child { margin: 0; color: var(--muted); font-size: .9375rem; }
figure { margin: 0; }
svg { display: block; width: 100%; min-width: 38rem; height: auto; }
figcaption { margin-top: .5rem; max-width: 42rem; }
.wide { overflow-x: auto; border-radius: .25rem; background:
  linear-gradient(90deg, var(--paper) 40%, transparent) 0 0 / 2.5rem 100% no-repeat local,
  linear-gradient(270deg, var(--paper) 40%, transparent) 100% 0 / 2.5rem 100% no-repeat local,
  linear-gradient(90deg, var(--rule), transparent) 0 0 / 1rem 100% no-repeat scroll,
  linear-gradient(270deg, var(--rule), transparent) 100% 0 / 1rem 100% no-repeat scroll; }
table { border-collapse: collapse; width: 100%; font-size: .9375rem; line-height: 1.4; }
th, td { padding: .5rem .75rem; border-bottom: 1px solid var(--rule); text-align: right;
  vertical-align: baseline; }
th:first-child, td:first-child, .left { text-align: left; }
thead th { color: var(--muted); font-weight: 600; border-bottom-width: 2px; white-space: nowrap; }
tbody th { font-weight: 400; } tbody th small { display: block; color: var(--muted); }
.mine th, .mine td { background: var(--shade); } .mine th span { font-weight: 700;
  color: var(--model); }
td.best { font-weight: 700; text-decoration: underline; text-underline-offset: .25em;
  text-decoration-thickness: 2px; text-decoration-color: var(--model); }
dl { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .3rem 1.5rem;
  margin: 0; font-size: .9375rem; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
pre { font: .875rem/1.5 var(--mono); background: var(--shade); padding: .9rem 1rem; margin: 0;
  border-radius: .35rem; overflow-x: auto; }
code { font-family: var(--mono); font-size: .9em; }
details { border-top: 1px solid var(--rule); padding: .6rem 0; }
details[open] { padding-bottom: 1.25rem; }
summary { cursor: pointer; font-weight: 600; padding: .3rem 0; }
:focus-visible { outline: 2px solid var(--model); outline-offset: 3px; border-radius: .2rem; }
.skip { position: absolute; left: -99rem; } .skip:focus { left: 1rem; top: 1rem;
  background: var(--paper); padding: .5rem .75rem; }
@media (max-width: 34rem) { dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .6rem; } }
@media print { details > * { display: block; } .skip { display: none; } }
"""


def forecast_page(
    found: Evaluation,
    panel: Panel,
    forecasts: Sequence[Floats],
    *,
    title: str,
    about: str,
    settings: Mapping[str, str],
    command: str,
    figures: Mapping[str, str],
    bands: Sequence[Band] = (),
) -> str:
    """The page as text.

    figures: "forecast", "errors" and "reliability" as <svg>; without them the page has no figures. bands: the
    intervals of the forecast.
    """
    horizon = len(forecasts[0])
    unit = panel.frequency.unit
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="sub">{escape(about)}</p>',
        _verdict(found),
        captioned(figures.get("forecast"), _forecast_caption(found, panel, horizon)),
        f"<h2>On the held-out {horizon} {escape(unit)}</h2>",
        _table(found, found.names),
        f'<p class="small">{escape(_table_caption(len(panel.series)))}</p>',
        *_by_step(figures.get("errors"), len(panel.series), "of the held-out part"),
        *_held_by(figures.get("reliability"), "of the held-out part"),
        *made(settings, command),
        "<h2>Numbers</h2>",
        details("Forecast", _forecast_table(panel, forecasts, bands)),
        details("Held-out part, and what was forecast of it", _held_out_table([found])),
        details("What the columns mean", f"<dl>{pairs(DEFINITIONS)}</dl>"),
    ]
    return document(title, "\n".join(part for part in parts if part))


def backtest_page(
    found: Backtest,
    *,
    title: str,
    about: str,
    settings: Mapping[str, str],
    command: str,
    figures: Mapping[str, str],
) -> str:
    """The page of a backtest as text.

    figures: "windows", "errors" and "reliability" as <svg>; without them the page has no figures.
    """
    number_ = len(found.panel.series)
    shown = "" if number_ <= 6 else f" The first 6 of {number_} series."
    caption = f"From each origin (upright lines) the network forecast what came next: {found.how}."
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="sub">{escape(about)}</p>',
        _verdict(found),
        captioned(figures.get("windows"), caption + shown),
        f"<h2>On {escape(found.part)}</h2>",
        _table(found, found.names),
        f'<p class="small">{escape(_table_caption(number_))}</p>',
        *_by_step(figures.get("errors"), number_, "over all origins"),
        *_held_by(figures.get("reliability"), "from all origins"),
        "<h2>From each origin</h2>",
        _windows_table(found),
        *made(settings, command),
        "<h2>Numbers</h2>",
        details("What came, and what was forecast", _held_out_table(found.windows)),
        details("What the columns mean", f"<dl>{pairs(DEFINITIONS)}</dl>"),
    ]
    return document(title, "\n".join(part for part in parts if part))


def _by_step(svg: str | None, series: int, where: str) -> list[str]:
    if not svg:
        return []
    measured = "Mean absolute error" if series == 1 else "Mean scaled error (MASE)"
    return ["<h2>Error by step ahead</h2>", captioned(svg, f"{measured} of each step {where}.")]


def _held_by(svg: str | None, where: str) -> list[str]:
    if not svg:
        return []
    caption = f"The share of the values {where} inside of the interval of each level: above the "
    caption += "dotted line, intervals are wider than they need be; below it, too narrow."
    return ["<h2>Do the intervals hold what they say?</h2>", captioned(svg, caption)]


def made(settings: Mapping[str, str], command: str) -> list[str]:
    return [
        "<h2>How this was made</h2>",
        f"<dl>{pairs(settings)}</dl>",
        "<h2>Make it again</h2>",
        f'<pre tabindex="0" aria-label="Command">{escape(command)}</pre>',
    ]


def _windows_table(found: Backtest) -> str:
    """What the rows of the table say of each origin, by the metric that decides."""
    names = ["origin", *(row.name for row in found.rows)]
    rows = []
    for window in found.windows:
        last = {str(window.known.texts(s.stamps[-1:])[0]) for s in window.known.series}
        origin = f"after {min(last)}" + (f" to {max(last)}" if len(last) > 1 else "")
        rows.append([origin, *(number(row.metrics[found.ranked_by]) for row in window.rows)])
    return plain_table(names, rows, f"{found.ranked_by} from each origin")


def document(title: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#report">To the report</a>\n'
        f'<main id="report">\n{body}\n</main>\n</body>\n</html>\n'
    )


def _verdict(found: Ranking) -> str:
    lost = found.score(found.model) >= found.score(found.naive)
    lines = "".join(f"<p>{escape(sentence)}</p>" for sentence in verdict(found))
    return f'<section class="verdict{" lost" * lost}" aria-label="Verdict">{lines}</section>'


def captioned(svg: str | None, caption: str) -> str:
    if not svg:
        return ""
    return f"<figure>{scrolled(svg, 'Figure')}<figcaption>{escape(caption)}</figcaption></figure>"


def _forecast_caption(found: Evaluation, panel: Panel, horizon: int) -> str:
    shown = "" if len(panel.series) <= 6 else f" The first 6 of {len(panel.series)} series."
    return (
        f"Dashed: the last {horizon} {panel.frequency.unit} (shaded) as a network forecast them "
        f"that had not seen them. Solid: the forecast, by networks trained on everything.{shown}"
    )


def _table(found: Ranking, names: Sequence[str]) -> str:
    # Intervals are the network's alone: there is no best of one.
    best = {m: min(_finite(row.metrics[m]) for row in found.rows) for m in NAMES}
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    rows = []
    for row in found.rows:
        cells = "".join(
            f"<td{_class('best', m in best and _finite(row.metrics[m]) == best[m])}>"
            f"{cell_text(row, m)}</td>"
            for m in names
        )
        name = f"<span>{escape(row.name)}</span><small>{escape(row.note)}</small>"
        rows.append(f'<tr{_class("mine", row.is_model)}><th scope="row">{name}</th>{cells}</tr>')
    return scrolled(
        f'<table><thead><tr><th scope="col">Method</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>",
        "Errors of all methods",
    )


def _table_caption(count: int) -> str:
    over = "" if count == 1 else f" Means over {count} series."
    return f"Lower is better; the lowest of each column is underlined.{over}"


def _forecast_table(panel: Panel, forecasts: Sequence[Floats], bands: Sequence[Band]) -> str:
    rows = [
        (series.name, stamp, number(forecasts[i][k]), *_bounds(bands, i, k))
        for i, (series, stamps) in enumerate(
            zip(panel.series, panel.future(len(forecasts[0])), strict=True)
        )
        for k, stamp in enumerate(panel.texts(stamps))
    ]
    return plain_table(("unique_id", "ds", "y_hat", *_bound_names(bands)), rows, "Forecast")


def _held_out_table(windows: Sequence[Evaluation]) -> str:
    rows = [
        (series.name, stamp, number(y), number(f), number(f - y), *_bounds(found.bands, i, k))
        for found in windows
        for i, (series, values) in enumerate(
            zip(found.held_out.series, found.model.forecasts, strict=True)
        )
        for k, (stamp, y, f) in enumerate(
            zip(found.held_out.texts(series.stamps), series.observed, values, strict=True)
        )
    ]
    names = ("unique_id", "ds", "y", "y_hat", "error", *_bound_names(windows[0].bands))
    return plain_table(names, rows, "Held-out part")


def _bound_names(bands: Sequence[Band]) -> list[str]:
    return [f"{side} {band.level:g} %" for band in bands for side in ("low", "high")]


def _bounds(bands: Sequence[Band], i: int, k: int) -> list[str]:
    return [number(bound[i][k]) for band in bands for bound in (band.low, band.high)]


def plain_table(names: Sequence[str], rows: Sequence[Sequence[str]], label: str) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        for row in rows[:_MOST_ROWS]
    )
    more = len(rows) - _MOST_ROWS
    note = f'<p class="small">And {more:,} more rows.</p>' if more > 0 else ""
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return scrolled(table, label) + note


def scrolled(body: str, label: str) -> str:
    """A region the keyboard can scroll where a narrow window cuts it off."""
    return f'<div class="wide" role="region" tabindex="0" aria-label="{escape(label)}">{body}</div>'


def details(summary: str, body: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def pairs(told: Mapping[str, str]) -> str:
    """Terms and what they are, for a `<dl>`."""
    return "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in told.items())


def _class(name: str, wanted: bool) -> str:
    return f' class="{name}"' if wanted else ""


def _finite(value: float) -> float:
    return value if np.isfinite(value) else float("inf")


def cell_text(row: Row, name: str) -> str:
    """A metric of a row as a table shows it: a share in percent, a dash where there is none."""
    value = row.metrics.get(name, float("nan"))
    return (
        f"{100 * value:.1f} %" if name.endswith("inside") and np.isfinite(value) else number(value)
    )


def number(value: float) -> str:
    """Four digits, thousands apart; a dash where it is not defined."""
    if not np.isfinite(value):
        return "–"
    if value and not 1e-4 <= abs(value) < 1e12:
        return f"{value:.3g}"
    digits = max(0, 3 - int(np.floor(np.log10(abs(value))))) if value else 0
    return f"{value:,.{digits}f}"
