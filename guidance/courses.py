"""When the images of a call are nudged, each by the schedule that it is on: on trial, or begun anew."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .optimizer import Schedule
from .reuse import Reuse


class Course:
    """The images that are on one schedule: when they are due, and the probes that they share.

    Attributes:
        schedule: which one.
        reuse: what the last probe of each image found.
        guided: whether the step is one that moves latents.
        threshold: the height that the step refines to, or None.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule, self.reuse = schedule, Reuse(schedule.moves_per_probe)
        self.begin()

    def begin(self) -> None:
        """The pipeline's call begins."""
        self.guided = False
        self.threshold: float | None = None
        self._refined_until = -1

    def turn(self, index: int, steps: int) -> bool:
        """The step of this index comes; tells whether anybody looks at its images.

        A threshold is due at its step, or after it where that step could not be nudged.
        """
        self.guided = self.is_guided(index, steps)
        heights = self.schedule.thresholds_at(steps)
        earliest = self._refined_until + 1 if self.guided else index
        due = [point for point in heights if earliest <= point <= index]
        self._refined_until = index
        self.threshold = heights[max(due)] if due else None
        return self.moves or 0 < index <= self.schedule.last_restart(steps)

    @property
    def moves(self) -> bool:
        """Whether the step is one that may move latents."""
        return self.guided or self.threshold is not None

    def is_guided(self, index: int, steps: int) -> bool:
        """Whether the step of this index is one that moves latents."""
        return self.schedule.first(steps) <= index < self.schedule.last(steps)

    def lacking(
        self, members: Int[Tensor, "row"], least: Float[Tensor, "image"] | None, index: int, steps: int
    ) -> Int[Tensor, "_lacking"]:
        """Those of its images that do not have attention enough; all, where that could not be watched."""
        if not self.moves:
            return members[:0]
        enough = self.schedule.enough_at(index, steps)
        if enough is None or least is None:
            return members
        return members[least.to(members.device)[members] < enough]


class Courses:
    """The schedules of a call: that of images on trial, and that of those which have begun anew."""

    def __init__(self, schedule: Schedule, on_trial: bool) -> None:
        """`on_trial`: whether images may begin anew; if not, there is the other schedule alone."""
        self.anew = Course(schedule.anew or schedule)
        self.trial = Course(schedule) if on_trial else self.anew
        self.on_trial = on_trial

    def begin(self) -> None:
        """The pipeline's call begins."""
        self.trial.begin()
        self.anew.begin()

    def forget(self, rows: Int[Tensor, "row"]) -> None:
        """These images begin anew."""
        for course in (self.trial, self.anew):
            course.reuse.forget(rows)

    def members(self, on_trial: Tensor, live: Int[Tensor, "row"]) -> list[tuple[Course, Int[Tensor, "_row"]]]:
        """Each schedule with the images on it, of those that are denoised."""
        if not self.on_trial:
            return [(self.anew, live)]
        return [(self.trial, live[on_trial[live]]), (self.anew, live[~on_trial[live]])]

    def are_watched(self, index: int, steps: int) -> bool:
        """Whether anybody asks at the step of this index what the pass before it attended to."""
        asked = any(one.schedule.enough and one.is_guided(index, steps) for one in (self.trial, self.anew))
        return asked or self.may_restart(index, steps)

    def may_restart(self, index: int, steps: int) -> bool:
        """Whether an image may begin anew at the step of this index or later."""
        return self.on_trial and index <= self.trial.schedule.last_restart(steps)

    def begins_anew(
        self, highest: Float[Tensor, "image"] | None, index: int, steps: int
    ) -> Bool[Tensor, "*image"] | None:
        """Which images have too little attention at the step of this index, be they on trial or not.

        All, where the pass before it could not be watched; None where nobody asks.
        """
        if not index or not self.may_restart(index, steps):
            return None
        height = self.trial.schedule.restart_at(index, steps)
        if highest is None:
            return torch.ones((), dtype=torch.bool)
        return None if height is None else highest.cpu() < height
