"""What a model's output rests on: relevance maps of patches, words and regions, and pictures of them."""

from __future__ import annotations

from ..pictures import Tile, overlay, sheet
from .calibration import Calibration, calibrate
from .capture import Capture, capture
from .check import check
from .errors import (
    CaptureError,
    ExplainError,
    InputError,
    TargetError,
    TrainingError,
    UnknownFamilyError,
    UnsupportedMethodError,
)
from .methods import METHODS, settings_of
from .picture import picture
from .relevance import Relevance, explain
from .verdict import Verdict, WordVerdict

__all__ = [
    "METHODS",
    "Calibration",
    "Capture",
    "CaptureError",
    "ExplainError",
    "InputError",
    "Relevance",
    "TargetError",
    "Tile",
    "TrainingError",
    "UnknownFamilyError",
    "UnsupportedMethodError",
    "Verdict",
    "WordVerdict",
    "calibrate",
    "capture",
    "check",
    "explain",
    "overlay",
    "picture",
    "settings_of",
    "sheet",
]
