"""Looking at what a model did: so far, heat drawn over images, and images laid out in sheets."""

from __future__ import annotations

from .draw import Tile, overlay, sheet

__all__ = ["Tile", "overlay", "sheet"]
