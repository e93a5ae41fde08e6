"""The embedded default: a small world of emoji in which the truth is known, and models trained on it."""

from __future__ import annotations

from .judge import Judge, Sighting, load_judge
from .models import MODELS, load_classifier, load_clip, load_pipeline

__all__ = ["MODELS", "Judge", "Sighting", "load_classifier", "load_clip", "load_judge", "load_pipeline"]
