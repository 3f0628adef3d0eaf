"""The bundled series are whole, and say where they come from."""

import polars as pl
import pytest

from refold.data.examples import EXAMPLES, example
from refold.errors import DataError
from refold.forecast import from_table, read_table


def test_airpassengers_is_box_and_jenkins_series_g():
    frame = pl.read_csv(example("airpassengers").path)
    y = frame["#Passengers"]
    assert (frame.height, y[0], y[-1], y.sum()) == (144, 112, 432, 40363)
    assert (frame["Month"][0], frame["Month"][-1]) == ("1949-01", "1960-12")


def test_sunspots_span_1749_to_1983():
    frame = pl.read_csv(example("sunspots").path)
    y = frame["Sunspots"]
    assert (frame.height, y[0], y[-1], y.max()) == (2820, 58.0, 33.4, 253.8)
    assert (frame["Month"][0], frame["Month"][-1]) == ("1749-01", "1983-12")


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_is_a_monthly_panel_with_a_provenance(name):
    panel = from_table(read_table(example(name).path))
    assert panel.frequency.alias == "MS"
    provenance = (example(name).path.parent / "PROVENANCE.md").read_text(encoding="utf-8")
    part = provenance[provenance.index(f"## {name}.csv") :]
    for word in ("What:", "Units:", "Span:", "Source:", "Status:"):
        assert word in part


def test_unknown_example():
    with pytest.raises(DataError, match=r"(?s)no example 'flowers'.*airpassengers, sunspots"):
        example("flowers")
