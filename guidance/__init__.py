"""Guidance of diffusion by attention: what we want of it, and how to move the latents there."""

from .errors import (
    GridMismatchError,
    GuidanceError,
    LayerNotFoundError,
    TokenNotFoundError,
    UnsupportedError,
)
from .groups import Group, find_groups, spacy_groups
from .guide import Session, guide
from .limits import Limits
from .maps import AttentionMaps
from .measures import WordMeasures
from .objectives import AT_ONCE, THOROUGH, THRIFTY, AttendAndExcite, Objective
from .optimizer import GradientStep, RelativeStep, Schedule
from .record import Recording, record
from .records import AttentionRecord, Rival
from .regions import Box
from .results import GuidedRun, StepLog
from .start import OptimisedNoise, Rectify
from .tokens import Span, find_spans

__all__ = [
    "AT_ONCE",
    "THOROUGH",
    "THRIFTY",
    "AttendAndExcite",
    "AttentionMaps",
    "AttentionRecord",
    "Box",
    "GradientStep",
    "GridMismatchError",
    "Group",
    "GuidanceError",
    "GuidedRun",
    "LayerNotFoundError",
    "Limits",
    "Objective",
    "OptimisedNoise",
    "Recording",
    "Rectify",
    "RelativeStep",
    "Rival",
    "Schedule",
    "Session",
    "Span",
    "StepLog",
    "TokenNotFoundError",
    "UnsupportedError",
    "WordMeasures",
    "find_groups",
    "find_spans",
    "guide",
    "record",
    "spacy_groups",
]
