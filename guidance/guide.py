"""`with guide(pipe, objective)`: attaches probing and nudging to a pipeline, and takes it all back."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .attach import lend
from .calls import call_settings
from .denoiser import DenoiserCall, by_name, frozen, is_probed, probing
from .errors import GuidanceError
from .hosts import Host, host_of, host_type
from .hosts.base import first_number
from .inside import Inside
from .intercept import Given, as_given, intercepted
from .layers import Layer, LayerChoice
from .limits import Latents, drift
from .objectives import Objective
from .optimizer import Nudged, Probe, nudge
from .own_pass import Watcher
from .prober import Prober
from .refusals import refuse_unguidable
from .results import GuidedRun, StepLog, described, library_versions
from .reuse import Reuse
from .schedulers import keeps_sample, shifted_steps


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
        with guided.attached():
            output = inherited(*args, **kwargs)
        session.runs.append(guided.result())
        return output

    with lend(pipe, __call__=call):
        yield session


class GuidedCall:
    """One guided call of a pipeline, from what is known of it to its record.

    What `guide` makes of every call; a pipeline that guides itself makes one and calls its host within
    `attached()`.
    """

    def __init__(
        self,
        host: Host,
        objective: Objective,
        layers: LayerChoice = None,
        progress: Callable[[StepLog], None] | None = None,
    ) -> None:
        refuse_unguidable(host.pipe, host.denoiser, host.arguments)
        self.host, self.pipe = host, host.pipe
        self.objective, self.layer_choice, self.progress = objective, layers, progress
        self.found_layers = self.host.layers()
        self.layers: tuple[Layer, ...] = ()
        self._read_prompts()
        self.index = 0
        self.refined_until = -1
        self.shift: Tensor | None = None
        self.pending: StepLog | None = None
        self.steps: list[StepLog] = []
        self.word_maps: list[Tensor] = []
        self.spent = torch.zeros(len(self.spans))
        self.reuse = Reuse(objective.schedule.moves_per_probe)
        self._seen = False

    def _read_prompts(self) -> None:
        host = self.host
        spans = self.objective.spans(host.tokenizer, host.prompts, host.count)
        self.prober, self.starter = (
            Prober(objective, host, spans) for objective in (self.objective, self.objective.for_start())
        )
        for prober in (self.prober, self.starter):
            prober.layers(self.found_layers)  # refuses what the model does not have
        self.spans = self.prober.spans
        self.watcher = Watcher(host, self.prober, self.objective.schedule)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Within the block, the host's call is guided; everything is given back on every exit."""
        with ExitStack() as stack:
            stack.enter_context(self.host.attached())
            stack.enter_context(self.watcher.attached())
            stack.enter_context(shifted_steps(self.pipe.scheduler, self._shifted, self._step_done))
            stack.enter_context(intercepted(self.host.called, self._before_denoiser))
            yield

    def _before_denoiser(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Given:
        denoiser = self.host.denoiser
        if is_probed(denoiser):
            return args, kwargs
        self.watcher.close()
        call = self.host.call(by_name(denoiser, args, kwargs))
        if not self._seen:
            self._seen = True
            self.layers = self.host.choose(self.found_layers, call.grid, self.layer_choice)
            with probing(denoiser), frozen(denoiser), self.host.probing():
                self._nudge(call)
            if self._is_guided(self.index + 1):
                self.watcher.open(call, self.layers)
        if self.shift is None:
            return args, kwargs
        moved = self.host.after_nudge(call.moved(self.shift), self.shift * call.scale)
        return as_given(denoiser, (args, kwargs), moved)

    def _nudge(self, whole: DenoiserCall) -> None:
        if not (any(self.spans) and (self.objective.published or keeps_sample(self.pipe.scheduler))):
            return
        steps = self.host.steps
        update = self._is_guided(self.index)
        threshold = self._due_threshold(steps, update)
        starts = self.index == 0 and self.objective.start is not None
        if not (update or starts) and threshold is None:
            return
        self.watcher.spare()
        rows = self.host.conditional_rows(len(whole.sample))
        call = whole.rows(torch.arange(rows.start, rows.stop, device=whole.sample.device))
        if self.watcher.neglected is not None and not len(self.watcher.neglected):
            assert self.watcher.seen is not None
            self._keep(Nudged.unmoved(call.latents, self.watcher.seen), call, self.index / steps)
            return
        begun = self._started(call) if starts else None
        nudged = begun
        if update or threshold is not None:
            nudged = self._moved(call, call.latents if begun is None else begun.latents, update, threshold)
        assert nudged is not None
        self._keep(nudged, call, self.index / steps)

    def _is_guided(self, index: int) -> bool:
        schedule, steps = self.objective.schedule, self.host.steps
        return schedule.first(steps) <= index < schedule.last(steps)

    def _started(self, call: DenoiserCall) -> Nudged:
        assert self.objective.start is not None
        inside, latents = self._inside(), call.latents
        probe = inside.probe(self._probe(self.starter, call), latents)
        started = self.objective.start(inside.of(latents), probe, call.scale)
        return Nudged.unmoved(inside.put(started.latents, latents), started.probed)

    def _moved(self, call: DenoiserCall, latents: Latents, update: bool, threshold: float | None) -> Nudged:
        progress = self.index / max(self.host.steps - 1, 1)
        rows, seen = self.watcher.neglected, self.watcher.seen
        everyone = torch.arange(len(latents), device=latents.device)
        rows = everyone if rows is None else rows.to(latents.device)
        inside = self._inside()
        probe = inside.probe(self._probe(self.prober, call), latents)
        limits = self.objective.limits
        if threshold is None and not (limits and limits.halvings):  # these compare losses: they look again
            probe = self.reuse.saving(probe, seen)
        nudged = nudge(
            inside.of(latents)[rows],
            lambda latents, own: probe(latents, rows[own]),
            lambda latents, probed: self.objective.step(latents, probed, progress, call.scale),
            threshold=threshold,
            max_refinements=self.objective.max_refinements,
            update=update,
            published=self.objective.published,
            limits=limits,
            spent=self.spent.to(latents)[rows],
        )
        nudged.latents = inside.put(nudged.latents, latents, rows)
        if seen is not None:
            nudged = nudged.among(rows, latents, seen)
        self.spent = self.spent.to(latents) + inside.shares(nudged.latents - latents, latents)
        return nudged

    def _inside(self) -> Inside:
        return Inside(self.host.movable())

    def _probe(self, prober: Prober, call: DenoiserCall) -> Probe:
        layers = prober.layers(self.layers)
        return partial(prober.probe, call, layers, self.word_maps or None)

    def _due_threshold(self, steps: int, update: bool) -> float | None:
        """The latest threshold that is due: at its step, or after it where that step could not be nudged."""
        heights = self.objective.schedule.thresholds_at(steps)
        earliest = self.refined_until + 1 if update else self.index
        due = [point for point in heights if earliest <= point <= self.index]
        self.refined_until = self.index
        return heights[max(due)] if due else None

    def _keep(self, nudged: Nudged, call: DenoiserCall, fraction: float) -> None:
        shift = nudged.latents - call.latents
        self.shift = call.packed(shift) if bool(shift.any()) else None
        self.word_maps = [maps.cpu() for maps in nudged.probed.word_maps]
        failed = (~nudged.probed.finite).nonzero().flatten().tolist()
        self.pending = StepLog(
            index=self.index,
            timestep=first_number(self.host.timestep(call.arguments)),
            fraction=fraction,
            losses=tuple(nudged.probed.losses.tolist()),
            word_attention=tuple(tuple(maps.flatten(1).amax(1).tolist()) for maps in self.word_maps),
            refinements=tuple(nudged.refinements.tolist()),
            relative_shifts=tuple(self._inside().shares(shift, call.latents).tolist()),
            skipped=f"the gradient of image {', '.join(map(str, failed))} was not finite" if failed else None,
            halvings=tuple(nudged.halvings.tolist()),
            **asdict(drift(call.latents, nudged.latents, call.scale)),
        )

    def _shifted(self, sample: Tensor) -> Tensor:
        return sample if self.shift is None else sample + self.shift.to(sample.dtype)

    def _step_done(self) -> None:
        if self.pending is not None:
            self.steps.append(self.pending)
            if self.progress is not None:
                self.progress(self.pending)
        self.pending = self.shift = None
        self._seen = False
        self.index += 1
        self.watcher.judge(self.index)

    def result(self) -> GuidedRun:
        """The record of the call, once it has ended."""
        image_probes = tuple(map(sum, zip(self.prober.counts, self.starter.counts, strict=True)))
        return GuidedRun(
            prompts=tuple(self.host.image_prompts),
            spans=tuple(self.spans),
            steps=tuple(self.steps),
            maps=tuple(self.word_maps),
            probes=sum(image_probes),
            image_probes=image_probes,
            control_passes=self.host.control_passes,
            left_alone=tuple(self.watcher.left_alone),
            aim=max(self.objective.schedule.thresholds.values(), default=0.8),
            settings=self._settings(),
            versions=library_versions(),
        )

    def _settings(self) -> dict[str, Any]:
        return {
            **call_settings(self.pipe, self.host.arguments),
            "layers": [layer.name for layer in self.layers],
            "objective": described(self.objective),
        }
