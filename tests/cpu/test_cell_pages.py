"""docs/cells/: a page for every cell, and each is what the generator makes of the graph now."""

import re

import pytest

import refold as rf
from bench import peers, zoo_pages
from refold.cli.zoo import Entry

MADE = zoo_pages.pages()
SPEED = re.compile(f"{zoo_pages.BEGIN}.*?{zoo_pages.END}", re.DOTALL)
LINK = re.compile(r"\]\(([\w.]+)(?:#(\w+))?\)")


def without_speed(text: str) -> str:
    assert len(SPEED.findall(text)) <= 1
    return SPEED.sub("", text)


def test_there_is_a_page_for_every_cell_and_no_other():
    folder = zoo_pages.FOLDER
    there = {path.name for path in folder.iterdir()} if folder.exists() else set()
    missing, strange = set(MADE) - there, there - set(MADE)
    assert not missing and not strange, (
        f"run make docs: missing {missing}, not of the zoo {strange}"
    )


@pytest.mark.parametrize("name", MADE)
def test_a_page_is_what_the_generator_makes(name):
    path = zoo_pages.FOLDER / name
    assert path.exists(), f"there is no {path.name}: run make docs"
    assert without_speed(path.read_text()) == without_speed(MADE[name]), f"{name}: run make docs"


@pytest.mark.parametrize("name", rf.cells.all())
def test_what_a_page_says(name):
    cell, text = rf.cells.get(name), MADE[f"{name}.md"]
    assert text.startswith(f"# {name}\n")
    for part in (cell.source, cell.about, "δ_", "FLOP forward", zoo_pages.BEGIN):
        assert part in text, part
    told = rf.explain(cell)
    for left, right in [*told.step, *told.adjoint, *told.gradients]:
        assert re.search(rf"^ *{re.escape(left)} += {re.escape(right)}$", text, re.MULTILINE), left
    for leaf in cell.graph.leaves:
        assert f"| `{leaf.name}` |" in text
    peer = peers.every().get(name)
    assert (f"`torchrecurrent.{peer.layer}`" if peer else "has no layer for this cell") in text


def test_links_lead_somewhere():
    headings = set(re.findall(r"^## (\w+)$", MADE[zoo_pages.INDEX], re.MULTILINE))
    assert headings > set(rf.cells.families())
    for name, text in MADE.items():
        for file, part in LINK.findall(text):
            assert file in MADE, f"{name} links to {file}"
            assert not part or part in headings


def measured(names):
    """A result as bench/zoo.py saves it, with one peer."""
    alone = [
        {"cell": n, "threads": t, "torch": 3.0, "refold": 2.0 * t} for n in names for t in (1, 2)
    ]
    beside = [{"cell": "janet", "layer": "JANET", "threads": t} for t in (1, 2)]
    beside = [{**row, "torchrecurrent": 25.0, "refold": 2.0, "departs": False} for row in beside]
    about = {"shape": [100, 32, 16, 64], "processor": "a processor", "torch": "2.13"}
    return {**about, "torch.nn.LSTM": alone, "torchrecurrent": beside}


def of(name, result):
    """A page, given a result."""
    entry = Entry(rf.cells.get(name), "lstm", zoo_pages.SIZES)
    return zoo_pages.page(entry, peers.every().get(name), result)


def test_a_result_changes_the_speed_alone():
    result = measured(rf.cells.all())
    janet, index = of("janet", result), zoo_pages.index(result)
    assert janet != MADE["janet.md"]
    assert without_speed(janet) == without_speed(MADE["janet.md"])
    assert "| torch.nn.LSTM | 1.50 | 0.75 |" in janet
    assert "| torchrecurrent.JANET | 12.50 | 12.50 |" in janet
    assert "a processor; torch 2.13" in janet
    assert without_speed(index) == without_speed(MADE[zoo_pages.INDEX])
    assert "| [janet](janet.md) | 1.50 | 0.75 | 12.50 | 12.50 |" in index
    assert "| [elman](elman.md) | 1.50 | 0.75 | — | — |" in index


def test_a_cell_that_is_newer_than_the_result_says_so():
    result = measured(["elman"])
    assert "| torch.nn.LSTM | 1.50 | 0.75 |" in of("elman", result)
    assert "Not measured yet" in of("lstm", result)
    assert "| [lstm](lstm.md) | — | — | — | — |" in zoo_pages.index(result)


def test_the_generator_removes_what_is_no_more(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(zoo_pages, "ROOT", tmp_path)
    monkeypatch.setattr(zoo_pages, "FOLDER", tmp_path / "cells")
    monkeypatch.setattr(zoo_pages, "pages", lambda result: {"a.md": "# a", "a.svg": "<svg/>"})
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "gone.md").write_text("# gone")
    zoo_pages.main()
    assert {path.name for path in (tmp_path / "cells").iterdir()} == {"a.md", "a.svg"}
    assert "2 files in cells" in capsys.readouterr().out
