"""What can go wrong when a model is explained, as one small tree: catch `ExplainError` to catch all of it."""


class ExplainError(Exception):
    """Base of every error that heedful.explain raises on purpose.

    Its message says what was wanted, what came, and what to do instead, naming the choices.
    """


class CaptureError(ExplainError, RuntimeError):
    """Attention that could not be captured whole: some of it missing, not finite, or without a gradient."""


class InputError(ExplainError, ValueError):
    """Inputs or settings that the model, or the method, cannot take."""


class TargetError(ExplainError, ValueError):
    """A label, class, text or box that the model's answer does not hold."""


class UnknownFamilyError(ExplainError, LookupError):
    """A model that no adapter is known for."""


class UnsupportedMethodError(ExplainError, NotImplementedError):
    """A method that does not exist, or that has no meaning for this family of models."""


class TrainingError(ExplainError, ArithmeticError):
    """Training that cannot go on: a loss that is no number."""
