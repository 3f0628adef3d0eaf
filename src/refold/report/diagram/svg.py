"""A layout as SVG: text stays text, colours follow the reader's light or dark page, nothing is loaded from anywhere."""

from __future__ import annotations

from html import escape

from .layout import Layout, Line, Point, Rect, Shape, Text
from .text import SMALL, Run, runs

FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, Arial, 'Liberation Sans', sans-serif"
ROUND = 6.0  # the radius of a line's corners
ARROW = (8.0, 3.4)  # length and half width

# What each thing is painted with: ink and fills, for a light and a dark page.
LIGHT = {
    "paper": "#ffffff", "text": "#1b1f24", "muted": "#5f6872", "line": "#3d444d", "edge": "#3d444d",
    "gate": "#fdf0d5", "circle": "#ffffff", "function": "#e3eefa", "state": "#dff0e2", "delay": "#f1f4f8",
    "loop": "#0b62b0", "flow": "#6b7480", "explodes": "#c8102e", "vanishes": "#6b7480",
    "w0": "#0b62b0", "w1": "#b8470b", "w2": "#1a7f37", "w3": "#8250df", "w4": "#a0277c", "w5": "#00727a",
    "w6": "#7a5c00", "w7": "#3b49a8",
}  # fmt: skip
DARK = {
    "paper": "#12161b", "text": "#e6e9ed", "muted": "#9aa4af", "line": "#c3cad2", "edge": "#aab3bd",
    "gate": "#4a3b17", "circle": "#12161b", "function": "#1b3550", "state": "#1d412a", "delay": "#1d232a",
    "loop": "#6cb6ff", "flow": "#8b949e", "explodes": "#ff6b6b", "vanishes": "#8b949e",
    "w0": "#6cb6ff", "w1": "#f0a35e", "w2": "#5fd07a", "w3": "#c297ff", "w4": "#f28ccb", "w5": "#4fd0d8",
    "w6": "#d9bf4a", "w7": "#a3b0ff",
}  # fmt: skip
FILLS = {
    "gate": "gate", "unit": "gate", "circle": "circle", "operation": "circle", "function": "function",
    "state": "state", "delay": "delay", "param": "paper", "bar": "line", "join": "circle",
}  # fmt: skip


def svg(layout: Layout, theme: str, label: str) -> str:
    """The whole picture. theme: "light", "dark", or "auto", which follows the page it is shown on."""
    w, h = f"{layout.width:g}", f"{layout.height:g}"
    body = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" height="{h}" '
        f'role="img" aria-label="{escape(label)}" font-family="{FONTS}">',
        f"<title>{escape(label)}</title>",
        f"<style>{_style(theme, _tones(layout))}</style>",
        f'<rect class="rf-paper" width="{w}" height="{h}"/>',
        *(_lines(lines) for lines in together(layout)),
        *(f'<circle class="rf-dot" cx="{x:g}" cy="{y:g}" r="2.6"/>' for x, y in layout.dots),
        *(_shape(shape) for shape in layout.shapes),
        *(_text(text) for text in layout.texts),
        "</svg>",
    ]
    return "\n".join(part for part in body if part) + "\n"


def _tones(layout: Layout) -> list[str]:
    """The tones of this picture, beside those that all pictures have."""
    return sorted({line.tone for line in layout.lines} - {""})


def _style(theme: str, tones: list[str]) -> str:
    rules = {"light": _rules(LIGHT, tones), "dark": _rules(DARK, tones)}
    if theme != "auto":
        return rules[theme]
    return f"{rules['light']}\n@media (prefers-color-scheme: dark) {{ {rules['dark']} }}"


def _rules(colours: dict[str, str], tones: list[str]) -> str:
    c = colours
    rules = [
        f".rf-paper {{ fill: {c['paper']} }}",
        f".rf-line {{ fill: none; stroke: {c['line']}; stroke-width: 1.3 }}",
        f".rf-loop {{ fill: none; stroke: {c['loop']}; stroke-width: 1.6 }}",
        f".rf-arrow, .rf-dot {{ fill: {c['line']} }}",
        f".rf-loop-arrow {{ fill: {c['loop']} }}",
        f".rf-text, .rf-strong {{ fill: {c['text']} }}",
        f".rf-muted {{ fill: {c['muted']} }}",
        ".rf-strong { font-weight: 600 }",
    ]
    for tone in tones:
        rules.append(f".rf-line-{tone} {{ fill: none; stroke: {c[tone]}; stroke-width: 1.6 }}")
        rules.append(f".rf-arrow-{tone}, .rf-{tone} {{ fill: {c[tone]} }}")
    kinds = FILLS if tones else {k: fill for k, fill in FILLS.items() if k != "join"}
    for kind, fill in kinds.items():
        stroke = c["loop"] if kind == "delay" else c["edge"]
        rules.append(f".rf-{kind} {{ fill: {c[fill]}; stroke: {stroke}; stroke-width: 1.3 }}")
    return " ".join(rules)


def _shape(shape: Shape) -> str:
    r: Rect = shape.body
    if shape.kind == "plain":
        return ""
    if shape.kind in ("circle", "unit"):
        return (
            f'<circle class="rf-{shape.kind}" cx="{r.x + r.w / 2:g}" cy="{r.y + r.h / 2:g}" '
            f'r="{r.w / 2:g}"/>'
        )
    radius = {"state": r.h / 2, "delay": 4, "bar": 0, "operation": r.w / 2}.get(shape.kind, 6)
    dashed = ' stroke-dasharray="4 3"' if shape.kind == "param" else ""
    return (
        f'<rect class="rf-{shape.kind}" x="{r.x:g}" y="{r.y:g}" width="{r.w:g}" height="{r.h:g}" '
        f'rx="{radius:g}"{dashed}/>'
    )


def together(layout: Layout) -> list[list[Line]]:
    """The lines of one value at a time: as one path, what they share is painted once."""
    groups: dict[tuple[int, bool], list[Line]] = {}
    for line in layout.lines:
        groups.setdefault((line.net, line.loop), []).append(line)
    return list(groups.values())


def _lines(lines: list[Line]) -> str:
    first = lines[0]
    loop, tone = "-loop" if first.loop else "", f"-{first.tone}" if first.tone else ""
    path = " ".join(_path(list(line.points), line.arrow, line.width) for line in lines)
    styled = f' style="stroke-width: {first.width:.3g}"' if first.width else ""
    dashed = ' stroke-dasharray="5 4"' if first.tone == "vanishes" else ""
    drawn = f'<path class="rf{loop or "-line"}{tone}"{styled}{dashed} d="{path}"/>'
    arrows = [_arrow(line.points[-2], line.points[-1], line.width) for line in lines if line.arrow]
    return drawn + "".join(f'<polygon class="rf{loop}-arrow{tone}" points="{a}"/>' for a in arrows)


def size_of(wide: float) -> tuple[float, float]:
    """Length and half width of an arrow's head; wide: how wide the line of a gradient is, 0 for all other lines."""
    if not wide:
        return ARROW
    return ARROW[0] + wide / 2, max(ARROW[1], wide / 2 + 2.4)


def head(before: Point, tip: Point, wide: float = 0.0) -> list[Point]:
    """The corners of an arrow's head."""
    length, half = size_of(wide)
    if before[1] == tip[1]:
        way = 1 if tip[0] > before[0] else -1
        x = tip[0] - way * length
        return [tip, (x, tip[1] - half), (x, tip[1] + half)]
    way = 1 if tip[1] > before[1] else -1
    y = tip[1] - way * length
    return [tip, (tip[0] - half, y), (tip[0] + half, y)]


def _arrow(before: Point, tip: Point, wide: float) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in head(before, tip, wide))


def curve(points: list[Point], arrow: bool, wide: float = 0.0) -> list[tuple[str, list[Point]]]:
    """The line with its corners rounded, as the commands M, L and Q; it ends inside the arrow's head."""
    if arrow:
        points = [*points[:-1], _towards(points[-1], points[-2], size_of(wide)[0] - 2)]
    found: list[tuple[str, list[Point]]] = [("M", [points[0]])]
    for a, corner, b in zip(points, points[1:], points[2:], strict=False):
        radius = min(ROUND, _far(a, corner) / 2, _far(corner, b) / 2)
        found.append(("L", [_towards(corner, a, radius)]))
        found.append(("Q", [corner, _towards(corner, b, radius)]))
    found.append(("L", [points[-1]]))
    return found


def _path(points: list[Point], arrow: bool, wide: float) -> str:
    return " ".join(
        f"{command}{' '.join(f'{x:.4g},{y:.4g}' for x, y in ends)}"
        for command, ends in curve(points, arrow, wide)
    )


def _far(a: Point, b: Point) -> float:
    return abs(a[0] - b[0]) + abs(a[1] - b[1])


def _towards(a: Point, b: Point, by: float) -> Point:
    """From a, `by` of the way's length towards b."""
    far = _far(a, b)
    part = min(by / far, 1.0) if far else 0.0
    return a[0] + (b[0] - a[0]) * part, a[1] + (b[1] - a[1]) * part


def _text(text: Text) -> str:
    pieces, level = [], 0
    for run in (Run(text.text),) if text.tone == "strong" else runs(text.text):
        move = {0: 0.0, -1: 0.28, 1: -0.38}
        shift = (move[run.level] - move[level]) * text.font
        size = text.font * (SMALL if run.level else 1)
        moved = f' dy="{shift:.3g}"' if shift else ""
        small = f' font-size="{size:.3g}"' if run.level else ""
        piece = escape(run.text).replace("  ", "\u00a0\u00a0")
        pieces.append(f"<tspan{moved}{small}>{piece}</tspan>" if moved or small else piece)
        level = run.level
    anchor = "" if text.anchor == "start" else f' text-anchor="{text.anchor}"'
    return (
        f'<text class="rf-{text.tone}" x="{text.x:.5g}" y="{text.y:.5g}" font-size="{text.font:g}"{anchor}>'
        f"{''.join(pieces)}</text>"
    )
