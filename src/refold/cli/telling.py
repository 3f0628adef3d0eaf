"""What the verbs on series say: the data, how far the work is, and a table of methods."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING

from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable
from rich.text import Text

if TYPE_CHECKING:
    from refold.forecast import Fitted, Panel, Ranking, Table


# Columns of a terminal: wider than any table.
_WIDEST = 10_000


@contextmanager
def progress(*, shown: bool = True):
    """A bar on stderr: stdout keeps the results."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True, quiet=not shown), transient=True) as bar:

        def advance(description: str):
            task = bar.add_task(description, total=None)

            def update(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total, visible=done < total)

            return update

        yield advance


def about(table: Table, panel: Panel) -> str:
    """The data in a sentence."""
    lengths = sorted(len(s) for s in panel.series)
    if len(lengths) == 1:
        series = panel.series[0]
        span = " to ".join(panel.texts(series.stamps[[0, -1]]))
        told = f"{lengths[0]:,} {panel.frequency.unit}, {span}"
    else:
        span = (
            f"{lengths[0]:,} to {lengths[-1]:,}" if lengths[0] < lengths[-1] else f"{lengths[0]:,}"
        )
        told = f"{len(lengths):,} series of {span} {panel.frequency.unit}"
    return f"{table.source}, column {table.columns.target}: {told}."


def tell_data(console: Console, table: Table, panel: Panel) -> None:
    """The data, and what was inferred."""
    # Names are the user's: brackets in them are no markup.
    console.print(Text.assemble((table.name, "bold"), "  ", about(table, panel)), highlight=False)
    for note in panel.notes:
        console.print(f"  {note}", style="dim", highlight=False, markup=False)


def tell_ranking(console: Console, title: str, found: Ranking, names: tuple[str, ...]) -> None:
    """All methods, and what that says in words."""
    from refold.forecast import verdict

    wide = _by_method(title, found, names)
    room = console.options.update(max_width=_WIDEST)
    if Measurement.get(console, room, wide).maximum <= console.width:
        console.print(wide)
    else:
        console.print(_by_metric(title, found, names))
        for row in found.rows:
            console.print(f"  {row.name}: {row.note}", style="dim", highlight=False, markup=False)
    lost = found.score(found.model) >= found.score(found.naive)
    first, *others = verdict(found)
    console.print(first, style="bold yellow" if lost else "bold", highlight=False, markup=False)
    console.print(" ".join(others), highlight=False, markup=False)


def _by_method(title: str, found: Ranking, names: Sequence[str]) -> RichTable:
    """A row for each method."""
    from refold.report import cell_text

    table = RichTable(title=f"\n{title}", title_justify="left")
    table.add_column("method")
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("how", style="dim")
    for row in found.rows:
        cells_ = [cell_text(row, name) for name in names]
        table.add_row(row.name, *cells_, row.note, style="bold" if row.is_model else "")
    return table


def _by_metric(title: str, found: Ranking, names: Sequence[str]) -> RichTable:
    """A row for each metric: what a narrow terminal has room for."""
    from refold.report import cell_text

    table = RichTable(title=f"\n{title}", title_justify="left")
    table.add_column("")
    for row in found.rows:
        table.add_column(row.name, justify="right", style="bold" if row.is_model else "")
    for name in names:
        table.add_row(name, *(cell_text(row, name) for row in found.rows))
    return table


def tell_rows(
    console: Console, names: Sequence[str], rows: Sequence[Sequence[str]], most: int
) -> None:
    """The first rows of a table as text; nothing where there are none."""
    if not rows:
        return
    table = RichTable()
    for i, name in enumerate(names):
        table.add_column(name, justify="left" if i == 0 else "right")
    for row in rows[:most]:
        table.add_row(*row)
    console.print(table)
    if len(rows) > most:
        console.print(f"and {len(rows) - most:,} more", style="dim", highlight=False)


_RELATIVE = {
    "window": "at every origin by the level and width of the series there",
    "mean": "at every origin by the mean of the window, in deviations of the series",
    "instance": "at every origin by the mean and deviation of the window",
    "standard": "by the mean and deviation of the series",
    "smoothing": "at every origin without the seasons and by the level that exponential smoothing has "
    "there, whose rates and first seasons are learned; in widths of what is left",
}


def settings_told(fitted: Fitted, panel: Panel, table: Table, seconds: float) -> dict[str, str]:
    """How the networks were made, by heading."""
    from refold.forecast.ways import way_of

    settings, columns, course = fitted.settings, table.columns, fitted.courses[0]
    scaled = {"log": "logarithm", "sqrt": "square root", "none": "plain values"}
    head = settings.head.replace("_", " ")
    told = {} if settings.head == "point" else {"Distribution": f"{head}, at every step"}
    return {
        "Columns": f"target {columns.target}, time {columns.time or 'none'}, "
        f"id {columns.id or 'none'}",
        "Read as": "; ".join(panel.notes),
        "Network": f"{settings.cell_name} with {course.hidden} units and {fitted.parameters:,} weights, "
        + way_of(settings).told(course),
        **told,
        "Scale": _RELATIVE[settings.scaling] + "; " + scaled[fitted.data.transform],
        "Training": f"{settings.members} networks that look at different windows, "
        f"{sum(run.steps for run in fitted.runs) // settings.members} steps each, averaged",
        "Settings": "fixed beforehand: none was chosen on the held-out part",
        "Seed": str(settings.seed),
        "Time": f"{seconds:.0f} s of training",
        "Version": f"refold {version('refold')}",
    }
