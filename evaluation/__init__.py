"""How often every subject appears and what that costs, method by method; and how fast guidance is."""

from __future__ import annotations

from .errors import EvaluationError, PromptError
from .operations import Operations, Prices
from .prompts import Prompt, read_prompts

__all__ = ["EvaluationError", "Operations", "Prices", "Prompt", "PromptError", "read_prompts"]
