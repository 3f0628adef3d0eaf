"""The pictures of docs/lessons: each page's own code is run in the folder that the page shows them from.

python -m bench.lesson_pictures [unit ...]
"""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path

import matplotlib as mpl

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


def main(names: list[str]) -> None:
    folder = DOCS / "img" / "lessons"
    folder.mkdir(parents=True, exist_ok=True)
    pages = sorted((DOCS / "lessons").glob("*.md"))
    # The same bytes each time: ids are drawn from this and not from the clock.
    with (
        mpl.rc_context({"svg.hashsalt": "refold", "svg.fonttype": "none"}),
        contextlib.chdir(folder),
    ):
        for page in pages:
            if page.stem != "README" and (not names or page.stem in names):
                run(page)


def run(page: Path) -> None:
    """All blocks of a page, one after the other."""
    known: dict[str, object] = {"__name__": "page"}
    for source in BLOCK.findall(page.read_text(encoding="utf-8")):
        exec(compile(source, page.name, "exec"), known)


if __name__ == "__main__":
    main(sys.argv[1:])
