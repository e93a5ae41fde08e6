"""Looking at what a model did: so far, drawing attention over images and laying images out in sheets."""

from __future__ import annotations
