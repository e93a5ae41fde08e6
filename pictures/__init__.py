"""Draws results for people; knows no other room, so that every room can show what it found."""

from __future__ import annotations

from .draw import Tile, overlay, scaled, sheet

__all__ = ["Tile", "overlay", "scaled", "sheet"]
