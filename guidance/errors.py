"""What can go wrong when a run is guided, as one small tree: catch `GuidanceError` to catch all of it."""


class GuidanceError(Exception):
    """Base of every error that heedful.guidance raises on purpose.

    Its message says what was wanted, what came, and what to do instead, naming the choices.
    """


class TokenNotFoundError(GuidanceError, ValueError):
    """A word, phrase or token index that the prompt does not hold, or that truncation has cut off."""


class LayerNotFoundError(GuidanceError, LookupError):
    """A layer name or layer filter that matches no cross-attention layer."""


class GridMismatchError(GuidanceError, ValueError):
    """Maps whose grids (height, width) do not fit each other, or are too small for what was asked of them."""


class UnsupportedError(GuidanceError, NotImplementedError):
    """A pipeline, scheduler, attention processor or call that guidance does not know how to handle safely."""
