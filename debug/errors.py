"""What can go wrong in a debugging session, as one small tree: catch `DebugError` to catch all of it."""


class DebugError(Exception):
    """Base of every error that heedful.debug raises on purpose.

    Its message says what was wanted, what came, and what to do instead, naming the choices.
    """


class AttemptError(DebugError, ValueError):
    """Settings that cannot be drawn, or that the pipeline refuses."""


class Cancelled(DebugError):
    """An attempt that was told to stop, and has stopped."""


class ReportError(DebugError, ValueError):
    """What cannot be reported, or a place where no report can be written."""


class PageError(DebugError):
    """A page that cannot be served, or a question that it cannot put."""
