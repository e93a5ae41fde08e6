"""The families of models that can be explained, a small adapter each, and how one is found for a model."""

from __future__ import annotations

from . import (  # noqa: F401  (they register themselves)
    bart,
    blip,
    clip,
    detr,
    dinov2,
    lxmert,
    siglip,
    text,
    visual_bert,
    vit,
)
from .family import Family, Found, Reading
from .registry import families, family_of, register

__all__ = ["Family", "Found", "Reading", "families", "family_of", "register"]
