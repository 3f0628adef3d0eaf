"""Two small real series that come with refold, so that it can be tried without a file.

What they are, from where, and why they may be bundled: series/PROVENANCE.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from refold.errors import DataError

_FOLDER = Path(__file__).parent / "series"


@dataclass(frozen=True, slots=True)
class Example:
    """A bundled series: its file, what it counts and where it comes from."""

    name: str
    title: str
    units: str
    source: str

    @property
    def path(self) -> Path:
        """The CSV file inside the installed package."""
        return _FOLDER / f"{self.name}.csv"


EXAMPLES = {
    "airpassengers": Example(
        "airpassengers",
        "Passengers on international flights, monthly, 1949 to 1960",
        "thousands of passengers",
        "Box and Jenkins 1976, Series G. Public domain, facts of record.",
    ),
    "sunspots": Example(
        "sunspots",
        "Monthly mean relative sunspot number, 1749 to 1983",
        "relative number",
        "Zurich and Tokyo observatories, in Andrews and Herzberg 1985. "
        "Public domain, facts of record.",
    ),
}


def example(name: str) -> Example:
    """The bundled series of this name.

    Errors  DataError when there is none.

    Example
        >>> example("airpassengers").units
        'thousands of passengers'
    """
    if name not in EXAMPLES:
        known = ", ".join(EXAMPLES)
        raise DataError(f"there is no example {name!r}", f"take one of: {known}", "--example")
    return EXAMPLES[name]
