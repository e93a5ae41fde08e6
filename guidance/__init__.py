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
from .measures import WordMeasures
from .objectives import AttendAndExcite
from .optimizer import GradientStep, RelativeStep, Schedule
from .record import Recording, record
from .records import AttentionRecord, Rival
from .results import GuidedRun, StepLog
from .tokens import Span, find_spans

__all__ = [
    "AttendAndExcite",
    "AttentionMaps",
    "AttentionRecord",
    "GradientStep",
    "GridMismatchError",
    "GuidanceError",
    "GuidedRun",
    "LayerNotFoundError",
    "Recording",
    "RelativeStep",
    "Rival",
    "Schedule",
    "Session",
    "Span",
    "StepLog",
    "TokenNotFoundError",
    "UnsupportedError",
    "WordMeasures",
    "find_spans",
    "guide",
    "record",
]
