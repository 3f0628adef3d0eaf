"""The pages of the zoo, docs/cells/: one for each cell and its picture, from its traced graph, and an index.

    make docs        (python -m bench.zoo_pages)

Everything but the speed follows from the code alone; the speed is that of bench/results/zoo.json, which `python -m
bench.zoo` measures. A test holds the pages against what this file gives now.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

import refold as rf
from bench import peers
from bench.record import RESULTS, ROOT, table
from bench.zoo import SHAPE, ratio
from refold.cli.zoo import Entry, Sizes
from refold.ir.graph import Leaf
from refold.plan.explain import Explanation, explain
from refold.report.diagram import draw
from refold.shapes import Size, shape_text, volume

FOLDER = ROOT / "docs" / "cells"
INDEX = "README.md"
BEGIN, END = "<!-- speed -->", "<!-- end of speed -->"
STEPS, ROWS, INPUTS, HIDDEN = SHAPE
SIZES = Sizes(INPUTS, HIDDEN, STEPS, ROWS)

Result = Mapping[str, Any]  # what bench/zoo.py saves


def pages(result: Result | None = None) -> dict[str, str]:
    """Every page and picture by its file's name; without a result, all say that nothing is measured."""
    matched = peers.every()
    made: dict[str, str] = {}
    for family, members in rf.cells.families().items():
        for name, cell in members.items():
            entry = Entry(cell, family, SIZES)
            made[f"{name}.md"] = page(entry, matched.get(name), result)
            made[f"{name}.svg"] = draw(cell).svg
    made[INDEX] = index(result)
    return made


def page(entry: Entry, peer: peers.Peer | None, result: Result | None) -> str:
    """The page of one cell."""
    told = explain(entry.cell)
    name = entry.cell.name
    parts = [
        f"# {name}",
        entry.cell.about,
        f"Source: {entry.cell.source}. Family: [{entry.family}]({INDEX}#{entry.family}).",
        f"```python\nlayer = rf.Recurrent({call(entry)})\n```",
        f"![{name}, folded: one step, and each state's loop through a delay of one step]({name}.svg)",
        "## Equations",
        block(told.step),
        "## Parameters",
        parameters(entry),
        "## Backpropagation through time",
        f"Derived from the equations; `refold explain {name} --latex` gives both as LaTeX.",
        fenced(section(told, "backpropagation", "plan (").strip()),
        "## Work and memory",
        f"T steps of B rows; the numbers are for {at()}"
        + (", other letters as n." if others(entry) else "."),
        costs(entry, told),
        "What runs ahead of the loop over time, in it, and behind it:",
        fenced(section(told, "plan (", "  cost ")),
        "## Beside torchrecurrent",
        beside(peer),
        speed(name, peer, result),
    ]
    return "\n\n".join(parts) + "\n"


def index(result: Result | None) -> str:
    """All cells, family by family."""
    parts = [
        "# The zoo",
        f"{len(rf.cells.all())} cells, each an equation in `src/refold/cells/` and nothing else: forward, reverse step "
        "and compiled code are derived from it. `refold cells` shows this list with the speeds of your machine, "
        "`rf.Recurrent(name, input_size, hidden_size)` makes a layer. These pages are generated: `make docs`.",
        "Parameters and FLOP (multiplications and additions in the products of one step of one row) in m, the size of "
        "the input, n, the hidden size, and letters of the cell's own; the number is for m "
        f"{INPUTS} and all others {HIDDEN}.",
    ]
    head = ["cell", "for", "states", "parameters", "FLOP", "number"]
    for family, members in rf.cells.families().items():
        if not members:
            continue
        rows = [listed(Entry(cell, family, SIZES)) for cell in members.values()]
        parts += [f"## {family}", family_text(family), table(head, rows)]
    return "\n\n".join([*parts, all_speeds(result)]) + "\n"


def family_text(family: str) -> str:
    """What the file of a family says of it."""
    return (import_module(f"refold.cells.{family}").__doc__ or "").strip()


def listed(entry: Entry) -> list[str]:
    name = entry.cell.name
    states = ", ".join(f"{k}: {v}" for k, v in entry.states.items())
    work = f"{entry.at(entry.flops):,}"
    return [
        f"[{name}]({name}.md)",
        entry.use,
        states,
        str(entry.parameters),
        str(entry.flops),
        work,
    ]


# Parts of a page ------------------------------------------------------------------------------------------------------


def call(entry: Entry) -> str:
    more = [f"{letter}={HIDDEN}" for letter in others(entry)]
    return ", ".join(
        [f'"{entry.cell.name}"', f"input_size={INPUTS}", f"hidden_size={HIDDEN}", *more]
    )


def others(entry: Entry) -> list[str]:
    """Letters that the cell has beside m and n."""
    return [letter for letter in SIZES.numbers(entry.cell) if letter not in ("m", "n")]


def at() -> str:
    return f"T {STEPS}, B {ROWS}, m {INPUTS}, n {HIDDEN}"


def fenced(text: str) -> str:
    return f"```text\n{text}\n```"


def block(equations: Sequence[tuple[str, str]]) -> str:
    width = max((len(left) for left, _ in equations), default=0)
    return fenced("\n".join(f"{left:{width}} = {right}" for left, right in equations))


def section(told: Explanation, begin: str, end: str) -> str:
    """What `refold explain` says between two lines that begin so, both left out."""
    lines = str(told).splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith(begin))
    last = next(i for i, line in enumerate(lines) if i > first and line.startswith(end))
    return "\n".join(line.removeprefix("  ") for line in lines[first + 1 : last])


def parameters(entry: Entry) -> str:
    """Inputs, states and parameters, as they are declared."""
    rows = [
        [
            f"`{leaf.name}`",
            what(leaf),
            shape_text(leaf.shape),
            f"{entry.at(volume(leaf.shape)):,}",
            start(entry, leaf),
        ]
        for kind in ("input", "state", "param")
        for leaf in entry.cell.graph.leaves_of(kind)
    ]
    whole = entry.parameters
    rows.append(["**learned**", "", str(whole), f"{entry.at(whole):,}", ""])
    return table(["name", "what", "shape", f"m {INPUTS}, n {HIDDEN}", "start"], rows)


def what(leaf: Leaf) -> str:
    if leaf.kind != "param":
        return leaf.kind
    return "parameter" if leaf.learn else "setting" if not leaf.shape else "fixed"


def start(entry: Entry, leaf: Leaf) -> str:
    """What it holds before training, or before the first step."""
    if leaf.kind == "input":
        return ""
    if leaf.kind == "state":
        names = [state.name for state in entry.cell.graph.leaves_of("state")]
        return f"{entry.cell.starts[names.index(leaf.name)]:g}"
    settings = ", ".join(f"{key} {value:g}" for key, value in leaf.init.settings)
    return f"{leaf.init.name} ({settings})" if settings else leaf.init.name


def costs(entry: Entry, told: Explanation) -> str:
    """Formulas, and what they come to."""
    cost = told.plan.cost
    rows: dict[str, Size] = {
        "FLOP forward, in products": cost.flops,
        "of which wait in the loop": cost.flops_loop,
        "FLOP backward, in products": cost.flops_back,
        "calls of exp and the like, forward": cost.functions,
        "numbers kept for the way back": cost.kept,
        "the same as bytes, float32": cost.kept_bytes(),
        "bytes of the parameters, float32": cost.weights * 4,
    }
    lines = [[text, str(size), f"{entry.at(size):,}"] for text, size in rows.items()]
    return table(["", "formula", "number"], lines)


def beside(peer: peers.Peer | None) -> str:
    if peer is None:
        return "torchrecurrent has no layer for this cell."
    if peer.departs:
        return f"`torchrecurrent.{peer.layer}` departs: {peer.departs}"
    return f"`torchrecurrent.{peer.layer}` agrees: the same weights give the same numbers."


# Speed ----------------------------------------------------------------------------------------------------------------


def speed(name: str, peer: peers.Peer | None, result: Result | None) -> str:
    """How fast one cell is, between marks; a page is compared without it."""
    lines = ["## Speed"]
    columns = dict(ratios(result, name)) if result else {}
    if result and columns:
        rows = {"torch.nn.LSTM": "torch.nn.LSTM"}
        if peer is not None:
            rows["torchrecurrent"] = f"torchrecurrent.{peer.layer}"
        found = [
            [text, *(f"{there[key]:.2f}" if key in there else "—" for there in columns.values())]
            for key, text in rows.items()
        ]
        lines += [told_of(result), table(["beside", *map(threads_text, columns)], found)]
    else:
        lines.append(
            "Not measured yet; `python -m bench.zoo` does so, and `refold cells --speed` here."
        )
    return "\n\n".join([BEGIN, *lines, END])


def all_speeds(result: Result | None) -> str:
    """The same for the index: a line for each cell."""
    lines = ["## Speed"]
    counts = sorted({row["threads"] for row in result["torch.nn.LSTM"]}) if result else []
    if result:
        keys = ("torch.nn.LSTM", "torchrecurrent")
        rows = []
        for name in rf.cells.all():
            columns = dict(ratios(result, name))
            found = [columns.get(count, {}).get(key) for key in keys for count in counts]
            rows.append(
                [f"[{name}]({name}.md)", *("—" if r is None else f"{r:.2f}" for r in found)]
            )
        head = ["cell", *(f"{key}, {threads_text(count)}" for key in keys for count in counts)]
        lines += [told_of(result), table(head, rows)]
    else:
        lines.append("Not measured yet; `python -m bench.zoo` does so.")
    return "\n\n".join([BEGIN, *lines, END])


def ratios(result: Result, name: str) -> Iterator[tuple[int, dict[str, float]]]:
    """For each number of threads, the others' times by the cell's."""
    times = {"torch.nn.LSTM": "torch", "torchrecurrent": "torchrecurrent"}
    counts = sorted({row["threads"] for row in result["torch.nn.LSTM"]})
    for count in counts:
        found = {
            key: ratio(row, other)
            for key, other in times.items()
            for row in result[key]
            if (row["cell"], row["threads"]) == (name, count)
        }
        if found:
            yield count, found


def told_of(result: Result) -> str:
    steps, rows, inputs, hidden = result["shape"]
    return (
        f"A training step in float32 at T {steps}, B {rows}, I {inputs}, H {hidden}: the other's time divided by "
        f"refold's, above 1 is faster. {result['processor']}; torch {result['torch']}."
    )


def threads_text(count: int) -> str:
    return f"{count} thread{'s' * (count != 1)}"


def main() -> None:
    """Write the folder anew; pages of cells that are no more go."""
    held = RESULTS / "zoo.json"
    made = pages(json.loads(held.read_text()) if held.exists() else None)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path in FOLDER.iterdir():
        if path.name not in made:
            path.unlink()
    for name, text in made.items():
        (FOLDER / name).write_text(text)
    print(f"{len(made)} files in {FOLDER.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
