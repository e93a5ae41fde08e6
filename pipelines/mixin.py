"""What lets a pipeline of diffusers guide its own calls: a few arguments more, one base class more."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import partial, wraps
from typing import Any

import torch

from ..guidance import AttendAndExcite, GuidanceError, GuidedRun, Objective
from ..guidance.encoding import OTHER_TEXT, PADDING, encode
from ..guidance.guided_call import GuidedCall
from ..guidance.hosts import host_of
from ..guidance.layers import LayerChoice
from ..guidance.objectives import Indices, Words
from .choices import host_for
from .redrawing import checked_call, redraw
from .retry import Checker, Tried, best, strengthened


class AttendAndExciteMixin:
    """Before a pipeline of diffusers among the bases of a class, makes that pipeline guide its own calls.

    `class MyPipeline(AttendAndExciteMixin, StableDiffusionXLPipeline): ...` takes the arguments of its host,
    in their order, and the keywords of `__call__` below. Everything else is the host's: `from_pretrained`,
    `from_pipe`, `save_pretrained`, LoRA, IP-Adapter, `callback_on_step_end` and so on. The host must be one
    that guidance knows, or be named to it (see docs/pipelines.md).

    After a call, `guided_run` holds its record, and with `heeded_or_retry` `tries` what was tried for each
    image.
    """

    guided_run: GuidedRun | None = None
    tries: tuple[tuple[Tried, ...], ...] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Give the class a call whose signature shows the host's arguments, since others read that."""
        super().__init_subclass__(**kwargs)
        if AttendAndExciteMixin in cls.__bases__ and "__call__" not in vars(cls):
            setattr(cls, "__call__", _call_like(super().__call__))  # type: ignore[misc] # noqa: B010

    def get_indices(self, prompt: str) -> dict[int, str]:
        """The tokens of a prompt by position, to choose `token_indices` from."""
        pieces = enumerate(encode(host_for(self, prompt).tokenizer, prompt).pieces)
        return {place: piece for place, piece in pieces if piece not in (PADDING, OTHER_TEXT)}

    @torch.no_grad()
    def __call__(
        self,
        *args: Any,
        words: Words = None,
        token_indices: Indices = None,
        objective: Objective | None = None,
        layers: LayerChoice = None,
        embedded_prompt: str | Sequence[str] | None = None,
        heeded_or_retry: int | None = None,
        checker: Checker | None = None,
        **kwargs: Any,
    ) -> Any:
        """Generate images; the arguments are those of the host, in its order, and these keywords:

        Args:
            words: the subjects as words or phrases, one list, or one a prompt; None, with nothing else given,
                for every content word.
            token_indices: positions of the subjects' tokens instead (see `get_indices`).
            objective: anything else to want, an `Objective` with words of its own, instead of the default
                `AttendAndExcite`.
            layers: which layers to read, see `guidance.layers.choose`.
            embedded_prompt: the text of `prompt_embeds`, where these are given and words are to be found.
            heeded_or_retry: check every image, and where a word is not in it draw again, at most so many
                times, the first one counted: with a nudge twice as strong, then from other seeds (see
                `retry.plan`). The best image of each prompt is returned, and `guided_run` is the first's.
            checker: what looks at an image, see `retry.Checker`; None for `heedful.explain.check`, which
                knows the embedded model's world alone.

        Returns:
            What the host returns.

        Raises:
            GuidanceError: an objective beside words or token_indices; what `guide` refuses.
        """
        given = _by_name(inspect.signature(self._host_call()).bind(*args, **kwargs))
        wanted = objective_of(objective, words, token_indices)
        return self._heed(given, wanted, layers, embedded_prompt, heeded_or_retry, checker)

    def _heed(
        self,
        given: Mapping[str, Any],
        objective: Objective,
        layers: LayerChoice,
        embedded_prompt: str | Sequence[str] | None,
        tries: int | None,
        checker: Checker | None,
    ) -> Any:
        """Draw once, or until every word is heeded; `given` are the host's arguments by name."""
        draw = partial(self._draw, given, objective, layers, embedded_prompt)
        self.tries = ()
        if tries is None:
            output, self.guided_run = draw(1.0, {})
            return output
        asked = {**given, "token_indices": objective.token_indices}
        output, self.tries = redraw(asked, draw, tries, checked_call(self, asked, checker))
        self.guided_run = best(self.tries[0]).run
        return output

    def _draw(
        self,
        given: Mapping[str, Any],
        objective: Objective,
        layers: LayerChoice,
        embedded_prompt: str | Sequence[str] | None,
        strength: float,
        changed: Mapping[str, Any],
    ) -> tuple[Any, GuidedRun]:
        call = self._host_call()
        bound = inspect.signature(call).bind(**{**given, **changed})
        bound.apply_defaults()
        host = host_of(self, bound.arguments, prompt=embedded_prompt)
        guided = GuidedCall(host, strengthened(objective, strength), layers)
        output = guided.run(lambda: call(**{**given, **changed}))
        return output, guided.result()

    def _host_call(self) -> Any:
        return super().__call__  # type: ignore[misc]  # of the class after this one


def objective_of(objective: Objective | None, words: Words, token_indices: Indices) -> Objective:
    """What a call asks for: an objective with words of its own, or Attend-and-Excite on words or indices.

    Raises:
        GuidanceError: an objective beside words or token_indices, or both of these.
    """
    if objective is None:
        return AttendAndExcite(words, token_indices)
    if words is not None or token_indices is not None:
        raise GuidanceError(
            "an objective has words of its own: give objective=AttendAndExcite(words=[...]), or words and "
            "token_indices without objective"
        )
    return objective


def _by_name(bound: inspect.BoundArguments) -> dict[str, Any]:
    named = dict(bound.arguments)
    return named | named.pop("kwargs", {})


def _call_like(host_call: Any) -> Any:
    """The mixin's `__call__`, with the host's parameters in its signature before its own."""

    @wraps(AttendAndExciteMixin.__call__)
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        return AttendAndExciteMixin.__call__(self, *args, **kwargs)

    host = inspect.signature(host_call).parameters.values()
    more = [one for one in host if one.kind is inspect.Parameter.VAR_KEYWORD]
    named = inspect.signature(AttendAndExciteMixin.__call__).parameters.values()
    own = [one for one in named if one.kind is inspect.Parameter.KEYWORD_ONLY]
    parameters = [*(one for one in host if one not in more), *own, *more]
    setattr(__call__, "__signature__", inspect.Signature(parameters))  # noqa: B010
    return __call__
