"""`with guide(pipe, objective)`: attaches probing and nudging to a pipeline, and takes it all back."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from .attach import lend
from .errors import GuidanceError
from .guided_call import GuidedCall
from .hosts import host_of, host_type
from .layers import LayerChoice
from .objectives import Objective
from .results import GuidedRun, StepLog


class Session:
    """What `guide` yields: the records of the pipeline's calls within the block, the latest as `run`."""

    def __init__(self) -> None:
        self.runs: list[GuidedRun] = []

    @property
    def run(self) -> GuidedRun:
        """The record of the latest call.

        Raises:
            GuidanceError: the pipeline has not been called yet.
        """
        if not self.runs:
            raise GuidanceError(
                "no guided run yet: call the pipeline inside the with block, then read session.run"
            )
        return self.runs[-1]


@contextmanager
def guide(
    pipe: Any,
    objective: Objective,
    *,
    layers: LayerChoice = None,
    prompt: str | Sequence[str] | None = None,
    progress: Callable[[StepLog], None] | None = None,
) -> Iterator[Session]:
    """Guide every call of a diffusers pipeline within the block; afterwards the pipeline is as it was.

    Before the denoiser runs, its conditional part is probed up to the last chosen layer, the latents are
    nudged down the gradient of the objective's loss, and denoiser and scheduler go on from there. Nothing in
    the pipeline is replaced.

    Args:
        pipe: a pipeline of a class in `hosts.HOSTS`, or of a subclass of one.
        objective: what to want, such as `AttendAndExcite(words=["cat", "frog"])`, or any sum of losses, an
            `Objective`.
        layers: which layers to read, see `layers.choose`; None for those of a quarter of the latents' grid,
            and for transformers those of docs/pipelines.md.
        prompt: the text of `prompt_embeds`, one for all or one each, where the pipeline is called with these
            and words are to be found.
        progress: called with the `StepLog` of each probed step, after the step.

    Yields:
        A `Session`, whose `run` is the frozen `GuidedRun` of the latest call.

    Raises:
        UnsupportedError: a pipeline, scheduler or attention processor that guidance does not know.
        GuidanceError, TokenNotFoundError, LayerNotFoundError: when the pipeline is called with what cannot
            be guided.
    """
    host_type(pipe, "guide")
    session = Session()

    def call(inherited: Callable[..., Any], self: Any, *args: Any, **kwargs: Any) -> Any:
        arguments = inspect.signature(inherited).bind(*args, **kwargs)
        arguments.apply_defaults()
        host = host_of(pipe, arguments.arguments, prompt=prompt)
        guided = GuidedCall(host, objective, layers, progress)
        output = guided.run(lambda: inherited(*args, **kwargs))
        session.runs.append(guided.result())
        return output

    with lend(pipe, __call__=call):
        yield session
