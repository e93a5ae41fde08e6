"""The embedded default: a small world of emoji in which the truth is known, and models trained on it."""

from __future__ import annotations

from .judge import Judge, Sighting, load_judge
from .models import (
    MODELS,
    load_bert,
    load_cheater,
    load_classifier,
    load_clip,
    load_detr,
    load_lxmert,
    load_pipeline,
    load_resnet,
    load_visual_bert,
)

__all__ = [
    "MODELS", "Judge", "Sighting", "load_bert", "load_cheater", "load_classifier", "load_clip", "load_detr",
    "load_judge", "load_lxmert", "load_pipeline", "load_resnet", "load_visual_bert",
]  # fmt: skip
