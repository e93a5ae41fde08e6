"""`with record(pipe)`: where every word of a prompt looks, summed while the pipeline runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from .attach import lend
from .calls import call_settings, repeated
from .denoiser import DenoiserCall, by_name, is_probed
from .errors import GridMismatchError, GuidanceError, UnsupportedError
from .hosts import Host, host_of, host_type
from .hosts.base import first_number
from .intercept import is_compiled
from .layers import Grid, LayerChoice
from .objectives import AttendAndExcite, Words
from .parts import Parts, parts_of
from .processors import observe
from .records import AttentionRecord
from .refusals import refuse_unrecordable
from .restart import observing
from .results import library_versions
from .schedulers import shifted_steps
from .sums import AXES, AttentionSums, Axis, merging
from .tap import Tap
from .tokens import Span


class Recording:
    """What `record` yields: the records of the pipeline's calls in the block, the latest as `record`."""

    def __init__(self) -> None:
        self.records: list[AttentionRecord] = []

    @property
    def record(self) -> AttentionRecord:
        """The record of the latest call.

        Raises:
            GuidanceError: the pipeline has not been called yet.
        """
        if not self.records:
            raise GuidanceError(
                "nothing recorded yet: call the pipeline inside the with block, then read recording.record"
            )
        return self.records[-1]


@contextmanager
def record(
    pipe: Any,
    words: Words = None,
    *,
    layers: LayerChoice = None,
    resolve: str | Sequence[str] = (),
    grid: Grid | None = None,
    prompt: str | Sequence[str] | None = None,
) -> Iterator[Recording]:
    """Record where each word looks in every call of a diffusers pipeline within the block.

    The pipeline's own processors make the output; their queries and keys are seen, and the attention over
    the text, softmax(q k^T scale + mask), is computed in float32 for the conditional images and added to
    running sums. No pixel changes. `guide` may be around it or inside: what is recorded is the pipeline's
    own pass, on nudged latents, never a probe.

    Layers of different grids are pooled to a common one by area (`maps.pool`): the mean of the cells that a
    new cell covers; cells of coarser layers are repeated. The common grid is `grid`, or that of the layers
    which `layers.choose` would take of the recorded ones by itself: a quarter of the latents' sides.

    Memory does not grow with the steps: one map a token and image on the common grid, and what `resolve`
    asks for.

    Args:
        pipe: a pipeline of a class in `hosts.HOSTS`, or of a subclass of one.
        words: words or phrases of the prompt, one list for all prompts or a list a prompt. None: every word
            of the prompt, articles too; where only embeddings are given, every position ("token 1").
        layers: which cross-attention layers, see `layers.choose`; None for all of them.
        resolve: by what to keep the words' maps apart: "step" (a map a step on the common grid), "layer"
            (a map a layer on its own grid), "head" (a map a head of each layer). With "step", layers and
            heads are kept for each step too.
        grid: (height, width) of the common grid.
        prompt: the text of `prompt_embeds`, one for all or one each, where the pipeline is called with these.

    Yields:
        A `Recording`, whose `record` is the frozen `AttentionRecord` of the latest call.

    Raises:
        UnsupportedError: a pipeline or attention processor that is not known, a compiled denoiser, a cache.
        TokenNotFoundError, LayerNotFoundError: when the pipeline is called, for words and layers not there.
        GuidanceError: something else to resolve by, or a grid that is none.
    """
    host_type(pipe, "record")
    axes = _axes(resolve)
    _check_grid(grid)
    recording = Recording()

    def call(inherited: Callable[..., Any], self: Any, *args: Any, **kwargs: Any) -> Any:
        arguments = inspect.signature(inherited).bind(*args, **kwargs)
        arguments.apply_defaults()
        host = host_of(pipe, arguments.arguments, "record", prompt)
        recorded = RecordedCall(host, words, layers, axes, grid)
        with recorded.attached():
            output = inherited(*args, **kwargs)
        recording.records.append(recorded.result())
        return output

    with lend(pipe, __call__=call):
        yield recording


class RecordedCall:
    """One recorded call of a pipeline, from what is known of it to its record."""

    def __init__(
        self,
        host: Host,
        words: Words = None,
        layers: LayerChoice = None,
        resolve: Sequence[Axis] = (),
        grid: Grid | None = None,
    ) -> None:
        _refuse_compiled(host.called)
        refuse_unrecordable(host.denoiser)
        self.host, self.words = host, words
        self.layer_choice, self.resolve, self.grid = layers, tuple(resolve), grid
        self.found_layers = self.host.layers()
        self.asked = None if words is None else self._spans()
        self.parts: list[Parts] = []
        self.spans: tuple[tuple[Span, ...], ...] = ()
        self.tap: Tap | None = None
        self._begin()

    def _begin(self) -> None:
        """The pipeline's call begins, or begins anew."""
        self.timesteps: list[Any] = []
        self._seen = False
        if self.tap is not None:
            self.tap.begin_anew()

    def _spans(self) -> tuple[tuple[Span, ...], ...]:
        host = self.host
        if host.prompts is None:
            raise GuidanceError(
                "prompt_embeds came without a prompt, so words cannot be found; leave words out to record "
                "every position"
            )
        found = AttendAndExcite(words=self.words).spans(host.tokenizer, host.prompts, host.count)
        return tuple(repeated(found, host.repeats))

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Within the block, the host's call is recorded; everything is given back on every exit."""
        with ExitStack() as stack:
            lent: dict[int, Any] = {}

            def before(module: Any, args: Any, kwargs: Any) -> None:
                if not is_probed(module) and not self._seen:
                    self._before_denoiser(self.host.call(by_name(module, args, kwargs)))
                    assert self.tap is not None
                    observe(self.tap, stack, lent)

            def after(module: Any, args: Any, output: Any) -> None:
                if not is_probed(module) and not self._seen:
                    self._after_denoiser()

            stack.enter_context(observing(self.host.denoiser, self._begin))
            stack.enter_context(self.host.attached())
            stack.enter_context(
                shifted_steps(self.host.pipe.scheduler, lambda sample: sample, self._step_done)
            )
            for handle in (
                self.host.denoiser.register_forward_pre_hook(before, with_kwargs=True),
                self.host.denoiser.register_forward_hook(after),
            ):
                stack.callback(handle.remove)
            yield

    def _before_denoiser(self, call: DenoiserCall) -> None:
        if self.tap is None:
            self._lay_out(call.grid, call.text_length)
        assert self.tap is not None
        self.tap.begin(self.host.conditional_rows(len(call.sample)))
        self.timesteps.append(self.host.timestep(call.arguments))

    def _lay_out(self, latents_grid: Grid, tokens: int) -> None:
        host, chosen = self.host, self.found_layers
        if self.layer_choice is not None:
            chosen = host.choose(chosen, latents_grid, self.layer_choice)
        common = self.grid or host.choose(chosen, latents_grid, None)[0].grid(latents_grid)
        prompts = host.prompts if host.prompts is not None else [None] * host.count
        parts = [parts_of(host.tokenizer, prompt, tokens) for prompt in prompts]
        self.parts = repeated(parts, host.repeats)
        self.spans = self.asked or tuple(part.words for part in self.parts)
        indices = [[span.indices for span in image] for image in self.spans]
        sums = AttentionSums(common, merging(indices, tokens), self.resolve)
        self.tap = Tap(host.denoiser, chosen, latents_grid, tokens, sums)

    def _after_denoiser(self) -> None:
        assert self.tap is not None
        self.tap.end()
        self._seen = True

    def _step_done(self) -> None:
        self._seen = False  # a step's first call of the denoiser is the conditional one

    def result(self) -> AttentionRecord:
        """The record of the call, once it has ended.

        Raises:
            GuidanceError: the denoiser was never called.
        """
        if self.tap is None or self.tap.sums.steps == 0:
            raise GuidanceError("the pipeline has not called its denoiser: there is no attention to record")
        sums = self.tap.sums
        steps = sums.step_means().cpu() if sums.by_step else None
        layers = {name: found.cpu() for name, found in sums.layer_means().items()}
        attention = [
            _columns(one, part.columns) for one, part in zip(sums.mean().cpu(), self.parts, strict=True)
        ]
        counts = [len(own) for own in self.spans]
        return AttentionRecord(
            prompts=tuple(self.host.image_prompts),
            spans=self.spans,
            tokens=tuple(part.sequence for part in self.parts),
            text=tuple(part.text for part in self.parts),
            attention=tuple(attention),
            maps=tuple(_merged(one, own) for one, own in zip(attention, self.spans, strict=True)),
            steps=tuple(first_number(one) for one in self.timesteps[: sums.steps]),
            layers=tuple(layer.name for layer in self.tap.layers.values()),
            settings=self._settings(),
            versions=library_versions(),
            step_maps=() if steps is None else tuple(_of_image(steps, i, n) for i, n in enumerate(counts)),
            layer_maps={
                name: tuple(_of_image(found, image, count) for image, count in enumerate(counts))
                for name, found in layers.items()
            },
        )

    def _settings(self) -> dict[str, Any]:
        assert self.tap is not None
        latents_grid = self.tap.latents_grid
        return {
            **call_settings(self.host.pipe, self.host.arguments),
            "grid": list(self.tap.sums.grid),
            "grids": {layer.name: list(layer.grid(latents_grid)) for layer in self.tap.layers.values()},
            "resolve": list(self.resolve),
            "left_out": [list(part.left_out) for part in self.parts],
        }


def _refuse_compiled(denoiser: Any) -> None:
    """Compiled code calls no processor that could be seen, and running it eagerly would change pixels."""
    if is_compiled(denoiser):
        raise UnsupportedError(
            "record sees what attention processors compute, and a compiled denoiser does not call them; "
            "record the pipeline before it is compiled, or load it anew"
        )


def _columns(attention: Tensor, columns: int) -> Tensor:
    """(height, width, token) as (position, height, width), all padding summed into the last position."""
    last = columns - 1
    joined = torch.cat([attention[..., :last], attention[..., last:].sum(-1, keepdim=True)], -1)
    return joined.permute(2, 0, 1).contiguous()


def _merged(attention: Tensor, spans: Sequence[Span]) -> Tensor:
    maps = [attention[list(span.indices)].sum(0) for span in spans]
    return torch.stack(maps) if maps else attention[:0]


def _of_image(maps: Tensor, image: int, spans: int) -> Tensor:
    """(step, image, [head,] height, width, span) as (step, span, [head,] height, width) of one image."""
    return maps[:, image, ..., :spans].movedim(-1, 1).contiguous()


def _axes(resolve: str | Sequence[str]) -> tuple[Axis, ...]:
    asked = (resolve,) if isinstance(resolve, str) else tuple(resolve)
    for axis in asked:
        if axis not in AXES:
            raise GuidanceError(f"resolve takes any of {', '.join(AXES)}; got {axis!r}")
    return tuple(axis for axis in AXES if axis in asked)


def _check_grid(grid: Grid | None) -> None:
    if grid is not None and (len(grid) != 2 or min(grid) < 1):
        raise GridMismatchError(f"a grid is (height, width), both at least 1; got {tuple(grid)}")
