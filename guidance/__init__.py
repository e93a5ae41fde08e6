"""Guidance of diffusion by attention: what we want of it, and how to move the latents there."""

from .errors import (
    GridMismatchError,
    GuidanceError,
    LayerNotFoundError,
    TokenNotFoundError,
    UnsupportedError,
)
from .guide import Session, guide
from .maps import AttentionMaps
from .objectives import AttendAndExcite
from .optimizer import GradientStep, RelativeStep, Schedule
from .results import GuidedRun, StepLog
from .tokens import Span, find_spans

__all__ = [
    "AttendAndExcite",
    "AttentionMaps",
    "GradientStep",
    "GridMismatchError",
    "GuidanceError",
    "GuidedRun",
    "LayerNotFoundError",
    "RelativeStep",
    "Schedule",
    "Session",
    "Span",
    "StepLog",
    "TokenNotFoundError",
    "UnsupportedError",
    "find_spans",
    "guide",
]
