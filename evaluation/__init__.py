"""How often every subject appears and what that costs, method by method; and how fast guidance is."""

from __future__ import annotations

from .best_of import best_of
from .comparison import compare
from .errors import EvaluationError, PromptError
from .eyes import CheckEyes, DetectorEyes, Eyes, JudgeEyes, Seen
from .figures import Results, overview, tables
from .likeness import Likeness
from .methods import Method, Setting, default, diffusers_pipeline, guided, parity, plain
from .operations import Operations, Prices
from .prompts import Prompt, read_prompts
from .rows import Evaluation

__all__ = [
    "CheckEyes", "DetectorEyes", "Evaluation", "EvaluationError", "Eyes", "JudgeEyes", "Likeness", "Method",
    "Operations", "Prices", "Prompt", "PromptError", "Results", "Seen", "Setting", "best_of", "compare",
    "default", "diffusers_pipeline", "guided", "overview", "parity", "plain", "read_prompts", "tables",
]  # fmt: skip
