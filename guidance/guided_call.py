"""One guided call of a pipeline: every step probed, nudged and watched, made anew where images begin anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from functools import partial
from typing import Any, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from .calls import call_settings
from .courses import Course, Courses
from .denoiser import DenoiserCall, by_name, frozen, is_probed, probing
from .hosts import Host
from .hosts.base import first_number
from .inside import Inside
from .intercept import Given, answered, as_given, intercepted
from .layers import Layer, LayerChoice
from .limits import Latents, drift
from .objectives import Objective
from .optimizer import Nudged, Probe, Probed, nudge
from .own_pass import Watcher
from .prober import Prober
from .refusals import refuse_unguidable
from .restart import Attempts, BeginAnew, observers, observing
from .results import GuidedRun, StepLog, described, library_versions
from .schedulers import keeps_sample, shifted_steps

_Output = TypeVar("_Output")
_Turn = tuple[Course, Int[Tensor, "_row"], bool]
"""A schedule, the images on it, and whether something is done to their initial latents first."""


class GuidedCall:
    """One guided call of a pipeline, from what is known of it to its record.

    What `guide` makes of every call; a pipeline that guides itself makes one and has it `run` its host.
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
        self.spent = torch.zeros(len(self.spans))
        self._plan_attempts()
        self._begin()

    def _read_prompts(self) -> None:
        host = self.host
        spans = self.objective.spans(host.tokenizer, host.prompts, host.count)
        self.prober, self.starter = (
            Prober(objective, host, spans) for objective in (self.objective, self.objective.for_start())
        )
        for prober in (self.prober, self.starter):
            prober.layers(self.found_layers)  # refuses what the model does not have
        self.spans = self.prober.spans
        self.watcher = Watcher(host, self.prober)

    def _plan_attempts(self) -> None:
        """Images are on trial where they can be watched, and help; no other guide may be wound back too."""
        host, schedule = self.host, self.objective.schedule
        others = any(
            isinstance(getattr(one, "__self__", None), GuidedCall) for one in observers(host.denoiser)
        )
        helps = getattr(self.objective.step, "size", 1.0) != 0 and any(self.spans)
        able = self.watcher.can_watch and host.begins_anew and not others
        on_trial = bool(schedule.restart) and helps and able
        self.courses = Courses(schedule, on_trial)
        self.attempts = Attempts(len(self.spans), on_trial, host.arguments.get("generator"))

    def _begin(self) -> None:
        self.index = 0
        self.shift: Tensor | None = None
        self.pending: StepLog | None = None
        self.steps: list[StepLog] = []
        self.word_maps: list[Tensor] = []
        self.watcher.begin()
        self.courses.begin()
        self._seen = False

    def run(self, call: Callable[[], _Output]) -> _Output:
        """What the host's call returns, guided; it is made again where images begin anew."""
        with self._attached():
            while True:
                try:
                    return call()
                except BeginAnew as signal:
                    if signal.attempts is not self.attempts:
                        raise
                    self._begin_anew()

    @contextmanager
    def _attached(self) -> Iterator[None]:
        """Within the block, the host's calls are guided; everything is given back on every exit."""
        with ExitStack() as stack:
            stack.enter_context(observing(self.host.denoiser, self._begin))
            stack.enter_context(self.host.attached())
            stack.enter_context(self.watcher.attached())
            stack.enter_context(shifted_steps(self.pipe.scheduler, self._shifted, self._step_done))
            stack.enter_context(intercepted(self.host.called, self._before_denoiser))
            if self.courses.on_trial:
                stack.enter_context(answered(self.host.called, self._after_denoiser))
            yield

    def _begin_anew(self) -> None:
        if hasattr(self.pipe, "maybe_free_model_hooks"):
            self.pipe.maybe_free_model_hooks()  # as the end of a call does, for offloading
        for begin in observers(self.host.denoiser):
            begin()
        self.attempts.rewind()
        self.courses.forget(self.attempts.anew)
        self.watcher.forget(self.attempts.anew)
        self.spent[self.attempts.anew.to(self.spent.device)] = 0.0

    def _before_denoiser(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Given:
        denoiser = self.host.denoiser
        if is_probed(denoiser):
            return args, kwargs
        self.watcher.close()
        call = self.host.call(by_name(denoiser, args, kwargs))
        given = args, kwargs
        if not self._seen:
            self._seen = True
            self._begin_step(call)
        if self.shift is not None:
            moved = self.host.after_nudge(call.moved(self.shift), self.shift * call.scale)
            call, given = replace(call, arguments=moved), as_given(denoiser, given, moved)
        return self.attempts.shortened(given, call)

    def _begin_step(self, call: DenoiserCall) -> None:
        index, steps, watcher, attempts = self.index, self.host.steps, self.watcher, self.attempts
        self.layers = self.host.choose(self.found_layers, call.grid, self.layer_choice)
        attempts.decide(index, self.courses.begins_anew(watcher.highest, index, steps), watcher.seen)
        attempts.begin_step()
        turns = self._turns()
        if turns or attempts.follows(index) or self.courses.may_restart(index + 1, steps):
            self._move(call, turns)
        if self.courses.are_watched(index + 1, steps):
            watcher.open(call, self.layers, attempts.live(index))

    def _turns(self) -> list[_Turn]:
        """The schedules by which images are looked at in this step, with these images."""
        if not (any(self.spans) and (self.objective.published or keeps_sample(self.pipe.scheduler))):
            return []
        starts = self.index == 0 and self.objective.start is not None
        live = self.attempts.live(self.index)
        return [
            (course, members, starts and course is self.courses.anew)
            for course, members in self.courses.members(self.attempts.on_trial, live)
            if (course.turn(self.index, self.host.steps) or (starts and course is self.courses.anew))
            and len(members)
        ]

    def _move(self, whole: DenoiserCall, turns: Sequence[_Turn]) -> None:
        rows = self.host.conditional_rows(len(whole.sample))
        call = whole.rows(torch.arange(rows.start, rows.stop, device=whole.sample.device))
        latents = call.latents
        with probing(call.module), frozen(call.module), self.host.probing():
            nudged = self._nudged(call, latents, turns)
        alone = len(observers(call.module)) == 1
        followed = self.attempts.follow(self.index, latents if nudged is None else nudged.latents, alone)
        shift = followed - latents
        self.shift = call.packed(shift) if bool(shift.any()) else None
        if nudged is not None:
            self._keep(call, latents, followed, nudged)

    def _nudged(self, call: DenoiserCall, latents: Latents, turns: Sequence[_Turn]) -> Nudged | None:
        """What becomes of the images at this step; None where nobody looks at any."""
        seen = self.watcher.seen if self.watcher.seen is not None else self.attempts.earlier(self.index)
        found = None if seen is None else Nudged.unmoved(latents.clone(), _without_gradient(seen, latents))
        for course, members, starts in turns:
            rows = (
                members
                if starts
                else course.lacking(members, self.watcher.least, self.index, self.host.steps)
            )
            self.watcher.spare(rows.tolist(), members.tolist())
            if not len(rows):
                continue
            moved = self._moved(call, latents, rows.to(latents.device), course, starts)
            if found is None:
                found = moved
            else:
                found.put(rows.to(latents.device), moved)
        return found if turns else None

    def _moved(
        self, call: DenoiserCall, latents: Latents, rows: Int[Tensor, "row"], course: Course, starts: bool
    ) -> Nudged:
        begun = self._started(call, latents, rows) if starts else None
        if begun is not None:
            latents = latents.index_put((rows,), begun.latents)
            if not course.moves:
                return begun
        progress = self.index / max(self.host.steps - 1, 1)
        inside, limits = self._inside(), self.objective.limits
        probe = inside.probe(self._probe(self.prober, call), latents)
        if course.threshold is None and not (limits and limits.halvings):  # these compare losses: look again
            probe = course.reuse.saving(probe, self.watcher.seen)
        nudged = nudge(
            inside.of(latents)[rows],
            lambda latents, own: probe(latents, rows[own]),
            lambda latents, probed: self.objective.step(latents, probed, progress, call.scale),
            threshold=course.threshold,
            max_refinements=self.objective.max_refinements,
            update=course.guided,
            published=self.objective.published,
            limits=limits,
            spent=self.spent.to(latents)[rows],
        )
        nudged.latents = inside.put(nudged.latents, latents, rows)
        shift = latents.index_put((rows,), nudged.latents) - latents
        self.spent = self.spent.to(latents) + inside.shares(shift, latents)
        return nudged

    def _started(self, call: DenoiserCall, latents: Latents, rows: Int[Tensor, "row"]) -> Nudged:
        assert self.objective.start is not None
        inside = self._inside()
        probe = inside.probe(self._probe(self.starter, call), latents)
        started = self.objective.start(
            inside.of(latents)[rows], lambda latents, own: probe(latents, rows[own]), call.scale
        )
        return Nudged.unmoved(inside.put(started.latents, latents, rows), started.probed)

    def _inside(self) -> Inside:
        return Inside(self.host.movable())

    def _probe(self, prober: Prober, call: DenoiserCall) -> Probe:
        layers = prober.layers(self.layers)
        return partial(prober.probe, call, layers, self.word_maps or None)

    def _keep(self, call: DenoiserCall, latents: Latents, followed: Latents, nudged: Nudged) -> None:
        self.word_maps = [maps.cpu() for maps in nudged.probed.word_maps]
        failed = (~nudged.probed.finite).nonzero().flatten().tolist()
        self.pending = StepLog(
            index=self.index,
            timestep=first_number(self.host.timestep(call.arguments)),
            fraction=self.index / self.host.steps,
            losses=tuple(nudged.probed.losses.tolist()),
            word_attention=tuple(tuple(maps.flatten(1).amax(1).tolist()) for maps in self.word_maps),
            refinements=tuple(nudged.refinements.tolist()),
            relative_shifts=tuple(self._inside().shares(followed - latents, latents).tolist()),
            skipped=f"the gradient of image {', '.join(map(str, failed))} was not finite" if failed else None,
            halvings=tuple(nudged.halvings.tolist()),
            **asdict(drift(latents, followed, call.scale)),
        )

    def _after_denoiser(self, output: Any) -> Any:
        return output if is_probed(self.host.denoiser) else self.attempts.completed(self.index, output)

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
        self.watcher.judge(self.attempts.earlier(self.index))

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
            repeated_steps=tuple(self.attempts.repeated),
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


def _without_gradient(seen: Probed, latents: Latents) -> Probed:
    """A copy to put others' findings into."""
    return replace(seen.copy(), gradient=torch.zeros_like(latents))
