"""The pages of the documentation run, and print what they say they print."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from refold.ir.functions import FUNCTIONS

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *(
        ROOT / "docs" / f"{page}.md"
        for page in (
            "tour",
            "language",
            "networks",
            "training",
            "compiler",
            "dropin",
            "onnx",
            "regularised",
            "draw",
            "cures",
            "gradients",
            "scale",
            "survival",
            "dynamics",
            "tasks",
            "forecast",
        )
    ),
    *(page for page in sorted((ROOT / "docs" / "lessons").glob("*.md")) if page.stem != "README"),
]
BLOCK = re.compile(r"```python\n(.*?)```(?:\n```text\n(.*?)```)?", re.DOTALL)
NUMBER = re.compile(r"-?\d+\.?\d*(?:e[-+]?\d+)?")
SECONDS = re.compile(r"\d+(\.\d+)? s\b|\"seconds\": [\d.e-]+")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_a_page_prints_what_it_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "page"}
    blocks = BLOCK.findall(page.read_text())
    assert blocks
    for source, expected in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(source, page.name, "exec"), names)
        if expected:
            compare(printed.getvalue(), expected)


def compare(printed: str, expected: str) -> None:
    """Words to the letter; numbers to 1 %, since the last digits differ from machine to machine; seconds not at all."""
    printed, expected = (SECONDS.sub("S", text).strip() for text in (printed, expected))
    assert NUMBER.sub("#", printed).split() == NUMBER.sub("#", expected).split()
    found = [float(n) for n in NUMBER.findall(printed)]
    assert found == pytest.approx([float(n) for n in NUMBER.findall(expected)], rel=0.01, abs=1e-6)


def test_the_page_on_the_language_lists_every_function():
    text = (ROOT / "docs" / "language.md").read_text()
    assert [name for name in FUNCTIONS if f"`{name}`" not in text] == []
