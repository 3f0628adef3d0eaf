"""The picture of a cell: derived from its graph, laid out as pure geometry, drawn as SVG or PNG."""

from __future__ import annotations

from .draw import THEMES, Picture, Theme, draw

__all__ = ["THEMES", "Picture", "Theme", "draw"]
