"""Pictures of cells: what is derived from the graph, and the geometry of every cell of the zoo."""

import re
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from itertools import combinations, pairwise
from pathlib import Path

import pytest

import refold as rf
from refold.ir.graph import Graph
from refold.report.diagram import THEMES
from refold.report.diagram.derive import MOST_BOXES
from refold.report.diagram.layout import Layout, Line
from refold.report.diagram.measure import Rect
from refold.report.diagram.picture import Box, Diagram, labels
from refold.report.diagram.text import Run, runs, width

ROOT = Path(__file__).parents[2]
ZOO = list(rf.cells.all())


def shown(picture) -> Diagram:
    """What a picture of the inside of a cell shows."""
    assert isinstance(picture.diagram, Diagram)
    return picture.diagram


def over(a: Rect, b: Rect, by: float = 0.01) -> bool:
    return (
        a.x < b.x + b.w - by
        and b.x < a.x + a.w - by
        and a.y < b.y + b.h - by
        and b.y < a.y + a.h - by
    )


def crossed(line: Line, rect: Rect) -> bool:
    """Does a piece of the line, whose pieces are parallel to the axes, pass through the inside of the rectangle?"""
    for (ax, ay), (bx, by) in pairwise(line.points):
        piece = Rect(min(ax, bx), min(ay, by), abs(ax - bx), abs(ay - by))
        grown = Rect(piece.x - 0.1, piece.y - 0.1, piece.w + 0.2, piece.h + 0.2)
        if over(grown, rect, 0.5):
            return True
    return False


def reads(diagram: Diagram, line: Line, box: int) -> bool:
    """Does the line begin or end at this box?"""
    return box in (line.net, line.reader)


def pieces(line: Line) -> list[tuple[bool, float, float, float]]:
    """Each piece as (is it vertical, where it stands, from, to)."""
    found = []
    for (ax, ay), (bx, by) in pairwise(line.points):
        vertical = ax == bx
        low, high = sorted((ay, by) if vertical else (ax, bx))
        found.append((vertical, ax if vertical else ay, low, high))
    return found


def check_geometry(picture) -> None:
    layout: Layout = picture.layout
    page = Rect(0, 0, layout.width, layout.height)
    for a, b in combinations(layout.shapes, 2):
        assert not over(a.room, b.room), (a, b)
    for a, b in combinations(layout.texts, 2):
        assert not over(a.rect, b.rect), (a, b)
    for text in layout.texts:
        assert text.rect.x >= page.x and text.rect.x + text.rect.w <= page.w, text
        assert text.rect.y >= page.y and text.rect.y + text.rect.h <= page.h, text
        for shape in layout.shapes:
            # A text stands inside a body or outside all of them, never across an edge.
            r, inner = text.rect, shape.body
            inside = inner.x <= r.x and r.x + r.w <= inner.x + inner.w
            inside = inside and inner.y <= r.y and r.y + r.h <= inner.y + inner.h
            assert inside or not over(r, inner) or shape.kind == "plain", (text, shape)
        for line in layout.lines:
            assert not crossed(line, text.rect), (text, line)
    for line in layout.lines:
        assert all(a[0] == b[0] or a[1] == b[1] for a, b in pairwise(line.points)), line
        for shape in layout.shapes:
            if shape.box < 0 and line.loop:
                continue  # a delay stands on its loop
            if not reads(shown(picture), line, shape.box):
                assert not crossed(line, shape.room), (line, shape)
    for a, b in combinations(layout.lines, 2):
        if a.net != b.net and not (a.loop and b.loop):
            for (va, at_a, low_a, high_a), (vb, at_b, low_b, high_b) in (
                (p, q) for p in pieces(a) for q in pieces(b)
            ):
                apart = va != vb or abs(at_a - at_b) > 2
                assert apart or min(high_a, high_b) - max(low_a, low_b) < 1, (a, b)


@pytest.mark.parametrize("name", ZOO)
def test_nothing_overlaps(name):
    check_geometry(rf.draw(name))


@pytest.mark.parametrize("name", ZOO)
def test_every_weight_is_named_and_every_state_has_one_delay(name):
    cell = rf.cells.get(name)
    picture = rf.draw(cell)
    drawn = Counter(word for label in labels(shown(picture)) for word in words(label.text))
    noted = Counter(word for note in shown(picture).notes for word in words(note))
    slots = cell.graph.slots()
    for leaf in cell.graph.leaves_of("param"):
        if leaf.learn:
            reads = reads_of(cell.graph, slots[leaf.slot])
            assert drawn[leaf.name] + noted[leaf.name] >= 1, leaf.name
            if reads == 1 and not noted[leaf.name]:
                assert drawn[leaf.name] == 1, leaf.name
    states = [leaf.name for leaf in cell.graph.leaves_of("state")]
    boxes = shown(picture).boxes
    ends = [(boxes[a.state].text, boxes[a.past].text) for a in shown(picture).loops]
    assert ends == [(state, state) for state in states]
    delays = [shape for shape in picture.layout.shapes if shape.kind == "delay"]
    assert len(delays) == len(states)


def reads_of(graph: Graph, node: int) -> int:
    """How often a step reads a parameter, by itself or within what is made of parameters alone."""
    found = 0
    for reader in graph.uses()[node]:
        before = graph.before([reader])
        made = not any(slot.kind != "param" and i in before for slot, i in graph.slots().items())
        found += reads_of(graph, reader) if made else 1
    return found


def words(text: str) -> list[str]:
    return re.findall(r"[A-Za-z][\w.]*", text)


def test_the_zoo_is_laid_out_quickly():
    for name in ZOO:
        began = time.process_time()
        picture = rf.draw(name)
        assert picture.layout.shapes
        assert time.process_time() - began < 1.0, name
        assert len(shown(picture).boxes) <= MOST_BOXES


def sources(box: Box) -> list[int]:
    return [port.source for port in box.ports]


def test_jordans_loop_goes_from_the_output_back():
    diagram = shown(rf.draw("jordan"))
    (loop,) = diagram.loops
    assert loop.state == diagram.output
    hidden = next(i for i, box in enumerate(diagram.boxes) if box.text == "tanh")
    assert loop.past in sources(diagram.boxes[hidden])
    (last,) = sources(diagram.boxes[loop.state])
    assert sources(diagram.boxes[last]) == [hidden]


def test_an_lstm_has_four_gates_three_products_and_one_sum():
    diagram = shown(rf.draw("lstm"))
    kinds = Counter((box.kind, box.text) for box in diagram.boxes)
    assert kinds["gate", "σ"] == 3 and kinds["gate", "tanh"] == 1
    assert kinds["op", "⊙"] == 3 and kinds["op", "+"] == 1 and kinds["function", "tanh"] == 1
    assert [box.name for box in diagram.boxes if box.kind == "gate"] == ["f", "i", "g", "o"]


def test_an_lstms_cell_state_runs_straight_along_the_top():
    picture = rf.draw("lstm")
    loop = shown(picture).loops[1]
    middles = {
        round(shape.body.y + shape.body.h / 2, 1)
        for shape in picture.layout.shapes
        if shape.box in (loop.past, loop.state)
    }
    assert len(middles) == 1
    assert middles.pop() < min(
        shape.body.y for shape in picture.layout.shapes if shape.kind == "gate"
    )


def test_a_layers_sizes_are_numbers():
    diagram = shown(rf.draw(rf.Recurrent("elman", 8, 64)))
    marks = {label.text: label.size for label in labels(diagram)}
    assert marks["W_x"] == "64×8" and marks["W_h"] == "64×64" and marks["b"] == "64"
    assert diagram.title == "elman"


def test_of_a_stack_the_title_tells():
    title = rf.draw(rf.Recurrent("gru", 8, 64, num_layers=2, bidirectional=True)).diagram.title
    assert title == "gru, 2 layers, both directions"


def test_the_same_picture_twice():
    assert rf.draw("nas").svg == rf.draw("nas").svg


@rf.cell
def long(x=rf.Input("m"), h=rf.State("n"), *, W=rf.Weight("n m")):
    v = W @ x
    for k in range(40):
        v = rf.sin(v * h) * rf.cos(h) if k % 2 else rf.sin(v * h)
    return v


@rf.cell
def all_sorts(
    x=rf.Input("m"), h=rf.State("n"), c=rf.State(""), *, W=rf.Weight("2n m"), p=rf.Weight("n")
):
    a, b = rf.split(W @ x, 2)
    both = rf.concat(rf.where(a < b, a / h, b**3), -h)
    s = rf.softmax(rf.layer_norm(rf.sum(both) * h))
    return rf.Step(rf.clip(s, -1, 1) + p, rf.max(h) - c, output=both)


def test_a_long_equation_is_drawn_as_fewer_boxes_and_says_so():
    picture = rf.draw(long)
    check_geometry(picture)
    assert len(shown(picture).boxes) < MOST_BOXES
    assert re.search(r"\d+ boxes are too many for a picture", picture.svg)
    assert any("operations" in box.text for box in shown(picture).boxes)
    assert "W" in {label.text for label in labels(shown(picture))}


def test_a_series_is_one_box():
    texts = [box.text for box in shown(rf.draw("shunting")).boxes]
    assert "polynomial of degree 14" in texts


def test_every_kind_of_box():
    picture = rf.draw(all_sorts)
    check_geometry(picture)
    texts = {box.text for box in shown(picture).boxes}
    assert {"softmax", "layer norm", "choose", "a < b", "( · )^3", "clip −1…1"} <= texts
    assert {box.kind for box in shown(picture).boxes} >= {"bar", "op", "output", "gate"}


# Drawing --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theme", THEMES)
def test_themes(theme):
    svg = rf.draw("lstm", theme=theme).svg
    assert ("prefers-color-scheme" in svg) == (theme == "auto")
    assert ("#12161b" in svg) == (theme != "light")
    assert ("#ffffff" in svg) == (theme != "dark")


@pytest.mark.parametrize("name", ZOO)
def test_the_svg_is_xml_and_loads_nothing(name):
    svg = rf.draw(name).svg
    root = ElementTree.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.findtext("{http://www.w3.org/2000/svg}title") == name
    assert re.findall(r"href|url\(|@import|<script|src=", svg) == []
    assert "nan" not in svg


def test_files(tmp_path):
    picture = rf.draw("gru", theme="dark")
    assert picture.save(tmp_path / "gru.svg").read_text() == picture.svg == picture._repr_svg_()
    pytest.importorskip("matplotlib")
    content = picture.save(tmp_path / "gru.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert int.from_bytes(content[16:20], "big") == pytest.approx(2 * picture.layout.width, abs=2)


def test_what_is_refused(tmp_path):
    with pytest.raises(rf.DataError, match='there is no theme "blue"'):
        rf.draw("gru", theme="blue")  # type: ignore[arg-type]
    with pytest.raises(
        rf.DataError, match=r"ends in \.jpg, and a picture is a \.svg or a \.png file"
    ):
        rf.draw("gru").save(tmp_path / "a.jpg")
    with pytest.raises(rf.DataError, match="cannot be written: No such file"):
        rf.draw("gru").save(tmp_path / "no" / "a.svg")
    with pytest.raises(rf.EquationError, match="a cell is wanted"):
        rf.draw(3)  # type: ignore[arg-type]


def test_names_are_set_as_in_a_paper():
    assert runs("f.W_x") == (Run("f.W"), Run("x", -1))
    assert runs("z^−1") == (Run("z"), Run("−1", 1))
    assert runs("(1 − alpha)") == (Run("(1 − α)"),)
    assert width("W_x", 10) < width("Wx", 10) < width("WxW", 10)


@pytest.mark.parametrize("name", ["elman", "lstm"])
def test_the_pictures_of_the_documentation_are_these(name):
    assert (ROOT / "docs" / "img" / f"{name}.svg").read_text() == rf.draw(name).svg


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command_writes_a_picture_and_says_where(refold, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = refold("draw", "gru")
    assert (code, out.strip()) == (0, "gru.svg")
    assert Path("gru.svg").read_text() == rf.draw("gru").svg


def test_the_command_draws_a_users_cell(refold, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(
        "import refold as rf\n\n@rf.cell\n"
        'def slow(x=rf.Input("n"), h=rf.State("n")): return 0.9 * h + 0.1 * x\n'
    )
    out = tmp_path / "p.svg"
    code, told, _ = refold("draw", f"{mine}:slow", "--out", str(out), "--theme", "dark")
    assert (code, told.strip()) == (0, str(out))
    assert "prefers-color-scheme" not in out.read_text()
