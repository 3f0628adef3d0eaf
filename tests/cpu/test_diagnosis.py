"""The page of a diagnosis: its numbers are those that Python gives, it needs nothing else, and a keyboard is enough."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
import torch

import refold as rf
from refold.dynamics.findings import as_dict, findings
from refold.report.diagnosis import diagnosis_page, plain_words
from refold.report.dynamics_figures import dynamics_figures

CHROMIUM = shutil.which("chromium")
VOID = ("meta", "br", "use", "path", "rect", "input", "circle")


@pytest.fixture(scope="module")
def found():
    torch.manual_seed(0)
    network = rf.Network(rf.Recurrent("gru", 1, 6), head=1)
    return findings(rf.dynamics(network, torch.randn(60, 3, 1)))


def page_of(found, figures=None):
    return diagnosis_page(
        found,
        title="<script>shop</script>",
        about="an example",
        cells=[rf.cells.get("gru")],
        settings={"Seed": "0"},
        command="refold diagnose model",
        figures=dynamics_figures(found) if figures is None else figures,
    )


@pytest.fixture(scope="module")
def page(found):
    return page_of(found)


class Tags(HTMLParser):
    """Every tag must be closed in order; collects attributes, ids and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.attributes, self.ids, self.words = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


# The numbers.


def test_the_unfolded_picture_is_the_memory_of_its_row(found):
    total = found.unfolded.total
    along = found.memory.rows[: found.unfolded.steps + 1, 0]
    torch.testing.assert_close(total[-1].flip(0), along)
    torch.testing.assert_close(total.diagonal(), torch.ones_like(along))


def test_what_is_felt_is_what_a_small_change_does():
    torch.manual_seed(1)
    d = rf.dynamics(rf.Recurrent("lstm", 2, 3), torch.randn(9, 2, 2))
    unfolded = d.unfolded(5)
    assert d.x is not None
    states, x = d.states(), d.x
    for unit in (0, 5):
        moved = states[
            6, :1
        ].clone()  # place 2 of the picture, whose place 0 is the state after 4 steps
        moved[0, unit] += 1e-6
        ends = [d.system.run(h, x[6:8, :1])[-1] for h in (moved, states[6, :1])]
        change = float((ends[0] - ends[1]).norm()) / 1e-6
        assert change == pytest.approx(float(unfolded.felt[4, 2, unit]), rel=1e-4)
    with pytest.raises(rf.RefoldError, match="from 1 to 9"):
        d.unfolded(10)


def test_numbers_are_json_and_the_ones_that_were_measured(found):
    told = json.loads(json.dumps(as_dict(found), allow_nan=False))
    assert told["verdict"]["kind"] == found.verdict.kind
    assert told["memory"]["median"] == pytest.approx(found.memory.median.tolist())
    assert told["lyapunov"]["exponents"] == pytest.approx(found.lyapunov.exponents.tolist())
    assert len(told["fixed_points"]) == len(found.portrait.points.points)
    assert [sum(g["shares"]) for g in told["gates"]] == pytest.approx([1.0] * 3)


# The page.


def test_the_page_loads_nothing(page):
    tags = Tags(page)
    links = [value for _, name, value in tags.attributes if name in ("href", "xlink:href", "src")]
    assert links and all(value.startswith("#") and value[1:] in tags.ids for value in links)
    assert not re.search(r"url\((?!#)|https?:|@import|fetch\(|XMLHttp|import\(", page)
    assert len(tags.ids) == len(set(tags.ids))


def test_the_verdict_stands_first_in_plain_words(found, page):
    words = " ".join(Tags(page).words)
    first, *others = plain_words(found)
    assert 0 < words.index(first) < words.index("Memory")
    assert all(sentence in words for sentence in others)
    assert "Half of a change" in others[0]


def test_names_are_text_and_the_equations_are_there(page):
    assert "<script>shop" not in page and "&lt;script&gt;shop" in page
    words = " ".join(Tags(page).words)
    assert "δ_h(t)" in words and "dE/dz.W_h" in words


def test_every_control_has_a_name(page):
    tags = Tags(page)
    assert ("label", "for", "error-step") in tags.attributes
    assert ("input", "id", "error-step") in tags.attributes
    marks = [value for tag, name, value in tags.attributes if (tag, name) == ("g", "aria-label")]
    assert any("left" in mark for mark in marks) and any("mean Jacobian" in mark for mark in marks)


def test_without_figures_numbers_and_the_unfolded_network_are_left(found):
    page = page_of(found, figures={})
    assert page.count("<figure") == 1 and 'id="error-step"' in page and "Eigenvalues" in page


@pytest.mark.parametrize("weight", [0.5, 1.5])
def test_one_unit_has_a_page_of_its_own(weight):
    unit = rf.dynamics(
        "elman", parameters={"W_h": [[weight]], "W_x": torch.zeros(1, 0), "b": [0.0]}
    )
    found = findings(unit)
    words = " ".join(Tags(page_of(found)).words)
    stable = "one state of rest that is stable" if weight < 1 else "2 states of rest"
    assert stable in words


# In a browser.

ACTIONS = """
<script>
const first = document.querySelector("#error-step");
const seen = {unfolded: document.querySelector(".unfolded .told").textContent};
first.value = Number(first.max) - 3;
first.dispatchEvent(new Event("input"));
seen.slid = document.querySelector(".unfolded .told").textContent;
seen.behind = document.querySelector('.unfolded .node:last-of-type').dataset.tip;
const figure = document.querySelector("figure.live"), marks = figure.querySelectorAll(".tip");
const press = (mark, key) => mark.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
marks[0].focus();
seen.first = figure.querySelector(".told").textContent;
press(marks[0], "ArrowRight");
seen.second = figure.querySelector(".told").textContent;
press(document.activeElement, "End");
seen.last = figure.querySelector(".told").textContent;
seen.stops = figure.querySelectorAll('.tip[tabindex="0"]').length;
const [larger, smaller, whole] = figure.querySelectorAll(".zoom button");
larger.click();
seen.larger = figure.querySelector("svg").style.width;
whole.click();
seen.whole = figure.querySelector("svg").style.width;
seen.loaded = performance.getEntriesByType("resource").length;
seen.wide = document.documentElement.scrollWidth <= innerWidth;
document.title = "seen " + JSON.stringify(seen);
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: no test in a browser")
def test_a_browser_slides_points_and_zooms(found, page, tmp_path):
    assert CHROMIUM is not None
    (tmp_path / "page.html").write_text(page.replace("</body>", f"{ACTIONS}</body>"))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'browser'}", (tmp_path / "page.html").as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    title = re.search(r"<title>seen (.*?)</title>", dom)
    assert title is not None
    seen = json.loads(title[1].replace("&amp;", "&"))
    memory, unfolded = found.memory, found.unfolded
    total = float(unfolded.total[-4, 0])
    told = re.fullmatch(r"from step 57 back to step 20: (\S+) of a gradient", seen["slid"])
    # Tenths of a decade: 12 % at most.
    assert told is not None and float(told[1]) == pytest.approx(total, rel=0.15)
    assert seen["behind"] == "step 60 lies behind the error"
    assert seen["first"] == "after 0 steps 1 of a gradient is left"
    assert seen["second"] == f"after 1 step {float(memory.median[1]):.3g} of a gradient is left"
    assert seen["last"].startswith("after 60 steps")
    assert (seen["stops"], seen["larger"], seen["whole"]) == (1, "150%", "100%")
    assert seen["loaded"] == 0 and seen["wide"]
