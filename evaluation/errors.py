"""What can be asked wrongly of an evaluation: one small tree."""

from __future__ import annotations


class EvaluationError(Exception):
    """What was asked for cannot be evaluated; the message says what can."""


class PromptError(EvaluationError):
    """A prompt, or a file of prompts, that cannot be used."""
