"""How large each box of a picture is, its marks included, and where its lines come in."""

from __future__ import annotations

from dataclasses import dataclass, field

from .picture import Box, Label
from .text import width

FONT, SMALL_FONT, TITLE_FONT = 14.0, 11.0, 16.0
MARGIN, GAP, TRACK, PITCH = 20.0, 14.0, 11.0, 25.0
CIRCLE, HEIGHT = 13.0, 34.0
LOOP, DELAY = 36.0, (44.0, 26.0)  # how far loops are apart; the width and height of a delay
ASIDE = 9.0  # how far a circle's second line enters from its middle
LINE = 17.0  # a line of small text


@dataclass(frozen=True, slots=True)
class Rect:
    """A rectangle by its corner with the smallest x and y."""

    x: float
    y: float
    w: float
    h: float


@dataclass
class Frame:
    """A box with its own measures: everything from its upper left corner, its ports from the top down."""

    box: Box
    w: float = 0.0
    h: float = 0.0
    apron: float = 0.0  # what the marks in front take
    body: Rect = field(default_factory=lambda: Rect(0, 0, 0, 0))
    kind: str = ""
    main: int = -1  # the port whose line goes straight through a circle

    @property
    def middle(self) -> float:
        return self.body.y + self.body.h / 2

    def offsets(self) -> list[float]:
        """How far from the top each port stands."""
        count = len(self.box.ports)
        pitch = PITCH if self.apron else min(PITCH, (self.body.h - 8) / max(count, 1))
        if self.kind == "circle":
            if count == 2 and self.main >= 0:
                return [self.middle + ASIDE * (k - self.main) for k in range(2)]
            pitch = ASIDE if count == 3 else 13.0
        return [self.middle + pitch * (k - (count - 1) / 2) for k in range(count)]


def marked(label: Label) -> str:
    """A mark with its sizes."""
    return f"{label.text} ({label.size})" if label.size else label.text


def named(box: Box) -> str:
    """The text inside a box that has a name for its text."""
    if box.kind == "past":
        return f"{box.text}(t−1)"
    return f"{box.text}(t)" if box.kind in ("input", "output", "state") else box.text


def over(box: Box) -> str:
    """The caption above a box: its name in the equation; of a bar that cuts, else which rows it takes."""
    return box.name or (box.text if box.kind == "bar" else "")


def beneath(box: Box) -> list[str]:
    """The lines under a gate: what is added, and the sizes of a matrix that is a box of its own."""
    added = [f"+ {marked(b)}".replace("+ −", "− ") for b in box.bias]
    return ([box.size] if box.size else []) + added


def framed(box: Box, gated: bool) -> Frame:
    frame = Frame(box)
    marks = [width(marked(p.label), SMALL_FONT) for p in box.ports if p.label is not None]
    frame.apron = max(marks) + 16 if marks else 0.0
    count = len(box.ports)
    if box.kind in ("past", "input", "state", "output", "param"):
        wide = max(width(named(box), FONT) + (18 if box.kind in ("state", "param") else 6), 30)
        plain = box.kind in ("past", "input", "output")
        w, h, under = wide, 22.0 if plain else 30.0, 16.0 if box.size else 0.0
        frame.kind = {"past": "plain", "input": "plain", "output": "plain"}.get(box.kind, box.kind)
    elif box.kind == "op" and not marks and count < 4:
        w = h = 2 * CIRCLE
        frame.kind, under = "circle", 0.0
    elif box.kind == "bar":
        w, h, under = 7.0, max(HEIGHT, PITCH * count + 6), 0.0
        frame.kind = "bar"
    elif box.kind == "gate" and not gated and count < 4 and not len(box.text) > 5:
        w = h = max(2 * 27.0, PITCH * count)
        frame.kind, under = "unit", LINE * len(beneath(box))
    else:
        w = max(width(box.text, FONT) + 18, 40 if box.kind == "gate" else 30)
        h = max(HEIGHT if box.kind == "gate" else 28, (PITCH if marks else 12) * count + 6)
        frame.kind, under = ("gate" if box.kind == "gate" else "function"), LINE * len(beneath(box))
        if box.kind == "op":
            frame.kind, w = "operation", 2 * CIRCLE
    top = LINE if over(box) and box.kind not in ("state", "output") else 0.0
    captions = [width(text, SMALL_FONT) for text in (*beneath(box), over(box), box.size)]
    room = max([w, *captions])
    # A mark stands above its line: the first one needs room above the body, the last line some below.
    spread = (PITCH * count - h) / 2 if marks else 0.0
    top = max(top, spread + 6 if marks else 0.0)
    frame.body = Rect(frame.apron + (room - w) / 2, top, w, h)
    frame.w, frame.h = frame.apron + room, top + h + max(under, spread)
    return frame
